//! The clocks. Output: the time for deadlines, which never goes back, and Unix time, which only messages contain.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

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

/// Unix time, in ms.
pub(super) fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
