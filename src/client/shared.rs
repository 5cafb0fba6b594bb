//! What the handles of a client share with its task.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::time::Instant;

use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::time::{Millis, Now};

use super::connect::Address;
use super::listeners::{Event, Listeners};
use super::options::ClientOptions;

/// The state of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// It is being opened, or the next attempt follows after a pause. Calls fail with `CONNECTION_CLOSED`.
    Connecting,
    /// Calls are sent.
    Open,
    /// It is being closed.
    Closing,
    /// There is no connection, and no further attempt. [`Client::open`](super::Client::open) opens one.
    Closed,
}

pub(super) const STATES: [ConnectionState; 4] =
    [ConnectionState::Connecting, ConnectionState::Open, ConnectionState::Closing, ConnectionState::Closed];

/// What the handles share with the task.
pub(super) struct Shared {
    pub(super) address: Address,
    pub(super) options: ClientOptions,
    pub(super) listeners: Listeners,
    pub(super) state: AtomicU8,
    pub(super) started: Instant,
}

impl Shared {
    pub(super) fn enter(&self, state: ConnectionState) {
        self.state.store(state as u8, Ordering::Release);
    }

    pub(super) fn notify(&self, channel: &str, payload: Value) {
        self.listeners.notify(&Event { channel: channel.to_owned(), payload: payload.into() });
    }

    /// The present. Deadlines follow tokio's clock.
    pub(super) fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            at: Millis::default() + self.started.elapsed(),
            unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

pub(super) fn closed(message: &'static str) -> WireError {
    WireError::with_code(ErrorCode::ConnectionClosed, message)
}
