//! The session machine against a naive model of one client.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use switchboard::protocol::connection::{CloseCode, Connection};
use switchboard::protocol::envelope::{Envelope, Kind};
use switchboard::protocol::error::{ErrorCode, WireError};
use switchboard::protocol::frame::{self, Header, Role};
use switchboard::protocol::json;
use switchboard::protocol::limits::Limits;
use switchboard::protocol::payload::Payload;
use switchboard::protocol::session::{Action, Due, Request, Rules, Session, Slot, write_event};
use switchboard::protocol::time::{Millis, Now};
use switchboard::protocol::uuid::Uuid;

use super::Choices;
use super::connection::{OwnedEvent, memory_is_within, own};

const TOKEN: &str = "s3cret";
const START: Millis = Millis(1000);
const EPOCH: u64 = 1_700_000_000_000;

/// After every call the output is exactly what the model expects of that call: each message is answered once, by the
/// session or by its handler, under its own id; `server:connected` comes first and nothing after a close frame; rate
/// window, authentication, idle timer, handler deadlines and the limits of memory and requests in flight hold; the
/// next deadline is never late and never in the past; and left alone, the session ends.
///
/// The bytes are: the limits, then steps. What a step is, [`Harness::step`] says.
pub fn session(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut harness = Harness::new(&mut choices);
    while !choices.is_empty() && !harness.cut_off {
        harness.step(&mut choices);
        harness.limits_hold();
    }
    harness.wind_down(&mut choices);
    harness.is_silent();
}

/// A frame from the session, read by hand.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Message(String),
    Ping,
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

/// A request that the session has handed out and that is not answered yet.
struct Parked {
    slot: Slot,
    id: String,
    channel: String,
    until: Millis,
}

struct Harness {
    /// With each parked request it keeps the slot, to see that the right one comes back.
    session: Session<Slot>,
    id: Uuid,
    rules: Arc<Rules>,
    now: Now,
    /// The same bytes, read by the connection machine alone: it says which messages there are.
    shadow: Connection,
    /// What the client has sent and nobody has read yet.
    wire: Vec<u8>,
    /// How much is read at once; 0 for all.
    read_bytes: usize,
    serial: u32,
    parked: Vec<Parked>,
    /// Requests that the caller has neither answered nor parked yet.
    held: Vec<Request>,
    authenticated: bool,
    auth_until: Option<Millis>,
    /// The session sent a close frame, as a step or for a violation.
    said_close: bool,
    /// This end began to close, and waits so long for the other.
    closing_until: Option<Millis>,
    cut_off: bool,
    window_ends: Option<Millis>,
    in_window: u32,
    last_byte: Millis,
    last_ping: Option<Millis>,
    messages: u64,
    errors: [u32; 7],
    accepted: u64,
    answered: u64,
    dropped: u64,
}

impl Harness {
    fn new(choices: &mut Choices<'_>) -> Harness {
        let ms = Duration::from_millis;
        let limits = Limits {
            max_message_bytes: choices.pick(&[300, 1000, 64, 0]),
            rate_max_requests: choices.pick(&[100, 1, 3, 0]),
            rate_window: ms(choices.pick(&[1000, 10, 1, 0])),
            max_in_flight: choices.pick(&[2, 1, 4, 256]),
            ping_interval: choices.pick(&[Some(30), Some(7), Some(0), None]).map(ms),
            idle_timeout: ms(choices.pick(&[120, 20, 1, 0])),
            auth_timeout: ms(choices.pick(&[50, 10, 1, 0])),
            close_timeout: ms(choices.pick(&[50, 10, 1])),
            ..Limits::default()
        };
        let setup = choices.byte();
        let token = (setup & 1 != 0).then(|| TOKEN.to_owned());
        let authenticated = token.is_none() || setup & 2 != 0;
        let now = Now { at: START, unix_ms: EPOCH };
        let auth_until = (!authenticated).then(|| START + limits.auth_timeout);
        let rules = Arc::new(Rules { limits, token });
        let id = Uuid::from_random([setup; 16]);
        let mut harness = Harness {
            session: Session::new(rules.clone(), id, authenticated, START),
            id,
            shadow: Connection::server(rules.limits.max_message_bytes),
            rules,
            now,
            wire: Vec::new(),
            read_bytes: usize::from(choices.byte()),
            serial: 0,
            parked: Vec::new(),
            held: Vec::new(),
            authenticated,
            auth_until,
            said_close: false,
            closing_until: None,
            cut_off: false,
            window_ends: None,
            in_window: 0,
            last_byte: START,
            last_ping: None,
            messages: 0,
            errors: [0; 7],
            accepted: 0,
            answered: 0,
            dropped: 0,
        };
        let mut out = Vec::new();
        harness.session.open(now, &mut out);
        let payload = serde_json::json!({ "clientId": id.to_string(), "serverTime": EPOCH });
        let heard = harness.hear(&out);
        assert_eq!(heard.len(), 1, "one event opens the session");
        is_event(&heard[0], "server:connected", Some(&payload), now);
        harness
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 16 {
            0..4 => self.send_request(choices),
            4 => self.send_text(choices),
            5 => {
                // Bytes as they are; most of them break the protocol.
                let length = usize::from(choices.byte());
                self.wire.extend_from_slice(choices.take(length));
            }
            6 => {
                let first = choices.pick(&[0x89, 0x8a, 0x88, 0x80, 0x00]);
                let length = usize::from(choices.byte() % 126);
                self.send_frame(first, choices.take(length), choices);
            }
            7 => self.read_bytes = usize::from(choices.byte()),
            8 | 9 => self.wait(Duration::from_millis(choices.byte().into())),
            10 => {
                let short = Duration::from_millis(u64::from(choices.byte() % 8));
                self.wait(short);
            }
            11 => self.answer_parked(choices),
            12 => self.answer_held(choices),
            13 => self.emit(),
            14 => {
                self.session.touch(self.now.at);
                self.touched();
            }
            _ => match choices.byte() % 8 {
                0 => self.close(CloseCode::Policy, "slow consumer"),
                1 => self.shut_down(),
                // The wall clock jumps. Deadlines must not care.
                2 => self.set_wall_clock(0),
                3 => self.set_wall_clock(10 * 365 * 86_400_000),
                // Nothing is due, so nothing may happen.
                _ => self.handle_deadline(),
            },
        }
        self.read(choices);
    }

    fn send_request(&mut self, choices: &mut Choices<'_>) {
        self.serial += 1;
        let channel = choices.pick(&["a", "auth", "chat:list", "\\u0061uth", "\\ud800"]);
        let payload = choices.pick(&[
            r#""payload":{"token":"s3cret"},"#,
            r#""payload":{"token":"s3crets3cret"},"#,
            r#""payload":{"token":7},"#,
            r#""payload":"\ud800","#,
            r#""payload":null,"#,
            "",
        ]);
        let id = match choices.byte() % 4 {
            0 => "\\u00e9\\ud800".to_owned(),
            _ => format!("r{}", self.serial),
        };
        let kind = choices.pick(&["request", "request", "request", "response", "event"]);
        let text = format!(r#"{{{payload}"type":"{kind}","id":"{id}","channel":"{channel}","timestamp":1}}"#);
        match choices.byte() % 4 {
            0 => self.send_frame(0x81, text.as_bytes(), choices),
            1 => self.send_frame(0x82, text.as_bytes(), choices),
            _ => {
                let (start, end) = text.as_bytes().split_at(usize::from(choices.byte()).min(text.len()));
                self.send_frame(0x01, start, choices);
                self.send_frame(0x89, b"between", choices);
                self.send_frame(0x80, end, choices);
            }
        }
    }

    fn send_text(&mut self, choices: &mut Choices<'_>) {
        let first = choices.pick(&[0x81, 0x82]);
        let length = usize::from(choices.byte());
        self.send_frame(first, choices.take(length), choices);
    }

    fn send_frame(&mut self, first: u8, payload: &[u8], choices: &mut Choices<'_>) {
        let mask = [choices.byte(), 2, 3, 4];
        self.wire.push(first);
        match payload.len() {
            0..126 => self.wire.push(0x80 | payload.len() as u8),
            length => {
                self.wire.push(0x80 | 126);
                self.wire.extend((length as u16).to_be_bytes());
            }
        }
        self.wire.extend(mask);
        self.wire.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    }

    /// Reads what is on the wire, as long as the session wants it.
    fn read(&mut self, choices: &mut Choices<'_>) {
        while !self.wire.is_empty() {
            let length = if self.read_bytes == 0 { self.wire.len() } else { self.read_bytes };
            let mut piece: Vec<u8> = self.wire.drain(..length.min(self.wire.len())).collect();
            let mut at = 0;
            while at < piece.len() {
                assert_eq!(self.session.wants_input(), self.wants_input());
                if !self.wants_input() {
                    let mut out = Vec::new();
                    let step = self.session.handle_input(self.now, &mut piece[at..], &mut out);
                    assert!(step.action.is_none() && out.is_empty(), "it wanted no input");
                    // A session that is over swallows what still comes; one that pauses leaves it.
                    let swallowed = if self.shadow.is_closed() { piece.len() - at } else { 0 };
                    assert_eq!(step.consumed, swallowed);
                    self.wire.splice(0..0, piece.split_off(at + swallowed));
                    if swallowed == 0 {
                        return;
                    }
                    break;
                }
                at += self.handle_input(&mut piece[at..], choices);
                self.limits_hold();
            }
        }
    }

    fn wants_input(&self) -> bool {
        self.parked.len() < self.rules.limits.max_in_flight && !self.shadow.is_closed()
    }

    fn is_open(&self) -> bool {
        self.authenticated && self.shadow.is_open()
    }

    fn handle_input(&mut self, input: &mut [u8], choices: &mut Choices<'_>) -> usize {
        let mut twin = input.to_vec();
        let mut twin_out = Vec::new();
        let received = self.shadow.receive(&mut twin, &mut twin_out);
        let (consumed, told) = (received.consumed, received.event.map(own));
        self.touched();

        let mut out = Vec::new();
        let step = self.session.handle_input(self.now, input, &mut out);
        assert_eq!(step.consumed, consumed);
        match told {
            Some(OwnedEvent::Text(text)) => self.message(&text, step.action, &out, choices),
            Some(OwnedEvent::Binary(bytes)) => match String::from_utf8(bytes) {
                Ok(text) => self.message(&text, step.action, &out, choices),
                Err(_) => self.message("\u{fffd}", step.action, &out, choices),
            },
            told => {
                assert!(step.action.is_none());
                assert_eq!(out, twin_out, "no message, so only what the connection owes");
                self.hear(&out);
                if let Some(OwnedEvent::Closed(..) | OwnedEvent::Failed(_)) = told {
                    self.drop_parked();
                }
            }
        }
        consumed
    }

    fn drop_parked(&mut self) {
        self.dropped += self.parked.len() as u64;
        self.parked.clear();
    }

    fn touched(&mut self) {
        self.last_byte = self.now.at;
        self.last_ping = None;
    }

    /// One whole message came: what is to happen, and did it?
    fn message(&mut self, text: &str, action: Option<Action>, out: &[u8], choices: &mut Choices<'_>) {
        self.messages += 1;
        let heard = self.hear(out);
        let envelope = Envelope::decode(text);
        let (id, channel) = match &envelope {
            Ok(envelope) => (envelope.id, Some(envelope.channel)),
            Err(error) => (error.id, error.channel),
        };
        if let Some(retry_after_ms) = self.rate_limit() {
            assert!(action.is_none(), "over the rate window it goes on to {action:?}");
            let details = response(&heard, "rate_limited", "system", Some(ErrorCode::RateLimited), self.now);
            let quoted = |raw: &str| format!("\"{raw}\"");
            let raw = |name: &str| member(&details, name);
            assert_eq!(raw("requestId"), id.map(quoted));
            assert_eq!(raw("channel"), channel.map(quoted));
            assert_eq!(raw("retryAfterMs"), Some(retry_after_ms.to_string()));
            return;
        }
        let envelope = match envelope {
            Ok(envelope) if envelope.kind == Kind::Request => envelope,
            _ => {
                assert!(action.is_none(), "what is no request goes on to {action:?}");
                let (id, channel) = (id.unwrap_or("invalid_message"), channel.unwrap_or("system"));
                response(&heard, id, channel, Some(ErrorCode::InvalidMessage), self.now);
                return;
            }
        };
        let id = envelope.id.expect("a request has an id");
        let name = json::unescape(envelope.channel);
        if self.rules.token.is_some() && name.as_deref() == Some("auth") {
            let payload = envelope.payload.and_then(|payload| serde_json::from_str::<Value>(payload).ok());
            let right = payload.is_some_and(|payload| payload["token"] == TOKEN);
            let error = (!right).then_some(ErrorCode::Unauthorized);
            response(&heard, id, envelope.channel, error, self.now);
            let becomes = right && !self.authenticated;
            assert_eq!(matches!(action, Some(Action::Authenticated)), becomes);
            assert!(!matches!(action, Some(Action::Request(_))), "a token reaches the router");
            self.authenticated |= right;
            self.auth_until = self.auth_until.filter(|_| !self.authenticated);
            return;
        }
        if !self.authenticated {
            assert!(action.is_none(), "unauthenticated, it reaches the router");
            response(&heard, id, envelope.channel, Some(ErrorCode::Unauthorized), self.now);
            return;
        }
        assert_eq!(heard, [], "the handler has not answered yet");
        let Some(Action::Request(request)) = action else { panic!("{text:?} does not reach the router") };
        assert_eq!((request.raw_id(), request.raw_channel()), (id, envelope.channel));
        assert_eq!(request.payload().as_str(), envelope.payload);
        assert_eq!(request.channel(), name);
        let meant = json::unescape(id).unwrap_or(id.into());
        assert_eq!(request.id().to_string(), meant);
        assert_eq!(format!("{:?}", request.id()), format!("RequestId({meant})"));
        self.accepted += 1;
        self.handle(request, choices);
    }

    /// Counts a message; over the limit it answers in how many ms the window opens again.
    fn rate_limit(&mut self) -> Option<u64> {
        let limits = &self.rules.limits;
        let ends = match self.window_ends {
            Some(ends) if self.now.at < ends => ends,
            _ => {
                self.in_window = 0;
                self.now.at + limits.rate_window
            }
        };
        self.window_ends = Some(ends);
        self.in_window += 1;
        (self.in_window > limits.rate_max_requests).then(|| ends.0 - self.now.at.0)
    }

    /// The bytes say what the handler of a request does.
    fn handle(&mut self, request: Request, choices: &mut Choices<'_>) {
        match choices.byte() % 8 {
            choice @ 0..4 => self.answer(request, choice, choices),
            4 => self.held.push(request),
            _ => {
                let (id, channel) = (request.raw_id().to_owned(), request.raw_channel().to_owned());
                let until = self.now.at + Duration::from_millis(choices.byte().into());
                let slot = self.session.park(request, until, |slot| slot);
                assert!(self.parked.iter().all(|parked| parked.slot != slot), "{slot:?} is taken");
                assert!(slot.index() < self.rules.limits.max_in_flight, "{slot:?} is over the limit");
                assert_eq!(self.session.parked(slot).map(Request::raw_id), Some(id.as_str()));
                self.parked.push(Parked { slot, id, channel, until });
            }
        }
    }

    fn answer(&mut self, request: Request, choice: u8, choices: &mut Choices<'_>) {
        let (id, channel) = (request.raw_id().to_owned(), request.raw_channel().to_owned());
        let (result, expected) = self.result(choice, request.payload(), choices);
        let mut out = Vec::new();
        self.session.answer(self.now, request, result, &mut out);
        self.is_answered(&out, &id, &channel, expected);
    }

    fn answer_held(&mut self, choices: &mut Choices<'_>) {
        if !self.held.is_empty() {
            let request = self.held.remove(usize::from(choices.byte()) % self.held.len());
            self.answer(request, choices.byte() % 4, choices);
        }
    }

    fn answer_parked(&mut self, choices: &mut Choices<'_>) {
        if !self.parked.is_empty() {
            let parked = self.parked.remove(usize::from(choices.byte()) % self.parked.len());
            let payload = self.session.parked(parked.slot).map(Request::payload).expect("it waits");
            let (result, expected) = self.result(choices.byte() % 4, payload, choices);
            let mut out = Vec::new();
            let kept = self.session.handler_mut(parked.slot).copied();
            let given_back = self.session.answer_parked(self.now, parked.slot, result, &mut out);
            assert_eq!((kept, given_back), (Some(parked.slot), Some(parked.slot)));
            self.is_answered(&out, &parked.id, &parked.channel, expected);
            assert!(self.session.parked(parked.slot).is_none(), "it waits still");
        }
    }

    /// What a handler returns, and what is to come of it: a payload's text, or an error.
    fn result(
        &self,
        choice: u8,
        echo: Payload,
        choices: &mut Choices<'_>,
    ) -> (Result<Payload, WireError>, Result<Option<String>, ErrorCode>) {
        match choice {
            0 => (Ok(Payload::none()), Ok(None)),
            1 => {
                let text = echo.as_str().map(str::to_owned);
                (Ok(echo), Ok(text))
            }
            2 => {
                // Around the longest that may be sent.
                let max = self.rules.limits.max_message_bytes;
                let text = format!("\"{}\"", "x".repeat(max.saturating_sub(usize::from(choices.byte()))));
                let payload = Payload::from_json(text.clone()).expect("a string of x is JSON");
                (Ok(payload), Ok(Some(text)))
            }
            _ => {
                let code = choices.pick(&ErrorCode::ALL);
                let details = Payload::from_json(r#"{"a":"\ud800"}"#).expect("it is JSON");
                (Err(WireError::with_code(code, "no \"luck\"\n").details(details)), Err(code))
            }
        }
    }

    /// An answer came if the connection is open, and none if it is not.
    fn is_answered(
        &mut self,
        out: &[u8],
        id: &str,
        channel: &str,
        expected: Result<Option<String>, ErrorCode>,
    ) {
        let open = self.shadow.is_open();
        let heard = self.hear(out);
        if !open {
            assert_eq!(heard, [], "an answer after a close frame");
            self.dropped += 1;
            return;
        }
        self.answered += 1;
        let max = self.rules.limits.max_message_bytes;
        if let Some(bytes) = refused_length(&heard) {
            response(&heard, id, channel, Some(ErrorCode::HandlerError), self.now);
            assert!(bytes > max, "{bytes} bytes are refused, {max} allowed");
            let Ok(payload) = expected else { return };
            let payload = payload.map_or(0, |payload| payload.len() + ",\"payload\":".len());
            let rest = r#"{"type":"response","id":"","channel":"","timestamp":}"#.len();
            let digits = self.now.unix_ms.to_string().len();
            assert_eq!(bytes, payload + rest + id.len() + channel.len() + digits);
            return;
        }
        let text = response(&heard, id, channel, expected.as_ref().err().copied(), self.now);
        if let Ok(payload) = expected {
            assert_eq!(text, payload.unwrap_or_default());
        }
        assert!(matches!(&heard[..], [Heard::Message(text)] if text.len() <= max), "over the limit");
    }

    fn emit(&mut self) {
        assert_eq!(self.session.is_open(), self.is_open());
        if self.session.is_open() {
            let mut out = Vec::new();
            write_event(&mut out, "x\"y", Some("[1]"), self.now.unix_ms);
            let heard = self.hear(&out);
            is_event(&heard[0], "x\"y", Some(&serde_json::json!([1])), self.now);
        }
    }

    fn set_wall_clock(&mut self, after_epoch_ms: u64) {
        self.now.unix_ms = EPOCH - 86_400_000 + after_epoch_ms;
    }

    fn wait(&mut self, time: Duration) {
        self.now.at = self.now.at + time;
        self.now.unix_ms += time.as_millis() as u64;
        if self.now.at >= self.session.deadline() {
            self.handle_deadline();
        }
    }

    /// What the driver does when a deadline has come. Early it must change nothing.
    fn handle_deadline(&mut self) {
        if self.shadow.is_closed() || self.cut_off {
            return;
        }
        let mut out = Vec::new();
        let lives = loop {
            let slot = match self.session.handle_deadline(self.now, &mut out) {
                Some(Due::Expired(slot)) => slot,
                Some(Due::Cut) => break false,
                None => break true,
            };
            let index = self.parked.iter().position(|parked| parked.slot == slot);
            let parked = self.parked.remove(index.expect("what expires has waited"));
            assert!(parked.until <= self.now.at, "it expires early");
            self.is_answered(&out, &parked.id, &parked.channel, Err(ErrorCode::Timeout));
            out.clear();
        };
        assert!(self.parked.iter().all(|parked| parked.until > self.now.at), "it expires late");

        let heard = self.hear(&out);
        if let Some(until) = self.closing_until {
            assert_eq!((lives, heard), (self.now.at < until, vec![]));
            self.cut_off = !lives;
            return;
        }
        assert!(lives, "it is cut off without a close frame");
        let expected = self.due();
        if let Some(Heard::Close(..)) = expected {
            self.closes();
        }
        assert_eq!(heard, expected.into_iter().collect::<Vec<_>>(), "at {:?}", self.now.at);
        assert!(self.session.deadline() > self.now.at, "it would be woken again at once");
    }

    /// What is due from the client's silence.
    fn due(&mut self) -> Option<Heard> {
        if self.auth_until.is_some_and(|until| self.now.at >= until) {
            return Some(Heard::Close(Some(1008), "authentication timeout".to_owned()));
        }
        // A client that is not read from cannot be blamed for its silence.
        if !self.wants_input() {
            self.touched();
        }
        if self.now.at >= self.last_byte + self.rules.limits.idle_timeout {
            return Some(Heard::Close(Some(1001), "idle timeout".to_owned()));
        }
        if self.next_ping().is_some_and(|at| self.now.at >= at) {
            self.last_ping = Some(self.now.at);
            return Some(Heard::Ping);
        }
        None
    }

    /// The first whole interval of silence after the last ping.
    fn next_ping(&self) -> Option<Millis> {
        let interval = (self.rules.limits.ping_interval?.as_millis() as u64).max(1);
        let pinged = self.last_ping.map_or(0, |at| at.0 - self.last_byte.0);
        Some(Millis(self.last_byte.0 + (pinged / interval + 1) * interval))
    }

    fn close(&mut self, code: CloseCode, reason: &str) {
        let open = self.shadow.is_open();
        let mut out = Vec::new();
        self.session.close(self.now.at, code, reason, &mut out);
        let heard = self.hear(&out);
        let close = Heard::Close(Some(code.into()), reason.to_owned());
        assert_eq!(heard, if open { vec![close] } else { vec![] });
        self.closes();
    }

    fn shut_down(&mut self) {
        let (open, member) = (self.shadow.is_open(), self.is_open());
        let mut out = Vec::new();
        self.session.shut_down(self.now, &mut out);
        let mut heard = self.hear(&out);
        if member {
            let payload = serde_json::json!({ "reason": "Server stopping" });
            is_event(&heard.remove(0), "server:shutdown", Some(&payload), self.now);
        }
        self.parked.sort_by_key(|parked| parked.slot.index());
        for parked in self.parked.drain(..) {
            let code = Some(ErrorCode::ConnectionClosed);
            let heard = [heard.remove(0)];
            let code = code.filter(|_| refused_length(&heard).is_none()).or(Some(ErrorCode::HandlerError));
            response(&heard, &parked.id, &parked.channel, code, self.now);
            self.answered += 1;
        }
        let close = Heard::Close(Some(1001), "server stopping".to_owned());
        assert_eq!(heard, if open { vec![close] } else { vec![] });
        self.closes();
    }

    /// This end closes, if it has not already.
    fn closes(&mut self) {
        self.drop_parked();
        if self.closing_until.is_none() {
            self.closing_until = Some(self.now.at + self.rules.limits.close_timeout);
            // The shadow's own close frame is as good as any.
            self.shadow.close(CloseCode::Away, "", &mut Vec::new());
        }
    }

    /// Reads what the session has appended: whole frames, and none after a close frame.
    fn hear(&mut self, out: &[u8]) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut at = 0;
        while at < out.len() {
            assert!(!self.said_close, "a frame follows the close frame");
            let header = Header::decode(Role::Client, &out[at..]).expect("allowed").expect("whole");
            let start = at + header.header_bytes;
            at = start + header.length as usize;
            assert!(header.fin);
            let payload = out.get(start..at).expect("a whole frame");
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text is UTF-8");
            heard.push(match header.opcode {
                frame::TEXT => Heard::Message(text(payload)),
                frame::PING => Heard::Ping,
                frame::PONG => Heard::Pong(payload.to_vec()),
                frame::CLOSE => {
                    self.said_close = true;
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    Heard::Close(code, text(payload.get(2..).unwrap_or_default()))
                }
                other => panic!("nobody asked for {other:?}"),
            });
        }
        for message in &heard {
            if let Heard::Message(text) = message
                && let Some(error) = Envelope::decode(text).expect("what we write can be read").error
            {
                let code: Value =
                    serde_json::from_str(&member(error, "code").expect("a code")).expect("JSON");
                let code = code.as_str().and_then(ErrorCode::from_wire).expect("a code of the closed set");
                self.errors[code as usize] += 1;
            }
        }
        heard
    }

    fn limits_hold(&self) {
        let limits = &self.rules.limits;
        memory_is_within(self.session.buffered_bytes(), limits.max_message_bytes);
        assert_eq!(self.session.in_flight(), self.parked.len());
        assert!(self.parked.len() <= limits.max_in_flight, "more in flight than allowed");
        assert_eq!(self.session.is_open(), self.is_open());
        assert_eq!(self.session.is_finished(), self.shadow.is_closed());
        assert_eq!(self.said_close, !self.shadow.is_open());
        assert_eq!(self.session.last_byte(), self.last_byte);
        assert_eq!(self.session.id(), self.id);
        assert_eq!(self.session.is_failed(), self.shadow.is_failed());
        assert_eq!(self.session.closing_until(), self.closing_until);
        assert_eq!(self.session.rate().ends_at(), self.window_ends);
        let used = match self.window_ends {
            Some(ends) if self.now.at < ends => self.in_window,
            _ => 0,
        };
        let remaining = limits.rate_max_requests.saturating_sub(used);
        assert_eq!(self.session.remaining(self.now.at), remaining);
        if !self.shadow.is_closed() && !self.cut_off {
            assert!(self.session.deadline() <= self.next_due(), "its deadline is late");
        }
    }

    fn next_due(&self) -> Millis {
        let idle = self.last_byte + self.rules.limits.idle_timeout;
        let parked = self.parked.iter().map(|parked| parked.until);
        let due = parked.chain([idle]).chain(self.auth_until).chain(self.next_ping()).min();
        self.closing_until.or(due).expect("there is the idle timeout")
    }

    /// Nobody sends anything any more: the session comes to its end, deadline by deadline.
    fn wind_down(&mut self, choices: &mut Choices<'_>) {
        // Each deadline ends a request, sends a ping, closes or cuts; parked requests wait for 255 ms at most, and
        // what they held back may park again or be answered.
        let mut most = 2000 + self.wire.len();
        while !self.cut_off && !self.shadow.is_closed() {
            most = most.checked_sub(1).expect("the session ends");
            let deadline = self.session.deadline();
            self.wait(deadline.since(self.now.at));
            self.read(choices);
            self.limits_hold();
        }
        while !self.held.is_empty() {
            self.answer_held(choices);
        }
        if self.cut_off {
            self.drop_parked();
        }
        assert_eq!(self.accepted, self.answered + self.dropped, "one answer a request");
        assert!(self.dropped == 0 || self.said_close, "a request is lost on an open connection");
        let tally = self.session.take_tally();
        assert_eq!((u64::from(tally.requests), tally.errors), (self.messages, self.errors));
    }

    /// Whatever is still done to a session that has ended, it says nothing more.
    fn is_silent(&mut self) {
        let mut out = Vec::new();
        let mut ping = [0x89, 0x80, 0, 0, 0, 0];
        let step = self.session.handle_input(self.now, &mut ping, &mut out);
        assert!(step.action.is_none());
        let latest = Now { at: Millis(u64::MAX), ..self.now };
        assert!(!matches!(self.session.handle_deadline(latest, &mut out), Some(Due::Expired(_))));
        self.session.shut_down(self.now, &mut out);
        self.session.close(self.now.at, CloseCode::Away, "again", &mut out);
        self.session.handle_deadline(self.now, &mut out);
        assert!(out.is_empty(), "it goes on after its end");
        assert!(self.said_close, "it ends without a close frame");
        assert_eq!(self.session.in_flight(), 0);
    }
}

/// Checks that exactly one response came, and answers the text of what it carries: its payload, or its error's details.
pub fn response(heard: &[Heard], id: &str, channel: &str, error: Option<ErrorCode>, now: Now) -> String {
    let [Heard::Message(text)] = heard else { panic!("one response was to come, not {heard:?}") };
    let read = Envelope::decode(text).expect("what we write can be read");
    assert_eq!((read.kind, read.id, read.channel), (Kind::Response, Some(id), channel), "{text}");
    assert_eq!(read.timestamp, Some(now.unix_ms.to_string().as_str()), "{text}");
    let Some(error) = error else {
        assert_eq!(read.error, None, "{text}");
        return read.payload.unwrap_or_default().to_owned();
    };
    assert_eq!(read.payload, None, "{text}");
    let found = read.error.unwrap_or_else(|| panic!("{error} was to come, not {text}"));
    assert_eq!(member(found, "code"), Some(format!("\"{error}\"")), "{text}");
    assert!(member(found, "message").is_some_and(|message| message.len() > 2), "{text}");
    member(found, "details").unwrap_or_default()
}

/// The length of an answer in whose place the session says that it is too long.
fn refused_length(heard: &[Heard]) -> Option<usize> {
    let [Heard::Message(text)] = heard else { return None };
    let error = Envelope::decode(text).ok()?.error?;
    let message = member(error, "message")?;
    message.strip_prefix("\"response of ")?.split_once(" bytes, ")?.0.parse().ok()
}

/// A member of an object's text. Details may hold a lone surrogate, which `serde_json` does not read.
fn member(object: &str, name: &str) -> Option<String> {
    let mut found = None;
    json::members(object, |member| {
        if member.name == name {
            found = Some(member.value.to_owned());
        }
    })
    .expect("what we write is JSON");
    found
}

fn is_event(heard: &Heard, channel: &str, payload: Option<&Value>, now: Now) {
    let Heard::Message(text) = heard else { panic!("an event was to come, not {heard:?}") };
    let read: Value = serde_json::from_str(text).expect("an event is JSON");
    assert_eq!((&read["type"], &read["channel"]), (&"event".into(), &channel.into()));
    assert_eq!(read.get("payload"), payload);
    assert_eq!(read["timestamp"], now.unix_ms);
}
