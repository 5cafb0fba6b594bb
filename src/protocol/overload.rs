//! What a client sends that is only refused. Input: refused messages, frames that add nothing, wrong tokens. Output: whether they
//! are too many, and the connection closes.

use std::time::Duration;

use super::error::{ErrorCode, WireError};
use super::limits::Limits;
use super::payload::Payload;
use super::time::Millis;

/// How many rate windows full of refused messages in a row close a connection.
const REFUSED_WINDOWS: u32 = 10;

/// How many frames that add nothing to a message a client can send in a rate window, at least. They cost little, but are not
/// counted as messages: without a limit, a client could occupy a thread with them. HTTP/2 servers have limits for pings and empty
/// frames since CVE-2019-9512 and CVE-2019-9518.
const MIN_OVERHEAD_FRAMES: u32 = 1000;

/// The counters of one client.
#[derive(Debug)]
pub(super) struct Overload {
    /// Messages over the rate limit since the last one within it.
    refused_in_a_row: u32,
    /// Frames that add nothing to a message, and until when they are counted together.
    frames: u32,
    frames_until: Millis,
    wrong_tokens: u32,
    /// Those of them that were taken.
    wrong_tokens_taken: u32,
}

impl Overload {
    pub(super) fn new() -> Overload {
        Overload {
            refused_in_a_row: 0,
            frames: 0,
            frames_until: Millis(0),
            wrong_tokens: 0,
            wrong_tokens_taken: 0,
        }
    }

    /// Counts a message within the rate limit.
    pub(super) fn passed(&mut self) {
        self.refused_in_a_row = 0;
    }

    /// Counts a message over the rate limit. Returns whether there were too many in a row.
    pub(super) fn refused(&mut self, limits: &Limits) -> bool {
        self.refused_in_a_row = self.refused_in_a_row.saturating_add(1);
        self.refused_in_a_row >= limits.rate_max_requests.max(1).saturating_mul(REFUSED_WINDOWS)
    }

    /// Counts a frame that adds nothing to a message. Returns whether there were too many in a rate window.
    pub(super) fn empty_frame(&mut self, now: Millis, limits: &Limits) -> bool {
        if now >= self.frames_until {
            (self.frames, self.frames_until) = (0, now + limits.rate_window);
        }
        self.frames = self.frames.saturating_add(1);
        let most = limits.rate_max_requests.saturating_mul(REFUSED_WINDOWS).max(MIN_OVERHEAD_FRAMES);
        self.frames > most
    }

    /// Counts a wrong token. Returns whether there were too many.
    pub(super) fn wrong_token(&mut self, limits: &Limits) -> bool {
        self.wrong_tokens = self.wrong_tokens.saturating_add(1);
        self.wrong_tokens >= limits.max_auth_attempts
    }

    /// Forgets the wrong tokens before a right one: a client can renew its credential for weeks, and fail at times.
    pub(super) fn right_token(&mut self) {
        self.wrong_tokens_taken = self.wrong_tokens_taken.wrapping_sub(self.wrong_tokens);
        self.wrong_tokens = 0;
    }

    /// The number of wrong tokens since the last call.
    pub(super) fn take_wrong_tokens(&mut self) -> u32 {
        let taken = std::mem::replace(&mut self.wrong_tokens_taken, self.wrong_tokens);
        self.wrong_tokens.wrapping_sub(taken)
    }
}

/// The error of a message over the rate limit, with its id and channel if those were found.
#[cold]
pub(super) fn rate_limited(id: Option<&str>, channel: Option<&str>, retry_after: Duration) -> WireError {
    let member = |name, value: Option<&str>| match value {
        Some(value) => format!("\"{name}\":\"{value}\","),
        None => String::new(),
    };
    let (id, channel) = (member("requestId", id), member("channel", channel));
    let details = format!("{{{id}{channel}\"retryAfterMs\":{}}}", retry_after.as_millis());
    WireError::with_code(ErrorCode::RateLimited, "Too many requests").details(Payload::trusted(details))
}
