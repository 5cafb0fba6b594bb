//! What the handles of a client share with its task.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::time::Instant;

use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::idle::judged_from;
use crate::protocol::time::{Millis, Now};

use super::connect::{Address, Upgrade};
use super::listeners::{Event, Listeners};
use super::options::ClientOptions;
use super::source::Source;

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
    pub(super) address: Place,
    pub(super) upgrade: Upgrade,
    pub(super) options: ClientOptions,
    /// Why there is no connection.
    pub(super) cause: Mutex<Option<String>>,
    pub(super) listeners: Listeners,
    pub(super) state: AtomicU8,
    pub(super) started: Instant,
}

/// Where the server is.
pub(super) enum Place {
    Known(Address),
    Asked(Source),
}

impl Shared {
    /// Where the server is now.
    pub(super) async fn address(&self) -> io::Result<Address> {
        match &self.address {
            Place::Known(address) => Ok(address.clone()),
            Place::Asked(source) => {
                let url = source.ask().await.map_err(|error| explain("the URL", &error))?;
                Address::parse(&url)
            }
        }
    }

    /// The token to send now.
    pub(super) async fn token(&self) -> io::Result<Option<String>> {
        match &self.options.token_source {
            None => Ok(self.options.token.clone()),
            Some(source) => source.ask().await.map(Some).map_err(|error| explain("the token", &error)),
        }
    }

    /// Runs a future until its time has passed. If that is noticed late, the process was stopped, and the future gets time to read
    /// what arrived meanwhile.
    pub(super) async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let deadline = self.now().at + limit;
        let mut wait = limit;
        let mut from = Millis::default();
        loop {
            if let Ok(done) = tokio::time::timeout(wait, future.as_mut()).await {
                return Some(done);
            }
            let now = self.now().at;
            from = judged_from(from, now, deadline);
            if now >= from.max(deadline) {
                return None;
            }
            wait = from.max(deadline).since(now);
        }
    }

    pub(super) fn note_cause(&self, cause: Option<String>) {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = cause;
    }

    /// The error of a call without a connection.
    pub(super) fn not_connected(&self) -> WireError {
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        let message = cause
            .as_ref()
            .map_or_else(|| "not connected".to_owned(), |cause| format!("not connected: {cause}"));
        WireError::with_code(ErrorCode::ConnectionClosed, message)
    }

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

/// The error of a call whose connection has ended.
pub(super) fn closed(cause: &str) -> WireError {
    WireError::with_code(ErrorCode::ConnectionClosed, format!("the connection was closed: {cause}"))
}

fn explain(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} cannot be found: {error}"))
}
