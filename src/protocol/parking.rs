//! The requests of a client whose handlers wait. Input: requests, their deadlines, and what the caller keeps with each. Output:
//! the same again, when a request is answered, has expired or is discarded.

use super::request::Request;
use super::time::Millis;

/// The place of a parked request. It is used again once the request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

impl Slot {
    /// A small number, different for each request that is parked now.
    pub fn index(self) -> usize {
        self.0
    }
}

#[derive(Debug)]
pub(super) struct Parked<H> {
    pub(super) request: Request,
    pub(super) handler: H,
    until: Millis,
}

/// The parked requests. Without any it owns no memory, like most clients at most times.
#[derive(Debug)]
pub(super) struct Parking<H>(Option<Box<Places<H>>>);

#[derive(Debug)]
struct Places<H> {
    places: Vec<Option<Parked<H>>>,
    taken: usize,
    payload_bytes: usize,
    /// No request expires before this; it may be earlier than the first that does.
    deadline: Millis,
}

impl<H> Parking<H> {
    pub(super) fn new() -> Parking<H> {
        Parking(None)
    }

    /// The number of parked requests.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |places| places.taken)
    }

    /// The bytes of their payloads.
    pub(super) fn payload_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |places| places.payload_bytes)
    }

    /// When to look for an [`expired`](Parking::expired) request. It may be early, never late.
    pub(super) fn deadline(&self) -> Millis {
        self.0.as_ref().map_or(Millis(u64::MAX), |places| places.deadline)
    }

    pub(super) fn park(&mut self, request: Request, until: Millis, handler: impl FnOnce(Slot) -> H) -> Slot {
        let empty = || {
            Box::new(Places { places: Vec::new(), taken: 0, payload_bytes: 0, deadline: Millis(u64::MAX) })
        };
        let places = self.0.get_or_insert_with(empty);
        let index = places.places.iter().position(Option::is_none).unwrap_or(places.places.len());
        let slot = Slot(index);
        places.taken += 1;
        places.payload_bytes = places.payload_bytes.saturating_add(request.payload_bytes());
        places.deadline = places.deadline.min(until);
        let parked = Some(Parked { request, handler: handler(slot), until });
        match places.places.get_mut(index) {
            Some(free) => *free = parked,
            None => places.places.push(parked),
        }
        slot
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Parked<H>> {
        self.0.as_ref()?.places.get(slot.0)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Parked<H>> {
        self.0.as_mut()?.places.get_mut(slot.0)?.as_mut()
    }

    pub(super) fn take(&mut self, slot: Slot) -> Option<Parked<H>> {
        let places = self.0.as_mut()?;
        let parked = places.places.get_mut(slot.0)?.take()?;
        places.taken -= 1;
        places.payload_bytes = places.payload_bytes.saturating_sub(parked.request.payload_bytes());
        if places.taken == 0 {
            self.0 = None;
        }
        Some(parked)
    }

    /// A request whose time is up.
    pub(super) fn expired(&mut self, now: Millis) -> Option<Slot> {
        let places = self.0.as_mut().filter(|places| now >= places.deadline)?;
        let is_due = |parked: &Option<Parked<H>>| parked.as_ref().is_some_and(|parked| now >= parked.until);
        let index = places.places.iter().position(is_due);
        if index.is_none() {
            let deadlines = places.places.iter().flatten().map(|parked| parked.until);
            places.deadline = deadlines.min().unwrap_or(Millis(u64::MAX));
        }
        index.map(Slot)
    }

    /// Takes all of them.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Parked<H>> + use<H> {
        self.0.take().into_iter().flat_map(|places| places.places).flatten()
    }
}
