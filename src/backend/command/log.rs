//! The log of the server: an observer that writes lines to stderr. Input: what an operator has to know: refusals, clients that the
//! server closes or that are slow, failures. Output: one line each, and not many in a second.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::protocol::session::Ending;
use crate::server::{Observer, Refused, ServerError, Slow, Visit};

use super::terminal::say;

/// Most lines of a kind in a second. More only fill a disk when someone tries.
const MAX_LINES: u32 = 10;
/// Most characters that a client chose in a line, for each of its texts.
const MAX_SHOWN: usize = 200;

/// Writes to stderr what an operator has to know.
#[derive(Default)]
pub(super) struct Log {
    refused: Lines,
    closed: Lines,
    slow: Lines,
    failed: Lines,
}

/// The lines of one kind.
#[derive(Default)]
struct Lines(Mutex<Second>);

impl Lines {
    fn write(&self, kind: &str, line: impl FnOnce() -> String) {
        let (is_written, left_out) =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).allows(Instant::now());
        if left_out > 0 {
            say(format_args!("[WS] {left_out} more {kind} in one second"));
        }
        if is_written {
            say(format_args!("[WS] {}", line()));
        }
    }
}

#[derive(Default)]
struct Second {
    began: Option<Instant>,
    lines: u32,
}

impl Second {
    /// Counts a line. Returns whether it is written, and how many were not in the second before.
    fn allows(&mut self, now: Instant) -> (bool, u32) {
        let mut left_out = 0;
        if self.began.is_none_or(|began| now - began >= Duration::from_secs(1)) {
            left_out = self.lines.saturating_sub(MAX_LINES);
            *self = Second { began: Some(now), lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= MAX_LINES, left_out)
    }
}

impl Observer for Log {
    fn refused(&self, refused: &Refused<'_>) {
        self.refused.write("requests were refused", || refusal(refused));
    }

    fn disconnected(&self, visit: &Visit<'_>) {
        if let Some(ending) = visit.ending.filter(|ending| is_reported(ending)) {
            self.closed.write("clients were closed", || closing(visit, ending));
        }
    }

    fn slow(&self, client: &Slow<'_>) {
        // That it is closed follows, with its ending.
        if !client.is_closed {
            self.slow.write("clients were slow", || slowness(client));
        }
    }

    fn failed(&self, error: &ServerError) {
        self.failed.write("failures", || error.to_string());
    }
}

/// Whether the server has closed because of the client. All clients leave when the server stops.
fn is_reported(ending: &Ending) -> bool {
    let is_lost = ending.code == 1006;
    let is_stop = ending.code == 1001 && ending.reason == "server stopping";
    !ending.by_client && !is_lost && !is_stop
}

fn refusal(refused: &Refused<'_>) -> String {
    let mut line = format!("refused with {}: {}", refused.status, refused.advice.unwrap_or(refused.reason));
    for (name, value) in [("Host", refused.host), ("Origin", refused.origin)] {
        if let Some(value) = value {
            line.push_str(&format!("; {name} {}", shown(value)));
        }
    }
    line + &from(refused.address)
}

fn closing(visit: &Visit<'_>, ending: &Ending) -> String {
    let time = Duration::from_millis(u64::try_from(visit.elapsed.as_millis()).unwrap_or(u64::MAX));
    let who = who(visit.identity, visit.peer);
    let messages = visit.requests;
    format!("closed {} with {ending}{who}; after {time:?} and {messages} messages", visit.client_id)
}

fn slowness(client: &Slow<'_>) -> String {
    let who = who(client.identity, client.peer);
    format!("slow: {} bytes wait for {}{who}", client.waiting_bytes, client.client_id)
}

fn who(identity: Option<&str>, peer: Option<IpAddr>) -> String {
    let identity = identity.map_or_else(String::new, |identity| format!("; user {}", shown(identity)));
    identity + &from(peer)
}

fn from(address: Option<IpAddr>) -> String {
    address.map_or_else(String::new, |address| format!("; from {address}"))
}

/// A text that a client chose.
fn shown(text: &str) -> String {
    let shown: String = text.chars().take(MAX_SHOWN).collect();
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_lines_a_second_are_written_and_the_rest_is_counted() {
        let (mut second, start) = (Second::default(), Instant::now());
        let written = (0..25).filter(|_| second.allows(start).0).count();
        assert_eq!(written, 10);
        assert_eq!(second.allows(start + Duration::from_millis(999)), (false, 0));
        assert_eq!(second.allows(start + Duration::from_secs(1)), (true, 16));
        assert_eq!(second.allows(start + Duration::from_secs(3)), (true, 0));
    }
}
