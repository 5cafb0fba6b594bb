//! Whose turn it is. In: the clients that have entries in the queue. Out: the one whose batch is made next. Pure.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// The order of turns: round robin. A client that is new waits for one turn of each client that was there before.
#[derive(Debug)]
pub(super) struct Turns<K> {
    waiting: VecDeque<K>,
    /// Who had the last turn. It goes after those that have come since.
    last: Option<K>,
}

impl<K: Clone + Eq + Hash> Turns<K> {
    pub(super) fn new() -> Turns<K> {
        Turns { waiting: VecDeque::new(), last: None }
    }

    /// Gives the next turn to one of `clients`, those that have something to do now; `None` if there are none. Those that are new
    /// get their turns in this order.
    pub(super) fn next(&mut self, clients: &[K]) -> Option<K> {
        let present: HashSet<&K> = clients.iter().collect();
        self.waiting.retain(|client| present.contains(client));
        let mut known: HashSet<K> = self.waiting.iter().chain(&self.last).cloned().collect();
        self.waiting.extend(clients.iter().filter(|client| known.insert((*client).clone())).cloned());
        self.waiting.extend(self.last.take().filter(|last| present.contains(last)));
        self.last = self.waiting.pop_front();
        self.last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The turns of clients, where each step says who has something to do.
    fn turns(steps: &[&str]) -> String {
        let mut turns = Turns::new();
        let next = |step: &&str| turns.next(&step.chars().collect::<Vec<_>>()).unwrap_or('-');
        steps.iter().map(next).collect()
    }

    #[test]
    fn each_client_gets_one_turn_in_a_round() {
        for (steps, expected) in [
            (&["", "a", "a", ""][..], "-aa-"),
            (&["ab"; 5], "ababa"),
            (&["abc"; 7], "abcabca"),
            // A newcomer is served after those that wait, and before the one that has just been served.
            (&["a", "ab", "ab", "ab"], "abab"),
            (&["ab", "abc", "abc", "abc", "abc"], "abcab"),
            // One that always has only one thing to do gets no more than one that has many.
            (&["ab", "ab", "a", "ab", "a", "ab"], "ababab"),
            (&["b", "ab", "b", "ab", "b"], "babab"),
            // One that has nothing to do loses its turn, and the others go on.
            (&["abc", "c", "ac", "ac", "ab", "ab"], "acacab"),
        ] {
            assert_eq!(turns(steps), expected, "{steps:?}");
        }
    }

    #[test]
    fn nobody_waits_for_more_than_one_turn_of_each_other_client() {
        let mut random = 1_u64;
        let mut turns = Turns::new();
        let mut waited = [0_u32; 8];
        for _ in 0..10_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let active = (random >> 56) as u8;
            let clients: Vec<usize> = (0..8).filter(|client| active >> client & 1 == 1).collect();
            let served = turns.next(&clients);
            assert_eq!(served.is_none(), clients.is_empty());
            for (client, waited) in waited.iter_mut().enumerate() {
                let goes_on = clients.contains(&client) && served != Some(client);
                *waited = if goes_on { *waited + 1 } else { 0 };
                assert!(*waited <= 7, "client {client}");
            }
        }
    }
}
