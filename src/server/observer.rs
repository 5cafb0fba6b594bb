//! Who wants to know what clients do: [`Observer`], and those that a client's task tells. In: what the task has seen. Out:
//! calls, none of which can fail the task.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::error::WireError;

use super::ClientId;

/// Is told what the clients of a server do, for statistics, logs and audits.
///
/// It is called in the clients' own tasks, so it must not block. A panic in it is contained, and reported to
/// [`Config::on_error`](super::Config::on_error).
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use switchboard::{Completed, Config, Observer, Server};
///
/// #[derive(Default)]
/// struct Failures(AtomicU64);
///
/// impl Observer for Failures {
///     fn completed(&self, request: &Completed<'_>) {
///         self.0.fetch_add(request.error.is_some().into(), Ordering::Relaxed);
///     }
/// }
///
/// let server = Server::new(Config::default());
/// server.observe(Arc::new(Failures::default()));
/// ```
pub trait Observer: Send + Sync {
    /// A client is ready for requests and events. After [`Config::on_connection`](super::Config::on_connection).
    fn connected(&self, _visit: &Visit) {}

    /// A client has left: once for each that `connected` was called with. After
    /// [`Config::on_disconnection`](super::Config::on_disconnection).
    fn disconnected(&self, _visit: &Visit) {}

    /// A request has come to its end, whichever it was. Before its response is sent, if there is one. Once for each message of a
    /// client that was not a successful `auth`.
    fn completed(&self, _request: &Completed<'_>) {}
}

/// A client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Visit {
    /// The client.
    pub client_id: ClientId,
    /// When it connected, in Unix ms.
    pub connected_at_unix_ms: u64,
    /// How long it has been there.
    pub elapsed: Duration,
}

/// A request that has come to its end.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Completed<'a> {
    /// Who asked.
    pub client_id: ClientId,
    /// The channel; `None` if no handler was called, since then its name is any text that the client chose.
    pub channel: Option<&'a str>,
    /// The error that the client was told, if it was one. A request that ended with its connection has
    /// `CONNECTION_CLOSED`, though nobody was there to be told.
    pub error: Option<&'a WireError>,
    /// How long it took, from when its message was at hand; zero if no handler was called.
    pub elapsed: Duration,
    /// When it ended, in Unix ms.
    pub at_unix_ms: u64,
}

/// The observers of one client.
#[derive(Clone, Default)]
pub(super) struct Observers(Arc<[Arc<dyn Observer>]>);

/// A panic of an observer.
pub(super) struct Panicked;

impl Observers {
    pub(super) fn with(&self, observer: Arc<dyn Observer>) -> Observers {
        Observers(self.0.iter().cloned().chain([observer]).collect())
    }

    /// The time, if anybody wants to know how long something takes.
    pub(super) fn start(&self) -> Option<Instant> {
        (!self.0.is_empty()).then(Instant::now)
    }

    /// Calls them all.
    pub(super) fn tell(&self, call: impl Fn(&dyn Observer)) -> Result<(), Panicked> {
        let mut told = Ok(());
        for observer in &*self.0 {
            if catch_unwind(AssertUnwindSafe(|| call(&**observer))).is_err() {
                told = Err(Panicked);
            }
        }
        told
    }
}
