//! The client's end of a connection, the mirror of [`session`](super::session). Input: calls, bytes, time. Output: answers,
//! events, and the bytes to send. Never waits, and never reconnects: a new connection is a new caller.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::connection::{CloseCode, Connection, Event, MaskSource};
use super::envelope::{self, Kind, MAX_CHANNEL_BYTES, Members, Timestamp};
use super::error::{ErrorCode, WireError};
use super::idle::{IdleAction, IdleTimer};
use super::json;
use super::payload::Payload;
pub use super::step::{Due, Step};
use super::time::{Millis, Now};
use super::uuid::Uuid;

/// The limits of a caller.
#[derive(Debug, Clone)]
pub struct CallerLimits {
    /// Largest message accepted, in bytes. A larger one closes the connection with 1009.
    ///
    /// Default 16 MiB, the default limit of a server too.
    pub max_message_bytes: usize,
    /// Silence after which the server is pinged.
    ///
    /// Default 30 s.
    pub ping_interval: Duration,
    /// Silence, without pongs either, after which the connection counts as lost.
    ///
    /// Default 75 s: two pings without an answer.
    pub idle_timeout: Duration,
    /// How long the server may take to answer a close frame. Then the connection is cut.
    ///
    /// Default 5 s.
    pub close_timeout: Duration,
}

impl Default for CallerLimits {
    fn default() -> CallerLimits {
        CallerLimits {
            max_message_bytes: 16 << 20,
            ping_interval: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            close_timeout: Duration::from_secs(5),
        }
    }
}

/// The client's end of one connection.
///
/// # Contract
///
/// 1. After each read, call [`handle_input`](Caller::handle_input) until everything is consumed.
/// 2. At [`deadline`](Caller::deadline), call [`handle_deadline`](Caller::handle_deadline) until it returns `None`. After
///    [`Due::Cut`], close the transport.
/// 3. After each call, send what was appended to `out`, and ask for the deadline again: it may have changed.
/// 4. When [`is_finished`](Caller::is_finished), send what is left, then close the transport. Calls without an answer have
///    failed.
#[derive(Debug)]
pub struct Caller {
    limits: CallerLimits,
    connection: Connection,
    idle: IdleTimer,
    pending: HashMap<Uuid, Pending>,
    /// No call expires before this; it may be earlier than the first that does.
    pending_deadline: Millis,
    closing_until: Option<Millis>,
}

#[derive(Debug)]
struct Pending {
    channel: String,
    until: Millis,
}

/// What came from the server.
#[derive(Debug)]
pub enum Incoming {
    /// A call has its answer.
    Response {
        /// The id that [`Caller::call`] was given.
        id: Uuid,
        /// The payload, or the server's error.
        result: Result<Payload, WireError>,
    },
    /// An event of the server.
    Event {
        /// The channel.
        channel: String,
        /// The payload.
        payload: Payload,
    },
    /// The connection has ended.
    Closed {
        /// The code of the server's close frame; `None` if it has none, or the connection failed.
        code: Option<u16>,
        /// Why, for a person.
        reason: String,
    },
}

impl Caller {
    /// The client's end of a connection whose upgrade was just answered.
    pub fn new(limits: CallerLimits, masks: MaskSource, now: Millis) -> Caller {
        Caller {
            connection: Connection::client(limits.max_message_bytes, masks),
            idle: IdleTimer::new(now),
            pending: HashMap::new(),
            pending_deadline: Millis(u64::MAX),
            closing_until: None,
            limits,
        }
    }

    /// Appends a request. Its answer comes once, as [`Incoming::Response`] or [`Due::Expired`].
    ///
    /// # Errors
    /// When the connection is closing, or the channel is not a name of 1 to 256 bytes. Then nothing was appended.
    pub fn call(
        &mut self,
        now: Now,
        id: Uuid,
        channel: &str,
        payload: &Payload,
        timeout: Duration,
        out: &mut Vec<u8>,
    ) -> Result<(), WireError> {
        if !self.connection.is_open() {
            return Err(WireError::with_code(ErrorCode::ConnectionClosed, "Connection is closing"));
        }
        let mut quoted = String::with_capacity(channel.len() + 2);
        json::write_string(&mut quoted, channel);
        let raw = json::string_content(&quoted).unwrap_or_default();
        if !(1..=MAX_CHANNEL_BYTES).contains(&raw.len()) {
            let message = format!("channel must be a name of 1..={MAX_CHANNEL_BYTES} bytes");
            return Err(WireError::with_code(ErrorCode::InvalidMessage, message));
        }
        let timestamp = Timestamp::new(now.unix_ms);
        let text = id.to_string();
        let pieces = envelope::request(&text, raw, payload.as_str(), &timestamp);
        self.connection.write_text(out, &pieces);
        let until = now.at + timeout;
        self.pending.insert(id, Pending { channel: channel.to_owned(), until });
        self.pending_deadline = self.pending_deadline.min(until);
        Ok(())
    }

    /// Whether calls can be made: no close frame was sent or received.
    pub fn is_open(&self) -> bool {
        self.connection.is_open()
    }

    /// Whether the connection has ended: send what is left, then close the transport.
    pub fn is_finished(&self) -> bool {
        self.connection.is_closed()
    }

    /// The number of calls without an answer.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Takes the next step into bytes from the server: at most one frame.
    pub fn handle_input(&mut self, now: Now, input: &mut [u8], out: &mut Vec<u8>) -> Step<Incoming> {
        self.idle.touch(now.at);
        let received = self.connection.receive(input, out);
        let action = match received.event {
            Some(Event::Text(text)) => take(&mut self.pending, &text),
            Some(Event::Binary(bytes)) => {
                std::str::from_utf8(&bytes).ok().and_then(|text| take(&mut self.pending, text))
            }
            Some(Event::Closed { code, reason }) => Some(Incoming::Closed { code, reason }),
            Some(Event::Failed(violation)) => {
                Some(Incoming::Closed { code: None, reason: violation.as_str().to_owned() })
            }
            None => None,
        };
        Step { consumed: received.consumed, action }
    }

    /// When to call [`handle_deadline`](Caller::handle_deadline) next. It may be early, never late.
    pub fn deadline(&self) -> Millis {
        if let Some(until) = self.closing_until {
            return until.min(self.pending_deadline);
        }
        let limits = &self.limits;
        self.idle.deadline(Some(limits.ping_interval), limits.idle_timeout).min(self.pending_deadline)
    }

    /// Does one thing that is due: ends a call whose time is up, or sends a ping. Call it until it returns `None`. Called
    /// early it does nothing.
    pub fn handle_deadline(&mut self, now: Now, out: &mut Vec<u8>) -> Option<Due<(Uuid, WireError)>> {
        if now.at >= self.pending_deadline
            && let Some(expired) = self.expire(now)
        {
            return Some(Due::Expired(expired));
        }
        if let Some(until) = self.closing_until {
            return (now.at >= until).then_some(Due::Cut);
        }
        let limits = &self.limits;
        match self.idle.poll(now.at, Some(limits.ping_interval), limits.idle_timeout) {
            IdleAction::Wait => {}
            IdleAction::Ping => self.connection.ping(out),
            IdleAction::Close => return Some(Due::Cut),
        }
        None
    }

    /// Ends a call whose time is up.
    fn expire(&mut self, now: Now) -> Option<(Uuid, WireError)> {
        let due = self.pending.iter().find(|(_, pending)| now.at >= pending.until).map(|(id, _)| *id);
        let Some((id, pending)) = due.and_then(|id| self.pending.remove_entry(&id)) else {
            let deadlines = self.pending.values().map(|pending| pending.until);
            self.pending_deadline = deadlines.min().unwrap_or(Millis(u64::MAX));
            return None;
        };
        Some((id, timed_out(&pending.channel)))
    }

    /// Starts the close handshake with code 1000.
    pub fn close(&mut self, now: Millis, out: &mut Vec<u8>) {
        if self.closing_until.is_none() {
            self.connection.close(CloseCode::Normal, "", out);
            self.closing_until = Some(now + self.limits.close_timeout);
        }
    }
}

/// The error of a call on `channel` that was not answered in time.
pub(crate) fn timed_out(channel: &str) -> WireError {
    WireError::with_code(ErrorCode::Timeout, format!("no answer in time on {channel}"))
}

/// Reads a message. `None` if it is neither an event nor the answer to a pending call: it may have come after the call's
/// deadline.
fn take(pending: &mut HashMap<Uuid, Pending>, text: &str) -> Option<Incoming> {
    let (kind, members) = Members::decode(text).ok()?;
    let message: Arc<str> = Arc::from(text);
    let envelope = members.envelope(kind, &message);
    match kind {
        Kind::Request => None,
        Kind::Event => Some(Incoming::Event {
            channel: json::unescape(envelope.channel)?.into_owned(),
            payload: Payload::part(&message, &members.payload),
        }),
        Kind::Response => {
            let error = envelope.error.map(|error| read_error(error, &message, members.error.start));
            // A call that was refused before the server looked at ids is named in the details.
            let id = match envelope.id?.parse() {
                Ok(id) => id,
                Err(_) => {
                    json::string_member(error.as_ref()?.details.as_str()?, "requestId")?.parse().ok()?
                }
            };
            pending.remove(&id)?;
            let result = match error {
                Some(error) => Err(error),
                None => Ok(Payload::part(&message, &members.payload)),
            };
            Some(Incoming::Response { id, result })
        }
    }
}

/// Longest error code that is kept; as in `client.js`.
const MAX_CODE_BYTES: usize = 64;

/// Reads the `error` member of a response. A code that is not a text, or is too long, becomes `HANDLER_ERROR`. An error without a code, a message
/// and details has itself as details, so that nothing of it is lost.
fn read_error(error: &str, message: &Arc<str>, error_at: usize) -> WireError {
    let mut read = WireError::new("the server gave no reason");
    let (mut has_code, mut has_message) = (false, false);
    // The text was checked when the envelope was decoded.
    let _ = json::members(error, |member| match member.name {
        "code" => {
            let code = json::string_content(member.value).and_then(json::unescape);
            let code = code.filter(|code| (1..=MAX_CODE_BYTES).contains(&code.len()));
            has_code = code.is_some();
            read.code = code.map_or(ErrorCode::HandlerError, |code| ErrorCode::received(&code));
        }
        "message" => {
            if let Some(message) = json::string_content(member.value).and_then(json::unescape) {
                has_message = true;
                read.message = message.into_owned().into();
            }
        }
        "details" => {
            let start = error_at + member.at;
            read.details = Payload::part(message, &(start..start + member.value.len()));
        }
        _ => {}
    });
    if read.details.is_none() && !(has_code && has_message) {
        read.details = Payload::part(message, &(error_at..error_at + error.len()));
    }
    read
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;

    const NOW: Now = Now { at: Millis(1000), unix_ms: 5 };

    fn at(ms: u64) -> Now {
        Now { at: Millis(ms), unix_ms: ms }
    }

    fn caller() -> Caller {
        Caller::new(CallerLimits::default(), || [0; 4], NOW.at)
    }

    fn id(n: u8) -> Uuid {
        Uuid::from_random([n; 16])
    }

    fn receive(caller: &mut Caller, text: &str) -> Option<Incoming> {
        let mut input = Vec::new();
        frame::write_text(&mut input, None, &[text]);
        let step = caller.handle_input(NOW, &mut input, &mut Vec::new());
        assert_eq!(step.consumed, input.len());
        step.action
    }

    /// The call that an answer belongs to, and its content.
    fn answer(incoming: Option<Incoming>) -> Option<(Uuid, String)> {
        match incoming? {
            Incoming::Response { id, result: Ok(payload) } => {
                Some((id, payload.as_str().unwrap_or("none").to_owned()))
            }
            Incoming::Response { id, result: Err(error) } => {
                Some((id, format!("{error} {}", error.details.as_str().unwrap_or("none"))))
            }
            other => panic!("{other:?}"),
        }
    }

    fn call(caller: &mut Caller, n: u8, channel: &str, seconds: u64) -> Result<Vec<u8>, WireError> {
        let mut out = Vec::new();
        caller.call(NOW, id(n), channel, &Payload::none(), Duration::from_secs(seconds), &mut out)?;
        Ok(out)
    }

    #[test]
    fn each_call_gets_its_own_answer_once() {
        let mut caller = caller();
        for n in 1..=4 {
            assert!(!call(&mut caller, n, "c", 30).unwrap().is_empty());
        }
        let response = |n: u8, rest: &str| {
            format!(r#"{{"type":"response","id":"{}","channel":"c"{rest},"timestamp":1}}"#, id(n))
        };
        let text = response(2, r#","payload":{"x":1}"#);
        assert_eq!(answer(receive(&mut caller, &text)), Some((id(2), r#"{"x":1}"#.to_owned())));
        assert_eq!(answer(receive(&mut caller, &text)), None, "the second answer to one call");
        assert_eq!(answer(receive(&mut caller, &response(1, ""))), Some((id(1), "none".to_owned())));
        let text = response(3, r#","error":{"code":"TIMEOUT","message":"a\u0062c","details":[1]}"#);
        assert_eq!(answer(receive(&mut caller, &text)), Some((id(3), "TIMEOUT: abc [1]".to_owned())));
        let limited = format!(
            r#"{{"type":"response","id":"rate_limited","channel":"system","error":{{"code":"RATE_LIMITED","message":"Too many requests","details":{{"requestId":"{}"}}}}}}"#,
            id(4)
        );
        let (limited_id, text) = answer(receive(&mut caller, &limited)).unwrap();
        assert_eq!(limited_id, id(4));
        assert!(text.starts_with("RATE_LIMITED: Too many requests"));
        // A handler may choose the code, too.
        call(&mut caller, 5, "c", 30).unwrap();
        let text = response(5, r#","error":{"code":"RATE_LIMITED","message":"m"}"#);
        assert_eq!(answer(receive(&mut caller, &text)), Some((id(5), "RATE_LIMITED: m none".to_owned())));
        assert_eq!(caller.pending(), 0);
        for nothing in [
            "{",
            "[]",
            r#"{"type":"request","id":"1","channel":"c"}"#,
            r#"{"type":"response","id":"x","channel":"c"}"#,
        ] {
            assert_eq!(answer(receive(&mut caller, nothing)), None, "{nothing}");
        }
    }

    #[test]
    fn a_malformed_error_fails_its_call_with_what_came() {
        let long = format!(r#"{{"code":"{}","message":"m"}}"#, "X".repeat(1 << 20));
        for (error, expected) in [
            ("5", "HANDLER_ERROR: the server gave no reason 5"),
            ("null", "HANDLER_ERROR: the server gave no reason null"),
            ("false", "HANDLER_ERROR: the server gave no reason false"),
            (r#""""#, r#"HANDLER_ERROR: the server gave no reason """#),
            (r#"["TIMEOUT"]"#, r#"HANDLER_ERROR: the server gave no reason ["TIMEOUT"]"#),
            ("{}", "HANDLER_ERROR: the server gave no reason {}"),
            (r#"{"message":"m"}"#, r#"HANDLER_ERROR: m {"message":"m"}"#),
            (r#"{"code":5,"message":"m"}"#, r#"HANDLER_ERROR: m {"code":5,"message":"m"}"#),
            (r#"{"code":"NEW","message":"m","details":[1]}"#, "NEW: m [1]"),
            (r#"{"code":"not \u0066ound","message":"m"}"#, "not found: m none"),
            (r#"{"code":"\ud800","message":"m"}"#, r#"HANDLER_ERROR: m {"code":"\ud800","message":"m"}"#),
            (r#"{"code":"TIMEOUT"}"#, r#"TIMEOUT: the server gave no reason {"code":"TIMEOUT"}"#),
            (
                r#"{"code":"TIMEOUT","message":{}}"#,
                r#"TIMEOUT: the server gave no reason {"code":"TIMEOUT","message":{}}"#,
            ),
            (r#"{"code":"TIMEOUT","message":"m"}"#, "TIMEOUT: m none"),
            (&long, &format!("HANDLER_ERROR: m {long}")),
        ] {
            let mut caller = caller();
            call(&mut caller, 1, "c", 30).unwrap();
            let text = format!(r#"{{"type":"response","id":"{}","channel":"c","error":{error}}}"#, id(1));
            assert_eq!(
                answer(receive(&mut caller, &text)),
                Some((id(1), expected.to_owned())),
                "{error:.50}"
            );
        }
    }

    #[test]
    fn events_carry_their_channel_and_payload() {
        let mut caller = caller();
        match receive(&mut caller, r#"{"type":"event","channel":"a\u003ab","payload":[1],"timestamp":1}"#) {
            Some(Incoming::Event { channel, payload }) => {
                assert_eq!((channel.as_str(), payload.as_str()), ("a:b", Some("[1]")));
            }
            other => panic!("{other:?}"),
        }
    }

    /// What a deadline brings: the id and the code of an expired call, or the end.
    fn due(caller: &mut Caller, ms: u64, out: &mut Vec<u8>) -> Option<Option<(Uuid, ErrorCode)>> {
        match caller.handle_deadline(at(ms), out)? {
            Due::Expired((id, error)) => Some(Some((id, error.code))),
            Due::Cut => Some(None),
        }
    }

    #[test]
    fn a_call_without_answer_ends_at_its_deadline() {
        let mut caller = caller();
        call(&mut caller, 1, "slow", 2).unwrap();
        call(&mut caller, 2, "slower", 5).unwrap();
        let mut out = Vec::new();
        assert_eq!(caller.deadline(), Millis(3000));
        assert_eq!(due(&mut caller, 2999, &mut out), None);
        assert_eq!(due(&mut caller, 3000, &mut out), Some(Some((id(1), ErrorCode::Timeout))));
        assert_eq!(due(&mut caller, 3000, &mut out), None);
        assert_eq!(caller.deadline(), Millis(6000));
        assert_eq!(due(&mut caller, 9000, &mut out), Some(Some((id(2), ErrorCode::Timeout))));
        assert_eq!(due(&mut caller, 9000, &mut out), None);
        assert_eq!((caller.pending(), out.len()), (0, 0));
    }

    #[test]
    fn a_silent_server_is_pinged_and_then_given_up() {
        let mut caller = caller();
        let mut out = Vec::new();
        assert_eq!(caller.deadline(), Millis(31_000));
        assert_eq!(due(&mut caller, 31_000, &mut out), None);
        assert_eq!(out.first(), Some(&0x89), "a ping");
        assert_eq!(due(&mut caller, 61_000, &mut out), None);
        assert_eq!(due(&mut caller, 75_999, &mut out), None);
        assert_eq!(due(&mut caller, 76_000, &mut out), Some(None));
    }

    #[test]
    fn a_name_that_is_no_channel_is_refused_before_anything_is_sent() {
        let mut caller = caller();
        for (channel, fits) in [("", false), (&*"x".repeat(256), true), (&*"x".repeat(257), false)] {
            assert_eq!(call(&mut caller, 1, channel, 1).is_ok(), fits, "{}", channel.len());
        }
        let mut out = Vec::new();
        caller.close(NOW.at, &mut out);
        assert_eq!(call(&mut caller, 2, "c", 1).unwrap_err().code, ErrorCode::ConnectionClosed);
        let mut due = std::iter::from_fn(|| due(&mut caller, 6000, &mut out));
        assert!(due.any(|due| due.is_none()), "the close frame is not waited for any longer");
    }
}
