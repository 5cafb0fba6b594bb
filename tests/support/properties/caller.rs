//! The client's end of a connection, for any bytes from the server.

use std::collections::BTreeMap;
use std::time::Duration;

use switchboard::protocol::backoff::{self, Backoff, MAX_DELAY, Next};
use switchboard::protocol::caller::{Caller, CallerLimits, Due, Incoming, Step};
use switchboard::protocol::connection::{Connection, Event};
use switchboard::protocol::envelope::{Envelope, Kind};
use switchboard::protocol::frame;
use switchboard::protocol::payload::Payload;
use switchboard::protocol::time::{Millis, Now};
use switchboard::protocol::uuid::Uuid;

use super::Choices;

const MAX_MESSAGE_BYTES: usize = 1 << 10;

/// Each call ends exactly once: with the server's answer, or at its deadline and not before. A server reads exactly the
/// requests that were made, in order, and nothing after a close frame. Once a deadline was handled, the next one is in the
/// future.
///
/// The bytes are steps, defined in [`Harness::step`]. They also serve as an id, and as the randomness of the pauses between
/// attempts to reconnect.
pub fn caller(data: &[u8]) {
    ids_parse(data, <Uuid as std::str::FromStr>::from_str);
    pauses_are_in_bounds(data);
    let mut choices = Choices::new(data);
    let mut harness = Harness::new();
    while !choices.is_empty() && !harness.cut_off {
        harness.step(&mut choices);
    }
    harness.wind_down();
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Answered,
    TimedOut,
}

struct Harness {
    caller: Caller,
    server: Connection,
    now: Now,
    /// Pending calls and their deadlines.
    pending: BTreeMap<Uuid, Millis>,
    endings: BTreeMap<Uuid, Ending>,
    /// The calls that were made, and the calls that the server read.
    made: Vec<Uuid>,
    heard: Vec<Uuid>,
    closing: bool,
    cut_off: bool,
}

impl Harness {
    fn new() -> Harness {
        let limits = CallerLimits { max_message_bytes: MAX_MESSAGE_BYTES, ..CallerLimits::default() };
        let now = Now { at: Millis(1000), unix_ms: 1_700_000_000_000 };
        Harness {
            caller: Caller::new(limits, || [1, 2, 3, 4], now.at),
            server: Connection::server(1 << 20),
            now,
            pending: BTreeMap::new(),
            endings: BTreeMap::new(),
            made: Vec::new(),
            heard: Vec::new(),
            closing: false,
            cut_off: false,
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 8 {
            0 | 1 => self.call(choices),
            2 => {
                let ms = [0, 1, 999, 1000, 30_000, 75_000][usize::from(choices.byte()) % 6];
                self.advance(Duration::from_millis(ms));
            }
            3 => {
                let text = self.answer(choices);
                self.receive(framed(&text), choices.byte());
            }
            4 => {
                let length = usize::from(choices.byte());
                let text = String::from_utf8_lossy(choices.take(length)).into_owned();
                let event =
                    format!(r#"{{"type":"event","channel":"e","payload":"{}"}}"#, text.escape_debug());
                self.receive(framed(&event), choices.byte());
            }
            5 => {
                let length = usize::from(choices.byte());
                let text = String::from_utf8_lossy(choices.take(length)).into_owned();
                self.receive(framed(&text), choices.byte());
            }
            6 => {
                let length = usize::from(choices.byte());
                let bytes = choices.take(length).to_vec();
                self.receive(bytes, choices.byte());
            }
            _ => {
                let mut out = Vec::new();
                self.caller.close(self.now.at, &mut out);
                self.closing = true;
                self.hear(out);
            }
        }
        assert_eq!(self.caller.pending(), self.pending.len());
    }

    fn call(&mut self, choices: &mut Choices<'_>) {
        let mut random = [0; 16];
        random[..8].copy_from_slice(&(self.made.len() as u64).to_be_bytes());
        let id = Uuid::from_random(random);
        let timeout = Duration::from_millis([0, 1, 1000, 60_000][usize::from(choices.byte()) % 4]);
        let channel = ["c", "", "a\"b\n", "é"][usize::from(choices.byte()) % 4];
        let mut out = Vec::new();
        let called = self.caller.call(self.now, id, channel, &Payload::none(), timeout, &mut out);
        if called.is_ok() {
            assert!(!channel.is_empty() && !self.closing, "an impossible call was made");
            self.pending.insert(id, self.now.at + timeout);
            self.made.push(id);
        } else {
            assert!(out.is_empty(), "a refused call sent something");
        }
        self.hear(out);
    }

    /// An answer to one of the calls made so far, or to an unknown call.
    fn answer(&mut self, choices: &mut Choices<'_>) -> String {
        let id = match usize::from(choices.byte()) {
            n if n < self.made.len() => self.made[n].to_string(),
            _ => "unknown".to_owned(),
        };
        match choices.byte() % 4 {
            0 => format!(r#"{{"type":"response","id":"{id}","channel":"c"}}"#),
            1 => format!(r#"{{"type":"response","id":"{id}","channel":"c","payload":[1]}}"#),
            2 => format!(
                r#"{{"type":"response","id":"{id}","channel":"c","error":{{"code":"NEW","message":7}}}}"#
            ),
            _ => format!(
                r#"{{"type":"response","id":"rate_limited","channel":"system","error":{{"code":"RATE_LIMITED","message":"m","details":{{"requestId":"{id}"}}}}}}"#
            ),
        }
    }

    fn receive(&mut self, mut bytes: Vec<u8>, piece: u8) {
        let piece = if piece == 0 { bytes.len().max(1) } else { usize::from(piece) };
        for input in bytes.chunks_mut(piece) {
            let mut used = 0;
            while used < input.len() {
                let was_finished = self.caller.is_finished();
                let mut out = Vec::new();
                let Step { consumed, action: incoming } =
                    self.caller.handle_input(self.now, &mut input[used..], &mut out);
                assert!(consumed > 0, "no bytes were consumed");
                used += consumed;
                assert!(
                    !was_finished || incoming.is_none() && out.is_empty(),
                    "an event or output after the end"
                );
                match incoming {
                    Some(Incoming::Response { id, .. }) => self.end(id, Ending::Answered),
                    Some(Incoming::Closed { .. }) => self.closing = true,
                    Some(Incoming::Event { .. }) | None => {}
                }
                self.hear(out);
            }
        }
        self.closing |= !self.caller.is_open();
    }

    fn end(&mut self, id: Uuid, ending: Ending) {
        let until = self.pending.remove(&id);
        ended(until, ending, self.now.at);
        assert_eq!(self.endings.insert(id, ending), None, "a call ended twice");
    }

    fn advance(&mut self, by: Duration) {
        self.now.at = self.now.at + by;
        if self.now.at < self.caller.deadline() {
            let late = self.pending.values().find(|until| **until <= self.now.at);
            assert_eq!(late, None, "a call is due before the announced deadline");
            return;
        }
        let mut out = Vec::new();
        while let Some(due) = self.caller.handle_deadline(self.now, &mut out) {
            match due {
                Due::Expired((id, _)) => self.end(id, Ending::TimedOut),
                Due::Cut => {
                    self.cut_off = true;
                    break;
                }
            }
        }
        let late = self.pending.values().find(|until| **until <= self.now.at);
        assert_eq!(late, None, "a call did not end at its deadline");
        self.hear(out);
        assert!(self.cut_off || self.now.at < self.caller.deadline(), "the next deadline is in the past");
    }

    /// Lets the server read the sent bytes.
    fn hear(&mut self, mut sent: Vec<u8>) {
        let mut used = 0;
        while used < sent.len() {
            assert!(!self.server.is_closed(), "something was sent after the end");
            let received = self.server.receive(&mut sent[used..], &mut Vec::new());
            used += received.consumed;
            match received.event {
                Some(Event::Text(text)) => {
                    let envelope = Envelope::decode(&text).expect("a request");
                    assert_eq!(envelope.kind, Kind::Request);
                    self.heard.push(envelope.id.and_then(|id| id.parse().ok()).expect("an id"));
                }
                Some(Event::Failed(violation)) => panic!("the caller broke the protocol: {violation:?}"),
                Some(Event::Binary(_)) => panic!("a binary message"),
                Some(Event::Closed { .. }) | None => {}
            }
        }
        assert_eq!(self.heard, self.made, "the server reads other calls than those made");
    }

    /// Left alone, every call ends.
    fn wind_down(mut self) {
        while !self.pending.is_empty() && !self.cut_off {
            let wait = self.caller.deadline().since(self.now.at);
            self.advance(wait);
        }
        assert!(self.cut_off || self.endings.len() == self.made.len());
    }
}

/// Checks that a call may end like this now.
pub fn ended(until: Option<Millis>, ending: Ending, now: Millis) {
    let until = until.expect("a call that is not pending ended");
    assert!(ending == Ending::Answered || now >= until, "a call ended before its deadline");
}

/// RFC 9562, section 4: 8-4-4-4-12 hexadecimal digits, of either case; written in lower case.
pub fn ids_parse<E: std::fmt::Display>(data: &[u8], read: impl Fn(&str) -> Result<Uuid, E>) {
    for length in [36, data.len()] {
        let text = String::from_utf8_lossy(data.get(..length).unwrap_or_default());
        let groups: Vec<&str> = text.split('-').collect();
        let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
        let hex = groups.concat().bytes().all(|byte| byte.is_ascii_hexdigit());
        let right = lengths == [8, 4, 4, 4, 12] && hex;
        match read(&text) {
            Ok(id) => assert!(right && id.to_string() == text.to_lowercase(), "{text:?} parses as {id}"),
            Err(error) => assert!(!right && error.to_string().contains("36"), "{text:?} does not parse"),
        }
    }
    let random: [u8; 16] = std::array::from_fn(|at| data.get(at).copied().unwrap_or_default());
    let id = Uuid::from_random(random);
    assert_eq!(read(&id.to_string()).ok(), Some(id));
    let kept = |at: usize| [0xff, 0x0f, 0x3f][usize::from(at == 6) + 2 * usize::from(at == 8)];
    let same = id.as_bytes().iter().zip(random).enumerate();
    assert!(same.into_iter().all(|(at, (ours, theirs))| (ours ^ theirs) & kept(at) == 0));
    assert_eq!((id.as_bytes()[6] >> 4, id.as_bytes()[8] >> 6), (4, 2));
}

/// Each pause is 1.5 times the last, with 20 % of jitter either way, up to the longest pause and the last attempt. Both start
/// again after a connection that lived long enough, and after no other.
fn pauses_are_in_bounds(data: &[u8]) {
    let mut choices = Choices::new(data);
    let interval = choices.pick(&[1000, 1, 0, 20_000, 60_000]);
    let most = choices.pick(&[10, 0, 1, 200]);
    let stable_after = choices.pick(&[5000, 0, 1, 100_000]);
    let mut backoff =
        Backoff::new(Duration::from_millis(interval), most, Duration::from_millis(stable_after));
    let mut expected = interval as f64;
    let (mut attempt, mut now, mut was_refused) = (0, 1_000_000, false);
    for _ in 0..250 {
        // How long a connection lived, if there was one.
        let lived =
            choices.pick(&[None, None, None, Some(0), Some(1), Some(4999), Some(5000), Some(100_000)]);
        if let Some(life) = lived {
            backoff.handle_connected(Millis(now));
            now += life;
            backoff.handle_connected(Millis(now));
            if life >= stable_after {
                (attempt, expected) = (0, interval as f64);
            }
        }
        let code = choices.pick(&[None, Some(1006), Some(4401), Some(4403)]);
        let can_ask = choices.pick(&[false, true]);
        was_refused &= lived.is_none();
        // A credential that was refused is asked for once more, and one that worked without end, but not in a loop.
        let expected_next = match code {
            Some(4403) => Next::Never,
            Some(4401) if !can_ask => Next::Never,
            Some(4401) if lived.is_some_and(|life| life >= stable_after) => Next::AtOnce,
            Some(4401) if lived.is_some() => Next::AfterPause,
            Some(4401) if was_refused => Next::Never,
            Some(4401) => Next::AtOnce,
            _ => Next::AfterPause,
        };
        was_refused |= code == Some(4401) && can_ask && lived.is_none();
        let next = backoff.handle_end(Millis(now), backoff::Ending::of_close(code), can_ask);
        assert_eq!(next, expected_next, "{code:?} after {lived:?}");
        assert_eq!(backoff.attempts(), attempt);
        let pause = backoff.next_delay(u32::from_be_bytes(choices.word()));
        assert_eq!(pause.is_some(), attempt < most, "attempt {attempt} of {most}");
        attempt = (attempt + 1).min(most);
        if let Some(pause) = pause {
            let (pause, about) = (pause.as_secs_f64() * 1000.0, expected.min(MAX_DELAY.as_millis() as f64));
            assert!((0.799 * about..=1.201 * about).contains(&pause), "{pause} ms, about {about} expected");
        }
        expected *= 1.5;
        now += pause.unwrap_or_default().as_millis() as u64;
    }
}

fn framed(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write_text(&mut bytes, None, &[text]);
    bytes
}
