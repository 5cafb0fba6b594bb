//! The log of the server: an observer that writes lines to stderr. Input: refusals. Output: one line each, and not many in a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::server::{Observer, Refused};

use super::terminal::say;

/// Most lines in a second. More only fill a disk when someone tries.
const MAX_LINES: u32 = 10;
/// Most characters of a header field in a line.
const MAX_SHOWN: usize = 200;

/// Writes refused requests to stderr.
#[derive(Default)]
pub(super) struct Log(Mutex<Second>);

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
        let (is_written, left_out) =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).allows(Instant::now());
        if left_out > 0 {
            say(format_args!("[WS] {left_out} more requests were refused in one second"));
        }
        if is_written {
            say(format_args!("[WS] {}", line(refused)));
        }
    }
}

fn line(refused: &Refused<'_>) -> String {
    let mut line = format!("refused with {}: {}", refused.status, refused.advice.unwrap_or(refused.reason));
    for (name, value) in [("Host", refused.host), ("Origin", refused.origin)] {
        if let Some(value) = value {
            let shown: String = value.chars().take(MAX_SHOWN).collect();
            line.push_str(&format!("; {name} {shown:?}"));
        }
    }
    if let Some(address) = refused.address {
        line.push_str(&format!("; from {address}"));
    }
    line
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
