//! The authenticator of the embedder, which decides who a client is. Input: what a client sends to be let in. Output: an identity,
//! or why there is none. A panic in it is contained, and a client that leaves cancels it.

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderMap;
use tokio::time::timeout;

use crate::protocol::payload::Payload;

use super::admission::Key;
use super::clock::unix_ms;
use super::identity::Identity;
use super::places::Places;

/// What a client sends to be let in: the request for the upgrade or for a page, or a request on channel `auth` of a connection
/// that is open.
///
/// See [`Server::authenticate`](super::Server::authenticate).
pub struct Attempt {
    pub(super) headers: Arc<HeaderMap>,
    pub(super) uri: Uri,
    pub(super) peer: Option<IpAddr>,
    pub(super) bearer: Option<String>,
    pub(super) payload: Option<Payload>,
    pub(super) identity: Option<Identity>,
}

impl Attempt {
    /// The token, from whichever place it came: `Authorization: Bearer`, the subprotocol `bearer.<token>`, `?token=`, or the
    /// member `token` of the payload on channel `auth`.
    pub fn bearer(&self) -> Option<&str> {
        self.bearer.as_deref()
    }

    /// The header fields of the request; none on channel `auth`.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The first value of a header field, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The path of the request; `/` on channel `auth`.
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The part of the request's target after the `?`.
    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    /// The subprotocols that the client offers, without the one that carries the token.
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        let values = self.headers.get_all("sec-websocket-protocol").iter();
        let names = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        names.map(str::trim).filter(|name| !name.starts_with("bearer."))
    }

    /// The client's address, as [`Connection::peer`](super::Connection::peer) returns it.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// The payload of the request on channel `auth`; `None` for a request for the upgrade or for a page.
    pub fn payload(&self) -> Option<&Payload> {
        self.payload.as_ref()
    }

    /// Who the client is until now, on channel `auth`. A connection keeps its identity: one of another
    /// [`id`](Identity::id) is refused.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
}

impl fmt::Debug for Attempt {
    /// Shows neither header fields, query nor payload: they can contain credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("path", &self.path())
            .field("peer", &self.peer)
            .field("has_bearer", &self.bearer.is_some())
            .finish_non_exhaustive()
    }
}

/// Why an authenticator lets a client not in. The client gets the reason; it should not help to guess a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The credential is missing, wrong or expired. 401; close 4401 for clients that offer `switchboard.v1`, which then ask for
    /// another token and connect again.
    Unauthorized,
    /// The client is known, and must not connect. 403; close 4403 for clients that offer `switchboard.v1`, which then give up.
    Forbidden,
    /// As [`Unauthorized`](Refusal::Unauthorized), with a reason. See [`unauthorized`](Refusal::unauthorized).
    UnauthorizedFor(Cow<'static, str>),
    /// As [`Forbidden`](Refusal::Forbidden), with a reason. See [`forbidden`](Refusal::forbidden).
    ForbiddenFor(Cow<'static, str>),
    /// The client is let in without an identity, and must send its credential on channel `auth` before anything else, within
    /// [`Limits::auth_timeout`](crate::protocol::limits::Limits::auth_timeout). On channel `auth` it is as
    /// [`Unauthorized`](Refusal::Unauthorized).
    AwaitAuth,
}

impl Refusal {
    /// The credential is missing, wrong or expired, for this reason.
    ///
    /// ```
    /// # use switchboard::Refusal;
    /// assert_eq!(Refusal::unauthorized("token is revoked").reason(), "token is revoked");
    /// ```
    pub fn unauthorized(reason: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::UnauthorizedFor(reason.into())
    }

    /// The client must not connect, for this reason.
    ///
    /// ```
    /// # use switchboard::Refusal;
    /// assert!(Refusal::forbidden("account is suspended").is_forbidden());
    /// ```
    pub fn forbidden(reason: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::ForbiddenFor(reason.into())
    }

    /// The reason, as the client and the observers get it.
    pub fn reason(&self) -> &str {
        match self {
            Refusal::Unauthorized | Refusal::AwaitAuth => "unauthorized",
            Refusal::Forbidden => "forbidden",
            Refusal::UnauthorizedFor(reason) | Refusal::ForbiddenFor(reason) => reason,
        }
    }

    /// Whether another credential of this client would not help.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Refusal::Forbidden | Refusal::ForbiddenFor(_))
    }
}

/// Why there is no identity.
pub(super) enum Denied {
    Refused(Refusal),
    /// The authenticator has no free place, or took too long.
    TooLate,
    Panicked,
}

type Deciding = Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + Send>>;

/// The function of the embedder.
type Hook = Arc<dyn Fn(Attempt) -> Deciding + Send + Sync>;

/// The authenticator of a server, if it has one.
pub(super) struct Authentication {
    hook: RwLock<Option<Hook>>,
    /// For the calls that run.
    places: Places<Key>,
    patience: Duration,
}

impl Authentication {
    pub(super) fn new(places: usize, patience: Duration) -> Authentication {
        Authentication { hook: RwLock::default(), places: Places::new(places), patience }
    }

    pub(super) fn set<F, Fut>(&self, authenticator: F)
    where
        F: Fn(Attempt) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Identity, Refusal>> + Send + 'static,
    {
        let hook: Hook = Arc::new(move |attempt| -> Deciding { Box::pin(authenticator(attempt)) });
        let replaced = self.hook.write().unwrap_or_else(PoisonError::into_inner).replace(hook);
        drop(replaced);
    }

    fn hook(&self) -> Option<Hook> {
        self.hook.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_set(&self) -> bool {
        self.hook().is_some()
    }

    /// Asks the authenticator, when it is the turn of this key.
    pub(super) async fn ask(&self, attempt: Attempt, key: Key) -> Result<Identity, Denied> {
        let Some(hook) = self.hook() else { return Err(Denied::Refused(Refusal::Unauthorized)) };
        let decided = timeout(self.patience, async {
            let _place = self.places.acquire(key).await;
            let called = catch_unwind(AssertUnwindSafe(|| hook(attempt))).map_err(|_| Denied::Panicked)?;
            let mut contained = Contained(Some(called));
            poll_fn(|cx| contained.poll(cx)).await
        });
        let identity = decided.await.unwrap_or(Err(Denied::TooLate))?;
        match identity.expires_at() {
            Some(at) if at <= unix_ms() => Err(Denied::Refused(Refusal::unauthorized("credential expired"))),
            _ => Ok(identity),
        }
    }
}

/// A call of the authenticator. A panic in it ends nothing else, not even when it is dropped.
struct Contained(Option<Deciding>);

impl Contained {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Identity, Denied>> {
        let Some(deciding) = &mut self.0 else { return Poll::Pending };
        match catch_unwind(AssertUnwindSafe(|| deciding.as_mut().poll(cx))) {
            Ok(polled) => polled.map_err(Denied::Refused),
            Err(_) => Poll::Ready(Err(Denied::Panicked)),
        }
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let deciding = self.0.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(deciding)));
    }
}
