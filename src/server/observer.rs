//! Notifications about what clients do: [`Observer`], and the list of those that a client's task calls. Input: what the task
//! has seen. Output: calls; a panic in one is contained and reported.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::error::WireError;

use crate::protocol::session::Ending;

use super::config::{Callback, ClientId, Config, ServerError};

/// Receives events about the clients of a server, for statistics, logs and audits.
///
/// It is called in the clients' own tasks, so it must not block. A panic in it is contained, and reported as
/// [`ServerError::CallbackPanicked`].
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
    /// A client is ready for requests and events. Called after [`Config::on_connection`](super::Config::on_connection).
    fn connected(&self, _visit: &Visit<'_>) {}

    /// A client has left, for the reason in [`Visit::ending`]. Called once for each client that `connected` was called with, after
    /// [`Config::on_disconnection`](super::Config::on_disconnection).
    fn disconnected(&self, _visit: &Visit<'_>) {}

    /// A client has sent a right credential, where the server asks for one: before `connected`, and when it renews the credential.
    fn authenticated(&self, _client: &Authenticated<'_>) {}

    /// A client or a page was refused: in the answer to its request, on channel `auth`, or because the server closed the connection
    /// before the client had authenticated. Ordinary requests for what is not there are not reported.
    fn refused(&self, _request: &Refused<'_>) {}

    /// A client takes what is sent to it too slowly: more than
    /// [`Limits::soft_outbox_bytes`](crate::protocol::limits::Limits::soft_outbox_bytes) wait, or it is closed for that. Each is
    /// reported once, until nothing waits for the client.
    fn slow(&self, _client: &Slow<'_>) {}

    /// A request has ended, with or without success. Called before its response is sent, if there is one, and once for
    /// each message of a client except a successful `auth`.
    fn completed(&self, _request: &Completed<'_>) {}

    /// A failure that is not reported to any client. Called before [`Config::on_error`](super::Config::on_error).
    /// A panic in this call is ignored.
    fn failed(&self, _error: &ServerError) {}
}

/// A client or a request for a page that was refused.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Refused<'a> {
    /// The HTTP status. A client of `switchboard.v1` whose credential is refused gets 101 instead, and then close 4401 (for 401) or
    /// 4403 (for 403). A client that is refused after its upgrade has the status that it would have got before: 400 for a violation
    /// of the protocol, 401 or 403 for its credential or the lack of one, 503 if the server could not decide or has no place.
    pub status: u16,
    /// Why, as the client gets it.
    pub reason: &'a str,
    /// The value of `Host`, as the client sent it; `None` after the upgrade, as for `origin`.
    pub host: Option<&'a str>,
    /// The value of `Origin`, as the client sent it.
    pub origin: Option<&'a str>,
    /// The client's address, as [`Connection::peer`](super::Connection::peer) returns it.
    pub address: Option<IpAddr>,
    /// What was refused and which option allows it, for the log.
    pub advice: Option<&'a str>,
}

/// A client's connection, as an [`Observer`] sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Visit<'a> {
    /// The client.
    pub client_id: ClientId,
    /// When it connected, in Unix ms.
    pub connected_at_unix_ms: u64,
    /// How long it has been connected.
    pub elapsed: Duration,
    /// The id of its identity; `None` without an authenticator.
    pub identity: Option<&'a str>,
    /// Its address, as [`Connection::peer`](super::Connection::peer) returns it.
    pub peer: Option<IpAddr>,
    /// How many messages it has sent, refused ones included.
    pub requests: u64,
    /// How the connection has ended, and who closed it; `None` until then.
    pub ending: Option<&'a Ending>,
}

/// A client that has sent a right credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Authenticated<'a> {
    /// The client.
    pub client_id: ClientId,
    /// The id of its identity; `None` if it has sent [`Config::token`](super::Config::token).
    pub identity: Option<&'a str>,
    /// Its address, as [`Connection::peer`](super::Connection::peer) returns it.
    pub peer: Option<IpAddr>,
    /// Whether it renews the credential of a connection that is ready.
    pub is_renewal: bool,
}

/// A client that takes what is sent to it too slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Slow<'a> {
    /// The client.
    pub client_id: ClientId,
    /// The id of its identity; `None` without an authenticator.
    pub identity: Option<&'a str>,
    /// Its address, as [`Connection::peer`](super::Connection::peer) returns it.
    pub peer: Option<IpAddr>,
    /// How many bytes wait for it after the message that is being sent.
    pub waiting_bytes: usize,
    /// Whether it is closed for that.
    pub is_closed: bool,
}

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Completed<'a> {
    /// The client that sent it.
    pub client_id: ClientId,
    /// The channel; `None` if no handler was called, because the name is then any text that the client chose.
    pub channel: Option<&'a str>,
    /// The error in the response, if it has one. A request that ended with its connection has `CONNECTION_CLOSED`,
    /// although no response was sent.
    pub error: Option<&'a WireError>,
    /// The time from reading the message to its end; zero if no handler was called.
    pub elapsed: Duration,
    /// When it ended, in Unix ms.
    pub at_unix_ms: u64,
}

/// A function that is called with a new client.
type OnConnection<C> = Arc<dyn Fn(&C) + Send + Sync>;
/// A function that is called with a client that has left.
type OnDisconnection<C> = Arc<dyn Fn(&C, &Ending) + Send + Sync>;

/// The observers of a server at one moment: the callbacks of its configuration, and those that were added. `C` is a client.
pub(super) struct Observers<C>(Arc<List<C>>);

struct List<C> {
    config: Arc<Config>,
    added: Vec<Arc<dyn Observer>>,
    on_connection: Vec<OnConnection<C>>,
    on_disconnection: Vec<OnDisconnection<C>>,
}

impl<C> Clone for Observers<C> {
    fn clone(&self) -> Observers<C> {
        Observers(self.0.clone())
    }
}

impl<C> Clone for List<C> {
    fn clone(&self) -> List<C> {
        List {
            config: self.config.clone(),
            added: self.added.clone(),
            on_connection: self.on_connection.clone(),
            on_disconnection: self.on_disconnection.clone(),
        }
    }
}

impl<C> Observers<C> {
    pub(super) fn new(config: Arc<Config>) -> Observers<C> {
        let (on_connection, on_disconnection) = (Vec::new(), Vec::new());
        Observers(Arc::new(List { config, added: Vec::new(), on_connection, on_disconnection }))
    }

    pub(super) fn add(&mut self, observer: Arc<dyn Observer>) {
        Arc::make_mut(&mut self.0).added.push(observer);
    }

    pub(super) fn add_on_connection(&mut self, callback: OnConnection<C>) {
        Arc::make_mut(&mut self.0).on_connection.push(callback);
    }

    pub(super) fn add_on_disconnection(&mut self, callback: OnDisconnection<C>) {
        Arc::make_mut(&mut self.0).on_disconnection.push(callback);
    }

    /// Whether requests are observed.
    pub(super) fn want_requests(&self) -> bool {
        !self.0.added.is_empty()
    }

    /// The time, if requests are observed.
    pub(super) fn start(&self) -> Option<Instant> {
        self.want_requests().then(Instant::now)
    }

    pub(super) fn connected(&self, visit: &Visit<'_>, client: &C) {
        self.call_back(&self.0.config.on_connection, visit);
        for callback in &self.0.on_connection {
            self.contain(|| callback(client));
        }
        self.notify(|observer| observer.connected(visit));
    }

    pub(super) fn disconnected(&self, visit: &Visit<'_>, client: &C, ending: &Ending) {
        self.call_back(&self.0.config.on_disconnection, visit);
        for callback in &self.0.on_disconnection {
            self.contain(|| callback(client, ending));
        }
        self.notify(|observer| observer.disconnected(visit));
    }

    pub(super) fn authenticated(&self, client: &Authenticated<'_>) {
        self.notify(|observer| observer.authenticated(client));
    }

    pub(super) fn slow(&self, client: &Slow<'_>) {
        self.notify(|observer| observer.slow(client));
    }

    pub(super) fn refused(&self, request: &Refused<'_>) {
        self.notify(|observer| observer.refused(request));
    }

    pub(super) fn completed(&self, request: &Completed<'_>) {
        self.notify(|observer| observer.completed(request));
    }

    pub(super) fn failed(&self, error: ServerError) {
        for observer in &self.0.added {
            let _ = catch_unwind(AssertUnwindSafe(|| observer.failed(&error)));
        }
        if let Some(on_error) = &self.0.config.on_error {
            let _ = catch_unwind(AssertUnwindSafe(|| on_error(error)));
        }
    }

    fn call_back(&self, callback: &Option<Callback<ClientId>>, visit: &Visit<'_>) {
        if let Some(callback) = callback {
            self.contain(|| callback(visit.client_id));
        }
    }

    fn notify(&self, call: impl Fn(&dyn Observer)) {
        for observer in &self.0.added {
            self.contain(|| call(&**observer));
        }
    }

    /// Runs code of the embedder, and reports a panic in it.
    fn contain(&self, call: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(call)).is_err() {
            self.failed(ServerError::CallbackPanicked);
        }
    }
}
