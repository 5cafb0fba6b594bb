//! Places that many tasks share. In: keys, such as clients. Out: a place for each, when it is the key's turn; see
//! [`FairQueue`](crate::protocol::fair::FairQueue) for the order. Nothing is awaited while the lock is held.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::protocol::fair::{FairQueue, Ticket};

/// A number of places. A clone is another handle to the same ones.
pub(crate) struct Places<K>(Arc<Mutex<Shared<K>>>);

struct Shared<K> {
    queue: FairQueue<K>,
    /// The tasks that wait, by the numbers of their tickets.
    wakers: HashMap<u64, Waker>,
}

impl<K: Ord + Clone> Places<K> {
    /// Returns a number of places, at least one.
    pub(crate) fn new(places: usize) -> Places<K> {
        let shared = Shared { queue: FairQueue::new(places), wakers: HashMap::new() };
        Places(Arc::new(Mutex::new(shared)))
    }

    /// Waits for a place. One that stops waiting leaves the queue.
    pub(crate) async fn acquire(&self, key: K) -> Place<K> {
        let ticket = lock(&self.0).queue.enter(key);
        let place = Place { places: self.clone(), ticket: Some(ticket) };
        self.admit();
        poll_fn(|cx| place.poll_admitted(cx)).await;
        place
    }

    /// Gives the free places to those whose turn it is.
    fn admit(&self) {
        let mut admitted = Vec::new();
        let mut shared = lock(&self.0);
        while let Some(number) = shared.queue.poll() {
            admitted.extend(shared.wakers.remove(&number));
        }
        drop(shared);
        admitted.into_iter().for_each(Waker::wake);
    }
}

/// A place. It is free again when this is dropped.
#[must_use]
pub(crate) struct Place<K: Ord + Clone> {
    places: Places<K>,
    /// Taken when it is dropped.
    ticket: Option<Ticket<K>>,
}

impl<K: Ord + Clone> Place<K> {
    fn poll_admitted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = lock(&self.places.0);
        match &self.ticket {
            Some(ticket) if shared.queue.is_waiting(ticket) => {
                shared.wakers.insert(ticket.number(), cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }
}

impl<K: Ord + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let mut shared = lock(&self.places.0);
            shared.wakers.remove(&ticket.number());
            shared.queue.leave(ticket);
            drop(shared);
            self.places.admit();
        }
    }
}

impl<K> Clone for Places<K> {
    fn clone(&self) -> Places<K> {
        Places(self.0.clone())
    }
}

impl<K> fmt::Debug for Places<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Places(..)")
    }
}

impl<K: Ord + Clone> fmt::Debug for Place<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place(..)")
    }
}

fn lock<K>(shared: &Mutex<Shared<K>>) -> MutexGuard<'_, Shared<K>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts wakes.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_place_is_given_to_the_next_key_and_wakes_its_task_only() {
        let places = Places::new(1);
        let wakes = [(); 4].map(|()| Arc::new(Wakes::default()));
        let wakers = wakes.each_ref().map(|wakes| Waker::from(wakes.clone()));
        let woken = || wakes.each_ref().map(|wakes| wakes.0.load(Ordering::Relaxed));
        let cx = wakers.each_ref().map(Context::from_waker);
        let [mut first_cx, mut second_cx, mut other_cx, mut late_cx] = cx;

        let mut first = pin!(places.acquire('a'));
        let mut second = Box::pin(places.acquire('a'));
        let mut other = pin!(places.acquire('b'));
        let mut late = pin!(places.acquire('c'));
        let Poll::Ready(place) = first.as_mut().poll(&mut first_cx) else { panic!("a place is free") };
        assert!(second.as_mut().poll(&mut second_cx).is_pending());
        assert!(other.as_mut().poll(&mut other_cx).is_pending());
        assert!(late.as_mut().poll(&mut late_cx).is_pending());

        // One that stops waiting takes no turn.
        drop(second);
        assert_eq!(woken(), [0, 0, 0, 0]);
        drop(place);
        assert_eq!(woken(), [0, 0, 1, 0]);
        assert!(late.as_mut().poll(&mut late_cx).is_pending());
        let Poll::Ready(place) = other.as_mut().poll(&mut other_cx) else { panic!("it was woken") };
        drop(place);
        assert_eq!(woken(), [0, 0, 1, 1]);
        assert!(late.as_mut().poll(&mut late_cx).is_ready());
        let shared = lock(&places.0);
        assert!(shared.queue.is_empty() && shared.wakers.is_empty());
    }

    #[test]
    fn a_place_that_was_given_to_a_cancelled_task_is_free_again() {
        let places = Places::new(1);
        let waker = Waker::from(Arc::new(Wakes::default()));
        let mut cx = Context::from_waker(&waker);
        let mut first = Box::pin(places.acquire('a'));
        let Poll::Ready(place) = first.as_mut().poll(&mut cx) else { panic!("a place is free") };
        let mut second = Box::pin(places.acquire('a'));
        assert!(second.as_mut().poll(&mut cx).is_pending());
        drop(place);
        // It has the place now, but never looks.
        drop(second);
        let mut third = pin!(places.acquire('a'));
        assert!(third.as_mut().poll(&mut cx).is_ready());
    }
}
