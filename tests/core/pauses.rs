//! A process that is stopped for a while, as when a laptop sleeps: what has arrived meanwhile counts before deadlines do.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::advance;

use crate::support::socket::{self, Client, config};

/// Longer than every deadline of the default limits.
const PAUSE: Duration = Duration::from_secs(200);

#[tokio::test(start_paused = true)]
async fn clients_that_sent_something_while_the_server_was_stopped_stay() {
    let server = socket::server(config());
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(Client::through_pipe(&server, 4096).await);
    }
    for client in &mut clients {
        client.send("1", "echo", json!("still here")).await;
    }
    // The clock moves before any task of the server runs.
    advance(PAUSE).await;
    for client in &mut clients {
        assert_eq!(client.response().await["payload"], "still here");
    }
    assert_eq!(server.stats().connections, 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_silent_meanwhile_is_closed() {
    let server = socket::server(config());
    let mut client = Client::through_pipe(&server, 4096).await;
    advance(PAUSE).await;
    assert_eq!(client.close_code().await, 1001);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_arrived_while_the_server_was_stopped_is_in_time() {
    let server = socket::server(config().token("s3cret"));
    let mut client = Client::through_pipe(&server, 4096).await;
    client.send("1", "auth", json!({ "token": "s3cret" })).await;
    advance(PAUSE).await;
    assert_eq!(client.response().await["error"], Value::Null);
    assert_eq!(client.ask("echo", json!(1)).await["payload"], 1);
}
