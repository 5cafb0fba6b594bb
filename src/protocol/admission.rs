//! Who is let in while there is not enough for all. Input: keys that clients are counted by (addresses, identities), and the time. Output: who
//! has a place, who loses one, and who must wait. Everything here is bounded, and the key that takes most loses first.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use super::time::Millis;

/// A place of [`Seats`]. Later ones are greater, and none is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(u64);

/// A fixed number of places, with what has each. A newcomer always gets one: when there are too few, the key that holds most, with
/// the newcomer, loses its oldest. So no number of newcomers takes a place from a key that holds no more than its share.
///
/// Each call takes time in proportion to the number of places at most, and a few steps while few are taken.
#[derive(Debug)]
pub struct Seats<K, V> {
    max: usize,
    next: u64,
    /// In order. A place that was freed between others is a gap, until there are as many gaps as places that are taken.
    places: VecDeque<(Seat, Option<(K, V)>)>,
    taken: usize,
    /// How many places each key holds, in the order of the keys.
    held: Vec<(K, usize)>,
}

impl<K: Copy + Ord, V> Seats<K, V> {
    /// No place is taken yet. There is at least one.
    pub fn new(max: usize) -> Seats<K, V> {
        Seats { max: max.max(1), next: 0, places: VecDeque::new(), taken: 0, held: Vec::new() }
    }

    /// Gives a place to a newcomer. Returns the place, and what has lost another for it.
    pub fn enter(&mut self, key: K, value: V) -> (Seat, Option<V>) {
        let seat = Seat(self.next);
        self.next += 1;
        self.places.push_back((seat, Some((key, value))));
        self.taken += 1;
        match self.held.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => self.held.get_mut(at).into_iter().for_each(|(_, count)| *count += 1),
            Err(at) => self.held.insert(at, (key, 1)),
        }
        // Never the new one: it is younger than all others of any key.
        let evicted = if self.taken > self.max { self.evict() } else { None };
        (seat, evicted)
    }

    /// Takes away the oldest place of the key that holds most. Of two that hold as many, the one with the oldest place loses.
    pub fn evict(&mut self) -> Option<V> {
        let most = self.held.iter().map(|(_, count)| *count).max()?;
        let holds_most = |key: &K| self.held.binary_search(&(*key, most)).is_ok();
        let (seat, _) =
            self.places.iter().find(|(_, place)| place.as_ref().is_some_and(|(key, _)| holds_most(key)))?;
        self.leave(*seat)
    }

    /// Frees a place, and returns what had it. Does nothing if it was taken away before.
    pub fn leave(&mut self, seat: Seat) -> Option<V> {
        let at = self.index(seat)?;
        let (key, value) = self.places.get_mut(at)?.1.take()?;
        self.taken -= 1;
        while let Some((_, None)) = self.places.front() {
            self.places.pop_front();
        }
        if self.places.len() > 2 * self.taken {
            self.places.retain(|(_, place)| place.is_some());
        }
        if let Ok(at) = self.held.binary_search_by_key(&key, |(key, _)| *key)
            && let Some((_, count)) = self.held.get_mut(at)
        {
            *count -= 1;
            if *count == 0 {
                self.held.remove(at);
            }
        }
        Some(value)
    }

    /// Whether a place was neither freed nor taken away.
    pub fn holds(&self, seat: Seat) -> bool {
        self.index(seat).and_then(|at| self.places.get(at)).is_some_and(|(_, place)| place.is_some())
    }

    /// The number of places that are taken.
    pub fn taken(&self) -> usize {
        self.taken
    }

    fn index(&self, seat: Seat) -> Option<usize> {
        self.places.binary_search_by_key(&seat, |(seat, _)| *seat).ok()
    }
}

/// How many of something each key has, up to a maximum. Only keys that have any take memory.
///
/// ```
/// use switchboard::protocol::admission::Counts;
///
/// let mut tabs = Counts::new(2);
/// assert!(tabs.enter("ada") && tabs.enter("ada") && !tabs.enter("ada"));
/// assert!(tabs.enter("bob"));
/// tabs.leave("ada");
/// assert!(tabs.enter("ada"));
/// ```
#[derive(Debug)]
pub struct Counts<K> {
    max: usize,
    by_key: HashMap<K, usize>,
}

impl<K: Eq + Hash> Counts<K> {
    /// No key has any.
    pub fn new(max: usize) -> Counts<K> {
        Counts { max, by_key: HashMap::new() }
    }

    /// Counts one more of a key, or returns `false`: it has as many as it can.
    pub fn enter(&mut self, key: K) -> bool {
        let count = self.by_key.get(&key).copied().unwrap_or_default();
        let has_room = count < self.max;
        if has_room {
            self.by_key.insert(key, count + 1);
        }
        has_room
    }

    /// Counts one less of a key.
    pub fn leave(&mut self, key: K) {
        if let Entry::Occupied(mut entry) = self.by_key.entry(key) {
            match entry.get() - 1 {
                0 => drop(entry.remove()),
                count => *entry.get_mut() = count,
            }
        }
    }

    /// The number of keys that have any.
    pub fn keys(&self) -> usize {
        self.by_key.len()
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

impl<K: Clone + Eq + Hash, V: Default> Recent<K, V> {
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
        self.by_use.insert(used, key.clone());
        let entry = self.values.entry(key).or_default();
        entry.0 = used;
        &mut entry.1
    }

    /// The number of keys that are known.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
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
        let (own, _) = seats.enter("b", 1);
        seats.enter("a", 2);
        let (_, evicted) = seats.enter("a", 3);
        assert_eq!((evicted, seats.taken()), (None, 3));
        // Two of each, with the newcomer: the one of `b` is older than those of `a`, but `b` does not lose for `a`.
        let (third, evicted) = seats.enter("a", 4);
        assert_eq!(evicted, Some(2));
        assert_eq!(seats.enter("c", 5).1, Some(3));
        // One of each: the oldest.
        assert!(seats.holds(own));
        assert_eq!(seats.enter("d", 6).1, Some(1));
        assert!(!seats.holds(own));
        assert_eq!(seats.leave(own), None);
        assert_eq!(seats.leave(third), Some(4));
        assert_eq!(seats.taken(), 2);
    }

    #[test]
    fn one_place_goes_to_the_newest() {
        let mut seats = Seats::new(0);
        assert_eq!(seats.enter(1, "first").1, None);
        assert_eq!(seats.enter(2, "second").1, Some("first"));
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
