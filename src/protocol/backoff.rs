//! The pauses between attempts to reconnect (specification, "Client Implementation"). Input: randomness. Output: how long
//! to wait, or that the client gives up.

use std::time::Duration;

use super::time::Millis;

/// The longest pause, before jitter.
pub const MAX_DELAY: Duration = Duration::from_secs(30);

/// Why a connection has ended, or an attempt has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The network, or a reason of the server that can pass.
    Lost,
    /// The credential is missing, wrong or expired: close 4401, or 401.
    Unauthorized,
    /// The credential is right and gives no access: close 4403, or 403.
    Forbidden,
}

impl Ending {
    /// What a close code means.
    pub fn of_close(code: Option<u16>) -> Ending {
        match code {
            Some(4401) => Ending::Unauthorized,
            Some(4403) => Ending::Forbidden,
            _ => Ending::Lost,
        }
    }
}

/// What follows an ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, at once.
    AtOnce,
    /// Another attempt, after [`Backoff::next_delay`].
    AfterPause,
    /// No further attempt: it would fail too.
    Never,
}

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
    /// Whether the last credential was refused before a connection worked.
    was_refused: bool,
}

impl Backoff {
    /// The first pause is `interval`. The client gives up after `max_attempts` since the last connection that worked for
    /// `stable_after`.
    pub fn new(interval: Duration, max_attempts: u32, stable_after: Duration) -> Backoff {
        Backoff { interval, max_attempts, stable_after, attempts: 0, works_since: None, was_refused: false }
    }

    /// Attempts since the last stable connection.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The connection works.
    pub fn handle_connected(&mut self, now: Millis) {
        self.works_since.get_or_insert(now);
    }

    /// A connection has ended, or an attempt has failed. If it was stable, the count starts over. `can_ask` says whether the next
    /// attempt can send another credential.
    pub fn handle_end(&mut self, now: Millis, ending: Ending, can_ask: bool) -> Next {
        let worked = self.works_since.take();
        let was_stable = worked.is_some_and(|since| now.since(since) >= self.stable_after);
        // A server that accepts connections and drops them must not be tried forever.
        if was_stable {
            self.attempts = 0;
        }
        if worked.is_some() {
            self.was_refused = false;
        }
        match ending {
            Ending::Lost => Next::AfterPause,
            Ending::Unauthorized if can_ask && was_stable => Next::AtOnce,
            // One that expires as soon as it is accepted must not be renewed in a loop.
            Ending::Unauthorized if can_ask && worked.is_some() => Next::AfterPause,
            Ending::Unauthorized if can_ask && !self.was_refused => {
                self.was_refused = true;
                Next::AtOnce
            }
            Ending::Unauthorized | Ending::Forbidden => Next::Never,
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
            backoff.handle_end(now, Ending::Lost, false);
            let pause = backoff.next_delay(MIDDLE);
            attempts.push(pause.map(|_| backoff.attempts()));
            now = now + pause.unwrap_or_default();
        }
        let expected = [Some(1), Some(2), Some(3), Some(1), Some(2), Some(3), Some(4), None];
        assert_eq!(attempts, expected);
    }

    #[test]
    fn a_refused_credential_is_asked_for_once_more() {
        use Ending::{Forbidden, Lost, Unauthorized};
        let mut backoff = Backoff::new(Duration::from_secs(1), 4, Duration::from_secs(5));
        assert_eq!(backoff.handle_end(Millis(0), Unauthorized, false), Next::Never);
        assert_eq!(backoff.handle_end(Millis(0), Forbidden, true), Next::Never);
        assert_eq!(backoff.handle_end(Millis(0), Unauthorized, true), Next::AtOnce);
        assert_eq!(backoff.handle_end(Millis(0), Lost, true), Next::AfterPause);
        assert_eq!(backoff.handle_end(Millis(0), Unauthorized, true), Next::Never);
        // It was accepted, and expired later.
        for (life, next) in [(4999, Next::AfterPause), (5000, Next::AtOnce), (5000, Next::AtOnce)] {
            backoff.handle_connected(Millis(0));
            assert_eq!(backoff.handle_end(Millis(life), Unauthorized, true), next, "{life}");
        }
        assert_eq!(backoff.handle_end(Millis(0), Unauthorized, true), Next::AtOnce);
        assert_eq!(Ending::of_close(Some(4401)), Unauthorized);
        assert_eq!(Ending::of_close(Some(4403)), Forbidden);
        assert_eq!([None, Some(1008), Some(4400)].map(Ending::of_close), [Lost; 3]);
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
