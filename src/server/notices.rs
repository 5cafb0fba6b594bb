//! What happens to clients, reported to the metrics and to the observers in one place. Input: what a request or a client's task has seen.
//! Output: counts and calls.

use std::sync::Arc;

use crate::protocol::session::Ending;

use super::client::Client;
use super::metrics::Credential;
use super::observer::{Authenticated, Refused, Slow};
use super::shared::Shared;

impl Shared {
    /// A client or a page is refused, before there is a connection.
    pub(super) fn notify_refused(&self, refused: &Refused<'_>) {
        self.metrics.refused(refused.status);
        self.observers().refused(refused);
    }
}

impl Client<Arc<Shared>> {
    /// The client is refused after its upgrade.
    pub(super) fn notify_refused(&self, status: u16, reason: &str) {
        self.shared.metrics.refused(status);
        let (host, origin, address, advice) = (None, None, self.peer, None);
        self.observers.refused(&Refused { status, reason, host, origin, address, advice });
    }

    /// The client's credential is refused on channel `auth`.
    pub(super) fn notify_denied(&self, status: u16, reason: &str) {
        self.shared.metrics.credential(Credential::Refused);
        self.notify_refused(status, reason);
    }

    /// The client has sent a right credential.
    pub(super) fn notify_authenticated(&self, is_renewal: bool) {
        let kind = if is_renewal { Credential::Renewed } else { Credential::Accepted };
        self.shared.metrics.credential(kind);
        let identity = self.identity();
        let identity = identity.as_ref().map(|identity| identity.id());
        self.observers.authenticated(&Authenticated {
            client_id: self.id,
            identity,
            peer: self.peer,
            is_renewal,
        });
    }

    /// The client does not take what is sent to it.
    pub(super) fn notify_slow(&self, waiting_bytes: usize, is_closed: bool) {
        let identity = self.identity();
        let identity = identity.as_ref().map(|identity| identity.id());
        self.observers.slow(&Slow {
            client_id: self.id,
            identity,
            peer: self.peer,
            waiting_bytes,
            is_closed,
        });
    }

    /// The connection has ended. One that the server has closed before the client had authenticated counts as refused, unless that is
    /// known.
    pub(super) fn notify_ended(&self, ending: &Ending, is_known: bool) {
        self.shared.metrics.ended(ending);
        if let Some(status) = status(ending).filter(|_| !is_known) {
            self.notify_refused(status, &ending.reason);
        }
    }
}

/// The status that a client would have got before the upgrade, if the server has closed because of it.
fn status(ending: &Ending) -> Option<u16> {
    match ending.code {
        _ if ending.by_client => None,
        1002 | 1007 | 1009 => Some(400),
        1008 | 4401 => Some(401),
        1013 => Some(503),
        _ => None,
    }
}
