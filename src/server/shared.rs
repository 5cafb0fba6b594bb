//! What the parts of a server share. Input: registrations, events, and questions from any thread. Output: frames in the clients'
//! mailboxes. Here are the handles: [`Server`] for the embedder, [`RequestContext`] for a handler.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use crate::protocol::error::WireError;
use crate::protocol::frame::{Header, Role};
use crate::protocol::groups::Groups;
use crate::protocol::payload::Payload;
use crate::protocol::session::{RequestId, Rules, write_event};

use super::admission::Admission;
use super::authentication::Authentication;
use super::client::{self, ClientInfo};
use super::clock::{Clock, Pauses, unix_ms};
use super::config::{ClientId, Config, ServerError};
use super::hub::Hub;
use super::identity::Party;
use super::memory::Memory;
use super::metrics::{Metrics, Stats};
use super::observer::{Observer, Observers};
#[cfg(feature = "pages")]
use super::pages::Pages;
use super::places::Places;
use super::router::{self, Router};

/// A client of this server.
pub(super) type Client = client::Client<Arc<Shared>>;
/// A handler of this server.
pub(super) type Route = router::Route<RequestContext>;
/// The handlers of this server, for a batch of requests.
pub(super) type Lookup<'a> = router::Lookup<'a, RequestContext>;

/// A WebSocket server. A clone is another handle to the same server.
///
/// It runs on the tokio runtime from which it was started, and goes on until [`stop`](Server::stop), even if every
/// handle is dropped.
#[derive(Clone)]
pub struct Server {
    pub(super) shared: Arc<Shared>,
}

/// As many threads as leave half of the machine to everything else.
fn decoding_places() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1)
}

/// What the parts of a server share.
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) rules: Arc<Rules>,
    pub(super) router: Router<RequestContext>,
    #[cfg(feature = "pages")]
    pub(super) pages: Pages,
    pub(super) hub: Hub<Arc<Shared>>,
    pub(super) metrics: Metrics,
    /// Those of the clients that connect from now on.
    observers: RwLock<Observers<Arc<Client>>>,
    pub(super) clock: Clock,
    pub(super) pauses: Pauses,
    pub(super) admission: Admission<Client>,
    pub(super) authentication: Authentication,
    /// Places for decoding large messages.
    pub(super) decoding: Places<Party>,
    pub(super) memory: Arc<Memory>,
    /// Clients whose upgrade was accepted and whose task has not ended.
    pub(super) tasks: AtomicUsize,
    pub(super) task_ended: Notify,
    listening: Mutex<Option<Listening>>,
}

/// The accept loops of a server.
pub(super) struct Listening {
    pub(super) port: u16,
    /// Closed when the server has stopped.
    pub(super) stopped: Arc<Semaphore>,
    pub(super) loops: Vec<JoinHandle<()>>,
}

impl Listening {
    /// Waits until the loops have ended and the port is free. Dropping this then ends [`Server::serve`].
    pub(super) async fn end(&mut self) {
        self.abort();
        for accept_loop in std::mem::take(&mut self.loops) {
            // An aborted task returns the error that says so.
            let _ = accept_loop.await;
        }
    }

    /// Ends the loops without waiting for them.
    fn abort(&self) {
        for accept_loop in &self.loops {
            accept_loop.abort();
        }
    }
}

impl Drop for Listening {
    /// A caller that stops waiting for the end has still ended the loops.
    fn drop(&mut self) {
        self.abort();
        self.stopped.close();
    }
}

impl Server {
    /// Makes a server without handlers that does not listen yet.
    ///
    /// ```
    /// use switchboard::{Config, Server};
    ///
    /// let server = Server::new(Config::default().port(0));
    /// assert!(!server.is_running());
    /// ```
    pub fn new(config: Config) -> Server {
        let config = Arc::new(config.bounded());
        let rules = Rules { limits: config.limits.clone(), token: config.token.clone() };
        Server {
            shared: Arc::new(Shared {
                rules: Arc::new(rules),
                router: Router::new(),
                #[cfg(feature = "pages")]
                pages: Pages::new(config.clone()),
                hub: Hub::new(Groups::new(config.max_groups, config.max_groups_per_connection)),
                metrics: Metrics::default(),
                observers: RwLock::new(Observers::new(config.clone())),
                clock: Clock::start(),
                pauses: Pauses::default(),
                admission: Admission::new(&config),
                authentication: Authentication::new(config.max_authentications, config.handshake_timeout),
                memory: Arc::new(Memory::new(config.max_buffered_bytes)),
                decoding: Places::new(decoding_places()),
                tasks: AtomicUsize::new(0),
                task_ended: Notify::new(),
                listening: Mutex::new(None),
                config,
            }),
        }
    }

    /// Registers the handler of a request channel. It replaces an earlier one, and can be called at any time.
    ///
    /// The handler's future is polled in the client's own task, at first at once; one that waits is polled there too,
    /// together with the client's other requests. It is dropped when the client leaves and at the deadline of
    /// [`Limits::handler_timeout`](crate::protocol::limits::Limits::handler_timeout), so it must not block.
    ///
    /// ```
    /// use serde_json::json;
    /// use switchboard::{Config, HandlerError, Payload, RequestContext, Server};
    ///
    /// let server = Server::new(Config::default());
    /// server.on_request("sum", |payload: Payload, _cx: RequestContext| async move {
    ///     let payload = payload.parse()?;
    ///     let numbers = payload["of"].as_array().ok_or(HandlerError::new("of: expected an array"))?;
    ///     Ok(json!(numbers.iter().filter_map(|number| number.as_f64()).sum::<f64>()))
    /// });
    /// ```
    pub fn on_request<F, Fut, R>(&self, channel: &str, handler: F)
    where
        F: Fn(Payload, RequestContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, WireError>> + Send + 'static,
        R: Into<Payload>,
    {
        self.shared.router.insert(channel, Route::new(None, handler));
    }

    /// Registers a handler that gets the state of the app, too. It keeps the state alive until it is removed or replaced, so the
    /// state must not own the server: a handler has [`RequestContext::server`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use switchboard::{Config, HandlerError, Payload, RequestContext, Server};
    ///
    /// #[derive(Default)]
    /// struct App {
    ///     greeted: AtomicU64,
    /// }
    ///
    /// async fn greet(app: Arc<App>, payload: Payload, _: RequestContext) -> Result<Payload, HandlerError> {
    ///     let name = payload.read(serde_json::from_str::<String>)?;
    ///     let number = app.greeted.fetch_add(1, Ordering::Relaxed) + 1;
    ///     Payload::write(serde_json::to_string(&format!("Hello, {name}, number {number}!")))
    /// }
    ///
    /// let app = Arc::new(App::default());
    /// let server = Server::new(Config::default());
    /// server.on_request_with(&app, "greet", greet);
    /// ```
    pub fn on_request_with<A, F, Fut, R>(&self, app: &Arc<A>, channel: &str, handler: F)
    where
        A: Send + Sync + 'static,
        F: Fn(Arc<A>, Payload, RequestContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, WireError>> + Send + 'static,
        R: Into<Payload>,
    {
        let app = app.clone();
        self.on_request(channel, move |payload, context| handler(app.clone(), payload, context));
    }

    /// Registers a handler with its own deadline.
    ///
    /// ```
    /// use std::time::Duration;
    /// use switchboard::{Config, Payload, RequestContext, Server};
    ///
    /// let server = Server::new(Config::default());
    /// server.on_request_within("report", Duration::from_secs(300), |_: Payload, _: RequestContext| async {
    ///     tokio::time::sleep(Duration::from_secs(60)).await; // longer than Limits::handler_timeout
    ///     Ok(())
    /// });
    /// ```
    pub fn on_request_within<F, Fut, R>(&self, channel: &str, timeout: Duration, handler: F)
    where
        F: Fn(Payload, RequestContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, WireError>> + Send + 'static,
        R: Into<Payload>,
    {
        self.shared.router.insert(channel, Route::new(Some(timeout), handler));
    }

    /// Removes a channel's handler, and returns whether there was one. Requests in flight go on.
    ///
    /// ```
    /// use switchboard::{Config, Payload, RequestContext, Server};
    ///
    /// let server = Server::new(Config::default());
    /// server.on_request("echo", |payload: Payload, _: RequestContext| async { Ok(payload) });
    /// assert!(server.off_request("echo"));
    /// assert!(!server.off_request("echo"));
    /// ```
    pub fn off_request(&self, channel: &str) -> bool {
        self.shared.router.remove(channel)
    }

    /// Serves the paths below a prefix, for `GET` and `HEAD`. It replaces an earlier handler of the same prefix; of several
    /// prefixes that match, the longest decides.
    ///
    /// `Host`, `Origin` and token are checked as for an upgrade. The token is in `Authorization: Bearer`, or, for
    /// requests that cannot have headers, in `?token=`.
    ///
    /// The handler gets the rest of the path as it was sent, with escapes and dots: use it as a key, never as the name of a
    /// file. `None` is 404. The handler is dropped when the connection ends, and after [`Config::page_timeout`]; it must
    /// not block.
    ///
    /// Pages of the same site may embed the page, and those that may connect may read it.
    ///
    /// ```
    /// use switchboard::{Config, Page, Server};
    ///
    /// let server = Server::new(Config::default());
    /// server.on_get("/badges/", |name: String| async move {
    ///     let text = format!("<svg xmlns='http://www.w3.org/2000/svg'><text y='20'>{}</text></svg>", name.len());
    ///     (name.len() < 100).then(|| {
    ///         Page::new("image/svg+xml", text).header("content-security-policy", "default-src 'none'; sandbox")
    ///     })
    /// });
    /// ```
    ///
    /// # Panics
    /// When the prefix does not start with `/`.
    #[cfg(feature = "pages")]
    pub fn on_get<F, Fut>(&self, prefix: &str, handler: F)
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<super::pages::Page>> + Send + 'static,
    {
        assert!(prefix.starts_with('/'), "a prefix starts with /");
        self.shared.pages.insert(prefix, handler);
    }

    /// Adds an observer for the clients that connect from now on. There may be several.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use switchboard::{Completed, Config, Observer, Server};
    ///
    /// struct Log;
    ///
    /// impl Observer for Log {
    ///     fn completed(&self, request: &Completed<'_>) {
    ///         println!("{:?} took {:?}, error: {:?}", request.channel, request.elapsed, request.error);
    ///     }
    /// }
    ///
    /// let server = Server::new(Config::default());
    /// server.observe(Arc::new(Log));
    /// ```
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.shared.change_observers(|observers| observers.add(observer));
    }

    /// Sends an event to every client. It is encoded once. Never waits. All clients get the events of all emitters in the
    /// same order.
    ///
    /// ```
    /// use serde_json::json;
    /// use switchboard::{Config, Server};
    ///
    /// let server = Server::new(Config::default());
    /// server.emit("news", json!({ "title": "Hello" }));
    /// ```
    pub fn emit(&self, channel: &str, payload: impl Into<Payload>) {
        if let Some(frame) = self.shared.encode(channel, &payload.into()) {
            let sent = self.shared.hub.broadcast(&frame);
            self.shared.metrics.events_sent.fetch_add(sent as u64, Ordering::Relaxed);
        }
    }

    /// Returns a function that emits to every client. It does not keep the server alive.
    #[cfg(feature = "backend")]
    pub(crate) fn emitter(&self) -> impl Fn(&str, Payload) + Send + Sync + use<> {
        let shared = Arc::downgrade(&self.shared);
        move |channel, payload| {
            if let Some(shared) = shared.upgrade() {
                Server { shared }.emit(channel, payload);
            }
        }
    }

    /// Sends an event to one client. Does nothing if it is not connected.
    ///
    /// ```
    /// use serde_json::json;
    /// use switchboard::{Config, Server};
    ///
    /// let server = Server::new(Config::default());
    /// for client in server.client_ids() {
    ///     server.emit_to(client, "greeting", json!({ "to": client.to_string() }));
    /// }
    /// ```
    pub fn emit_to(&self, client: ClientId, channel: &str, payload: impl Into<Payload>) {
        self.emit_to_many(&[client], channel, payload);
    }

    /// Sends an event to some clients. It is encoded once. Clients that are not connected are skipped.
    ///
    /// ```
    /// use serde_json::json;
    /// use switchboard::{Config, Server};
    ///
    /// let server = Server::new(Config::default());
    /// let first_two: Vec<_> = server.client_ids().into_iter().take(2).collect();
    /// server.emit_to_many(&first_two, "selected", json!({}));
    /// ```
    pub fn emit_to_many(&self, clients: &[ClientId], channel: &str, payload: impl Into<Payload>) {
        let members: Vec<_> = clients.iter().filter_map(|id| self.shared.hub.member(*id)).collect();
        self.shared.emit_to(&members, channel, &payload.into());
    }

    /// The number of clients. One that has not authenticated yet does not count.
    ///
    /// ```
    /// use switchboard::{Config, Server};
    ///
    /// let server = Server::new(Config::default());
    /// assert_eq!(server.client_count(), 0);
    /// ```
    pub fn client_count(&self) -> usize {
        self.shared.hub.member_count()
    }

    /// The clients, in no particular order.
    ///
    /// ```
    /// use switchboard::{Config, Server};
    ///
    /// let server = Server::new(Config::default());
    /// assert!(server.client_ids().is_empty());
    /// ```
    pub fn client_ids(&self) -> Vec<ClientId> {
        self.shared.hub.member_ids()
    }

    /// A client's state; `None` if it is not connected.
    ///
    /// ```
    /// use switchboard::{Config, Server};
    ///
    /// let server = Server::new(Config::default());
    /// for info in server.client_ids().into_iter().filter_map(|id| server.client_info(id)) {
    ///     println!("{}: {} requests", info.id, info.request_count);
    /// }
    /// ```
    pub fn client_info(&self, client: ClientId) -> Option<ClientInfo> {
        let client = self.shared.hub.member(client)?;
        Some(client.info(self.shared.clock.at()))
    }

    /// The port, while the server listens.
    ///
    /// ```
    /// use switchboard::{Config, Server};
    ///
    /// let server = Server::new(Config::default().port(3001));
    /// assert_eq!(server.port(), None); // it does not listen yet
    /// ```
    pub fn port(&self) -> Option<u16> {
        self.shared.listening().as_ref().map(|listening| listening.port)
    }

    /// Whether the server listens.
    ///
    /// ```
    /// use switchboard::{Config, Server};
    ///
    /// assert!(!Server::new(Config::default()).is_running());
    /// ```
    pub fn is_running(&self) -> bool {
        self.shared.listening().is_some()
    }

    /// The server's counters since it was made.
    ///
    /// ```
    /// use switchboard::{Config, ErrorCode, Server};
    ///
    /// let stats = Server::new(Config::default()).stats();
    /// assert_eq!(stats.requests, 0);
    /// assert_eq!(stats.errors_with(ErrorCode::Timeout), 0);
    /// ```
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("port", &self.port()).field("clients", &self.client_count()).finish()
    }
}

impl Shared {
    pub(super) fn listening(&self) -> MutexGuard<'_, Option<Listening>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn try_listening(&self) -> Option<MutexGuard<'_, Option<Listening>>> {
        self.listening.try_lock().ok()
    }

    /// Sends all clients away, and returns the loops that are to be ended. `listen::start` does the opposite under the same
    /// lock, so that a server that listens is open.
    pub(super) fn stop_listening(&self) -> Option<Listening> {
        let mut listening = self.listening();
        self.hub.stop();
        // A drain that goes on has ended.
        self.task_ended.notify_waiters();
        listening.take()
    }

    /// Makes all clients leave once nothing of theirs is in flight. Returns the loops that are to be ended, and the number of the
    /// drain.
    pub(super) fn drain_listening(&self) -> (Option<Listening>, Option<u64>) {
        let mut listening = self.listening();
        let number = self.hub.drain();
        (listening.take(), number)
    }

    /// The observers of a client that connects now.
    pub(super) fn observers(&self) -> Observers<Arc<Client>> {
        self.observers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the observers of the clients that connect from now on.
    pub(super) fn change_observers(&self, change: impl FnOnce(&mut Observers<Arc<Client>>)) {
        change(&mut self.observers.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn stats(&self) -> Stats {
        self.metrics.stats(self.clock.at().0, self.hub.member_count())
    }

    /// Sends an event to these clients.
    pub(super) fn emit_to(&self, members: &[Arc<Client>], channel: &str, payload: &Payload) {
        if members.is_empty() {
            return;
        }
        if let Some(frame) = self.encode(channel, payload) {
            self.hub.post(members, &frame);
            self.metrics.events_sent.fetch_add(members.len() as u64, Ordering::Relaxed);
        }
    }

    /// An event's frame; `None`, and a report, if it is too long.
    pub(super) fn encode(&self, channel: &str, payload: &Payload) -> Option<Arc<[u8]>> {
        let mut frame = Vec::new();
        write_event(&mut frame, channel, payload.as_str(), unix_ms());
        let bytes = message_bytes(&frame);
        if bytes > self.rules.limits.max_message_bytes {
            self.observers().failed(ServerError::EventTooBig { channel: channel.to_owned(), bytes });
            return None;
        }
        Some(frame.into())
    }
}

/// The length of the message in a server's whole frame, without the header.
fn message_bytes(frame: &[u8]) -> usize {
    let header = Header::decode(Role::Client, frame).ok().flatten();
    frame.len() - header.map_or(0, |header| header.header_bytes)
}

/// The request that a handler answers (specification, "RequestContext").
///
/// ```
/// use serde_json::json;
/// use switchboard::{Config, Payload, RequestContext, Server};
///
/// let server = Server::new(Config::default());
/// server.on_request("publish", |payload: Payload, cx: RequestContext| async move {
///     cx.emit("progress", json!({ "request": cx.request_id(), "done": 0.5 })); // to this client
///     cx.server().emit("published", payload); // to every client
///     Ok(json!({ "by": cx.client_id.to_string() }))
/// });
/// ```
#[derive(Clone)]
pub struct RequestContext {
    /// The client that asked.
    pub client_id: ClientId,
    pub(super) request_id: RequestId,
    pub(super) client: Arc<Client>,
}

impl RequestContext {
    pub(super) fn new(client: Arc<Client>, request_id: RequestId) -> RequestContext {
        RequestContext { client_id: client.id, request_id, client }
    }
}

impl fmt::Debug for RequestContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContext")
            .field("client_id", &self.client_id)
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}
