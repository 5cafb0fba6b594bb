//! The pages that a server shows beside its WebSocket: off unless asked for, and locked down.

#[path = "support/socket.rs"]
mod socket;

use socket::{config, start, within};
use switchboard::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An HTTP request's head and body.
async fn get(port: u16, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
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
async fn pages_are_off_unless_turned_on() {
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
async fn nothing_runs_in_the_console_but_its_own() {
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
