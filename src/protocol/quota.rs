//! How often each of many keys may do something. Input: a key and the time. Output: whether it may. What is remembered is bounded.

use std::hash::Hash;
use std::time::Duration;

use super::admission::Recent;
use super::time::Millis;

/// A window for each key, which opens with the first use after the last window ended. When there are too many keys, the one that
/// was used longest ago is forgotten, and begins anew.
///
/// ```
/// use std::time::Duration;
/// use switchboard::protocol::quota::Quotas;
/// use switchboard::protocol::time::Millis;
///
/// let mut quotas = Quotas::new(2, Duration::from_secs(1), 100);
/// assert_eq!(quotas.check("a", Millis(0)), Ok(()));
/// assert_eq!(quotas.check("a", Millis(400)), Ok(()));
/// assert_eq!(quotas.check("a", Millis(400)), Err(Duration::from_millis(600)));
/// assert_eq!(quotas.check("b", Millis(400)), Ok(()));
/// assert_eq!(quotas.check("a", Millis(1000)), Ok(()));
/// ```
#[derive(Debug)]
pub struct Quotas<K> {
    max: u32,
    window: Duration,
    used: Recent<K, Used>,
}

#[derive(Debug, Default)]
struct Used {
    ends_at: Millis,
    count: u32,
}

impl<K: Clone + Eq + Hash> Quotas<K> {
    /// Allows each key `max` uses in a window. At most `max_keys` are remembered, at least one.
    pub fn new(max: u32, window: Duration, max_keys: usize) -> Quotas<K> {
        Quotas { max, window, used: Recent::new(max_keys) }
    }

    /// Counts a use.
    ///
    /// # Errors
    /// When the key has used up its window, with the time until it ends. With `max` 0 every use is refused.
    pub fn check(&mut self, key: K, now: Millis) -> Result<(), Duration> {
        let used = self.used.touch(key);
        if now >= used.ends_at {
            *used = Used { ends_at: now + self.window, count: 0 };
        }
        if used.count >= self.max {
            return Err(used.ends_at.since(now));
        }
        used.count += 1;
        Ok(())
    }

    /// The number of keys that are remembered.
    pub fn keys(&self) -> usize {
        self.used.len()
    }
}
