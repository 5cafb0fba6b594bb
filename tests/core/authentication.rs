//! The authenticator of the embedder: who is let in, what a client that is not learns, and how a credential is renewed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use switchboard::{
    Attempt, ClientId, Config, HandlerError, Identity, Observer, Payload, Refusal, Refused, RequestContext,
    Server, ServerError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::support::socket::{Client, calls, config, pipe, server, start, upgrade, within};

const V1: &str = "Sec-WebSocket-Protocol: switchboard.v1\r\n";

struct User(&'static str);

/// Tokens are names; what follows a colon is the time for which they are valid, in ms.
async fn verify(attempt: Attempt) -> Result<Identity, Refusal> {
    let token = attempt.bearer().ok_or(Refusal::Unauthorized)?;
    let (name, valid_ms) = token.split_once(':').unwrap_or((token, ""));
    let identity = match name {
        "ada" => Identity::new("user:ada").data(User("Ada")),
        "bob" => Identity::new("user:bob").data(User("Bob")),
        "eve" => return Err(Refusal::forbidden("account is suspended")),
        "later" => return Err(Refusal::AwaitAuth),
        "panic" => panic!("an authenticator"),
        _ => return Err(Refusal::unauthorized("token is not valid")),
    };
    Ok(match valid_ms.parse::<u64>() {
        Ok(valid_ms) => identity.expires_at_unix_ms(unix_ms() + valid_ms),
        Err(_) => identity,
    })
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

fn guarded(config: Config) -> Server {
    let server = server(config);
    server.authenticate(verify);
    server.on_request("whoami", |_: Payload, cx: RequestContext| async move {
        let name = cx.data::<User>().map(|user| user.0);
        Ok::<_, HandlerError>(json!([cx.identity().map(|identity| identity.id().to_owned()), name]))
    });
    server
}

async fn head(pipe: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("an answer", pipe.read_u8()).await.expect("the server answers"));
    }
    String::from_utf8(head).expect("a head is text")
}

/// An upgrade with further fields, and the head of its answer.
async fn attempt(server: &Server, fields: &str) -> (DuplexStream, String) {
    let mut pipe = pipe(server, 64 << 10);
    pipe.write_all(upgrade(fields).as_bytes()).await.expect("the server reads");
    let head = head(&mut pipe).await;
    (pipe, head)
}

/// A client of `switchboard.v1`.
async fn connected(server: &Server, token: &str) -> Client<DuplexStream> {
    let fields = format!("Authorization: Bearer {token}\r\n{V1}");
    let (pipe, head) = attempt(server, &fields).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut client = Client::raw(pipe).await;
    client.id = client.event("server:connected").await["clientId"].as_str().expect("an id").to_owned();
    client
}

async fn renew(client: &mut Client<DuplexStream>, token: &str) -> Value {
    client.ask("auth", json!({ "token": token })).await
}

#[tokio::test(start_paused = true)]
async fn a_credential_in_each_place_gives_the_handlers_an_identity() {
    let server = guarded(config());
    for fields in ["Authorization: Bearer ada\r\n", "Sec-WebSocket-Protocol: switchboard.v1, bearer.ada\r\n"]
    {
        let (pipe, head) = attempt(&server, fields).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut client = Client::raw(pipe).await;
        let id: ClientId =
            client.event("server:connected").await["clientId"].as_str().unwrap().parse().unwrap();
        assert_eq!(client.ask("whoami", Value::Null).await["payload"], json!(["user:ada", "Ada"]));
        assert_eq!(server.client_info(id).unwrap().identity.as_deref(), Some("user:ada"));
    }
    let mut pipe = pipe(&server, 64 << 10);
    pipe.write_all(upgrade("").replace("/ws", "/ws?token=bob").as_bytes()).await.unwrap();
    assert!(head(&mut pipe).await.starts_with("HTTP/1.1 101 "));
    let mut client = Client::raw(pipe).await;
    client.event("server:connected").await;
    assert_eq!(client.ask("whoami", Value::Null).await["payload"], json!(["user:bob", "Bob"]));
}

#[tokio::test(start_paused = true)]
async fn the_authenticator_sees_the_request_and_its_debug_text_no_credential() {
    let server = server(config());
    let (seen, mut attempts) = calls::<String>();
    server.authenticate(move |attempt: Attempt| {
        let names: Vec<&str> = attempt.subprotocols().collect();
        let text = format!(
            "{} {:?} {:?} {names:?} {:?} {}",
            attempt.path(),
            attempt.query(),
            attempt.header("cookie"),
            attempt.bearer(),
            attempt.headers().len() > 5
        );
        assert!(!format!("{attempt:?}").contains("secret"), "{attempt:?}");
        assert!(attempt.payload().is_none() && attempt.identity().is_none());
        seen(text);
        async { Err(Refusal::Unauthorized) }
    });
    let request = upgrade("Cookie: a=secret\r\nSec-WebSocket-Protocol: chat, bearer.secret\r\n");
    let mut pipe = pipe(&server, 64 << 10);
    pipe.write_all(request.replace("/ws", "/ws?room=secret").as_bytes()).await.unwrap();
    assert!(head(&mut pipe).await.starts_with("HTTP/1.1 401 "));
    let expected = r#"/ws Some("room=secret") Some("a=secret") ["chat"] Some("secret") true"#;
    assert_eq!(attempts.next().await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_a_status_or_a_close_code_with_the_reason() {
    let server = guarded(config());
    for (token, status, code, reason) in [
        ("", 401, 4401, "unauthorized"),
        ("Authorization: Bearer mallory\r\n", 401, 4401, "token is not valid"),
        ("Authorization: Bearer ada:0\r\n", 401, 4401, "credential expired"),
        ("Authorization: Bearer eve\r\n", 403, 4403, "account is suspended"),
    ] {
        let (mut pipe, head) = attempt(&server, token).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert_eq!(head.to_lowercase().contains("www-authenticate: bearer"), status == 401, "{head}");
        let mut body = String::new();
        pipe.read_to_string(&mut body).await.unwrap();
        assert_eq!(body, reason);

        let (mut pipe, head) = attempt(&server, &format!("{token}{V1}")).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut frame = vec![0; reason.len() + 4];
        within("a close frame", pipe.read_exact(&mut frame)).await.expect("nothing else is promised");
        assert_eq!(frame[0], 0x88);
        assert_eq!(u16::from_be_bytes([frame[2], frame[3]]), code);
        assert_eq!(&frame[4..], reason.as_bytes());
        let mut rest = Vec::new();
        within("the end", pipe.read_to_end(&mut rest)).await.expect("the server closes");
        assert!(rest.is_empty(), "nothing follows the close frame");
    }
    assert_eq!((server.client_count(), server.stats().connections), (0, 0));
    assert_eq!((server.stats().refused_with(401), server.stats().refused_with(403)), (6, 2));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_of_the_configuration_is_refused_in_the_same_way() {
    let server = server(config().token("s3cret"));
    let (_, head) = attempt(&server, "Authorization: Bearer wrong\r\n").await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    let (pipe, head) = attempt(&server, &format!("Authorization: Bearer wrong\r\n{V1}")).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(Client::raw(pipe).await.next().await, Err(4401));
    for (fields, code) in [(V1, 4401), ("", 1008)] {
        let (pipe, _) = attempt(&server, fields).await;
        let mut client = Client::raw(pipe).await;
        client.event("server:connected").await;
        assert_eq!(client.next().await, Err(code), "authentication timeout");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_promised_before_the_decision_and_a_client_that_leaves_cancels_it() {
    struct Cancelled(Arc<Semaphore>);
    impl Drop for Cancelled {
        fn drop(&mut self) {
            self.0.add_permits(1);
        }
    }
    let server = server(config());
    let (gate, began, ended) =
        (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let parts = (gate.clone(), began.clone(), ended.clone());
    server.authenticate(move |_: Attempt| {
        let (gate, began, ended) = parts.clone();
        async move {
            let _cancelled = Cancelled(ended);
            began.add_permits(1);
            gate.acquire().await.expect("it is never closed").forget();
            Ok(Identity::new("ada"))
        }
    });
    let mut pipe = pipe(&server, 64 << 10);
    pipe.write_all(upgrade(V1).as_bytes()).await.unwrap();
    within("a call", began.acquire()).await.unwrap().forget();
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_secs(9), pipe.read(&mut byte)).await;
    assert!(early.is_err(), "the server answers before the decision");
    gate.add_permits(1);
    assert!(head(&mut pipe).await.starts_with("HTTP/1.1 101 "));
    within("its end", ended.acquire()).await.unwrap().forget();

    let mut leaving = crate::support::socket::pipe(&server, 64 << 10);
    leaving.write_all(upgrade("").as_bytes()).await.unwrap();
    within("a call", began.acquire()).await.unwrap().forget();
    drop(leaving);
    within("the end of the call", ended.acquire()).await.unwrap().forget();

    let (_, head) = attempt(&server, "").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "it took too long: {head}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_authenticator_is_contained_and_reported() {
    let (failed, mut failures) = calls();
    let server = guarded(config().on_error(failed));
    let (_, head) = attempt(&server, "Authorization: Bearer panic\r\n").await;
    assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
    assert!(matches!(failures.next().await, ServerError::HandlerPanicked { channel } if channel == "auth"));
    let mut client = connected(&server, "ada").await;
    assert_eq!(renew(&mut client, "panic").await["error"]["code"], "HANDLER_ERROR");
    assert!(matches!(failures.next().await, ServerError::HandlerPanicked { .. }));
    client.assert_alive().await;
}

#[tokio::test(start_paused = true)]
async fn a_credential_is_announced_renewed_and_ends_the_connection_when_it_expires() {
    let server = guarded(config());
    let mut client = connected(&server, "ada:60000").await;
    for _ in 0..20 {
        let in_ms = client.event("auth:expiring").await["inMs"].as_u64().expect("a number");
        assert!((25_000..=30_000).contains(&in_ms), "{in_ms}");
        assert_eq!(renew(&mut client, "ada:60000").await["payload"], json!({ "authenticated": true }));
        assert_eq!(client.ask("whoami", Value::Null).await["payload"], json!(["user:ada", "Ada"]));
    }
    assert_eq!(renew(&mut client, "bob:60000").await["error"]["code"], "UNAUTHORIZED");
    assert_eq!(client.ask("whoami", Value::Null).await["payload"], json!(["user:ada", "Ada"]));
    client.event("auth:expiring").await;
    assert_eq!(client.next().await, Err(4401));

    let (pipe, _) = attempt(&server, "Authorization: Bearer ada:60000\r\n").await;
    let mut old = Client::raw(pipe).await;
    old.event("server:connected").await;
    assert_eq!(old.next().await, Err(4401), "without the subprotocol, nothing is announced");
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_new_credential_is_handled_after_the_decision() {
    let server = server(config());
    let gate = Arc::new(Semaphore::new(1));
    let shared = gate.clone();
    server.authenticate(move |attempt: Attempt| {
        let gate = shared.clone();
        async move {
            gate.acquire().await.expect("it is never closed").forget();
            let id = attempt.identity().map_or("ada", |identity| identity.id()).to_owned();
            Ok(Identity::new(id).data(attempt.bearer().unwrap_or_default().to_owned()))
        }
    });
    server.on_request("token", |_: Payload, cx: RequestContext| async move {
        Ok::<_, HandlerError>(json!(cx.data::<String>().map(|token| token.to_string())))
    });
    let mut client = connected(&server, "first").await;
    client.send("1", "auth", json!({ "token": "second" })).await;
    client.send("2", "token", Value::Null).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    gate.add_permits(1);
    assert_eq!(client.response().await["id"], "1");
    assert_eq!(client.response().await["payload"], "second");
    client.send("3", "auth", json!({ "token": "third" })).await;
    assert_eq!(client.response().await["error"]["code"], "TIMEOUT", "it took too long");
    assert_eq!(client.ask("token", Value::Null).await["payload"], "second");
}

#[tokio::test(start_paused = true)]
async fn a_client_can_be_let_in_to_authenticate_on_the_channel() {
    let server = guarded(config());
    for (fields, denied) in [(V1, 4403), ("", 1008)] {
        let fields = format!("Authorization: Bearer later\r\n{fields}");
        let (pipe, _) = attempt(&server, &fields).await;
        let mut client = Client::raw(pipe).await;
        client.event("server:connected").await;
        assert_eq!(client.ask("whoami", Value::Null).await["error"]["code"], "UNAUTHORIZED");
        assert_eq!(renew(&mut client, "mallory").await["error"]["message"], "token is not valid");
        assert_eq!(renew(&mut client, "later").await["error"]["code"], "UNAUTHORIZED");
        assert_eq!(server.client_count(), 0);
        assert_eq!(renew(&mut client, "ada").await["payload"], json!({ "authenticated": true }));
        assert_eq!(client.ask("whoami", Value::Null).await["payload"], json!(["user:ada", "Ada"]));
        assert_eq!(renew(&mut client, "eve").await["error"]["message"], "account is suspended");
        assert_eq!(client.next().await, Err(denied));
    }
}

#[tokio::test(start_paused = true)]
async fn events_and_kicks_reach_all_connections_of_an_identity_and_no_other() {
    let server = guarded(config());
    let mut first = connected(&server, "ada").await;
    let mut second = connected(&server, "ada").await;
    let mut other = connected(&server, "bob").await;
    server.emit_to_identity("user:ada", "mail", json!(1));
    server.emit_to_identity("user:nobody", "mail", json!(2));
    assert_eq!((first.event("mail").await, second.event("mail").await), (json!(1), json!(1)));
    assert_eq!(server.disconnect_identity("user:ada", 4403, "suspended"), 2);
    assert_eq!((first.next().await, second.next().await), (Err(4403), Err(4403)));
    other.assert_alive().await;
    assert_eq!(server.disconnect_identity("user:ada", 4403, "suspended"), 0);
    assert_eq!(server.client_count(), 1);
}

#[tokio::test]
async fn wrong_credentials_of_an_address_have_to_wait() {
    let mut config = config();
    (config.max_wrong_tokens, config.wrong_token_pause) = (2, Duration::from_secs(1000));
    let (server, port) = start(config).await;
    server.authenticate(verify);
    let status = async |fields: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
        stream.write_all(upgrade(fields).as_bytes()).await.expect("the server reads");
        head(&mut stream).await.split(' ').nth(1).map(str::to_owned).expect("a status")
    };
    for (fields, expected) in [
        ("", "401"),
        ("Authorization: Bearer eve\r\n", "403"),
        ("Authorization: Bearer x\r\n", "401"),
        ("Authorization: Bearer y\r\n", "401"),
        ("Authorization: Bearer ada\r\n", "429"),
        ("", "401"),
        ("Authorization: Bearer a-long-token-cannot-be-guessed\r\n", "401"),
    ] {
        assert_eq!(status(fields).await, expected, "{fields}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_some_calls_run_at_the_same_time() {
    let server = server(Config { max_authentications: 3, ..config() });
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let parts = (running.clone(), most.clone());
    server.authenticate(move |_: Attempt| {
        let (running, most) = parts.clone();
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            running.fetch_sub(1, Ordering::Relaxed);
            Ok(Identity::new("ada"))
        }
    });
    let attempts = (0..20).map(|_| async { attempt(&server, "").await.1 });
    for head in futures_util::future::join_all(attempts).await {
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }
    // One address has at most all places but one.
    assert_eq!(most.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn an_embedder_upgrades_with_an_authenticator_and_gets_the_id() {
    let server = guarded(config());
    let request = |token: &str| {
        hyper::Request::get("http://localhost/ws")
            .header("host", "localhost")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .expect("a request")
    };
    for (token, status) in [("ada", 101), ("mallory", 401), ("eve", 403)] {
        let at_once = server.upgrade(&mut request(token), true);
        let waiting = server.upgrade_async(&mut request(token), true).await;
        for response in [at_once, waiting] {
            assert_eq!(response.status(), status);
            assert_eq!(response.extensions().get::<ClientId>().is_some(), status == 101);
        }
    }
    server.authenticate(|_: Attempt| async {
        tokio::task::yield_now().await;
        Ok(Identity::new("ada"))
    });
    assert_eq!(server.upgrade(&mut request("ada"), true).status(), 500);
    assert_eq!(server.upgrade_async(&mut request("ada"), true).await.status(), 101);
}

#[cfg(feature = "pages")]
#[tokio::test]
async fn pages_that_need_a_token_ask_the_authenticator() {
    let (server, port) = start(crate::support::socket::with_pages(config())).await;
    server.authenticate(verify);
    server.on_get("/file/", |_| async { Some(switchboard::Page::new("text/plain", "content")) });
    for (path, fields, status) in [
        ("/file/a", "", 401),
        ("/file/a", "Authorization: Bearer eve\r\n", 403),
        ("/file/a", "Authorization: Bearer ada\r\n", 200),
        ("/file/a?token=ada", "", 200),
        ("/metrics", "", 401),
        ("/metrics", "Authorization: Bearer ada\r\n", 200),
        ("/healthz", "", 200),
        ("/", "", 200),
        ("/unknown", "", 426),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let head = head(&mut stream).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {fields}: {head}");
    }
}

struct Refusals<F>(F);

impl<F: Fn(String) + Send + Sync> Observer for Refusals<F> {
    fn refused(&self, refused: &Refused<'_>) {
        let Refused { status, reason, host, origin, address, advice, .. } = *refused;
        let has_advice = advice.is_some();
        (self.0)(format!("{status} {reason}, {host:?}, {origin:?}, {address:?}, {has_advice}"));
    }
}

#[tokio::test]
async fn refusals_are_reported_with_their_reason_host_origin_and_address() {
    let (server, port) = start(config()).await;
    server.authenticate(verify);
    let (report, mut reports) = calls();
    server.observe(Arc::new(Refusals(report)));
    for (change, line) in [
        (
            "Authorization: Bearer eve\r\n",
            r#"403 account is suspended, Some("localhost"), None, Some(127.0.0.1), false"#,
        ),
        ("", r#"401 unauthorized, Some("localhost"), None, Some(127.0.0.1), false"#),
        (
            "Origin: https://evil.example\r\n",
            r#"403 Origin is not allowed, Some("localhost"), Some("https://evil.example"), Some(127.0.0.1), true"#,
        ),
        (V1, r#"401 unauthorized, Some("localhost"), None, Some(127.0.0.1), false"#),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
        stream.write_all(upgrade(change).as_bytes()).await.expect("the server reads");
        head(&mut stream).await;
        assert_eq!(reports.next().await, line);
    }
    assert_eq!(reports.drain(), 0);
    let stats = server.stats();
    assert_eq!((stats.refused_with(401), stats.refused_with(403), stats.refused_with(404)), (2, 2, 0));
}
