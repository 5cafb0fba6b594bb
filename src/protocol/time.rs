//! Time as the protocol sees it: numbers that somebody else read from a clock.

use std::ops::Add;
use std::time::Duration;

/// A moment, in ms since some fixed moment of the caller's choice. Never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// The time from `earlier` to this moment; zero if it is not earlier.
    pub fn since(self, earlier: Millis) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Millis {
    type Output = Millis;

    fn add(self, duration: Duration) -> Millis {
        Millis(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// The present, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For deadlines: never goes back.
    pub at: Millis,
    /// For `timestamp` members: Unix time in ms.
    pub unix_ms: u64,
}
