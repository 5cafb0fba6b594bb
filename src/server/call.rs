//! Calls of handlers in process, for tests and for programs that are their own client. Input: a channel, a payload, an identity.
//! Output: the handler's result, and the events that its caller got.

use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use crate::protocol::envelope::Envelope;
use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::frame::{Header, Role};
use crate::protocol::json;
use crate::protocol::payload::Payload;
use crate::protocol::session::RequestId;
use crate::protocol::uuid::Uuid;

use super::config::ServerError;
use super::identity::Identity;
use super::router::Running;
use super::shared::{Client, RequestContext, Route, Server};

/// A call of a handler, without a socket. It is made when it is awaited: guards, handler, deadline and containment of panics are
/// those of a request. The limits of a connection, such as the rate window, and authentication are not asked for.
pub struct Call {
    server: Server,
    channel: String,
    payload: Payload,
    identity: Option<Identity>,
}

/// How a [`Call`] ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Called {
    /// What a client would have got.
    pub result: Result<Payload, WireError>,
    /// The events that the caller got until then, in order: the channel and the payload of each.
    pub events: Vec<(String, Payload)>,
}

impl Server {
    /// Calls the handler of a channel in process. For the time of the call the caller is a client: the handler can emit to it, and it
    /// can join groups. Observers and callbacks are not notified of it, except of panics.
    ///
    /// ```
    /// use serde_json::json;
    /// use switchboard::{Config, HandlerError, Identity, Payload, RequestContext, Server};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let server = Server::new(Config::default());
    /// server.on_request("whoami", |_: Payload, cx: RequestContext| async move {
    ///     cx.emit("asked", json!({}));
    ///     let identity = cx.identity().ok_or(HandlerError::custom("NOT_SIGNED_IN", "sign in first"))?;
    ///     Ok(json!(identity.id()))
    /// });
    ///
    /// let payload = server.call("whoami", ()).identity(Identity::new("user:7")).await.unwrap();
    /// assert_eq!(payload.as_str(), Some("\"user:7\""));
    ///
    /// let called = server.call("whoami", ()).outcome().await;
    /// assert_eq!(called.result.unwrap_err().code, "NOT_SIGNED_IN");
    /// assert_eq!(called.events[0].0, "asked");
    /// # }
    /// ```
    pub fn call(&self, channel: &str, payload: impl Into<Payload>) -> Call {
        Call { server: self.clone(), channel: channel.to_owned(), payload: payload.into(), identity: None }
    }
}

impl Call {
    /// The same call by a client with an identity.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Call {
        self.identity = Some(identity);
        self
    }

    /// Makes the call, and returns its result with the events that the caller got.
    pub async fn outcome(self) -> Called {
        let caller = Caller::new(&self.server, self.identity);
        let mut events = Vec::new();
        let routes = self.server.shared.router.snapshot();
        let result = match routes.get(&self.channel) {
            Some(route) => caller.run(route, &self.channel, self.payload, &mut events).await,
            None => {
                let message = format!("No handler for: {}", self.channel);
                Err(WireError::with_code(ErrorCode::UnknownChannel, message))
            }
        };
        Called { result, events }
    }
}

impl IntoFuture for Call {
    type Output = Result<Payload, WireError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.outcome().await.result })
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("channel", &self.channel)
            .field("payload", &self.payload)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// A client without a connection. It leaves when it is dropped.
struct Caller(Arc<Client>);

impl Caller {
    fn new(server: &Server, identity: Option<Identity>) -> Caller {
        let shared = &server.shared;
        let (observers, rules, now) = (shared.observers(), shared.rules.clone(), shared.clock.now());
        let client = Client::new(Uuid::v4(), shared.clone(), observers, rules, (None, None), now);
        if let Some(identity) = identity {
            client.set_identity(identity);
        }
        client.set_member(true);
        let caller = Caller(Arc::new(client));
        shared.hub.join(&caller.0);
        caller
    }

    /// Calls the handler, as the task of a client does.
    async fn run(
        &self,
        route: &Route,
        channel: &str,
        payload: Payload,
        events: &mut Vec<(String, Payload)>,
    ) -> Result<Payload, WireError> {
        let limit = route.timeout.unwrap_or(self.0.shared.rules.limits.handler_timeout);
        let context = RequestContext::new(self.0.clone(), RequestId::local());
        let called = catch_unwind(AssertUnwindSafe(|| route.call(payload, context)));
        let Ok(running) = called else { return Err(self.panicked(channel)) };
        let mut running = Contained { caller: self, channel, running: Some(running) };
        let polled = poll_fn(|cx| {
            let polled = running.poll(cx);
            events.extend(self.events());
            polled
        });
        let result = tokio::time::timeout(limit, polled).await;
        drop(running);
        events.extend(self.events());
        let late = || WireError::with_code(ErrorCode::Timeout, "Handler did not finish in time");
        result.unwrap_or_else(|_| Err(late()))
    }

    fn panicked(&self, channel: &str) -> WireError {
        self.0.report(ServerError::HandlerPanicked { channel: channel.to_owned() });
        WireError::new("Internal error")
    }

    /// The events that have come since the last call.
    fn events(&self) -> Vec<(String, Payload)> {
        let frames = self.0.take_frames().unwrap_or_default();
        frames.iter().filter_map(|frame| event(frame)).collect()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let hub = &self.0.shared.hub;
        self.0.set_member(false);
        hub.leave(&self.0);
        hub.leave_groups(self.0.id);
        if let Some(belongings) = self.0.belongings() {
            belongings.release();
        }
    }
}

/// A handler whose panics are reported, also while it is dropped.
struct Contained<'a> {
    caller: &'a Caller,
    channel: &'a str,
    running: Option<Running>,
}

impl Contained<'_> {
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<Payload, WireError>> {
        let Some(running) = &mut self.running else { return Poll::Pending };
        let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(self.caller.panicked(self.channel))))
    }
}

impl Drop for Contained<'_> {
    fn drop(&mut self) {
        let running = self.running.take();
        if catch_unwind(AssertUnwindSafe(|| drop(running))).is_err() {
            self.caller.panicked(self.channel);
        }
    }
}

/// The channel and the payload of an event's frame.
fn event(frame: &[u8]) -> Option<(String, Payload)> {
    let header = Header::decode(Role::Client, frame).ok()??;
    let text = std::str::from_utf8(frame.get(header.header_bytes..)?).ok()?;
    let envelope = Envelope::decode(text).ok()?;
    let channel = json::unescape(envelope.channel)?.into_owned();
    let payload = envelope.payload.map(|payload| Payload::trusted(payload.to_owned()));
    Some((channel, payload.unwrap_or_default()))
}
