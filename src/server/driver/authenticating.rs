//! Channel `auth` of a client while the embedder's authenticator decides. Input: requests on it. Output: verdicts for the session,
//! and the identity of the client.

use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::json;
use crate::protocol::session::{Request, Verdict};
use crate::protocol::time::Millis;

use super::super::admission::is_long;
use super::super::authentication::{Attempt, Denied};
use super::super::config::ServerError;
use super::super::identity::Identity;
use super::super::metrics::Limited;
use super::super::shared::Lookup;
use super::asking::{Asking, expires_at};
use super::in_flight::internal_error;
use super::state::{Driver, Progress, Turn};

impl<Io: AsyncRead + AsyncWrite + Unpin> Driver<Io> {
    /// Asks the authenticator. It is polled in the same turn, because handling the message was progress.
    pub(super) fn start_asking(&mut self, turn: &mut Turn<'_, '_>, request: Request) {
        let payload = request.payload();
        let bearer = payload.as_str().and_then(|payload| json::string_member(payload, "token"));
        let bearer = bearer.map(|token| token.into_owned());
        let is_looked_at = bearer.as_ref().is_some_and(|token| is_long(token.as_bytes()));
        if self.is_paused(turn.now.at) && !is_looked_at {
            return self.evict(turn, Limited::WrongTokens);
        }
        let attempt = Attempt {
            headers: Arc::default(),
            uri: hyper::Uri::from_static("/"),
            peer: self.client.peer,
            bearer,
            payload: Some(payload),
            identity: self.client.identity(),
        };
        let (shared, key) = (self.client.shared.clone(), self.client.address);
        let deciding = Box::pin(async move { shared.authentication.ask(attempt, key).await });
        self.backlog().asking = Some(Box::new(Asking { request, deciding }));
    }

    /// Continues once the authenticator has decided.
    pub(super) fn handle_verdict(&mut self, turn: &mut Turn<'_, '_>) -> Progress {
        let Some(backlog) = &mut self.backlog else { return Progress::None };
        let asking = backlog.asking.as_mut().filter(|_| self.session.is_authenticating());
        let polled = asking.map(|asking| asking.deciding.as_mut().poll(turn.cx));
        if let Some(Poll::Pending) = polled {
            return Progress::None;
        }
        let Some(asking) = backlog.asking.take() else { return Progress::None };
        let Some(Poll::Ready(decided)) = polled else { return Progress::None };
        let verdict = self.verdict(turn, decided);
        let action = self.session.handle_verdict(turn.now, &asking.request, verdict, turn.out);
        let routes = self.client.shared.router.snapshot();
        self.perform(turn, &mut Lookup::new(&routes), action, &mut None);
        self.has_answered = true;
        Progress::Some
    }

    fn verdict(&mut self, turn: &mut Turn<'_, '_>, decided: Result<Identity, Denied>) -> Verdict {
        let (status, reason, verdict) = match decided {
            Ok(identity) => match self.accept(turn, identity) {
                Ok(expires_at) => return Verdict::Accepted(expires_at),
                Err(reason) => (401, reason.to_owned(), Verdict::Unauthorized(reason.to_owned())),
            },
            Err(Denied::Refused(refusal)) => {
                let reason = refusal.reason().to_owned();
                match refusal.is_forbidden() {
                    true => (403, reason.clone(), Verdict::Forbidden(reason)),
                    false => (401, reason.clone(), Verdict::Unauthorized(reason)),
                }
            }
            Err(Denied::TooLate) => {
                let message = "Authentication took too long";
                let error = WireError::with_code(ErrorCode::Timeout, message);
                (503, message.to_owned(), Verdict::Failed(error))
            }
            Err(Denied::Panicked) => {
                self.client.report(ServerError::HandlerPanicked { channel: "auth".to_owned() });
                (500, "Internal error".to_owned(), Verdict::Failed(internal_error()))
            }
        };
        self.client.notify_denied(status, &reason);
        // A client that is not let in is closed for the same reason.
        self.is_refused |= status == 403 && !self.session.is_open();
        verdict
    }

    /// Sets the identity of a client, and returns when its credential expires.
    fn accept(&mut self, turn: &Turn<'_, '_>, identity: Identity) -> Result<Option<Millis>, &'static str> {
        // A client that was let in without an identity, before there was an authenticator, counts as such.
        let is_other = match self.client.identity() {
            Some(known) => known.id() != identity.id(),
            None => self.is_counted(),
        };
        if is_other {
            return Err("the credential is of another identity");
        }
        if !self.is_counted()
            && let Some(window) = self.client.shared.admission.identity_window(identity.key())
        {
            self.session.share_window(window);
        }
        let expires_at = expires_at(&identity, turn.now);
        self.client.shared.hub.identify(&self.client, identity);
        if self.session.is_open() {
            self.client.notify_authenticated(true);
        }
        Ok(expires_at)
    }
}
