//! Who can connect, and how other requests are refused: `Host`, `Origin`, token, the form of the upgrade, the limits of the
//! HTTP phase, and ordinary requests for pages.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::frames::text_frame;
use crate::support::socket::{self, Client, config, start, within};

/// A connection that writes bytes unchanged.
struct Raw(TcpStream);

impl Raw {
    async fn connect(port: u16) -> Raw {
        Raw(TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens"))
    }

    async fn write(&mut self, bytes: &[u8]) {
        within("room for a request", self.0.write_all(bytes)).await.expect("the server reads");
    }

    /// The head of the response; empty if the connection ends without one.
    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match within("an answer", self.0.read_u8()).await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(head).expect("a head is text").to_ascii_lowercase()
    }

    /// The whole response, if the server closes the connection after it.
    async fn answer(&mut self) -> String {
        let mut answer = Vec::new();
        let read = within("the end of the connection", self.0.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{read:?} after {:?}", String::from_utf8_lossy(&answer));
        String::from_utf8(answer).expect("an answer is text")
    }
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// An upgrade with one field replaced, removed or added.
fn upgrade(change: &str) -> String {
    upgrade_of("GET / HTTP/1.1", change)
}

/// As [`upgrade`]: `"Name: value"` replaces or adds, `"Name:"` removes.
fn upgrade_of(line: &str, change: &str) -> String {
    let name = change.split(':').next().unwrap_or_default();
    let key = format!("Sec-WebSocket-Key: {KEY}");
    let fields = [
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        key.as_str(),
    ];
    let mut text = format!("{line}\r\n");
    for field in fields.into_iter().filter(|field| !field.starts_with(&format!("{name}:"))) {
        text.push_str(field);
        text.push_str("\r\n");
    }
    if !change.is_empty() && !change.ends_with(':') {
        text.push_str(change);
        text.push_str("\r\n");
    }
    text + "\r\n"
}

/// The status of the response to one request.
async fn check(port: u16, request: &str, expected: u16) -> String {
    let mut raw = Raw::connect(port).await;
    raw.write(request.as_bytes()).await;
    let head = raw.head().await;
    assert_eq!(status(&head), expected, "{request}\n{head}");
    head
}

// The upgrade.

#[tokio::test]
async fn an_upgrade_is_answered_as_rfc_6455_says() {
    let (_server, port) = start(config()).await;
    for line in ["GET / HTTP/1.1", "GET /any/path?x=1 HTTP/1.1"] {
        let head = check(port, &upgrade_of(line, ""), 101).await;
        assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
        assert!(head.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
        assert!(!head.contains("sec-websocket-protocol"), "{head}");
        assert!(!head.contains("sec-websocket-extensions"), "{head}");
    }
    for change in ["Connection: keep-alive, upgrade", "Upgrade: h2c, WebSocket", "Content-Length: 0"] {
        check(port, &upgrade(change), 101).await;
    }
}

#[tokio::test]
async fn a_broken_upgrade_gets_400_and_a_wrong_version_426() {
    let (_server, port) = start(config()).await;
    for (request, expected) in [
        (upgrade_of("POST / HTTP/1.1", ""), 400),
        (upgrade_of("GET / HTTP/1.0", ""), 400),
        (upgrade("Connection:"), 400),
        (upgrade("Connection: close"), 400),
        (upgrade("Sec-WebSocket-Key:"), 400),
        (upgrade("Sec-WebSocket-Key: c2hvcnQ="), 400),
        (upgrade("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE="), 400),
        (upgrade("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!!=="), 400),
        (upgrade(&format!("X-More: 1\r\nSec-WebSocket-Key: {KEY}")), 400),
        (upgrade("Content-Length: 5"), 400),
        (upgrade("Transfer-Encoding: chunked"), 400),
        (upgrade("Host:"), 400),
        (upgrade("X-More: 1\r\nHost: localhost"), 400),
        (upgrade("Sec-WebSocket-Version: 8"), 426),
        (upgrade("Sec-WebSocket-Version: 14"), 426),
        (upgrade("Sec-WebSocket-Version:"), 426),
        (upgrade("Upgrade:"), 426),
        (upgrade("Upgrade: h2c"), 426),
    ] {
        let mut raw = Raw::connect(port).await;
        raw.write(request.as_bytes()).await;
        let answer = raw.answer().await;
        assert_eq!(status(&answer), expected, "{request}\n{answer}");
        let head = answer.to_ascii_lowercase();
        if expected == 400 {
            assert!(answer.ends_with("WebSocket upgrade failed"), "{answer}");
        } else if request.contains("Upgrade: websocket") {
            assert!(head.contains("\r\nsec-websocket-version: 13\r\n"), "{answer}");
        } else {
            assert!(head.contains("\r\nupgrade: websocket\r\n"), "{answer}");
        }
    }
}

#[tokio::test]
async fn frames_sent_with_the_upgrade_are_not_lost() {
    let (_server, port) = start(config()).await;
    let early = text_frame(r#"{"type":"request","id":"1","channel":"echo","payload":"early"}"#);
    let bytes = [upgrade("").into_bytes(), early].concat();
    let mut raw = Raw::connect(port).await;
    raw.write(&bytes).await;
    assert_eq!(status(&raw.head().await), 101);
    let mut client = Client::raw(raw.0).await;
    client.event("server:connected").await;
    assert_eq!(client.response().await["payload"], "early");
    client.assert_alive().await;
}

#[tokio::test]
async fn one_client_more_than_allowed_gets_503_until_one_leaves() {
    let mut config = config();
    config.max_connections = 2;
    let (_server, port) = start(config).await;
    let mut first = Client::connect(port).await;
    let second = Client::connect(port).await;
    check(port, &upgrade(""), 503).await;
    first.assert_alive().await;
    drop(second);
    let next = within("a place", async {
        loop {
            let mut raw = Raw::connect(port).await;
            raw.write(upgrade("").as_bytes()).await;
            match status(&raw.head().await) {
                101 => return raw,
                status => assert_eq!(status, 503),
            }
        }
    });
    next.await;
}

// Host and Origin.

#[tokio::test]
async fn on_loopback_only_loopback_hosts_and_origins_pass() {
    let (_server, port) = start(config()).await;
    for (change, expected) in [
        ("Host: localhost", 101),
        ("Host: LOCALHOST:3001", 101),
        ("Host: localhost.:3001", 101),
        ("Host: app.localhost", 101),
        ("Host: 127.0.0.1:3001", 101),
        ("Host: 127.255.0.9", 101),
        ("Host: [::1]:3001", 101),
        ("Host: evil.example", 403),
        ("Host: localhost.evil.example", 403),
        ("Host: notlocalhost", 403),
        ("Host: 127.0.0.1.evil.example", 403),
        ("Host: 192.168.0.7", 403),
        ("Host: evil.example@localhost", 403),
        ("Host: .", 403),
        ("Origin: http://localhost:5173", 101),
        ("Origin: https://app.localhost", 101),
        ("Origin: http://127.0.0.1", 101),
        ("Origin: http://[::1]:8080", 101),
        ("Origin: null", 403),
        ("Origin: https://evil.example", 403),
        ("Origin: http://localhost.evil.example", 403),
        ("Origin: http://evil.example/localhost", 403),
        ("Origin: http://evil.example:80@localhost", 403),
        ("Origin: localhost", 403),
        ("Origin: http://localhost\r\nOrigin: http://localhost", 403),
    ] {
        check(port, &upgrade(change), expected).await;
    }
}

#[tokio::test]
async fn listed_hosts_and_origins_pass_besides_the_defaults() {
    let mut listed = config();
    listed.allow_hosts = vec!["box.example".to_owned()];
    listed.allow_origins = vec!["https://app.example".to_owned()];
    let (_server, port) = start(listed).await;
    let mut any = config();
    any.allow_origins = vec!["*".to_owned()];
    let (_any_server, any_port) = start(any).await;
    for (port, change, expected) in [
        (port, "Host: box.example:3001", 101),
        (port, "Host: BOX.example", 101),
        (port, "Host: localhost", 101),
        (port, "Host: sub.box.example", 403),
        (port, "Origin: https://app.example", 101),
        (port, "Origin: http://localhost", 101),
        (port, "Origin: http://app.example", 403),
        (port, "Origin: https://app.example:444", 403),
        (port, "Origin: https://app.example.evil.example", 403),
        (any_port, "Origin: https://anyone.example", 101),
        (any_port, "Origin: null", 101),
        (any_port, "Host: anyone.example", 403),
    ] {
        check(port, &upgrade(change), expected).await;
    }
}

#[tokio::test]
async fn beyond_loopback_only_the_servers_own_pages_pass() {
    let mut open = config().host("0.0.0.0");
    open.insecure = true;
    let (_server, port) = start(open).await;
    for (change, expected) in [
        ("Host: 192.168.0.7:3001", 101),
        ("Host: box.example", 101),
        ("Host: 192.168.0.7:3001\r\nOrigin: http://192.168.0.7:3001", 101),
        ("Host: 192.168.0.7:3001\r\nOrigin: http://192.168.0.7:3002", 403),
        ("Host: 192.168.0.7:3001\r\nOrigin: http://localhost:3001", 403),
        // Any DNS name can resolve to this address.
        ("Host: evil.example\r\nOrigin: http://evil.example", 403),
        // A container whose port is published.
        ("Host: localhost:3001\r\nOrigin: http://localhost:3001", 101),
        ("Host: evil.example\r\nOrigin: http://localhost:3001", 403),
    ] {
        check(port, &upgrade(change), expected).await;
    }
}

#[tokio::test]
async fn a_public_url_and_a_listed_host_allow_their_own_pages_on_every_bind() {
    for bind in ["127.0.0.1", "0.0.0.0"] {
        let listed = Config { insecure: true, allow_hosts: vec!["App.Example:443".to_owned()], ..config() };
        let public = Config { insecure: true, ..config() }.public_url("https://app.example/console");
        for config in [listed, public] {
            let (_server, port) = start(config.host(bind)).await;
            for (change, expected) in [
                ("Host: app.example\r\nOrigin: https://app.example", 101),
                ("Host: app.example:443\r\nOrigin: https://app.example", 101),
                ("Host: app.example\r\nOrigin: https://evil.example", 403),
                ("Host: evil.example\r\nOrigin: http://evil.example", 403),
                ("Host: evil.example", 403),
                ("Host: localhost", 101),
            ] {
                check(port, &upgrade(change), expected).await;
            }
        }
    }
}

#[tokio::test]
async fn names_that_can_never_match_are_refused_at_the_start() {
    let refused = |config: Config| async {
        let error = switchboard::Server::new(config).start().await.expect_err("a setting without effect");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        error.to_string()
    };
    let names = |name: &str| vec![name.to_owned()];
    let error = refused(Config { allow_origins: names("app.example"), ..config() }).await;
    assert_eq!(error, "allow_origins: it has no scheme: write https://app.example");
    let error = refused(Config { allow_hosts: names("http://app.example"), ..config() }).await;
    assert_eq!(error, "allow_hosts: it is a URL, not a host: write app.example");
    let error = refused(config().public_url("app.example")).await;
    assert_eq!(error, "public_url: it has no scheme: write https://app.example");
}

// The token.

#[tokio::test]
async fn a_token_is_sent_in_a_header_subprotocol_query_or_auth_request() {
    // More wrong tokens than one address may try.
    let config = Config { max_wrong_tokens: 100, ..config().token("s3cret/+=") };
    let (_server, port) = start(config).await;
    for (line, change, authenticated) in [
        ("GET / HTTP/1.1", "Authorization: Bearer s3cret/+=", Some(true)),
        ("GET / HTTP/1.1", "Authorization: bearer  s3cret/+= ", Some(true)),
        ("GET / HTTP/1.1", "Authorization: Bearer s3cret/+", None),
        ("GET / HTTP/1.1", "Authorization: Bearer s3cret/+==", None),
        ("GET / HTTP/1.1", "Authorization: Bearer", Some(false)),
        ("GET / HTTP/1.1", "Authorization: Basic s3cret/+=", Some(false)),
        ("GET / HTTP/1.1", "Sec-WebSocket-Protocol: switchboard.v1, bearer.s3cret/+=", Some(true)),
        ("GET / HTTP/1.1", "Sec-WebSocket-Protocol: bearer.s3cret/+=,switchboard.v1", Some(true)),
        ("GET / HTTP/1.1", "Sec-WebSocket-Protocol: switchboard.v1, bearer.wrong", None),
        ("GET / HTTP/1.1", "Sec-WebSocket-Protocol: switchboard.v1, bearer.", None),
        ("GET /?token=s3cret/+= HTTP/1.1", "", Some(true)),
        ("GET /x?a=b&token=s3cret%2F%2b%3D HTTP/1.1", "", Some(true)),
        ("GET /?token=wrong HTTP/1.1", "", None),
        ("GET /?token= HTTP/1.1", "", None),
        ("GET /?token=wrong HTTP/1.1", "Authorization: Bearer s3cret/+=", Some(true)),
        ("GET /?token=s3cret/+= HTTP/1.1", "Authorization: Bearer wrong", None),
        ("GET /?TOKEN=s3cret/+= HTTP/1.1", "", Some(false)),
        ("GET / HTTP/1.1", "Sec-WebSocket-Protocol: switchboard.v1", Some(false)),
        ("GET / HTTP/1.1", "", Some(false)),
    ] {
        let request = upgrade_of(line, change);
        let mut raw = Raw::connect(port).await;
        raw.write(request.as_bytes()).await;
        let head = raw.head().await;
        assert!(!head.contains("s3cret"), "a token is never echoed: {head}");
        let Some(authenticated) = authenticated else {
            if request.contains("switchboard.v1") {
                assert_eq!(status(&head), 101, "{request}");
                assert_eq!(Client::raw(raw.0).await.next().await, Err(4401), "nothing but the reason");
                continue;
            }
            assert_eq!(status(&head), 401, "{request}");
            assert!(head.contains("\r\nwww-authenticate: bearer\r\n"), "{head}");
            continue;
        };
        assert_eq!(status(&head), 101, "{request}");
        let offered = request.contains("switchboard.v1");
        assert_eq!(head.contains("\r\nsec-websocket-protocol: switchboard.v1\r\n"), offered, "{head}");
        let mut client = Client::raw(raw.0).await;
        client.event("server:connected").await;
        let expected = if authenticated { Value::Null } else { json!("UNAUTHORIZED") };
        assert_eq!(client.ask("echo", Value::Null).await["error"]["code"], expected, "{request}");
        assert_eq!(client.ask("auth", json!({ "token": "x" })).await["error"]["code"], "UNAUTHORIZED");
        assert_eq!(client.ask("auth", json!({ "token": "s3cret/+=" })).await["error"], Value::Null);
        client.assert_alive().await;
    }
}

#[tokio::test]
async fn a_browser_library_accepts_the_subprotocol_of_the_answer() {
    let (_server, port) = start(config().token("s3cret")).await;
    let mut request = format!("ws://127.0.0.1:{port}/").into_client_request().unwrap();
    let protocols = "switchboard.v1, bearer.s3cret".parse().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocols);
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (socket, response) =
        within("the upgrade", tokio_tungstenite::client_async(request, stream)).await.unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "switchboard.v1");
    Client::upgraded(socket).await.assert_alive().await;
}

#[tokio::test]
async fn a_request_without_origin_passes_the_origin_rule_but_needs_the_token() {
    let (_server, port) = start(config().token("s3cret")).await;
    check(port, &upgrade("Authorization: Bearer wrong"), 401).await;
    check(port, &upgrade("Authorization: Bearer s3cret\r\nOrigin: https://evil.example"), 403).await;
    let mut client = Client::connect(port).await;
    assert_eq!(client.ask("echo", Value::Null).await["error"]["code"], "UNAUTHORIZED");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_authenticate_is_closed_with_1008() {
    let server = socket::server(config().token("s3cret"));
    let started = Instant::now();
    let mut client = Client::through_pipe(&server, 4096).await;
    assert_eq!(client.close_code().await, 1008);
    assert!((10_000..=10_002).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
}

// The limits of the HTTP phase.

fn hasty() -> Config {
    let mut config = config();
    config.handshake_timeout = Duration::from_millis(300);
    config
}

/// Reads until the server has closed the connection, and returns how long that took.
async fn cut_after(raw: &mut Raw, started: Instant) -> Duration {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = within("the end", raw.0.read_to_end(&mut rest)).await;
    assert_ne!(status(&String::from_utf8_lossy(&rest)), 101);
    started.elapsed()
}

#[tokio::test]
async fn a_missing_head_is_awaited_until_the_deadline() {
    let (_server, port) = start(hasty()).await;
    let whole = upgrade("");
    for sent in [0, 1, 20, whole.len() - 1] {
        let started = Instant::now();
        let mut raw = Raw::connect(port).await;
        raw.write(&whole.as_bytes()[..sent]).await;
        let lasted = cut_after(&mut raw, started).await;
        assert!(lasted >= Duration::from_millis(299), "{sent} bytes: cut after {lasted:?}");
    }
    check(port, &whole, 101).await;
}

#[tokio::test]
async fn a_head_sent_byte_by_byte_is_cut_at_the_same_deadline() {
    let (_server, port) = start(hasty()).await;
    let mut raw = Raw::connect(port).await;
    let started = Instant::now();
    raw.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ").await;
    let drip = async {
        loop {
            // One more byte whenever nothing was received for a while.
            let silence = tokio::time::timeout(Duration::from_millis(20), raw.0.read_u8()).await;
            if silence.is_ok() || raw.0.write_all(b"x").await.is_err() {
                return started.elapsed();
            }
        }
    };
    let lasted = within("the end", drip).await;
    assert!(lasted >= Duration::from_millis(299), "cut after {lasted:?}");
}

#[tokio::test]
async fn a_slow_request_body_does_not_hold_the_connection() {
    let (_server, port) = start(hasty()).await;
    let mut raw = Raw::connect(port).await;
    raw.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx").await;
    let started = Instant::now();
    cut_after(&mut raw, started).await;
}

#[tokio::test]
async fn a_refusal_arrives_although_a_body_follows_the_request() {
    let (_server, port) = start(config()).await;
    for length in [5, 5_000, 60_000] {
        let mut raw = Raw::connect(port).await;
        let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        raw.write(&[head.as_bytes(), &vec![b'x'; length]].concat()).await;
        assert_eq!(status(&raw.head().await), 426, "{length} bytes");
    }
}

fn padded(length: usize) -> String {
    let bare = upgrade("X-Padding: x").len();
    upgrade(&format!("X-Padding: {}", "x".repeat(length - bare + 1)))
}

#[tokio::test]
async fn a_head_passes_up_to_its_limit() {
    let (_server, port) = start(config()).await;
    for (length, expected) in [(16 << 10, 101), ((16 << 10) + 1, 431)] {
        assert_eq!(padded(length).len(), length);
        check(port, &padded(length), expected).await;
    }
}

#[tokio::test]
async fn a_head_of_20_mb_is_not_read() {
    let (_server, port) = start(config()).await;
    let mut raw = Raw::connect(port).await;
    raw.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ").await;
    let block = vec![b'x'; 64 << 10];
    let mut sent = 0;
    while sent < 20_000_000 {
        match within("room or an end", raw.0.write(&block)).await {
            Ok(bytes) => sent += bytes,
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
                    "{error}"
                );
                break;
            }
        }
    }
    // The system buffers a few MB before the client can see the refusal.
    assert!(sent < 20_000_000, "all of it was taken");
    check(port, &upgrade(""), 101).await;
}

#[tokio::test]
async fn bytes_that_are_not_http_end_the_connection() {
    let (_server, port) = start(config()).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let mut raw = Raw::connect(port).await;
        raw.write(bytes).await;
        let head = raw.head().await;
        assert!(matches!(status(&head), 0 | 400), "{head}");
    }
    check(port, &upgrade(""), 101).await;
}

// Pages.

#[cfg(feature = "pages")]
fn with_pages() -> Config {
    let mut config = config();
    config.serve_health = true;
    config.serve_metrics = true;
    config
}

#[cfg(feature = "pages")]
fn get(path: &str, field: &str) -> String {
    let field = if field.is_empty() { String::new() } else { format!("{field}\r\n") };
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n")
}

#[cfg(feature = "pages")]
#[tokio::test]
async fn pages_are_served_only_if_they_are_turned_on() {
    let (_server, bare) = start(config()).await;
    let (_pages_server, pages) = start(with_pages()).await;
    for (port, path, expected) in [
        (bare, "/healthz", 426),
        (bare, "/metrics", 426),
        (bare, "/", 426),
        (pages, "/healthz", 200),
        (pages, "/healthz?x", 200),
        (pages, "/metrics", 200),
        (pages, "/", 426),
        (pages, "/healthz/", 426),
        (pages, "/nothing", 426),
    ] {
        let head = check(port, &get(path, ""), expected).await;
        if expected == 426 {
            assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
        }
    }
    let rebound = get("/healthz", "").replace("localhost", "evil.example");
    check(pages, &rebound, 403).await;
    check(pages, &get("/healthz", "").replace("GET", "HEAD"), 200).await;
    let head = check(pages, &get("/healthz", "").replace("GET", "POST"), 405).await;
    assert!(head.contains("\r\nallow: get, head\r\n"), "{head}");
}

#[cfg(feature = "pages")]
#[tokio::test]
async fn metrics_count_what_happened() {
    let (_server, port) = start(with_pages()).await;
    let mut client = Client::connect(port).await;
    client.assert_alive().await;
    client.ask("unknown", Value::Null).await;
    let mut raw = Raw::connect(port).await;
    raw.write(get("/metrics", "").as_bytes()).await;
    let answer = raw.answer().await;
    assert!(answer.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    for line in [
        "switchboard_clients 1",
        "switchboard_connections_total 1",
        "switchboard_requests_total 2",
        "switchboard_errors_total{code=\"UNKNOWN_CHANNEL\"} 1",
        "switchboard_errors_total{code=\"TIMEOUT\"} 0",
    ] {
        assert!(body.lines().any(|found| found == line), "{line} in {body}");
    }
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("switchboard_") && value.parse::<u64>().is_ok(), "{line}");
    }
}

#[cfg(feature = "pages")]
#[tokio::test]
async fn metrics_need_the_token_and_health_does_not() {
    let (_server, port) = start(with_pages().token("s3cret")).await;
    for (path, field, expected) in [
        ("/metrics", "", 401),
        ("/metrics", "Authorization: Bearer wrong", 401),
        ("/metrics?token=s3cret", "", 401),
        ("/metrics", "Authorization: Bearer s3cret", 200),
        ("/healthz", "", 200),
    ] {
        check(port, &get(path, field), expected).await;
    }
}
