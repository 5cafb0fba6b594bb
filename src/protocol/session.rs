//! The session machine: the server's end of one client, from `server:connected` to the close frame. Input: bytes, results of
//! handlers, time. Output: requests for the router, and the bytes to send. Never calls a handler, never waits.
//!
//! | input | `Unauthenticated` | `Open` | `Closing` | `Finished` |
//! |---|---|---|---|---|
//! | message over the rate limit | `RATE_LIMITED` | `RATE_LIMITED` | - | - |
//! | message that is not a request | `INVALID_MESSAGE` | `INVALID_MESSAGE` | - | - |
//! | `auth` with the token | response, [`Action::Authenticated`], `Open` | response | - | - |
//! | `auth` without the token | `UNAUTHORIZED` | `UNAUTHORIZED` | - | - |
//! | other request | `UNAUTHORIZED` | [`Action::Request`] | - | - |
//! | ping | pong | pong | - | - |
//! | pong | - | - | - | - |
//! | close frame | close frame, `Finished` | close frame, `Finished` | `Finished` | - |
//! | violation of RFC 6455 or a limit | close frame, `Finished` | close frame, `Finished` | `Finished` | - |
//! | [`answer`](Session::answer) | | response | - | - |
//! | deadline of a parked request | | `TIMEOUT`, [`Due::Expired`] | | |
//! | [`Limits::auth_timeout`] | close 1008, `Closing` | | | |
//! | [`Limits::ping_interval`] of silence | ping | ping | - | - |
//! | [`Limits::idle_timeout`] of silence | close 1001, `Closing` | close 1001, `Closing` | - | - |
//! | [`Limits::close_timeout`] | | | [`Due::Cut`] | [`Due::Cut`] |
//! | [`close`](Session::close) | close frame, `Closing` | close frame, `Closing` | - | - |
//! | [`shut_down`](Session::shut_down) | close 1001, `Closing` | `server:shutdown`, `CONNECTION_CLOSED` per parked request, close 1001, `Closing` | - | - |
//!
//! `-` is no effect, and an empty cell cannot occur. A code in capitals is an error response. A channel `auth` is special only
//! if there is a token. The states are seen from outside: `Open` is [`is_open`](Session::is_open), `Closing` is
//! [`closing_until`](Session::closing_until), `Finished` is [`is_finished`](Session::is_finished). In `Finished`
//! [`handle_deadline`](Session::handle_deadline) always returns [`Due::Cut`]. Leaving `Open` discards the parked requests.

use std::str::Utf8Error;
use std::sync::Arc;
use std::time::Duration;

use super::connection::{CloseCode, Connection, Event};
use super::envelope::{self, Body, Envelope, EnvelopeError, EnvelopeErrorKind, Kind, Members, Timestamp};
use super::error::{ErrorCode, WireError};
use super::frame;
use super::handshake;
use super::idle::{IdleAction, IdleTimer};
use super::json::{self, JsonError, JsonErrorKind};
use super::limits::Limits;
use super::payload::Payload;
use super::rate::RateWindow;
pub use super::request::{Request, RequestId};
pub use super::step::{Due, Step};
use super::time::{Millis, Now};
use super::uuid::Uuid;

/// What all sessions of a server share.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The limits of each session.
    pub limits: Limits,
    /// The token that clients must send, if there is one.
    pub token: Option<String>,
}

/// The server's end of one client's connection. `H` is what the caller keeps with each parked request: its handler.
///
/// # Contract
///
/// 1. Call [`open`](Session::open) once, before anything else.
/// 2. After each read, call [`handle_input`](Session::handle_input) until everything is consumed or
///    [`wants_input`](Session::wants_input) is false. Keep the rest, and continue when it is true again.
/// 3. Give each [`Request`] to [`answer`](Session::answer), or to [`park`](Session::park) and its result to
///    [`answer_parked`](Session::answer_parked).
/// 4. At [`deadline`](Session::deadline), call [`handle_deadline`](Session::handle_deadline) until it returns `None`. After
///    [`Due::Cut`], close the transport.
/// 5. After each call, send what was appended to `out`, and ask for the deadline again: it may have changed.
/// 6. When [`is_finished`](Session::is_finished), send what is left, then close the transport.
///
/// The session drops an `H` when it discards the request, because the connection closes.
#[derive(Debug)]
pub struct Session<H = ()> {
    rules: Arc<Rules>,
    id: Uuid,
    connection: Connection,
    phase: Phase,
    rate: RateWindow,
    idle: IdleTimer,
    parked: Vec<Option<Parked<H>>>,
    in_flight: usize,
    /// No parked request expires before this; it may be earlier than the first that does.
    parked_deadline: Millis,
    tally: Tally,
    keeps_errors: bool,
    last_error: Option<Box<WireError>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unauthenticated { until: Millis },
    Open,
    Closing { until: Millis },
}

#[derive(Debug)]
struct Parked<H> {
    request: Request,
    until: Millis,
    handler: H,
}

/// Counters since the last [`Session::take_tally`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Data messages received.
    pub requests: u32,
    /// Error responses, by `ErrorCode as usize`.
    pub errors: [u32; 7],
}

/// The place of a parked request. It is used again once the request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

impl Slot {
    /// A small number, different for each request that is parked now.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What the caller of a session has to do.
#[derive(Debug)]
pub enum Action {
    /// Call the handler, and answer.
    Request(Request),
    /// The client has authenticated: it may get events from now on.
    Authenticated,
}

impl<H> Session<H> {
    /// Makes a session that starts now. A client that is not `authenticated` must send the token on channel `auth`.
    pub fn new(rules: Arc<Rules>, id: Uuid, authenticated: bool, now: Millis) -> Session<H> {
        let limits = &rules.limits;
        let phase = match authenticated {
            true => Phase::Open,
            false => Phase::Unauthenticated { until: now + limits.auth_timeout },
        };
        Session {
            id,
            connection: Connection::server(limits.max_message_bytes),
            phase,
            rate: RateWindow::default(),
            idle: IdleTimer::new(now),
            parked: Vec::new(),
            in_flight: 0,
            parked_deadline: Millis(u64::MAX),
            tally: Tally::default(),
            keeps_errors: false,
            last_error: None,
            rules,
        }
    }

    /// Appends `server:connected`, the first message to every client.
    pub fn open(&mut self, now: Now, out: &mut Vec<u8>) {
        let payload = format!(r#"{{"clientId":"{}","serverTime":{}}}"#, self.id, now.unix_ms);
        write_event(out, "server:connected", Some(&payload), now.unix_ms);
    }

    /// The client's id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whether events may be sent: the client is authenticated, and no close frame was sent or received.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open && self.connection.is_open()
    }

    /// Whether the connection has ended: send what is left, then close the transport.
    pub fn is_finished(&self) -> bool {
        self.connection.is_closed()
    }

    /// Whether it has ended because the client broke the protocol or a limit. More may come from the client then. Read and
    /// drop it, or a reset may overtake the close frame.
    pub fn is_failed(&self) -> bool {
        self.connection.is_failed()
    }

    /// Until when the client may answer the close frame, if this end sent the first one.
    pub fn closing_until(&self) -> Option<Millis> {
        match self.phase {
            Phase::Closing { until } => Some(until),
            Phase::Unauthenticated { .. } | Phase::Open => None,
        }
    }

    /// Whether more input may be handled: not while [`Limits::max_in_flight`] requests are parked.
    pub fn wants_input(&self) -> bool {
        self.in_flight < self.rules.limits.max_in_flight && !self.connection.is_closed()
    }

    /// The number of parked requests.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many more messages pass in the present rate window.
    pub fn remaining(&self, now: Millis) -> u32 {
        self.rate.remaining(now, self.rules.limits.rate_max_requests)
    }

    /// The rate window.
    pub fn rate(&self) -> &RateWindow {
        &self.rate
    }

    /// When bytes last arrived from the client, or [`touch`](Session::touch) was called.
    pub fn last_byte(&self) -> Millis {
        self.idle.last_byte()
    }

    /// Memory held for a message that is not complete, in bytes.
    pub fn buffered_bytes(&self) -> usize {
        self.connection.buffered_bytes()
    }

    /// The counters since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Keeps the error of each answer for [`take_error`](Session::take_error) from now on.
    pub fn keep_errors(&mut self) {
        self.keeps_errors = true;
    }

    /// The error of the last answer, if that was one, and errors are kept.
    pub fn take_error(&mut self) -> Option<Box<WireError>> {
        self.last_error.take()
    }

    /// Resets the idle timer: the client accepted some of our bytes.
    pub fn touch(&mut self, now: Millis) {
        self.idle.touch(now);
    }

    /// Takes the next step into bytes from the client: at most one frame. A message that is refused is answered.
    pub fn handle_input(&mut self, now: Now, input: &mut [u8], out: &mut Vec<u8>) -> Step<Action> {
        if !self.wants_input() {
            let consumed = if self.connection.is_closed() { input.len() } else { 0 };
            return Step { consumed, action: None };
        }
        self.idle.touch(now.at);
        let received = self.connection.receive(input, out);
        let action = match received.event {
            Some(Event::Text(text)) => self.handle_message(now, Ok(&text), out),
            Some(Event::Binary(bytes)) => self.handle_message(now, std::str::from_utf8(&bytes), out),
            Some(Event::Closed { .. } | Event::Failed(_)) => {
                self.discard_parked();
                None
            }
            None => None,
        };
        Step { consumed: received.consumed, action }
    }

    fn handle_message(
        &mut self,
        now: Now,
        text: Result<&str, Utf8Error>,
        out: &mut Vec<u8>,
    ) -> Option<Action> {
        self.tally.requests = self.tally.requests.saturating_add(1);
        let limits = &self.rules.limits;
        let passes = self.rate.check(now.at, limits.rate_max_requests, limits.rate_window);
        let decoded = decode_request(text);
        let text = text.unwrap_or_default();
        if let Err(retry_after) = passes {
            let (id, channel) = match decoded {
                Ok(members) => {
                    let envelope = members.envelope(Kind::Request, text);
                    (envelope.id, Some(envelope.channel))
                }
                Err(error) => (error.id, error.channel),
            };
            return self.refuse(now, "rate_limited", "system", rate_limited(id, channel, retry_after), out);
        }
        let members = match decoded {
            Ok(members) => members,
            Err(EnvelopeError { kind, id, channel }) => {
                let (id, channel) = (id.unwrap_or("invalid_message"), channel.unwrap_or("system"));
                let error = WireError::with_code(ErrorCode::InvalidMessage, kind.to_string());
                return self.refuse(now, id, channel, error, out);
            }
        };
        if self.rules.token.is_some() {
            let envelope = members.envelope(Kind::Request, text);
            if json::unescape(envelope.channel).as_deref() == Some("auth") {
                return self.authenticate(now, &envelope, out);
            }
        }
        if self.phase != Phase::Open {
            let envelope = members.envelope(Kind::Request, text);
            let error = WireError::with_code(ErrorCode::Unauthorized, "Authentication required");
            return self.refuse(now, envelope.id.unwrap_or_default(), envelope.channel, error, out);
        }
        Some(Action::Request(Request::new(text, members)))
    }

    /// Handles a request on channel `auth`, whose payload is `{token}`.
    fn authenticate(&mut self, now: Now, envelope: &Envelope<'_>, out: &mut Vec<u8>) -> Option<Action> {
        let (id, channel) = (envelope.id.unwrap_or_default(), envelope.channel);
        let sent = envelope.payload.and_then(|payload| json::string_member(payload, "token"));
        let token = self.rules.token.as_deref().unwrap_or_default();
        let right = |sent: &str| handshake::same_token(sent.as_bytes(), token.as_bytes());
        if !sent.as_deref().is_some_and(right) {
            let message = if sent.is_some() { "Token is wrong" } else { "Payload must be {token: string}" };
            let error = WireError::with_code(ErrorCode::Unauthorized, message);
            return self.refuse(now, id, channel, error, out);
        }
        let payload = Payload::trusted(r#"{"authenticated":true}"#.to_owned());
        self.respond(now, id, channel, Ok(payload), usize::MAX, out);
        if let Phase::Unauthenticated { .. } = self.phase {
            self.phase = Phase::Open;
            return Some(Action::Authenticated);
        }
        None
    }

    /// Answers a message that does not get to a handler.
    #[cold]
    fn refuse(
        &mut self,
        now: Now,
        id: &str,
        channel: &str,
        error: WireError,
        out: &mut Vec<u8>,
    ) -> Option<Action> {
        self.respond(now, id, channel, Err(error), usize::MAX, out);
        None
    }

    /// Answers a request. A response over [`Limits::max_message_bytes`] is replaced by an error. Nothing is sent if a close
    /// frame was sent or received.
    pub fn answer(
        &mut self,
        now: Now,
        request: Request,
        result: Result<Payload, WireError>,
        out: &mut Vec<u8>,
    ) {
        let max_bytes = self.rules.limits.max_message_bytes;
        self.respond(now, request.raw_id(), request.raw_channel(), result, max_bytes, out);
    }

    /// Writes a response. Every one is written here.
    fn respond(
        &mut self,
        now: Now,
        id: &str,
        channel: &str,
        result: Result<Payload, WireError>,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) {
        if self.connection.is_open() {
            let text;
            let body = match &result {
                Ok(payload) => Body::Payload(payload.as_str()),
                Err(error) => {
                    text = error_text(error);
                    Body::Error(&text)
                }
            };
            let timestamp = Timestamp::new(now.unix_ms);
            let pieces = envelope::response(id, channel, body, &timestamp);
            let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
            if bytes > max_bytes {
                let error = WireError::new(format!("response of {bytes} bytes, {max_bytes} allowed"));
                return self.respond(now, id, channel, Err(error), usize::MAX, out);
            }
            if let Err(error) = &result
                && let Some(count) = self.tally.errors.get_mut(error.code as usize)
            {
                *count = count.saturating_add(1);
            }
            self.connection.write_text(out, &pieces);
        }
        if self.keeps_errors {
            self.last_error = result.err().map(Box::new);
        }
    }

    /// Keeps a request until [`answer_parked`](Session::answer_parked) or its deadline, with the handler that is made for its
    /// slot.
    pub fn park(&mut self, request: Request, until: Millis, handler: impl FnOnce(Slot) -> H) -> Slot {
        let index = self.parked.iter().position(Option::is_none).unwrap_or(self.parked.len());
        let slot = Slot(index);
        let parked = Some(Parked { request, until, handler: handler(slot) });
        match self.parked.get_mut(index) {
            Some(free) => *free = parked,
            None => self.parked.push(parked),
        }
        self.in_flight += 1;
        self.parked_deadline = self.parked_deadline.min(until);
        slot
    }

    /// Answers a parked request as [`answer`](Session::answer) does, frees its slot, and returns its handler. `None` if no
    /// request is parked there.
    pub fn answer_parked(
        &mut self,
        now: Now,
        slot: Slot,
        result: Result<Payload, WireError>,
        out: &mut Vec<u8>,
    ) -> Option<H> {
        let parked = self.parked.get_mut(slot.0).and_then(Option::take)?;
        self.in_flight -= 1;
        if self.in_flight == 0 {
            self.discard_parked();
        }
        self.answer(now, parked.request, result, out);
        Some(parked.handler)
    }

    /// A parked request.
    pub fn parked(&self, slot: Slot) -> Option<&Request> {
        self.parked.get(slot.0)?.as_ref().map(|parked| &parked.request)
    }

    /// The handler of a parked request.
    pub fn handler_mut(&mut self, slot: Slot) -> Option<&mut H> {
        self.parked.get_mut(slot.0)?.as_mut().map(|parked| &mut parked.handler)
    }

    /// Discards the parked requests, because the transport is lost.
    pub fn discard_parked(&mut self) {
        // An idle client owns no memory for requests it once had.
        self.parked = Vec::new();
        self.in_flight = 0;
        self.parked_deadline = Millis(u64::MAX);
    }

    /// Answers a parked request whose deadline has passed with `TIMEOUT`, and returns its handler.
    fn expire(&mut self, now: Now, out: &mut Vec<u8>) -> Option<H> {
        let is_due =
            |parked: &Option<Parked<H>>| parked.as_ref().is_some_and(|parked| now.at >= parked.until);
        let Some(index) = self.parked.iter().position(is_due) else {
            let deadlines = self.parked.iter().flatten().map(|parked| parked.until);
            self.parked_deadline = deadlines.min().unwrap_or(Millis(u64::MAX));
            return None;
        };
        let error = WireError::with_code(ErrorCode::Timeout, "Handler did not finish in time");
        self.answer_parked(now, Slot(index), Err(error), out)
    }

    /// When to call [`handle_deadline`](Session::handle_deadline) next. It may be early, never late.
    pub fn deadline(&self) -> Millis {
        let limits = &self.rules.limits;
        let idle = self.idle.deadline(limits.ping_interval, limits.idle_timeout).min(self.parked_deadline);
        match self.phase {
            Phase::Closing { until } => until,
            Phase::Unauthenticated { until } => idle.min(until),
            Phase::Open => idle,
        }
    }

    /// Does one thing that is due: answers an expired request, sends a ping, closes. Call it until it returns `None`. Called
    /// early it does nothing.
    pub fn handle_deadline(&mut self, now: Now, out: &mut Vec<u8>) -> Option<Due<H>> {
        if self.is_finished() {
            return Some(Due::Cut);
        }
        if now.at >= self.parked_deadline
            && let Some(handler) = self.expire(now, out)
        {
            return Some(Due::Expired(handler));
        }
        match self.phase {
            Phase::Closing { until } => return (now.at >= until).then_some(Due::Cut),
            Phase::Unauthenticated { until } if now.at >= until => {
                self.close(now.at, CloseCode::Policy, "authentication timeout", out);
                return None;
            }
            _ => {}
        }
        // We have paused reading, so silence is not the client's fault.
        if !self.wants_input() {
            self.idle.touch(now.at);
        }
        let limits = &self.rules.limits;
        match self.idle.poll(now.at, limits.ping_interval, limits.idle_timeout) {
            IdleAction::Wait => {}
            IdleAction::Ping => self.connection.ping(out),
            IdleAction::Close => self.close(now.at, CloseCode::Away, "idle timeout", out),
        }
        None
    }

    /// Sends a close frame, and sets a deadline for the client's. Parked requests are discarded.
    pub fn close(&mut self, now: Millis, code: CloseCode, reason: &str, out: &mut Vec<u8>) {
        if let Phase::Closing { .. } = self.phase {
            return;
        }
        self.discard_parked();
        self.connection.close(code, reason, out);
        self.phase = Phase::Closing { until: now + self.rules.limits.close_timeout };
    }

    /// Closes because the server stops: sends `server:shutdown`, `CONNECTION_CLOSED` for each parked request, and close
    /// 1001.
    pub fn shut_down(&mut self, now: Now, out: &mut Vec<u8>) {
        if self.is_open() {
            write_event(out, "server:shutdown", Some(r#"{"reason":"Server stopping"}"#), now.unix_ms);
        }
        for parked in std::mem::take(&mut self.parked).into_iter().flatten() {
            let error = WireError::with_code(ErrorCode::ConnectionClosed, "Server stopping");
            self.answer(now, parked.request, Err(error), out);
        }
        self.close(now.at, CloseCode::Away, "server stopping", out);
    }
}

/// Decodes a message that must be a request.
#[inline]
fn decode_request(text: Result<&str, Utf8Error>) -> Result<Members, EnvelopeError<'_>> {
    let text = text.map_err(|error| {
        let error = JsonError { kind: JsonErrorKind::NotUtf8, at: error.valid_up_to() };
        EnvelopeError { kind: EnvelopeErrorKind::Json(error), id: None, channel: None }
    })?;
    match Members::decode(text)? {
        (Kind::Request, members) => Ok(members),
        (kind, members) => {
            let Envelope { kind_at: at, id, channel, .. } = members.envelope(kind, text);
            let kind = EnvelopeErrorKind::Invalid { name: "type", expected: "\"request\"", at };
            Err(EnvelopeError { kind, id, channel: Some(channel) })
        }
    }
}

#[cold]
fn rate_limited(id: Option<&str>, channel: Option<&str>, retry_after: Duration) -> WireError {
    let member = |name, value: Option<&str>| match value {
        Some(value) => format!("\"{name}\":\"{value}\","),
        None => String::new(),
    };
    let (id, channel) = (member("requestId", id), member("channel", channel));
    let details = format!("{{{id}{channel}\"retryAfterMs\":{}}}", retry_after.as_millis());
    WireError::with_code(ErrorCode::RateLimited, "Too many requests").details(Payload::trusted(details))
}

/// The text of `{code, message, details?}`.
fn error_text(error: &WireError) -> String {
    let mut text = format!("{{\"code\":\"{}\",\"message\":", error.code);
    json::write_string(&mut text, &error.message);
    if let Some(details) = error.details.as_str() {
        text.push_str(",\"details\":");
        text.push_str(details);
    }
    text.push('}');
    text
}

/// Appends an event as a frame of the server. It is the same for every client.
pub fn write_event(out: &mut Vec<u8>, channel: &str, payload: Option<&str>, unix_ms: u64) {
    let timestamp = Timestamp::new(unix_ms);
    let mut quoted = String::new();
    json::write_string(&mut quoted, channel);
    let channel = json::string_content(&quoted).unwrap_or_default();
    frame::write_text(out, None, &envelope::event(channel, payload, &timestamp));
}
