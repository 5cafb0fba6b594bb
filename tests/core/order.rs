//! All clients get the events that several of them get in the same order, whatever emitted them.

use std::collections::HashMap;
use std::sync::{Arc, Barrier};

use serde_json::{Value, json};
use switchboard::{ClientId, HandlerError, Payload, RequestContext};

use crate::support::socket::{Client, config, start};

const CLIENTS: usize = 8;
const THREADS: usize = 4;
const EVENTS: usize = 3000;

/// Reads until the end of every emitter was seen. Returns the events in the order in which they came.
async fn events(mut client: Client) -> Vec<String> {
    let mut seen = Vec::new();
    let mut ended = 0;
    while ended < THREADS + 1 {
        match client.event("c").await {
            Value::String(event) => seen.push(event),
            _ => ended += 1,
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_several_emitters_have_one_order() {
    let mut config = config();
    config.limits.rate_max_requests = u32::MAX;
    let (server, port) = start(config).await;
    server.on_request("emit", |payload: Payload, cx: RequestContext| async move {
        cx.server().emit("c", payload.clone());
        Ok::<_, HandlerError>(payload)
    });
    let mut readers = Vec::new();
    let mut ids: Vec<ClientId> = Vec::new();
    for _ in 0..CLIENTS {
        let client = Client::connect(port).await;
        ids.push(client.id.parse().unwrap());
        readers.push(tokio::spawn(events(client)));
    }
    let barrier = Arc::new(Barrier::new(THREADS));
    let emitters: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (server, ids, barrier) = (server.clone(), ids.clone(), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                for n in 0..EVENTS {
                    let event = json!(format!("thread {thread} event {n}"));
                    // Every client is in some of these groups.
                    match n % 3 {
                        0 => server.emit("c", event),
                        1 => server.emit_to_many(&ids[thread..thread + 4], "c", event),
                        _ => server.emit_to_many(&ids[n % CLIENTS..], "c", event),
                    }
                }
                server.emit("c", Value::Null);
            })
        })
        .collect();
    let mut asking = Client::connect(port).await;
    for n in 0..EVENTS {
        asking.send(&n.to_string(), "emit", json!(format!("request {n}"))).await;
    }
    asking.send("last", "emit", Value::Null).await;
    tokio::spawn(async move { while asking.next().await.is_ok() {} });
    let mut all = Vec::new();
    for reader in readers {
        all.push(reader.await.expect("a reader does not panic"));
    }
    for emitter in emitters {
        emitter.join().expect("an emitter does not panic");
    }
    for one in &all {
        let place: HashMap<_, _> = one.iter().enumerate().map(|(place, event)| (event, place)).collect();
        for other in &all {
            let common: Vec<_> = other.iter().filter_map(|event| place.get(event)).collect();
            assert!(common.len() >= EVENTS, "{} events in common", common.len());
            assert!(common.is_sorted(), "two clients got the same events in different orders");
        }
    }
    server.stop().await;
}
