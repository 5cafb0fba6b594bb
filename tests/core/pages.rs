//! The pages that a server serves besides its WebSocket: off by default, and locked down. Pages that the embedder
//! registers.

use crate::support::socket::{self, config, start, within};
use switchboard::{Config, Limited, Page, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The head and body of the response to an HTTP request.
async fn get(port: u16, request: &str) -> (String, String) {
    get_with(port, request, "").await
}

/// The same with further headers.
async fn get_with(port: u16, request: &str, headers: &str) -> (String, String) {
    get_as(port, request, "localhost", headers).await
}

/// The same with another `Host`.
async fn get_as(port: u16, request: &str, host: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn field<'a>(head: &'a str, name: &str) -> &'a str {
    let prefix = format!("{name}: ");
    head.lines().find_map(|line| line.strip_prefix(&*prefix)).unwrap_or_else(|| panic!("no {name}: {head}"))
}

const PATHS: [&str; 5] = ["/", "/client.js", "/client.d.ts", "/react.js", "/react.d.ts"];

#[tokio::test]
async fn pages_are_off_by_default() {
    let (server, port) = start(config()).await;
    for path in PATHS {
        assert!(get(port, &format!("GET {path}")).await.0.starts_with("HTTP/1.1 426 "), "{path}");
    }
    server.stop().await;
    let (server, port) = start(Config { serve_console: true, ..config() }).await;
    for (path, status) in PATHS.into_iter().zip([200, 200, 426, 426, 426]) {
        assert!(
            get(port, &format!("GET {path}")).await.0.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn files_have_their_types_and_only_get_and_head() {
    let (server, port) = start(Config { serve_client: true, serve_console: true, ..config() }).await;
    for (path, kind, part) in [
        ("/", "text/html; charset=utf-8", "<title>Switchboard</title>"),
        ("/client.js", "text/javascript; charset=utf-8", "export class WSClient "),
        ("/react.js", "text/javascript; charset=utf-8", "useWebSocket"),
        ("/client.d.ts", "text/plain; charset=utf-8", "interface Channels"),
        ("/react.d.ts", "text/plain; charset=utf-8", "useWebSocket"),
    ] {
        let (head, body) = get(port, &format!("GET {path}")).await;
        assert_eq!(field(&head, "content-type"), kind);
        assert_eq!(field(&head, "x-content-type-options"), "nosniff");
        assert_eq!(field(&head, "cache-control"), "no-store");
        assert!(body.contains(part), "{path}");
        let (head, body) = get(port, &format!("HEAD {path}")).await;
        assert_eq!((field(&head, "content-type"), body.as_str()), (kind, ""));
        let (head, _) = get(port, &format!("POST {path}")).await;
        assert!(head.starts_with("HTTP/1.1 405 ") && field(&head, "allow") == "GET, HEAD", "{head}");
    }
    server.stop().await;
}

#[tokio::test]
async fn pages_of_origins_that_may_connect_can_read_the_client() {
    let allow_origins = vec!["https://app.example".to_owned()];
    let on =
        Config { serve_client: true, serve_console: true, serve_health: true, allow_origins, ..config() };
    let (server, port) = start(on.token("secret")).await;
    let allowed = |head: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix("access-control-allow-origin: "));
        line.map(str::to_owned)
    };
    for path in ["/client.js", "/client.d.ts", "/react.js", "/react.d.ts"] {
        for (origin, may_read) in [
            ("https://app.example", true),
            ("http://localhost:5173", true),
            ("http://127.0.0.1", true),
            ("https://evil.example", false),
            ("http://app.example", false),
            ("null", false),
            ("*", false),
            ("", false),
        ] {
            for method in ["GET", "HEAD"] {
                let request = format!("{method} {path}");
                let (head, _) = get_with(port, &request, &format!("Origin: {origin}\r\n")).await;
                assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
                assert_eq!(allowed(&head).as_deref(), may_read.then_some(origin), "{path} for {origin}");
                assert_eq!(head.contains("access-control-allow-credentials: true"), may_read, "{head}");
                assert_eq!(field(&head, "vary"), "Origin");
            }
        }
        let (head, _) = get(port, &format!("GET {path}")).await;
        assert_eq!((allowed(&head), field(&head, "vary")), (None, "Origin"));
        let twice = "Origin: https://app.example\r\nOrigin: https://app.example\r\n";
        assert_eq!(allowed(&get_with(port, &format!("GET {path}"), twice).await.0), None);
    }
    // Nothing else can be read by a page of another origin.
    for path in ["/", "/healthz", "/metrics"] {
        let (head, _) = get_with(port, &format!("GET {path}"), "Origin: https://app.example\r\n").await;
        assert_eq!(allowed(&head), None, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_browser_that_asks_first_is_answered_for_origins_that_may_connect() {
    let allow_origins = vec!["https://app.example".to_owned()];
    let on =
        Config { serve_client: true, serve_console: true, serve_health: true, allow_origins, ..config() };
    let (server, port) = shelf(on.token("secret")).await;
    let asks = "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization, x-a\r\n\
                Access-Control-Request-Private-Network: true\r\n";
    for (path, origin, is_allowed) in [
        ("/client.js", "https://app.example", true),
        ("/react.d.ts", "http://localhost:5173", true),
        // Without the token, which the browser sends afterwards.
        ("/shelf/x", "https://app.example", true),
        ("/shelf/x", "https://evil.example", false),
        ("/client.js", "https://evil.example", false),
        ("/client.js", "null", false),
        ("/", "https://app.example", false),
        ("/healthz", "https://app.example", false),
        ("/metrics", "https://app.example", false),
    ] {
        let (head, body) =
            get_with(port, &format!("OPTIONS {path}"), &format!("Origin: {origin}\r\n{asks}")).await;
        assert_eq!(head.starts_with("HTTP/1.1 204 "), is_allowed, "{path} {origin}: {head}");
        assert_eq!(head.contains("access-control-"), is_allowed, "{path} {origin}: {head}");
        if is_allowed {
            assert_eq!(field(&head, "access-control-allow-origin"), origin);
            assert_eq!(field(&head, "access-control-allow-methods"), "GET, HEAD");
            assert_eq!(field(&head, "access-control-allow-headers"), "authorization, x-a");
            assert_eq!(field(&head, "access-control-allow-private-network"), "true");
            assert_eq!((field(&head, "vary"), &*body), ("Origin", ""));
            assert!(!head.contains("content-length"), "{head}");
        }
    }
    for headers in ["", "Origin: https://app.example\r\n", asks] {
        let (head, _) = get_with(port, "OPTIONS /client.js", headers).await;
        assert!(head.starts_with("HTTP/1.1 405 "), "{headers}: {head}");
    }
    server.stop().await;
}

#[tokio::test]
async fn only_the_consoles_own_scripts_run() {
    let (server, port) = start(Config { serve_console: true, ..config() }.token("secret")).await;
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let (head, body) = get(port, "GET /").await;
        let policy = field(&head, "content-security-policy");
        for part in [
            "default-src 'none'",
            "connect-src 'self'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.split("; ").any(|directive| directive == part), "{part}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(field(&head, "referrer-policy"), "no-referrer");
        let nonce =
            policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).unwrap().to_owned();
        assert_eq!(nonce.len(), 24);
        assert_eq!(body.matches(&format!("nonce=\"{nonce}\"")).count(), 2, "one style, one script");
        assert!(!body.contains("{{nonce}}") && !body.contains("secret\""));
        nonces.push(nonce);
    }
    assert_ne!(nonces[0], nonces[1]);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    server.stop().await;
}

/// A server with registered pages: one per path, a large one, one that panics, one that never finishes.
async fn shelf(config: Config) -> (Server, u16) {
    let (server, port) = start(config).await;
    server.on_get("/shelf/", |path: String| async move {
        match path.as_str() {
            "large" => Some(Page::new("application/octet-stream", vec![b'x'; 3 << 20])),
            "panic" => panic!("on purpose"),
            "never" => std::future::pending().await,
            "" => None,
            _ => Some(Page::new("text/plain", path.clone()).etag("v1").header("cache-control", "private")),
        }
    });
    server.on_get("/shelf/deep/", |path: String| async move {
        Some(Page::new("image/png", format!("deep {path}")))
    });
    (server, port)
}

#[tokio::test]
async fn a_registered_page_is_served_as_its_handler_says() {
    let (server, port) = shelf(config()).await;
    let (head, body) = get(port, "GET /shelf/a%2Fb/../c?token=x").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, "a%2Fb/../c", "the path is passed as it was written");
    assert_eq!(field(&head, "content-type"), "text/plain");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "same-site"),
        ("cache-control", "private"),
        ("etag", "\"v1\""),
        ("vary", "Origin"),
        ("content-length", "10"),
    ] {
        assert_eq!(field(&head, name), value);
    }
    assert!(!head.contains("access-control-allow-origin"));
    assert_eq!(get(port, "GET /shelf/deep/x").await.1, "deep x", "the longest prefix decides");
    assert_eq!(get(port, "GET /shelf/large").await.1.len(), 3 << 20);
    let (head, body) = get(port, "HEAD /shelf/large").await;
    assert_eq!((field(&head, "content-length"), &*body), ("3145728", ""));
    for (request, status) in [
        ("GET /shelf/", 404),
        ("GET /shelf", 426),
        ("GET /other", 426),
        ("POST /shelf/x", 405),
        ("DELETE /shelf/x", 405),
        ("GET /shelf/panic", 500),
    ] {
        let (head, _) = get(port, request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
    }
    // A second registration replaces the first.
    server.on_get("/shelf/", |_: String| async { None });
    assert!(get(port, "GET /shelf/x").await.0.starts_with("HTTP/1.1 404 "));
    server.stop().await;
}

#[tokio::test]
async fn a_page_that_the_client_has_is_not_sent_again() {
    let (server, port) = shelf(config()).await;
    for (shown, status) in [
        ("\"v1\"", 304),
        ("W/\"v1\"", 304),
        ("\"v0\", \"v1\"", 304),
        ("*", 304),
        ("\"v2\"", 200),
        ("v1", 200),
    ] {
        let (head, body) = get_with(port, "GET /shelf/x", &format!("If-None-Match: {shown}\r\n")).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {head}");
        assert_eq!(body.is_empty(), status == 304);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_page_is_protected_by_host_origin_and_token() {
    let origins = vec!["https://app.example".to_owned()];
    let (server, port) = shelf(Config { allow_origins: origins, ..config() }.token("s3cret")).await;
    for (request, headers, status) in [
        ("GET /shelf/x", "", 401),
        ("HEAD /shelf/x", "", 401),
        ("GET /shelf/", "", 401),
        ("GET /shelf/x?token=s3cres", "", 401),
        ("GET /shelf/x?token=s3cret", "", 200),
        ("GET /shelf/x", "Authorization: Bearer s3cret\r\n", 200),
        ("GET /shelf/x", "Authorization: Bearer wrong\r\n", 401),
        ("GET /shelf/x?token=s3cret", "Origin: https://evil.example\r\n", 403),
        ("GET /shelf/x?token=s3cret", "Origin: null\r\n", 403),
        ("GET /shelf/x?token=s3cret", "Origin: http://localhost:5173\r\n", 200),
        ("GET /shelf/x?token=s3cret", "Origin: https://app.example\r\n", 200),
    ] {
        let (head, _) = get_with(port, request, headers).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request} {headers}: {head}");
        let allowed = headers.strip_prefix("Origin: ").map(str::trim_end).filter(|_| status == 200);
        let told = head.lines().find_map(|line| line.strip_prefix("access-control-allow-origin: "));
        assert_eq!(told, allowed, "{head}");
    }
    let (head, _) = get_as(port, "GET /shelf/x?token=s3cret", "rebound.example", "").await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    server.stop().await;
}

#[tokio::test]
async fn page_handlers_are_limited_in_number_and_time() {
    let short = std::time::Duration::from_millis(20);
    let limits = Config { max_pages: 1, handshake_timeout: std::time::Duration::from_secs(2), ..config() };
    let (server, port) = shelf(limits).await;
    let mut held = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    held.write_all(b"GET /shelf/never HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    // The first can take long; requests that come once it occupies the only place are refused.
    let busy = async { while !get(port, "GET /shelf/x").await.0.starts_with("HTTP/1.1 503 ") {} };
    within("a refusal", busy).await;
    drop(held);
    let free = async { while !get(port, "GET /shelf/x").await.0.starts_with("HTTP/1.1 200 ") {} };
    within("the place of the client that disconnected", free).await;
    server.stop().await;

    let (server, port) = shelf(Config { page_timeout: short, ..config() }).await;
    assert!(get(port, "GET /shelf/never").await.0.starts_with("HTTP/1.1 504 "));
    server.stop().await;
}

/// More than all buffers between a server and a client that does not read.
const LARGE: usize = 24 << 20;

/// A server with the page `/large`, and `/small`.
async fn with_large_page(config: Config) -> (Server, u16) {
    let server = Server::new(config);
    let large: hyper::body::Bytes = vec![b'x'; LARGE].into();
    server.on_get("/large", move |_| {
        let large = large.clone();
        async move { Some(Page::new("text/plain", large)) }
    });
    server.on_get("/small", |_| async { Some(Page::new("text/plain", "small")) });
    let port = server.start().await.expect("a free port");
    (server, port)
}

/// A client that has asked for a page, and reads the head of the answer only.
async fn unread(port: u16, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("a head", stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    stream
}

/// The length of what is left of an answer.
async fn rest_of(stream: &mut TcpStream) -> usize {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = within("the end of the page", stream.read_to_end(&mut rest)).await;
    rest.len()
}

#[tokio::test]
async fn pages_that_are_not_read_delay_no_other() {
    let (server, port) = with_large_page(Config { max_pages: 2, ..config() }).await;
    let mut readers = Vec::new();
    for _ in 0..6 {
        readers.push(unread(port, "/large").await);
    }
    assert_eq!(get(port, "GET /small").await.1, "small");
    assert_eq!(rest_of(&mut readers[0]).await, LARGE);
    drop(readers);
    server.stop().await;
}

#[tokio::test]
async fn the_oldest_page_that_is_being_sent_is_cut_for_a_new_one() {
    let (server, port) = with_large_page(Config { max_open_pages: 2, ..config() }).await;
    let mut oldest = unread(port, "/large").await;
    let mut second = unread(port, "/large").await;
    assert_eq!(server.stats().limited_by(Limited::Pages), 0);
    assert_eq!(get(port, "GET /small").await.1, "small");
    assert_eq!(server.stats().limited_by(Limited::Pages), 1);
    assert!(rest_of(&mut oldest).await < LARGE);
    assert_eq!(rest_of(&mut second).await, LARGE);
    server.stop().await;
}

#[tokio::test]
async fn the_file_of_a_page_is_sent_as_far_as_it_was_promised() {
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("content");
    std::fs::write(&path, &content).unwrap();
    let server = Server::new(config());
    // Clones of a page share its file, but not the position in it.
    let page = Page::file("image/png", std::fs::File::open(&path).unwrap(), 1_000_000).etag("v1");
    server.on_get("/file", move |_| std::future::ready(Some(page.clone())));
    let short = path.clone();
    server.on_get("/short", move |_| {
        let file = std::fs::File::open(&short).unwrap();
        async { Some(Page::file("image/png", file, 1_200_001)) }
    });
    let port = server.start().await.expect("a free port");
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(unread(port, "/file").await);
    }
    for mut reader in readers {
        let mut sent = Vec::new();
        within("the file", reader.read_to_end(&mut sent)).await.unwrap();
        assert!(sent == content[..1_000_000], "{} bytes", sent.len());
    }
    let (head, body) = get(port, "HEAD /file").await;
    assert_eq!((field(&head, "content-length"), body.as_str()), ("1000000", ""));
    let (head, _) = get_with(port, "GET /file", "If-None-Match: \"v1\"\r\n").await;
    assert!(head.starts_with("HTTP/1.1 304 "), "{head}");
    // The file is one byte shorter: the client must notice.
    let mut reader = unread(port, "/short").await;
    let mut sent = Vec::new();
    let _ = within("the end", reader.read_to_end(&mut sent)).await;
    assert_eq!(sent.len(), 1_200_000);
    server.stop().await;
}

#[tokio::test]
async fn a_hyper_server_of_the_embedder_serves_pages_too() {
    let server = Server::new(config());
    server.on_get("/shelf/", |path: String| async move { Some(Page::new("text/plain", path)) });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = server.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = own.clone();
            let service =
                hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
                    let server = server.clone();
                    async move { Ok::<_, std::convert::Infallible>(server.answer(&mut request, true).await) }
                });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades(),
            );
        }
    });
    assert_eq!(get(port, "GET /shelf/mine").await.1, "mine");
    assert!(get(port, "GET /other").await.0.starts_with("HTTP/1.1 426 "));
    let mut client = socket::Client::connect(port).await;
    client.ask("unknown", serde_json::Value::Null).await;
    server.stop().await;
}
