//! Whether every client gets every event, once, in the order of all others. Each event of this soak is broadcast as one
//! frame, so what a client has seen must be an unbroken stretch of what all of them have seen together.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use tokio::time::Instant;

/// A frame's hash. Its payload holds a time and mostly an id, so that no two are the same.
type Frame = u64;

/// The events in order, and when the first client had each.
#[derive(Default)]
pub struct Order {
    events: Vec<(Frame, Instant)>,
}

/// How far one client is.
#[derive(Default)]
pub struct Reader {
    /// What it has seen since it came, until it is known where that belongs.
    unplaced: Vec<Frame>,
    /// The place of what it has to see next, once it is known.
    next: Option<usize>,
}

impl Order {
    /// A client gets an event.
    ///
    /// # Errors
    /// When another one had to come. The reader then begins anew.
    pub fn see(&mut self, reader: &mut Reader, payload: &[u8]) -> Result<(), String> {
        let mut hasher = DefaultHasher::new();
        hasher.write(payload);
        reader.unplaced.push(hasher.finish());
        let first = reader.unplaced[0];
        // Only who has seen all that came before may say what comes next: a newcomer waits until another client has
        // seen the first of what it has seen itself.
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
                Some(_) => return Err(format!("another event in the place of number {next}")),
            }
            next += 1;
        }
        reader.next = Some(next);
        Ok(())
    }

    /// Whether a client has been without an event for so long that others have. The reader then begins anew.
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
