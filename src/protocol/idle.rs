//! The idle timer (specification, "Idle Timeout"). Input: times at which bytes arrived from the peer. Output: when to ping
//! it, and when to close the connection.

use std::time::Duration;

use super::time::Millis;

/// Measures a peer's silence.
#[derive(Debug, Clone)]
pub struct IdleTimer {
    last_byte: Millis,
    /// Pings sent since the last byte.
    pings: u32,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleAction {
    /// Nothing.
    Wait,
    /// Send a ping.
    Ping,
    /// Close the connection: the peer was silent for the whole timeout.
    Close,
}

impl IdleTimer {
    /// A timer that starts now.
    pub fn new(now: Millis) -> IdleTimer {
        IdleTimer { last_byte: now, pings: 0 }
    }

    /// Restarts the timer.
    pub fn touch(&mut self, now: Millis) {
        self.last_byte = now;
        self.pings = 0;
    }

    /// When the timer was last restarted.
    pub fn last_byte(&self) -> Millis {
        self.last_byte
    }

    /// When to call [`poll`](IdleTimer::poll) again.
    pub fn deadline(&self, ping_interval: Option<Duration>, timeout: Duration) -> Millis {
        let end = self.last_byte + timeout;
        match ping_interval {
            Some(interval) => {
                end.min(self.last_byte + tick(interval).saturating_mul(self.pings.saturating_add(1)))
            }
            None => end,
        }
    }

    /// Returns what to do now.
    pub fn poll(&mut self, now: Millis, ping_interval: Option<Duration>, timeout: Duration) -> IdleAction {
        if now >= self.last_byte + timeout {
            return IdleAction::Close;
        }
        if now < self.deadline(ping_interval, timeout) {
            return IdleAction::Wait;
        }
        // After a long pause, one ping counts for all intervals that have passed.
        if let Some(interval) = ping_interval {
            let intervals = now.since(self.last_byte).as_millis() / tick(interval).as_millis();
            self.pings = u32::try_from(intervals).unwrap_or(u32::MAX);
        }
        IdleAction::Ping
    }
}

/// Returns from when on deadlines are judged, given the last such time and a deadline that has passed. If it is noticed late, the
/// process was stopped, as when a laptop sleeps: what arrived meanwhile is to be read first, and a runtime reports it only
/// eventually. A machine that is always late gets one second in ten, so that deadlines still end.
pub fn judged_from(last: Millis, now: Millis, deadline: Millis) -> Millis {
    const LATE: Duration = Duration::from_millis(250);
    const TIME_TO_READ: Duration = Duration::from_secs(1);
    const APART: Duration = Duration::from_secs(10);
    let is_first = last == Millis::default();
    if now.since(deadline) >= LATE && (is_first || now >= last + APART) { now + TIME_TO_READ } else { last }
}

/// At least one tick of the clock: a shorter interval would always be due.
fn tick(interval: Duration) -> Duration {
    interval.max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Option<Duration> = Some(Duration::from_secs(30));
    const IDLE: Duration = Duration::from_secs(120);

    #[test]
    fn silence_is_pinged_at_each_interval_and_closed_at_the_timeout() {
        let mut idle = IdleTimer::new(Millis(0));
        let mut seen = Vec::new();
        for at in 0..=120_000 {
            match idle.poll(Millis(at), PING, IDLE) {
                IdleAction::Wait => assert!(Millis(at) < idle.deadline(PING, IDLE)),
                action => seen.push((at, action)),
            }
        }
        use IdleAction::{Close, Ping};
        assert_eq!(seen, [(30_000, Ping), (60_000, Ping), (90_000, Ping), (120_000, Close)]);
    }

    #[test]
    fn a_byte_restarts_the_timer() {
        let mut idle = IdleTimer::new(Millis(0));
        assert_eq!(idle.poll(Millis(95_000), PING, IDLE), IdleAction::Ping);
        assert_eq!(idle.deadline(PING, IDLE), Millis(120_000));
        idle.touch(Millis(119_999));
        assert_eq!(idle.poll(Millis(120_000), PING, IDLE), IdleAction::Wait);
        assert_eq!(idle.deadline(PING, IDLE), Millis(149_999));
        assert_eq!(idle.poll(Millis(239_999), PING, IDLE), IdleAction::Close);
    }

    #[test]
    fn without_pings_only_the_timeout_counts() {
        let mut idle = IdleTimer::new(Millis(7));
        assert_eq!(idle.deadline(None, IDLE), Millis(120_007));
        assert_eq!(idle.poll(Millis(120_006), None, IDLE), IdleAction::Wait);
        assert_eq!(idle.poll(Millis(120_007), None, IDLE), IdleAction::Close);
    }

    #[test]
    fn after_a_pause_there_is_time_to_read_but_not_without_end() {
        let (punctual, late) = (Millis(120_249), Millis(120_250));
        assert_eq!(judged_from(Millis(0), punctual, Millis(120_000)), Millis(0));
        let from = judged_from(Millis(0), late, Millis(120_000));
        assert_eq!(from, Millis(121_250));
        for at in [121_249, 121_250, 131_249] {
            assert_eq!(judged_from(from, Millis(at), Millis(120_000)), from, "{at}");
        }
        assert_eq!(judged_from(from, Millis(131_250), Millis(120_000)), Millis(132_250));
    }

    #[test]
    fn a_ping_interval_of_zero_is_one_ping_a_tick() {
        let mut idle = IdleTimer::new(Millis(0));
        assert_eq!(idle.poll(Millis(5), Some(Duration::ZERO), IDLE), IdleAction::Ping);
        assert_eq!(idle.poll(Millis(5), Some(Duration::ZERO), IDLE), IdleAction::Wait);
        assert_eq!(idle.deadline(Some(Duration::ZERO), IDLE), Millis(6));
        assert_eq!(idle.poll(Millis(120_000), Some(Duration::ZERO), IDLE), IdleAction::Close);
    }
}
