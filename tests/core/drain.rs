//! `Server::drain`: requests in flight end, everything else is refused, and what is left is stopped.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::{Attempt, HandlerError, Identity, Payload, Refusal, RequestContext, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::socket::{
    Calls, Client, calls, config, pipe, server, start, upgrade, upgraded_pipe, waiting, within,
};

const LONG: Duration = Duration::from_secs(600);

async fn piped(server: &Server) -> Client<DuplexStream> {
    Client::through_pipe(server, 1 << 20).await
}

/// Begins to drain. Returns once the clients can notice.
async fn draining(server: &Server, time: Duration) -> JoinHandle<()> {
    let draining = server.clone();
    let task = tokio::spawn(async move { draining.drain(time).await });
    while is_open(server).await {
        tokio::task::yield_now().await;
    }
    task
}

/// Whether an upgrade in the embedder's own server is accepted.
async fn is_open(server: &Server) -> bool {
    ask_for_upgrade(server).await.starts_with("HTTP/1.1 101")
}

async fn ask_for_upgrade(server: &Server) -> String {
    let mut pipe = pipe(server, 64 << 10);
    pipe.write_all(upgrade("").as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let count = pipe.read(&mut answer).await.unwrap();
    String::from_utf8(answer[..count].to_vec()).unwrap()
}

async fn sees_shutdown(client: &mut Client<DuplexStream>) {
    assert_eq!(client.event("server:shutdown").await, json!({ "reason": "Server stopping" }));
}

fn code(response: &Value) -> &Value {
    &response["error"]["code"]
}

/// A client with a request in flight.
async fn busy(server: &Server, began: &mut Calls<String>) -> Client<DuplexStream> {
    let mut client = piped(server).await;
    client.send("busy", "wait", Value::Null).await;
    began.next().await;
    client
}

#[tokio::test]
async fn requests_in_flight_end_and_each_client_leaves_when_its_own_have() {
    let (server, port) = start(config()).await;
    let (gate, mut began) = waiting(&server, "wait");
    let (step, steps) = (std::sync::Arc::new(tokio::sync::Semaphore::new(0)), 3);
    let shared = step.clone();
    server.on_request("stream", move |_: Payload, cx: RequestContext| {
        let step = shared.clone();
        async move {
            for n in 0..steps {
                step.acquire().await.unwrap().forget();
                cx.emit("chunk", json!(n));
            }
            Ok::<_, HandlerError>(json!("whole"))
        }
    });
    let mut idle = Client::connect(port).await;
    let mut busy = Client::connect(port).await;
    let mut streaming = Client::connect(port).await;
    busy.send("1", "wait", Value::Null).await;
    began.next().await;
    streaming.send("2", "stream", Value::Null).await;
    step.add_permits(1);
    assert_eq!(streaming.event("chunk").await, 0);

    let drained = tokio::spawn({
        let server = server.clone();
        async move { server.drain(LONG).await }
    });
    for client in [&mut idle, &mut busy, &mut streaming] {
        assert_eq!(client.event("server:shutdown").await, json!({ "reason": "Server stopping" }));
    }
    assert_eq!(idle.next().await, Err(1001));
    within("the port to close", async { while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {} })
        .await;
    assert!(!server.is_running());

    // A further request is refused, and does not keep the client from its response.
    let refused = busy.ask("echo", json!(1)).await;
    assert_eq!(
        (code(&refused), &refused["error"]["message"]),
        (&json!("CONNECTION_CLOSED"), &json!("Server stopping"))
    );
    assert_eq!(code(&busy.ask("unknown", json!(1)).await), "CONNECTION_CLOSED");
    server.emit("news", json!(1));
    assert_eq!(busy.event("news").await, 1);
    gate.add_permits(1);
    assert_eq!(busy.response().await["payload"], "1");
    assert_eq!(busy.next().await, Err(1001));

    assert_eq!(streaming.event("news").await, 1);
    step.add_permits(2);
    assert_eq!((streaming.event("chunk").await, streaming.event("chunk").await), (json!(1), json!(2)));
    assert_eq!(streaming.response().await["payload"], "whole");
    assert_eq!(streaming.next().await, Err(1001));
    within("the drain", drained).await.unwrap();
    assert_eq!(server.client_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_its_time_a_drain_stops_what_is_left() {
    let server = server(config());
    let (_gate, mut began) = waiting(&server, "wait");
    let mut client = busy(&server, &mut began).await;
    let begun = Instant::now();
    let drained = draining(&server, Duration::from_secs(7)).await;
    sees_shutdown(&mut client).await;
    assert_eq!(code(&client.response().await), "CONNECTION_CLOSED");
    assert_eq!(client.next().await, Err(1001));
    drained.await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn no_time_is_a_stop() {
    let server = server(config());
    let (_gate, mut began) = waiting(&server, "wait");
    let mut client = busy(&server, &mut began).await;
    let begun = Instant::now();
    tokio::join!(server.drain(Duration::ZERO), async {
        sees_shutdown(&mut client).await;
        assert_eq!(code(&client.response().await), "CONNECTION_CLOSED");
        assert_eq!(client.next().await, Err(1001));
    });
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_or_the_first_drain_to_end_ends_all_drains() {
    for is_stop in [true, false] {
        let server = server(config());
        let (_gate, mut began) = waiting(&server, "wait");
        let mut client = busy(&server, &mut began).await;
        let begun = Instant::now();
        let first = draining(&server, LONG).await;
        let second = draining(&server, Duration::from_secs(20)).await;
        sees_shutdown(&mut client).await;
        if is_stop {
            server.stop().await;
        }
        assert_eq!(code(&client.response().await), "CONNECTION_CLOSED", "server:shutdown comes once");
        assert_eq!(client.next().await, Err(1001));
        first.await.unwrap();
        second.await.unwrap();
        let at_most = if is_stop { 7 } else { 27 };
        assert!(begun.elapsed() < Duration::from_secs(at_most), "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_wait_for_a_drain_has_stopped() {
    let server = server(config());
    let (_gate, mut began) = waiting(&server, "wait");
    let mut client = busy(&server, &mut began).await;
    let begun = Instant::now();
    let drained = draining(&server, LONG).await;
    sees_shutdown(&mut client).await;
    drained.abort();
    assert_eq!(code(&client.response().await), "CONNECTION_CLOSED");
    assert_eq!(client.next().await, Err(1001));
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(server.start().await.is_ok(), "it is not left between two states");
}

#[tokio::test]
async fn a_server_starts_again_after_a_drain_and_not_before() {
    let (server, port) = start(config()).await;
    let (gate, mut began) = waiting(&server, "wait");
    let mut client = Client::connect(port).await;
    client.send("1", "wait", Value::Null).await;
    began.next().await;
    let drained = draining(&server, LONG).await;
    let early = server.start().await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::AlreadyExists);
    assert!(early.to_string().contains("drain"), "{early}");
    gate.add_permits(1);
    assert_eq!(client.close_code().await, 1001);
    within("the drain", drained).await.unwrap();
    for _ in 0..2 {
        let again = server.start().await.unwrap();
        let mut client = Client::connect(again).await;
        client.assert_alive().await;
        let (code, ()) = tokio::join!(client.close_code(), server.drain(LONG));
        assert_eq!(code, 1001);
    }
}

#[tokio::test]
async fn serve_returns_when_the_clients_have_left() {
    let server = server(config());
    let (gate, mut began) = waiting(&server, "wait");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve(listener).await }
    });
    let mut client = Client::connect(port).await;
    client.send("1", "wait", Value::Null).await;
    began.next().await;
    let drained = draining(&server, LONG).await;
    client.event("server:shutdown").await;
    assert!(!serving.is_finished(), "a program that ends then would cut its clients");
    gate.add_permits(1);
    assert_eq!(client.response().await["payload"], "1");
    assert_eq!(client.next().await, Err(1001));
    within("the drain", drained).await.unwrap();
    within("serve", serving).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_drains_or_has_stopped_refuses_upgrades_with_503() {
    let server = server(config());
    let (_gate, mut began) = waiting(&server, "wait");
    let _client = busy(&server, &mut began).await;
    let drained = draining(&server, LONG).await;
    for is_stopped in [false, true] {
        let answer = ask_for_upgrade(&server).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(
            answer.contains("retry-after: 1\r\n") && answer.ends_with("\r\n\r\nServer is stopping"),
            "{answer}"
        );
        if !is_stopped {
            server.stop().await;
        }
    }
    drained.await.unwrap();
    assert!(server.stats().refused_with(503) >= 2);
}

#[tokio::test(start_paused = true)]
async fn what_no_handler_was_called_for_is_refused() {
    let mut config = config();
    config.limits.max_in_flight = 1;
    let server = server(config);
    let (gate, mut began) = waiting(&server, "wait");
    let mut client = busy(&server, &mut began).await;
    // One waits for the end of the other. A large one is decoded elsewhere.
    client.send("queued", "wait", Value::Null).await;
    let mut large = busy(&server, &mut began).await;
    large.send("large", "echo", json!("x".repeat(100 << 10))).await;
    let drained = draining(&server, LONG).await;
    for client in [&mut client, &mut large] {
        sees_shutdown(client).await;
        gate.add_permits(1);
        assert_eq!(client.response().await["id"], "busy");
        assert_eq!(code(&client.response().await), "CONNECTION_CLOSED");
        assert_eq!(client.next().await, Err(1001));
    }
    drained.await.unwrap();
    assert_eq!(began.drain(), 0);
}

#[tokio::test(start_paused = true)]
async fn clients_without_a_credential_are_closed_at_once() {
    let server = server(config());
    let (gate, mut began) = waiting(&server, "wait");
    let (asked, mut asks) = calls();
    let asked = std::sync::Arc::new(asked);
    let slow = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let shared = slow.clone();
    server.authenticate(move |attempt: Attempt| {
        let (slow, asked) = (shared.clone(), asked.clone());
        async move {
            if attempt.payload().is_some() {
                asked(());
                slow.acquire().await.unwrap().forget();
                return Ok(Identity::new("ann"));
            }
            match attempt.bearer() {
                Some(_) => Ok(Identity::new("ann")),
                None => Err(Refusal::AwaitAuth),
            }
        }
    });
    let mut waits = piped(&server).await;
    let mut is_asked = piped(&server).await;
    is_asked.send("1", "auth", json!({ "token": "x" })).await;
    asks.next().await;
    let mut io = pipe(&server, 64 << 10);
    io.write_all(upgrade("Authorization: Bearer x\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    let mut known = Client::raw(io).await;
    known.event("server:connected").await;
    known.send("busy", "wait", Value::Null).await;
    began.next().await;

    let drained = draining(&server, LONG).await;
    assert_eq!((waits.next().await, is_asked.next().await), (Err(1001), Err(1001)));
    sees_shutdown(&mut known).await;
    // A credential can be renewed while a request is in flight, and its decision is waited for.
    known.send("2", "auth", json!({ "token": "x" })).await;
    asks.next().await;
    gate.add_permits(1);
    assert_eq!(known.response().await["id"], "busy");
    slow.add_permits(2);
    assert_eq!(known.response().await["payload"], json!({ "authenticated": true }));
    assert_eq!(known.next().await, Err(1001));
    drained.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_all_that_waits_for_it() {
    let server = server(config());
    let io = upgraded_pipe(&server, 1000).await;
    let mut client = Client::raw(io).await;
    client.event("server:connected").await;
    for n in 0..100 {
        server.emit("news", json!([n, "x".repeat(1000)]));
    }
    let begun = Instant::now();
    let drained = draining(&server, LONG).await;
    for n in 0..100 {
        // Longer than it may take to answer a close frame, altogether.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(client.event("news").await[0], n);
    }
    sees_shutdown(&mut client).await;
    assert_eq!(client.next().await, Err(1001));
    drained.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20));
}
