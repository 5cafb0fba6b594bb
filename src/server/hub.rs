//! Who is connected, and the mailbox of each. In: events, wakes of handlers. Out: what a client's task finds when it
//! wakes. The hub never writes to a socket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Wake, Waker};
use std::time::Duration;

use crate::protocol::error::WireError;
use crate::protocol::session::Session;
use crate::protocol::time::{Millis, Now};

use super::observer::{Completed, Observers, Panicked, Visit};
use super::{ClientId, ClientInfo, Server, ServerError, Shared};

/// The clients of a server.
#[derive(Default)]
pub(super) struct Hub {
    clients: RwLock<Clients>,
}

#[derive(Default)]
struct Clients {
    by_id: HashMap<ClientId, Arc<Client>>,
    /// Whether newcomers are sent away at once.
    stopped: bool,
}

impl Hub {
    /// Takes a client in. One that comes after [`stop`](Hub::stop) finds its order to leave in its mailbox.
    pub(super) fn join(&self, client: &Arc<Client>) {
        let mut clients = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        clients.by_id.insert(client.id, client.clone());
        if clients.stopped {
            client.order_to_stop();
        }
    }

    pub(super) fn leave(&self, id: ClientId) {
        self.clients.write().unwrap_or_else(PoisonError::into_inner).by_id.remove(&id);
    }

    /// A client that may get events.
    pub(super) fn member(&self, id: ClientId) -> Option<Arc<Client>> {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        clients.by_id.get(&id).filter(|client| client.is_member()).cloned()
    }

    pub(super) fn member_ids(&self) -> Vec<ClientId> {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        clients.by_id.values().filter(|client| client.is_member()).map(|client| client.id).collect()
    }

    pub(super) fn member_count(&self) -> usize {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        clients.by_id.values().filter(|client| client.is_member()).count()
    }

    /// Puts a frame into every member's mailbox, and says how many there are.
    pub(super) fn broadcast(&self, frame: &Arc<[u8]>) -> usize {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        let members = clients.by_id.values().filter(|client| client.is_member());
        members.map(|client| client.post(frame.clone())).count()
    }

    /// Tells everyone to leave, and whoever comes from now on.
    pub(super) fn stop(&self) {
        let mut clients = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        clients.stopped = true;
        for client in clients.by_id.values() {
            client.order_to_stop();
        }
    }

    /// Lets clients in again.
    pub(super) fn open(&self) {
        self.clients.write().unwrap_or_else(PoisonError::into_inner).stopped = false;
    }
}

/// One client as everybody else sees it.
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) shared: Arc<Shared>,
    pub(super) observers: Observers,
    connected_at_unix_ms: u64,
    connected_at: Millis,
    /// Authenticated, told to `on_connection`, not yet to `on_disconnection`.
    member: AtomicBool,
    mailbox: Mutex<Mailbox>,
    /// Whether the mailbox was touched since the task last looked. Set after the mailbox, cleared before it.
    rung: AtomicBool,
    /// 0 while the task's own outbox is empty, else one more than the bytes that wait in it behind the first message.
    waiting: AtomicUsize,
    last_activity: AtomicU64,
    request_count: AtomicU64,
    window_ends_at: AtomicU64,
    window_remaining: AtomicU64,
}

/// What others leave for a client's task.
#[derive(Default)]
pub(super) struct Mailbox {
    /// Frames to send, in order.
    frames: Vec<Arc<[u8]>>,
    frame_bytes: usize,
    /// Places of the handlers that can go on.
    pub(super) woken: Vec<usize>,
    /// More came than may wait.
    pub(super) overflow: bool,
    /// The server stops.
    pub(super) stop: bool,
    waker: Option<Waker>,
}

impl Client {
    pub(super) fn new(id: ClientId, shared: Arc<Shared>, now: Now) -> Client {
        let observers = shared.observers.read().unwrap_or_else(PoisonError::into_inner).clone();
        Client {
            id,
            observers,
            connected_at_unix_ms: now.unix_ms,
            connected_at: now.at,
            member: AtomicBool::new(false),
            mailbox: Mutex::default(),
            rung: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            last_activity: AtomicU64::new(now.at.0),
            request_count: AtomicU64::new(0),
            window_ends_at: AtomicU64::new(0),
            window_remaining: AtomicU64::new(0),
            shared,
        }
    }

    pub(super) fn server(&self) -> Server {
        Server { shared: self.shared.clone() }
    }

    /// Tells the server's owner of a failure.
    pub(super) fn report(&self, error: ServerError) {
        self.shared.report(error);
    }

    /// Tells the observers that the client is a member now, or is one no more.
    pub(super) fn tell_membership(&self, now: Millis) {
        let visit = Visit {
            client_id: self.id,
            connected_at_unix_ms: self.connected_at_unix_ms,
            elapsed: now.since(self.connected_at),
        };
        let told = match self.is_member() {
            true => self.observers.tell(|observer| observer.connected(&visit)),
            false => self.observers.tell(|observer| observer.disconnected(&visit)),
        };
        self.report_panic(told);
    }

    /// Tells the observers that a request has come to its end.
    pub(super) fn tell_completed(
        &self,
        channel: Option<&str>,
        error: Option<&WireError>,
        elapsed: Duration,
        at_unix_ms: u64,
    ) {
        let completed = Completed { client_id: self.id, channel, error, elapsed, at_unix_ms };
        self.report_panic(self.observers.tell(|observer| observer.completed(&completed)));
    }

    /// The time, for showing.
    pub(super) fn unix_ms(&self) -> u64 {
        self.shared.now().unix_ms
    }

    fn report_panic(&self, told: Result<(), Panicked>) {
        if told.is_err() {
            self.report(ServerError::CallbackPanicked);
        }
    }

    fn is_member(&self) -> bool {
        self.member.load(Ordering::Acquire)
    }

    /// Answers whether it was otherwise before.
    pub(super) fn set_member(&self, member: bool) -> bool {
        self.member.swap(member, Ordering::AcqRel) != member
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a frame. What would wait beyond the limit is not kept: the client is closed for it.
    pub(super) fn post(&self, frame: Arc<[u8]>) {
        self.leave_word(|mailbox| {
            // Unless the task is writing something, the first frame is the one being written.
            let behind = match self.waiting.load(Ordering::Relaxed) {
                0 => match mailbox.frames.first() {
                    Some(first) => mailbox.frame_bytes - first.len() + frame.len(),
                    None => 0,
                },
                waiting => waiting - 1 + mailbox.frame_bytes + frame.len(),
            };
            if behind > self.shared.rules.limits.max_outbox_bytes {
                mailbox.overflow = true;
                mailbox.take_frames();
            } else if !mailbox.overflow {
                mailbox.frame_bytes += frame.len();
                mailbox.frames.push(frame);
            }
        });
    }

    fn order_to_stop(&self) {
        self.leave_word(|mailbox| mailbox.stop = true);
    }

    /// Changes the mailbox, and wakes the client's task unless that has been done since it last looked.
    fn leave_word(&self, change: impl FnOnce(&mut Mailbox)) {
        let mut mailbox = self.mailbox();
        change(&mut mailbox);
        let waker = if self.rung.swap(true, Ordering::AcqRel) { None } else { mailbox.waker.clone() };
        drop(mailbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Where to ring.
    pub(super) fn set_waker(&self, waker: &Waker) {
        self.mailbox().waker = Some(waker.clone());
    }

    /// Whether anything came since the last [`collect`](Client::collect).
    pub(super) fn has_mail(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// Takes the events out of the mailbox, in order. `None` if more came than may wait: some are lost.
    pub(super) fn take_frames(&self) -> Option<Vec<Arc<[u8]>>> {
        let mut mailbox = self.mailbox();
        (!mailbox.overflow).then(|| mailbox.take_frames())
    }

    /// Shows the mailbox to the client's task, if anything came.
    pub(super) fn collect<T>(&self, take: impl FnOnce(&mut Mailbox) -> T) -> Option<T> {
        self.rung.swap(false, Ordering::AcqRel).then(|| take(&mut self.mailbox()))
    }

    /// Publishes what the task knows. `waiting_bytes` is what waits behind the message that is being written, if one is.
    pub(super) fn publish(&self, session: &Session, requests: u64, waiting_bytes: Option<usize>) {
        self.last_activity.store(session.last_byte().0, Ordering::Relaxed);
        if requests > 0 {
            self.request_count.fetch_add(requests, Ordering::Relaxed);
            let ends_at = session.rate().ends_at().unwrap_or_default();
            self.window_remaining
                .store(session.remaining(Millis(ends_at.0.saturating_sub(1))).into(), Ordering::Relaxed);
            self.window_ends_at.store(ends_at.0, Ordering::Relaxed);
        }
        self.waiting.store(waiting_bytes.map_or(0, |bytes| bytes + 1), Ordering::Relaxed);
    }

    pub(super) fn info(&self, now: Millis) -> ClientInfo {
        let since_start = self.last_activity.load(Ordering::Relaxed).saturating_sub(self.connected_at.0);
        let max = self.shared.rules.limits.rate_max_requests;
        let in_window = now.0 < self.window_ends_at.load(Ordering::Relaxed);
        let remaining = self.window_remaining.load(Ordering::Relaxed) as u32;
        ClientInfo {
            id: self.id,
            connected_at_unix_ms: self.connected_at_unix_ms,
            last_activity_unix_ms: self.connected_at_unix_ms + since_start,
            request_count: self.request_count.load(Ordering::Relaxed),
            remaining: if in_window { remaining } else { max },
        }
    }
}

impl Mailbox {
    fn take_frames(&mut self) -> Vec<Arc<[u8]>> {
        self.frame_bytes = 0;
        std::mem::take(&mut self.frames)
    }
}

/// Wakes one waiting handler of a client, not all of them.
pub(super) struct HandlerWaker {
    pub(super) client: Arc<Client>,
    pub(super) index: usize,
    /// Whether that was said already.
    pub(super) queued: AtomicBool,
}

impl Wake for HandlerWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.client.leave_word(|mailbox| mailbox.woken.push(self.index));
        }
    }
}
