//! Messages and answers.

use std::time::Duration;

use serde_json::Value;
use switchboard::protocol::envelope::{Envelope, Kind};
use switchboard::protocol::error::{ErrorCode, WireError};
use switchboard::protocol::json;
use switchboard::protocol::payload::Payload;
use switchboard::protocol::session::{Action, Request};

use super::output::{Heard, member, refused_length, response};
use super::{Choices, Harness, Parked, TOKEN};

impl Harness {
    /// Checks the reaction to one whole message.
    pub(super) fn message(
        &mut self,
        text: &str,
        action: Option<Action>,
        out: &[u8],
        choices: &mut Choices<'_>,
    ) {
        self.messages += 1;
        let heard = self.hear(out);
        let envelope = Envelope::decode(text);
        let (id, channel) = match &envelope {
            Ok(envelope) => (envelope.id, Some(envelope.channel)),
            Err(error) => (error.id, error.channel),
        };
        if let Some(retry_after_ms) = self.rate_limit() {
            assert!(action.is_none(), "over the rate limit, but {action:?}");
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
                assert!(action.is_none(), "not a request, but {action:?}");
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
            assert!(action.is_none(), "a request reaches the router before authentication");
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

    /// Counts a message. Over the limit, returns the ms until the window opens again.
    pub(super) fn rate_limit(&mut self) -> Option<u64> {
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

    /// The bytes decide what the handler of a request does.
    pub(super) fn handle(&mut self, request: Request, choices: &mut Choices<'_>) {
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
                let code = choices.pick(&ErrorCode::ALL);
                let details = Payload::from_json(r#"{"a":"\ud800"}"#).expect("it is JSON");
                (Err(WireError::with_code(code, "no \"luck\"\n").details(details)), Err(code))
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
        let text = response(&heard, id, channel, expected.as_ref().err().copied(), self.now);
        if let Ok(payload) = expected {
            assert_eq!(text, payload.unwrap_or_default());
        }
        assert!(matches!(&heard[..], [Heard::Message(text)] if text.len() <= max), "over the limit");
    }
}
