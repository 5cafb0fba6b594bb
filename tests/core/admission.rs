//! Who is let in while there is not enough for all: places of unfinished requests and unauthenticated clients, clients of one
//! address, wrong tokens, proxies.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use switchboard::{Config, Limited, Server};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;

use crate::support::socket::{Client, config, server, start, upgrade, with_pages, within};

/// Sends a request, and returns the head of the answer with its status; 0 if there is none.
async fn ask<Io: AsyncRead + AsyncWrite + Unpin>(io: &mut Io, request: &str) -> (u16, String) {
    // The server can have closed the connection already.
    let _ = within("room for a request", io.write_all(request.as_bytes())).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match within("an answer", io.read_u8()).await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default(), head)
}

async fn connect(port: u16) -> TcpStream {
    within("a connection", TcpStream::connect(("127.0.0.1", port))).await.expect("the server listens")
}

/// A connection on which a request was sent, and the status of the answer.
async fn request(port: u16, request: &str) -> (TcpStream, u16) {
    let mut stream = connect(port).await;
    let (status, _) = ask(&mut stream, request).await;
    (stream, status)
}

/// Waits for the end of a connection that gets no answer.
async fn is_cut(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = within("the end of the connection", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

// Requests that are not answered yet.

#[tokio::test]
async fn every_newcomer_is_served_while_slow_heads_fill_all_places() {
    for places in [1, 2, 8, 40] {
        // None of them is cut for its time.
        let handshake_timeout = Duration::from_secs(1000);
        let limits = Config { max_handshakes: places, handshake_timeout, ..config() };
        let (server, port) = start(with_pages(limits)).await;
        let mut slow = Vec::new();
        for _ in 0..places {
            let mut stream = connect(port).await;
            stream.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
            slow.push(stream);
        }
        // As many at the same time as there are places, however late their heads come.
        let mut newcomers = Vec::new();
        for _ in 0..places {
            newcomers.push(tokio::spawn(async move { request(port, &upgrade("")).await }));
        }
        for newcomer in newcomers {
            assert_eq!(newcomer.await.unwrap().1, 101, "with {places} places");
        }
        is_cut(&mut slow[0]).await;
        assert!(server.stats().limited_by(Limited::Handshakes) >= 1);
    }
}

#[tokio::test]
async fn clients_and_slow_heads_of_other_addresses_keep_their_places() {
    let (server, port) = start(Config { max_handshakes: 4, ..config() }).await;
    let mut other = TcpStream::connect(("localhost", port)).await.unwrap();
    if let Ok(stream) = TcpStream::connect(("::1", port)).await {
        other = stream;
    }
    let is_other = other.peer_addr().unwrap().is_ipv6();
    other.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
    let mut client = Client::connect(port).await;
    let mut slow = Vec::new();
    while server.stats().limited_by(Limited::Handshakes) < 20 {
        let mut stream = connect(port).await;
        // It can be cut already.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nX: ").await;
        slow.push(stream);
    }
    client.assert_alive().await;
    if is_other {
        assert_eq!(ask(&mut other, "\r\n").await.0, 426);
    }
}

// Clients that have not authenticated.

#[tokio::test]
async fn unauthenticated_clients_have_places_of_their_own_and_the_oldest_goes_first() {
    let limits = Config { max_connections: 2, max_unauthenticated: 3, ..config().token("s3cret") };
    let (server, port) = start(limits).await;
    let mut strangers = Vec::new();
    for _ in 0..5 {
        strangers.push(Client::connect(port).await);
    }
    for evicted in &mut strangers[..2] {
        assert_eq!(evicted.close_code().await, 1008);
    }
    assert_eq!(server.stats().limited_by(Limited::Unauthenticated), 2);

    let with_token = upgrade("Authorization: Bearer s3cret\r\n");
    let (owner, status) = request(port, &with_token).await;
    assert_eq!(status, 101, "strangers take no place of a client");
    let token = json!({ "token": "s3cret" });
    assert_eq!(strangers[2].ask("auth", token.clone()).await["error"], Value::Null);
    strangers[2].assert_alive().await;
    // The server is full: with the token in the request, and on channel `auth`.
    assert_eq!(request(port, &with_token).await.1, 503);
    assert_eq!(strangers[3].ask("auth", token.clone()).await["error"], Value::Null);
    assert_eq!(strangers[3].close_code().await, 1013);
    assert_eq!(server.stats().limited_by(Limited::Connections), 2);
    assert_eq!(server.client_count(), 2);

    drop(owner);
    let free = async { while request(port, &with_token).await.1 != 101 {} };
    within("the place of the client that left", free).await;
    // Strangers still come, and one that has authenticated is not evicted for them.
    for _ in 0..4 {
        Client::connect(port).await;
    }
    strangers[2].assert_alive().await;
}

#[tokio::test]
async fn a_client_that_was_evicted_is_gone_although_it_never_reads() {
    let (server, port) = start(Config { max_unauthenticated: 1, ..config().token("s3cret") }).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        let (stream, status) = request(port, &upgrade("")).await;
        assert_eq!(status, 101);
        silent.push(stream);
    }
    // Their connections end now, and not only when they answer or their time is up.
    for stream in &mut silent[..19] {
        let mut rest = Vec::new();
        let _ = within("the end of the connection", stream.read_to_end(&mut rest)).await;
    }
    assert_eq!(server.stats().limited_by(Limited::Unauthenticated), 19);
    tokio::join!(server.stop(), async { is_at_end(&mut silent[19]).await });
}

async fn is_at_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = within("the end of the connection", stream.read_to_end(&mut rest)).await;
}

// Clients of one address.

#[tokio::test]
async fn an_address_has_a_number_of_clients_and_a_proxy_none() {
    let proxies = vec!["127.0.0.0/8".to_owned()];
    let limits = Config { max_connections_per_address: 2, trusted_proxies: proxies, ..config() };
    let (server, port) = start(limits).await;
    let from = |address: &str| upgrade(&format!("X-Forwarded-For: {address}\r\n"));
    let (first, status) = request(port, &from("9.9.9.9, 203.0.113.7")).await;
    assert_eq!(status, 101);
    let (_second, status) = request(port, &from("8.8.8.8\r\nX-Forwarded-For: 203.0.113.7, 127.0.0.2")).await;
    assert_eq!(status, 101);
    let mut third = connect(port).await;
    let (status, head) = ask(&mut third, &from("203.0.113.7")).await;
    assert_eq!(status, 429);
    assert!(head.contains("\r\nretry-after: "), "{head}");
    assert_eq!(server.stats().limited_by(Limited::Address), 1);
    let mut others = Vec::new();
    // Of one /64 network there can be two.
    for (address, expected) in
        [("203.0.113.8", 101), ("2001:db8::1", 101), ("2001:db8::2", 101), ("[2001:db8::3]:80", 429)]
    {
        let (stream, status) = request(port, &from(address)).await;
        assert_eq!(status, expected, "{address}");
        others.push(stream);
    }
    drop(first);
    let free = async { while request(port, &from("203.0.113.7")).await.1 != 101 {} };
    within("the place of the client that left", free).await;
}

#[tokio::test]
async fn an_address_that_a_stranger_names_does_not_count() {
    let limits = Config { max_connections_per_address: 1, ..config() };
    let (_server, port) = start(limits).await;
    let (_first, status) = request(port, &upgrade("X-Forwarded-For: 203.0.113.7\r\n")).await;
    assert_eq!(status, 101);
    assert_eq!(request(port, &upgrade("X-Forwarded-For: 203.0.113.8\r\n")).await.1, 429);
}

// Wrong tokens.

/// A connection to a hyper server that passes on the address of its other end.
fn from(server: &Server, address: &str) -> DuplexStream {
    let (near, far) = tokio::io::duplex(16 << 10);
    let (server, peer) = (server.clone(), SocketAddr::new(address.parse().unwrap(), 50_000));
    tokio::spawn(async move {
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            std::future::ready(Ok::<_, std::convert::Infallible>(server.upgrade(&mut request, peer)))
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
        // A client that disconnects is not an error of the server.
        let _ = connection.with_upgrades().await;
    });
    near
}

async fn try_token(server: &Server, address: &str, token: &str) -> u16 {
    let request = upgrade(&format!("Authorization: Bearer {token}\r\n"));
    // Addresses of other machines must name the server by its address.
    ask(&mut from(server, address), &request.replace("localhost", "127.0.0.1")).await.0
}

#[tokio::test(start_paused = true)]
async fn five_hundred_wrong_tokens_of_one_address_take_minutes() {
    let mut limits = config().token("s3cret");
    limits.limits.idle_timeout = Duration::from_secs(1000);
    let server = server(limits);
    let mut connected = Client::on(from(&server, "127.0.0.1")).await;
    assert_eq!(connected.ask("auth", json!({ "token": "s3cret" })).await["error"], Value::Null);
    let started = tokio::time::Instant::now();
    let (mut looked_at, mut refused) = (0, 0);
    while looked_at < 500 {
        match try_token(&server, "127.0.0.1", "wrong").await {
            401 => looked_at += 1,
            429 => {
                refused += 1;
                tokio::time::advance(Duration::from_millis(100)).await;
            }
            status => panic!("{status}"),
        }
    }
    assert!(started.elapsed() >= Duration::from_secs(490), "{:?}", started.elapsed());
    assert_eq!(server.stats().limited_by(Limited::WrongTokens), refused);
    // Not even the right one is looked at, but clients and other addresses are not affected.
    assert_eq!(try_token(&server, "127.0.0.1", "s3cret").await, 429);
    connected.assert_alive().await;
    assert_eq!(try_token(&server, "203.0.113.7", "s3cret").await, 101);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(try_token(&server, "127.0.0.1", "s3cret").await, 101);
}

#[tokio::test]
async fn a_wrong_token_counts_wherever_it_is_sent() {
    let limits = Config {
        max_wrong_tokens: 1,
        wrong_token_pause: Duration::from_secs(1000),
        trusted_proxies: vec!["127.0.0.1".to_owned()],
        ..with_pages(config()).token("s3cret")
    };
    let (_server, port) = start(limits).await;
    let get =
        |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let wrong = [
        upgrade("Authorization: Bearer wrong\r\n"),
        upgrade("Sec-WebSocket-Protocol: switchboard.v1, bearer.wrong\r\n"),
        upgrade("").replace("/ws", "/ws?token=wrong"),
        #[cfg(feature = "pages")]
        get("/metrics", "Authorization: Bearer wrong\r\n"),
    ];
    for (index, wrong) in wrong.iter().enumerate() {
        let from = |request: &str| {
            request.replace("Host: ", &format!("X-Forwarded-For: 203.0.113.{index}\r\nHost: "))
        };
        // A client of `switchboard.v1` is closed with 4401 instead.
        let status = if wrong.contains("switchboard.v1") { 101 } else { 401 };
        assert_eq!(request(port, &from(wrong)).await.1, status, "{wrong}");
        let right = upgrade("Authorization: Bearer s3cret\r\n");
        assert_eq!(request(port, &from(&right)).await.1, 429, "{wrong}");
        let mut stream = connect(port).await;
        let (_, head) = ask(&mut stream, &from(&get("/metrics", "Authorization: Bearer s3cret\r\n"))).await;
        assert!(head.contains(" 429 ") && head.contains("\r\nretry-after: "), "{head}");
        // Without a token there is nothing to try.
        assert_eq!(request(port, &from(&upgrade(""))).await.1, 101);
        assert_ne!(request(port, &from(&get("/healthz", ""))).await.1, 429);
    }
    // A wrong origin is refused before the token is looked at: a page of another site cannot pause its visitor.
    let foreign = upgrade("Origin: https://evil.example\r\nAuthorization: Bearer wrong\r\n");
    for _ in 0..3 {
        assert_eq!(request(port, &foreign).await.1, 403);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_closes_those_that_send_a_token_later() {
    let server = server(Config { max_wrong_tokens: 2, ..config().token("s3cret") });
    let (right, wrong) = (json!({ "token": "s3cret" }), json!({ "token": "wrong" }));
    let mut connected = Client::on(from(&server, "127.0.0.1")).await;
    assert_eq!(connected.ask("auth", right.clone()).await["error"], Value::Null);
    let mut waiting = Client::on(from(&server, "127.0.0.1")).await;
    let mut guessing = Client::on(from(&server, "127.0.0.1")).await;
    for _ in 0..2 {
        assert_eq!(guessing.ask("auth", wrong.clone()).await["error"]["message"], "Token is wrong");
    }
    // Neither its next guess nor the right token of another connection is looked at.
    guessing.send("3", "auth", wrong.clone()).await;
    assert_eq!(guessing.next().await, Err(1008));
    waiting.send("1", "auth", right.clone()).await;
    assert_eq!(waiting.next().await, Err(1008));
    assert_eq!(server.stats().limited_by(Limited::WrongTokens), 2);
    assert_eq!(try_token(&server, "127.0.0.1", "s3cret").await, 429);
    connected.assert_alive().await;
    tokio::time::advance(Duration::from_secs(1)).await;
    let mut late = Client::on(from(&server, "127.0.0.1")).await;
    assert_eq!(late.ask("auth", right).await["error"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_pause_keeps_the_owner_of_a_long_token_out_of_nothing() {
    const LONG: &str = "0123456789abcdef";
    let server = server(Config { max_wrong_tokens: 1, ..config().token(LONG) });
    let (right, wrong) = (json!({ "token": LONG }), json!({ "token": "wrong" }));
    let mut waiting = Client::on(from(&server, "127.0.0.1")).await;
    let mut guessing = Client::on(from(&server, "127.0.0.1")).await;
    assert_eq!(try_token(&server, "127.0.0.1", "wrong").await, 401);
    assert_eq!(try_token(&server, "127.0.0.1", "wrong").await, 429);
    assert_eq!(try_token(&server, "127.0.0.1", LONG).await, 101);
    assert_eq!(waiting.ask("auth", right).await["error"], Value::Null);
    assert_eq!(guessing.ask("auth", wrong).await["error"]["message"], "Token is wrong");
    assert_eq!(guessing.next().await, Err(1008));
    assert_eq!(server.stats().limited_by(Limited::WrongTokens), 2);
}

#[tokio::test(start_paused = true)]
async fn five_hundred_guesses_on_channel_auth_take_minutes() {
    let server = server(config().token("s3cret"));
    let started = tokio::time::Instant::now();
    let mut looked_at = 0;
    while looked_at < 500 {
        let mut client = Client::on(from(&server, "127.0.0.1")).await;
        // Several at once: what was sent before an answer came counts too.
        for id in 0..5 {
            client.send(&id.to_string(), "auth", json!({ "token": "wrong" })).await;
        }
        while let Ok(answer) = client.next().await {
            looked_at += usize::from(answer["error"]["message"] == "Token is wrong");
        }
        tokio::time::advance(Duration::from_millis(500)).await;
    }
    assert!(started.elapsed() >= Duration::from_secs(240), "{:?}", started.elapsed());
}

// Rate windows.

#[tokio::test(start_paused = true)]
async fn a_rate_window_by_address_outlives_its_connections() {
    for by_address in [false, true] {
        let mut limits = Config { rate_by_address: by_address, ..Config::default() };
        limits.limits.rate_max_requests = 3;
        let server = server(limits);
        let mut first = Client::on(from(&server, "127.0.0.1")).await;
        let mut beside = Client::on(from(&server, "127.0.0.1")).await;
        for _ in 0..2 {
            first.assert_alive().await;
        }
        first.leave().await;
        beside.assert_alive().await;
        let mut next = Client::on(from(&server, "127.0.0.1")).await;
        for client in [&mut beside, &mut next] {
            client.send("1", "echo", json!(1)).await;
            let code = client.response().await["error"]["code"].clone();
            assert_eq!(code, if by_address { json!("RATE_LIMITED") } else { Value::Null });
        }
        Client::on(from(&server, "::1")).await.assert_alive().await;
        tokio::time::advance(Duration::from_secs(1)).await;
        next.assert_alive().await;
    }
}

// Users of the machine.

#[tokio::test]
async fn the_own_user_connects_while_others_are_refused() {
    let (server, port) = start(with_pages(Config { same_user: true, ..config() })).await;
    let mut clients = Vec::new();
    // Many at once: one look serves several.
    for _ in 0..50 {
        clients.push(tokio::spawn(async move { Client::connect(port).await }));
    }
    for client in clients {
        client.await.unwrap().assert_alive().await;
    }
    if let Ok(stream) = TcpStream::connect(("::1", port)).await {
        Client::on(stream).await.assert_alive().await;
    }
    assert!(server.stats().connections >= 50);
}

/// What a process of another user gets: the status of the answers to an upgrade and to other requests.
#[cfg(target_os = "linux")]
async fn as_another_user(port: u16, request: String) -> Option<u16> {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    let script = r#"exec 3<>"/dev/tcp/$0/$1"; printf '%s' "$2" >&3; read -r line <&3; echo "$line""#;
    let run = move || {
        let port = port.to_string();
        let mut bash = Command::new("bash");
        bash.args(["-c", script, "127.0.0.1", &port, &request]).stderr(Stdio::null());
        String::from_utf8(bash.uid(65_534).gid(65_534).output().ok()?.stdout).ok()
    };
    let line = tokio::task::spawn_blocking(run).await.unwrap()?;
    line.split(' ').nth(1)?.parse().ok()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn another_user_of_the_machine_is_refused() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    if !status.contains("\nUid:\t0\t0\t") {
        return crate::support::skip::skipped("another user: only root can become one");
    }
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (server, port) = start(with_pages(Config { same_user: true, ..config() })).await;
    assert_eq!(as_another_user(port, upgrade("")).await, Some(403));
    assert_eq!(as_another_user(port, get("/none")).await, Some(426));
    #[cfg(feature = "pages")]
    {
        server.on_get("/images/", |_| async { Some(switchboard::Page::new("text/plain", "private")) });
        for (path, expected) in [("/images/x", 403), ("/metrics", 403), ("/healthz", 200)] {
            assert_eq!(as_another_user(port, get(path)).await, Some(expected), "{path}");
        }
    }
    assert_eq!(server.stats().connections, 0);
    // With a token, a name or a proxy, the server is meant for more than its user; and by default.
    for allowed in [
        Config { same_user: true, ..config().token("s3cret") },
        Config { same_user: true, allow_hosts: vec!["box.example".to_owned()], ..config() },
        Config { same_user: true, trusted_proxies: vec!["10.0.0.1".to_owned()], ..config() },
        config(),
    ] {
        let (_server, port) = start(allowed).await;
        assert_eq!(as_another_user(port, upgrade("")).await, Some(101));
    }
}
