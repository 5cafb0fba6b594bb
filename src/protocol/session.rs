//! The session machine: one client, from `server:connected` to its close frame. In: bytes, results of handlers, time.
//! Out: requests for the router, and the bytes to send. Never runs a handler, never waits.
//!
//! | phase | a request | a deadline |
//! |---|---|---|
//! | `Unauthenticated` | `auth` is judged, any other gets `UNAUTHORIZED` | close 1008 |
//! | `Open` | rate window, then the router | ping, close 1001, `TIMEOUT` |
//! | `Closing` | dropped | the connection is cut |

use std::sync::Arc;
use std::time::Duration;

use super::connection::{CloseCode, Connection, Event};
use super::envelope::{self, Body, Envelope, EnvelopeErrorKind, Kind, Members, Timestamp};
use super::error::{ErrorCode, WireError};
use super::frame;
use super::handshake;
use super::idle::{IdleAction, IdleTimer};
use super::json::{self, JsonError, JsonErrorKind};
use super::limits::Limits;
use super::payload::Payload;
use super::rate::RateWindow;
pub use super::request::{Request, RequestId};
use super::time::{Millis, Now};
use super::uuid::Uuid;

/// What all sessions of a server share.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The limits of each session.
    pub limits: Limits,
    /// The token that clients must show, if there is one.
    pub token: Option<String>,
}

/// The server's end of one client's connection.
///
/// Contract: call [`open`](Session::open) once. After each read call [`handle_input`](Session::handle_input) until it
/// consumed everything or [`wants_input`](Session::wants_input) is false; give each [`Request`] back through
/// [`answer`](Session::answer) or [`park`](Session::park); send what was appended to `out`. At
/// [`deadline`](Session::deadline) call [`handle_deadline`](Session::handle_deadline). When
/// [`is_finished`](Session::is_finished), send what is left and close the transport.
#[derive(Debug)]
pub struct Session {
    rules: Arc<Rules>,
    id: Uuid,
    connection: Connection,
    phase: Phase,
    rate: RateWindow,
    idle: IdleTimer,
    parked: Vec<Option<Parked>>,
    in_flight: usize,
    /// No parked request ends before this; it may be earlier than the first that does.
    parked_deadline: Millis,
    tally: Tally,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unauthenticated { until: Millis },
    Open,
    Closing { until: Millis },
}

#[derive(Debug)]
struct Parked {
    request: Request,
    until: Millis,
}

/// What happened since somebody last looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Data messages received.
    pub requests: u32,
    /// Error responses, by `ErrorCode as usize`.
    pub errors: [u32; 7],
}

/// Where a parked request waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

impl Slot {
    /// A small number, free again once the request is answered.
    pub fn index(self) -> usize {
        self.0
    }
}

/// One step of [`Session::handle_input`].
#[derive(Debug)]
pub struct Step {
    /// How many bytes of the input were used.
    pub consumed: usize,
    /// What the caller has to do.
    pub action: Option<Action>,
    /// The error that a message was answered with before it came to be a request.
    pub refused: Option<Box<WireError>>,
}

/// What the caller of a session has to do.
#[derive(Debug)]
pub enum Action {
    /// Find the handler, and answer.
    Request(Request),
    /// The client has authenticated: it may get events from now on.
    Authenticated,
}

impl Session {
    /// A session that begins now. Unless the client has shown the token (or there is none), it must do so on channel
    /// `auth`.
    pub fn new(rules: Arc<Rules>, id: Uuid, authenticated: bool, now: Millis) -> Session {
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
            rules,
        }
    }

    /// Appends `server:connected`, which comes before anything else.
    pub fn open(&mut self, now: Now, out: &mut Vec<u8>) {
        let payload = format!(r#"{{"clientId":"{}","serverTime":{}}}"#, self.id, now.unix_ms);
        write_event(out, "server:connected", Some(&payload), now.unix_ms);
    }

    /// The client's id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whether events may be sent: authenticated, and no close frame has passed.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open && self.connection.is_open()
    }

    /// Whether the connection is over: send what is left, then close the transport.
    pub fn is_finished(&self) -> bool {
        self.connection.is_closed()
    }

    /// Whether it is over because the client broke the protocol or a limit. Then more may come from it, which has to
    /// be read and thrown away, or the close frame is lost to a reset.
    pub fn is_failed(&self) -> bool {
        self.connection.is_failed()
    }

    /// Until when the other end may answer the close frame that this end has sent; `None` if it has sent none first.
    pub fn closing_until(&self) -> Option<Millis> {
        match self.phase {
            Phase::Closing { until } => Some(until),
            Phase::Unauthenticated { .. } | Phase::Open => None,
        }
    }

    /// Whether more input may be handled: not while too many requests wait for their handlers.
    pub fn wants_input(&self) -> bool {
        self.in_flight < self.rules.limits.max_in_flight && !self.connection.is_closed()
    }

    /// Requests that wait for their handlers.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many more messages pass in the present rate window.
    pub fn remaining(&self, now: Millis) -> u32 {
        self.rate.remaining(now, self.rules.limits.rate_max_requests)
    }

    /// The rate window, for showing.
    pub fn rate(&self) -> &RateWindow {
        &self.rate
    }

    /// When the client last gave a sign of life.
    pub fn last_byte(&self) -> Millis {
        self.idle.last_byte()
    }

    /// Memory held for a message that is not complete, in bytes.
    pub fn buffered_bytes(&self) -> usize {
        self.connection.buffered_bytes()
    }

    /// What happened since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// The client gave a sign of life other than bytes: it took some of ours.
    pub fn touch(&mut self, now: Millis) {
        self.idle.touch(now);
    }

    /// Takes the next step into bytes from the client: at most one frame.
    pub fn handle_input(&mut self, now: Now, input: &mut [u8], out: &mut Vec<u8>) -> Step {
        if !self.wants_input() {
            let consumed = if self.connection.is_closed() { input.len() } else { 0 };
            return Step { consumed, action: None, refused: None };
        }
        self.idle.touch(now.at);
        let received = self.connection.receive(input, out);
        let handled = match received.event {
            Some(Event::Text(text)) => self.handle_message(now, &text, out),
            Some(Event::Binary(bytes)) => match std::str::from_utf8(&bytes) {
                Ok(text) => self.handle_message(now, text, out),
                Err(error) => Err(self.handle_not_utf8(now, error.valid_up_to(), out)),
            },
            Some(Event::Closed { .. } | Event::Failed(_)) => {
                self.forget_parked();
                Ok(None)
            }
            None => Ok(None),
        };
        match handled {
            Ok(action) => Step { consumed: received.consumed, action, refused: None },
            Err(refused) => Step { consumed: received.consumed, action: None, refused: Some(refused) },
        }
    }

    /// What the caller has to do, or what the message was refused with.
    fn handle_message(
        &mut self,
        now: Now,
        text: &str,
        out: &mut Vec<u8>,
    ) -> Result<Option<Action>, Box<WireError>> {
        self.tally.requests = self.tally.requests.saturating_add(1);
        let limits = &self.rules.limits;
        let passes = self.rate.check(now.at, limits.rate_max_requests, limits.rate_window);
        let decoded = Members::decode(text);
        if let Err(retry_after) = passes {
            let decoded = decoded.map(|(kind, members)| members.envelope(kind, text));
            let (id, channel) = match &decoded {
                Ok(envelope) => (envelope.id, Some(envelope.channel)),
                Err(error) => (error.id, error.channel),
            };
            return Err(self.refuse_rate(now, id, channel, retry_after, out));
        }
        let (kind, members) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                return Err(self.refuse_message(now, error.id, error.channel, error.kind.to_string(), out));
            }
        };
        if kind != Kind::Request {
            let envelope = members.envelope(kind, text);
            let message = format!("\"type\" must be \"request\", at byte {}", envelope.kind_at);
            return Err(self.refuse_message(now, envelope.id, Some(envelope.channel), message, out));
        }
        if self.rules.token.is_some() {
            let envelope = members.envelope(kind, text);
            if json::unescape(envelope.channel).as_deref() == Some("auth") {
                return self.authenticate(now, &envelope, out);
            }
        }
        if self.phase != Phase::Open {
            let envelope = members.envelope(kind, text);
            let error = WireError::with_code(ErrorCode::Unauthorized, "Authentication required");
            let id = envelope.id.unwrap_or_default();
            return Err(self.write_error(now, id, envelope.channel, error, out));
        }
        Ok(Some(Action::Request(Request::new(text, members))))
    }

    /// A request on channel `auth`, `{token}`, when a token is set.
    fn authenticate(
        &mut self,
        now: Now,
        envelope: &Envelope<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Action>, Box<WireError>> {
        let id = envelope.id.unwrap_or_default();
        let shown = envelope.payload.and_then(|payload| json::string_member(payload, "token"));
        let token = self.rules.token.as_deref().unwrap_or_default();
        let right = |shown: &str| handshake::same_token(shown.as_bytes(), token.as_bytes());
        if !shown.as_deref().is_some_and(right) {
            let message = if shown.is_some() { "Token is wrong" } else { "Payload must be {token: string}" };
            let error = WireError::with_code(ErrorCode::Unauthorized, message);
            return Err(self.write_error(now, id, envelope.channel, error, out));
        }
        self.write_response(now, id, envelope.channel, Body::Payload(Some(r#"{"authenticated":true}"#)), out);
        if let Phase::Unauthenticated { .. } = self.phase {
            self.phase = Phase::Open;
            return Ok(Some(Action::Authenticated));
        }
        Ok(None)
    }

    #[cold]
    fn refuse_rate(
        &mut self,
        now: Now,
        id: Option<&str>,
        channel: Option<&str>,
        retry_after: Duration,
        out: &mut Vec<u8>,
    ) -> Box<WireError> {
        let member = |name, value: Option<&str>| match value {
            Some(value) => format!("\"{name}\":\"{value}\","),
            None => String::new(),
        };
        let details = format!(
            "{{{}{}\"retryAfterMs\":{}}}",
            member("requestId", id),
            member("channel", channel),
            retry_after.as_millis()
        );
        let error = WireError::with_code(ErrorCode::RateLimited, "Too many requests")
            .details(Payload::trusted(details));
        self.write_error(now, "rate_limited", "system", error, out)
    }

    #[cold]
    fn refuse_message(
        &mut self,
        now: Now,
        id: Option<&str>,
        channel: Option<&str>,
        message: String,
        out: &mut Vec<u8>,
    ) -> Box<WireError> {
        let error = WireError::with_code(ErrorCode::InvalidMessage, message);
        self.write_error(now, id.unwrap_or("invalid_message"), channel.unwrap_or("system"), error, out)
    }

    /// A binary message that is not UTF-8 counts like any other.
    #[cold]
    fn handle_not_utf8(&mut self, now: Now, at: usize, out: &mut Vec<u8>) -> Box<WireError> {
        self.tally.requests = self.tally.requests.saturating_add(1);
        let limits = &self.rules.limits;
        match self.rate.check(now.at, limits.rate_max_requests, limits.rate_window) {
            Err(retry_after) => self.refuse_rate(now, None, None, retry_after, out),
            Ok(()) => {
                let kind = EnvelopeErrorKind::Json(JsonError { kind: JsonErrorKind::NotUtf8, at });
                self.refuse_message(now, None, None, kind.to_string(), out)
            }
        }
    }

    /// Answers a request, and gives back the error that it was answered with, if it was one.
    pub fn answer(
        &mut self,
        now: Now,
        request: Request,
        result: Result<Payload, WireError>,
        out: &mut Vec<u8>,
    ) -> Option<WireError> {
        if !self.connection.is_open() {
            return result.err();
        }
        let (id, channel) = (request.raw_id(), request.raw_channel());
        let text;
        let (body, code) = match &result {
            Ok(payload) => (Body::Payload(payload.as_str()), None),
            Err(error) => {
                text = error_text(error);
                (Body::Error(&text), Some(error.code))
            }
        };
        let timestamp = Timestamp::new(now.unix_ms);
        let pieces = envelope::response(id, channel, body, &timestamp);
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let max = self.rules.limits.max_message_bytes;
        if bytes > max {
            let error = WireError::new(format!("response of {bytes} bytes, {max} allowed"));
            return Some(*self.write_error(now, id, channel, error, out));
        }
        if let Some(code) = code {
            self.count(code);
        }
        self.connection.write_text(out, &pieces);
        result.err()
    }

    /// Keeps a request whose handler waits, until [`answer_parked`](Session::answer_parked) or its deadline.
    pub fn park(&mut self, request: Request, until: Millis) -> Slot {
        let parked = Some(Parked { request, until });
        self.in_flight += 1;
        self.parked_deadline = self.parked_deadline.min(until);
        if let Some(index) = self.parked.iter().position(Option::is_none) {
            if let Some(place) = self.parked.get_mut(index) {
                *place = parked;
            }
            return Slot(index);
        }
        self.parked.push(parked);
        Slot(self.parked.len() - 1)
    }

    /// Answers a parked request and frees its slot. As [`answer`](Session::answer).
    pub fn answer_parked(
        &mut self,
        now: Now,
        slot: Slot,
        result: Result<Payload, WireError>,
        out: &mut Vec<u8>,
    ) -> Option<WireError> {
        let parked = self.parked.get_mut(slot.0).and_then(Option::take)?;
        self.in_flight -= 1;
        if self.in_flight == 0 {
            self.forget_parked();
        }
        self.answer(now, parked.request, result, out)
    }

    /// A request that waits.
    pub fn parked(&self, slot: Slot) -> Option<&Request> {
        self.parked.get(slot.0)?.as_ref().map(|parked| &parked.request)
    }

    fn forget_parked(&mut self) {
        // An idle client owns no memory for requests it once had.
        self.parked = Vec::new();
        self.in_flight = 0;
        self.parked_deadline = Millis(u64::MAX);
    }

    /// Answers one parked request whose deadline has passed with `TIMEOUT`, and says which: its handler is to be
    /// dropped. Call it until it returns `None`.
    pub fn expire(&mut self, now: Now, out: &mut Vec<u8>) -> Option<Slot> {
        if now.at < self.parked_deadline {
            return None;
        }
        let over = |parked: &Option<Parked>| parked.as_ref().is_some_and(|parked| now.at >= parked.until);
        let Some(index) = self.parked.iter().position(over) else {
            let deadlines = self.parked.iter().flatten().map(|parked| parked.until);
            self.parked_deadline = deadlines.min().unwrap_or(Millis(u64::MAX));
            return None;
        };
        self.answer_parked(now, Slot(index), Err(expired()), out);
        Some(Slot(index))
    }

    /// When [`handle_deadline`](Session::handle_deadline) and [`expire`](Session::expire) are next to be called. It
    /// may be early, never late.
    pub fn deadline(&self) -> Millis {
        let limits = &self.rules.limits;
        let idle = self.idle.deadline(limits.ping_interval, limits.idle_timeout).min(self.parked_deadline);
        match self.phase {
            Phase::Closing { until } => until,
            Phase::Unauthenticated { until } => idle.min(until),
            Phase::Open => idle,
        }
    }

    /// Does what is due: a ping, a close, or the end of waiting for the other end's close.
    ///
    /// Answers `false` when the connection is to be cut without waiting any longer.
    pub fn handle_deadline(&mut self, now: Now, out: &mut Vec<u8>) -> bool {
        match self.phase {
            Phase::Closing { until } => return now.at < until,
            Phase::Unauthenticated { until } if now.at >= until => {
                self.close(now.at, CloseCode::Policy, "authentication timeout", out);
                return true;
            }
            _ => {}
        }
        // A client that is not read from cannot be blamed for its silence.
        if !self.wants_input() {
            self.idle.touch(now.at);
        }
        let limits = &self.rules.limits;
        match self.idle.poll(now.at, limits.ping_interval, limits.idle_timeout) {
            IdleAction::Wait => {}
            IdleAction::Ping => self.connection.ping(out),
            IdleAction::Close => self.close(now.at, CloseCode::Away, "idle timeout", out),
        }
        true
    }

    /// Ends the session from this side: a close frame, and a deadline for the other end's. The handlers of parked
    /// requests are to be dropped.
    pub fn close(&mut self, now: Millis, code: CloseCode, reason: &str, out: &mut Vec<u8>) {
        if let Phase::Closing { .. } = self.phase {
            return;
        }
        self.forget_parked();
        self.connection.close(code, reason, out);
        self.phase = Phase::Closing { until: now + self.rules.limits.close_timeout };
    }

    /// Ends the session because the server stops: `server:shutdown`, `CONNECTION_CLOSED` for each parked request,
    /// close 1001.
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

    #[cold]
    fn write_error(
        &mut self,
        now: Now,
        id: &str,
        channel: &str,
        error: WireError,
        out: &mut Vec<u8>,
    ) -> Box<WireError> {
        self.count(error.code);
        self.write_response(now, id, channel, Body::Error(&error_text(&error)), out);
        Box::new(error)
    }

    fn count(&mut self, code: ErrorCode) {
        if let Some(count) = self.tally.errors.get_mut(code as usize) {
            *count = count.saturating_add(1);
        }
    }

    fn write_response(&mut self, now: Now, id: &str, channel: &str, body: Body<'_>, out: &mut Vec<u8>) {
        if self.connection.is_open() {
            let timestamp = Timestamp::new(now.unix_ms);
            let pieces = envelope::response(id, channel, body, &timestamp);
            self.connection.write_text(out, &pieces);
        }
    }
}

/// What [`Session::expire`] answers a request with.
pub fn expired() -> WireError {
    WireError::with_code(ErrorCode::Timeout, "Handler did not finish in time")
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

/// Appends an event as a server's frame, the same for every client.
pub fn write_event(out: &mut Vec<u8>, channel: &str, payload: Option<&str>, unix_ms: u64) {
    let timestamp = Timestamp::new(unix_ms);
    let mut quoted = String::new();
    json::write_string(&mut quoted, channel);
    let channel = json::string_content(&quoted).unwrap_or_default();
    frame::write_text(out, None, &envelope::event(channel, payload, &timestamp));
}
