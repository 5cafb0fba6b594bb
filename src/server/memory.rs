//! The bytes that all clients of a server hold together. Input: how many a client holds, or is about to. Output: whether there
//! is room for them. Those that wait get room in the order in which they came, so a large message waits no longer than
//! many small ones.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::protocol::time::Millis;

/// Bytes that each client can hold without counting.
const FREE_BYTES: usize = 64 << 10;
/// How long a client that has room can take for its message, or take none of its answers, while others wait for room.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it can send nothing.
const SILENCE: Duration = Duration::from_secs(1);
/// How often such a client is looked at, after that.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The account of a server.
pub(super) struct Memory {
    room: Arc<Semaphore>,
    max_bytes: u32,
    /// Clients that wait for room.
    waiting: AtomicUsize,
}

impl Memory {
    pub(super) fn new(max_bytes: usize) -> Memory {
        // A permit is a byte, and one message takes at most as many as a `u32` counts.
        // With no room at all nothing would be counted.
        let max_bytes = max_bytes.max(1);
        let room = Semaphore::new(max_bytes.min(Semaphore::MAX_PERMITS));
        let max_bytes = u32::try_from(max_bytes).unwrap_or(u32::MAX);
        Memory { room: Arc::new(room), max_bytes, waiting: AtomicUsize::new(0) }
    }
}

/// What one client has of it. Dropping it gives it back.
pub(super) struct Share {
    memory: Arc<Memory>,
    reserved: Option<OwnedSemaphorePermit>,
    waiting: Option<Waiting>,
    /// Since when a message could be received for which there is room.
    receiving_since: Option<Millis>,
}

struct Waiting {
    room: Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>,
    since: Millis,
    memory: Arc<Memory>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.memory.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Share {
    /// The share of a client that holds so many bytes, if they count.
    pub(super) fn new(memory: &Arc<Memory>, held_bytes: usize) -> Option<Share> {
        let share = || Share { memory: memory.clone(), reserved: None, waiting: None, receiving_since: None };
        (held_bytes > FREE_BYTES).then(share)
    }

    /// Whether nothing is reserved or waited for.
    pub(super) fn is_empty(&self) -> bool {
        self.reserved.is_none() && self.waiting.is_none()
    }

    /// Reserves room for what the client holds, and gives back the rest. With a context it waits for what is missing, without
    /// one it takes what is free. Returns whether there is room for all.
    pub(super) fn reserve(&mut self, held_bytes: usize, now: Millis, cx: Option<&mut Context<'_>>) -> bool {
        let counted = held_bytes.saturating_sub(FREE_BYTES);
        // A message that is larger than the account gets all of it.
        let needed = counted.min(self.memory.max_bytes as usize);
        let Some(missing) = needed.checked_sub(self.reserved_bytes()).filter(|missing| *missing > 0) else {
            self.waiting = None;
            let surplus = self.reserved_bytes() - needed;
            self.reserved.as_mut().and_then(|reserved| reserved.split(surplus));
            self.reserved.take_if(|reserved| reserved.num_permits() == 0);
            return needed == counted || cx.is_some();
        };
        let memory = &self.memory;
        let Some(cx) = cx else {
            self.waiting = None;
            let free = missing.min(memory.room.available_permits());
            // Another client may have been faster.
            let room = memory.room.clone().try_acquire_many_owned(free as u32).ok();
            self.add(room);
            return self.reserved_bytes() == counted;
        };
        let waiting = self.waiting.get_or_insert_with(|| {
            memory.waiting.fetch_add(1, Ordering::Relaxed);
            let room = memory.room.clone().acquire_many_owned(missing as u32);
            Waiting { room: Box::pin(async { room.await.ok() }), since: now, memory: memory.clone() }
        });
        let Poll::Ready(room) = waiting.room.as_mut().poll(cx) else { return false };
        self.waiting = None;
        self.add(room);
        // The client may hold more than when it began to wait, or less.
        self.reserve(held_bytes, now, Some(cx))
    }

    fn reserved_bytes(&self) -> usize {
        self.reserved.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    fn add(&mut self, room: Option<OwnedSemaphorePermit>) {
        match (&mut self.reserved, room) {
            (Some(reserved), Some(room)) => reserved.merge(room),
            (none, Some(room)) if room.num_permits() > 0 => *none = Some(room),
            _ => {}
        }
    }

    /// Records whether the client is sending a message for which there is room.
    pub(super) fn note_receiving(&mut self, is_receiving: bool, now: Millis) {
        let is_receiving = is_receiving && self.waiting.is_none();
        self.receiving_since = is_receiving.then(|| self.receiving_since.unwrap_or(now));
    }

    /// Since when the client waits for room.
    pub(super) fn waiting_since(&self) -> Option<Millis> {
        self.waiting.as_ref().map(|waiting| waiting.since)
    }

    /// Until when a message that is arriving must have arrived if others wait. `last_byte` is when the client last sent any.
    pub(super) fn must_send_until(&self, last_byte: Millis) -> Option<Millis> {
        let since = self.receiving_since.filter(|_| self.reserved.is_some())?;
        Some((since + PATIENCE).min(since.max(last_byte) + SILENCE))
    }

    /// Until when the client must take answers if others wait. `progress_at` is when it last took any, if some wait.
    pub(super) fn must_take_until(&self, progress_at: Option<Millis>) -> Option<Millis> {
        Some(progress_at.filter(|_| self.reserved.is_some())? + PATIENCE)
    }

    /// Whether other clients wait for room.
    pub(super) fn others_wait(&self) -> bool {
        self.memory.waiting.load(Ordering::Relaxed) > usize::from(self.waiting.is_some())
    }
}
