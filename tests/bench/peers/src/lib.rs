//! What the servers of this workspace share, so that they differ in their WebSocket library and in how they use it, and
//! in nothing else: the envelope, the channels, the registry of clients, the rate window, and the start.
//!
//! A server picks how payloads are held ([`wire::Payload`]: a tree or its text) and what it sends (`M`, a text that is
//! cheap to clone), reads messages, asks [`Backend::answer`], and writes what comes back.

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

/// Longest message, as in Switchboard.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// How many events may wait for a client; one that has fallen further behind is closed.
pub const MAX_EVENTS_WAITING: usize = 1024;

/// How many answers may wait for a client that does not read, and how many handlers may run for it, before nothing more
/// is read from it.
pub const MAX_IN_FLIGHT: usize = 1024;

/// How much of a socket tungstenite reads at once. It clears that much before each read, and keeps it for each client:
/// its default of 128 KiB costs an echo of 64 bytes a third more CPU time, and 4 KiB costs one of 16 KiB a tenth more.
pub const READ_BUFFER_BYTES: usize = 16 << 10;

/// How often a client is pinged.
pub const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long a client may be silent.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The pings' clock, whose first tick comes after one interval.
pub fn heartbeat() -> tokio::time::Interval {
    tokio::time::interval_at(tokio::time::Instant::now() + PING_INTERVAL, PING_INTERVAL)
}
