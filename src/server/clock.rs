//! The clocks. Output: the time for deadlines, which never goes back, and Unix time, which only messages contain.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::protocol::idle::judged_from;
use crate::protocol::time::{Millis, Now};

/// A server's clock. Deadlines follow tokio's clock, as timers do: a test that pauses one pauses both.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    started: Instant,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { started: Instant::now() }
    }

    /// The time since the start.
    pub(super) fn at(self) -> Millis {
        Millis::default() + self.started.elapsed()
    }

    pub(super) fn now(self) -> Now {
        Now { at: self.at(), unix_ms: unix_ms() }
    }
}

/// When the deadlines of all clients are judged again, after the process was stopped.
#[derive(Default)]
pub(super) struct Pauses {
    judged_from: AtomicU64,
}

impl Pauses {
    /// Returns from when on a deadline that has passed is judged.
    pub(super) fn judge(&self, now: Millis, deadline: Millis) -> Millis {
        let last = self.judged_from();
        let from = judged_from(last, now, deadline);
        // Two tasks that find the same pause differ by their readings of the clock.
        self.judged_from.fetch_max(from.0, Ordering::Relaxed);
        from
    }

    pub(super) fn judged_from(&self) -> Millis {
        Millis(self.judged_from.load(Ordering::Relaxed))
    }
}

/// Unix time, in ms.
pub(super) fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
