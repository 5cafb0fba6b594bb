//! The writes that wait for the writing thread. In: writes and their owners. Out: the next one.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::protocol::fair::{FairQueue, Ticket};
use crate::server::Party;

use super::owner::Owner;

/// How long work in the background waits at most while clients write.
pub(super) const BACKGROUND_PAUSE: Duration = Duration::from_millis(50);

/// Writes in the order in which they are done: clients in turn, each client's own in their order. Those of the server yield to
/// clients, but are never more than [`BACKGROUND_PAUSE`] apart.
pub(super) struct Waiting<T> {
    turns: FairQueue<Party>,
    of_clients: HashMap<u64, (Ticket<Party>, T)>,
    /// The client of the last write keeps one of two places until the next one, and cannot have both.
    last: Option<Ticket<Party>>,
    of_server: VecDeque<T>,
    /// When the last one of the server was taken.
    server_at: Instant,
}

impl<T> Waiting<T> {
    pub(super) fn new(now: Instant) -> Waiting<T> {
        Waiting {
            turns: FairQueue::new(2),
            of_clients: HashMap::new(),
            last: None,
            of_server: VecDeque::new(),
            server_at: now,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of_clients.is_empty() && self.of_server.is_empty()
    }

    pub(super) fn push(&mut self, owner: Owner, write: T) {
        match owner {
            Owner::Server => self.of_server.push_back(write),
            Owner::Client(client) => {
                let ticket = self.turns.enter(client);
                self.of_clients.insert(ticket.number(), (ticket, write));
            }
        }
    }

    /// Takes the next write.
    pub(super) fn pop(&mut self, now: Instant) -> Option<T> {
        let server_is_due = now.saturating_duration_since(self.server_at) >= BACKGROUND_PAUSE;
        if (self.of_clients.is_empty() || server_is_due)
            && let Some(write) = self.of_server.pop_front()
        {
            self.server_at = now;
            return Some(write);
        }
        // A client that came while another one's write was done goes before the next write of that one.
        let other = self.turns.poll();
        if let Some(last) = self.last.take() {
            self.turns.leave(last);
        }
        let number = other.or_else(|| self.turns.poll())?;
        let (ticket, write) = self.of_clients.remove(&number)?;
        self.last = Some(ticket);
        Some(write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::uuid::Uuid;

    #[test]
    fn a_client_that_comes_later_waits_for_one_write_of_another_one() {
        let start = Instant::now();
        let mut waiting = Waiting::new(start);
        let [a, b] = [1, 2].map(|id| Owner::Client(Party::Connection(Uuid::from_random([id; 16]))));
        for write in ["a1", "a2", "a3"] {
            waiting.push(a, write);
        }
        assert_eq!(waiting.pop(start), Some("a1"));
        waiting.push(b, "b1");
        let rest = std::array::from_fn(|_| waiting.pop(start));
        assert_eq!(rest, [Some("b1"), Some("a2"), Some("a3"), None]);
    }

    #[test]
    fn clients_take_turns_and_the_server_yields_but_is_not_forgotten() {
        let start = Instant::now();
        let mut waiting = Waiting::new(start);
        let [a, b] = [1, 2].map(|id| Owner::Client(Party::Connection(Uuid::from_random([id; 16]))));
        for (owner, write) in [
            (Owner::Server, "s1"),
            (a, "a1"),
            (a, "a2"),
            (a, "a3"),
            (b, "b1"),
            (Owner::Server, "s2"),
            (b, "b2"),
        ] {
            waiting.push(owner, write);
        }
        let mut taken = Vec::new();
        for ms in [0, 10, 49, 50, 60, 70, 80] {
            taken.extend(waiting.pop(start + Duration::from_millis(ms)));
        }
        assert_eq!(taken, ["a1", "b1", "a2", "s1", "b2", "a3", "s2"]);
        assert!(waiting.is_empty() && waiting.pop(start).is_none() && waiting.turns.is_empty());
    }
}
