//! The bytes that all clients hold together are bounded. A large message waits for room, and then its client is closed; clients
//! that hold room and do not use it give way. Small messages never wait.

use std::time::Duration;

use futures_util::SinkExt;
use serde_json::{Value, json};
use switchboard::{Config, HandlerError, Limited, Payload, RequestContext, Server};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Message;

use crate::support::frames::{FIN, TEXT, header_to, text_frame};
use crate::support::socket::{Client, config, server, waiting, within};
use switchboard::protocol::frame::Role;

const KIB: usize = 1 << 10;

/// A config whose account is 1 MiB.
fn small_account() -> Config {
    let mut config = config();
    config.max_buffered_bytes = 1024 * KIB;
    config.limits.rate_max_requests = u32::MAX;
    config
}

/// A client whose pipe holds all that it sends.
async fn wide(server: &Server) -> Client<DuplexStream> {
    Client::through_pipe(server, 4096 * KIB).await
}

fn large(kib: usize) -> Value {
    json!("x".repeat(kib * KIB))
}

/// Sends a message's header, and half of its payload.
async fn send_half(client: &mut Client<DuplexStream>, kib: usize) {
    let pipe = client.socket.get_mut();
    let header = header_to(Role::Server, FIN | TEXT, (kib * KIB) as u64);
    pipe.write_all(&header).await.expect("the pipe is wide");
    pipe.write_all(&vec![b' '; kib * KIB / 2]).await.expect("the pipe is wide");
    // Time passes only when every task waits.
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_large_message_waits_for_room_and_small_ones_do_not() {
    let server = server(small_account());
    let (gate, mut started) = waiting(&server, "hold");
    let (mut holder, mut other, mut small) = (wide(&server).await, wide(&server).await, wide(&server).await);
    holder.send("1", "hold", large(900)).await;
    assert_eq!(started.next().await, "1");
    other.send("2", "hold", large(500)).await;
    sleep(Duration::from_secs(9)).await;
    assert_eq!(started.drain(), 0, "there is no room for it");
    for _ in 0..20 {
        assert_eq!(small.ask("echo", large(50)).await["payload"], large(50));
    }
    gate.add_permits(1);
    assert_eq!(holder.response().await["id"], "1");
    assert_eq!(started.next().await, "2");
    gate.add_permits(1);
    assert_eq!(other.response().await["id"], "2");
    // Everything was given back.
    for client in [&mut holder, &mut other] {
        assert_eq!(client.ask("echo", large(1000)).await["payload"], large(1000));
    }
    assert_eq!(server.stats().limited_by(Limited::Memory), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_finds_no_room_in_time_closes_its_client() {
    let server = server(small_account());
    let (gate, mut started) = waiting(&server, "hold");
    let (mut holder, mut other) = (wide(&server).await, wide(&server).await);
    holder.send("1", "hold", large(900)).await;
    started.next().await;
    let began = Instant::now();
    other.send("2", "hold", large(500)).await;
    assert_eq!(other.close_code().await, 1013);
    assert!((10_000..10_010).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(server.stats().limited_by(Limited::Memory), 1);
    gate.add_permits(1);
    assert_eq!(holder.response().await["id"], "1");
    holder.assert_alive().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_gives_its_room_back() {
    let server = server(small_account());
    let (_gate, mut started) = waiting(&server, "hold");
    let (mut holder, mut other) = (wide(&server).await, wide(&server).await);
    holder.send("1", "hold", large(900)).await;
    started.next().await;
    other.send("2", "hold", large(1000)).await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(started.drain(), 0);
    drop(holder);
    assert_eq!(started.next().await, "2");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_end_gives_way_to_one_that_waits() {
    let server = server(small_account());
    let (mut slow, mut other) = (wide(&server).await, wide(&server).await);
    send_half(&mut slow, 900).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(server.client_count(), 2, "it disturbs no client");
    let began = Instant::now();
    other.send("2", "echo", large(500)).await;
    assert_eq!(other.response().await["id"], "2");
    assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(slow.close_code().await, 1008);
    assert_eq!(server.stats().limited_by(Limited::Memory), 1);
}

/// However many clients do that, a message that waits gets its turn in time.
#[tokio::test(start_paused = true)]
async fn many_messages_that_do_not_end_keep_no_other_out() {
    let server = server(small_account());
    let mut slow = Vec::new();
    for _ in 0..5 {
        slow.push(wide(&server).await);
    }
    for client in &mut slow {
        send_half(client, 900).await;
    }
    let mut other = wide(&server).await;
    other.send("2", "echo", large(500)).await;
    assert_eq!(other.response().await["id"], "2");
    assert_eq!(server.stats().limited_by(Limited::Memory), 5);
}

#[tokio::test(start_paused = true)]
async fn a_message_has_five_seconds_from_when_there_is_room_for_it() {
    let server = server(small_account());
    let (gate, mut started) = waiting(&server, "hold");
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(wide(&server).await);
    }
    let [holder, slow, other, small] = &mut clients[..] else { unreachable!() };
    holder.send("1", "hold", large(900)).await;
    started.next().await;
    send_half(slow, 900).await;
    sleep(Duration::from_secs(8)).await;
    gate.add_permits(1);
    holder.response().await;
    let began = Instant::now();
    other.send("2", "echo", large(500)).await;
    for _ in 0..8 {
        sleep(Duration::from_millis(500)).await;
        slow.socket.get_mut().write_all(b" ").await.expect("it is still read");
        small.assert_alive().await;
    }
    assert_eq!(server.client_count(), 4);
    sleep(Duration::from_millis(700)).await;
    slow.socket.get_mut().write_all(b" ").await.expect("it is still read");
    assert_eq!(other.response().await["id"], "2");
    assert!((4_900..6_100).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(slow.close_code().await, 1008);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_not_read_give_way_to_a_message_that_waits() {
    let server = server(small_account());
    server.on_request("big", |_: Payload, _: RequestContext| async { Ok::<_, HandlerError>(large(1000)) });
    let mut stuck = Client::through_pipe(&server, 512).await;
    let mut other = wide(&server).await;
    stuck.send("1", "big", Value::Null).await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(server.client_count(), 2);
    other.send("2", "echo", large(500)).await;
    assert_eq!(other.response().await["id"], "2");
    assert_eq!(server.stats().limited_by(Limited::Memory), 1);
    assert_eq!(stuck.close_code().await, 1006);
}

#[tokio::test(start_paused = true)]
async fn late_answers_beyond_the_account_close_their_client() {
    let mut config = small_account();
    config.limits.soft_outbox_bytes = 512 * KIB;
    let server = server(config);
    server.on_request("late", |_: Payload, _: RequestContext| async {
        sleep(Duration::from_millis(1)).await;
        Ok::<_, HandlerError>(large(300))
    });
    let mut stuck = Client::through_pipe(&server, 512).await;
    let mut other = wide(&server).await;
    let mut request = Vec::new();
    for id in 0..10 {
        request.extend(text_frame(&format!(r#"{{"type":"request","id":"{id}","channel":"late"}}"#)));
    }
    stuck.socket.get_mut().write_all(&request).await.expect("the server reads");
    sleep(Duration::from_millis(5)).await;
    assert_eq!(server.stats().limited_by(Limited::Memory), 1);
    other.assert_alive().await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_large_messages_is_served_in_turns() {
    const CLIENTS: usize = 100;
    let server = server(small_account());
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(wide(&server).await);
    }
    // 40 MB, for which there is room for 1.
    let message =
        json!({ "type": "request", "id": "1", "channel": "echo", "payload": large(400) }).to_string();
    for client in &mut clients {
        client.socket.send(Message::text(message.as_str())).await.expect("the pipe is wide");
    }
    for client in &mut clients {
        let response = within("an answer", client.response()).await;
        assert_eq!(response["payload"].as_str().map(str::len), Some(400 * KIB));
    }
    assert_eq!(server.stats().limited_by(Limited::Memory), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_larger_than_the_account_is_served_alone() {
    let server = server(small_account());
    let mut client = wide(&server).await;
    assert_eq!(client.ask("echo", large(3000)).await["payload"].as_str().map(str::len), Some(3000 * KIB));
}
