//! The client (feature `client`): calls, events, and a connection that comes back by itself.
//!
//! ```text
//! Client ─ commands ─► link (one task a client) ─► server
//!    ▲                    │  ▲
//! answers, events ◄───────┘  └─ connect (address, upgrade)
//! ```
//!
//! ```no_run
//! use serde_json::json;
//! use switchboard::client::{Client, ClientOptions};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("ws://localhost:3001", ClientOptions::default()).await?;
//! client.on_message("chat:created", |event| println!("new: {}", event.payload.as_str().unwrap_or_default()));
//! match client.send_message("chat:create", json!({ "title": "Groceries" })).await {
//!     Ok(chat) => println!("{}", chat.parse()?["id"]),
//!     Err(error) => println!("{}: {}", error.code, error.message),
//! }
//! client.disconnect().await;
//! # Ok(()) }
//! ```
//!
//! Beside the server's events a client tells of itself:
//!
//! | channel | payload | when |
//! |---|---|---|
//! | `connection:open` | `{}` | the upgrade was answered |
//! | `connection:closed` | `{code: number \| null, reason}` | a connection has ended |
//! | `connection:reconnecting` | `{attempt, delayMs}` | it will be tried again after so long |
//! | `connection:failed` | `{attempts}` | it was tried often enough; nothing more happens by itself |

pub(crate) mod connect;
mod link;
mod listeners;
#[cfg(feature = "backend")]
pub(crate) mod tls;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::protocol::caller::{CallerLimits, timed_out};
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::protocol::time::{Millis, Now};

pub use listeners::{Event, Subscription};

use connect::Address;
use link::{Call, Command};
use listeners::Listeners;

/// The settings of a [`Client`]; the defaults are those of the specification.
#[derive(Clone)]
pub struct ClientOptions {
    /// Whether a connection that was lost is opened again.
    ///
    /// Default true.
    pub reconnect: bool,
    /// The pause before the first attempt. Each further one is half as long again, up to 30 s, give or take a fifth.
    ///
    /// Default 1 s.
    pub reconnect_interval: Duration,
    /// Attempts before `connection:failed`. The count starts again with each `server:connected`.
    ///
    /// Default 10.
    pub max_reconnect_attempts: u32,
    /// How long a call may take. Then it ends with `TIMEOUT`.
    ///
    /// Default 30 s.
    pub request_timeout: Duration,
    /// How long one attempt to connect may take, upgrade included.
    ///
    /// Default 10 s.
    pub connect_timeout: Duration,
    /// Most calls without an answer. The next ones wait for a place.
    ///
    /// Default 1 024.
    pub max_pending: usize,
    /// The token to show in `Authorization: Bearer`.
    ///
    /// Default none.
    pub token: Option<String>,
    /// The limits of each connection.
    pub limits: CallerLimits,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            reconnect: true,
            reconnect_interval: Duration::from_secs(1),
            max_reconnect_attempts: 10,
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            max_pending: 1024,
            token: None,
            limits: CallerLimits::default(),
        }
    }
}

impl fmt::Debug for ClientOptions {
    /// Shows everything but the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("reconnect", &self.reconnect)
            .field("reconnect_interval", &self.reconnect_interval)
            .field("max_reconnect_attempts", &self.max_reconnect_attempts)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

/// Where a client's connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// It is being opened, or will be tried again after a pause. Calls fail with `CONNECTION_CLOSED`.
    Connecting,
    /// Calls go through.
    Open,
    /// It is being closed.
    Closing,
    /// There is none, and none will come by itself. [`Client::open`] opens one.
    Closed,
}

const STATES: [ConnectionState; 4] =
    [ConnectionState::Connecting, ConnectionState::Open, ConnectionState::Closing, ConnectionState::Closed];

/// A client of one server. A clone is another handle to the same client; when the last one is dropped, the connection
/// closes.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
}

/// What the handles share with the task.
struct Shared {
    address: Address,
    options: ClientOptions,
    listeners: Listeners,
    state: AtomicU8,
    started: Instant,
}

/// What only the handles have: when it goes, the task ends.
struct Handle {
    /// To the task, while there is one.
    commands: Mutex<Option<mpsc::UnboundedSender<Command>>>,
    /// Held while a connection is opened.
    opening: tokio::sync::Mutex<()>,
    /// Places for calls without an answer.
    places: Semaphore,
}

impl Client {
    /// A client that is not connected yet, so that listeners can be there before the first event.
    ///
    /// # Errors
    /// `InvalidInput` when `url` is not `ws://host[:port][/path]`, `unix:/path`, or, with feature `backend`, `wss://…`.
    pub fn new(url: &str, options: ClientOptions) -> io::Result<Client> {
        let handle = Handle {
            commands: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            places: Semaphore::new(options.max_pending.clamp(1, Semaphore::MAX_PERMITS)),
        };
        let shared = Shared {
            address: Address::parse(url)?,
            options,
            listeners: Listeners::default(),
            state: AtomicU8::new(ConnectionState::Closed as u8),
            started: Instant::now(),
        };
        Ok(Client { shared: Arc::new(shared), handle: Arc::new(handle) })
    }

    /// A client that is connected.
    ///
    /// # Errors
    /// As [`new`](Client::new) and [`open`](Client::open).
    pub async fn connect(url: &str, options: ClientOptions) -> io::Result<Client> {
        let client = Client::new(url, options)?;
        client.open().await?;
        Ok(client)
    }

    /// Opens the connection, unless it is open. One attempt: whoever fails to get in may call again. To be called from
    /// within a tokio runtime.
    ///
    /// # Errors
    /// What the system says, `PermissionDenied` when the server answers 401 or 403, `ConnectionRefused` with its words
    /// when it answers anything else than an upgrade, `TimedOut` when it answers too late.
    pub async fn open(&self) -> io::Result<()> {
        let _alone = self.handle.opening.lock().await;
        if self.is_connected() {
            return Ok(());
        }
        // A task that waits to try again would open a second connection.
        self.end_task().await;
        let attempt = Attempt::begin(&self.shared);
        let connected = link::open(&self.shared).await?;
        let (sender, commands) = mpsc::unbounded_channel();
        *self.commands() = Some(sender);
        attempt.succeed();
        tokio::spawn(link::run(self.shared.clone(), commands, connected));
        Ok(())
    }

    /// Asks the server, and waits for the answer (specification, "Request/Response").
    ///
    /// # Errors
    /// What the server says; `TIMEOUT` when it says nothing in [`ClientOptions::request_timeout`]; `CONNECTION_CLOSED`
    /// when there is no connection, or it is lost before the answer. Then the request may or may not have been served.
    pub async fn send_message(
        &self,
        channel: &str,
        payload: impl Into<Payload>,
    ) -> Result<Payload, WireError> {
        self.send_message_within(channel, payload, self.shared.options.request_timeout).await
    }

    /// The same with a timeout of its own.
    ///
    /// # Errors
    /// As [`send_message`](Client::send_message).
    pub async fn send_message_within(
        &self,
        channel: &str,
        payload: impl Into<Payload>,
        timeout: Duration,
    ) -> Result<Payload, WireError> {
        if !self.is_connected() {
            return Err(link::closed("not connected"));
        }
        // The time that the call waits for its turn counts too.
        let answered = tokio::time::timeout(timeout, self.call(channel, payload.into(), timeout)).await;
        answered.unwrap_or_else(|_| Err(timed_out(channel)))
    }

    async fn call(&self, channel: &str, payload: Payload, timeout: Duration) -> Result<Payload, WireError> {
        let _place = self.handle.places.acquire().await.map_err(|_| link::closed("not connected"))?;
        let (answer, answered) = oneshot::channel();
        let call = Call { channel: channel.to_owned(), payload, timeout, answer };
        let sent =
            self.commands().as_ref().is_some_and(|commands| commands.send(Command::Call(call)).is_ok());
        if !sent {
            return Err(link::closed("not connected"));
        }
        answered.await.unwrap_or_else(|_| Err(link::closed("the connection was closed")))
    }

    /// Calls `callback` with each event of a channel, or of all channels with `*`. It runs in the client's task and must
    /// not block.
    pub fn on_message(
        &self,
        channel: &str,
        callback: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Subscription {
        self.shared.listeners.add(channel, callback)
    }

    /// Removes every callback of a channel.
    pub fn off_message(&self, channel: &str) {
        self.shared.listeners.remove_all(channel);
    }

    /// Whether calls go through.
    pub fn is_connected(&self) -> bool {
        self.connection_state() == ConnectionState::Open
    }

    /// Where the connection stands.
    pub fn connection_state(&self) -> ConnectionState {
        let state = self.shared.state.load(Ordering::Acquire);
        STATES.get(usize::from(state)).copied().unwrap_or(ConnectionState::Closed)
    }

    /// Closes the connection with code 1000, or ends the attempts to get it back. Calls that wait end with
    /// `CONNECTION_CLOSED`. Returns when it is done; [`open`](Client::open) opens another one.
    pub async fn disconnect(&self) {
        let _alone = self.handle.opening.lock().await;
        self.end_task().await;
    }

    async fn end_task(&self) {
        let Some(commands) = self.commands().take() else { return };
        let (done, ended) = oneshot::channel();
        if commands.send(Command::Disconnect(done)).is_ok() {
            // A task that has ended by itself drops the sender, which is as good.
            let _ = ended.await;
        }
    }

    fn commands(&self) -> std::sync::MutexGuard<'_, Option<mpsc::UnboundedSender<Command>>> {
        self.handle.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &self.connection_state()).finish_non_exhaustive()
    }
}

/// An attempt to connect. Where it ends without success, as when nobody waits for it any more, there is no connection.
struct Attempt<'a>(&'a Shared);

impl<'a> Attempt<'a> {
    fn begin(shared: &'a Shared) -> Attempt<'a> {
        shared.enter(ConnectionState::Connecting);
        Attempt(shared)
    }

    fn succeed(self) {
        self.0.enter(ConnectionState::Open);
        std::mem::forget(self);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.0.enter(ConnectionState::Closed);
    }
}

impl Shared {
    fn enter(&self, state: ConnectionState) {
        self.state.store(state as u8, Ordering::Release);
    }

    fn tell(&self, channel: &str, payload: Value) {
        self.listeners.tell(&Event { channel: channel.to_owned(), payload: payload.into() });
    }

    /// The present. Deadlines go by tokio's clock.
    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            at: Millis::default() + self.started.elapsed(),
            unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
