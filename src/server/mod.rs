//! The server: sockets, tasks and handlers around the machines of [`protocol`](crate::protocol).
//!
//! ```text
//! listen ─► upgrade (hyper) ─► driver (one task a client) ─► router ─► handler
//!              │                  ▲      │
//!              ▼                  │      ▼
//!      pages ─► http            hub     metrics
//! ```
//!
//! After the upgrade hyper is gone: the driver owns the socket and a [`Session`](crate::protocol::session::Session).
//! No lock is held while anything is awaited, polled or written.

mod config;
mod driver;
mod http;
mod hub;
mod listen;
mod metrics;
mod observer;
mod pages;
mod router;
mod upgrade;

use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::protocol::error::WireError;
use crate::protocol::frame::{Header, Role};
use crate::protocol::handshake::Refusal;
use crate::protocol::payload::Payload;
use crate::protocol::session::{Rules, write_event};
use crate::protocol::time::{Millis, Now};
use crate::protocol::uuid::Uuid;

pub use config::{Callback, Config, ServerError};
pub use metrics::Stats;
pub use observer::{Completed, Observer, Visit};
pub use pages::{Content, Page};
pub use router::RequestContext;

use hub::Hub;
use listen::Listening;
use metrics::Metrics;
use observer::Observers;
use pages::{Answer, PageRoute, Pages};
use router::{Route, Router};

/// A client's id, made when it connects and told to it in `server:connected`.
pub type ClientId = Uuid;

/// A client as [`Server::client_info`] shows it (specification, "WSClientData").
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientInfo {
    /// The client's id.
    pub id: ClientId,
    /// When it connected, in Unix ms.
    pub connected_at_unix_ms: u64,
    /// When the last byte came from it, in Unix ms.
    pub last_activity_unix_ms: u64,
    /// Messages it has sent, refused ones too.
    pub request_count: u64,
    /// How many more messages pass in its present rate window.
    pub remaining: u32,
}

/// A WebSocket server. A clone is another handle to the same server.
///
/// It runs on the tokio runtime from which it was started, and goes on until [`stop`](Server::stop), even if every
/// handle is dropped.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

/// A client's place among [`Config::max_connections`]. Dropping it frees the place.
struct Ticket(Arc<Shared>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::AcqRel);
        self.0.task_ended.notify_waiters();
    }
}

/// What the parts of a server share.
struct Shared {
    config: Config,
    rules: Arc<Rules>,
    router: Router,
    pages: Pages,
    /// Places for pages that are being answered.
    pages_at_once: Arc<Semaphore>,
    hub: Hub,
    metrics: Metrics,
    /// Of the clients that connect from now on.
    observers: RwLock<Observers>,
    /// By tokio's clock, which the alarms go by too: a test that pauses one pauses both.
    started: Instant,
    /// Places for connections whose HTTP request is not answered yet.
    handshakes: Arc<Semaphore>,
    /// Clients that have a [`Ticket`].
    tasks: AtomicUsize,
    task_ended: Notify,
    listening: Mutex<Option<Listening>>,
}

impl Server {
    /// A server that does nothing yet.
    pub fn new(config: Config) -> Server {
        let rules = Arc::new(Rules { limits: config.limits.clone(), token: config.token.clone() });
        let handshakes = Arc::new(Semaphore::new(config.max_handshakes.min(Semaphore::MAX_PERMITS)));
        let pages_at_once = Arc::new(Semaphore::new(config.max_pages.clamp(1, Semaphore::MAX_PERMITS)));
        Server {
            shared: Arc::new(Shared {
                config,
                rules,
                router: Router::default(),
                pages: Pages::default(),
                pages_at_once,
                hub: Hub::default(),
                metrics: Metrics::default(),
                observers: RwLock::default(),
                started: Instant::now(),
                handshakes,
                tasks: AtomicUsize::new(0),
                task_ended: Notify::new(),
                listening: Mutex::new(None),
            }),
        }
    }

    /// Registers the handler of a request channel, in place of one that may be there. At any time.
    ///
    /// The handler's future is first polled at once, in the client's own task; what waits is polled there too, beside
    /// the client's other requests. It is dropped when the client leaves and at the deadline of
    /// [`Limits::handler_timeout`](crate::protocol::limits::Limits::handler_timeout), so it must not block.
    pub fn on_request<F, Fut, R>(&self, channel: &str, handler: F)
    where
        F: Fn(Payload, RequestContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, WireError>> + Send + 'static,
        R: Into<Payload>,
    {
        self.shared.router.insert(channel, Route::new(None, handler));
    }

    /// Registers a handler with a deadline of its own.
    pub fn on_request_within<F, Fut, R>(&self, channel: &str, timeout: Duration, handler: F)
    where
        F: Fn(Payload, RequestContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, WireError>> + Send + 'static,
        R: Into<Payload>,
    {
        self.shared.router.insert(channel, Route::new(Some(timeout), handler));
    }

    /// Removes a channel's handler, and says whether there was one. Requests that it is answering go on.
    pub fn off_request(&self, channel: &str) -> bool {
        self.shared.router.remove(channel)
    }

    /// Serves what is below a path, in place of a handler that may be there for the same prefix: `GET` and `HEAD`, behind the
    /// same checks of `Host`, `Origin` and token as an upgrade; the token in `Authorization: Bearer`, or, for what cannot
    /// send headers, in `?token=`. Of several prefixes the longest that fits decides.
    ///
    /// The handler gets what follows the prefix just as it came, with its escapes and dots: use it as a key, never as the
    /// name of a file. `None` is 404. It is dropped when the connection ends, and after
    /// [`Config::page_timeout`]; it must not block.
    ///
    /// A page may be shown by pages of the same site, and read by those that may connect.
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
    /// When the prefix does not begin with `/`.
    pub fn on_get<F, Fut>(&self, prefix: &str, handler: F)
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<Page>> + Send + 'static,
    {
        assert!(prefix.starts_with('/'), "a prefix begins with /");
        self.shared.pages.insert(PageRoute::new(prefix, handler));
    }

    /// Has an observer told what clients do that connect from now on. There may be several.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        let mut observers = self.shared.observers.write().unwrap_or_else(PoisonError::into_inner);
        *observers = observers.with(observer);
    }

    /// Listens on the configured host and port, or on the next free port, and answers which.
    ///
    /// # Errors
    /// When every port tried is taken, the host cannot be resolved or bound, the server runs already, or a setting
    /// cannot be meant: an address beyond loopback without a token, unless [`Config::insecure`].
    pub async fn start(&self) -> io::Result<u16> {
        self.shared.config.check()?;
        let bound = listen::bind(&self.shared.config).await?;
        let port = bound.port;
        self.shared.listen(bound.listeners, port)?;
        Ok(port)
    }

    /// Serves a listener that the caller has bound, until [`stop`](Server::stop). The caller answers for the address;
    /// the rules for `Host` and `Origin` follow from it.
    ///
    /// # Errors
    /// As [`start`](Server::start).
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        self.shared.config.check()?;
        let address = listener.local_addr()?;
        listen::check_exposure(&self.shared.config, &[address])?;
        let stopped = self.shared.listen(vec![listener], address.port())?;
        // A closed semaphore is the end of listening; nobody ever releases a permit of this one.
        let _ = stopped.acquire().await;
        Ok(())
    }

    /// Answers a request of the caller's own hyper server: upgrades it if it may be, else says why not.
    ///
    /// The connection must be served `with_upgrades()`. `loopback` says whether it came in on a loopback address,
    /// which decides the rules for `Host` and `Origin`.
    ///
    /// What [`on_get`](Server::on_get) serves is answered by [`answer`](Server::answer) only.
    pub fn upgrade<B>(&self, request: &mut hyper::Request<B>, loopback: bool) -> hyper::Response<String> {
        match upgrade::answer_embedded(&self.shared, request, loopback) {
            Answer::Text(response) => response,
            Answer::Page(_) => http::refuse(Refusal::NotAnUpgrade),
        }
    }

    /// Answers a request of the caller's own hyper server as [`upgrade`](Server::upgrade) does, pages of
    /// [`on_get`](Server::on_get) included.
    pub async fn answer<B>(
        &self,
        request: &mut hyper::Request<B>,
        loopback: bool,
    ) -> hyper::Response<Content> {
        upgrade::answer_embedded(&self.shared, request, loopback).finish(&self.shared).await
    }

    /// Stops: no new clients, `server:shutdown` and `CONNECTION_CLOSED` to those who are there, close 1001. Returns
    /// when all have left, within [`Limits::close_timeout`](crate::protocol::limits::Limits::close_timeout) and a
    /// second. Afterwards the server can be started again.
    pub async fn stop(&self) {
        let listening = self.shared.listening().take();
        // Everything is told to stop before anything is waited for, so that a caller who gives up has stopped it too.
        self.shared.hub.stop();
        if let Some(listening) = listening {
            listening.end().await;
        }
        let all_gone = async {
            loop {
                let ended = self.shared.task_ended.notified();
                if self.shared.tasks.load(Ordering::Acquire) == 0 {
                    return;
                }
                ended.await;
            }
        };
        let patience = self.shared.rules.limits.close_timeout + Duration::from_secs(1);
        // Tasks cut themselves at the same deadline; one that is stuck in a handler's poll is not waited for.
        let _ = tokio::time::timeout(patience, all_gone).await;
    }

    /// Sends an event to every client. Encoded once, whatever their number. Never waits.
    pub fn emit(&self, channel: &str, payload: impl Into<Payload>) {
        if let Some(frame) = self.shared.encode(channel, payload.into()) {
            let sent = self.shared.hub.broadcast(&frame);
            self.shared.metrics.events_sent.fetch_add(sent as u64, Ordering::Relaxed);
        }
    }

    /// Sends an event to one client. Nothing happens if it is not there.
    pub fn emit_to(&self, client: ClientId, channel: &str, payload: impl Into<Payload>) {
        self.emit_to_many(&[client], channel, payload);
    }

    /// Sends an event to some clients. Encoded once. Those who are not there are passed over.
    pub fn emit_to_many(&self, clients: &[ClientId], channel: &str, payload: impl Into<Payload>) {
        let members: Vec<_> = clients.iter().filter_map(|id| self.shared.hub.member(*id)).collect();
        if members.is_empty() {
            return;
        }
        if let Some(frame) = self.shared.encode(channel, payload.into()) {
            for member in &members {
                member.post(frame.clone());
            }
            self.shared.metrics.events_sent.fetch_add(members.len() as u64, Ordering::Relaxed);
        }
    }

    /// How many clients there are. One that has yet to authenticate does not count.
    pub fn client_count(&self) -> usize {
        self.shared.hub.member_count()
    }

    /// The clients, in no order.
    pub fn client_ids(&self) -> Vec<ClientId> {
        self.shared.hub.member_ids()
    }

    /// What is known of a client.
    pub fn client_info(&self, client: ClientId) -> Option<ClientInfo> {
        let client = self.shared.hub.member(client)?;
        Some(client.info(self.shared.now().at))
    }

    /// The port, while the server listens.
    pub fn port(&self) -> Option<u16> {
        self.shared.listening().as_ref().map(|listening| listening.port)
    }

    /// Whether the server listens.
    pub fn is_running(&self) -> bool {
        self.shared.listening().is_some()
    }

    /// What the server has done since it was made.
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
    fn listening(&self) -> MutexGuard<'_, Option<Listening>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts on these listeners until told to stop. The semaphore closes then.
    fn listen(self: &Arc<Self>, listeners: Vec<TcpListener>, port: u16) -> io::Result<Arc<Semaphore>> {
        let mut listening = self.listening();
        if listening.is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the server runs already"));
        }
        self.hub.open();
        let started = Listening::start(self, listeners, port)?;
        let stopped = started.stopped.clone();
        *listening = Some(started);
        Ok(stopped)
    }

    /// A place for one more client; `None` if there are as many as there may be.
    fn ticket(self: &Arc<Self>) -> Option<Ticket> {
        let max = self.config.max_connections;
        let count = |tasks: usize| (tasks < max).then_some(tasks + 1);
        self.tasks.fetch_update(Ordering::AcqRel, Ordering::Acquire, count).ok()?;
        Some(Ticket(self.clone()))
    }

    /// The present. The wall clock is read for showing only; deadlines never see it.
    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            at: Millis::default() + self.started.elapsed(),
            unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn stats(&self) -> Stats {
        let uptime_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.metrics.stats(uptime_ms, self.hub.member_count())
    }

    /// An event's frame; `None`, and a report, if it is too long.
    fn encode(&self, channel: &str, payload: Payload) -> Option<Arc<[u8]>> {
        let mut frame = Vec::new();
        write_event(&mut frame, channel, payload.as_str(), self.now().unix_ms);
        let bytes = message_bytes(&frame);
        if bytes > self.rules.limits.max_message_bytes {
            self.report(ServerError::EventTooBig { channel: channel.to_owned(), bytes });
            return None;
        }
        Some(frame.into())
    }

    /// Tells `on_error`, the one callback whose own panic nobody is told of.
    fn report(&self, error: ServerError) {
        if let Some(on_error) = &self.config.on_error {
            let _ = catch_unwind(AssertUnwindSafe(|| on_error(error)));
        }
    }

    fn call_back(&self, callback: &Option<Callback<ClientId>>, id: ClientId) {
        if let Some(callback) = callback
            && catch_unwind(AssertUnwindSafe(|| callback(id))).is_err()
        {
            self.report(ServerError::CallbackPanicked);
        }
    }
}

/// The length of the message in a whole frame of a server, its header left out.
fn message_bytes(frame: &[u8]) -> usize {
    let header = Header::decode(Role::Client, frame).ok().flatten();
    frame.len() - header.map_or(0, |header| header.header_bytes)
}
