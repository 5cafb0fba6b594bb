//! Large messages are decoded beside the threads that serve the clients: others are served meanwhile, the client's own messages
//! stay in order, and whatever happens to the connection happens at its time. The one thread for decoding waits until the
//! test lets it go on, and the clock is the test's.

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};
use switchboard::protocol::session::MAX_INLINE_BYTES;
use switchboard::{Config, Payload, Server};
use tokio::io::DuplexStream;
use tokio::runtime::Builder;
use tokio::time::advance;

use crate::support::socket::{Client, calls, config, server, waiting, within};

/// Holds the thread that decodes, until it is dropped.
struct Held(#[allow(dead_code)] Sender<()>);

fn hold() -> Held {
    let (sender, receiver) = channel::<()>();
    tokio::task::spawn_blocking(move || receiver.recv());
    Held(sender)
}

/// Runs a script with a server and two clients of it.
fn run<Fut: Future<Output = ()>>(
    config: Config,
    script: impl FnOnce(Server, Client<DuplexStream>, Client<DuplexStream>) -> Fut,
) {
    let runtime =
        Builder::new_current_thread().enable_all().start_paused(true).max_blocking_threads(1).build();
    runtime.expect("a runtime").block_on(async {
        let server = server(config);
        let sender = Client::through_pipe(&server, 1 << 20).await;
        let other = Client::through_pipe(&server, 1 << 20).await;
        script(server, sender, other).await;
    });
}

fn large() -> Value {
    json!("x".repeat(2 * MAX_INLINE_BYTES))
}

/// Lets all tasks do what they can at this time.
async fn settle(other: &mut Client<DuplexStream>) {
    for _ in 0..10 {
        other.assert_alive().await;
    }
}

fn has_nothing(client: &mut Client<DuplexStream>) -> bool {
    client.socket.next().now_or_never().is_none()
}

#[test]
fn others_are_served_while_a_large_message_is_decoded_and_its_order_is_kept() {
    run(config(), |_, mut client, mut other| async move {
        let held = hold();
        client.send("1", "echo", json!("before")).await;
        client.send("2", "echo", large()).await;
        client.send("3", "echo", json!("after")).await;
        client.send("4", "echo", large()).await;
        client.send_text(format!("not JSON{}", " ".repeat(MAX_INLINE_BYTES))).await;
        settle(&mut other).await;
        assert_eq!(client.response().await["id"], "1");
        assert!(has_nothing(&mut client), "the large message and all after it wait");
        // Another client's large message waits, too, and its small ones after it.
        other.send("1", "echo", large()).await;
        drop(held);
        for (id, payload) in [("2", large()), ("3", json!("after")), ("4", large())] {
            let response = client.response().await;
            assert_eq!((&response["id"], &response["payload"]), (&json!(id), &payload));
        }
        assert_eq!(client.response().await["error"]["code"], "INVALID_MESSAGE");
        assert_eq!(other.response().await["payload"], large());
        client.assert_alive().await;
    });
}

#[test]
fn events_answers_and_deadlines_come_while_a_large_message_is_decoded() {
    run(config(), |server, mut client, mut other| async move {
        let (gate, mut began) = waiting(&server, "wait");
        for id in ["in time", "too late"] {
            client.send(id, "wait", json!(null)).await;
            began.next().await;
        }
        let held = hold();
        client.send("large", "echo", large()).await;
        settle(&mut other).await;
        server.emit("news", json!(1));
        assert_eq!(client.event("news").await, 1);
        assert_eq!(other.event("news").await, 1);
        gate.add_permits(1);
        assert_eq!(client.response().await["id"], "in time");
        advance(Duration::from_secs(30)).await;
        let late = client.response().await;
        assert_eq!((&late["id"], &late["error"]["code"]), (&json!("too late"), &json!("TIMEOUT")));
        // Silence is not the client's fault while it is not read.
        for _ in 0..20 {
            advance(Duration::from_secs(10)).await;
            settle(&mut other).await;
        }
        drop(held);
        assert_eq!(client.response().await["id"], "large");
        client.assert_alive().await;
    });
}

#[test]
fn a_server_stops_while_a_large_message_is_decoded() {
    run(config(), |server, mut client, mut other| async move {
        let held = hold();
        client.send("large", "echo", large()).await;
        settle(&mut other).await;
        let shut_down = async |client: &mut Client<DuplexStream>| {
            client.event("server:shutdown").await;
            client.close_code().await
        };
        let (_, code, others) = tokio::join!(server.stop(), shut_down(&mut client), shut_down(&mut other));
        assert_eq!((code, others), (1001, 1001));
        assert_eq!(server.client_count(), 0);
        drop(held);
    });
}

#[test]
fn a_client_disconnects_while_its_large_message_is_decoded() {
    let (disconnected, mut disconnects) = calls();
    run(config().on_disconnection(disconnected), |server, mut client, mut other| async move {
        let held = hold();
        client.send("large", "echo", large()).await;
        settle(&mut other).await;
        let id = client.id.clone();
        drop(client);
        settle(&mut other).await;
        drop(held);
        assert_eq!(disconnects.next().await.to_string(), id);
        assert_eq!(server.client_count(), 1);
    });
}

#[test]
fn a_slow_client_is_closed_while_its_large_message_is_decoded() {
    let mut config = config();
    config.limits.send_timeout = Duration::from_secs(5);
    run(config, |server, mut client, mut other| async move {
        let held = hold();
        client.send("large", "echo", large()).await;
        settle(&mut other).await;
        let id = client.id.parse().expect("an id");
        server.emit_to(id, "news", Payload::from(json!("x".repeat(4 << 20))));
        settle(&mut other).await;
        // Not later: then the process counts as stopped, and the client has another second.
        advance(Duration::from_millis(5_100)).await;
        settle(&mut other).await;
        assert_eq!(server.client_count(), 2, "it is closing");
        drop(held);
        assert_eq!(client.close_code().await, 1008);
        within("the end of the client", async {
            while server.client_count() > 1 {
                settle(&mut other).await;
            }
        })
        .await;
    });
}
