//! The programs of `tests/examples/`, run as they are.

use std::net::TcpListener;

use serde_json::json;

use crate::support::socket::{Client, within};

#[allow(dead_code, reason = "the tests do not run `main`")]
#[path = "../examples/blocking.rs"]
mod blocking;

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
