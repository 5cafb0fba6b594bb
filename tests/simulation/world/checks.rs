//! The invariants that a world's server must keep, as they are seen from outside of its clients.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use switchboard::ClientId;
use tokio::time::Instant;

use super::events::LOUD;
use super::users::Granted;
use super::{ROOMS, SLACK, World};

impl World {
    /// What must hold at all times.
    pub fn check(&self) {
        self.check_memory();
        self.check_kicks();
        self.check_credentials();
    }

    /// A client whose outbox is over the limit is disconnected within the close timeout.
    fn check_memory(&self) {
        let limits = &self.limits;
        let most = (limits.max_outbox_bytes + limits.max_message_bytes) as u64;
        let patience = limits.close_timeout + SLACK;
        for (id, member) in self.members.lock().unwrap().iter_mut() {
            let Some(wire) = &member.wire else { continue };
            if member.joined == member.left || member.posted.saturating_sub(wire.taken_from_server()) <= most
            {
                member.over_limit_since = None;
                continue;
            }
            let since = *member.over_limit_since.get_or_insert_with(Instant::now);
            assert!(
                since.elapsed() <= patience,
                "{id} has taken too little for {:?} and is here",
                since.elapsed()
            );
        }
    }

    /// A client that was kicked is disconnected within the close timeout.
    fn check_kicks(&self) {
        let patience = self.limits.close_timeout + SLACK;
        for (id, member) in self.members.lock().unwrap().iter() {
            let Some(kick) = member.kick.as_ref().filter(|_| member.joined > member.left) else { continue };
            assert!(kick.at.elapsed() <= patience, "{id} was kicked {:?} ago and is here", kick.at.elapsed());
        }
    }

    /// A client whose credential has expired is disconnected within the close timeout.
    fn check_credentials(&self) {
        let close_timeout = self.limits.close_timeout;
        for id in self.members_with(|_, member| member.user.is_some()) {
            let connection = self.server.connection(id).expect("a client that has connected is there");
            let identity = connection.identity().expect("a connection of a user");
            let granted = identity.get_data::<Granted>().expect("the data of the identity");
            if let Some((_, latest)) = self.expiry(granted.credential) {
                assert!(Instant::now() <= latest + close_timeout, "{id} is here without a credential");
            }
        }
    }

    /// How many requests of a client have reached a handler.
    pub fn handled(&self, id: ClientId) -> usize {
        self.change(id, |member| member.handled.len())
    }

    /// No window lets more requests pass than its maximum. A client that sends only requests for handlers opens
    /// each window with one of them.
    pub fn check_rate(&self, id: ClientId) {
        let limits = &self.limits;
        let members = self.members.lock().unwrap();
        let Some(member) = members.get(&id) else { return };
        let mut handled = member.handled.as_slice();
        while let Some(first) = handled.first() {
            let end = handled.partition_point(|at| *at - *first < limits.rate_window);
            assert!(end <= limits.rate_max_requests as usize, "{end} requests of {id} passed in one window");
            handled = &handled[end..];
        }
    }

    /// Two clients that got the same events got them in the same order.
    fn check_order(&self) {
        let seen = self.seen.lock().unwrap();
        for (id, events) in seen.iter() {
            let place: HashMap<_, _> =
                events.iter().enumerate().map(|(place, event)| (event, place)).collect();
            assert_eq!(place.len(), events.len(), "{id} got an event twice");
            for (other, theirs) in seen.iter().filter(|(other, _)| *other != id) {
                let common: Vec<_> = theirs.iter().filter(|event| place.contains_key(event)).collect();
                for pair in common.windows(2) {
                    assert!(
                        place[pair[0]] < place[pair[1]],
                        "{pair:?} came to {other}, not to {id}, in this order"
                    );
                }
            }
        }
    }

    /// What holds when every client has disconnected.
    pub fn check_end(&self) {
        assert_eq!(self.server.client_count(), 0, "clients after the end");
        assert_eq!(self.running.load(Ordering::Relaxed), 0, "handlers after the end");
        let stats = self.server.stats();
        assert_eq!(stats.ended.iter().sum::<u64>(), stats.connections, "each connection ends once");
        self.check_order();
        for name in ROOMS.into_iter().chain([LOUD]) {
            assert_eq!(self.server.group(name).count(), 0, "members of {name} after the end");
        }
        for (id, member) in self.members.lock().unwrap().iter() {
            assert!(
                member.joined <= 1 && member.joined == member.left,
                "{id} came {} times and left {} times",
                member.joined,
                member.left
            );
            assert_eq!(member.joined == 1, member.ending.is_some(), "{id}: both callbacks");
            if let (Some((code, reason)), Some(ending)) = (&member.closed, &member.ending) {
                assert!(!ending.by_client && ending.code == *code, "{id}: {ending:?}, but {code} {reason}");
                assert!(ending.reason.starts_with(reason), "{id}: {ending:?}, but {reason}");
            }
        }
    }
}
