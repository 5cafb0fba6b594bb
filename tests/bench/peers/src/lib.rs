//! The parts that the servers of this workspace share: the envelope, the channels, the registry of clients, the rate window and
//! the start. So they differ only in their WebSocket library and how they use it.
//!
//! A server selects the type of payloads ([`wire::Payload`]: a tree or its text) and of output (`M`, a text that is cheap to
//! clone). It reads messages, calls [`Backend::answer`], and writes the result.

pub mod backend;
pub mod chats;
pub mod client;
pub mod http;
pub mod hub;
pub mod start;
pub mod wire;

pub use backend::{Answer, Backend};
pub use client::Client;
pub use hub::Hub;
pub use start::{Options, listen, start};

use std::time::Duration;

/// The longest message, as in Switchboard.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The most events in the queue of a client. A slower client is closed.
pub const MAX_EVENTS_WAITING: usize = 1024;

/// The most queued responses of a client, and the most handlers in flight, before its connection is no longer read.
pub const MAX_IN_FLIGHT: usize = 1024;

/// The read buffer of tungstenite. It clears the whole buffer before each read, and keeps one for each client: with its default
/// of 128 KiB an echo of 64 bytes costs a third more CPU time; with 4 KiB an echo of 16 KiB costs a tenth more.
pub const READ_BUFFER_BYTES: usize = 16 << 10;

/// The interval between pings.
pub const PING_INTERVAL: Duration = Duration::from_secs(30);

/// The longest silence of a client.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The timer of the pings. Its first tick is after one interval.
pub fn heartbeat() -> tokio::time::Interval {
    tokio::time::interval_at(tokio::time::Instant::now() + PING_INTERVAL, PING_INTERVAL)
}
