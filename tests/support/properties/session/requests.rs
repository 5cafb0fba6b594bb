//! Messages and answers.

use std::time::Duration;

use serde_json::Value;
use switchboard::protocol::envelope::{self, Envelope, Kind};
use switchboard::protocol::error::{ErrorCode, WireError};
use switchboard::protocol::json;
use switchboard::protocol::payload::Payload;
use switchboard::protocol::session::{Action, MAX_INLINE_BYTES, Request, Verdict};
use switchboard::protocol::time::Millis;

use super::output::{Heard, member, refused_length, response};
use super::{Choices, Harness, Parked, TOKEN};

impl Harness {
    /// Checks the reaction to one whole message.
    pub(super) fn message(
        &mut self,
        message: &[u8],
        action: Option<Action>,
        out: &[u8],
        choices: &mut Choices<'_>,
    ) {
        self.messages += 1;
        let mut heard = self.hear(out);
        if let Some(retry_after_ms) = self.rate_limit(message.len()) {
            assert!(action.is_none(), "over the rate limit, but {action:?}");
            self.refused_in_a_row += 1;
            if self.refused_in_a_row >= 10 * self.rules.limits.rate_max_requests.max(1) {
                self.is_closed_by(&mut heard, "too many refused messages");
                self.closed_for.0 = true;
            }
            let details = response(&heard, "rate_limited", "system", Some(ErrorCode::RateLimited), self.now);
            let (id, channel) = shown_by(message);
            let quoted = |raw: String| format!("\"{raw}\"");
            let raw = |name: &str| member(&details, name);
            assert_eq!(raw("requestId"), id.map(quoted));
            assert_eq!(raw("channel"), channel.map(quoted));
            assert_eq!(raw("retryAfterMs"), Some(retry_after_ms.to_string()));
            return;
        }
        self.refused_in_a_row = 0;
        if message.len() <= MAX_INLINE_BYTES {
            return self.decoded(message, action, heard, choices);
        }
        assert_eq!(heard, [], "it is not decoded yet");
        let Some(Action::Decode(undecoded)) = action else {
            panic!("a large message is decoded: {action:?}")
        };
        assert_eq!(format!("{undecoded:?}"), format!("Undecoded({} bytes)", message.len()));
        self.undecoded = Some((undecoded, message.to_vec()));
        self.decoding = true;
        if choices.byte() & 1 == 0 {
            self.handle_decoded(choices);
        }
    }

    /// Gives a large message back, in time or after the session has closed.
    pub(super) fn handle_decoded(&mut self, choices: &mut Choices<'_>) {
        let Some((undecoded, message)) = self.undecoded.take() else { return };
        let mut out = Vec::new();
        let action = self.session.handle_decoded(self.now, undecoded.decode(), &mut out);
        let heard = self.hear(&out);
        if !std::mem::take(&mut self.decoding) {
            assert!(action.is_none() && heard.is_empty(), "it goes on after its end");
            return;
        }
        self.decoded(&message, action, heard, choices);
    }

    /// Checks the reaction to a message that may be decoded.
    fn decoded(
        &mut self,
        message: &[u8],
        action: Option<Action>,
        mut heard: Vec<Heard>,
        choices: &mut Choices<'_>,
    ) {
        // Like bytes that are not UTF-8, this is not JSON.
        let text = std::str::from_utf8(message).unwrap_or("\u{fffd}");
        let envelope = match Envelope::decode(text) {
            Ok(envelope) if envelope.kind == Kind::Request => envelope,
            result => {
                assert!(action.is_none(), "not a request, but {action:?}");
                let (id, channel) = match &result {
                    Ok(envelope) => (envelope.id, Some(envelope.channel)),
                    Err(error) => (error.id, error.channel),
                };
                let (id, channel) = (id.unwrap_or("invalid_message"), channel.unwrap_or("system"));
                response(&heard, id, channel, Some(ErrorCode::InvalidMessage), self.now);
                return;
            }
        };
        let id = envelope.id.expect("a request has an id");
        let name = json::unescape(envelope.channel);
        if self.asks_caller && name.as_deref() == Some("auth") {
            return self.is_asked(&envelope, action, &heard, choices);
        }
        if self.rules.token.is_some() && name.as_deref() == Some("auth") {
            return self.is_authenticated(&envelope, action, &mut heard);
        }
        if !self.authenticated {
            assert!(action.is_none(), "a request reaches the router before authentication");
            response(&heard, id, envelope.channel, Some(ErrorCode::Unauthorized), self.now);
            return;
        }
        if self.drains {
            assert!(action.is_none(), "a request reaches the router while the session drains");
            response(&heard, id, envelope.channel, Some(ErrorCode::ConnectionClosed), self.now);
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

    /// Checks the reaction to a request on channel `auth`.
    fn is_authenticated(&mut self, envelope: &Envelope<'_>, action: Option<Action>, heard: &mut Vec<Heard>) {
        let id = envelope.id.expect("a request has an id");
        let most = self.rules.limits.max_unauthenticated_message_bytes;
        let payload = envelope.payload.filter(|payload| payload.len() <= most);
        let payload = payload.and_then(|payload| serde_json::from_str::<Value>(payload).ok());
        let sent = payload.as_ref().and_then(|payload| payload["token"].as_str());
        let right = sent == Some(TOKEN);
        if sent.is_some() && !right {
            self.wrong_tokens += 1;
            if self.wrong_tokens >= self.rules.limits.max_auth_attempts {
                self.is_closed_by(heard, "too many wrong tokens");
                self.closed_for.1 = true;
            }
        }
        self.wrong_tokens_taken += self.session.take_wrong_tokens();
        assert_eq!(self.wrong_tokens_taken, self.wrong_tokens);
        let error = (!right).then_some(ErrorCode::Unauthorized);
        response(heard, id, envelope.channel, error, self.now);
        if right {
            self.is_accepted(action, None);
        } else {
            assert!(action.is_none(), "a token reaches the router");
        }
    }

    /// Checks the reaction to the right token, or to a verdict.
    fn is_accepted(&mut self, action: Option<Action>, expires_at: Option<Millis>) {
        let becomes = !std::mem::replace(&mut self.authenticated, true);
        assert_eq!(matches!(action, Some(Action::Authenticated)), becomes);
        assert!(becomes || action.is_none(), "a token reaches the router");
        if self.asks_caller {
            (self.wrong_tokens, self.wrong_tokens_taken) = (0, 0);
        }
        self.expires_at = expires_at;
        let notice_before = |at: Millis| at.since(self.now.at).as_millis() as u64 / 2;
        let most = self.rules.limits.expiry_notice.as_millis() as u64;
        self.notice_at =
            expires_at.map(|at| Millis(at.0 - notice_before(at).min(most))).filter(|_| self.is_v1);
        self.auth_until = None;
        if becomes {
            self.shadow.set_max_message_bytes(self.rules.limits.max_message_bytes);
        }
    }

    /// Checks the reaction to a request on channel `auth` that the caller decides about.
    fn is_asked(
        &mut self,
        envelope: &Envelope<'_>,
        action: Option<Action>,
        heard: &[Heard],
        choices: &mut Choices<'_>,
    ) {
        let id = envelope.id.expect("a request has an id");
        let most = self.rules.limits.max_unauthenticated_message_bytes;
        if envelope.payload.is_none_or(|payload| payload.len() > most) {
            assert!(action.is_none(), "the caller is asked about nothing");
            response(heard, id, envelope.channel, Some(ErrorCode::Unauthorized), self.now);
            return;
        }
        assert_eq!(heard, [], "the caller has not decided yet");
        let Some(Action::Authenticate(request)) = action else {
            panic!("the caller is not asked: {action:?}")
        };
        assert_eq!((request.raw_id(), request.payload().as_str()), (id, envelope.payload));
        self.asked = Some(request);
        self.awaited = true;
        if choices.byte() & 1 == 0 {
            self.handle_verdict(choices);
        }
    }

    /// Gives a verdict, in time or after the session has closed.
    pub(super) fn handle_verdict(&mut self, choices: &mut Choices<'_>) {
        let Some(request) = self.asked.take() else { return };
        let choice = choices.byte();
        let expires_at =
            (choice & 4 != 0).then(|| self.now.at + Duration::from_millis(u64::from(choice >> 3)));
        let verdict = match choice & 3 {
            0 => Verdict::Accepted(expires_at),
            1 => Verdict::Unauthorized("no".to_owned()),
            2 => Verdict::Forbidden("never".to_owned()),
            _ => Verdict::Failed(WireError::with_code(ErrorCode::Timeout, "too late")),
        };
        let mut out = Vec::new();
        let action = self.session.handle_verdict(self.now, &request, verdict, &mut out);
        let mut heard = self.hear(&out);
        if !std::mem::take(&mut self.awaited) {
            assert!(action.is_none() && heard.is_empty(), "it goes on after its end");
            return;
        }
        let error = match choice & 3 {
            0 => None,
            3 => Some(ErrorCode::Timeout),
            _ => Some(ErrorCode::Unauthorized),
        };
        if choice & 3 == 1 {
            self.wrong_tokens += 1;
            if self.wrong_tokens >= self.rules.limits.max_auth_attempts {
                self.is_closed_by(&mut heard, "too many wrong tokens");
                self.closed_for.1 = true;
            }
        } else if choice & 3 == 2 {
            let code = if self.is_v1 { 4403 } else { 1008 };
            assert_eq!(heard.pop(), Some(Heard::Close(Some(code), "never".to_owned())));
            self.closes();
        }
        self.wrong_tokens_taken += self.session.take_wrong_tokens();
        assert_eq!(self.wrong_tokens_taken, self.wrong_tokens);
        response(&heard, request.raw_id(), request.raw_channel(), error, self.now);
        match choice & 3 {
            0 => self.is_accepted(action, expires_at),
            _ => assert!(action.is_none(), "only a right credential lets a client in"),
        }
    }

    /// The session closes after its answer.
    pub(super) fn is_closed_by(&mut self, heard: &mut Vec<Heard>, reason: &str) {
        assert_eq!(heard.pop(), Some(Heard::Close(Some(1008), reason.to_owned())));
        self.closes();
    }

    /// Counts a frame that adds nothing to a message. Returns whether it is one too many in its window.
    pub(super) fn is_flood(&mut self) -> bool {
        let limits = &self.rules.limits;
        if self.now.at >= self.overhead_until {
            self.overhead_frames = 0;
            self.overhead_until = self.now.at + limits.rate_window;
        }
        self.overhead_frames += 1;
        self.overhead_frames > 1000.max(10 * limits.rate_max_requests) && !self.sent_close
    }

    /// Counts a message. Over the limit, returns the ms until the window opens again.
    pub(super) fn rate_limit(&mut self, bytes: usize) -> Option<u64> {
        let limits = &self.rules.limits;
        let ends = match self.window_ends {
            Some(ends) if self.now.at < ends => ends,
            _ => {
                self.in_window = 0;
                self.bytes_in_window = 0;
                self.now.at + limits.rate_window
            }
        };
        self.window_ends = Some(ends);
        let passes =
            self.in_window < limits.rate_max_requests && self.bytes_in_window < limits.rate_max_bytes;
        self.in_window += 1;
        self.bytes_in_window += bytes;
        (!passes).then(|| ends.0 - self.now.at.0)
    }

    /// The bytes decide what the handler of a request does.
    pub(super) fn handle(&mut self, request: Request, choices: &mut Choices<'_>) {
        match choices.byte() % 8 {
            choice @ 0..4 => self.answer(request, choice, choices),
            4 => self.held.push(request),
            _ => {
                let (id, channel) = (request.raw_id().to_owned(), request.raw_channel().to_owned());
                let until = self.now.at + Duration::from_millis(choices.byte().into());
                let payload_bytes = request.payload().as_str().map_or(0, str::len);
                let slot = self.session.park(request, until, |slot| slot);
                assert!(self.parked.iter().all(|parked| parked.slot != slot), "{slot:?} is taken");
                assert!(slot.index() < self.rules.limits.max_in_flight, "{slot:?} is over the limit");
                assert_eq!(self.session.parked(slot).map(Request::raw_id), Some(id.as_str()));
                self.parked.push(Parked { slot, id, channel, until, payload_bytes });
            }
        }
    }

    pub(super) fn answer(&mut self, request: Request, choice: u8, choices: &mut Choices<'_>) {
        let (id, channel) = (request.raw_id().to_owned(), request.raw_channel().to_owned());
        let (result, expected) = self.result(choice, request.payload(), choices);
        let mut out = Vec::new();
        self.session.answer(self.now, request, result, &mut out);
        self.is_answered(&out, &id, &channel, expected);
    }

    pub(super) fn answer_held(&mut self, choices: &mut Choices<'_>) {
        if !self.held.is_empty() {
            let request = self.held.remove(usize::from(choices.byte()) % self.held.len());
            self.answer(request, choices.byte() % 4, choices);
        }
    }

    pub(super) fn answer_parked(&mut self, choices: &mut Choices<'_>) {
        if !self.parked.is_empty() {
            let parked = self.parked.remove(usize::from(choices.byte()) % self.parked.len());
            let payload = self.session.parked(parked.slot).map(Request::payload).expect("it is parked");
            let (result, expected) = self.result(choices.byte() % 4, payload, choices);
            let mut out = Vec::new();
            let kept = self.session.handler_mut(parked.slot).copied();
            let given_back = self.session.answer_parked(self.now, parked.slot, result, &mut out);
            assert_eq!((kept, given_back), (Some(parked.slot), Some(parked.slot)));
            self.is_answered(&out, &parked.id, &parked.channel, expected);
            assert!(self.session.parked(parked.slot).is_none(), "it is still parked");
        }
    }

    /// What a handler returns, and the expected answer: a payload's text, or an error.
    pub(super) fn result(
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
                // Around the longest allowed message.
                let max = self.rules.limits.max_message_bytes;
                let text = format!("\"{}\"", "x".repeat(max.saturating_sub(usize::from(choices.byte()))));
                let payload = Payload::from_json(text.clone()).expect("a string of x is JSON");
                (Ok(payload), Ok(Some(text)))
            }
            _ => {
                let app = ErrorCode::custom("NOT_FOUND").expect("it is a code");
                let codes: Vec<_> = ErrorCode::ALL.into_iter().chain([app]).collect();
                let code = choices.pick(&codes);
                let details = Payload::from_json(r#"{"a":"\ud800"}"#).expect("it is JSON");
                (Err(WireError::with_code(code.clone(), "no \"luck\"\n").details(details)), Err(code))
            }
        }
    }

    /// Checks for one answer if the connection is open, and none if it is not.
    pub(super) fn is_answered(
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
        let text = response(&heard, id, channel, expected.as_ref().err().cloned(), self.now);
        if let Ok(payload) = expected {
            assert_eq!(text, payload.unwrap_or_default());
        }
        assert!(matches!(&heard[..], [Heard::Message(text)] if text.len() <= max), "over the limit");
    }
}

/// The id and the channel in the answer to a message that is refused without being decoded. The property of the envelope
/// checks what the start of a longer message shows.
fn shown_by(message: &[u8]) -> (Option<String>, Option<String>) {
    let (id, channel) = match std::str::from_utf8(message).map(Envelope::decode) {
        _ if message.len() > envelope::PEEK_BYTES => envelope::peek(message),
        Ok(Ok(envelope)) => (envelope.id, Some(envelope.channel)),
        Ok(Err(error)) => (error.id, error.channel),
        Err(_) => (None, None),
    };
    (id.map(str::to_owned), channel.map(str::to_owned))
}
