//! Who is let in while there is not enough for all. Input: keys that clients are counted by (addresses), and the time. Output: who
//! has a place, who loses one, and who must wait. Everything here is bounded, and the key that takes most loses first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use super::time::Millis;

/// A place of [`Seats`]. Later ones are greater, and none is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(u64);

/// A fixed number of places. A newcomer always gets one: when there are too few, the key that holds most, with the newcomer,
/// loses its oldest. So no number of newcomers takes a place from a key that holds no more than its share.
///
/// Each call takes time in proportion to the logarithm of the number of places.
#[derive(Debug)]
pub struct Seats<K> {
    max: usize,
    next: u64,
    keys: BTreeMap<Seat, K>,
    held: BTreeMap<K, BTreeSet<Seat>>,
    /// Of each key, how many places it holds, and its oldest. The last one is the next to lose a place.
    ranks: BTreeSet<(usize, Reverse<Seat>)>,
}

impl<K: Copy + Ord> Seats<K> {
    /// No place is taken yet. There is at least one.
    pub fn new(max: usize) -> Seats<K> {
        Seats {
            max: max.max(1),
            next: 0,
            keys: BTreeMap::new(),
            held: BTreeMap::new(),
            ranks: BTreeSet::new(),
        }
    }

    /// Gives a place to a newcomer. Returns the place, and the one that was taken from another for it.
    pub fn enter(&mut self, key: K) -> (Seat, Option<Seat>) {
        let seat = Seat(self.next);
        self.next += 1;
        self.keys.insert(seat, key);
        self.change(key, |seats| seats.insert(seat));
        // Never the new one: it is younger than all others of any key.
        let evicted = if self.keys.len() > self.max { self.evict() } else { None };
        (seat, evicted)
    }

    /// Takes away the oldest place of the key that holds most.
    pub fn evict(&mut self) -> Option<Seat> {
        let (_, Reverse(oldest)) = *self.ranks.last()?;
        self.leave(oldest);
        Some(oldest)
    }

    /// Frees a place. Does nothing if it was taken away before.
    pub fn leave(&mut self, seat: Seat) {
        if let Some(key) = self.keys.remove(&seat) {
            self.change(key, |seats| seats.remove(&seat));
        }
    }

    /// The number of places that are taken.
    pub fn taken(&self) -> usize {
        self.keys.len()
    }

    /// Changes what a key holds, and its rank.
    fn change(&mut self, key: K, change: impl FnOnce(&mut BTreeSet<Seat>) -> bool) {
        let rank = |seats: &BTreeSet<Seat>| seats.first().map(|oldest| (seats.len(), Reverse(*oldest)));
        let seats = self.held.entry(key).or_default();
        if let Some(before) = rank(seats) {
            self.ranks.remove(&before);
        }
        change(seats);
        match rank(seats) {
            Some(after) => self.ranks.insert(after),
            None => self.held.remove(&key).is_none(),
        };
    }
}

/// Values by key, limited in number. When there are too many, the one that was used longest ago is forgotten.
#[derive(Debug)]
pub struct Recent<K, V> {
    max: usize,
    next: u64,
    values: HashMap<K, (u64, V)>,
    by_use: BTreeMap<u64, K>,
}

impl<K: Copy + Eq + Hash, V: Default> Recent<K, V> {
    /// No value yet, and never more than `max`, which is at least one.
    pub fn new(max: usize) -> Recent<K, V> {
        Recent { max: max.max(1), next: 0, values: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// The value of a key, which counts as used now. A key without one gets the default.
    pub fn touch(&mut self, key: K) -> &mut V {
        let used = self.next;
        self.next += 1;
        if let Some((before, _)) = self.values.get(&key) {
            self.by_use.remove(before);
        } else if self.values.len() >= self.max
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.values.remove(&oldest);
        }
        self.by_use.insert(used, key);
        let entry = self.values.entry(key).or_default();
        entry.0 = used;
        &mut entry.1
    }

    /// The value of a key, if it is known. This does not count as a use.
    pub fn peek(&self, key: K) -> Option<&V> {
        self.values.get(&key).map(|(_, value)| value)
    }
}

/// How many keys [`WrongTokens`] knows at most.
const KEYS_WITH_WRONG_TOKENS: usize = 10_000;

/// A pause after wrong tokens. A key can send some at once, and then one in each interval.
#[derive(Debug)]
pub struct WrongTokens<K> {
    max: u32,
    pause: Duration,
    /// When each key has sat out all of its pauses.
    clear_at: Recent<K, Millis>,
}

impl<K: Copy + Eq + Hash> WrongTokens<K> {
    /// Allows `max` wrong tokens at once, at least one, and then one in each `pause`.
    pub fn new(max: u32, pause: Duration) -> WrongTokens<K> {
        WrongTokens { max: max.max(1), pause, clear_at: Recent::new(KEYS_WITH_WRONG_TOKENS) }
    }

    /// How long a key must still wait before its next attempt; `None` if it need not.
    pub fn wait(&self, key: K, now: Millis) -> Option<Duration> {
        let clear_at = *self.clear_at.peek(key)?;
        let allowed = self.pause.saturating_mul(self.max - 1);
        clear_at.since(now).checked_sub(allowed).filter(|wait| !wait.is_zero())
    }

    /// Counts wrong tokens of a key.
    pub fn add(&mut self, key: K, count: u32, now: Millis) {
        let clear_at = self.clear_at.touch(key);
        *clear_at = (*clear_at).max(now) + self.pause.saturating_mul(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_holds_most_loses_its_oldest_place() {
        let mut seats = Seats::new(3);
        let (own, _) = seats.enter("b");
        let (first, _) = seats.enter("a");
        let (second, evicted) = seats.enter("a");
        assert_eq!((evicted, seats.taken()), (None, 3));
        // Two of each, with the newcomer: the one of `b` is older than those of `a`, but `b` does not lose for `a`.
        let (third, evicted) = seats.enter("a");
        assert_eq!(evicted, Some(first));
        let (_, evicted) = seats.enter("c");
        assert_eq!(evicted, Some(second));
        // One of each: the oldest.
        let (_, evicted) = seats.enter("d");
        assert_eq!(evicted, Some(own));
        seats.leave(own);
        seats.leave(third);
        assert_eq!(seats.taken(), 2);
    }

    #[test]
    fn one_place_goes_to_the_newest() {
        let mut seats = Seats::new(0);
        let (first, evicted) = seats.enter(1);
        assert_eq!(evicted, None);
        assert_eq!(seats.enter(2).1, Some(first));
        assert_eq!(seats.taken(), 1);
    }

    #[test]
    fn the_value_used_longest_ago_is_forgotten() {
        let mut recent = Recent::new(2);
        *recent.touch("a") = 1;
        *recent.touch("b") = 2;
        recent.touch("a");
        *recent.touch("c") = 3;
        assert_eq!(["a", "b", "c"].map(|key| recent.peek(key).copied()), [Some(1), None, Some(3)]);
    }

    #[test]
    fn five_hundred_wrong_tokens_take_minutes() {
        let mut wrong = WrongTokens::new(10, Duration::from_secs(1));
        let mut now = Millis(0);
        for _ in 0..500 {
            if let Some(wait) = wrong.wait("a", now) {
                assert!(wrong.wait("b", now).is_none());
                now = now + wait;
            }
            assert_eq!(wrong.wait("a", now), None);
            wrong.add("a", 1, now);
        }
        assert_eq!(now, Millis(490_000));
        // After as many pauses as can be saved, all of them can be used again.
        now = now + Duration::from_secs(10);
        wrong.add("a", 9, now);
        assert_eq!(wrong.wait("a", now), None);
        wrong.add("a", 1, now);
        assert_eq!(wrong.wait("a", now), Some(Duration::from_secs(1)));
    }
}
