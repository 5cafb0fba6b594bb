//! The memory that large messages and events cost. The test has its own program, because it measures the process.
#![cfg(target_os = "linux")]

mod support;

use std::time::Duration;

use serde_json::json;
use switchboard::protocol::frame::Role;
use switchboard::{HandlerError, Limited, Payload, RequestContext};
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use support::frames::{FIN, TEXT, header_to};
use support::resident::resident_bytes;
use support::socket::{Client, config, server, upgraded_pipe};

const MIB: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn bursts_cost_what_the_account_allows_and_events_count_once() {
    requests_of_many_clients_share_the_account().await;
    an_event_that_no_client_reads_is_in_memory_once().await;
}

/// 30 clients send 4 MiB each to handlers that wait: 120 MiB, of which 32 MiB may be held.
async fn requests_of_many_clients_share_the_account() {
    let mut config = config();
    config.max_buffered_bytes = 32 * MIB;
    let server = server(config);
    server.on_request("wait", |_: Payload, _: RequestContext| {
        std::future::pending::<Result<Payload, HandlerError>>()
    });
    let mut neighbour = Client::through_pipe(&server, 4096).await;
    let request = br#"{"type":"request","id":"1","channel":"wait","payload":""#;
    let before = resident_bytes();
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let mut pipe = upgraded_pipe(&server, 4096).await;
        senders.spawn(async move {
            // Its payload is a string of spaces, so that this end needs no copy of it.
            pipe.write_all(&header_to(Role::Server, FIN | TEXT, (4 * MIB) as u64)).await.ok()?;
            pipe.write_all(request).await.ok()?;
            let space = [b' '; 4096];
            let mut left = 4 * MIB - request.len() - 2;
            while left > 0 {
                let bytes = left.min(space.len());
                pipe.write_all(&space[..bytes]).await.ok()?;
                left -= bytes;
            }
            pipe.write_all(b"\"}").await.ok()?;
            Some(pipe)
        });
    }
    let mut most = 0;
    for _ in 0..20 {
        neighbour.assert_alive().await;
        sleep(Duration::from_millis(1)).await;
        most = most.max(resident_bytes());
    }
    let grown = most.saturating_sub(before);
    println!("30 messages of 4 MiB: {} KiB at most", grown / 1024);
    assert!((24 * MIB..=56 * MIB).contains(&grown), "{grown} bytes");
    assert_eq!(server.stats().limited_by(Limited::Memory), 0);
    senders.shutdown().await;
    server.stop().await;
}

async fn an_event_that_no_client_reads_is_in_memory_once() {
    const CLIENTS: usize = 500;
    let server = server(config());
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(upgraded_pipe(&server, 512).await);
    }
    sleep(Duration::from_millis(1)).await;
    let before = resident_bytes();
    server.emit("large", json!("x".repeat(16 * MIB - 100)));
    sleep(Duration::from_millis(1)).await;
    let large = resident_bytes().saturating_sub(before);
    for _ in 0..1_000 {
        server.emit("small", json!("y".repeat(1_000)));
    }
    sleep(Duration::from_millis(1)).await;
    let small = resident_bytes().saturating_sub(before);
    println!("{CLIENTS} clients: {} KiB for 16 MiB, {} KiB for 1 MiB more", large / 1024, small / 1024);
    assert_eq!(server.client_count(), CLIENTS);
    // The frame, and its text while it is made. Copies for each client would be 8 GiB.
    assert!(large <= 64 * MIB, "{large} bytes");
    // 24 bytes for each event and client, with the reserve of a queue that grows; copies would be 500 MiB.
    assert!(small <= large + 48 * MIB, "{small} bytes after {large}");
}
