//! A client that does not read costs a bounded amount of memory, is closed with 1008 at its limit, and delays no other client.
//! A client that never stops sending does not starve the others.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use switchboard::{ClientId, Config, HandlerError, Limited, Payload, RequestContext, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::support::frames::{FIN, PING, PONG, frame, text_frame};
use crate::support::socket::{self, Client, calls, config, server, start, upgraded_pipe, within};

/// The size of a frame's header if the payload has 126 to 65 535 bytes.
const HEADER: usize = 4;

fn small_outbox(bytes: usize) -> Config {
    let mut config = config();
    config.limits.max_outbox_bytes = bytes;
    config
}

/// Emits an event whose frame has exactly this many bytes.
fn emit_frame(server: &Server, id: ClientId, bytes: usize) {
    let around = r#"{"type":"event","channel":"c","payload":"","timestamp":1704067200000}"#.len();
    server.emit_to(id, "c", json!("x".repeat(bytes - HEADER - around)));
}

/// A client with a pipe so small that the first frame fills it, and the client's id.
async fn narrow(server: &Server) -> (Client<DuplexStream>, ClientId) {
    let client = Client::through_pipe(server, 512).await;
    let id = client.id.parse().expect("an id");
    (client, id)
}

/// Lets the client's task process its mailbox. Under a paused clock, time passes only when every task waits.
async fn let_it_work() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Reads until the end, or until nothing more arrives. Returns the number of messages, and the close code.
async fn read_all(client: &mut Client<DuplexStream>) -> (usize, Option<u16>) {
    let mut messages = 0;
    loop {
        match tokio::time::timeout(Duration::from_secs(1), client.next()).await {
            Ok(Ok(message)) => {
                assert_eq!(message["channel"], "c");
                messages += 1;
            }
            Ok(Err(code)) => return (messages, Some(code)),
            Err(_) => return (messages, None),
        }
    }
}

// Events.

#[tokio::test(start_paused = true)]
async fn events_queue_up_to_the_limit_after_the_one_being_written() {
    for at_once in [true, false] {
        for (last, closes) in [(1000, false), (1001, true)] {
            let server = server(small_outbox(10_000));
            let (mut client, id) = narrow(&server).await;
            // The first is being written and does not count. Nine more and the last are 10 000 bytes, or one more.
            emit_frame(&server, id, 20_000);
            if !at_once {
                let_it_work().await;
            }
            for _ in 0..9 {
                emit_frame(&server, id, 1000);
                if !at_once {
                    let_it_work().await;
                }
            }
            emit_frame(&server, id, last);
            let_it_work().await;
            let (events, ended) = read_all(&mut client).await;
            if closes {
                assert_eq!(ended, Some(1008), "{last} bytes last, at once: {at_once}");
                assert!(events <= 1, "what waited after it is dropped, {events} were received");
            } else {
                assert_eq!((ended, events), (None, 11), "at once: {at_once}");
                client.assert_alive().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_response_is_sent_when_events_before_it_are_lost() {
    let server = server(small_outbox(10_000));
    for (channel, pauses) in [("at-once", false), ("later", true)] {
        server.on_request(channel, move |_: Payload, cx: RequestContext| async move {
            if pauses {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for _ in 0..12 {
                cx.emit("c", json!("x".repeat(1000)));
            }
            Ok::<_, HandlerError>(json!("all were told"))
        });
        let mut client = Client::through_pipe(&server, 100_000).await;
        client.send("1", channel, Value::Null).await;
        assert_eq!(read_all(&mut client).await, (0, Some(1008)), "{channel}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_overflowing_client_that_never_reads_is_cut_at_the_close_timeout() {
    let (disconnected, mut disconnects) = calls();
    let server = server(small_outbox(10_000).on_disconnection(disconnected));
    let (_stuck, id) = narrow(&server).await;
    let (mut other, _) = narrow(&server).await;
    let started = Instant::now();
    for _ in 0..1000 {
        emit_frame(&server, id, 1000);
    }
    other.assert_alive().await;
    assert_eq!(disconnects.next().await, id);
    let lasted = started.elapsed().as_millis();
    assert!((5_000..=5_003).contains(&lasted), "{lasted} ms");
    other.assert_alive().await;
    assert_eq!(server.client_ids(), [other.id.parse::<ClientId>().unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_for_the_send_timeout_is_closed() {
    let (disconnected, mut disconnects) = calls();
    let server = server(config().on_disconnection(disconnected));
    let (_stuck, id) = narrow(&server).await;
    let started = Instant::now();
    emit_frame(&server, id, 5_000);
    assert_eq!(disconnects.next().await, id);
    // 30 s for sending, 5 s for the close handshake.
    let lasted = started.elapsed().as_millis();
    assert!((35_000..=35_003).contains(&lasted), "{lasted} ms");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_stays_connected() {
    let server = server(config());
    let mut pipe = upgraded_pipe(&server, 512).await;
    let_it_work().await;
    let id = server.client_ids()[0];
    emit_frame(&server, id, 10_000);
    // Ten minutes are longer than every deadline; the 300 bytes every 29 s move them.
    let mut bytes = vec![0; 300];
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(29)).await;
        pipe.read_exact(&mut bytes).await.unwrap();
    }
    assert_eq!(server.client_ids(), [id]);
    tokio::time::sleep(Duration::from_secs(36)).await;
    assert_eq!(server.client_count(), 0, "now it has read nothing for too long");
}

#[tokio::test(start_paused = true)]
async fn the_largest_burst_reaches_every_client_that_reads() {
    let server = server(config());
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut pipe = upgraded_pipe(&server, 64 << 10).await;
        readers.push(tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            let mut bytes = 0;
            while bytes < 9 * (16 << 20) {
                bytes += pipe.read(&mut buffer).await.expect("no reset");
            }
            pipe
        }));
    }
    let_it_work().await;
    let text = "x".repeat((16 << 20) - 100);
    for _ in 0..9 {
        server.emit("burst", json!(text));
    }
    for reader in readers {
        let mut pipe = within("all events", reader).await.expect("a reader does not panic");
        let small = json!("x".repeat(9 * 100));
        server.emit("after", small);
        assert!(pipe.read_u8().await.is_ok());
    }
    assert_eq!((server.client_count(), server.stats().limited_by(Limited::SlowConsumers)), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn over_the_soft_limit_a_client_stays_if_it_reads_as_much_in_the_time() {
    // It reads 12 times in each soft timeout.
    for (bytes, stays) in [(1_000, true), (700, false)] {
        let mut config = config();
        config.limits.soft_outbox_bytes = 10_000;
        let server = server(config);
        let mut pipe = upgraded_pipe(&server, 512).await;
        let_it_work().await;
        let id = server.client_ids()[0];
        for _ in 0..100 {
            emit_frame(&server, id, 1000);
        }
        let mut buffer = vec![0; bytes];
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            if pipe.read_exact(&mut buffer).await.is_err() {
                break;
            }
        }
        assert_eq!(server.client_count(), usize::from(stays), "{bytes} bytes at a time");
        assert_eq!(server.stats().limited_by(Limited::SlowConsumers), u64::from(!stays));
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_that_asks_is_answered_after_the_events_before_and_before_it_is_closed() {
    let server = server(small_outbox(50_000));
    server.on_request("c", |_: Payload, cx: RequestContext| async move {
        for _ in 0..40 {
            cx.server().emit("c", json!("x".repeat(1000)));
        }
        Ok::<_, HandlerError>(json!("stored"))
    });
    let (mut client, id) = narrow(&server).await;
    client.send("1", "c", Value::Null).await;
    let_it_work().await;
    for _ in 0..60 {
        emit_frame(&server, id, 1000);
        let_it_work().await;
    }
    // What follows the answer is dropped, and nothing before it.
    assert_eq!(read_all(&mut client).await, (41, Some(1008)));
}

// Responses.

#[tokio::test(start_paused = true)]
async fn requests_alone_cannot_fill_the_outbox() {
    let (called, mut calls) = calls();
    let server = server(small_outbox(10_000));
    server.on_request("big", move |_: Payload, _: RequestContext| {
        called(());
        async { Ok::<_, HandlerError>(json!("x".repeat(9_000))) }
    });
    let (client, id) = narrow(&server).await;
    let (mut sink, mut stream) = client.socket.split();
    let sending = tokio::spawn(async move {
        for id in 0..100 {
            let request = json!({ "type": "request", "id": id.to_string(), "channel": "big" }).to_string();
            futures_util::SinkExt::send(&mut sink, Message::text(request)).await.unwrap();
        }
    });
    let_it_work().await;
    // All requests of one read are handled before the server notices that the socket is full.
    assert!(calls.drain() <= 10, "the server does not read from a client that does not read");
    assert_eq!(server.client_ids(), [id]);
    for id in 0..100 {
        let message = within("a response", stream.next()).await.unwrap().unwrap();
        let response: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        assert_eq!(response["id"], id.to_string());
    }
    within("the sender", sending).await.expect("it has sent everything");
    assert_eq!(server.client_ids(), [id]);
}

#[tokio::test(start_paused = true)]
async fn late_responses_queue_up_to_the_limit_too() {
    for (requests, ended) in [(11, None), (12, Some(1008))] {
        let server = server(small_outbox(10_000));
        let gate = Arc::new(Semaphore::new(0));
        let shared = gate.clone();
        server.on_request("c", move |_: Payload, _: RequestContext| {
            let gate = shared.clone();
            async move {
                gate.acquire().await?.forget();
                let around =
                    r#"{"type":"response","id":"10","channel":"c","payload":"","timestamp":1704067200000}"#;
                Ok::<_, HandlerError>(json!("x".repeat(1000 - HEADER - around.len())))
            }
        });
        let (mut client, _) = narrow(&server).await;
        for id in 10..10 + requests {
            client.send(&id.to_string(), "c", Value::Null).await;
        }
        let_it_work().await;
        // One is being written, ten or eleven times 1000 bytes wait after it.
        gate.add_permits(requests);
        let_it_work().await;
        // Answers that wait are sent before the close frame.
        assert_eq!(read_all(&mut client).await, (requests, ended));
    }
}

// Over real sockets.

/// A client that requests far more than the system's buffers hold, and reads none of it.
async fn stuck(port: u16) -> Client {
    let mut stuck = Client::connect(port).await;
    for id in 0..4 {
        stuck.send(&id.to_string(), "huge", Value::Null).await;
    }
    stuck
}

fn with_huge(server: &Server) -> socket::Calls<ClientId> {
    let (asked, asks) = calls();
    let huge = Payload::from(json!("x".repeat(15 << 20)));
    server.on_request("huge", move |_: Payload, cx: RequestContext| {
        asked(cx.client_id);
        let huge = huge.clone();
        async move { Ok::<_, HandlerError>(huge) }
    });
    asks
}

#[tokio::test]
async fn a_stuck_client_delays_no_other_and_is_cut_at_its_limit() {
    let (disconnected, mut disconnects) = calls();
    let mut config = small_outbox(4 << 20).on_disconnection(disconnected);
    config.limits.close_timeout = Duration::from_millis(200);
    let (server, port) = start(config).await;
    let mut asks = with_huge(&server);
    let mut other = Client::connect(port).await;
    let mut stuck = stuck(port).await;
    let id = asks.next().await;
    for _ in 0..200 {
        other.assert_alive().await;
    }
    assert_eq!(disconnects.drain(), 0, "4 MiB are not reached yet");
    // 5 MiB of events: more than can wait after the response.
    for _ in 0..5 {
        server.emit("news", json!("n".repeat(1 << 20)));
        let news = other.event("news").await;
        assert_eq!(news.as_str().map(str::len), Some(1 << 20));
        other.assert_alive().await;
    }
    assert_eq!(disconnects.next().await, id);
    other.assert_alive().await;
    // It can receive the rest of a response that was being sent, but no further whole one.
    assert!(matches!(stuck.close_code().await, 1008 | 1006));
    assert_eq!(server.client_count(), 1);
}

#[tokio::test]
async fn a_stuck_client_that_reads_again_receives_its_close_frame() {
    let (server, port) = start(small_outbox(4 << 20)).await;
    let mut asks = with_huge(&server);
    let mut stuck = stuck(port).await;
    asks.next().await;
    for _ in 0..5 {
        server.emit("news", json!("n".repeat(1 << 20)));
    }
    assert_eq!(
        stuck.response().await["payload"].as_str().map(str::len),
        Some(15 << 20),
        "started, so it is ended"
    );
    assert_eq!(stuck.next().await, Err(1008));
}

#[tokio::test]
async fn stop_waits_for_a_stuck_client_no_longer_than_the_close_timeout() {
    let mut config = config();
    config.limits.close_timeout = Duration::from_millis(200);
    let (server, port) = start(config).await;
    let mut asks = with_huge(&server);
    let _stuck = stuck(port).await;
    asks.next().await;
    within("stop", server.stop()).await;
    assert_eq!(server.client_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_violation_after_the_close_frame_does_not_extend_the_deadline() {
    let server = server(config());
    let mut pipe = upgraded_pipe(&server, 64 << 10).await;
    let_it_work().await;
    let started = Instant::now();
    let stopping = tokio::spawn({
        let server = server.clone();
        async move { server.stop().await }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    pipe.write_all(&[0xff; 16]).await.expect("the server reads");
    stopping.await.expect("stop does not panic");
    let lasted = started.elapsed().as_millis();
    assert!((5_000..=5_003).contains(&lasted), "{lasted} ms");
}

/// However much input is available, a client's turn ends after some frames and bytes.
#[tokio::test]
async fn a_turn_is_limited_in_frames_and_in_bytes() {
    const FLOOD_BYTES: usize = 48 << 20;
    let mut long = vec![0x82, 0xff];
    long.extend_from_slice(&66_000_u64.to_be_bytes());
    long.extend_from_slice(&[0; 4 + 66_000]);
    for (frame, most) in [(vec![0x89, 0x80, 0, 0, 0, 0], 256 << 10), (long, 2 << 20)] {
        let server = server(config());
        let mut other = Client::through_pipe(&server, 64 << 10).await;
        let mut flood = upgraded_pipe(&server, FLOOD_BYTES).await;
        let before = server.stats().bytes_in;
        flood.write_all(&frame.repeat(FLOOD_BYTES / frame.len())).await.unwrap();
        // In its own task, because the runtime polls this one only after sixty others.
        let turns = tokio::spawn(async move {
            other.assert_alive().await;
            server.stats().bytes_in - before
        });
        let taken = within("a turn", turns).await.unwrap();
        assert!(taken <= most, "{taken} bytes of a flood were read before another client was served");
    }
}

/// With one worker thread, a client that never stops sending could occupy it.
#[test]
fn a_flooding_client_does_not_starve_others() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (server, port) = runtime.block_on(start(config()));
    let text = r#"{"type":"request","id":"1","channel":"unknown"}"#;
    for frame in [frame(FIN | PING, b""), frame(FIN | PONG, b""), text_frame(text)] {
        // The clients have their own threads, so that the flood does not slow down the measurement.
        let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let flooding = clients.block_on(Client::connect(port));
        let id: ClientId = flooding.id.parse().unwrap();
        let stream = flooding.socket.into_inner().into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        let flood = frame.repeat(10_000);
        let (mut writer, mut reader) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        let writing = std::thread::spawn(move || while writer.write_all(&flood).is_ok() {});
        let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        clients.block_on(async {
            let mut other = Client::connect(port).await;
            for _ in 0..5 {
                other.assert_alive().await;
            }
        });
        assert!(server.client_info(id).is_some(), "the flood continues");
        let taken = server.stats().bytes_in;
        clients.block_on(within("the turns of the flooding client", async {
            while server.stats().bytes_in < taken + (1 << 20) {
                tokio::task::yield_now().await;
            }
        }));
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        writing.join().unwrap();
        // The socket is shut down, so writing ends with an error.
        let _ = reading.join().unwrap();
    }
    runtime.block_on(server.stop());
}
