//! Channel `auth` of a session. Input: requests on it, and verdicts of the caller. Output: responses, a session that is open, and
//! the end of one whose client fails too often.

use super::connection::CloseCode;
use super::credential::{CredentialDue, FORBIDDEN, UNAUTHORIZED, Verdict};
use super::error::{ErrorCode, WireError};
use super::handshake;
use super::json;
use super::payload::Payload;
use super::request::Request;
use super::session::{Action, Phase, Session, write_event};
use super::time::{Millis, Now};

impl<H> Session<H> {
    /// Makes the session ask its caller about each `auth`, with [`Action::Authenticate`], instead of comparing a token.
    pub fn ask_caller(&mut self) {
        self.credential.asks_caller = true;
    }

    /// Whether it asks its caller.
    pub fn asks_caller(&self) -> bool {
        self.credential.asks_caller
    }

    /// Notes that the client offered the subprotocol `switchboard.v1`: it knows the event `auth:expiring`, and the close codes
    /// 4401 and 4403. Others get 1008 where the server could have closed before the upgrade.
    pub fn set_v1(&mut self) {
        self.credential.is_v1 = true;
    }

    /// Sets when the client's credential expires: the session then closes with 4401.
    /// [`Limits::expiry_notice`](super::limits::Limits::expiry_notice) before, a client of `switchboard.v1` gets the event
    /// `auth:expiring`.
    pub fn set_expiry(&mut self, at: Option<Millis>, now: Millis) {
        if at.is_some() || self.term.is_some() {
            let term = self.term.get_or_insert_default();
            term.set_expiry(at, self.credential.is_v1, now, &self.rules.limits);
        }
    }

    /// Whether a verdict is awaited: after [`Action::Authenticate`], until it is given or the session closes.
    pub fn is_authenticating(&self) -> bool {
        self.credential.is_awaited
    }

    /// Notifies a client whose credential expires soon. Returns whether it goes on, because the credential has not expired.
    pub(super) fn handle_credential(&mut self, now: Now, out: &mut Vec<u8>) -> bool {
        match self.term.as_mut().and_then(|term| term.due(now.at)) {
            None => true,
            Some(CredentialDue::Notice(in_ms)) => {
                let payload = format!(r#"{{"inMs":{in_ms}}}"#);
                write_event(out, "auth:expiring", Some(&payload), now.unix_ms);
                true
            }
            Some(CredentialDue::Expired) => {
                self.close(now.at, UNAUTHORIZED, "credential expired", out);
                false
            }
        }
    }

    /// The code that closes the connection of a client that is not let in.
    pub(super) fn refusal_code(&self, code: CloseCode) -> CloseCode {
        if self.credential.is_v1 { code } else { CloseCode::Policy }
    }

    /// Whether requests on channel `auth` are for the session.
    pub(super) fn has_auth(&self) -> bool {
        self.credential.asks_caller || self.rules.token.is_some()
    }

    /// Handles a request on channel `auth`.
    pub(super) fn authenticate(&mut self, now: Now, request: Request, out: &mut Vec<u8>) -> Option<Action> {
        let limits = &self.rules.limits;
        let payload = request.payload();
        // After authentication larger messages come here, which must not be scanned a second time.
        let payload =
            payload.as_str().filter(|payload| payload.len() <= limits.max_unauthenticated_message_bytes);
        let sent = payload.and_then(|payload| json::string_member(payload, "token"));
        let verdict = match (&self.rules.token, sent) {
            _ if self.credential.asks_caller && payload.is_some() => {
                self.credential.is_awaited = true;
                return Some(Action::Authenticate(request));
            }
            (Some(token), Some(sent)) if handshake::same_token(sent.as_bytes(), token.as_bytes()) => {
                Verdict::Accepted(None)
            }
            (Some(_), Some(_)) => Verdict::Unauthorized("Token is wrong".to_owned()),
            _ => Verdict::Failed(unauthorized("Payload must be {token: string}".to_owned())),
        };
        self.apply(now, &request, verdict, out)
    }

    /// Continues after [`Action::Authenticate`] with its request. Does nothing if the session has closed since.
    pub fn handle_verdict(
        &mut self,
        now: Now,
        request: &Request,
        verdict: Verdict,
        out: &mut Vec<u8>,
    ) -> Option<Action> {
        match std::mem::take(&mut self.credential.is_awaited) {
            true => self.apply(now, request, verdict, out),
            false => None,
        }
    }

    fn apply(&mut self, now: Now, request: &Request, verdict: Verdict, out: &mut Vec<u8>) -> Option<Action> {
        let (id, channel) = (request.raw_id(), request.raw_channel());
        match verdict {
            Verdict::Accepted(expires_at) => return self.accept(now, request, expires_at, out),
            Verdict::Unauthorized(reason) => {
                let are_too_many = self.overload.wrong_token(&self.rules.limits);
                self.refuse(now, id, channel, unauthorized(reason), out);
                if are_too_many {
                    self.tally.closed_for_tokens = true;
                    self.close(now.at, CloseCode::Policy, "too many wrong tokens", out);
                }
            }
            Verdict::Forbidden(reason) => {
                self.refuse(now, id, channel, unauthorized(reason.clone()), out);
                self.close(now.at, self.refusal_code(FORBIDDEN), &reason, out);
            }
            Verdict::Failed(error) => {
                self.refuse(now, id, channel, error, out);
            }
        }
        None
    }

    fn accept(
        &mut self,
        now: Now,
        request: &Request,
        expires_at: Option<Millis>,
        out: &mut Vec<u8>,
    ) -> Option<Action> {
        let payload = Payload::trusted(r#"{"authenticated":true}"#.to_owned());
        self.respond(now, request.raw_id(), request.raw_channel(), Ok(payload), usize::MAX, out);
        // One secret of all could be looked for on a connection that has it; the caller's users have their own.
        if self.credential.asks_caller {
            self.overload.right_token();
        }
        self.set_expiry(expires_at, now.at);
        if let Phase::Unauthenticated { .. } = self.phase {
            self.phase = Phase::Open;
            self.connection.set_max_message_bytes(self.rules.limits.max_message_bytes);
            return Some(Action::Authenticated);
        }
        None
    }
}

fn unauthorized(reason: String) -> WireError {
    WireError::with_code(ErrorCode::Unauthorized, reason)
}
