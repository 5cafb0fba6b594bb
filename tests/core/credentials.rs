//! The client in Rust and its credentials, addresses and headers, against a server that the test plays.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use switchboard::client::{Client, ClientOptions, Event, Source};
use switchboard::protocol::frame;
use switchboard::protocol::handshake;
use switchboard::{Attempt, ErrorCode, HandlerError, Identity, Payload, Refusal, RequestContext, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::socket::{self, Calls, within};

/// A server of the test.
struct Played(TcpListener);

impl Played {
    async fn new() -> Played {
        Played(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> String {
        format!("ws://{}", self.0.local_addr().unwrap())
    }

    /// Accepts an upgrade, with the subprotocol. Returns the head of the request, too.
    async fn accept(&self) -> (TcpStream, String) {
        let (mut stream, head) = self.request().await;
        let at = head.find("sec-websocket-key: ").unwrap() + 19;
        let accept = handshake::accept_key(&head.as_bytes()[at..at + 24]);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: switchboard.v1\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        (stream, head)
    }

    async fn request(&self) -> (TcpStream, String) {
        let (mut stream, _) = within("a connection", self.0.accept()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        (stream, String::from_utf8(head).unwrap())
    }

    async fn greet(&self) -> (TcpStream, String) {
        let (mut stream, head) = self.accept().await;
        event(&mut stream, "server:connected", "{}").await;
        (stream, head)
    }
}

async fn event(stream: &mut TcpStream, channel: &str, payload: &str) {
    let text = format!(r#"{{"type":"event","channel":"{channel}","payload":{payload},"timestamp":1}}"#);
    let mut out = Vec::new();
    frame::write_text(&mut out, None, &[&text]);
    stream.write_all(&out).await.unwrap();
}

/// Answers a request with a payload or an error.
async fn respond(stream: &mut TcpStream, request: &Value, member: &str) {
    let id = &request["id"];
    let text = format!(r#"{{"type":"response","id":{id},"channel":"c",{member},"timestamp":1}}"#);
    let mut out = Vec::new();
    frame::write_text(&mut out, None, &[&text]);
    stream.write_all(&out).await.unwrap();
}

async fn close(mut stream: TcpStream, code: u16, reason: &str) {
    let length = u8::try_from(reason.len() + 2).unwrap();
    let bytes = [&[0x88, length], &code.to_be_bytes()[..], reason.as_bytes()].concat();
    stream.write_all(&bytes).await.unwrap();
    // Until the client has closed, too.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

fn fast() -> ClientOptions {
    ClientOptions { reconnect_interval: Duration::from_millis(1), ..ClientOptions::default() }
}

fn listen(client: &Client) -> mpsc::UnboundedReceiver<Event> {
    let (sender, receiver) = mpsc::unbounded_channel();
    client.on_message("*", move |event| sender.send(event.clone()).unwrap_or_default());
    receiver
}

async fn until(events: &mut mpsc::UnboundedReceiver<Event>, channel: &str) -> Value {
    loop {
        let event = within(channel, events.recv()).await.unwrap();
        if event.channel == channel {
            return event.payload.parse().unwrap();
        }
    }
}

/// A token that is another one each time it is asked for.
fn numbered() -> (Arc<AtomicUsize>, ClientOptions) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let source = Source::from_async(move || {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::task::yield_now().await;
            Ok::<_, std::io::Error>(format!("token-{number}"))
        }
    });
    (asked, ClientOptions { token_source: Some(source), ..fast() })
}

#[tokio::test]
async fn a_client_that_is_refused_in_the_upgrade_or_after_it_says_why() {
    for (code, reason, ending) in [(4401, "Token is wrong", "4401"), (4403, "not a member", "4403")] {
        let server = Played::new().await;
        let options = ClientOptions { token: Some("s3cret".to_owned()), ..fast() };
        let (connected, ()) = tokio::join!(Client::connect(server.url(), options), async {
            let (stream, head) = server.accept().await;
            assert!(head.contains("authorization: Bearer s3cret\r\n"), "{head}");
            assert!(head.contains("sec-websocket-protocol: switchboard.v1\r\n"), "{head}");
            close(stream, code, reason).await;
        });
        let error = connected.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(error.to_string(), format!("the server closed with {ending}: {reason}"));
    }
    let server = Played::new().await;
    let client = Client::new(server.url(), fast()).unwrap();
    let (opened, ()) = tokio::join!(client.open(), async {
        let (mut stream, _) = server.request().await;
        let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 21\r\n\r\nOrigin is not allowed";
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let expected = "the server answered 403 Forbidden: Origin is not allowed";
    assert_eq!(opened.unwrap_err().to_string(), expected);
    let error = client.send_message("echo", ()).await.unwrap_err();
    assert_eq!(
        (error.code, error.message),
        (ErrorCode::ConnectionClosed, format!("not connected: {expected}").into())
    );
}

#[tokio::test]
async fn each_attempt_asks_for_a_token_and_a_refused_one_is_replaced_once() {
    let server = Played::new().await;
    let (asked, options) = numbered();
    let client = Client::new(server.url(), options).unwrap();
    let mut states = listen(&client);
    let (opened, (stream, head)) = tokio::join!(client.open(), server.greet());
    opened.unwrap();
    assert!(head.contains("authorization: Bearer token-0\r\n"), "{head}");
    // A lost connection, then an expired token.
    drop(stream);
    let (stream, head) = server.greet().await;
    assert!(head.contains("Bearer token-1\r\n"), "{head}");
    close(stream, 4401, "credential expired").await;
    let (stream, head) = server.greet().await;
    assert!(head.contains("Bearer token-2\r\n"), "{head}");
    drop(stream);
    // Wrong tokens: one more is asked for, then the client ends.
    for number in [3, 4] {
        let (stream, head) = server.accept().await;
        assert!(head.contains(&format!("Bearer token-{number}\r\n")), "{head}");
        close(stream, 4401, "Token is wrong").await;
    }
    let failed = until(&mut states, "connection:failed").await;
    assert_eq!(failed["reason"], "the server closed with 4401: Token is wrong");
    assert_eq!(asked.load(Ordering::SeqCst), 5);
    let error = client.send_message("echo", ()).await.unwrap_err();
    assert_eq!(error.message, "not connected: the server closed with 4401: Token is wrong");
}

#[tokio::test]
async fn a_client_that_cannot_get_in_ends_at_once() {
    for (code, has_source) in [(4403, true), (4401, false)] {
        let server = Played::new().await;
        let options = if has_source { numbered().1 } else { fast() };
        let client = Client::new(server.url(), options).unwrap();
        let mut states = listen(&client);
        let (opened, (stream, _)) = tokio::join!(client.open(), server.greet());
        opened.unwrap();
        let call = client.send_message("never", ());
        let (answered, ()) = tokio::join!(call, close(stream, code, "blocked"));
        let error = answered.unwrap_err();
        assert_eq!(error.code, ErrorCode::ConnectionClosed);
        assert_eq!(error.message, format!("the connection was closed: {code} blocked"));
        assert_eq!(until(&mut states, "connection:closed").await, json!({"code": code, "reason": "blocked"}));
        let failed = until(&mut states, "connection:failed").await;
        assert_eq!(failed, json!({"attempts": 0, "reason": format!("{code} blocked")}));
    }
}

#[tokio::test]
async fn each_attempt_asks_for_the_url() {
    let servers = [Played::new().await, Played::new().await];
    let urls = [servers[0].url(), servers[1].url()];
    let next = AtomicUsize::new(0);
    let url = Source::from_fn(move || {
        let number = next.fetch_add(1, Ordering::SeqCst);
        Ok::<_, std::io::Error>(format!("{}?attempt={number}", urls[number % 2]))
    });
    let headers = vec![("Cookie".to_owned(), "a=b".to_owned()), ("x-more".to_owned(), "1".to_owned())];
    let client = Client::new(url, ClientOptions { headers, ..fast() }).unwrap();
    let (opened, (stream, head)) = tokio::join!(client.open(), servers[0].greet());
    opened.unwrap();
    assert!(head.starts_with("GET /?attempt=0 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("cookie: a=b\r\n") && head.contains("x-more: 1\r\n"), "{head}");
    drop(stream);
    let (_stream, head) = servers[1].greet().await;
    assert!(head.starts_with("GET /?attempt=1 HTTP/1.1\r\n"), "{head}");

    let client =
        Client::new(Source::from_fn(|| Ok::<_, std::io::Error>("http://x".to_owned())), fast()).unwrap();
    assert_eq!(client.open().await.unwrap_err().kind(), ErrorKind::InvalidInput);
    let panics = Source::from_fn(|| -> Result<String, std::io::Error> {
        std::panic::resume_unwind(Box::new("on purpose"))
    });
    let client = Client::new(panics, fast()).unwrap();
    assert_eq!(
        client.open().await.unwrap_err().to_string(),
        "the URL cannot be found: the function panicked"
    );
}

#[test]
fn headers_of_the_handshake_cannot_be_given() {
    for (name, token, fits) in [
        ("cookie", None, true),
        ("authorization", None, true),
        ("Authorization", Some("t"), false),
        ("Host", None, false),
        ("connection", None, false),
        ("Sec-WebSocket-Key", None, false),
        ("sec-websocket-protocol", None, false),
        ("transfer-encoding", None, false),
        ("a b", None, false),
        ("", None, false),
    ] {
        let headers = vec![(name.to_owned(), "v".to_owned())];
        let options = ClientOptions { headers, token: token.map(str::to_owned), ..fast() };
        assert_eq!(Client::new("ws://localhost", options).is_ok(), fits, "{name}");
    }
    let headers = vec![("x".to_owned(), "a\r\nb".to_owned())];
    let error = Client::new("ws://localhost", ClientOptions { headers, ..fast() }).unwrap_err();
    assert_eq!(error.to_string(), "headers: \"x\" has a value that is not allowed");
}

#[tokio::test]
async fn the_cause_of_a_failed_attempt_names_the_address_or_the_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = Client::connect(format!("ws://127.0.0.1:{port}"), fast()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(error.to_string().starts_with(&format!("127.0.0.1:{port}: ")), "{error}");
    for (answer, expected) in [
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone",
            "the server answered 404 Not Found: none",
        ),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "the server answered 502 Bad Gateway"),
        (
            "HTTP/1.1 308 Permanent Redirect\r\nLocation: wss://x/\r\nContent-Length: 0\r\n\r\n",
            "the server answered 308 Permanent Redirect: wss://x/",
        ),
        ("SSH-2.0-OpenSSH_9\r\n", "the server does not speak HTTP: invalid HTTP version parsed"),
        ("", "the server did not answer: connection closed before message completed"),
    ] {
        let server = Played::new().await;
        let (connected, ()) = tokio::join!(Client::connect(server.url(), fast()), async {
            let (mut stream, _) = server.request().await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        assert_eq!(connected.unwrap_err().to_string(), expected);
    }
    let error = Client::connect("ws://no-such-name.invalid", fast()).await.unwrap_err();
    assert!(error.to_string().starts_with("the name no-such-name.invalid cannot be resolved: "), "{error}");
}

#[tokio::test]
async fn a_new_token_is_sent_on_the_open_connection() {
    let server = Played::new().await;
    let (asked, options) = numbered();
    let client = Client::new(server.url(), options).unwrap();
    let (opened, (mut stream, _)) = tokio::join!(client.open(), server.greet());
    opened.unwrap();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.send_message("slow", ()).await }
    });
    let slow = request(&mut stream).await;
    event(&mut stream, "auth:expiring", r#"{"inMs":1000}"#).await;
    let auth = request(&mut stream).await;
    assert_eq!((&auth["channel"], &auth["payload"]), (&json!("auth"), &json!({"token": "token-1"})));
    respond(&mut stream, &auth, r#""payload":{"authenticated":true}"#).await;
    respond(&mut stream, &slow, r#""payload":5"#).await;
    assert_eq!(within("the answer", call).await.unwrap().unwrap().as_str(), Some("5"));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

/// Reads a request of the client: a short masked frame.
async fn request(stream: &mut TcpStream) -> Value {
    let mut head = [0; 2];
    within("a frame", stream.read_exact(&mut head)).await.unwrap();
    let mut length = usize::from(head[1] & 0x7f);
    if length == 126 {
        length = usize::from(stream.read_u16().await.unwrap());
    }
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).await.unwrap();
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await.unwrap();
    for (at, byte) in text.iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
    serde_json::from_slice(&text).unwrap()
}

/// What each call of the token function returns, in turn; an empty text is a failure. Each token is a user, and the time for
/// which it is valid, in ms.
fn scripted(tokens: &'static [&'static str]) -> (Arc<AtomicUsize>, ClientOptions) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let source = Source::from_fn(move || match tokens.get(counter.fetch_add(1, Ordering::SeqCst)) {
        Some(&token) if !token.is_empty() => Ok(token.to_owned()),
        _ => Err(std::io::Error::other("no network")),
    });
    (asked, ClientOptions { token_source: Some(source), stable_after: Duration::ZERO, ..fast() })
}

/// A server of ours whose authenticator accepts such tokens of ada and bob, and reports what it is asked. The channel `token`
/// answers with the token that counts.
async fn expiring() -> (Server, String, Calls<String>) {
    let server = socket::server(socket::config());
    let (asked, attempts) = socket::calls();
    server.authenticate(move |attempt: Attempt| {
        let token = attempt.bearer().unwrap_or_default().to_owned();
        asked(token.clone());
        async move {
            let (user, valid_ms) = token.split_once(':').unwrap_or_default();
            if !["ada", "bob"].contains(&user) {
                return Err(Refusal::unauthorized("token is not valid"));
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
            let valid_ms: u64 = valid_ms.parse().expect("milliseconds");
            Ok(Identity::new(user).expires_at_unix_ms(now + valid_ms).data(token))
        }
    });
    server.on_request("token", |_: Payload, cx: RequestContext| async move {
        Ok::<_, HandlerError>(json!(cx.data::<String>().map(|token| token.to_string())))
    });
    let port = server.start().await.unwrap();
    (server, format!("ws://127.0.0.1:{port}"), attempts)
}

async fn token_of(client: &Client) -> Value {
    client.send_message("token", ()).await.expect("the connection is open").parse().unwrap()
}

#[tokio::test]
async fn a_renewal_that_fails_once_is_repeated_and_calls_continue() {
    let (server, url, mut attempts) = expiring().await;
    let (gate, mut began) = socket::waiting(&server, "slow");
    let (asked, options) = scripted(&["ada:4000", "", "ada:3600000"]);
    let client = Client::new(url, options).unwrap();
    let mut states = listen(&client);
    client.open().await.unwrap();
    assert_eq!(attempts.next().await, "ada:4000");
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.send_message("slow", ()).await }
    });
    began.next().await;
    let failed = until(&mut states, "connection:auth-failed").await;
    assert_eq!(failed, json!({"reason": "the token cannot be found: no network"}));
    assert_eq!(token_of(&client).await, "ada:4000");
    assert_eq!(attempts.next().await, "ada:3600000");
    assert_eq!(token_of(&client).await, "ada:3600000");
    gate.add_permits(1);
    slow.await.unwrap().expect("a call in flight continues");
    while let Ok(event) = states.try_recv() {
        assert!(!event.channel.starts_with("connection:"), "{}", event.channel);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    client.disconnect().await;
    server.stop().await;
}

#[tokio::test]
async fn a_token_of_another_user_is_refused_and_the_client_connects_again_after_4401() {
    let (server, url, mut attempts) = expiring().await;
    let (_, options) = scripted(&["ada:3000", "bob:3600000", "bob:3600000"]);
    let client = Client::new(url, options).unwrap();
    let mut states = listen(&client);
    client.open().await.unwrap();
    let failed = until(&mut states, "connection:auth-failed").await;
    assert!(failed["reason"].as_str().unwrap().starts_with("UNAUTHORIZED: "), "{failed}");
    assert_eq!(token_of(&client).await, "ada:3000");
    // It is not sent a second time; the connection ends with the credential that it has.
    let closed = until(&mut states, "connection:closed").await;
    assert_eq!(closed, json!({"code": 4401, "reason": "credential expired"}));
    assert_eq!(until(&mut states, "connection:open").await, json!({}));
    assert_eq!(token_of(&client).await, "bob:3600000");
    for expected in ["ada:3000", "bob:3600000", "bob:3600000"] {
        assert_eq!(attempts.next().await, expected);
    }
    assert_eq!(attempts.drain(), 0);
    client.disconnect().await;
    server.stop().await;
}

#[tokio::test]
async fn a_renewal_that_the_server_cannot_decide_is_repeated_until_the_expiry() {
    let server = Played::new().await;
    let (asked, options) = numbered();
    let client = Client::new(server.url(), options).unwrap();
    let mut states = listen(&client);
    let (opened, (mut stream, _)) = tokio::join!(client.open(), server.greet());
    opened.unwrap();
    event(&mut stream, "auth:expiring", r#"{"inMs":4000}"#).await;
    let first = request(&mut stream).await;
    respond(&mut stream, &first, r#""error":{"code":"TIMEOUT","message":"late"}"#).await;
    let failed = until(&mut states, "connection:auth-failed").await;
    assert_eq!(failed, json!({"reason": "TIMEOUT: late"}));
    let second = request(&mut stream).await;
    assert_eq!(second["payload"], json!({"token": "token-2"}));
    respond(&mut stream, &second, r#""error":{"code":"UNKNOWN_CHANNEL","message":"no tokens here"}"#).await;
    // Nothing is left to do, and nothing is reported.
    event(&mut stream, "done", "{}").await;
    until(&mut states, "done").await;
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}
