//! The pauses between attempts to reconnect (specification, "Client Implementation"). Input: randomness. Output: how long
//! to wait, or that the client gives up.

use std::time::Duration;

use super::time::Millis;

/// The longest pause, before jitter.
pub const MAX_DELAY: Duration = Duration::from_secs(30);

/// Counts attempts. Each pause is 1.5 times the last, with 20 % of jitter either way, so that clients do not all
/// reconnect to a restarted server at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    interval: Duration,
    max_attempts: u32,
    stable_after: Duration,
    attempts: u32,
    /// Since when the current connection works.
    works_since: Option<Millis>,
}

impl Backoff {
    /// The first pause is `interval`. The client gives up after `max_attempts` since the last connection that worked for
    /// `stable_after`.
    pub fn new(interval: Duration, max_attempts: u32, stable_after: Duration) -> Backoff {
        Backoff { interval, max_attempts, stable_after, attempts: 0, works_since: None }
    }

    /// Attempts since the last stable connection.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The connection works.
    pub fn handle_connected(&mut self, now: Millis) {
        self.works_since.get_or_insert(now);
    }

    /// The connection was lost. If it was stable, the count starts over.
    pub fn handle_lost(&mut self, now: Millis) {
        // A server that accepts connections and drops them must not be tried forever.
        if self.works_since.take().is_some_and(|since| now.since(since) >= self.stable_after) {
            self.attempts = 0;
        }
    }

    /// The pause before the next attempt; `None` to give up. `random` is any number.
    pub fn next_delay(&mut self, random: u32) -> Option<Duration> {
        if self.attempts >= self.max_attempts {
            return None;
        }
        let exponent = i32::try_from(self.attempts).unwrap_or(i32::MAX).min(100);
        self.attempts += 1;
        let jitter = 0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX);
        let pause = self.interval.as_secs_f64() * 1.5_f64.powi(exponent);
        Some(Duration::from_secs_f64(pause.min(MAX_DELAY.as_secs_f64()) * jitter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: u32 = u32::MAX / 2;

    #[test]
    fn pauses_grow_by_half_up_to_a_limit() {
        let mut backoff = Backoff::new(Duration::from_secs(1), 12, Duration::ZERO);
        let pauses: Vec<u128> =
            std::iter::from_fn(|| backoff.next_delay(MIDDLE)).map(|pause| pause.as_millis()).collect();
        let expected = [1000, 1500, 2250, 3375, 5062, 7593, 11_390, 17_085, 25_628, 30_000, 30_000, 30_000];
        assert_eq!(pauses.len(), expected.len());
        for (pause, expected) in pauses.iter().zip(expected) {
            assert!(pause.abs_diff(expected) <= 1, "{pauses:?}");
        }
        assert_eq!(backoff.attempts(), 12);
    }

    #[test]
    fn only_a_connection_that_lived_starts_the_count_over() {
        let mut backoff = Backoff::new(Duration::from_secs(1), 4, Duration::from_secs(5));
        let (mut now, mut attempts) = (Millis(1000), Vec::new());
        // How long each connection lives after `server:connected`, which it may never receive.
        for life in [Some(0), Some(4999), None, Some(5000), Some(1), None, None, None] {
            if let Some(life) = life {
                backoff.handle_connected(now);
                // A second one changes nothing.
                backoff.handle_connected(now + Duration::from_millis(life));
                now = now + Duration::from_millis(life);
            }
            backoff.handle_lost(now);
            let pause = backoff.next_delay(MIDDLE);
            attempts.push(pause.map(|_| backoff.attempts()));
            now = now + pause.unwrap_or_default();
        }
        let expected = [Some(1), Some(2), Some(3), Some(1), Some(2), Some(3), Some(4), None];
        assert_eq!(attempts, expected);
    }

    #[test]
    fn jitter_is_20_percent_either_way() {
        let first = |random| {
            Backoff::new(Duration::from_secs(10), 1, Duration::ZERO).next_delay(random).unwrap().as_millis()
        };
        assert_eq!((first(0), first(u32::MAX)), (8000, 12_000));
    }

    #[test]
    fn zero_attempts_give_up_at_once() {
        assert_eq!(Backoff::new(Duration::from_secs(1), 0, Duration::ZERO).next_delay(0), None);
    }
}
