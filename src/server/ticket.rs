//! A client between its upgrade and its task: what it is counted by, and how it was let in.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::protocol::connection::CloseCode;
use crate::protocol::uuid::Uuid;

use super::admission::Key;
use super::config::ClientId;
use super::identity::Identity;
use super::metrics::Limited;
use super::shared::Shared;

/// How a client begins whose upgrade is answered with 101.
pub(super) enum Entry {
    /// It is let in, and counts among [`Config::max_connections`](super::Config::max_connections).
    Authenticated(Option<Identity>),
    /// It must send its credential first.
    Awaited,
    /// It is only to learn why it is not let in: a browser shows no page the status of a refused upgrade.
    Refused(CloseCode, String),
}

/// A client whose upgrade was accepted: it counts among those that [`stop`](super::Server::stop) waits for. Dropping the ticket
/// ends that, unless the client's task has taken it over.
pub(super) struct Ticket {
    shared: Option<Arc<Shared>>,
    pub(super) id: ClientId,
    pub(super) peer: Option<IpAddr>,
    entry: Option<Entry>,
}

impl Ticket {
    pub(super) fn address(&self) -> Key {
        self.peer.map(Into::into)
    }

    /// Returns how the client begins. The caller calls [`Shared::end_client`].
    pub(super) fn hand_over(mut self) -> Entry {
        self.shared = None;
        self.entry.take().unwrap_or(Entry::Awaited)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            if let Some(Entry::Authenticated(identity)) = &self.entry {
                shared.admission.clients.leave(self.address(), identity.as_ref().map(Identity::key));
            }
            shared.end_client();
        }
    }
}

impl Shared {
    /// Counts one more client, or returns the limit that is reached. One that must still authenticate is counted among
    /// [`Config::max_connections`](super::Config::max_connections) when it has.
    pub(super) fn begin_client(
        self: &Arc<Self>,
        peer: Option<IpAddr>,
        entry: Entry,
    ) -> Result<Ticket, Limited> {
        if let Entry::Authenticated(identity) = &entry {
            self.admission.clients.enter(peer.map(Into::into), identity.as_ref().map(Identity::key))?;
        }
        self.tasks.fetch_add(1, Ordering::AcqRel);
        Ok(Ticket { shared: Some(self.clone()), id: Uuid::v4(), peer, entry: Some(entry) })
    }

    pub(super) fn end_client(&self) {
        self.tasks.fetch_sub(1, Ordering::AcqRel);
        self.task_ended.notify_waiters();
    }
}
