//! Machines, frames, upgrades, and a runtime on which allocations are counted.

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use switchboard::Server;
use switchboard::protocol::connection::{Connection, Event, Violation};
use switchboard::protocol::frame::Role;
use switchboard::protocol::session::{Rules, Session};
use switchboard::protocol::time::{Millis, Now};
use switchboard::protocol::uuid::Uuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::runtime::Builder;

use crate::support::socket::{pipe, upgrade, within};

pub(super) const KIB: usize = 1 << 10;
pub(super) const MIB: usize = 1 << 20;
pub(super) const NOW: Now = Now { at: Millis(0), unix_ms: 0 };

/// Both ends of a connection: both must withstand the same input.
pub(super) const ENDS: [Role; 2] = [Role::Server, Role::Client];

pub(super) fn end(role: Role, max_message_bytes: usize) -> Connection {
    match role {
        Role::Server => Connection::server(max_message_bytes),
        Role::Client => Connection::client(max_message_bytes, || [0; 4]),
    }
}

/// What a connection did with its input.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Calls of the machine.
    pub(super) steps: usize,
    /// Bytes of the messages that it returned.
    pub(super) message_bytes: usize,
    pub(super) violation: Option<Violation>,
    pub(super) cost: AllocationInfo,
}

/// Gives bytes to a connection in pieces, each byte once. A machine that does not consume a byte fails here.
pub(super) fn receive(connection: &mut Connection, bytes: &[u8], piece: usize) -> Outcome {
    let mut bytes = bytes.to_vec();
    let mut outcome = Outcome::default();
    let mut out = Vec::with_capacity(4 * KIB);
    outcome.cost = measure(|| {
        for piece in bytes.chunks_mut(piece) {
            let mut used = 0;
            while used < piece.len() {
                out.clear();
                let received = connection.receive(&mut piece[used..], &mut out);
                assert!(received.consumed > 0, "no progress: the byte was not consumed");
                used += received.consumed;
                outcome.steps += 1;
                match received.event {
                    Some(Event::Text(text)) => outcome.message_bytes += text.len(),
                    Some(Event::Binary(bytes)) => outcome.message_bytes += bytes.len(),
                    Some(Event::Failed(violation)) => outcome.violation = Some(violation),
                    Some(Event::Closed { .. }) | None => {}
                }
            }
        }
    });
    outcome
}

pub(super) fn session(change: impl FnOnce(&mut Rules)) -> Session {
    let mut rules = Rules::default();
    rules.limits.rate_max_requests = u32::MAX;
    change(&mut rules);
    let authenticated = rules.token.is_none();
    Session::new(Arc::new(rules), Uuid::from_random([7; 16]), authenticated, NOW.at)
}

/// Runs a future on this thread only, so that all of its allocations are counted.
pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// The same for futures without sockets, under a paused clock: time passes only when every task waits.
pub(super) fn run_on_pipes<T>(future: impl Future<Output = T>) -> T {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime").block_on(future)
}

/// The response on a new connection, until the connection ends or nothing more arrives.
pub(super) async fn answers(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
    // The server can close before everything is sent.
    let _ = stream.write_all(request).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = within("the end of the connection", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

pub(super) fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// A client's end of a pipe, after the upgrade and `server:connected`.
pub(super) async fn upgraded(server: &Server, pipe_bytes: usize) -> DuplexStream {
    let mut near = pipe(server, pipe_bytes);
    near.write_all(upgrade("").as_bytes()).await.expect("the server reads");
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"}") {
        let byte = within("server:connected", near.read_u8()).await;
        bytes.push(byte.expect("the upgrade is accepted"));
    }
    near
}

/// Writes until the other end stops reading. `false` if it read everything.
pub(super) async fn stalls(near: &mut DuplexStream, bytes: &[u8]) -> bool {
    // Under a paused clock, the timeout fires once every task waits.
    tokio::time::timeout(Duration::from_millis(1), near.write_all(bytes)).await.is_err()
}
