//! Decides about an HTTP request. Input: its head. Output: a response, a page, or an upgrade, after the authenticator was asked if
//! there is one; and reports of what was refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderMap};
use hyper::{Request, Response, StatusCode, Version};

use crate::protocol::connection::CloseCode;
use crate::protocol::handshake::{self, Accepted, AccessRules, Head, Refusal};
use crate::protocol::session::{FORBIDDEN, UNAUTHORIZED};

use super::admission::{Key, Peer, TOO_MANY_OF_IDENTITY};
use super::authentication::{Attempt, Denied, Refusal as Refused};
use super::config::ServerError;
use super::http::{busy, refuse, text};
use super::metrics::{Credential, Limited};
use super::observer;
#[cfg(feature = "pages")]
use super::pages::PageCall;
use super::shared::Shared;
use super::ticket::{Entry, Ticket};

/// When a client that found no place should try again.
const RETRY_WHEN_FULL: Duration = Duration::from_secs(10);
/// When a client should try again that found the server stopping.
const RETRY_WHEN_STOPPING: Duration = Duration::from_secs(1);
/// When a client should try again whose credential was not decided about in time.
const RETRY_WHEN_LATE: Duration = Duration::from_secs(1);

/// The answer to a request.
pub(super) enum Answer {
    Ready(Response<String>),
    /// A page, whose handler is still to be called.
    #[cfg(feature = "pages")]
    Page(PageCall),
}

/// What is decided before anything is awaited.
pub(super) enum Decided {
    Answer(Answer),
    Upgrade(Accepted, Ticket),
    /// The authenticator is to be asked.
    Ask(Box<Question>),
}

/// What the authenticator is asked, and what happens if it returns an identity.
pub(super) struct Question {
    attempt: Attempt,
    then: Then,
    /// Whether the client sends anything that can be a credential.
    has_credential: bool,
}

enum Then {
    Upgrade(Accepted),
    #[cfg(feature = "pages")]
    Answer(Answer),
}

/// Where a request comes from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) address: Option<IpAddr>,
}

impl Source<'_> {
    fn key(&self) -> Key {
        self.address.map(Into::into)
    }

    /// Reports a refusal, and counts it.
    pub(super) fn report(&self, shared: &Shared, status: u16, reason: &str, advice: Option<&str>) {
        let text = |name| self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let (host, origin) = (text(header::HOST), text(header::ORIGIN));
        shared.notify_refused(&observer::Refused {
            status,
            reason,
            host: host.as_deref(),
            origin: origin.as_deref(),
            address: self.address,
            advice,
        });
    }

    fn refuse(&self, shared: &Shared, response: Response<String>, advice: Option<&str>) -> Answer {
        self.report(shared, response.status().as_u16(), response.body(), advice);
        Answer::Ready(response)
    }
}

/// Decides about a request as far as that needs no waiting.
pub(super) fn decide<B>(shared: &Arc<Shared>, request: &Request<B>, peer: Peer) -> Decided {
    let head = Head {
        method: request.method().as_str(),
        http_1_1: request.version() == Version::HTTP_11,
        query: request.uri().query(),
        headers: request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
    };
    let config = &shared.config;
    let is_asked = shared.authentication.is_set();
    let rules = AccessRules {
        loopback: peer.loopback,
        allow_hosts: &config.allow_hosts,
        allow_origins: &config.allow_origins,
        token: config.token.as_deref().filter(|_| !is_asked),
    };
    let source = Source { headers: request.headers(), address: shared.admission.address(&head, peer) };
    if let Some(wait) = pause(shared, &head, &rules, source.key()) {
        shared.metrics.limited(Limited::WrongTokens);
        let response = busy(StatusCode::TOO_MANY_REQUESTS, "Too many wrong tokens", wait);
        return Decided::Answer(source.refuse(shared, response, None));
    }
    match handshake::check(&head, &AccessRules { token: None, ..rules }) {
        Ok(_) if !shared.hub.is_open() => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let response = busy(status, "Server is stopping", RETRY_WHEN_STOPPING);
            Decided::Answer(source.refuse(shared, response, None))
        }
        Ok(accepted) if is_asked => ask(request, &head, source, Then::Upgrade(accepted)),
        Ok(accepted) => enter(shared, &head, &rules, source, accepted),
        Err(Refusal::NotAnUpgrade) => ordinary(shared, request, &head, &rules, source),
        Err(refusal) => {
            let advice = handshake::advice(&head, refusal);
            Decided::Answer(source.refuse(shared, refuse(refusal), advice.as_deref()))
        }
    }
}

/// How long an address must wait whose earlier tokens were wrong. A long token cannot be guessed, so it is looked at.
fn pause(shared: &Shared, head: &Head<'_>, rules: &AccessRules<'_>, key: Key) -> Option<Duration> {
    let wait = shared.admission.wait(key, shared.clock.at())?;
    let token = handshake::sent_token(head)?;
    let is_looked_at = match rules.token {
        Some(_) => shared.admission.accepts_in_pause() && !handshake::sends_wrong_token(head, rules),
        None if shared.authentication.is_set() => super::admission::is_long(&token),
        None => true,
    };
    (!is_looked_at).then_some(wait)
}

/// Decides about an upgrade by the token of the configuration, if there is one.
fn enter(
    shared: &Arc<Shared>,
    head: &Head<'_>,
    rules: &AccessRules<'_>,
    source: Source<'_>,
    accepted: Accepted,
) -> Decided {
    let entry = match rules.token {
        Some(_) if handshake::sends_wrong_token(head, rules) => {
            return deny(
                shared,
                source,
                Then::Upgrade(accepted),
                &Refused::unauthorized("Token is wrong"),
                true,
            );
        }
        Some(_) if !handshake::sends_token(head) => Entry::Awaited,
        _ => Entry::Authenticated(None),
    };
    begin(shared, source, accepted, entry)
}

/// A request to the authenticator.
fn ask<B>(request: &Request<B>, head: &Head<'_>, source: Source<'_>, then: Then) -> Decided {
    let bearer = handshake::sent_token(head).and_then(|token| String::from_utf8(token).ok());
    let headers = source.headers;
    let has_credential = bearer.is_some()
        || headers.contains_key(header::AUTHORIZATION)
        || headers.contains_key(header::COOKIE);
    let attempt = Attempt {
        headers: Arc::new(headers.clone()),
        uri: request.uri().clone(),
        peer: source.address,
        bearer,
        payload: None,
        identity: None,
    };
    Decided::Ask(Box::new(Question { attempt, then, has_credential }))
}

/// Decides about a request that is not an upgrade.
#[cfg(feature = "pages")]
fn ordinary<B>(
    shared: &Arc<Shared>,
    request: &Request<B>,
    head: &Head<'_>,
    rules: &AccessRules<'_>,
    source: Source<'_>,
) -> Decided {
    let path = request.uri().path();
    let is_private = shared.pages.is_private(path);
    let answer = match shared.pages.answer(head, path, rules, || shared.stats()) {
        Ok(call) => Answer::Page(call.of(source.key())),
        Err(response) => Answer::Ready(*response),
    };
    let status = match &answer {
        Answer::Page(_) => StatusCode::OK,
        Answer::Ready(response) => response.status(),
    };
    if status == StatusCode::OK && is_private && shared.authentication.is_set() {
        return ask(request, head, source, Then::Answer(answer));
    }
    if status == StatusCode::UNAUTHORIZED && handshake::sends_wrong_token(head, rules) {
        shared.admission.add_wrong_tokens(source.key(), 1, shared.clock.at());
    }
    Decided::Answer(match answer {
        Answer::Ready(response) if matches!(status.as_u16(), 400 | 401 | 403) => {
            source.refuse(shared, response, None)
        }
        answer => answer,
    })
}

#[cfg(not(feature = "pages"))]
fn ordinary<B>(
    shared: &Arc<Shared>,
    _: &Request<B>,
    head: &Head<'_>,
    rules: &AccessRules<'_>,
    source: Source<'_>,
) -> Decided {
    Decided::Answer(match handshake::check_host(head, rules) {
        Err(refusal) => source.refuse(shared, refuse(refusal), None),
        Ok(()) => Answer::Ready(refuse(Refusal::NotAnUpgrade)),
    })
}

/// Gives a client that may connect its place.
fn begin(shared: &Arc<Shared>, source: Source<'_>, accepted: Accepted, entry: Entry) -> Decided {
    let limit = match shared.begin_client(source.address, entry) {
        Ok(ticket) => return Decided::Upgrade(accepted, ticket),
        Err(limit) => limit,
    };
    shared.metrics.limited(limit);
    let (status, reason) = match limit {
        Limited::Address => (StatusCode::TOO_MANY_REQUESTS, "Too many clients of this address"),
        Limited::Identity => (StatusCode::TOO_MANY_REQUESTS, "Too many clients of this identity"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "Too many clients"),
    };
    // A page cannot see a status, and its user has to learn that other tabs hold all places.
    if limit == Limited::Identity && accepted.subprotocol.is_some() {
        source.report(shared, status.as_u16(), reason, None);
        let entry = Entry::Refused(CloseCode::Again, TOO_MANY_OF_IDENTITY.to_owned());
        if let Ok(ticket) = shared.begin_client(source.address, entry) {
            return Decided::Upgrade(accepted, ticket);
        }
    }
    Decided::Answer(source.refuse(shared, busy(status, reason, RETRY_WHEN_FULL), None))
}

/// Asks the authenticator, if there is one. `Err` is an upgrade.
pub(super) async fn settle(shared: &Arc<Shared>, decided: Decided) -> Result<Answer, (Accepted, Ticket)> {
    let decided = match decided {
        Decided::Ask(question) => settle_question(shared, *question).await,
        decided => decided,
    };
    match decided {
        Decided::Answer(answer) => Ok(answer),
        Decided::Upgrade(accepted, ticket) => Err((accepted, ticket)),
        Decided::Ask(_) => Ok(Answer::Ready(text(StatusCode::INTERNAL_SERVER_ERROR, "Internal error"))),
    }
}

async fn settle_question(shared: &Arc<Shared>, question: Question) -> Decided {
    let Question { attempt, then, has_credential } = question;
    let headers = attempt.headers.clone();
    let source = Source { headers: &headers, address: attempt.peer };
    match (shared.authentication.ask(attempt, source.key()).await, then) {
        (Ok(identity), Then::Upgrade(accepted)) => {
            begin(shared, source, accepted, Entry::Authenticated(Some(identity)))
        }
        #[cfg(feature = "pages")]
        (Ok(_), Then::Answer(answer)) => Decided::Answer(answer),
        (Err(Denied::Refused(Refused::AwaitAuth)), Then::Upgrade(accepted)) => {
            begin(shared, source, accepted, Entry::Awaited)
        }
        (Err(Denied::Refused(refusal)), then) => deny(shared, source, then, &refusal, has_credential),
        (Err(Denied::TooLate), _) => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let response = busy(status, "Authentication took too long", RETRY_WHEN_LATE);
            Decided::Answer(source.refuse(shared, response, None))
        }
        (Err(Denied::Panicked), _) => {
            shared.observers().failed(ServerError::HandlerPanicked { channel: "auth".to_owned() });
            let response = text(StatusCode::INTERNAL_SERVER_ERROR, "Internal error");
            Decided::Answer(source.refuse(shared, response, None))
        }
    }
}

/// Refuses a client. One that offers `switchboard.v1` is upgraded, and closed with the reason: a page does not see the status of a
/// refused upgrade.
fn deny(
    shared: &Arc<Shared>,
    source: Source<'_>,
    then: Then,
    refusal: &Refused,
    has_credential: bool,
) -> Decided {
    let (status, code) = match refusal.is_forbidden() {
        true => (StatusCode::FORBIDDEN, FORBIDDEN),
        false => (StatusCode::UNAUTHORIZED, UNAUTHORIZED),
    };
    if has_credential && !refusal.is_forbidden() {
        shared.admission.add_wrong_tokens(source.key(), 1, shared.clock.at());
    }
    if matches!(then, Then::Upgrade(_)) {
        shared.metrics.credential(Credential::Refused);
    }
    match then {
        Then::Upgrade(accepted) if accepted.subprotocol.is_some() => {
            source.report(shared, status.as_u16(), refusal.reason(), None);
            begin(shared, source, accepted, Entry::Refused(code, refusal.reason().to_owned()))
        }
        _ => {
            let mut response = if refusal.is_forbidden() { text(status, "") } else { refuse(Refusal::Token) };
            refusal.reason().clone_into(response.body_mut());
            Decided::Answer(source.refuse(shared, response, None))
        }
    }
}
