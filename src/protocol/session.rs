//! The session machine: the server's end of one client, from `server:connected` to the close frame. Input: bytes, results of
//! handlers, time. Output: requests for the router, and the bytes to send. Never calls a handler, never waits.
//!
//! | input | `Unauthenticated` | `Open` | `Draining` | `Closing` | `Finished` |
//! |---|---|---|---|---|---|
//! | message over the rate limit | `RATE_LIMITED` | `RATE_LIMITED` | `RATE_LIMITED` | - | - |
//! | the last of too many of them in a row | `RATE_LIMITED`, close 1008, `Closing` | `RATE_LIMITED`, close 1008, `Closing` | `RATE_LIMITED`, close 1008, `Closing` | - | - |
//! | message over [`MAX_INLINE_BYTES`] | [`Action::Decode`] | [`Action::Decode`] | [`Action::Decode`] | - | - |
//! | [`handle_decoded`](Session::handle_decoded) of a request | `UNAUTHORIZED` | [`Action::Request`] | `CONNECTION_CLOSED` | - | - |
//! | message that is not a request | `INVALID_MESSAGE` | `INVALID_MESSAGE` | `INVALID_MESSAGE` | - | - |
//! | `auth` while the caller is asked | [`Action::Authenticate`] | [`Action::Authenticate`] | [`Action::Authenticate`] | - | - |
//! | [`handle_verdict`](Session::handle_verdict) of [`Verdict::Accepted`] | response, [`Action::Authenticated`], `Open` | response | response | - | - |
//! | [`handle_verdict`](Session::handle_verdict) of [`Verdict::Unauthorized`] | `UNAUTHORIZED` | `UNAUTHORIZED` | `UNAUTHORIZED` | - | - |
//! | [`handle_verdict`](Session::handle_verdict) of [`Verdict::Forbidden`] | `UNAUTHORIZED`, close 4403, `Closing` | `UNAUTHORIZED`, close 4403, `Closing` | `UNAUTHORIZED`, close 4403, `Closing` | - | - |
//! | [`handle_verdict`](Session::handle_verdict) of [`Verdict::Failed`] | `TIMEOUT` | `TIMEOUT` | `TIMEOUT` | - | - |
//! | `auth` with the token | response, [`Action::Authenticated`], `Open` | response | response | - | - |
//! | `auth` without the token | `UNAUTHORIZED` | `UNAUTHORIZED` | `UNAUTHORIZED` | - | - |
//! | the last of [`Limits::max_auth_attempts`] wrong tokens | `UNAUTHORIZED`, close 1008, `Closing` | `UNAUTHORIZED`, close 1008, `Closing` | `UNAUTHORIZED`, close 1008, `Closing` | - | - |
//! | other request | `UNAUTHORIZED` | [`Action::Request`] | `CONNECTION_CLOSED` | - | - |
//! | the last of too many pings, pongs and empty fragments | close 1008, `Closing` | close 1008, `Closing` | close 1008, `Closing` | - | - |
//! | ping | pong | pong | pong | - | - |
//! | pong | - | - | - | - | - |
//! | close frame | close frame, `Finished` | close frame, `Finished` | close frame, `Finished` | `Finished` | - |
//! | violation of RFC 6455 in a message, or of its limit | close frame, `Finished` | close frame, `Finished` | close frame, `Finished` | - | - |
//! | any other violation of RFC 6455 | close frame, `Finished` | close frame, `Finished` | close frame, `Finished` | `Finished` | - |
//! | [`answer`](Session::answer) | | response | response | - | - |
//! | deadline of a parked request | | `TIMEOUT`, [`Due::Expired`] | `TIMEOUT`, [`Due::Expired`] | | |
//! | [`Limits::auth_timeout`] | close 4401, `Closing` | | | | |
//! | [`Limits::expiry_notice`] before the credential expires | | `auth:expiring` | `auth:expiring` | - | |
//! | the time at which the credential expires | | close 4401, `Closing` | close 4401, `Closing` | - | |
//! | [`Limits::ping_interval`] of silence | ping | ping | ping | - | - |
//! | [`Limits::idle_timeout`] of silence | close 1001, `Closing` | close 1001, `Closing` | close 1001, `Closing` | - | - |
//! | [`Limits::close_timeout`] | | | | [`Due::Cut`] | [`Due::Cut`] |
//! | [`close`](Session::close) | close frame, `Closing` | close frame, `Closing` | close frame, `Closing` | - | - |
//! | [`drain`](Session::drain) | close 1001, `Closing` | `server:shutdown`, `Draining` | - | - | - |
//! | [`close_drained`](Session::close_drained) while a request is parked | | - | - | | |
//! | [`close_drained`](Session::close_drained) otherwise | - | - | close 1001, `Closing` | - | - |
//! | [`shut_down`](Session::shut_down) | close 1001, `Closing` | `server:shutdown`, `CONNECTION_CLOSED` per parked request, close 1001, `Closing` | `CONNECTION_CLOSED` per parked request, close 1001, `Closing` | - | - |
//!
//! `-` is no effect, and an empty cell cannot occur. A code in capitals is an error response. A channel `auth` is special only
//! if there is a token, or the caller decides about credentials ([`ask_caller`](Session::ask_caller)). The client is one that
//! offered `switchboard.v1` ([`set_v1`](Session::set_v1)): others get no `auth:expiring`, and 1008 instead of 4403, and instead of
//! 4401 at [`Limits::auth_timeout`]. The states are seen from outside: `Open` and `Draining` are [`is_open`](Session::is_open),
//! `Draining` is [`is_draining`](Session::is_draining), `Closing` is [`closing_until`](Session::closing_until), `Finished` is
//! [`is_finished`](Session::is_finished). In `Finished`
//! [`handle_deadline`](Session::handle_deadline) always returns [`Due::Cut`]. Leaving `Open` or `Draining` discards the parked requests, the
//! message that is being received and the one that is being decoded; nothing more is collected.
//!
//! A message that is over the rate limit, or larger than a client may send in its state, is never decoded.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::connection::{CloseCode, Connection, Event};
use super::credential::{Credential, Term};
pub use super::credential::{FORBIDDEN, UNAUTHORIZED, Verdict};
pub use super::decode::{Decoded, MAX_INLINE_BYTES, Undecoded};
use super::decode::{Message, Refusal};
pub use super::ending::Ending;
use super::envelope::{self, Body, Timestamp};
use super::error::{ErrorCode, WireError};
use super::frame;
use super::idle::{IdleAction, IdleTimer};
use super::json;
use super::limits::Limits;
use super::overload::{Overload, rate_limited};
use super::parking::Parking;
pub use super::parking::Slot;
use super::payload::Payload;
pub use super::rate::RateWindow;
use super::rate::Window;
pub use super::request::{Request, RequestId};
pub use super::step::{Action, Due, Step, Tally};
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
/// 4. After [`Action::Decode`], call [`Undecoded::decode`] on any thread, give the result to
///    [`handle_decoded`](Session::handle_decoded), and do what that returns. Until then no input is wanted, so the order of the
///    client's messages is kept; everything else can be called. Once [`is_decoding`](Session::is_decoding) is false, the
///    session has closed meanwhile, and the result can be dropped.
/// 5. After [`Action::Authenticate`], give a verdict to [`handle_verdict`](Session::handle_verdict), in bounded time. Until then
///    no input is wanted, so what the client sent after its new credential is handled after the verdict. Once
///    [`is_authenticating`](Session::is_authenticating) is false, the session has closed meanwhile.
/// 6. At [`deadline`](Session::deadline), read what has arrived: the process may have been stopped. Then call
///    [`handle_deadline`](Session::handle_deadline) until it returns `None`. After [`Due::Cut`], close the transport.
/// 7. After each call, send what was appended to `out`, and ask for the deadline again: it may have changed.
/// 8. When [`is_finished`](Session::is_finished), send what is left, then close the transport.
/// 9. While [`is_draining`](Session::is_draining), call [`close_drained`](Session::close_drained) when each request is answered or
///    parked, and everything is sent.
///
/// A caller that counts for several sessions asks for [`held_bytes`](Session::held_bytes) after each step, which is at most one
/// frame, and for [`take_wrong_tokens`](Session::take_wrong_tokens); [`share_window`](Session::share_window) makes sessions
/// count in one rate window.
///
/// The session drops an `H` when it discards the request, because the connection closes.
#[derive(Debug)]
pub struct Session<H = ()> {
    pub(super) rules: Arc<Rules>,
    id: Uuid,
    pub(super) connection: Connection,
    pub(super) phase: Phase,
    rate: Window,
    pub(super) overload: Overload,
    pub(super) credential: Credential,
    idle: IdleTimer,
    pub(super) parked: Parking<H>,
    /// The size of the message that is being decoded; 0 if there is none.
    decoding_bytes: usize,
    /// Whether no handler is called for further requests, because the server stops.
    pub(super) drains: bool,
    pub(super) tally: Tally,
    keeps_errors: bool,
    last_error: Option<Box<WireError>>,
    pub(super) term: Option<Box<Term>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Unauthenticated { until: Millis },
    Open,
    Closing { until: Millis },
}

impl<H> Session<H> {
    /// Makes a session that starts now. A client that is not `authenticated` must send the token on channel `auth`.
    pub fn new(rules: Arc<Rules>, id: Uuid, authenticated: bool, now: Millis) -> Session<H> {
        let limits = &rules.limits;
        let (phase, max_bytes) = match authenticated {
            true => (Phase::Open, limits.max_message_bytes),
            false => {
                let max_bytes = limits.max_unauthenticated_message_bytes.min(limits.max_message_bytes);
                (Phase::Unauthenticated { until: now + limits.auth_timeout }, max_bytes)
            }
        };
        Session {
            id,
            connection: Connection::server(max_bytes),
            phase,
            rate: Window::Own(RateWindow::default()),
            overload: Overload::new(),
            credential: Credential::default(),
            idle: IdleTimer::new(now),
            parked: Parking::new(),
            decoding_bytes: 0,
            drains: false,
            tally: Tally::default(),
            keeps_errors: false,
            last_error: None,
            term: None,
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

    /// Makes the session count its messages in a window that it shares with others.
    pub fn share_window(&mut self, window: Arc<Mutex<RateWindow>>) {
        self.rate = Window::Shared(window);
    }

    /// Whether more input may be handled: not while a message is being decoded or a verdict is awaited, not while
    /// [`Limits::max_in_flight`] requests are parked, and not while some are and [`held_bytes`](Session::held_bytes) are over [`Limits::max_in_flight_bytes`].
    pub fn wants_input(&self) -> bool {
        let (limits, in_flight) = (&self.rules.limits, self.parked.len());
        in_flight < limits.max_in_flight
            && (in_flight == 0 || self.held_bytes() <= limits.max_in_flight_bytes)
            && !self.is_decoding()
            && !self.credential.is_awaited
            && !self.connection.is_closed()
    }

    /// Whether a large message is being decoded: after [`Action::Decode`], until its result is given back or the session
    /// closes.
    pub fn is_decoding(&self) -> bool {
        self.decoding_bytes > 0
    }

    /// The number of parked requests.
    pub fn in_flight(&self) -> usize {
        self.parked.len()
    }

    /// The bytes of the payloads of parked requests, of the message that is being decoded, and of the one that is being
    /// received: those that have arrived, and those that the header of its frame announces.
    pub fn held_bytes(&self) -> usize {
        let message = self.connection.announced_bytes().saturating_add(self.decoding_bytes);
        self.parked.payload_bytes().saturating_add(message)
    }

    /// Whether a message has begun to arrive and is not complete.
    pub fn is_receiving(&self) -> bool {
        self.connection.announced_bytes() > 0
    }

    /// How many more messages pass in the present rate window.
    pub fn remaining(&self, now: Millis) -> u32 {
        self.rate.get().remaining(now, &self.rules.limits)
    }

    /// The rate window.
    pub fn rate(&self) -> RateWindow {
        self.rate.get()
    }

    /// The number of wrong tokens that the client has sent since the last call.
    pub fn take_wrong_tokens(&mut self) -> u32 {
        self.overload.take_wrong_tokens()
    }

    /// When bytes last arrived from the client, or [`touch`](Session::touch) was called.
    pub fn last_byte(&self) -> Millis {
        self.idle.last_byte()
    }

    /// Memory held for a message that is not complete, in bytes.
    pub fn buffered_bytes(&self) -> usize {
        self.connection.buffered_bytes()
    }

    /// The counters since the last [`take_tally`](Session::take_tally).
    pub fn tally(&self) -> &Tally {
        &self.tally
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
        let message = match received.event {
            Some(Event::Text(text)) => Some(Message::Text(text)),
            Some(Event::Binary(bytes)) => Some(Message::Binary(bytes)),
            Some(Event::Closed { code, reason }) => {
                self.end(|| Ending::by_client(code, reason));
                None
            }
            Some(Event::Failed(violation)) => {
                self.end(|| Ending::by_violation(violation));
                None
            }
            None => {
                if received.is_overhead {
                    self.count_overhead(now.at, out);
                }
                None
            }
        };
        let action = message.and_then(|message| self.handle_message(now, message, out));
        Step { consumed: received.consumed, action }
    }

    #[inline(always)]
    fn handle_message(&mut self, now: Now, message: Message<'_>, out: &mut Vec<u8>) -> Option<Action> {
        self.tally.requests = self.tally.requests.saturating_add(1);
        let bytes = message.as_bytes().len();
        if let Err(retry_after) = self.rate.check(now.at, bytes, &self.rules.limits) {
            return self.refuse_undecoded(now, message.as_bytes(), retry_after, out);
        }
        self.overload.passed();
        if bytes > MAX_INLINE_BYTES {
            self.decoding_bytes = bytes;
            return Some(Action::Decode(Undecoded(message.into_owned())));
        }
        self.handle_result(now, message.decode(), out)
    }

    /// Counts a frame that adds nothing to a message, or closes a client that sends too many of them.
    #[cold]
    fn count_overhead(&mut self, now: Millis, out: &mut Vec<u8>) {
        if self.overload.empty_frame(now, &self.rules.limits) && self.connection.is_open() {
            self.tally.closed_for_refusals = true;
            self.close(now, CloseCode::Policy, "too many frames without a message", out);
        }
    }

    /// Answers a message over the rate limit, or closes a client that gets nothing else.
    #[cold]
    fn refuse_undecoded(
        &mut self,
        now: Now,
        message: &[u8],
        retry_after: Duration,
        out: &mut Vec<u8>,
    ) -> Option<Action> {
        let (id, channel) = envelope::peek(message);
        self.refuse(now, "rate_limited", "system", rate_limited(id, channel, retry_after), out);
        if self.overload.refused(&self.rules.limits) {
            self.tally.closed_for_refusals = true;
            self.close(now.at, CloseCode::Policy, "too many refused messages", out);
        }
        None
    }

    /// Continues with a large message. Does nothing if the session has closed since its [`Action::Decode`].
    pub fn handle_decoded(&mut self, now: Now, decoded: Decoded, out: &mut Vec<u8>) -> Option<Action> {
        match std::mem::take(&mut self.decoding_bytes) {
            0 => None,
            _ => self.handle_result(now, decoded.0, out),
        }
    }

    #[inline]
    fn handle_result(
        &mut self,
        now: Now,
        decoded: Result<Request, Box<Refusal>>,
        out: &mut Vec<u8>,
    ) -> Option<Action> {
        let request = match decoded {
            Ok(request) => request,
            Err(refusal) => return self.refuse(now, &refusal.id, &refusal.channel, refusal.error, out),
        };
        if self.has_auth() && json::content_is(request.raw_channel(), "auth") {
            return self.authenticate(now, request, out);
        }
        if self.phase != Phase::Open {
            let error = WireError::with_code(ErrorCode::Unauthorized, "Authentication required");
            return self.refuse(now, request.raw_id(), request.raw_channel(), error, out);
        }
        if self.drains {
            return self.refuse(now, request.raw_id(), request.raw_channel(), stopping(), out);
        }
        Some(Action::Request(request))
    }

    /// Answers a message that does not get to a handler.
    #[cold]
    pub(super) fn refuse(
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
    pub(super) fn respond(
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
                    text = error.to_json();
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
                && let Some(count) = self.tally.errors.get_mut(error.code.index())
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
        self.parked.park(request, until, handler)
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
        let parked = self.parked.take(slot)?;
        self.answer(now, parked.request, result, out);
        Some(parked.handler)
    }

    /// A parked request.
    pub fn parked(&self, slot: Slot) -> Option<&Request> {
        self.parked.get(slot).map(|parked| &parked.request)
    }

    /// The handler of a parked request.
    pub fn handler_mut(&mut self, slot: Slot) -> Option<&mut H> {
        self.parked.get_mut(slot).map(|parked| &mut parked.handler)
    }

    /// Discards the parked requests, because the transport is lost.
    pub fn discard_parked(&mut self) {
        self.parked = Parking::new();
    }

    /// Answers a parked request whose deadline has passed with `TIMEOUT`, and returns its handler.
    fn expire(&mut self, now: Now, out: &mut Vec<u8>) -> Option<H> {
        let slot = self.parked.expired(now.at)?;
        let error = WireError::with_code(ErrorCode::Timeout, "Handler did not finish in time");
        self.answer_parked(now, slot, Err(error), out)
    }

    /// When to call [`handle_deadline`](Session::handle_deadline) next. It may be early, never late.
    pub fn deadline(&self) -> Millis {
        let limits = &self.rules.limits;
        let idle = self.idle.deadline(limits.ping_interval, limits.idle_timeout).min(self.parked.deadline());
        match self.phase {
            Phase::Closing { until } => until,
            Phase::Unauthenticated { until } => idle.min(until),
            Phase::Open => {
                self.term.as_ref().and_then(|term| term.deadline()).map_or(idle, |at| idle.min(at))
            }
        }
    }

    /// Does one thing that is due: answers an expired request, sends a ping, closes. Call it until it returns `None`. Called
    /// early it does nothing.
    pub fn handle_deadline(&mut self, now: Now, out: &mut Vec<u8>) -> Option<Due<H>> {
        if self.is_finished() {
            return Some(Due::Cut);
        }
        if let Some(handler) = self.expire(now, out) {
            return Some(Due::Expired(handler));
        }
        match self.phase {
            Phase::Closing { until } => return (now.at >= until).then_some(Due::Cut),
            Phase::Unauthenticated { until } if now.at >= until => {
                let code = self.refusal_code(UNAUTHORIZED);
                self.close(now.at, code, "authentication timeout", out);
                return None;
            }
            _ => {}
        }
        if self.is_open() && !self.handle_credential(now, out) {
            return None;
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

    /// Sends a close frame, and sets a deadline for the client's. Everything that came from the client is discarded.
    pub fn close(&mut self, now: Millis, code: CloseCode, reason: &str, out: &mut Vec<u8>) {
        if let Phase::Closing { .. } = self.phase {
            return;
        }
        self.end(|| Ending::by_server(code, reason));
        self.decoding_bytes = 0;
        self.connection.close(code, reason, out);
        self.phase = Phase::Closing { until: now + self.rules.limits.close_timeout };
    }

    fn end(&mut self, ending: impl FnOnce() -> Ending) {
        self.term.get_or_insert_default().ending.get_or_insert_with(ending);
        self.credential.is_awaited = false;
        self.discard_parked();
    }

    /// How the connection has ended; `None` while no close frame was sent or received.
    pub fn ending(&self) -> Option<&Ending> {
        self.term.as_ref()?.ending.as_ref()
    }
}

/// The error of a request that gets no other response because the server stops.
pub(super) fn stopping() -> WireError {
    WireError::with_code(ErrorCode::ConnectionClosed, "Server stopping")
}

/// Appends an event as a frame of the server. It is the same for every client.
pub fn write_event(out: &mut Vec<u8>, channel: &str, payload: Option<&str>, unix_ms: u64) {
    let timestamp = Timestamp::new(unix_ms);
    let mut quoted = String::new();
    json::write_string(&mut quoted, channel);
    let channel = json::string_content(&quoted).unwrap_or_default();
    frame::write_text(out, None, &envelope::event(channel, payload, &timestamp));
}
