//! The wall clock, and ticks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Returns the time in Unix ms.
pub(crate) fn unix_ms() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)
}

/// Returns ticks, the first of them at once. Those that are missed, because the process was stopped, are skipped: they would
/// come in a burst.
pub(crate) fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn missed_ticks_are_one() {
        let mut ticks = ticks(Duration::from_secs(30));
        ticks.tick().await;
        tokio::time::advance(Duration::from_secs(1000)).await;
        let mut seen = 0;
        while tokio::time::timeout(Duration::ZERO, ticks.tick()).await.is_ok() {
            seen += 1;
        }
        assert_eq!(seen, 1);
        let (paused, next) = (tokio::time::Instant::now(), ticks.tick().await);
        assert!(next - paused <= Duration::from_secs(30));
    }
}
