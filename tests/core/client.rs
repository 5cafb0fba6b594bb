//! The client in Rust against the server in Rust, over sockets: calls, events, lost connections, reconnects.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use switchboard::client::{Client, ClientOptions, ConnectionState, Event};
use switchboard::protocol::handshake;
use switchboard::{Config, ErrorCode, HandlerError, Payload, RequestContext, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::support::socket::{self, config, within};

async fn start(config: Config) -> (Server, u16) {
    let server = socket::server(config);
    server.on_request("never", |_: Payload, _cx| std::future::pending::<Result<Payload, HandlerError>>());
    server.on_request("fail", |_: Payload, _cx| async move {
        Err::<Payload, _>(HandlerError::new("on purpose").details(json!({"why": 1})))
    });
    server.on_request("tell", |payload: Payload, cx: RequestContext| async move {
        cx.emit("told", payload);
        Ok::<_, HandlerError>(Payload::none())
    });
    let port = server.start().await.unwrap();
    (server, port)
}

fn url(port: u16) -> String {
    format!("ws://localhost:{port}")
}

/// Options with short delays.
fn fast() -> ClientOptions {
    ClientOptions { reconnect_interval: Duration::from_millis(1), ..ClientOptions::default() }
}

/// The client's events from now on.
fn listen(client: &Client, channel: &str) -> mpsc::UnboundedReceiver<Event> {
    let (sender, receiver) = mpsc::unbounded_channel();
    client.on_message(channel, move |event| sender.send(event.clone()).unwrap_or_default());
    receiver
}

async fn next(events: &mut mpsc::UnboundedReceiver<Event>) -> (String, Value) {
    let event = within("an event", events.recv()).await.unwrap();
    (event.channel, event.payload.parse().unwrap())
}

async fn expect(events: &mut mpsc::UnboundedReceiver<Event>, channel: &str) -> Value {
    let (seen, payload) = next(events).await;
    assert_eq!(seen, channel, "{payload}");
    payload
}

/// A proxy between clients and a server that can cut connections without a close frame.
struct Cable {
    port: u16,
    task: Option<JoinHandle<()>>,
    joined: Arc<AtomicUsize>,
}

impl Cable {
    async fn to(server: u16) -> Cable {
        let mut cable = Cable { port: 0, task: None, joined: Arc::default() };
        cable.join(server).await;
        cable
    }

    async fn join(&mut self, server: u16) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.port = listener.local_addr().unwrap().port();
        let joined = self.joined.clone();
        self.task = Some(tokio::spawn(async move {
            let mut ends = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                joined.fetch_add(1, Ordering::SeqCst);
                ends.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", server)).await {
                        // Either end can close at any time.
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        }));
    }

    async fn cut(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }
}

#[tokio::test]
async fn calls_get_payloads_errors_and_events() {
    let (server, port) = start(config()).await;
    let client = Client::connect(&url(port), ClientOptions::default()).await.unwrap();
    assert!(client.is_connected());
    for payload in [json!("é"), json!(null), json!({"a": [1, 2.5]}), json!("x".repeat(1_000_000))] {
        let answer = client.send_message("echo", payload.clone()).await.unwrap();
        assert_eq!(answer.parse().unwrap(), payload);
    }
    assert!(client.send_message("echo", ()).await.unwrap().is_none());

    let error = client.send_message("fail", ()).await.unwrap_err();
    assert_eq!((error.code, &*error.message), (ErrorCode::HandlerError, "on purpose"));
    assert_eq!(error.details.parse().unwrap(), json!({"why": 1}));
    assert_eq!(client.send_message("no:such", ()).await.unwrap_err().code, ErrorCode::UnknownChannel);

    let mut told = listen(&client, "told");
    let mut all = listen(&client, "*");
    client.send_message("tell", json!(5)).await.unwrap();
    // Callbacks of an event have run before the response that arrived after it.
    assert_eq!(told.try_recv().unwrap().payload.as_str(), Some("5"));
    assert_eq!(all.try_recv().unwrap().channel, "told");
    client.off_message("told");
    client.send_message("tell", json!(6)).await.unwrap();
    assert!(told.try_recv().is_err());
    client.disconnect().await;
    assert_eq!(client.connection_state(), ConnectionState::Closed);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_at_once_are_all_answered() {
    let (server, port) = start(config()).await;
    for max_pending in [1024, 7] {
        let options = ClientOptions { max_pending, ..ClientOptions::default() };
        let client = Client::connect(&url(port), options).await.unwrap();
        let calls = (0..1000).map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.send_message("echo", json!(n)).await.unwrap().parse().unwrap() })
        });
        let answers = within("the answers", join_all(calls.collect::<Vec<_>>())).await;
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.unwrap(), json!(n));
        }
        client.disconnect().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_lost_connection_ends_its_calls_and_reconnects() {
    let (server, port) = start(config()).await;
    let mut cable = Cable::to(port).await;
    let options = ClientOptions { reconnect_interval: Duration::from_millis(500), ..fast() };
    let client = Client::connect(&cable.url(), options).await.unwrap();
    let mut states = listen(&client, "*");
    expect(&mut states, "connection:open").await;
    expect(&mut states, "server:connected").await;
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.send_message("never", ()).await })
        })
        .collect();
    // A response shows that the earlier calls were received.
    client.send_message("echo", ()).await.unwrap();
    cable.cut().await;
    for call in calls {
        let error = within("the end of a call", call).await.unwrap().unwrap_err();
        assert_eq!(error.code, ErrorCode::ConnectionClosed);
    }
    assert_eq!(expect(&mut states, "connection:closed").await["code"], Value::Null);
    let first = expect(&mut states, "connection:reconnecting").await;
    assert_eq!(first["attempt"], 1);
    assert_eq!(client.connection_state(), ConnectionState::Connecting);
    let error = client.send_message("echo", ()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ConnectionClosed);
    cable.join(port).await;
    loop {
        let (channel, _) = next(&mut states).await;
        if channel == "server:connected" {
            break;
        }
    }
    assert_eq!(client.send_message("echo", json!(1)).await.unwrap().as_str(), Some("1"));
    client.disconnect().await;
    server.stop().await;
}

#[tokio::test]
async fn the_first_retry_comes_after_the_first_pause() {
    let (server, port) = start(config()).await;
    let mut cable = Cable::to(port).await;
    let options = ClientOptions {
        reconnect_interval: Duration::from_millis(100),
        stable_after: Duration::ZERO,
        ..fast()
    };
    let client = Client::connect(&cable.url(), options).await.unwrap();
    for _ in 0..3 {
        // The response follows `server:connected`, so the next `server:connected` is of the next connection.
        client.send_message("echo", ()).await.unwrap();
        let mut states = listen(&client, "*");
        cable.cut().await;
        cable.join(port).await;
        loop {
            match next(&mut states).await {
                (channel, payload) if channel == "connection:reconnecting" => {
                    // Each loss starts counting anew, since a stable connection came between them.
                    assert_eq!(payload["attempt"], 1);
                    let delay = payload["delayMs"].as_u64().unwrap();
                    assert!((80..=120).contains(&delay), "{delay}");
                }
                (channel, _) if channel == "server:connected" => break,
                _ => {}
            }
        }
        client.off_message("*");
    }
    assert_eq!(cable.joined.load(Ordering::SeqCst), 4);
    client.disconnect().await;
    server.stop().await;
}

#[tokio::test]
async fn the_client_gives_up_after_ten_attempts() {
    let (server, port) = start(config()).await;
    let mut cable = Cable::to(port).await;
    let client = Client::connect(&cable.url(), fast()).await.unwrap();
    let mut states = listen(&client, "*");
    client.send_message("echo", ()).await.unwrap();
    cable.cut().await;
    let mut attempts = Vec::new();
    loop {
        match next(&mut states).await {
            (channel, payload) if channel == "connection:reconnecting" => {
                attempts.push(payload["attempt"].as_u64().unwrap());
            }
            (channel, payload) if channel == "connection:failed" => {
                assert_eq!(payload["attempts"], 10);
                let reason = payload["reason"].as_str().unwrap();
                assert!(reason.starts_with("127.0.0.1:") && reason.contains("refused"), "{reason}");
                break;
            }
            _ => {}
        }
    }
    assert_eq!(attempts, (1..=10).collect::<Vec<_>>());
    assert_eq!(client.connection_state(), ConnectionState::Closed);
    // It can still be opened explicitly.
    cable.join(port).await;
    client.open().await.unwrap();
    assert_eq!(client.send_message("echo", json!(1)).await.unwrap().as_str(), Some("1"));
    client.disconnect().await;
    server.stop().await;
}

#[tokio::test]
async fn disconnect_ends_a_pending_reconnect_and_open_starts_again() {
    let (server, port) = start(config()).await;
    let mut cable = Cable::to(port).await;
    let options = ClientOptions { reconnect_interval: Duration::from_secs(3600), ..ClientOptions::default() };
    let client = Client::connect(&cable.url(), options).await.unwrap();
    let mut waits = listen(&client, "connection:reconnecting");
    client.send_message("echo", ()).await.unwrap();
    cable.cut().await;
    expect(&mut waits, "connection:reconnecting").await;
    within("the end", client.disconnect()).await;
    assert_eq!(client.connection_state(), ConnectionState::Closed);
    client.disconnect().await;
    cable.join(port).await;
    // Two concurrent calls open one connection.
    let (first, second) = tokio::join!(client.open(), client.open());
    first.and(second).unwrap();
    client.send_message("echo", ()).await.unwrap();
    assert_eq!(server.client_count(), 1);
    client.disconnect().await;
    server.stop().await;
}

#[tokio::test]
async fn the_client_reconnects_after_the_server_stops_and_restarts() {
    let (server, port) = start(config()).await;
    let client = Client::connect(&url(port), fast()).await.unwrap();
    let mut states = listen(&client, "*");
    let pending = tokio::spawn({
        let client = client.clone();
        async move { client.send_message("never", ()).await }
    });
    client.send_message("echo", ()).await.unwrap();
    expect(&mut states, "connection:open").await;
    expect(&mut states, "server:connected").await;
    within("the stop", server.stop()).await;
    assert_eq!(expect(&mut states, "server:shutdown").await["reason"], "Server stopping");
    assert_eq!(pending.await.unwrap().unwrap_err().code, ErrorCode::ConnectionClosed);
    let closed = expect(&mut states, "connection:closed").await;
    assert_eq!(closed, json!({"code": 1001, "reason": "server stopping"}));
    client.disconnect().await;
}

#[tokio::test]
async fn a_first_connection_that_fails_is_an_error_without_retry() {
    let (server, port) = start(config().token("secret")).await;
    let with = |token: Option<&str>| ClientOptions { token: token.map(str::to_owned), ..fast() };
    let error = Client::connect(&url(port), with(Some("wrong"))).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("401") && !error.to_string().contains("wrong-token"), "{error}");

    let client = Client::connect(&url(port), with(Some("secret"))).await.unwrap();
    client.send_message("echo", ()).await.unwrap();
    client.disconnect().await;
    let client = Client::connect(&url(port), with(None)).await.unwrap();
    assert_eq!(client.send_message("echo", ()).await.unwrap_err().code, ErrorCode::Unauthorized);
    client.send_message("auth", json!({"token": "secret"})).await.unwrap();
    client.send_message("echo", ()).await.unwrap();
    client.disconnect().await;
    server.stop().await;

    let error = Client::connect(&url(port), fast()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    // A server that is not a WebSocket server, and one that never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap().port();
    let options = ClientOptions { connect_timeout: Duration::from_millis(10), ..fast() };
    let error = Client::connect(&format!("ws://127.0.0.1:{silent}"), options).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    // Dropping the future cancels the attempt.
    let client = Client::new(format!("ws://127.0.0.1:{silent}"), fast()).unwrap();
    tokio::time::timeout(Duration::from_millis(10), client.open()).await.unwrap_err();
    assert_eq!(client.connection_state(), ConnectionState::Closed);
}

#[tokio::test]
async fn refusals_reach_the_right_call() {
    let mut config = config();
    config.limits.rate_max_requests = 1;
    config.limits.rate_window = Duration::from_secs(3600);
    let (server, port) = start(config).await;
    let client = Client::connect(&url(port), fast()).await.unwrap();
    client.send_message("echo", ()).await.unwrap();
    let error = within("the refusal", client.send_message("echo", ())).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::RateLimited);
    assert!(error.details.parse().unwrap()["retryAfterMs"].as_u64() > Some(0));
    let error = client.send_message("", ()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidMessage);
    let error =
        client.send_message_within("never", (), Duration::ZERO).await.map(|_| ()).map_err(|error| error.code);
    assert!(matches!(error, Err(ErrorCode::Timeout | ErrorCode::RateLimited)));
    client.disconnect().await;
    server.stop().await;
}

#[tokio::test]
async fn a_call_ends_at_its_timeout_and_the_connection_stays() {
    let (server, port) = start(config()).await;
    let client = Client::connect(&url(port), fast()).await.unwrap();
    let call = client.send_message_within("never", (), Duration::from_millis(20));
    let error = within("the timeout", call).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout);
    client.send_message("echo", ()).await.unwrap();
    client.disconnect().await;
    server.stop().await;
}

/// Answers an upgrade.
async fn accept(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let at = head.to_ascii_lowercase().find("sec-websocket-key: ").unwrap() + 19;
    let accept = handshake::accept_key(&head.as_bytes()[at..at + 24]);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream
}

/// A server that answers the upgrade and never reads again.
async fn deaf() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let _stream = accept(&listener).await;
        std::future::pending::<()>().await;
    });
    port
}

/// A server that sends `server:connected` to each client, and drops it.
async fn dropping() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let mut frame = Vec::new();
            let hello = r#"{"type":"event","channel":"server:connected","payload":{},"timestamp":1}"#;
            switchboard::protocol::frame::write_text(&mut frame, None, &[hello]);
            accept(&listener).await.write_all(&frame).await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn attempts_count_until_a_connection_was_stable() {
    for (stable_after, expected) in
        [(Duration::from_secs(3600), (1..=10).collect::<Vec<_>>()), (Duration::ZERO, vec![1; 30])]
    {
        let client = Client::new(url(dropping().await), ClientOptions { stable_after, ..fast() }).unwrap();
        let mut states = listen(&client, "*");
        client.open().await.unwrap();
        let mut attempts = Vec::new();
        let mut greeted = 0;
        while attempts.len() < 30 {
            match next(&mut states).await {
                (channel, _) if channel == "server:connected" => greeted += 1,
                (channel, payload) if channel == "connection:reconnecting" => {
                    attempts.push(payload["attempt"].as_u64().unwrap());
                }
                (channel, payload) if channel == "connection:failed" => {
                    assert_eq!(payload, json!({"attempts": 10, "reason": "connection lost"}));
                    break;
                }
                _ => {}
            }
        }
        assert_eq!(attempts, expected);
        assert!(greeted >= 10, "every connection but perhaps the last received its first event: {greeted}");
        client.disconnect().await;
    }
}

#[tokio::test]
async fn a_server_that_reads_nothing_delays_neither_timeouts_nor_closing() {
    let mut options = ClientOptions { request_timeout: Duration::from_millis(200), max_pending: 2, ..fast() };
    options.limits.close_timeout = Duration::from_millis(50);
    let client = Client::connect(&url(deaf().await), options).await.unwrap();
    // More than the system buffers: the first waits for its response, the next to be sent, the last for room in the queue.
    let calls = [12_000_000, 1, 1].map(|bytes| {
        let client = client.clone();
        tokio::spawn(async move { client.send_message("echo", json!("x".repeat(bytes))).await })
    });
    for call in calls {
        let error = within("the timeout", call).await.unwrap().unwrap_err();
        assert_eq!(error.code, ErrorCode::Timeout);
    }
    within("the end", client.disconnect()).await;
    assert_eq!(client.connection_state(), ConnectionState::Closed);
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_connection() {
    let (gone, mut left) = mpsc::unbounded_channel();
    let (server, port) = start(config().on_disconnection(move |id| gone.send(id).unwrap_or_default())).await;
    let client = Client::connect(&url(port), fast()).await.unwrap();
    let other = client.clone();
    drop(client);
    other.send_message("echo", ()).await.unwrap();
    drop(other);
    within("the disconnection", left.recv()).await.unwrap();
    server.stop().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_works_like_a_port() {
    use hyper_util::rt::TokioIo;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("switchboard.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let (server, _) = start(config()).await;
    let embedded = server.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = embedded.clone();
            let service = hyper::service::service_fn(move |mut request| {
                std::future::ready(Ok::<_, std::convert::Infallible>(server.upgrade(&mut request, true)))
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            tokio::spawn(connection);
        }
    });
    let client = Client::connect(&format!("unix:{}", path.display()), fast()).await.unwrap();
    assert_eq!(client.send_message("echo", json!(1)).await.unwrap().as_str(), Some("1"));
    client.disconnect().await;
    server.stop().await;
}
