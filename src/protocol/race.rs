//! Attempts to connect to the addresses of a host (RFC 8305, section 5). Input: times, and attempts that failed. Output: when to
//! start the next one. The first that succeeds wins; the caller ends the others.

use core::net::SocketAddr;
use std::time::Duration;

use super::time::Millis;

/// How long an attempt has before the next one starts beside it. RFC 8305 recommends it.
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Most addresses that are tried. A name of a real server has fewer.
pub const MAX_ADDRESSES: usize = 16;

/// The attempts to connect to one host.
///
/// ```
/// use std::time::Duration;
/// use switchboard::protocol::race::Race;
/// use switchboard::protocol::time::Millis;
///
/// let mut race = Race::new(2, Millis(0));
/// assert_eq!(race.poll(Millis(0)), Some(0)); // start the first attempt
/// assert_eq!(race.poll(Millis(249)), None);
/// assert_eq!(race.poll(Millis(250)), Some(1)); // the first one still runs
/// ```
#[derive(Debug, Clone)]
pub struct Race {
    started: usize,
    count: usize,
    failed: usize,
    next_at: Millis,
}

impl Race {
    /// A race of `count` attempts, the first of which can start now.
    pub fn new(count: usize, now: Millis) -> Race {
        Race { started: 0, count: count.min(MAX_ADDRESSES), failed: 0, next_at: now }
    }

    /// Returns the number of the attempt to start now, if one is due. Call it until it returns `None`.
    pub fn poll(&mut self, now: Millis) -> Option<usize> {
        if self.started == self.count || now < self.next_at {
            return None;
        }
        self.started += 1;
        self.next_at = now + ATTEMPT_DELAY;
        Some(self.started - 1)
    }

    /// When the next attempt starts; `None` if all have.
    pub fn deadline(&self) -> Option<Millis> {
        (self.started < self.count).then_some(self.next_at)
    }

    /// An attempt has failed, so the next one need not wait.
    pub fn handle_failed(&mut self, now: Millis) {
        self.failed += 1;
        self.next_at = self.next_at.min(now);
    }

    /// Whether every attempt has failed.
    pub fn is_lost(&self) -> bool {
        self.failed >= self.count
    }
}

/// Orders addresses so that the families alternate, beginning with that of the first (RFC 8305, section 4).
pub fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut same, mut other): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().rev().partition(|address| address.is_ipv6() == first);
    let mut ordered = Vec::with_capacity(addresses.len());
    while !(same.is_empty() && other.is_empty()) {
        ordered.extend(same.pop());
        ordered.extend(other.pop());
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each attempt starts, if those that fail do so at these times.
    fn starts(count: usize, failures: &[u64]) -> Vec<u64> {
        let mut race = Race::new(count, Millis(0));
        let mut seen = Vec::new();
        for at in 0..5000 {
            failures.iter().filter(|failure| **failure == at).for_each(|_| race.handle_failed(Millis(at)));
            while let Some(number) = race.poll(Millis(at)) {
                assert_eq!(number, seen.len(), "in order");
                seen.push(at);
            }
            assert!(race.deadline().is_none_or(|next| next > Millis(at)));
            assert_eq!(race.is_lost(), failures.iter().filter(|failure| **failure <= at).count() >= count);
        }
        seen
    }

    #[test]
    fn an_attempt_starts_after_250_ms_or_once_another_one_has_failed() {
        assert_eq!(starts(3, &[]), [0, 250, 500]);
        assert_eq!(starts(3, &[10]), [0, 10, 260]);
        assert_eq!(starts(3, &[10, 20, 30]), [0, 10, 20]);
        assert_eq!(starts(3, &[251, 252]), [0, 250, 251]);
        assert_eq!(starts(1, &[]), [0]);
        assert_eq!(starts(100, &[]).len(), MAX_ADDRESSES);
    }

    #[test]
    fn no_address_is_a_lost_race() {
        assert!(Race::new(0, Millis(7)).is_lost());
    }

    #[test]
    fn families_alternate() {
        let [a, b, c]: [SocketAddr; 3] = ["[::1]:1", "[::2]:1", "[::3]:1"].map(|text| text.parse().unwrap());
        let [x, y]: [SocketAddr; 2] = ["1.1.1.1:1", "2.2.2.2:1"].map(|text| text.parse().unwrap());
        assert_eq!(interleave(&[a, b, c, x, y]), [a, x, b, y, c]);
        assert_eq!(interleave(&[x, a, b]), [x, a, b]);
        assert_eq!(interleave(&[]), []);
    }
}
