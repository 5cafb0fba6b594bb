//! A number of places, shared fairly by key. In: keys that enter and leave. Out: who gets the next free place.
//!
//! Those that wait are served round robin: each key in turn, and the tickets of one key in the order in which they entered. One
//! key never holds all places, unless there is only one.

use std::collections::{BTreeMap, BTreeSet};

/// A place, or a place in the queue for one. It is given back with [`FairQueue::leave`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a ticket that is not given back keeps its place forever"]
pub struct Ticket<K> {
    key: K,
    number: u64,
}

impl<K> Ticket<K> {
    /// Returns the number of the ticket. It is unique in its queue.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// Places and those that wait for them.
///
/// It holds one number for each ticket that waits, and a record for each key that has tickets. Its user limits both. Every
/// operation takes time that grows with the logarithm of these numbers only.
///
/// ```
/// use switchboard::protocol::fair::FairQueue;
///
/// let mut queue = FairQueue::new(2);
/// let (first, second) = (queue.enter("busy"), queue.enter("busy"));
/// let other = queue.enter("other");
/// assert_eq!(queue.poll(), Some(first.number()));
/// // One key holds at most all places but one.
/// assert_eq!(queue.poll(), Some(other.number()));
/// queue.leave(first);
/// assert_eq!(queue.poll(), Some(second.number()));
/// ```
#[derive(Debug)]
pub struct FairQueue<K> {
    places: usize,
    free: usize,
    keys: BTreeMap<K, Stays>,
    /// The keys that have tickets waiting, in the order of their turns.
    turns: BTreeMap<u64, K>,
    next_number: u64,
}

/// The tickets of one key.
#[derive(Debug, Default)]
struct Stays {
    held: usize,
    waiting: BTreeSet<u64>,
    /// The key's turn, while a ticket waits.
    turn: u64,
}

impl<K: Ord + Clone> FairQueue<K> {
    /// Returns a queue for a number of places, at least one.
    pub fn new(places: usize) -> FairQueue<K> {
        let places = places.max(1);
        FairQueue { places, free: places, keys: BTreeMap::new(), turns: BTreeMap::new(), next_number: 0 }
    }

    /// Joins the queue. Call [`poll`](FairQueue::poll) next.
    pub fn enter(&mut self, key: K) -> Ticket<K> {
        let number = self.number();
        let turn = self.number();
        let stays = self.keys.entry(key.clone()).or_default();
        if stays.waiting.is_empty() {
            stays.turn = turn;
            self.turns.insert(turn, key.clone());
        }
        stays.waiting.insert(number);
        Ticket { key, number }
    }

    /// Leaves the place, or the queue. Call [`poll`](FairQueue::poll) next.
    pub fn leave(&mut self, ticket: Ticket<K>) {
        let Some(stays) = self.keys.get_mut(&ticket.key) else { return };
        if !stays.waiting.remove(&ticket.number) {
            debug_assert!(stays.held > 0 && self.free < self.places, "the ticket held a place");
            stays.held -= 1;
            self.free += 1;
        } else if stays.waiting.is_empty() {
            self.turns.remove(&stays.turn);
        }
        if stays.held == 0 && stays.waiting.is_empty() {
            self.keys.remove(&ticket.key);
        }
    }

    /// Gives a free place to the ticket whose turn it is, and returns its number. Call it until it returns `None`.
    pub fn poll(&mut self) -> Option<u64> {
        if self.free == 0 {
            return None;
        }
        // Keys that hold all places but one keep their turn. There are at most two of them.
        let most = (self.places - 1).max(1);
        let is_next = |key: &K| self.keys.get(key).is_some_and(|stays| stays.held < most);
        let (turn, key) = self.turns.iter().find(|(_, key)| is_next(key))?;
        let (turn, key) = (*turn, key.clone());
        self.turns.remove(&turn);
        let next_turn = self.number();
        let stays = self.keys.get_mut(&key)?;
        let number = stays.waiting.pop_first()?;
        stays.held += 1;
        self.free -= 1;
        if !stays.waiting.is_empty() {
            stays.turn = next_turn;
            self.turns.insert(next_turn, key);
        }
        Some(number)
    }

    /// Returns whether a ticket still waits for its place.
    pub fn is_waiting(&self, ticket: &Ticket<K>) -> bool {
        self.keys.get(&ticket.key).is_some_and(|stays| stays.waiting.contains(&ticket.number))
    }

    /// Returns whether nothing waits and no place is held.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_take_turns_and_each_keeps_its_own_order() {
        let mut queue = FairQueue::new(1);
        let mut tickets: Vec<Ticket<char>> = "aaabbc".chars().map(|key| queue.enter(key)).collect();
        let mut served = String::new();
        while let Some(number) = queue.poll() {
            assert_eq!(queue.poll(), None);
            let at = tickets.iter().position(|ticket| ticket.number() == number).unwrap();
            let ticket = tickets.remove(at);
            assert!(tickets.iter().all(|other| other.key != ticket.key || other.number > number));
            served.push(ticket.key);
            queue.leave(ticket);
        }
        assert_eq!(served, "abcaba");
        assert!(queue.is_empty());
    }

    #[test]
    fn one_key_holds_all_places_but_one() {
        for (places, most) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 3)] {
            let mut queue = FairQueue::new(places);
            let tickets: Vec<_> = (0..5).map(|_| queue.enter('a')).collect();
            let held = std::iter::from_fn(|| queue.poll()).count();
            assert_eq!(held, most, "{places} places");
            let other = queue.enter('b');
            assert_eq!(queue.poll(), (places > 1).then_some(other.number()), "{places} places");
            assert_eq!(tickets.iter().filter(|ticket| queue.is_waiting(ticket)).count(), 5 - most);
        }
    }
}
