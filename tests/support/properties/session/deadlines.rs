//! Time, and the end of the session.

use std::time::Duration;

use switchboard::protocol::connection::CloseCode;
use switchboard::protocol::error::ErrorCode;
use switchboard::protocol::session::Due;
use switchboard::protocol::time::Millis;

use super::output::{Heard, is_event, refused_length, response};
use super::{Choices, EPOCH, Harness};

impl Harness {
    pub(super) fn set_wall_clock(&mut self, after_epoch_ms: u64) {
        self.now.unix_ms = EPOCH - 86_400_000 + after_epoch_ms;
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now.at = self.now.at + time;
        self.now.unix_ms += time.as_millis() as u64;
        if self.now.at >= self.session.deadline() {
            self.handle_deadline();
        }
    }

    /// What the driver does at a deadline. An early call must change nothing.
    pub(super) fn handle_deadline(&mut self) {
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
            let parked = self.parked.remove(index.expect("only parked requests expire"));
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
        assert!(lives, "the connection is cut without a close frame");
        let mut heard = heard;
        if self.has_notice() {
            let in_ms = self.expires_at.expect("it expires").0 - self.now.at.0;
            let payload = serde_json::json!({ "inMs": in_ms });
            is_event(&heard.remove(0), "auth:expiring", Some(&payload), self.now);
        }
        let expected = self.due();
        if let Some(Heard::Close(..)) = expected {
            self.closes();
        }
        assert_eq!(heard, expected.into_iter().collect::<Vec<_>>(), "at {:?}", self.now.at);
        assert!(self.session.deadline() > self.now.at, "it would wake again at once");
    }

    /// Whether the client is to be notified that its credential expires, once.
    fn has_notice(&mut self) -> bool {
        let lives = self.expires_at.is_some_and(|at| self.now.at < at);
        lives && self.notice_at.take_if(|at| self.now.at >= *at).is_some()
    }

    /// What is due because of the time.
    pub(super) fn due(&mut self) -> Option<Heard> {
        if self.auth_until.is_some_and(|until| self.now.at >= until) {
            let code = if self.is_v1 { 4401 } else { 1008 };
            return Some(Heard::Close(Some(code), "authentication timeout".to_owned()));
        }
        if self.expires_at.is_some_and(|at| self.now.at >= at) {
            return Some(Heard::Close(Some(4401), "credential expired".to_owned()));
        }
        // We have paused reading, so silence is not the client's fault.
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

    /// The end of the first interval of silence after the last ping.
    pub(super) fn next_ping(&self) -> Option<Millis> {
        let interval = (self.rules.limits.ping_interval?.as_millis() as u64).max(1);
        let pinged = self.last_ping.map_or(0, |at| at.0 - self.last_byte.0);
        Some(Millis(self.last_byte.0 + (pinged / interval + 1) * interval))
    }

    pub(super) fn close(&mut self, code: CloseCode, reason: &str) {
        let open = self.shadow.is_open();
        let mut out = Vec::new();
        self.session.close(self.now.at, code, reason, &mut out);
        let heard = self.hear(&out);
        let close = Heard::Close(Some(code.into()), reason.to_owned());
        assert_eq!(heard, if open { vec![close] } else { vec![] });
        self.closes();
    }

    pub(super) fn shut_down(&mut self) {
        let (open, member) = (self.shadow.is_open(), self.is_open());
        let mut out = Vec::new();
        self.session.shut_down(self.now, &mut out);
        let mut heard = self.hear(&out);
        if member && !self.drains {
            self.is_shutdown(&heard.remove(0));
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

    fn is_shutdown(&self, heard: &Heard) {
        let payload = serde_json::json!({ "reason": "Server stopping" });
        is_event(heard, "server:shutdown", Some(&payload), self.now);
    }

    /// A client that has not authenticated is closed; the others are notified, once.
    pub(super) fn drain(&mut self) {
        let (open, member) = (self.shadow.is_open(), self.is_open());
        let mut out = Vec::new();
        self.session.drain(self.now, &mut out);
        let mut heard = self.hear(&out);
        if member {
            if !std::mem::replace(&mut self.drains, true) {
                self.is_shutdown(&heard.remove(0));
            }
            assert_eq!(heard, []);
            return;
        }
        let close = Heard::Close(Some(1001), "server stopping".to_owned());
        assert_eq!(heard, if open { vec![close] } else { vec![] });
        self.closes();
    }

    /// What the driver does when it has handled its input and sent everything.
    pub(super) fn close_drained(&mut self) {
        let ends = self.drains && self.is_open() && self.parked.is_empty() && !self.decoding && !self.awaited;
        let mut out = Vec::new();
        self.session.close_drained(self.now, &mut out);
        let heard = self.hear(&out);
        let close = Heard::Close(Some(1001), "server stopping".to_owned());
        assert_eq!(heard, if ends { vec![close] } else { vec![] });
        if ends {
            self.closes();
        }
    }

    /// This end closes, if it has not already done so.
    pub(super) fn closes(&mut self) {
        self.drop_parked();
        self.decoding = false;
        if self.closing_until.is_none() {
            self.closing_until = Some(self.now.at + self.rules.limits.close_timeout);
            // The shadow's own close frame does not matter.
            self.shadow.close(CloseCode::Away, "", &mut Vec::new());
        }
    }

    pub(super) fn next_due(&self) -> Millis {
        let idle = self.last_byte + self.rules.limits.idle_timeout;
        let parked = self.parked.iter().map(|parked| parked.until);
        let credential = self.notice_at.or(self.expires_at);
        let due = parked.chain([idle]).chain(self.auth_until).chain(credential).chain(self.next_ping()).min();
        self.closing_until.or(due).expect("there is the idle timeout")
    }

    /// Without further input the session ends, deadline by deadline.
    pub(super) fn wind_down(&mut self, choices: &mut Choices<'_>) {
        // Each deadline ends a request, sends a ping, closes or cuts. Parked requests wait for 255 ms at most, and the
        // input that they held back can be parked again or answered.
        let mut most = 2000 + self.wire.len();
        while !self.cut_off && !self.shadow.is_closed() {
            most = most.checked_sub(1).expect("the session ends");
            let deadline = self.session.deadline();
            self.wait(deadline.since(self.now.at));
            self.handle_decoded(choices);
            self.handle_verdict(choices);
            self.read(choices);
            self.close_drained();
            self.limits_hold();
        }
        self.handle_decoded(choices);
        self.handle_verdict(choices);
        while !self.held.is_empty() {
            self.answer_held(choices);
        }
        if self.cut_off {
            self.drop_parked();
        }
        assert_eq!(self.accepted, self.answered + self.dropped, "one answer a request");
        assert!(self.dropped == 0 || self.sent_close, "a request is lost on an open connection");
        let tally = self.session.take_tally();
        assert_eq!((u64::from(tally.requests), tally.errors), (self.messages, self.errors));
        assert_eq!((tally.closed_for_refusals, tally.closed_for_tokens), self.closed_for);
    }
}
