//! Clients that the embedder closes: one, all of a user, or all of a group.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use switchboard::{ClientId, Connection};
use tokio::time::Instant;

use super::events::{Marks, ROOMS};
use super::users::{USERS, identity_of};
use super::{Access, World};
use crate::support::random::Rng;

/// How the embedder has closed a client.
#[derive(Debug)]
pub struct Kick {
    /// What the client must get.
    pub code: u16,
    pub reason: String,
    pub(super) at: Instant,
    /// What had been emitted until then: all of it comes before the close frame.
    pub until: Marks,
    /// The request whose handler did it. Its response comes before the close frame.
    pub request: Option<String>,
}

impl World {
    /// Closes some clients.
    pub fn kick_some(&self, rng: &mut Rng) {
        let (code, reason) = self.new_kick(rng);
        let kind = rng.below(3);
        match kind {
            0 => {
                if let Some(connection) = self.any_connection(rng) {
                    self.kicked(&[connection.id()], code, &reason, None);
                    connection.close(code, &reason);
                    self.count("kick of a connection");
                }
            }
            1 => {
                let room = self.server.group(rng.one_of(&ROOMS));
                let ids: Vec<_> = room.connections().iter().map(Connection::id).collect();
                self.kicked(&ids, code, &reason, None);
                room.close(code, &reason);
                self.count_if(!ids.is_empty(), "kick of a group");
            }
            _ => {
                let user = rng.below(USERS);
                if let Access::Users { .. } = self.access {
                    self.suspend(user, rng.percent(50));
                }
                let ids = self.members_with(|_, member| member.user == Some(user));
                self.kicked(&ids, code, &reason, None);
                let closed = self.server.disconnect_identity(&identity_of(user), code, &reason);
                assert_eq!(closed, ids.len(), "the connections of user {user}");
                self.count_if(!ids.is_empty(), "kick of a user");
            }
        }
    }

    fn count_if(&self, has_happened: bool, what: &str) {
        if has_happened {
            self.count(what);
        }
    }

    fn any_connection(&self, rng: &mut Rng) -> Option<Connection> {
        let ids = self.members_with(|_, _| true);
        let id = ids.get(rng.index(ids.len()))?;
        Some(self.server.connection(*id).expect("a client that has connected and not disconnected"))
    }

    /// A code and a reason that no other close frame has.
    pub(super) fn new_kick(&self, rng: &mut Rng) -> (u16, String) {
        let number = self.kicks.fetch_add(1, Ordering::Relaxed);
        let filler = if rng.percent(10) { "é".repeat(100) } else { String::new() };
        (rng.one_of(&[4000, 4001, 4403, 3000, 1008, 1006]), format!("kick {number}{filler}"))
    }

    /// Notes that clients are closed now.
    pub(super) fn kicked(&self, ids: &[ClientId], code: u16, reason: &str, request: Option<String>) {
        for id in ids {
            self.note(|| format!("{id} is kicked with {code} {reason}"));
            let (at, until) = (Instant::now(), self.marks(*id));
            // 1006 cannot be sent.
            let code = if code == 1006 { 1000 } else { code };
            let kick = Kick { code, reason: cut(reason), at, until, request: request.clone() };
            self.change(*id, |member| member.kick.get_or_insert(Arc::new(kick)).clone());
        }
    }

    /// How a client was closed, if it was.
    pub fn kick_of(&self, id: ClientId) -> Option<Arc<Kick>> {
        self.change(id, |member| member.kick.clone())
    }

    /// What has been emitted for a client until now.
    pub fn marks(&self, id: ClientId) -> Marks {
        let rooms: HashMap<_, _> = {
            let rooms = self.rooms.lock().unwrap();
            rooms.iter().map(|(name, room)| (name.clone(), room.emitted)).collect()
        };
        let (user, told) = self.change(id, |member| (member.user, member.told));
        let mail = user.map_or(0, |user| self.mail.lock().unwrap().get(&user).copied().unwrap_or_default());
        Marks { everyone: self.everyone_told.load(Ordering::Relaxed), told, mail, rooms }
    }
}

/// A reason as a close frame has it: at most 123 bytes of whole characters.
fn cut(reason: &str) -> String {
    let mut cut = String::new();
    for letter in reason.chars() {
        if cut.len() + letter.len_utf8() > 123 {
            break;
        }
        cut.push(letter);
    }
    cut
}
