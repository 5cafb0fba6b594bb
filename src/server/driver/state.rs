//! A client's task at rest: what its parts share, and the steps that several of them take.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use tokio::time::Sleep;

use crate::protocol::connection::CloseCode;
use crate::protocol::handshake::Accepted;
use crate::protocol::outbox::Outbox;
use crate::protocol::session::{Ending, Session};
use crate::protocol::time::{Millis, Now};

use super::super::admission::{Place, TOO_MANY_OF_IDENTITY};
use super::super::memory::Share;
use super::super::metrics::Limited;
use super::super::shared::{Client, Shared};
use super::super::ticket::{Entry, Ticket};
use super::asking::{Asking, expires_at};
use super::decoding::Decoding;
use super::in_flight::InFlight;

/// Answers are written when this much has come together, or when the input is used up.
pub(super) const WRITE_BYTES: usize = 256 << 10;

/// A client's task.
pub(in super::super) struct Driver<Io> {
    pub(super) io: Io,
    pub(super) session: Session<InFlight>,
    pub(super) client: Arc<Client>,
    pub(super) stage: Stage,
    pub(super) backlog: Option<Box<Backlog>>,
    /// Whether the bytes to send answer the input read last. Nothing more is read until they are sent, so they have their
    /// own limit: `WRITE_BYTES` and one message.
    pub(super) has_answered: bool,
    pub(super) waker: Option<Waker>,
    pub(super) alarm: Option<Alarm>,
    /// Its place among the clients that must still authenticate. It keeps it if it finds no other.
    waiting_place: Option<Box<Place<Client>>>,
    /// Whether it counts as a connection: not if it is only to learn why it is not let in.
    is_counted: bool,
    /// Whether the observers know already that it is refused.
    pub(super) is_refused: bool,
}

/// What could not be handled or sent at once. Few clients have any, so the others have no room for it.
#[derive(Default)]
pub(super) struct Backlog {
    /// Input that was read and could not be handled yet, from `input_at` on.
    pub(super) input: Vec<u8>,
    pub(super) input_at: usize,
    /// The client's last message, if it is large, on its way to its request. Nothing more is read meanwhile.
    pub(super) decoding: Option<Decoding>,
    /// Its new credential, until the authenticator has decided.
    pub(super) asking: Option<Box<Asking>>,
    pub(super) outbox: Outbox,
    /// Whether the observers know that more than the soft limit waits.
    pub(super) is_slow: bool,
    /// When the client counts as slow.
    pub(super) slow_at: Option<Millis>,
    /// What the client has of the memory that all clients share.
    pub(super) share: Option<Share>,
    /// When the client is in the way of others, or has waited too long.
    pub(super) room_at: Option<Millis>,
}

impl Backlog {
    pub(super) fn has_input(&self) -> bool {
        self.input_at < self.input.len()
    }

    pub(super) fn is_done(&self) -> bool {
        !self.has_input()
            && self.decoding.is_none()
            && self.asking.is_none()
            && self.outbox.is_empty()
            && self.share.as_ref().is_none_or(Share::is_empty)
    }
}

#[derive(PartialEq, Eq)]
pub(super) enum Stage {
    /// `server:connected` is to be sent, after the rest of the answer to the upgrade.
    New { answer: Vec<u8> },
    /// Messages go both ways.
    Open,
    /// Nothing more is handled. The rest is written and the socket shut down. A client that broke the protocol may still
    /// be sending: it is read until it has seen the end, so that no reset overtakes the close frame.
    Lingering { until: Millis, shut_down: bool },
}

pub(super) struct Alarm {
    pub(super) sleep: Pin<Box<Sleep>>,
    pub(super) at: Millis,
}

/// One poll of the task.
pub(super) struct Turn<'a, 'b> {
    pub(super) now: Now,
    pub(super) cx: &'a mut Context<'b>,
    /// The bytes to send.
    pub(super) out: &'a mut Vec<u8>,
    /// Frames and reads left before the other clients of this worker thread get their turn.
    pub(super) frames: usize,
    pub(super) reads: usize,
    /// How many messages of this turn are published.
    pub(super) published: u32,
}

/// The connection has ended.
pub(super) struct Disconnected;

/// Whether a step did anything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Some,
    None,
}

impl<Io> Driver<Io> {
    /// A client whose upgrade was accepted. `early` are the bytes it sent after its request, `answer` those to send before
    /// anything else.
    pub(in super::super) fn new(
        shared: Arc<Shared>,
        ticket: Ticket,
        io: Io,
        early: Vec<u8>,
        mut answer: Vec<u8>,
        accepted: &Accepted,
    ) -> Driver<Io> {
        let now = shared.clock.now();
        let (id, address, peer) = (ticket.id, ticket.address(), ticket.peer);
        let entry = ticket.hand_over();
        let is_authenticated = matches!(entry, Entry::Authenticated(_));
        let (observers, rules) = (shared.observers(), shared.rules.clone());
        let mut session = Session::new(rules.clone(), id, is_authenticated, now.at);
        if accepted.subprotocol.is_some() {
            session.set_v1();
        }
        if shared.authentication.is_set() {
            session.ask_caller();
        }
        if observers.want_requests() {
            session.keep_errors();
        }
        let identity = if let Entry::Authenticated(identity) = &entry { identity.as_ref() } else { None };
        let of_identity = identity.and_then(|identity| shared.admission.identity_window(identity.key()));
        if let Some(window) = of_identity.or_else(|| shared.admission.window(address)) {
            session.share_window(window);
        }
        let client = Arc::new(Client::new(id, shared.clone(), observers, rules, (address, peer), now));
        match entry {
            Entry::Authenticated(Some(identity)) => {
                session.set_expiry(expires_at(&identity, now), now.at);
                client.set_identity(identity);
            }
            Entry::Refused(code, reason) => session.close(now.at, code, &reason, &mut answer),
            Entry::Authenticated(None) | Entry::Awaited => {}
        }
        let is_counted = session.closing_until().is_none();
        let waiting_place = (!is_authenticated)
            .then(|| Box::new(shared.admission.unauthenticated.enter(address, client.clone()).0));
        shared.hub.join(&client);
        if is_counted {
            shared.metrics.connections.fetch_add(1, Ordering::Relaxed);
        }
        Driver {
            io,
            session,
            client,
            stage: Stage::New { answer },
            backlog: (!early.is_empty()).then(|| Box::new(Backlog { input: early, ..Backlog::default() })),
            has_answered: false,
            waker: None,
            alarm: None,
            waiting_place,
            is_counted,
            is_refused: false,
        }
    }

    /// Publishes what the client has done until now.
    pub(super) fn publish_activity(&self, turn: &mut Turn<'_, '_>) {
        let requests = self.session.tally().requests;
        self.client.publish_activity(&self.session, requests.saturating_sub(turn.published).into());
        turn.published = requests;
    }

    pub(super) fn backlog(&mut self) -> &mut Backlog {
        self.backlog.get_or_insert_default()
    }

    /// Whether bytes wait for the client.
    pub(super) fn is_blocked(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| !backlog.outbox.is_empty())
    }

    /// Whether more may be read: everything read before was handled, and nothing waits for the client.
    pub(super) fn may_read(&self) -> bool {
        let lingering = matches!(self.stage, Stage::Lingering { .. });
        !self.is_blocked() && (lingering || self.session.wants_input())
    }

    /// Gives the client a place among those that have authenticated, if there is one.
    pub(super) fn handle_authenticated(&mut self, turn: &mut Turn<'_, '_>) {
        match self.client.shared.admission.clients.enter(self.client.address, self.client.identity_key()) {
            Ok(()) => {
                self.waiting_place = None;
                self.client.keep_authenticated();
                self.become_member(turn.now);
            }
            Err(limit) => self.evict(turn, limit),
        }
    }

    /// Closes a client whose address must wait after wrong tokens: what it sends now is not looked at, unless it could be the
    /// right token.
    pub(super) fn check_pause(&mut self, turn: &mut Turn<'_, '_>) {
        if self.waiting_place.is_some()
            && !self.client.shared.admission.accepts_in_pause()
            && !self.client.shared.authentication.is_set()
            && self.is_paused(turn.now.at)
        {
            self.evict(turn, Limited::WrongTokens);
        }
    }

    /// Whether the client counts among those that need no further authentication.
    pub(super) fn is_counted(&self) -> bool {
        self.waiting_place.is_none()
    }

    pub(super) fn is_paused(&self, now: Millis) -> bool {
        self.client.shared.admission.wait(self.client.address, now).is_some()
    }

    /// Counts the wrong tokens that the client has sent. One that is sent during a pause closes it.
    pub(super) fn count_wrong_tokens(&mut self, turn: &mut Turn<'_, '_>) {
        let count = self.session.take_wrong_tokens();
        if count == 0 {
            return;
        }
        // The authenticator's refusals are reported with its reasons.
        if !self.session.asks_caller() {
            self.client.notify_denied(401, "Token is wrong");
        }
        if self.is_paused(turn.now.at) {
            self.evict(turn, Limited::WrongTokens);
        } else {
            self.client.shared.admission.add_wrong_tokens(self.client.address, count, turn.now.at);
        }
    }

    pub(super) fn become_member(&self, now: Now) {
        let shared = &self.client.shared;
        if shared.config.token.is_some() || shared.authentication.is_set() {
            self.client.notify_authenticated(false);
        }
        self.client.become_member(now.at);
    }

    /// Closes the client because of a limit. A client that is closing already is left alone, and so is one that has
    /// authenticated before it lost its place among those that have not.
    pub(super) fn evict(&mut self, turn: &mut Turn<'_, '_>, limit: Limited) {
        let is_closing = self.session.is_finished() || self.session.closing_until().is_some();
        if is_closing || (limit == Limited::Unauthenticated && self.session.is_open()) {
            return;
        }
        if limit == Limited::SlowConsumers {
            let outbox = self.backlog.as_mut().map(|backlog| &mut backlog.outbox);
            let waiting_bytes = outbox.as_ref().map_or(0, |outbox| outbox.waiting_bytes());
            outbox.into_iter().for_each(Outbox::drop_events);
            self.client.notify_slow(waiting_bytes, true);
        }
        let (code, reason) = match limit {
            Limited::Memory => (CloseCode::Again, "server out of memory for messages"),
            Limited::Connections => (CloseCode::Again, "too many clients"),
            Limited::Address => (CloseCode::Again, "too many clients of this address"),
            Limited::Identity => (CloseCode::Again, TOO_MANY_OF_IDENTITY),
            Limited::Unauthenticated => (CloseCode::Policy, "not authenticated while others wait"),
            Limited::SlowConsumers => (CloseCode::Policy, "slow consumer"),
            Limited::WrongTokens => (CloseCode::Policy, "too many wrong tokens"),
            _ => (CloseCode::Policy, limit.as_str()),
        };
        self.close_limited(turn, limit, code, reason);
    }

    pub(super) fn close_limited(
        &mut self,
        turn: &mut Turn<'_, '_>,
        limit: Limited,
        code: CloseCode,
        reason: &str,
    ) {
        self.client.shared.metrics.limited(limit);
        self.session.close(turn.now.at, code, reason, turn.out);
        if limit == Limited::Unauthenticated {
            // It has no place any more, so it is cut as soon as the close frame is written.
            self.stage = Stage::Lingering { until: turn.now.at, shut_down: false };
            self.leave();
        }
    }

    /// Drops the handlers and removes the client from the hub, once.
    pub(super) fn leave(&mut self) {
        self.session.discard_parked();
        if !self.client.shared.hub.leave(&self.client) {
            return;
        }
        let lost = Ending::lost();
        let ending = self.session.ending().unwrap_or(&lost);
        if self.is_counted {
            let is_known = self.is_refused || self.waiting_place.is_none();
            self.client.notify_ended(ending, is_known);
        }
        self.client.end_membership(self.client.shared.clock.at(), ending);
        self.client.shared.hub.leave_groups(self.client.id);
    }
}

impl<Io> Drop for Driver<Io> {
    /// A runtime that ends drops its tasks at any point.
    fn drop(&mut self) {
        self.leave();
        if self.is_counted() {
            self.client.shared.admission.clients.leave(self.client.address, self.client.identity_key());
        }
        self.client.shared.end_client();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokio allocates tasks in steps of 128 bytes: with more than this, each client takes 640 instead of 512.
    #[test]
    fn a_client_is_small() {
        assert!(size_of::<Driver<tokio::net::TcpStream>>() <= 416);
    }
}
