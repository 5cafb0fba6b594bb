//! Guards: functions of the embedder that can refuse a request before its handler is called. Input: the context of the request
//! and its channel. Output: a verdict, at once or later. A guard is a part of the handler's call: the same deadline and the same
//! containment of panics apply.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::payload::Payload;
use crate::protocol::quota::Quotas;

use super::config::ClientId;
use super::router::Verdict;
use super::shared::{RequestContext, Server};

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Now(result) => f.debug_tuple("Now").field(result).finish(),
            Verdict::Later(_) => f.write_str("Later(..)"),
        }
    }
}

/// What can be a guard of [`Server::guard`]: a function of a [`RequestContext`] and the channel's name as `Arc<str>` that returns
/// `Result<(), HandlerError>` or a future of it, or a [`RateLimit`]. `Kind` tells these apart, and is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a guard",
    note = "a guard is `|cx: RequestContext, channel: Arc<str>| …`, which returns `Result<(), HandlerError>` or a future of it"
)]
pub trait Guard<Kind>: Send + Sync + 'static {
    /// Judges a request. An error is the response to it.
    fn check(&self, cx: RequestContext, channel: Arc<str>) -> Verdict;
}

impl<F> Guard<Result<(), WireError>> for F
where
    F: Fn(RequestContext, Arc<str>) -> Result<(), WireError> + Send + Sync + 'static,
{
    fn check(&self, cx: RequestContext, channel: Arc<str>) -> Verdict {
        Verdict::Now(self(cx, channel))
    }
}

impl<F, Fut> Guard<Pin<Box<Fut>>> for F
where
    F: Fn(RequestContext, Arc<str>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), WireError>> + Send + 'static,
{
    fn check(&self, cx: RequestContext, channel: Arc<str>) -> Verdict {
        Verdict::Later(Box::pin(self(cx, channel)))
    }
}

impl Guard<()> for RateLimit {
    fn check(&self, cx: RequestContext, _: Arc<str>) -> Verdict {
        Verdict::Now(self.use_up(&cx))
    }
}

/// How many keys a [`RateLimit`] remembers by default.
const KEYS: usize = 10_000;

/// A guard that lets each user, or each connection, make a number of requests in a window of time. Further ones get `RATE_LIMITED`
/// under their own id, with `details.retryAfterMs`, and do not get to the handler.
///
/// The window opens with the first request after the last window ended. One limit that guards several channels counts their
/// requests together.
///
/// ```
/// use std::time::Duration;
/// use switchboard::{Config, RateLimit, Server};
///
/// let server = Server::new(Config::default());
/// server.guard_prefix("chat:send", RateLimit::per_identity(5, Duration::from_secs(1)));
/// ```
pub struct RateLimit {
    by: By,
    quotas: Mutex<Quotas<Key>>,
    max: u32,
    window: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Identity,
    Connection,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Identity(Box<str>),
    Connection(ClientId),
}

impl RateLimit {
    /// Counts the requests of all connections of an [`Identity`](super::Identity) together. Those of a client without one are
    /// counted by its connection.
    pub fn per_identity(max: u32, window: Duration) -> RateLimit {
        RateLimit::new(By::Identity, max, window, KEYS)
    }

    /// Counts the requests of each connection.
    pub fn per_connection(max: u32, window: Duration) -> RateLimit {
        RateLimit::new(By::Connection, max, window, KEYS)
    }

    /// Remembers so many users or connections, at least one. When there are more, the one whose last request is oldest is
    /// forgotten, and begins a new window with its next request.
    ///
    /// Default 10 000, as many as there are clients at most: about 2 MiB.
    #[must_use]
    pub fn max_keys(self, max_keys: usize) -> RateLimit {
        RateLimit::new(self.by, self.max, self.window, max_keys)
    }

    fn new(by: By, max: u32, window: Duration, max_keys: usize) -> RateLimit {
        RateLimit { by, quotas: Mutex::new(Quotas::new(max, window, max_keys)), max, window }
    }

    fn use_up(&self, cx: &RequestContext) -> Result<(), WireError> {
        let identity = if self.by == By::Identity { cx.identity() } else { None };
        let key = match identity {
            Some(identity) => Key::Identity(identity.id().into()),
            None => Key::Connection(cx.client_id),
        };
        let now = cx.server().shared.clock.at();
        let checked = self.quotas.lock().unwrap_or_else(PoisonError::into_inner).check(key, now);
        checked.map_err(|retry_after| {
            let details = Payload::trusted(format!("{{\"retryAfterMs\":{}}}", retry_after.as_millis()));
            WireError::with_code(ErrorCode::RateLimited, "Too many requests").details(details)
        })
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("max", &self.max)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Adds a guard for the requests on all channels, those that get a handler later included. It can refuse a request before the
    /// handler is called: its error is the response. Guards are asked in the order in which they were added. A request on a channel
    /// without a handler, or for authentication, is not guarded.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use switchboard::{Config, HandlerError, RequestContext, Server};
    ///
    /// async fn may_use(_user: Option<String>, _channel: &str) -> bool { true } // asks a database
    ///
    /// let server = Server::new(Config::default());
    /// server.guard(|cx: RequestContext, channel: Arc<str>| async move {
    ///     match may_use(cx.identity().map(|identity| identity.id().to_owned()), &channel).await {
    ///         true => Ok(()),
    ///         false => Err(HandlerError::custom("FORBIDDEN", format!("{channel} is not for you"))),
    ///     }
    /// });
    /// ```
    pub fn guard<Kind>(&self, guard: impl Guard<Kind>) {
        self.guard_prefix("", guard);
    }

    /// Adds a guard for the requests on the channels whose names start with a text, as [`guard`](Server::guard) does for all.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use switchboard::{Config, HandlerError, RequestContext, Server};
    ///
    /// struct User { is_admin: bool }
    ///
    /// let server = Server::new(Config::default());
    /// server.guard_prefix("admin:", |cx: RequestContext, _: Arc<str>| {
    ///     match cx.data::<User>().is_some_and(|user| user.is_admin) {
    ///         true => Ok(()),
    ///         false => Err(HandlerError::custom("FORBIDDEN", "only administrators can do this")),
    ///     }
    /// });
    /// ```
    pub fn guard_prefix<Kind>(&self, prefix: &str, guard: impl Guard<Kind>) {
        self.shared.router.guard(prefix, Arc::new(move |cx, channel| guard.check(cx, channel)));
    }
}
