//! The budgets that all connections of one identity share: how many there are, and their rate window.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use switchboard::{Attempt, Config, Identity, Limited, Observer, Refusal, Refused, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::support::socket::{Client, calls, config, server, upgrade, within};

const V1: &str = "Sec-WebSocket-Protocol: switchboard.v1\r\n";

/// Tokens are the ids of identities; one that must still come is `later`.
fn named(config: Config) -> Server {
    let server = server(config);
    server.authenticate(|attempt: Attempt| async move {
        match attempt.bearer().ok_or(Refusal::Unauthorized)? {
            "later" => Err(Refusal::AwaitAuth),
            id => Ok(Identity::new(id)),
        }
    });
    server
}

/// A connection from an address of its own machine, and what its upgrade is answered with.
async fn attempt(server: &Server, address: &str, fields: &str) -> (DuplexStream, String) {
    let (mut near, far) = tokio::io::duplex(64 << 10);
    let (server, peer) = (server.clone(), SocketAddr::new(address.parse().unwrap(), 50_000));
    tokio::spawn(async move {
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.upgrade_async(&mut request, peer).await) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
        // A client that disconnects is not an error of the server.
        let _ = connection.with_upgrades().await;
    });
    // Addresses of other machines must name the server by its address.
    near.write_all(upgrade(fields).replace("localhost", "127.0.0.1").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("an answer", near.read_u8()).await.expect("the server answers"));
    }
    (near, String::from_utf8(head).unwrap())
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

async fn connected(server: &Server, address: &str, token: &str) -> Client<DuplexStream> {
    let (pipe, head) = attempt(server, address, &bearer(token)).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut client = Client::raw(pipe).await;
    client.event("server:connected").await;
    client
}

/// The code and the reason with which the server closes.
async fn closed(client: &mut Client<DuplexStream>) -> (u16, String) {
    use futures_util::StreamExt;
    use tokio_tungstenite::tungstenite::Message;
    loop {
        match within("a close frame", client.socket.next()).await {
            Some(Ok(Message::Close(Some(frame)))) => break (frame.code.into(), frame.reason.to_string()),
            Some(Ok(_)) => {}
            other => panic!("{other:?} instead of a close frame"),
        }
    }
}

struct Refusals<F>(F);

impl<F: Fn(String) + Send + Sync> Observer for Refusals<F> {
    fn refused(&self, refused: &Refused<'_>) {
        (self.0)(format!("{} {}", refused.status, refused.reason));
    }
}

#[tokio::test(start_paused = true)]
async fn an_identity_has_a_number_of_clients_wherever_they_come_from() {
    let server = named(Config { max_connections_per_identity: 2, ..config() });
    let (report, mut reports) = calls();
    server.observe(std::sync::Arc::new(Refusals(report)));
    let first = connected(&server, "192.0.2.1", "ada").await;
    let mut second = connected(&server, "192.0.2.2", "ada").await;

    // Before the upgrade, where a page would not see it, and after it.
    let (_, head) = attempt(&server, "192.0.2.3", &bearer("ada")).await;
    assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("\r\nretry-after: "), "{head}");
    assert_eq!(reports.next().await, "429 Too many clients of this identity");
    let (pipe, head) = attempt(&server, "192.0.2.3", &(bearer("ada") + V1)).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let reason = (1013, "too many clients of this identity".to_owned());
    assert_eq!(closed(&mut Client::raw(pipe).await).await, reason);
    assert_eq!(reports.next().await, "429 Too many clients of this identity");
    let (pipe, _) = attempt(&server, "192.0.2.4", &bearer("later")).await;
    let mut late = Client::raw(pipe).await;
    late.event("server:connected").await;
    late.send("1", "auth", json!({ "token": "ada" })).await;
    assert_eq!(closed(&mut late).await, reason);
    assert_eq!(server.stats().limited_by(Limited::Identity), 3);
    assert_eq!(server.stats().limited_by(Limited::Address), 0);

    // Another one at the same address is not affected, and those that were there stay.
    let mut other = connected(&server, "192.0.2.1", "bob").await;
    other.assert_alive().await;
    second.assert_alive().await;
    assert_eq!(server.client_count(), 3);
    first.leave().await;
    let next =
        async { while attempt(&server, "192.0.2.3", &bearer("ada")).await.1.starts_with("HTTP/1.1 429 ") {} };
    within("the place of the client that left", next).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_is_counted_once_however_it_authenticates_and_renews() {
    let server = named(Config { max_connections_per_identity: 1, ..config() });
    for _ in 0..3 {
        for token in ["ada", "later"] {
            let mut client = connected(&server, "192.0.2.1", token).await;
            for _ in 0..3 {
                let answer = client.ask("auth", json!({ "token": "ada" })).await;
                assert_eq!(answer["payload"], json!({ "authenticated": true }));
            }
            let (_, head) = attempt(&server, "192.0.2.1", &bearer("ada")).await;
            assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
            client.leave().await;
            // The server removes it when it sees the end.
            while server.client_count() > 0 {
                tokio::task::yield_now().await;
            }
            // Its task, which counts the client, ends after it has left.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_server_gives_the_place_of_the_identity_back() {
    let server = named(Config { max_connections: 2, max_connections_per_identity: 1, ..config() });
    let first = connected(&server, "192.0.2.1", "ada").await;
    let _second = connected(&server, "192.0.2.1", "bob").await;
    for _ in 0..3 {
        let (_, head) = attempt(&server, "192.0.2.1", &bearer("eve")).await;
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    }
    first.leave().await;
    let free = async { while !attempt(&server, "192.0.2.1", &bearer("eve")).await.1.contains(" 101 ") {} };
    within("a place", free).await;
}

/// The error of a request, if it has one.
async fn error(client: &mut Client<DuplexStream>) -> Value {
    client.send("1", "echo", json!(1)).await;
    client.response().await["error"]["code"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_rate_window_by_identity_follows_the_user_and_not_the_address() {
    for by_identity in [false, true] {
        let limit = json!("RATE_LIMITED");
        let mut limits = Config { rate_by_identity: by_identity, rate_by_address: true, ..Config::default() };
        limits.limits.rate_max_requests = 3;
        let server = named(limits);
        let mut first = connected(&server, "192.0.2.1", "ada").await;
        for _ in 0..3 {
            first.assert_alive().await;
        }
        first.leave().await;
        // The same user, elsewhere, and after it has authenticated with a message.
        let mut elsewhere = connected(&server, "192.0.2.2", "ada").await;
        let mut late = connected(&server, "192.0.2.3", "later").await;
        late.ask("auth", json!({ "token": "ada" })).await;
        // Another one behind the same address.
        let mut other = connected(&server, "192.0.2.1", "bob").await;
        let (of_user, of_address) = if by_identity { (&limit, &Value::Null) } else { (&Value::Null, &limit) };
        assert_eq!(&error(&mut elsewhere).await, of_user);
        assert_eq!(&error(&mut late).await, of_user);
        assert_eq!(&error(&mut other).await, of_address);
        tokio::time::advance(Duration::from_secs(1)).await;
        late.assert_alive().await;
        other.assert_alive().await;
    }
}
