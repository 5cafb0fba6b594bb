//! The wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time in Unix ms.
pub(crate) fn unix_ms() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)
}
