//! The programs of `tests/examples/`, run as they are.

use std::net::TcpListener;

use serde_json::{Value, json};
use switchboard::{Config, Server};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::socket::{Client, within};

#[allow(dead_code, reason = "the tests do not run `main`")]
#[path = "../examples/blocking.rs"]
mod blocking;
#[allow(dead_code, reason = "the tests do not run `main`")]
#[path = "../examples/inside_hyper.rs"]
mod inside_hyper;
#[allow(dead_code, reason = "the tests do not run `main`")]
#[path = "../examples/rooms.rs"]
mod rooms;

#[tokio::test]
async fn a_server_without_tokio_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || blocking::serve(&listener));
    let mut client = Client::connect(port).await;
    assert_eq!(client.ask("echo", json!({"a": 1})).await["payload"], json!({"a": 1}));
    assert_eq!(client.ask("sum", json!([1, 2.5])).await["payload"], json!(3.5));
    let refused = client.ask("sum", json!([1, "x"])).await;
    assert_eq!(refused["error"]["details"]["path"], json!("[1]"));
    assert_eq!(client.ask("other", json!(null)).await["error"]["code"], json!("UNKNOWN_CHANNEL"));
    let large = json!("x".repeat(200 << 10));
    assert_eq!(client.ask("echo", large.clone()).await["payload"], large);
    within("the close handshake", client.leave()).await;
}

#[tokio::test]
async fn a_plain_hyper_server_has_pages_beside_the_websocket() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(inside_hyper::serve(listener));
    let url = format!("ws://127.0.0.1:{port}/ws");
    let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let mut client = Client::upgraded(socket).await;
    assert_eq!(client.ask("echo", json!(7)).await["payload"], 7);
    let page = tokio_tungstenite::connect_async(format!("ws://127.0.0.1:{port}/")).await;
    assert!(matches!(&page, Err(Error::Http(response)) if response.status() == 200), "{page:?}");
}

/// A client of the rooms, with its token.
async fn member(
    server: &Server,
    user: &str,
) -> Client<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>> {
    let url = format!("ws://127.0.0.1:{}", server.port().expect("the server listens"));
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer token-of-{user}").parse().unwrap());
    let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    Client::upgraded(socket).await
}

#[tokio::test]
async fn rooms_have_members_permissions_and_limits() {
    let server = rooms::server(Config::default().port(0));
    server.start().await.unwrap();
    let (mut ann, mut bob) = (member(&server, "ann").await, member(&server, "bob").await);
    assert_eq!(ann.ask("room:join", json!("tea")).await["payload"], json!({"members": 1}));
    assert_eq!(bob.ask("room:join", json!("tea")).await["payload"], json!({"members": 2}));
    assert_eq!(ann.event("room:joined").await, json!({"room": "tea", "user": "bob"}));

    let code = |answer: Value| answer["error"]["code"].clone();
    assert_eq!(code(bob.ask("room:say", json!(["milk", "hello"])).await), "NOT_IN_ROOM");
    for n in 1..5 {
        let message = json!({"room": "tea", "user": "bob", "text": n.to_string()});
        bob.send("1", "room:say", json!(["tea", n.to_string()])).await;
        assert_eq!(bob.event("room:message").await, message);
        assert_eq!(bob.response().await.get("error"), None);
        assert_eq!(ann.event("room:message").await, message);
    }
    // The sixth within a second, with the one that was refused.
    assert_eq!(code(bob.ask("room:say", json!(["tea", "5"])).await), "RATE_LIMITED");

    assert_eq!(code(bob.ask("admin:close", json!("tea")).await), "FORBIDDEN");
    assert_eq!(bob.ask("room:leave", json!("tea")).await["payload"], true);
    ann.send("9", "admin:close", json!("tea")).await;
    assert_eq!(within("the room closes", ann.close_code()).await, 4000);
    assert_eq!(bob.ask("room:join", json!("milk")).await["payload"], json!({"members": 1}));
    drop((ann, bob));
    within("the clients leave", server.stop()).await;
}
