//! Places that keys take in turns, against a queue that is searched from its start.

use std::collections::BTreeMap;

use switchboard::protocol::fair::{FairQueue, Ticket};

use super::Choices;

/// Each free place goes to the ticket that a naive queue chooses, for any order of entering, leaving and asking. Never are more
/// places held than exist, and never does one key hold all of several. Once everything has left, nothing is kept.
///
/// The bytes: the number of places, then steps. A step is what to do, and the key or the ticket that does it.
pub fn fair(data: &[u8]) {
    let mut choices = Choices::new(data);
    let places = usize::from(choices.byte() % 6);
    let mut queue = FairQueue::new(places);
    let mut naive = NaiveQueue::new(places);
    let mut tickets: Vec<Ticket<u8>> = Vec::new();
    while !choices.is_empty() {
        let (what, who) = (choices.byte(), usize::from(choices.byte()));
        match what % 8 {
            0..3 => {
                let key = who as u8 % 8;
                let ticket = queue.enter(key);
                naive.enter(key, ticket.number());
                tickets.push(ticket);
            }
            3..5 if !tickets.is_empty() => {
                let ticket = tickets.remove(who % tickets.len());
                assert_eq!(queue.is_waiting(&ticket), naive.leave(ticket.number()), "{ticket:?}");
                queue.leave(ticket);
            }
            5 => naive.admits(queue.poll()),
            _ => while step(&mut queue, &mut naive) {},
        }
    }
    while step(&mut queue, &mut naive) {}
    while let Some(ticket) = tickets.pop() {
        naive.leave(ticket.number());
        queue.leave(ticket);
        while step(&mut queue, &mut naive) {}
    }
    assert!(queue.is_empty());
}

fn step(queue: &mut FairQueue<u8>, naive: &mut NaiveQueue) -> bool {
    let admitted = queue.poll();
    naive.admits(admitted);
    admitted.is_some()
}

/// Everything in plain lists.
pub struct NaiveQueue {
    places: usize,
    /// The holders of the places: key and ticket.
    held: Vec<(u8, u64)>,
    /// The keys that wait, whose turn is next first, each with its tickets.
    rounds: Vec<(u8, Vec<u64>)>,
    /// For each key that waits, the keys that were served since it could be served.
    served: BTreeMap<u8, Vec<u8>>,
}

impl NaiveQueue {
    pub fn new(places: usize) -> NaiveQueue {
        NaiveQueue { places: places.max(1), held: Vec::new(), rounds: Vec::new(), served: BTreeMap::new() }
    }

    pub fn enter(&mut self, key: u8, number: u64) {
        match self.rounds.iter_mut().find(|(other, _)| *other == key) {
            Some((_, numbers)) => numbers.push(number),
            None => {
                self.rounds.push((key, vec![number]));
                self.served.insert(key, Vec::new());
            }
        }
    }

    /// Returns whether the ticket was waiting.
    pub fn leave(&mut self, number: u64) -> bool {
        let held = self.held.len();
        self.held.retain(|(_, other)| *other != number);
        for (_, numbers) in &mut self.rounds {
            numbers.retain(|other| *other != number);
        }
        self.rounds.retain(|(_, numbers)| !numbers.is_empty());
        held == self.held.len()
    }

    fn may_hold(&self, key: u8) -> bool {
        let held = self.held.iter().filter(|(other, _)| *other == key).count();
        self.held.len() < self.places && (held + 1 < self.places || self.places == 1)
    }

    /// Checks who got a place.
    pub fn admits(&mut self, admitted: Option<u64>) {
        let next = self.rounds.iter().position(|(key, _)| self.may_hold(*key));
        let expected = next.map(|at| self.rounds[at].1[0]);
        assert_eq!(admitted, expected, "{:?} are held, {:?} wait", self.held, self.rounds);
        let Some(at) = next else { return };
        let (key, mut numbers) = self.rounds.remove(at);
        self.held.push((key, numbers.remove(0)));
        assert!(self.held.len() <= self.places);
        let of_key = self.held.iter().filter(|(other, _)| *other == key).count();
        assert!(of_key < self.places || self.places == 1, "{key} holds all places");
        // A key that could have been served was passed by each other key at most once.
        for (waiting, served) in &mut self.served {
            let waits = self.rounds.iter().any(|(other, _)| other == waiting);
            let was_full = self.held.iter().filter(|(other, _)| other == waiting).count() + 1 >= self.places;
            if !waits || was_full && self.places > 1 {
                served.clear();
            } else {
                assert!(!served.contains(&key), "{key} was served twice while {waiting} waited");
                served.push(key);
            }
        }
        self.served.insert(key, Vec::new());
        if !numbers.is_empty() {
            self.rounds.push((key, numbers));
        }
    }
}
