//! The state of a client (specification, `WSClientData` and "Rate Limiter").

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use crate::IDLE_TIMEOUT;
use crate::wire::unix_ms;

/// So many that none is refused: only the cost of counting is measured.
const MAX_REQUESTS: u32 = 100_000_000;
const WINDOW_MS: u64 = 1000;

/// When the client last sent something. Its reader writes it, its heartbeat reads it.
#[derive(Debug, Clone, Default)]
pub struct LastActivity(Arc<AtomicU64>);

impl LastActivity {
    /// Whether the client has been silent for too long.
    pub fn is_idle(&self) -> bool {
        unix_ms().saturating_sub(self.0.load(Ordering::Relaxed)) > IDLE_TIMEOUT.as_millis() as u64
    }

    /// Records that something arrived, for example a pong.
    pub fn touch(&self) {
        self.touch_at(unix_ms());
    }

    fn touch_at(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }
}

/// The client of a connection.
#[derive(Debug)]
pub struct Client {
    pub id: Uuid,
    pub connected_at: u64,
    pub last_activity: LastActivity,
    pub request_count: u64,
    window_count: u32,
    window_ends_at: u64,
}

impl Client {
    pub(crate) fn new(id: Uuid) -> Client {
        let (connected_at, last_activity) = (unix_ms(), LastActivity::default());
        last_activity.touch_at(connected_at);
        Client { id, connected_at, last_activity, request_count: 0, window_count: 0, window_ends_at: 0 }
    }

    /// Counts a message. Returns whether it is accepted.
    pub(crate) fn count(&mut self) -> bool {
        let now = unix_ms();
        self.last_activity.touch_at(now);
        self.request_count += 1;
        if now >= self.window_ends_at {
            (self.window_count, self.window_ends_at) = (0, now + WINDOW_MS);
        }
        self.window_count += 1;
        self.window_count <= MAX_REQUESTS
    }
}
