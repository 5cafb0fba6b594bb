//! The handles of a client. Input: calls and subscriptions from any thread. Output: commands to the client's task.

use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::protocol::caller::timed_out;
use crate::protocol::error::WireError;
use crate::protocol::idle::judged_from;
use crate::protocol::payload::Payload;
use crate::protocol::time::Millis;

use super::connect::{Address, Upgrade};
use super::link::{self, Call, Command};
use super::listeners::{Event, Listeners, Subscription};
use super::options::ClientOptions;
use super::shared::{ConnectionState, Place, STATES, Shared, closed};
use super::source::Source;

/// A client of one server. A clone is another handle to the same client; when the last one is dropped, the connection
/// closes.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
}

/// What only the handles have. When it is dropped, the task ends.
struct Handle {
    /// To the task, while it runs.
    commands: Mutex<Option<mpsc::UnboundedSender<Command>>>,
    /// Held while a connection is opened.
    opening: tokio::sync::Mutex<()>,
    /// Permits for calls without an answer.
    permits: Semaphore,
}

impl Client {
    /// Makes a client that is not connected yet, so that callbacks can be registered before the first event.
    ///
    /// ```
    /// use switchboard::client::{Client, ClientOptions, ConnectionState};
    ///
    /// let client = Client::new("ws://localhost:3001", ClientOptions::default()).unwrap();
    /// assert_eq!(client.connection_state(), ConnectionState::Closed);
    /// assert!(Client::new("http://localhost:3001", ClientOptions::default()).is_err());
    /// ```
    ///
    /// # Errors
    /// `InvalidInput` when `url` is not `ws://host[:port][/path][?query]`, `unix:/path`, or, with feature `backend`, `wss://…`; when a
    /// header is not allowed, or the certificates cannot be read. A URL that is asked for is checked at each attempt.
    pub fn new(url: impl Into<Source>, options: ClientOptions) -> io::Result<Client> {
        let url = url.into();
        let address = match url.fixed() {
            Some(url) => Place::Known(Address::parse(url)?),
            None => Place::Asked(url),
        };
        let handle = Handle {
            commands: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            permits: Semaphore::new(options.max_pending.clamp(1, Semaphore::MAX_PERMITS)),
        };
        let shared = Shared {
            address,
            upgrade: Upgrade::new(&options)?,
            options,
            cause: Mutex::default(),
            listeners: Listeners::default(),
            state: AtomicU8::new(ConnectionState::Closed as u8),
            started: Instant::now(),
        };
        Ok(Client { shared: Arc::new(shared), handle: Arc::new(handle) })
    }

    /// Makes a client and connects it.
    ///
    /// ```no_run
    /// use switchboard::client::{Client, ClientOptions};
    ///
    /// # async fn run() -> std::io::Result<()> {
    /// let options = ClientOptions { token: Some("a long random text".to_owned()), ..ClientOptions::default() };
    /// let client = Client::connect("ws://localhost:3001", options).await?;
    /// assert!(client.is_connected());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`new`](Client::new) and [`open`](Client::open).
    pub async fn connect(url: impl Into<Source>, options: ClientOptions) -> io::Result<Client> {
        let client = Client::new(url, options)?;
        client.open().await?;
        Ok(client)
    }

    /// Opens the connection, unless it is open. It makes one attempt, which tries the addresses of the host in turn; call it again
    /// if that fails. It must be called within a tokio runtime.
    ///
    /// ```no_run
    /// use switchboard::client::{Client, ClientOptions};
    ///
    /// # async fn run() -> std::io::Result<()> {
    /// let client = Client::new("ws://localhost:3001", ClientOptions::default())?;
    /// client.on_message("server:connected", |event| println!("{:?}", event.payload.as_str()));
    /// client.open().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The system's error, with the name, address or certificate that it is about; `PermissionDenied` for the answers 401 and 403, and
    /// for the close codes 4401 and 4403; `ConnectionRefused` with the server's text for any other answer that is not an upgrade;
    /// `TimedOut` when there is no answer in time.
    pub async fn open(&self) -> io::Result<()> {
        let _alone = self.handle.opening.lock().await;
        if self.is_connected() {
            return Ok(());
        }
        // A task that waits for its next attempt would open a second connection.
        self.end_task().await;
        let attempt = Attempt::start(&self.shared);
        let connected = link::open(&self.shared).await.map_err(|failed| {
            self.shared.note_cause(Some(failed.error.to_string()));
            failed.error
        })?;
        let (sender, commands) = mpsc::unbounded_channel();
        *self.commands() = Some(sender);
        attempt.succeed();
        tokio::spawn(link::run(self.shared.clone(), commands, connected));
        Ok(())
    }

    /// Sends a request, and waits for the response (specification, "Request/Response").
    ///
    /// ```
    /// use serde_json::json;
    /// use switchboard::client::{Client, ClientOptions};
    /// use switchboard::{Config, ErrorCode, Payload, RequestContext, Server};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::new(Config::default().port(0));
    /// server.on_request("echo", |payload: Payload, _: RequestContext| async { Ok(payload) });
    /// let port = server.start().await?;
    ///
    /// let client = Client::connect(&format!("ws://localhost:{port}"), ClientOptions::default()).await?;
    /// let answer = client.send_message("echo", json!({ "n": 1 })).await?;
    /// assert_eq!(answer.as_str(), Some(r#"{"n":1}"#));
    /// let error = client.send_message("unknown", json!({})).await.unwrap_err();
    /// assert_eq!(error.code, ErrorCode::UnknownChannel);
    /// # client.disconnect().await;
    /// # server.stop().await;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The server's error; `TIMEOUT` without a response in [`ClientOptions::request_timeout`]; `CONNECTION_CLOSED` when there is
    /// no connection, or it is lost before the response. The request may have been served then.
    pub async fn send_message(
        &self,
        channel: &str,
        payload: impl Into<Payload>,
    ) -> Result<Payload, WireError> {
        self.send_message_within(channel, payload, self.shared.options.request_timeout).await
    }

    /// As [`send_message`](Client::send_message), with its own timeout.
    ///
    /// ```no_run
    /// # use switchboard::client::{Client, ClientOptions};
    /// # async fn run(client: Client) -> Result<(), switchboard::HandlerError> {
    /// use std::time::Duration;
    ///
    /// let minutes = Duration::from_secs(10 * 60);
    /// let answer = client.send_message_within("ai:chat", serde_json::json!({}), minutes).await?;
    /// # let _ = answer; Ok(()) }
    /// ```
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
            return Err(self.shared.not_connected());
        }
        let started = self.shared.now().at;
        let mut call = pin!(self.call(channel, payload.into(), timeout));
        // The time that the call waits for a permit counts too.
        if let Ok(answered) = tokio::time::timeout(timeout, call.as_mut()).await {
            return answered;
        }
        // The answer may have arrived while the process was stopped.
        let now = self.shared.now().at;
        let rest = judged_from(Millis::default(), now, started + timeout).since(now);
        let answered = tokio::time::timeout(rest, call).await;
        answered.unwrap_or_else(|_| Err(timed_out(channel)))
    }

    async fn call(&self, channel: &str, payload: Payload, timeout: Duration) -> Result<Payload, WireError> {
        let _permit = self.handle.permits.acquire().await.map_err(|_| self.shared.not_connected())?;
        let (answer, answered) = oneshot::channel();
        let call = Call { channel: channel.to_owned(), payload, timeout, answer };
        let sent =
            self.commands().as_ref().is_some_and(|commands| commands.send(Command::Call(call)).is_ok());
        if !sent {
            return Err(self.shared.not_connected());
        }
        answered.await.unwrap_or_else(|_| Err(closed("the client has ended")))
    }

    /// Calls `callback` with each event of a channel, or of all channels for `*`. It runs in the client's task and must not
    /// block.
    ///
    /// ```
    /// use switchboard::client::{Client, ClientOptions};
    ///
    /// let client = Client::new("ws://localhost:3001", ClientOptions::default()).unwrap();
    /// let subscription = client.on_message("*", |event| println!("{} {:?}", event.channel, event.payload.as_str()));
    /// subscription.unsubscribe();
    /// ```
    pub fn on_message(
        &self,
        channel: &str,
        callback: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Subscription {
        self.shared.listeners.add(channel, callback)
    }

    /// Removes every callback of a channel.
    ///
    /// ```
    /// use switchboard::client::{Client, ClientOptions};
    ///
    /// let client = Client::new("ws://localhost:3001", ClientOptions::default()).unwrap();
    /// client.on_message("news", |event| println!("{:?}", event.payload.as_str()));
    /// client.off_message("news");
    /// ```
    pub fn off_message(&self, channel: &str) {
        self.shared.listeners.remove_all(channel);
    }

    /// Whether calls are sent.
    ///
    /// ```
    /// use switchboard::client::{Client, ClientOptions};
    ///
    /// let client = Client::new("ws://localhost:3001", ClientOptions::default()).unwrap();
    /// assert!(!client.is_connected());
    /// ```
    pub fn is_connected(&self) -> bool {
        self.connection_state() == ConnectionState::Open
    }

    /// The state of the connection.
    ///
    /// ```
    /// use switchboard::client::{Client, ClientOptions, ConnectionState};
    ///
    /// let client = Client::new("ws://localhost:3001", ClientOptions::default()).unwrap();
    /// assert_eq!(client.connection_state(), ConnectionState::Closed);
    /// ```
    pub fn connection_state(&self) -> ConnectionState {
        let state = self.shared.state.load(Ordering::Acquire);
        STATES.get(usize::from(state)).copied().unwrap_or(ConnectionState::Closed)
    }

    /// Closes the connection with code 1000, or ends the attempts to reconnect. Calls in flight end with
    /// `CONNECTION_CLOSED`. Returns when it is closed; [`open`](Client::open) opens another one.
    ///
    /// ```no_run
    /// # async fn run(client: switchboard::client::Client) {
    /// client.disconnect().await;
    /// assert!(!client.is_connected());
    /// # }
    /// ```
    pub async fn disconnect(&self) {
        let _alone = self.handle.opening.lock().await;
        self.end_task().await;
    }

    async fn end_task(&self) {
        let Some(commands) = self.commands().take() else { return };
        let (done, ended) = oneshot::channel();
        if commands.send(Command::Disconnect(done)).is_ok() {
            // A task that has ended already has dropped the sender: no need to wait then.
            let _ = ended.await;
        }
    }

    fn commands(&self) -> MutexGuard<'_, Option<mpsc::UnboundedSender<Command>>> {
        self.handle.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &self.connection_state()).finish_non_exhaustive()
    }
}

/// An attempt to connect. Dropped without success, as when its caller stops waiting, it leaves the client closed.
struct Attempt<'a>(&'a Shared);

impl<'a> Attempt<'a> {
    fn start(shared: &'a Shared) -> Attempt<'a> {
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
