//! The session machine, compared with a naive model of one client.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchboard::protocol::connection::{CloseCode, Connection};
use switchboard::protocol::error::ErrorCode;
use switchboard::protocol::limits::Limits;
use switchboard::protocol::session::{
    Due, Ending, MAX_INLINE_BYTES, RateWindow, Request, Rules, Session, Slot, Undecoded, write_event,
};
use switchboard::protocol::time::{Millis, Now};
use switchboard::protocol::uuid::Uuid;

use super::Choices;
use super::connection::{OwnedEvent, memory_is_within, own};
use output::is_event;
pub use output::{Heard, response};

mod deadlines;
mod output;
mod requests;

const TOKEN: &str = "s3cret";
const START: Millis = Millis(1000);
const EPOCH: u64 = 1_700_000_000_000;

/// After every call the output is exactly what the model expects. Each message is answered once, by the session or by its
/// handler, under its own id. `server:connected` comes first and nothing after a close frame. The rate window,
/// authentication by token or by verdicts of the caller, the end of credentials, the idle timer, handler deadlines, and the limits of memory and requests in flight hold. What is over
/// the rate limit is not decoded, and too much of it closes the connection, as wrong tokens do. Large messages are decoded
/// outside, at any later time. A session that drains calls no handler and closes when nothing is in flight. The next deadline is never late and never in the past. Left alone, the session ends.
///
/// The bytes are the limits, then steps, defined in [`Harness::step`].
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

/// A parked request.
struct Parked {
    slot: Slot,
    id: String,
    channel: String,
    until: Millis,
    payload_bytes: usize,
}

struct Harness {
    /// With each parked request it keeps the slot, to see that the right one comes back.
    session: Session<Slot>,
    id: Uuid,
    rules: Arc<Rules>,
    now: Now,
    /// Reads the same bytes with the connection machine alone, to know the messages.
    shadow: Connection,
    keeps_errors: bool,
    /// Bytes that the client sent and the session has not read.
    wire: Vec<u8>,
    /// How many bytes are read at once; 0 for all.
    read_bytes: usize,
    serial: u32,
    parked: Vec<Parked>,
    /// Requests that were neither answered nor parked yet.
    held: Vec<Request>,
    /// A large message whose decoding has not ended.
    undecoded: Option<(Undecoded, Vec<u8>)>,
    /// The session waits for it.
    decoding: bool,
    /// A request on channel `auth` that the caller was asked about.
    asked: Option<Request>,
    /// The session waits for the verdict.
    awaited: bool,
    asks_caller: bool,
    is_v1: bool,
    expires_at: Option<Millis>,
    notice_at: Option<Millis>,
    authenticated: bool,
    auth_until: Option<Millis>,
    /// The session sent a close frame.
    sent_close: bool,
    /// The server stops once nothing is in flight.
    drains: bool,
    /// This end started the close handshake and waits until then.
    closing_until: Option<Millis>,
    cut_off: bool,
    window_ends: Option<Millis>,
    in_window: u32,
    bytes_in_window: usize,
    refused_in_a_row: u32,
    overhead_frames: u32,
    overhead_until: Millis,
    wrong_tokens: u32,
    wrong_tokens_taken: u32,
    closed_for: (bool, bool),
    last_byte: Millis,
    last_ping: Option<Millis>,
    messages: u64,
    errors: [u32; ErrorCode::COUNTERS],
    accepted: u64,
    answered: u64,
    dropped: u64,
}

impl Harness {
    fn new(choices: &mut Choices<'_>) -> Harness {
        let ms = Duration::from_millis;
        let mut limits = Limits {
            max_message_bytes: choices.pick(&[300, 1000, 64, 0]),
            rate_max_requests: choices.pick(&[100, 1, 3, 0]),
            rate_window: ms(choices.pick(&[1000, 10, 1, 0])),
            max_in_flight: choices.pick(&[2, 1, 4, 256]),
            ping_interval: choices.pick(&[Some(30), Some(7), Some(0), None]).map(ms),
            idle_timeout: ms(choices.pick(&[120, 20, 1, 0])),
            expiry_notice: ms(7),
            auth_timeout: ms(choices.pick(&[50, 10, 1, 0])),
            close_timeout: ms(choices.pick(&[50, 10, 1])),
            ..Limits::default()
        };
        let setup = choices.byte();
        if setup & 8 != 0 {
            limits.max_message_bytes = 3 * MAX_INLINE_BYTES;
            limits.max_unauthenticated_message_bytes = 2 * MAX_INLINE_BYTES;
        }
        if setup & 16 != 0 {
            limits.max_unauthenticated_message_bytes = 110;
            limits.rate_max_bytes = 400;
            limits.max_in_flight_bytes = 20;
            limits.max_auth_attempts = 1;
        }
        let token = (setup & 1 != 0).then(|| TOKEN.to_owned());
        let authenticated = token.is_none() || setup & 2 != 0;
        let now = Now { at: START, unix_ms: EPOCH };
        let auth_until = (!authenticated).then(|| START + limits.auth_timeout);
        let rules = Arc::new(Rules { limits, token });
        let id = Uuid::from_random([setup; 16]);
        let max_bytes = match authenticated {
            true => rules.limits.max_message_bytes,
            false => rules.limits.max_message_bytes.min(rules.limits.max_unauthenticated_message_bytes),
        };
        let mut harness = Harness {
            session: Session::new(rules.clone(), id, authenticated, START),
            id,
            shadow: Connection::server(max_bytes),
            keeps_errors: setup & 4 == 0,
            rules,
            now,
            wire: Vec::new(),
            read_bytes: usize::from(choices.byte()),
            serial: 0,
            parked: Vec::new(),
            held: Vec::new(),
            undecoded: None,
            decoding: false,
            asked: None,
            awaited: false,
            asks_caller: setup & 64 != 0,
            is_v1: setup & 128 != 0,
            expires_at: None,
            notice_at: None,
            authenticated,
            auth_until,
            sent_close: false,
            drains: false,
            closing_until: None,
            cut_off: false,
            window_ends: None,
            in_window: 0,
            bytes_in_window: 0,
            refused_in_a_row: 0,
            overhead_frames: 0,
            overhead_until: Millis(0),
            wrong_tokens: 0,
            wrong_tokens_taken: 0,
            closed_for: (false, false),
            last_byte: START,
            last_ping: None,
            messages: 0,
            errors: [0; ErrorCode::COUNTERS],
            accepted: 0,
            answered: 0,
            dropped: 0,
        };
        if harness.keeps_errors {
            harness.session.keep_errors();
        }
        if setup & 32 != 0 {
            let window = RateWindow::default();
            harness.session.share_window(Arc::new(Mutex::new(window)));
        }
        if harness.asks_caller {
            harness.session.ask_caller();
        }
        if harness.is_v1 {
            harness.session.set_v1();
        }
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
                // Raw bytes; most of them break the protocol.
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
                6 => self.drain(),
                // The wall clock jumps. Deadlines must not depend on it.
                2 => self.set_wall_clock(0),
                3 => self.set_wall_clock(10 * 365 * 86_400_000),
                4 => {
                    self.handle_decoded(choices);
                    self.handle_verdict(choices);
                }
                // A flood of pongs, or of empty fragments.
                5 => self
                    .wire
                    .extend(choices.pick(&[[0x8a, 0x80, 0, 0, 0, 0], [0, 0x80, 0, 0, 0, 0]]).repeat(600)),
                // Nothing is due, so nothing happens.
                _ => self.handle_deadline(),
            },
        }
        self.read(choices);
        self.close_drained();
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
        let mut text =
            format!(r#"{{{payload}"type":"{kind}","id":"{id}","channel":"{channel}","timestamp":1}}"#);
        if self.rules.limits.max_message_bytes > MAX_INLINE_BYTES && choices.byte() & 1 == 0 {
            text.push_str(&" ".repeat(MAX_INLINE_BYTES));
        }
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
            126..0x1_0000 => {
                self.wire.push(0x80 | 126);
                self.wire.extend((payload.len() as u16).to_be_bytes());
            }
            length => {
                self.wire.push(0x80 | 127);
                self.wire.extend((length as u64).to_be_bytes());
            }
        }
        self.wire.extend(mask);
        self.wire.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    }

    /// Reads the bytes on the wire while the session wants input.
    fn read(&mut self, choices: &mut Choices<'_>) {
        while !self.wire.is_empty() {
            // Large messages byte by byte would take seconds.
            let length = match self.read_bytes {
                0 => self.wire.len(),
                bytes => bytes.max(self.wire.len() / 1024),
            };
            let mut piece: Vec<u8> = self.wire.drain(..length.min(self.wire.len())).collect();
            let mut at = 0;
            while at < piece.len() {
                assert_eq!(self.session.wants_input(), self.wants_input());
                if !self.wants_input() {
                    let mut out = Vec::new();
                    let step = self.session.handle_input(self.now, &mut piece[at..], &mut out);
                    assert!(step.action.is_none() && out.is_empty(), "it wanted no input");
                    // A finished session consumes further bytes; a paused one leaves them.
                    let consumed = if self.shadow.is_closed() { piece.len() - at } else { 0 };
                    assert_eq!(step.consumed, consumed);
                    self.wire.splice(0..0, piece.split_off(at + consumed));
                    if consumed == 0 {
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
        let limits = &self.rules.limits;
        let has_place = self.parked.len() < limits.max_in_flight;
        let fits = self.parked.is_empty() || self.held_bytes() <= limits.max_in_flight_bytes;
        has_place && fits && !self.decoding && !self.awaited && !self.shadow.is_closed()
    }

    fn held_bytes(&self) -> usize {
        let parked: usize = self.parked.iter().map(|parked| parked.payload_bytes).sum();
        let decoding = self.undecoded.as_ref().filter(|_| self.decoding).map_or(0, |(_, bytes)| bytes.len());
        parked + decoding + self.shadow.announced_bytes()
    }

    fn is_open(&self) -> bool {
        self.authenticated && self.shadow.is_open()
    }

    fn handle_input(&mut self, input: &mut [u8], choices: &mut Choices<'_>) -> usize {
        let mut twin = input.to_vec();
        let mut twin_out = Vec::new();
        let received = self.shadow.receive(&mut twin, &mut twin_out);
        let (consumed, is_overhead) = (received.consumed, received.is_overhead);
        let event = received.event.map(own);
        self.touched();

        let mut out = Vec::new();
        let step = self.session.handle_input(self.now, input, &mut out);
        assert_eq!(step.consumed, consumed);
        match event {
            Some(OwnedEvent::Text(text)) => self.message(text.as_bytes(), step.action, &out, choices),
            Some(OwnedEvent::Binary(bytes)) => self.message(&bytes, step.action, &out, choices),
            event => {
                assert!(step.action.is_none());
                let (shared, rest) = out.split_at(twin_out.len());
                assert_eq!(shared, twin_out, "without a message, the connection writes first");
                self.hear(shared);
                let is_flood = is_overhead && self.is_flood();
                let mut heard = self.hear(rest);
                if is_flood {
                    self.is_closed_by(&mut heard, "too many frames without a message");
                    self.closed_for.0 = true;
                }
                assert_eq!(heard, [], "without a message, only a flood is answered");
                if let Some(OwnedEvent::Closed(..) | OwnedEvent::Failed(_)) = event {
                    self.drop_parked();
                }
            }
        }
        consumed
    }

    fn drop_parked(&mut self) {
        self.awaited = false;
        self.dropped += self.parked.len() as u64;
        self.parked.clear();
    }

    fn touched(&mut self) {
        self.last_byte = self.now.at;
        self.last_ping = None;
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

    /// There is an ending as soon as a close frame was sent, and its text begins with the code.
    fn ending_is_right(&self) {
        assert_eq!(self.session.ending().is_some(), self.sent_close);
        let lost = Ending::lost();
        let ending = self.session.ending().unwrap_or(&lost);
        assert_eq!(ending.to_string(), format!("{} {}", ending.code, ending.reason).trim_end());
    }

    fn limits_hold(&self) {
        let limits = &self.rules.limits;
        let most = match (self.sent_close, self.authenticated) {
            (true, _) => 0,
            (false, true) => limits.max_message_bytes,
            (false, false) => limits.max_message_bytes.min(limits.max_unauthenticated_message_bytes),
        };
        memory_is_within(self.session.buffered_bytes(), most);
        assert_eq!(self.session.held_bytes(), self.held_bytes());
        assert_eq!(self.session.is_decoding(), self.decoding);
        assert_eq!(self.session.is_authenticating(), self.awaited);
        assert_eq!(self.session.asks_caller(), self.asks_caller);
        assert!(!self.session.is_receiving() || self.session.held_bytes() > 0);
        self.ending_is_right();
        assert_eq!(self.session.is_draining(), self.drains && self.is_open());
        assert_eq!(self.session.in_flight(), self.parked.len());
        assert!(self.parked.len() <= limits.max_in_flight, "more in flight than allowed");
        assert_eq!(self.session.is_open(), self.is_open());
        assert_eq!(self.session.is_finished(), self.shadow.is_closed());
        assert_eq!(self.sent_close, !self.shadow.is_open());
        assert_eq!(self.session.last_byte(), self.last_byte);
        assert_eq!(self.session.id(), self.id);
        assert_eq!(self.session.is_failed(), self.shadow.is_failed());
        assert_eq!(self.session.closing_until(), self.closing_until);
        assert_eq!(self.session.rate().ends_at(), self.window_ends);
        let used = match self.window_ends {
            Some(ends) if self.now.at < ends => self.in_window,
            _ => 0,
        };
        let bytes = if used == 0 { 0 } else { self.bytes_in_window };
        let has_bytes = bytes < limits.rate_max_bytes;
        let remaining = if has_bytes { limits.rate_max_requests.saturating_sub(used) } else { 0 };
        assert_eq!(self.session.remaining(self.now.at), remaining);
        if !self.shadow.is_closed() && !self.cut_off {
            assert!(self.session.deadline() <= self.next_due(), "its deadline is late");
        }
    }

    /// A session that has ended produces nothing, whatever is called.
    fn is_silent(&mut self) {
        let mut out = Vec::new();
        let mut ping = [0x89, 0x80, 0, 0, 0, 0];
        let step = self.session.handle_input(self.now, &mut ping, &mut out);
        assert!(step.action.is_none());
        let latest = Now { at: Millis(u64::MAX), ..self.now };
        assert!(!matches!(self.session.handle_deadline(latest, &mut out), Some(Due::Expired(_))));
        self.session.drain(self.now, &mut out);
        self.session.close_drained(self.now, &mut out);
        self.session.shut_down(self.now, &mut out);
        self.session.close(self.now.at, CloseCode::Away, "again", &mut out);
        self.session.handle_deadline(self.now, &mut out);
        assert!(out.is_empty(), "it writes after its end");
        assert!(self.sent_close, "it ends without a close frame");
        assert_eq!(self.session.in_flight(), 0);
    }
}
