//! The memory that connections cost. The test has its own program, because it measures the process.
#![cfg(target_os = "linux")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use switchboard::{HandlerError, Payload, RequestContext};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use support::frames::text_frame;
use support::resident::resident_bytes;
use support::socket::{self, calls, config, start, upgrade, within};

const CONNECTIONS: usize = 10_000;
/// Both ends of each connection are in this process, and many systems allow it 1 024 descriptors.
const BATCH: usize = 200;
const KIB: usize = 1024;

/// The most that an idle connection may cost, with its client's socket: far less than one buffer.
const IDLE_BYTES: usize = 8 * KIB;

#[tokio::test]
async fn idle_connections_hold_no_buffers_and_closed_ones_free_everything() {
    let gone = Arc::new(AtomicUsize::new(0));
    let count = gone.clone();
    let (disconnected, mut disconnects) = calls();
    let on_disconnection = move |id| {
        count.fetch_add(1, Ordering::Relaxed);
        disconnected(id);
    };
    let (server, port) = start(config().on_disconnection(on_disconnection)).await;
    server.on_request("never", |_: Payload, _: RequestContext| {
        std::future::pending::<Result<Payload, HandlerError>>()
    });

    let mut idle = measure_idle(port).await;
    while let Some(connection) = idle.pop() {
        drop(connection);
        disconnects.next().await;
    }

    // The allocator keeps the memory of one batch; this makes it allocate that.
    let mut warm_up = 0;
    while warm_up < 1_000 {
        come_and_go(port, &mut disconnects).await;
        warm_up += BATCH;
    }
    gone.store(0, Ordering::Relaxed);
    let before = resident_bytes();
    for _ in 0..CONNECTIONS / BATCH {
        come_and_go(port, &mut disconnects).await;
    }
    let after = resident_bytes();
    println!("resident: {} KiB before, {} KiB after {CONNECTIONS} connections", before / KIB, after / KIB);
    assert_eq!((gone.load(Ordering::Relaxed), disconnects.drain()), (CONNECTIONS, 0));
    assert!(after.abs_diff(before) <= KIB * KIB, "{before} bytes before, {after} after");
    assert_eq!(server.client_count(), 0);
}

/// Opens a batch of connections, uses each a little, and ends them in different ways.
async fn come_and_go(port: u16, disconnects: &mut socket::Calls<switchboard::ClientId>) {
    let mut connections = Vec::with_capacity(BATCH);
    for _ in 0..BATCH {
        connections.push(open(port).await);
    }
    let mut buffer = [0; 512];
    for connection in &mut connections {
        write(connection, r#"{"type":"request","id":"1","channel":"never"}"#).await;
        write(connection, r#"{"type":"request","id":"2","channel":"echo","payload":"a little"}"#).await;
        read_frame(connection, &mut buffer).await;
    }
    for (index, mut connection) in connections.into_iter().enumerate() {
        match index % 3 {
            0 => {
                connection.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.expect("the server reads");
                // The close frame, then the end.
                let read = within("the end", connection.read(&mut buffer)).await.expect("no reset");
                assert_eq!(buffer[..read], [0x88, 0]);
            }
            1 => drop(connection),
            _ => socket::reset(connection),
        }
        disconnects.next().await;
    }
}

async fn measure_idle(port: u16) -> Vec<TcpStream> {
    let payload = "x".repeat(100 * KIB);
    let request = format!(r#"{{"type":"request","id":"1","channel":"echo","payload":"{payload}"}}"#);
    let mut response = vec![0; 110 * KIB];
    let mut connections = Vec::with_capacity(2 * BATCH);
    // The first allocates what all of them share.
    let mut first = open(port).await;
    write(&mut first, &request).await;
    read_frame(&mut first, &mut response).await;

    let before = resident_bytes();
    for _ in 0..2 * BATCH {
        connections.push(open(port).await);
    }
    let fresh = resident_bytes().saturating_sub(before) / connections.len();
    for connection in &mut connections {
        write(connection, &request).await;
        let length = read_frame(connection, &mut response).await;
        assert!(length > 100 * KIB, "{length}");
    }
    let used = resident_bytes().saturating_sub(before) / connections.len();
    println!("an idle connection: {fresh} bytes fresh, {used} bytes after 100 KiB each way");
    assert!(fresh <= IDLE_BYTES, "{fresh} bytes for each fresh connection");
    assert!(used <= IDLE_BYTES, "{used} bytes for each connection that was used");
    connections.push(first);
    connections
}

/// A client without a buffer, because that would be measured too.
async fn open(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
    // Otherwise the second of two small messages waits for an acknowledgement.
    stream.set_nodelay(true).expect("a TCP socket");
    stream.write_all(upgrade("").as_bytes()).await.expect("the server reads");
    let mut bytes = [0; 512];
    let mut read = 0;
    // The response, then server:connected, which ends the first write.
    while !bytes[..read].ends_with(b"}") {
        let more = within("the upgrade", stream.read(&mut bytes[read..])).await.expect("no reset");
        assert!(more > 0, "{}", String::from_utf8_lossy(&bytes[..read]));
        read += more;
    }
    stream
}

async fn write(stream: &mut TcpStream, text: &str) {
    within("room for a request", stream.write_all(&text_frame(text))).await.expect("the server reads");
}

/// Reads a frame, and returns the length of its payload.
async fn read_frame(stream: &mut TcpStream, payload: &mut [u8]) -> usize {
    let mut header = [0; 2];
    within("a frame", stream.read_exact(&mut header)).await.expect("the server answers");
    assert_eq!(header[0], 0x81, "a whole text message");
    let length = match header[1] {
        126 => usize::from(stream.read_u16().await.expect("a length")),
        127 => stream.read_u64().await.expect("a length") as usize,
        length => usize::from(length),
    };
    let room = payload.get_mut(..length).expect("room for the payload");
    within("a payload", stream.read_exact(room)).await.expect("the server answers");
    length
}
