//! The connected clients, and the groups that they are in. Input: events, joins, the end of the server. Output: frames and notices in
//! the clients' mailboxes. The hub never writes to a socket. `S` is what handlers reach through their client: the server.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::Waker;

use crate::protocol::groups::{Groups, JoinError};

use super::client::Client;
use super::config::ClientId;
use super::identity::Identity;

/// The clients of a server. Those that are ready for events are its members.
pub(super) struct Hub<S> {
    clients: RwLock<Clients<S>>,
    /// Held while an event is put into several mailboxes: all clients get two such events in the same order.
    order: Mutex<()>,
    groups: RwLock<Groups<ClientId, Arc<Client<S>>>>,
}

struct Clients<S> {
    by_id: HashMap<ClientId, Arc<Client<S>>>,
    /// Those that have an identity, by its id.
    by_identity: HashMap<Arc<str>, HashMap<ClientId, Arc<Client<S>>>>,
    door: Door,
    /// How often the server has drained.
    drains: u64,
}

/// What a new client finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// It is to leave once nothing is in flight, as all others are. The number tells one drain from another.
    Draining(u64),
    /// It is to leave at once.
    Stopped,
}

impl<S> Hub<S> {
    pub(super) fn new(groups: Groups<ClientId, Arc<Client<S>>>) -> Hub<S> {
        let clients =
            Clients { by_id: HashMap::new(), by_identity: HashMap::new(), door: Door::Open, drains: 0 };
        Hub { clients: RwLock::new(clients), order: Mutex::default(), groups: RwLock::new(groups) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Clients<S>> {
        self.clients.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Clients<S>> {
        self.clients.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a client. One that is added after [`drain`](Hub::drain) or [`stop`](Hub::stop) finds that in its mailbox.
    pub(super) fn join(&self, client: &Arc<Client<S>>) {
        let mut clients = self.write();
        clients.by_id.insert(client.id, client.clone());
        if let Some(identity) = client.identity() {
            clients.identify(client, &identity);
        }
        match clients.door {
            Door::Open => {}
            Door::Draining(_) => client.request_drain(),
            Door::Stopped => client.request_stop(),
        }
    }

    /// Removes a client, and returns whether it was there.
    pub(super) fn leave(&self, client: &Client<S>) -> bool {
        let identity = client.identity();
        let mut clients = self.write();
        let was_there = clients.by_id.remove(&client.id).is_some();
        if let Some(identity) = identity
            && let Entry::Occupied(mut entry) = clients.by_identity.entry(identity.shared_id())
        {
            entry.get_mut().remove(&client.id);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
        was_there
    }

    /// Sets the identity of a client that has joined. It replaces one of the same id.
    pub(super) fn identify(&self, client: &Arc<Client<S>>, identity: Identity) {
        let mut clients = self.write();
        if clients.by_id.contains_key(&client.id) {
            clients.identify(client, &identity);
        }
        drop(clients);
        client.set_identity(identity);
    }

    /// The members of an identity.
    pub(super) fn members_of(&self, identity: &str) -> Vec<Arc<Client<S>>> {
        let clients = self.read();
        let found = clients.by_identity.get(identity).into_iter().flat_map(HashMap::values);
        found.filter(|client| client.is_member()).cloned().collect()
    }

    pub(super) fn member(&self, id: ClientId) -> Option<Arc<Client<S>>> {
        self.read().by_id.get(&id).filter(|client| client.is_member()).cloned()
    }

    pub(super) fn member_ids(&self) -> Vec<ClientId> {
        self.read().members().map(|client| client.id).collect()
    }

    pub(super) fn member_count(&self) -> usize {
        self.read().members().count()
    }

    /// Puts a frame into every member's mailbox, and returns their number.
    pub(super) fn broadcast(&self, frame: &Arc<[u8]>) -> usize {
        self.in_order(|| {
            let clients = self.read();
            let mut members = 0;
            let wakers =
                clients.members().inspect(|_| members += 1).filter_map(|client| client.post(frame)).collect();
            (wakers, members)
        })
    }

    /// Puts a frame into the mailboxes of some members.
    pub(super) fn post(&self, members: &[Arc<Client<S>>], frame: &Arc<[u8]>) {
        let post = || (members.iter().filter_map(|client| client.post(frame)).collect(), ());
        match members {
            [_] => wake(post()),
            _ => self.in_order(post),
        }
    }

    /// Puts a frame into the mailboxes of a group's members but one, and returns their number.
    pub(super) fn post_to_group(&self, name: &str, except: Option<ClientId>, frame: &Arc<[u8]>) -> usize {
        self.in_order(|| {
            let groups = self.read_groups();
            let mut members = 0;
            let others =
                groups.members(name).filter(|(id, client)| Some(*id) != except && client.is_member());
            let wakers =
                others.inspect(|_| members += 1).filter_map(|(_, client)| client.post(frame)).collect();
            (wakers, members)
        })
    }

    /// Puts a client into a group, unless it has ended. That is asked while the groups are locked: a client leaves its groups after
    /// it has ended.
    pub(super) fn join_group(&self, name: &str, client: &Arc<Client<S>>) -> Result<(), JoinError> {
        let mut groups = self.write_groups();
        if client.is_member() { groups.join(name, client.id, client.clone()) } else { Ok(()) }
    }

    pub(super) fn leave_group(&self, name: &str, id: ClientId) -> bool {
        self.write_groups().leave(name, id)
    }

    /// Removes a client that has ended from its groups.
    pub(super) fn leave_groups(&self, id: ClientId) {
        self.write_groups().leave_all(id);
    }

    pub(super) fn groups_of(&self, id: ClientId) -> Vec<Arc<str>> {
        self.read_groups().of(id).cloned().collect()
    }

    pub(super) fn group_is_empty(&self, name: &str) -> bool {
        self.read_groups().members(name).next().is_none()
    }

    /// The members of a group.
    pub(super) fn group(&self, name: &str) -> Vec<Arc<Client<S>>> {
        let groups = self.read_groups();
        groups
            .members(name)
            .filter(|(_, client)| client.is_member())
            .map(|(_, client)| client.clone())
            .collect()
    }

    fn read_groups(&self) -> RwLockReadGuard<'_, Groups<ClientId, Arc<Client<S>>>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_groups(&self) -> RwLockWriteGuard<'_, Groups<ClientId, Arc<Client<S>>>> {
        self.groups.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts one event after the other. Clients are woken once the locks are released: a waker can run anything.
    fn in_order<T>(&self, post: impl FnOnce() -> (Vec<Waker>, T)) -> T {
        let one_at_a_time = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let posted = post();
        drop(one_at_a_time);
        wake(posted)
    }

    /// Makes all clients leave, and those that connect from now on.
    pub(super) fn stop(&self) {
        let mut clients = self.write();
        clients.stop();
    }

    /// Makes all clients leave once nothing of theirs is in flight, and those that connect from now on. Returns the number of this
    /// drain; a stopped server has none.
    pub(super) fn drain(&self) -> Option<u64> {
        let mut clients = self.write();
        match clients.door {
            Door::Open => {}
            Door::Draining(number) => return Some(number),
            Door::Stopped => return None,
        }
        clients.drains += 1;
        clients.door = Door::Draining(clients.drains);
        clients.by_id.values().for_each(|client| client.request_drain());
        Some(clients.drains)
    }

    /// Whether this drain goes on.
    pub(super) fn is_draining(&self, number: u64) -> bool {
        self.read().door == Door::Draining(number)
    }

    /// Stops if this drain goes on.
    pub(super) fn end_drain(&self, number: u64) {
        let mut clients = self.write();
        if clients.door == Door::Draining(number) {
            clients.stop();
        }
    }

    /// Whether new clients are accepted.
    pub(super) fn is_open(&self) -> bool {
        self.read().door == Door::Open
    }

    /// Accepts clients again after a stop. Returns whether it does: not while the server drains.
    pub(super) fn open(&self) -> bool {
        let mut clients = self.write();
        if let Door::Draining(_) = clients.door {
            return false;
        }
        clients.door = Door::Open;
        true
    }

    /// While this is held, no other thread can look at the clients.
    #[cfg(test)]
    pub(super) fn lock_clients(&self) -> impl Drop + '_ {
        self.write()
    }

    /// While this is held, nothing about the clients changes.
    #[cfg(test)]
    pub(super) fn freeze(&self) -> impl Drop + '_ {
        self.read()
    }
}

fn wake<T>((wakers, result): (Vec<Waker>, T)) -> T {
    wakers.into_iter().for_each(Waker::wake);
    result
}

impl<S> Clients<S> {
    fn identify(&mut self, client: &Arc<Client<S>>, identity: &Identity) {
        self.by_identity.entry(identity.shared_id()).or_default().insert(client.id, client.clone());
    }

    fn stop(&mut self) {
        self.door = Door::Stopped;
        self.by_id.values().for_each(|client| client.request_stop());
    }

    fn members(&self) -> impl Iterator<Item = &Arc<Client<S>>> {
        self.by_id.values().filter(|client| client.is_member())
    }
}
