//! One client, as the rest of the server sees it: its mailbox, and what is published of it. Input: events, wakes of handlers, and what
//! its task has done. Output: what its task finds when it wakes. `S` is what handlers reach through their client: the server.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

use crate::protocol::connection::CloseCode;
use crate::protocol::error::WireError;
use crate::protocol::handshake::AddressKey;
use crate::protocol::session::{Ending, Rules, Session, Slot};
use crate::protocol::time::{Millis, Now};

use super::config::{ClientId, ServerError};
use super::identity::{Belongings, Identity, IdentityKey, Party};
use super::metrics::Limited;
use super::observer::{Completed, Observers, Visit};

/// A client as [`Server::client_info`](super::Server::client_info) returns it (specification, "WSClientData").
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientInfo {
    /// The client's id.
    pub id: ClientId,
    /// When it connected, in Unix ms.
    pub connected_at_unix_ms: u64,
    /// When its last byte arrived, in Unix ms.
    pub last_activity_unix_ms: u64,
    /// Messages it has sent, refused ones included.
    pub request_count: u64,
    /// How many more messages pass in its present rate window.
    pub remaining: u32,
    /// Who it is; `None` without an authenticator.
    pub identity: Option<String>,
    /// Its address, as [`Connection::peer`](super::Connection::peer) returns it.
    pub peer: Option<IpAddr>,
}

/// One client, as the rest of the server sees it.
pub(super) struct Client<S> {
    pub(super) id: ClientId,
    pub(super) shared: S,
    pub(super) observers: Observers<Arc<Client<S>>>,
    /// What it is counted by; `None` if the embedder has passed no address.
    pub(super) address: Option<AddressKey>,
    /// Its address, which can name one of several clients that are counted together.
    pub(super) peer: Option<IpAddr>,
    belongings: OnceLock<Box<Belongings>>,
    rules: Arc<Rules>,
    connected_at: Now,
    /// Set between `connected` and `disconnected` of the observers.
    member: AtomicBool,
    mailbox: Mutex<Mailbox>,
    /// Whether the mailbox changed since the task last looked. Set after the mailbox, cleared before it.
    notified: AtomicBool,
    /// 0 while the task's own outbox is empty, else one more than the bytes that wait in it after the first message.
    waiting: AtomicUsize,
    last_activity: AtomicU64,
    request_count: AtomicU64,
    window_ends_at: AtomicU64,
    window_remaining: AtomicU64,
}

/// What others have for a client's task.
#[derive(Default)]
pub(super) struct Mailbox {
    /// Frames to send, in order.
    frames: Vec<Arc<[u8]>>,
    frame_bytes: usize,
    /// Slots of the handlers to poll.
    pub(super) woken: Vec<Slot>,
    /// The limit for which the client is to be closed. After [`Limited::SlowConsumers`] frames are lost.
    pub(super) evict: Option<Limited>,
    /// The code and the reason with which the embedder closes the client.
    pub(super) close: Option<Box<(CloseCode, String)>>,
    /// The server stops once nothing of the client's is in flight.
    pub(super) drain: bool,
    /// The server stops.
    pub(super) stop: bool,
    waker: Option<Waker>,
}

impl<S> Client<S> {
    pub(super) fn new(
        id: ClientId,
        shared: S,
        observers: Observers<Arc<Client<S>>>,
        rules: Arc<Rules>,
        (address, peer): (Option<AddressKey>, Option<IpAddr>),
        now: Now,
    ) -> Client<S> {
        Client {
            id,
            shared,
            observers,
            address,
            peer,
            belongings: OnceLock::new(),
            rules,
            connected_at: now,
            member: AtomicBool::new(false),
            mailbox: Mutex::default(),
            notified: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            last_activity: AtomicU64::new(now.at.0),
            request_count: AtomicU64::new(0),
            window_ends_at: AtomicU64::new(0),
            window_remaining: AtomicU64::new(0),
        }
    }

    /// Reports a failure to the observers.
    pub(super) fn report(&self, error: ServerError) {
        self.observers.failed(error);
    }

    /// Makes the client of a call in process a member, or ends that. The observers are not notified: it has no connection.
    pub(super) fn set_member(&self, member: bool) {
        self.member.store(member, Ordering::Release);
    }

    /// Makes the client a member, once, and notifies the observers.
    pub(super) fn become_member(self: &Arc<Self>, now: Millis) {
        if !self.member.swap(true, Ordering::AcqRel) {
            let identity = self.identity();
            self.observers.connected(&self.visit(now, identity.as_ref(), None), self);
        }
    }

    /// Ends the membership, once, and notifies the observers. Whatever keeps the client keeps nothing that belongs to it.
    pub(super) fn end_membership(self: &Arc<Self>, now: Millis, ending: &Ending) {
        if self.member.swap(false, Ordering::AcqRel) {
            let identity = self.identity();
            self.observers.disconnected(&self.visit(now, identity.as_ref(), Some(ending)), self, ending);
            if let Some(belongings) = self.belongings() {
                belongings.release();
            }
            let (frames, waker) = {
                let mut mailbox = self.mailbox();
                (mailbox.take_frames(), mailbox.waker.take())
            };
            drop((frames, waker));
        }
    }

    /// What belongs to the client, if anything does.
    pub(super) fn belongings(&self) -> Option<&Belongings> {
        self.belongings.get().map(|belongings| &**belongings)
    }

    /// What belongs to the client. It is made if there is nothing yet.
    pub(super) fn belongings_mut(&self) -> &Belongings {
        self.belongings.get_or_init(Box::default)
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        self.belongings()?.identity()
    }

    /// The key of its identity, if it has one.
    pub(super) fn identity_key(&self) -> Option<IdentityKey> {
        Some(self.identity()?.key())
    }

    /// Who takes turns when the client waits for something.
    pub(super) fn party(&self) -> Party {
        self.identity_key().map_or(Party::Connection(self.id), Party::Identity)
    }

    pub(super) fn set_identity(&self, identity: Identity) {
        self.belongings_mut().set_identity(identity);
    }

    pub(super) fn connected_at_unix_ms(&self) -> u64 {
        self.connected_at.unix_ms
    }

    pub(super) fn is_member(&self) -> bool {
        self.member.load(Ordering::Acquire)
    }

    fn visit<'a>(
        &self,
        now: Millis,
        identity: Option<&'a Identity>,
        ending: Option<&'a Ending>,
    ) -> Visit<'a> {
        Visit {
            client_id: self.id,
            connected_at_unix_ms: self.connected_at.unix_ms,
            elapsed: now.since(self.connected_at.at),
            identity: identity.map(Identity::id),
            peer: self.peer,
            requests: self.request_count.load(Ordering::Relaxed),
            ending,
        }
    }

    /// Notifies the observers of the end of a request.
    pub(super) fn completed(
        &self,
        channel: Option<&str>,
        error: Option<&WireError>,
        elapsed: Duration,
        at_unix_ms: u64,
    ) {
        self.observers.completed(&Completed { client_id: self.id, channel, error, elapsed, at_unix_ms });
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a frame, and returns the waker of the client's task if that must be woken. If more would wait than the limit
    /// allows, the frame is dropped and the client will be closed.
    pub(super) fn post(&self, frame: &Arc<[u8]>) -> Option<Waker> {
        self.change_mailbox(|mailbox| {
            // Unless the task is writing something, the first frame is the one being written.
            let queued = match self.waiting.load(Ordering::Relaxed) {
                0 => match mailbox.frames.first() {
                    Some(first) => mailbox.frame_bytes - first.len() + frame.len(),
                    None => 0,
                },
                waiting => waiting - 1 + mailbox.frame_bytes + frame.len(),
            };
            if queued > self.rules.limits.max_outbox_bytes {
                mailbox.evict = Some(Limited::SlowConsumers);
                mailbox.take_frames();
            } else if !mailbox.has_lost_frames() {
                mailbox.frame_bytes += frame.len();
                mailbox.frames.push(frame.clone());
            }
        })
    }

    /// Closes the client because of a limit, unless it is closing.
    pub(super) fn evict(&self, limit: Limited) {
        self.update_mailbox(|mailbox| {
            mailbox.evict.get_or_insert(limit);
        });
    }

    /// Forgets that the client was to be closed before it had authenticated, because it has.
    pub(super) fn keep_authenticated(&self) {
        self.mailbox().evict.take_if(|limit| *limit == Limited::Unauthenticated);
    }

    /// Closes the client for the embedder, once it has got the events that wait.
    pub(super) fn request_close(&self, code: u16, reason: &str) {
        let code = Some(CloseCode::from(code)).filter(|code| code.is_allowed()).unwrap_or(CloseCode::Normal);
        self.update_mailbox(|mailbox| {
            mailbox.close.get_or_insert_with(|| Box::new((code, reason.to_owned())));
        });
    }

    pub(super) fn request_drain(&self) {
        self.update_mailbox(|mailbox| mailbox.drain = true);
    }

    pub(super) fn request_stop(&self) {
        self.update_mailbox(|mailbox| mailbox.stop = true);
    }

    /// Changes the mailbox, and wakes the client's task unless that was done since it last looked.
    fn update_mailbox(&self, change: impl FnOnce(&mut Mailbox)) {
        if let Some(waker) = self.change_mailbox(change) {
            waker.wake();
        }
    }

    /// Changes the mailbox. Returns the waker of the client's task unless that was woken since it last looked.
    fn change_mailbox(&self, change: impl FnOnce(&mut Mailbox)) -> Option<Waker> {
        let mut mailbox = self.mailbox();
        change(&mut mailbox);
        if self.notified.swap(true, Ordering::AcqRel) { None } else { mailbox.waker.clone() }
    }

    /// Stores the waker of the client's task.
    pub(super) fn set_waker(&self, waker: &Waker) {
        self.mailbox().waker = Some(waker.clone());
    }

    /// Whether the mailbox changed since the last [`collect`](Client::collect).
    pub(super) fn has_mail(&self) -> bool {
        self.notified.load(Ordering::Acquire)
    }

    /// Takes the frames, in order. `None` if more came than may wait: some are lost.
    pub(super) fn take_frames(&self) -> Option<Vec<Arc<[u8]>>> {
        let mut mailbox = self.mailbox();
        (!mailbox.has_lost_frames()).then(|| mailbox.take_frames())
    }

    /// Gives the task access to the mailbox, if that changed.
    pub(super) fn collect<T>(&self, take: impl FnOnce(&mut Mailbox) -> T) -> Option<T> {
        self.notified.swap(false, Ordering::AcqRel).then(|| take(&mut self.mailbox()))
    }

    /// Publishes what the client has done, with the number of messages since the last call.
    pub(super) fn publish_activity<H>(&self, session: &Session<H>, requests: u64) {
        self.last_activity.store(session.last_byte().0, Ordering::Relaxed);
        if requests > 0 {
            // Only the client's own task writes it.
            let count = self.request_count.load(Ordering::Relaxed).saturating_add(requests);
            self.request_count.store(count, Ordering::Relaxed);
            let ends_at = session.rate().ends_at().unwrap_or_default();
            self.window_remaining
                .store(session.remaining(Millis(ends_at.0.saturating_sub(1))).into(), Ordering::Relaxed);
            self.window_ends_at.store(ends_at.0, Ordering::Relaxed);
        }
    }

    /// Publishes how much waits. `waiting_bytes` are the bytes after the message that is being written, if one is.
    pub(super) fn publish_waiting(&self, waiting_bytes: Option<usize>) {
        self.waiting.store(waiting_bytes.map_or(0, |bytes| bytes + 1), Ordering::Relaxed);
    }

    pub(super) fn info(&self, now: Millis) -> ClientInfo {
        let Now { at, unix_ms } = self.connected_at;
        let since_start = self.last_activity.load(Ordering::Relaxed).saturating_sub(at.0);
        let max = self.rules.limits.rate_max_requests;
        let in_window = now.0 < self.window_ends_at.load(Ordering::Relaxed);
        let remaining = self.window_remaining.load(Ordering::Relaxed) as u32;
        ClientInfo {
            id: self.id,
            connected_at_unix_ms: unix_ms,
            last_activity_unix_ms: unix_ms + since_start,
            request_count: self.request_count.load(Ordering::Relaxed),
            remaining: if in_window { remaining } else { max },
            identity: self.identity().map(|identity| identity.id().to_owned()),
            peer: self.peer,
        }
    }
}

impl Mailbox {
    fn has_lost_frames(&self) -> bool {
        self.evict == Some(Limited::SlowConsumers)
    }

    fn take_frames(&mut self) -> Vec<Arc<[u8]>> {
        self.frame_bytes = 0;
        std::mem::take(&mut self.frames)
    }
}

/// Wakes one handler of a client, and not the others.
pub(super) struct HandlerWaker<S> {
    pub(super) client: Arc<Client<S>>,
    pub(super) slot: Slot,
    /// Whether the slot is in the mailbox already.
    pub(super) queued: AtomicBool,
}

impl<S: Send + Sync + 'static> Wake for HandlerWaker<S> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.client.update_mailbox(|mailbox| mailbox.woken.push(self.slot));
        }
    }
}
