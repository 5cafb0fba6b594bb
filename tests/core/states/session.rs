//! The session: each input, in each state, and the passing of each time limit.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use switchboard::protocol::connection::CloseCode;
use switchboard::protocol::frame::{Header, Role};
use switchboard::protocol::limits::Limits;
use switchboard::protocol::session::{
    Action, Decoded, Due, MAX_INLINE_BYTES, Request, Rules, Session, Verdict,
};
use switchboard::protocol::time::{Millis, Now};
use switchboard::protocol::uuid::Uuid;
use switchboard::{ErrorCode, HandlerError, Payload};

use super::table::Table;
use crate::support::frames::*;

const NEVER: Duration = Duration::from_secs(1 << 30);
const START: Now = Now { at: Millis(0), unix_ms: 0 };
const OVER_LIMIT: &str = "message over the rate limit";
const LAST_REFUSED: &str = "the last of too many of them in a row";
const LAST_OVERHEAD: &str = "the last of too many pings, pongs and empty fragments";
const LAST_TOKEN: &str = "the last of Limits::max_auth_attempts wrong tokens";
const VERDICT: &str = "Session::handle_verdict of Verdict::";
const ASKED: &str = "auth while the caller is asked";
const PARKED_AND_DRAINED: &str = "Session::close_drained while a request is parked";
const DECODED: &str = "Session::handle_decoded of a request";
const WRONG_TOKEN: &str = r#"{"type":"request","id":"1","channel":"auth","payload":{"token":"s3cre"}}"#;
const LATER: Now = Now { at: Millis(1000), unix_ms: 1000 };

#[test]
fn the_session_does_what_its_table_of_states_says() {
    let table = Table::read(include_str!("../../../src/protocol/session.rs"));
    assert_eq!(table.states, ["Unauthenticated", "Open", "Draining", "Closing", "Finished"]);
    assert_eq!(table.rows.len(), 33, "rows that this test walks through");
    for (input, cells) in &table.rows {
        for (state, cell) in table.states.iter().zip(cells) {
            if !cell.is_empty() {
                let place = format!("{input} in {state}");
                let mut walk = Walk::to(state, input);
                walk.apply(input);
                let (mut done, expected) = (walk.done(input), expected(cell));
                for (done, expected) in done.iter_mut().zip(&expected) {
                    if expected == "close frame" && done.starts_with("close ") {
                        done.clone_from(expected);
                    }
                }
                assert_eq!(done, expected, "{place}");
            }
        }
    }
}

/// One session on its way through one cell.
struct Walk {
    session: Session,
    before: String,
    /// A request that came before the session left its first state.
    request: Option<Request>,
    /// A large message that was decoded before the session left its first state.
    decoded: Option<Decoded>,
    /// A request on channel `auth` that came before the session left its first state.
    asked: Option<Request>,
    out: Vec<u8>,
    /// What the session returned.
    returned: Vec<String>,
}

impl Walk {
    fn to(state: &str, input: &str) -> Walk {
        let mut limits = Limits {
            rate_max_requests: 1000,
            ping_interval: None,
            idle_timeout: NEVER,
            auth_timeout: NEVER,
            close_timeout: NEVER,
            max_unauthenticated_message_bytes: 1 << 20,
            ..Limits::default()
        };
        let due = LATER.at.since(START.at);
        match input {
            OVER_LIMIT | LAST_REFUSED | LAST_OVERHEAD => limits.rate_max_requests = 1,
            "Limits::auth_timeout" => limits.auth_timeout = due,
            "Limits::expiry_notice before the credential expires" => limits.expiry_notice = due,
            "the time at which the credential expires" => limits.expiry_notice = Duration::ZERO,
            "Limits::ping_interval of silence" => limits.ping_interval = Some(due),
            "Limits::idle_timeout of silence" => limits.idle_timeout = due,
            "Limits::close_timeout" => limits.close_timeout = due,
            _ => {}
        }
        let rules = Rules { limits, token: Some("s3cret".to_owned()) };
        let is_open = state != "Unauthenticated";
        let mut session = Session::new(Arc::new(rules), Uuid::from_random([7; 16]), is_open, START.at);
        session.set_v1();
        match input {
            "Limits::expiry_notice before the credential expires" => {
                session.set_expiry(Some(LATER.at + due), START.at);
            }
            "the time at which the credential expires" => session.set_expiry(Some(LATER.at), START.at),
            _ if input == ASKED || input.starts_with(VERDICT) => session.ask_caller(),
            _ => {}
        }
        let mut walk = Walk {
            session,
            before: state.to_owned(),
            request: None,
            decoded: None,
            asked: None,
            out: Vec::new(),
            returned: Vec::new(),
        };
        if is_open {
            walk.receive(&text_frame(&request("c", "1")));
            walk.park_or_keep(input);
        } else if let OVER_LIMIT | LAST_REFUSED = input {
            walk.receive(&text_frame(&request("c", "1")));
        }
        walk.lead_up_to(input);
        if state == "Draining" {
            walk.session.drain(START, &mut walk.out);
        }
        if state == "Closing" || (state == "Finished" && (input == DECODED || input.starts_with(VERDICT))) {
            walk.session.close(START.at, CloseCode::Normal, "", &mut Vec::new());
        }
        if state == "Finished" {
            walk.receive(&frame(FIN | CLOSE, b""));
        }
        assert_eq!(walk.state(), state);
        walk.out.clear();
        walk.returned.clear();
        walk
    }

    /// What must have come before the input.
    fn lead_up_to(&mut self, input: &str) {
        match input {
            LAST_REFUSED => (1..10).for_each(|_| self.receive(&text_frame(&request("c", "2")))),
            LAST_OVERHEAD => self.receive(&frame(FIN | PONG, b"").repeat(1000)),
            LAST_TOKEN => (1..3).for_each(|_| self.receive(&text_frame(WRONG_TOKEN))),
            DECODED => self.receive(&text_frame(&large_request())),
            _ if input.starts_with(VERDICT) => self.receive(&text_frame(&auth_request())),
            _ => {}
        }
    }

    /// Some rows need a parked request. In every other one the request waits to be answered.
    fn park_or_keep(&mut self, input: &str) {
        if let "deadline of a parked request" | "Session::shut_down" | PARKED_AND_DRAINED = input
            && let Some(request) = self.request.take()
        {
            self.session.park(request, LATER.at, |_| ());
        }
    }

    fn apply(&mut self, input: &str) {
        let text = |text: &str| text_frame(text);
        match input {
            OVER_LIMIT | LAST_REFUSED | "other request" => self.receive(&text(&request("c", "2"))),
            "message that is not a request" => self.receive(&text("{}")),
            "auth with the token" => {
                self.receive(&text(
                    r#"{"type":"request","id":"1","channel":"auth","payload":{"token":"s3cret"}}"#,
                ));
            }
            LAST_TOKEN => self.receive(&text(WRONG_TOKEN)),
            "message over MAX_INLINE_BYTES" => self.receive(&text(&large_request())),
            DECODED => {
                let decoded = self.decoded.take().expect("a large message was decoded");
                let action = self.session.handle_decoded(LATER, decoded, &mut self.out);
                self.note(action);
                assert!(!self.session.is_decoding());
            }
            ASKED => self.receive(&text(&auth_request())),
            _ if input.starts_with(VERDICT) => self.decide(input.trim_start_matches(VERDICT)),
            "auth without the token" => self.receive(&text(&request("auth", "1"))),
            "ping" => self.receive(&frame(FIN | PING, b"beat")),
            LAST_OVERHEAD | "pong" => self.receive(&frame(FIN | PONG, b"")),
            "close frame" => self.receive(&frame(FIN | CLOSE, &1000_u16.to_be_bytes())),
            "violation of RFC 6455 in a message, or of its limit" => {
                self.receive(&frame(FIN | CONTINUATION, b""));
            }
            "any other violation of RFC 6455" => self.receive(&frame(FIN | RSV1 | TEXT, b"")),
            "Session::answer" => {
                let request = self.request.take().expect("a request was received while it was open");
                self.session.answer(LATER, request, Ok(Payload::none()), &mut self.out);
            }
            "Session::close" => self.session.close(LATER.at, CloseCode::Normal, "", &mut self.out),
            "Session::shut_down" => self.session.shut_down(LATER, &mut self.out),
            "Session::drain" => self.session.drain(LATER, &mut self.out),
            PARKED_AND_DRAINED | "Session::close_drained otherwise" => {
                self.session.close_drained(LATER, &mut self.out);
            }
            "deadline of a parked request"
            | "Limits::auth_timeout"
            | "Limits::expiry_notice before the credential expires"
            | "the time at which the credential expires"
            | "Limits::ping_interval of silence"
            | "Limits::idle_timeout of silence"
            | "Limits::close_timeout" => self.pass_time(),
            unknown => panic!("no input is known for the row {unknown:?}"),
        }
    }

    fn decide(&mut self, verdict: &str) {
        let verdict = match verdict {
            "Accepted" => Verdict::Accepted(None),
            "Unauthorized" => Verdict::Unauthorized("no".to_owned()),
            "Forbidden" => Verdict::Forbidden("never".to_owned()),
            "Failed" => Verdict::Failed(HandlerError::with_code(ErrorCode::Timeout, "too late")),
            unknown => panic!("no verdict {unknown:?} is known"),
        };
        let request = self.asked.take().expect("the caller was asked");
        let action = self.session.handle_verdict(LATER, &request, verdict, &mut self.out);
        self.note(action);
        assert!(!self.session.is_authenticating());
    }

    fn receive(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let mut used = 0;
        while used < bytes.len() {
            let step = self.session.handle_input(START, &mut bytes[used..], &mut self.out);
            used += step.consumed;
            self.note(step.action);
        }
    }

    fn note(&mut self, action: Option<Action>) {
        let name = match action {
            Some(Action::Request(request)) => {
                self.request = Some(request);
                "Action::Request"
            }
            Some(Action::Authenticated) => "Action::Authenticated",
            Some(Action::Authenticate(request)) => {
                self.asked = Some(request);
                "Action::Authenticate"
            }
            Some(Action::Decode(message)) => {
                self.decoded = Some(message.decode());
                "Action::Decode"
            }
            None => return,
        };
        self.returned.push(name.to_owned());
    }

    /// Nothing is due until the time has passed. Then all that is due is done.
    fn pass_time(&mut self) {
        if self.before != "Finished" {
            let early = Now { at: Millis(LATER.at.0 - 1), unix_ms: 999 };
            assert!(self.session.handle_deadline(early, &mut self.out).is_none() && self.out.is_empty());
            let is_due = self.session.deadline() <= LATER.at;
            assert!(is_due || self.before == "Closing", "the deadline is the one of this row");
        }
        loop {
            match self.session.handle_deadline(LATER, &mut self.out) {
                Some(Due::Expired(())) => self.returned.push("Due::Expired".to_owned()),
                Some(Due::Cut) => return self.returned.push("Due::Cut".to_owned()),
                None => return,
            }
        }
    }

    fn state(&self) -> &'static str {
        match (self.session.is_open(), self.session.is_finished(), self.session.closing_until()) {
            (_, true, _) => "Finished",
            (false, false, Some(_)) => "Closing",
            (true, false, None) if self.session.is_draining() => "Draining",
            (true, false, None) => "Open",
            (false, false, None) => "Unauthenticated",
            impossible => panic!("{impossible:?}"),
        }
    }

    /// What happened, in the words of the table: what was sent, what was returned, and the new state.
    fn done(&self, input: &str) -> Vec<String> {
        let mut done = sent(&self.out);
        // A finished session is cut at each deadline; one row says so for all.
        let is_cut = |word: &String| self.before == "Finished" && word == "Due::Cut";
        let returned = self.returned.iter().filter(|word| input == "Limits::close_timeout" || !is_cut(word));
        done.extend(returned.cloned());
        if self.state() != self.before {
            done.push(self.state().to_owned());
        }
        done
    }
}

/// A request that the session does not decode itself.
fn large_request() -> String {
    format!("{}{}", request("c", "3"), " ".repeat(MAX_INLINE_BYTES))
}

fn auth_request() -> String {
    r#"{"type":"request","id":"1","channel":"auth","payload":{"token":"a"}}"#.to_owned()
}

fn request(channel: &str, id: &str) -> String {
    format!(r#"{{"type":"request","id":"{id}","channel":"{channel}"}}"#)
}

/// The frames of a server, each in a word.
fn sent(out: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = out;
    while !rest.is_empty() {
        let header = Header::decode(Role::Client, rest).expect("a sound header").expect("a whole header");
        let end = header.header_bytes + header.length as usize;
        let payload = &rest[header.header_bytes..end];
        words.push(match rest[0] & 0xf {
            TEXT => {
                let message: Value = serde_json::from_slice(payload).expect("a message is JSON");
                let code = message["error"]["code"].as_str();
                let event = message["channel"].as_str().filter(|_| message["type"] == "event");
                code.or(event).unwrap_or("response").to_owned()
            }
            PING => "ping".to_owned(),
            PONG => "pong".to_owned(),
            CLOSE => match payload.first_chunk() {
                Some(code) => format!("close {}", u16::from_be_bytes(*code)),
                None => "close frame".to_owned(),
            },
            opcode => panic!("opcode {opcode}"),
        });
        rest = &rest[end..];
    }
    words
}

/// The same as a cell says it. `close frame` leaves the code open.
fn expected(cell: &str) -> Vec<String> {
    let words = cell.split(", ").filter(|word| *word != "-");
    words.map(|word| word.trim_end_matches(" per parked request").to_owned()).collect()
}
