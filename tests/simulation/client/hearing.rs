//! What a client hears: every message is checked before the client's machine reads it.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::protocol::caller::Incoming;
use switchboard::protocol::connection::Event;
use switchboard::protocol::error::ErrorCode;
use switchboard::protocol::uuid::Uuid;
use switchboard::{ClientId, Limited};
use tokio::time::Instant;

use super::super::world::{ADMIN, Access, Marks, SLACK, VIP};
use super::{Asked, Manner, Talk};

impl Talk {
    pub(super) fn take(&mut self, bytes: &mut [u8]) {
        self.look(&mut bytes.to_vec());
        let mut used = 0;
        while used < bytes.len() {
            let now = self.now();
            let step = self.caller.handle_input(now, &mut bytes[used..], &mut self.out);
            used += step.consumed;
            match step.action {
                None | Some(Incoming::Event { .. }) => {}
                Some(Incoming::Response { id, result }) => {
                    assert!(
                        !self.asked.contains_key(&id),
                        "{id}: the machine has an answer that did not come"
                    );
                    let code = result.map_or_else(|error| error.code.label(), |_| "answered");
                    self.world.count(code);
                }
                Some(Incoming::Closed { code, reason }) => {
                    assert_eq!(self.closed, Some((code, reason)), "both readings agree");
                }
            }
        }
    }

    /// Checks every message before the caller reads it.
    fn look(&mut self, bytes: &mut [u8]) {
        let mut used = 0;
        while used < bytes.len() {
            assert!(self.closed.is_none(), "{}: bytes after the close frame", self.name());
            let mut ignored = Vec::new();
            let received = self.shadow.receive(&mut bytes[used..], &mut ignored);
            used += received.consumed;
            match received.event {
                None => {}
                Some(Event::Text(text)) => {
                    let message: Value = serde_json::from_str(&text).expect("the server speaks JSON");
                    self.message(&message);
                }
                Some(Event::Binary(_)) => panic!("a server sends text"),
                Some(Event::Failed(violation)) => panic!("the server broke the protocol: {violation:?}"),
                Some(Event::Closed { code, reason }) => self.closed(code, reason),
            }
        }
    }

    fn message(&mut self, message: &Value) {
        self.world.note(|| {
            format!("{} gets {}", self.name(), message.to_string().chars().take(160).collect::<String>())
        });
        assert_eq!(self.must_close, None, "{}: only the close frame can follow: {message}", self.name());
        assert_eq!(self.refusal, None, "a client that is refused gets {message}");
        let payload = &message["payload"];
        let channel = message["channel"].as_str().expect("a channel");
        if self.id.is_none() {
            assert_eq!(
                (&message["type"], channel),
                (&json!("event"), "server:connected"),
                "what comes first"
            );
            let id: ClientId = payload["clientId"].as_str().and_then(|id| id.parse().ok()).expect("an id");
            self.id = Some(id);
            self.world.met(id, &self.wire);
            return;
        }
        match message["type"].as_str() {
            Some("event") => self.event(channel, payload),
            Some("response") => self.response(message),
            _ => panic!("a response or an event: {message}"),
        }
    }

    fn event(&mut self, channel: &str, payload: &Value) {
        let n = payload["n"].as_u64();
        let id = self.id.expect("server:connected comes first");
        assert!(self.is_authenticated, "{}: {channel} before authentication", self.name());
        let is_drained = self.world.drains_until().is_some() && channel != "server:shutdown";
        assert!(!self.shutting_down || is_drained, "{}: {channel} after server:shutdown", self.name());
        if let Some(at) = payload["at"].as_u64() {
            assert!(!self.world.has_expired(self.credential(), at), "{}: {payload} is too late", self.name());
        }
        match channel {
            "at-once" => {
                let is_in = payload["group"].is_null() || self.world.is_in_loud(id);
                let user = payload["user"].as_u64();
                assert!(is_in, "{}: an event of another group", self.name());
                assert!(user.is_none() || user == self.identity, "{}: an event of another user", self.name());
                self.world.saw(id, format!("at once {}", n.expect("a number")));
            }
            "room" => {
                let room = payload["room"].as_str().expect("a group");
                let is_allowed = room != VIP || self.identity.is_none_or(|user| user == ADMIN);
                assert!(is_allowed, "{}: an event of a group that it must not join", self.name());
                let last = self.last_of_room.get(room).copied();
                let expected = self.world.next_of_room(id, room, last, None);
                assert_eq!(n, expected, "{}: events of {room} while it is in it, in order", self.name());
                self.last_of_room.insert(room.to_owned(), n.expect("a number"));
                self.world.saw(id, format!("{room} {}", n.expect("a number")));
            }
            "server:shutdown" => self.shutting_down = true,
            "everyone" => {
                let expected = self.next_for_everyone.unwrap_or_else(|| self.world.start_of(id).everyone);
                assert_eq!(
                    n,
                    Some(expected),
                    "{}: events for every client, in order and without a gap",
                    self.name()
                );
                self.next_for_everyone = Some(expected + 1);
                self.world.saw(id, format!("everyone {expected}"));
            }
            "mail" => {
                let expected = self.next_for_user.unwrap_or_else(|| self.world.start_of(id).mail);
                assert_eq!(
                    payload["user"].as_u64(),
                    self.identity,
                    "{}: an event of another user",
                    self.name()
                );
                assert_eq!(n, Some(expected), "{}: events of its user, in order", self.name());
                self.next_for_user = Some(expected + 1);
                self.world.saw(id, format!("mail {payload}"));
            }
            "you" => {
                assert_eq!(payload["to"], self.name(), "an event for another client");
                assert_eq!(
                    n,
                    Some(self.next_for_you),
                    "{}: its own events, in order and without a gap",
                    self.name()
                );
                self.next_for_you += 1;
            }
            "own" => {
                let name = payload["of"].as_u64();
                let asked = self.asked.values_mut().filter_map(|asked| asked.own.as_mut());
                let (_, left) = asked
                    .into_iter()
                    .find(|(asked, _)| Some(*asked) == name)
                    .expect("an event of a pending request");
                *left -= 1;
            }
            "auth:expiring" => self.is_announced(payload),
            _ => panic!("an event that was not emitted: {channel}"),
        }
        self.world.count(&format!("event {channel}"));
    }

    /// The credential that counts at present.
    fn credential(&self) -> Option<usize> {
        self.credentials.iter().rev().find(|sent| sent.is_accepted).map(|sent| sent.number)
    }

    fn is_announced(&mut self, payload: &Value) {
        assert!(self.is_v1, "{}: it does not know auth:expiring", self.name());
        let in_ms = payload["inMs"].as_u64().expect("a number of milliseconds");
        let current = self.credentials.iter_mut().rev().find(|sent| sent.is_accepted);
        let current = current.expect("a credential that was accepted");
        let number = current.number;
        assert!(
            !std::mem::replace(&mut current.is_announced, true),
            "credential {number} is announced twice"
        );
        self.world.check_notice(number, in_ms);
        self.renews_at = self.plans(Duration::from_millis(in_ms));
    }

    fn response(&mut self, message: &Value) {
        let code = message["error"]["code"].as_str().unwrap_or_default();
        let is_window = message["id"] == "rate_limited";
        self.refused += u64::from(is_window);
        assert!(code == "RATE_LIMITED" || !is_window, "{message}");
        let id = match message["id"].as_str() {
            Some("rate_limited") => message["error"]["details"]["requestId"].as_str(),
            id => id,
        };
        let Some(id) = id.and_then(|id| id.parse::<Uuid>().ok()) else {
            assert!(["INVALID_MESSAGE", "RATE_LIMITED", "UNAUTHORIZED"].contains(&code), "{message}");
            self.hostile = self.hostile.checked_sub(1).expect("one answer for each message");
            self.world.count(code);
            return;
        };
        let asked =
            self.asked.remove(&id).unwrap_or_else(|| panic!("answered twice, or never requested: {message}"));
        if self.shutting_down && self.world.drains_until().is_none() {
            assert_eq!(code, ErrorCode::ConnectionClosed.as_str(), "after server:shutdown: {message}");
        } else if self.shutting_down && code == ErrorCode::ConnectionClosed.as_str() {
            self.world.count("refused while the server drains");
        }
        if code.is_empty() {
            let left = asked.own.map_or(0, |(_, left)| left);
            assert_eq!(left, 0, "{}: a response before {left} of its events", asked.channel);
            let none = ["fail", "panic", "never", "unknown", "guard:panic"];
            assert!(!none.contains(&asked.channel), "{message}");
        }
        let is_admin = self.identity.is_none_or(|user| user == ADMIN);
        let expected: &[&str] = match asked.channel {
            "auth" => return self.auth_response(id, code, message),
            "fail" | "panic" | "guard:panic" => &["HANDLER_ERROR"],
            "never" => &["TIMEOUT"],
            "unknown" => &["UNKNOWN_CHANNEL"],
            "wait" => &["", "TIMEOUT"],
            "admin:join" | "admin:later" if !is_admin => &["FORBIDDEN"],
            // The second is for one group too many.
            "big" | "join" | "admin:join" => &["", "HANDLER_ERROR"],
            _ => &[""],
        };
        let always = ["RATE_LIMITED", "UNAUTHORIZED", "CONNECTION_CLOSED"];
        assert!(expected.contains(&code) || always.contains(&code), "{}: {message}", asked.channel);
        assert!(code != "UNAUTHORIZED" || !self.is_authenticated, "{message}");
        assert!(self.is_authenticated || ["UNAUTHORIZED", "RATE_LIMITED"].contains(&code), "{message}");
        let is_stopped = code == "CONNECTION_CLOSED" && self.world.drains_until().is_some();
        let is_guarded = code != "UNAUTHORIZED" && !is_stopped;
        if asked.channel == "limited" && !is_window && is_guarded {
            self.world.check_quota(self.id, id, code == "RATE_LIMITED");
            self.world.count(if code.is_empty() { "quota" } else { "quota used up" });
        }
        assert!(code != "RATE_LIMITED" || is_window || asked.channel == "limited", "{message}");
        if asked.channel == "whoami" && code.is_empty() {
            self.is_itself(&asked, &message["payload"]);
        }
        let gets_no_handler = ["RATE_LIMITED", "UNAUTHORIZED", "FORBIDDEN"].contains(&code);
        let has_handler = !["unknown", "admin:later", "guard:panic"].contains(&asked.channel);
        self.handled += usize::from(has_handler && !gets_no_handler);
        let is_unfinished = code == ErrorCode::ConnectionClosed.as_str();
        self.unfinished += usize::from(has_handler && is_unfinished);
    }

    /// A handler sees the newest credential that was sent before its request.
    fn is_itself(&self, asked: &Asked, payload: &Value) {
        let sent = self.credentials.iter().take(asked.after);
        let newest = sent.rev().find(|sent| sent.is_accepted).map(|sent| sent.number);
        let expected = newest.map(|number| (self.identity, number));
        assert_eq!(payload, &json!(expected), "{}: who it is", self.name());
        self.world.count("recognised");
    }

    fn auth_response(&mut self, request: Uuid, code: &str, message: &Value) {
        if self.world.access == Access::Token {
            assert!(["", "UNAUTHORIZED", "RATE_LIMITED"].contains(&code), "{message}");
            self.is_authenticated |= code.is_empty();
            return;
        }
        let sent = self.credentials.iter_mut().find(|sent| sent.request == Some(request));
        let sent = sent.expect("a credential in each request");
        let number = sent.number;
        let text = message["error"]["message"].as_str().unwrap_or_default();
        sent.is_accepted = self.world.is_answered(number, self.identity, code, text);
        let kind = if text.starts_with("reason") { "reason" } else { text };
        self.world.count(&if code.is_empty() {
            "renewed".to_owned()
        } else {
            format!("renewal {code} {kind}")
        });
        if sent.is_accepted {
            self.is_authenticated = true;
            self.renews_at = None;
            self.wrong_tokens = 0;
            self.identity = Some(self.world.with_credential(number, |credential| credential.user));
        } else if code == "UNAUTHORIZED" {
            let decision = self.world.with_credential(number, |credential| credential.decision.clone());
            let refusal = decision.and_then(|decision| decision.refusal);
            if refusal.is_some_and(|refusal| refusal.is_forbidden()) {
                self.must_close = Some((if self.is_v1 { 4403 } else { 1008 }, text.to_owned()));
                return;
            }
            self.wrong_tokens += 1;
            if self.wrong_tokens >= u64::from(self.world.limits.max_auth_attempts) {
                self.must_close = Some((1008, "too many wrong tokens".to_owned()));
            }
        }
    }

    fn closed(&mut self, code: Option<u16>, reason: String) {
        self.world.note(|| format!("{} is closed with {code:?} {reason}", self.name()));
        let kind = ["kick", "reason"].into_iter().find(|kind| reason.starts_with(kind)).unwrap_or(&reason);
        self.world.count(&format!("closed {} {kind}", code.unwrap_or(1005)));
        let is_ours = self.manner != Manner::Closing && self.manner != Manner::Rude;
        if let (Some(code), Some(id)) = (code, self.id.filter(|_| is_ours)) {
            self.world.was_closed(id, code, &reason);
        }
        let frame = code.map(|code| (code, reason.clone()));
        let kick = self.id.and_then(|id| self.world.kick_of(id));
        if let Some(refusal) = &self.refusal {
            assert_eq!(frame.as_ref(), Some(refusal), "how a client that is refused is closed");
        } else if let Some(expected) = &self.must_close {
            // The server can have read that it closes.
            assert!(frame.as_ref() == Some(expected) || !is_ours, "{frame:?} instead of {expected:?}");
        } else if let Some(kick) =
            kick.filter(|kick| frame.as_ref() == Some(&(kick.code, kick.reason.clone())))
        {
            self.is_complete(&kick.until);
            let request = kick.request.as_ref().and_then(|id| id.parse::<Uuid>().ok());
            assert!(request.is_none_or(|id| !self.asked.contains_key(&id)), "closed before its response");
        } else {
            self.closed_otherwise(code, &reason);
        }
        self.closed = Some((code, reason));
    }

    fn closed_otherwise(&mut self, code: Option<u16>, reason: &str) {
        let limits = &self.world.limits;
        match (code, reason) {
            (Some(1001), "idle timeout") => {
                let silence = self.wire.longest_silence();
                assert!(silence + SLACK >= limits.idle_timeout, "closed after {silence:?} of silence");
            }
            (Some(1001), "server stopping") => {
                assert_eq!(
                    self.shutting_down, self.is_authenticated,
                    "server:shutdown, then the close frame"
                );
                let handled = self.id.map_or(0, |id| self.world.handled(id));
                match self.world.drains_until() {
                    Some(until) if Instant::now() < until => {
                        let ended = self.handled - self.unfinished;
                        assert_eq!(ended, handled, "each request whose handler was called has ended");
                        self.world.count("ended while the server drains");
                    }
                    Some(_) => assert!(self.handled >= handled, "each of them has one response"),
                    None => assert_eq!(self.handled, handled, "each request that was read is answered"),
                }
                if let Some(id) = self.id.filter(|_| self.is_authenticated) {
                    assert!(self.world.kick_of(id).is_none(), "{}: kicked before the end", self.name());
                    self.is_complete(&self.world.marks(id));
                }
            }
            (Some(1000), _) => assert_eq!(self.manner, Manner::Closing),
            (Some(code @ (1008 | 4401)), "authentication timeout") => {
                assert!(!self.is_authenticated && (code == 4401) == self.is_v1);
            }
            (Some(4401), "credential expired") => self.is_expired(),
            (Some(1008), "slow consumer") => {}
            (Some(1008), "too many refused messages") => {
                let least = u64::from(limits.rate_max_requests) * 10;
                assert!(self.refused + 1 >= least, "closed after {} refusals", self.refused);
            }
            (Some(1008), "too many wrong tokens") => {
                assert_eq!(self.world.access, Access::Token, "it is announced by a response");
                assert!(self.wrong_tokens >= u64::from(limits.max_auth_attempts), "{}", self.wrong_tokens);
            }
            (Some(1008), "not authenticated while others wait") => {
                assert!(self.world.server.stats().limited_by(Limited::Unauthenticated) > 0);
            }
            (Some(1013), "server out of memory for messages")
            | (Some(1008), "message too slow while others wait") => {
                assert!(self.world.server.stats().limited_by(Limited::Memory) > 0);
            }
            (Some(1002 | 1007 | 1009), _) => assert_eq!(self.manner, Manner::Rude),
            _ => panic!("{}: closed with {code:?} {reason}", self.name()),
        }
    }

    /// The credential has expired, not earlier than it should, and the client was notified.
    fn is_expired(&self) {
        let current = self.credentials.iter().rev().find(|sent| sent.is_accepted);
        let current = current.expect("a credential that was accepted");
        self.world.check_expired(current.number);
        assert!(current.is_announced || !self.is_v1 || self.id.is_none(), "{}: not announced", self.name());
    }

    /// Everything that was emitted for the client until then has come.
    fn is_complete(&self, until: &Marks) {
        let id = self.id.expect("an open connection");
        let start = self.world.start_of(id);
        let name = self.name();
        let everyone = self.next_for_everyone.unwrap_or(start.everyone);
        assert!(everyone >= until.everyone, "{name}: {everyone} of {} events", until.everyone);
        assert!(self.next_for_you >= until.told, "{name}: {} of {} events", self.next_for_you, until.told);
        let mail = self.next_for_user.unwrap_or(start.mail);
        assert!(mail >= until.mail, "{name}: {mail} of {} events", until.mail);
        for (room, emitted) in &until.rooms {
            let last = self.last_of_room.get(room).copied();
            let missing = self.world.next_of_room(id, room, last, Some(*emitted));
            assert_eq!(missing, None, "{name}: an event of {room} is missing");
        }
    }
}
