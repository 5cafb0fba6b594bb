//! The rate window (specification, "Rate Limiter"). Input: the time of a message. Output: whether it is allowed.

use std::time::Duration;

use super::time::Millis;

/// A window of fixed length. It opens with the first message after the last window ended.
#[derive(Debug, Clone, Default)]
pub struct RateWindow {
    ends_at: Option<Millis>,
    count: u32,
}

impl RateWindow {
    /// Counts a message.
    ///
    /// # Errors
    /// When the window is used up, with the time until it ends.
    pub fn check(&mut self, now: Millis, max_requests: u32, window: Duration) -> Result<(), Duration> {
        let ends_at = match self.ends_at {
            Some(ends_at) if now < ends_at => ends_at,
            _ => {
                self.count = 0;
                now + window
            }
        };
        self.ends_at = Some(ends_at);
        self.count = self.count.saturating_add(1);
        if self.count <= max_requests { Ok(()) } else { Err(ends_at.since(now)) }
    }

    /// How many more messages are allowed in the current window.
    pub fn remaining(&self, now: Millis, max_requests: u32) -> u32 {
        match self.ends_at {
            Some(ends_at) if now < ends_at => max_requests.saturating_sub(self.count),
            _ => max_requests,
        }
    }

    /// When the current window ends; `None` before the first message.
    pub fn ends_at(&self) -> Option<Millis> {
        self.ends_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_millis(1000);

    #[test]
    fn the_last_message_of_a_window_passes_and_the_next_waits() {
        let mut rate = RateWindow::default();
        assert_eq!(rate.remaining(Millis(5), 3), 3);
        for (at, remaining) in [(5, 2), (5, 1), (1004, 0)] {
            assert_eq!(rate.check(Millis(at), 3, WINDOW), Ok(()));
            assert_eq!(rate.remaining(Millis(at), 3), remaining);
        }
        assert_eq!(rate.check(Millis(1004), 3, WINDOW), Err(Duration::from_millis(1)));
        assert_eq!(rate.check(Millis(1005), 3, WINDOW), Ok(()));
        assert_eq!(rate.remaining(Millis(1005), 3), 2);
        assert_eq!(rate.remaining(Millis(2005), 3), 3);
    }

    #[test]
    fn a_maximum_of_zero_refuses_every_message() {
        let mut rate = RateWindow::default();
        assert_eq!(rate.check(Millis(0), 0, WINDOW), Err(WINDOW));
    }
}
