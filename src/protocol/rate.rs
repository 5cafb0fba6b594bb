//! The rate window (specification, "Rate Limiter"). Input: the time and the size of a message. Output: whether it is allowed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::limits::Limits;
use super::time::Millis;

/// A window of fixed length. It opens with the first message after the last window ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateWindow {
    ends_at: Option<Millis>,
    count: u32,
    bytes: usize,
}

impl RateWindow {
    /// Counts a message of this many bytes. The one with which the bytes reach their limit still passes.
    ///
    /// # Errors
    /// When the window is used up, with the time until it ends.
    pub fn check(&mut self, now: Millis, bytes: usize, limits: &Limits) -> Result<(), Duration> {
        let ends_at = match self.ends_at {
            Some(ends_at) if now < ends_at => ends_at,
            _ => {
                *self = RateWindow::default();
                now + limits.rate_window
            }
        };
        self.ends_at = Some(ends_at);
        let passes = self.left(limits) > 0;
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        if passes { Ok(()) } else { Err(ends_at.since(now)) }
    }

    /// How many more messages are allowed in the current window.
    pub fn remaining(&self, now: Millis, limits: &Limits) -> u32 {
        match self.ends_at {
            Some(ends_at) if now < ends_at => self.left(limits),
            _ => RateWindow::default().left(limits),
        }
    }

    fn left(&self, limits: &Limits) -> u32 {
        if self.bytes < limits.rate_max_bytes {
            limits.rate_max_requests.saturating_sub(self.count)
        } else {
            0
        }
    }

    /// When the current window ends; `None` before the first message.
    pub fn ends_at(&self) -> Option<Millis> {
        self.ends_at
    }
}

/// The window of a session.
#[derive(Debug)]
pub(super) enum Window {
    Own(RateWindow),
    /// Other sessions count in it, too.
    Shared(Arc<Mutex<RateWindow>>),
}

impl Window {
    #[inline]
    pub(super) fn check(&mut self, now: Millis, bytes: usize, limits: &Limits) -> Result<(), Duration> {
        match self {
            Window::Own(window) => window.check(now, bytes, limits),
            Window::Shared(window) => {
                window.lock().unwrap_or_else(PoisonError::into_inner).check(now, bytes, limits)
            }
        }
    }

    pub(super) fn get(&self) -> RateWindow {
        match self {
            Window::Own(window) => *window,
            Window::Shared(window) => *window.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rate_max_requests: u32, rate_max_bytes: usize) -> Limits {
        Limits { rate_max_requests, rate_max_bytes, ..Limits::default() }
    }

    #[test]
    fn the_last_message_of_a_window_passes_and_the_next_waits() {
        let mut rate = RateWindow::default();
        let limits = limits(3, 1000);
        assert_eq!(rate.remaining(Millis(5), &limits), 3);
        for (at, remaining) in [(5, 2), (5, 1), (1004, 0)] {
            assert_eq!(rate.check(Millis(at), 1, &limits), Ok(()));
            assert_eq!(rate.remaining(Millis(at), &limits), remaining);
        }
        assert_eq!(rate.check(Millis(1004), 1, &limits), Err(Duration::from_millis(1)));
        assert_eq!(rate.check(Millis(1005), 1, &limits), Ok(()));
        assert_eq!(rate.remaining(Millis(1005), &limits), 2);
        assert_eq!(rate.remaining(Millis(2005), &limits), 3);
    }

    #[test]
    fn the_message_that_reaches_the_bytes_passes_and_the_next_waits() {
        let limits = limits(100, 10);
        for (sizes, passing) in [(&[9, 1, 0][..], 2), (&[9, usize::MAX, 1], 2), (&[11, 0], 1), (&[0, 0], 2)] {
            let mut rate = RateWindow::default();
            let passed = sizes.iter().filter(|bytes| rate.check(Millis(0), **bytes, &limits).is_ok()).count();
            assert_eq!(passed, passing, "{sizes:?}");
            assert_eq!(rate.remaining(Millis(999), &limits) > 0, passed == sizes.len(), "{sizes:?}");
            assert_eq!(rate.check(Millis(1000), 11, &limits), Ok(()));
        }
    }

    #[test]
    fn a_maximum_of_zero_refuses_every_message() {
        for limits in [limits(0, 1), limits(1, 0)] {
            let mut rate = RateWindow::default();
            assert_eq!(rate.remaining(Millis(0), &limits), 0);
            assert_eq!(rate.check(Millis(0), 0, &limits), Err(Duration::from_secs(1)));
        }
    }
}
