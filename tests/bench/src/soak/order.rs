//! Checks that every client receives every event once, in the same order. Each event of the soak is broadcast as one frame, so
//! the events of a client must be a contiguous part of the events of all clients.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use tokio::time::Instant;

/// The hash of a frame. Its payload has a time and usually an id, so all hashes differ.
type Frame = u64;

/// The events in order, with the time at which the first client received each.
#[derive(Default)]
pub struct Order {
    events: Vec<(Frame, Instant)>,
}

/// The progress of one client.
#[derive(Default)]
pub struct Reader {
    /// What it received since it connected, until its position is known.
    unplaced: Vec<Frame>,
    /// The position of the next event that it must receive, once it is known.
    next: Option<usize>,
}

impl Order {
    /// Records that a client received an event.
    ///
    /// # Errors
    /// When another event was expected. The reader then starts again.
    pub fn see(&mut self, reader: &mut Reader, payload: &[u8]) -> Result<(), String> {
        let mut hasher = DefaultHasher::new();
        hasher.write(payload);
        reader.unplaced.push(hasher.finish());
        let first = reader.unplaced[0];
        // Only a client that has seen all earlier events can define the next one. A new client waits until another one has
        // seen the first event that it has seen itself.
        let next = reader.next.or_else(|| match self.events.is_empty() {
            true => Some(0),
            false => self.events.iter().rposition(|event| event.0 == first),
        });
        let Some(mut next) = next else { return Ok(()) };
        reader.next = None;
        for frame in std::mem::take(&mut reader.unplaced) {
            match self.events.get(next) {
                None => self.events.push((frame, Instant::now())),
                Some(event) if event.0 == frame => {}
                Some(_) => return Err(format!("another event at position {next}")),
            }
            next += 1;
        }
        reader.next = Some(next);
        Ok(())
    }

    /// Whether a client is missing an event that others received long ago. The reader then starts again.
    pub fn is_missing(&self, reader: &mut Reader, patience: Duration) -> bool {
        let event = reader.next.and_then(|next| self.events.get(next));
        let is_missing = event.is_some_and(|event| event.1.elapsed() > patience);
        if is_missing {
            *reader = Reader::default();
        }
        is_missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_a_doubled_and_a_swapped_event_are_seen() {
        let mut order = Order::default();
        let mut first = Reader::default();
        for event in [b"a", b"b", b"c", b"d"] {
            order.see(&mut first, event).unwrap();
        }
        for (seen, fault) in [
            (b"bcd".as_slice(), None),
            (b"abd", Some(2)),
            (b"abb", Some(2)),
            (b"acb", Some(1)),
            (b"abcdx", None),
        ] {
            let mut reader = Reader::default();
            let fails = |event: &u8| order.see(&mut reader, &[*event]).is_err();
            assert_eq!(seen.iter().position(fails), fault, "{seen:?}");
        }
        assert!(order.see(&mut first, b"y").is_err(), "x came first");
    }

    #[test]
    fn a_newcomer_that_is_ahead_of_the_others_says_nothing_yet() {
        let mut order = Order::default();
        let (mut old, mut new) = (Reader::default(), Reader::default());
        order.see(&mut old, b"a").unwrap();
        order.see(&mut new, b"c").unwrap();
        order.see(&mut old, b"b").unwrap();
        order.see(&mut old, b"c").unwrap();
        order.see(&mut new, b"d").unwrap();
        assert!(order.see(&mut old, b"e").is_err(), "d is next");
    }

    #[test]
    fn an_event_that_does_not_come_is_missed() {
        let mut order = Order::default();
        let (mut one, mut other) = (Reader::default(), Reader::default());
        for reader in [&mut one, &mut other] {
            order.see(reader, b"a").unwrap();
        }
        assert!(!order.is_missing(&mut one, Duration::ZERO));
        order.see(&mut other, b"b").unwrap();
        while !order.is_missing(&mut one, Duration::ZERO) {}
    }
}
