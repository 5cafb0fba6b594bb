//! What a world emits: to all, to some, to groups and to users; and what each client has to get of it.

use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::Ordering;

use serde_json::json;
use switchboard::{ClientId, Connection, HandlerError, Payload};

use super::users::{USERS, identity_of};
use super::{Access, World};
use crate::support::random::Rng;

/// The groups that clients join and leave by request. The last is for some users only.
pub const ROOMS: [&str; 4] = ["room:1", "room:2", "room:3", VIP];
pub const VIP: &str = "vip";
/// A group that clients join when they connect.
pub const LOUD: &str = "loud";

/// What was emitted to a group, and to whom.
#[derive(Default)]
pub struct Room {
    pub emitted: u64,
    /// From which event to which each client is a member.
    stays: HashMap<ClientId, Vec<(u64, Option<u64>)>>,
    /// The events that are for all members but one.
    except: HashMap<u64, ClientId>,
}

/// How much was emitted until some time.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// To every client.
    pub everyone: u64,
    /// To this client only.
    pub told: u64,
    /// To its user.
    pub mail: u64,
    /// To each group.
    pub rooms: HashMap<String, u64>,
}

impl World {
    pub fn tell_everyone(&self) {
        let n = self.everyone_told.fetch_add(1, Ordering::Relaxed);
        let event = self.event(json!({"n": n}));
        self.post(&self.server.client_ids(), &event);
        self.server.emit("everyone", event);
    }

    /// Emits to the connections of a user.
    pub fn tell_user(&self, rng: &mut Rng) {
        let Access::Users { .. } = self.access else { return };
        let user = rng.below(USERS);
        let n = {
            let mut mail = self.mail.lock().unwrap();
            let told = mail.entry(user).or_default();
            *told += 1;
            *told - 1
        };
        let event = self.event(json!({"n": n, "user": user}));
        self.post(&self.members_with(|_, member| member.user == Some(user)), &event);
        self.server.emit_to_identity(&identity_of(user), "mail", event);
    }

    /// A client joins or leaves a group.
    pub(super) fn moves(&self, connection: &Connection, name: &str, joins: bool) -> Result<(), HandlerError> {
        let mut rooms = self.rooms.lock().unwrap();
        let room = rooms.entry(name.to_owned()).or_default();
        let stays = room.stays.entry(connection.id()).or_default();
        let is_in = stays.last().is_some_and(|(_, until)| until.is_none());
        if joins {
            connection.join(name)?;
            if !is_in {
                stays.push((room.emitted, None));
            }
        } else {
            assert!(connection.leave(name) == is_in || !connection.is_open(), "{name}: in it, or not");
            if let Some((_, until @ None)) = stays.last_mut() {
                *until = Some(room.emitted);
            }
        }
        let own = connection.groups().len();
        self.count(if joins { "joined" } else { "left" });
        assert!(own <= 4, "in {own} groups");
        Ok(())
    }

    /// Emits to a group, sometimes to all but one.
    pub fn tell_room(&self, rng: &mut Rng) {
        let name = rng.one_of(&ROOMS);
        let mut rooms = self.rooms.lock().unwrap();
        let room = rooms.entry(name.to_owned()).or_default();
        let event = self.event(json!({"room": name, "n": room.emitted}));
        let group = self.server.group(name);
        let members = group.connections();
        assert_eq!(group.count(), members.len());
        for member in &members {
            let stays = room.stays.get(&member.id()).expect("a member has joined");
            assert!(
                stays.last().is_some_and(|(_, until)| until.is_none()),
                "{} has left {name}",
                member.id()
            );
        }
        // In the order in which they connected: ids differ from run to run.
        let ids = self.members_with(|id, _| members.iter().any(|member| member.id() == *id));
        self.post(&ids, &event);
        let left_out = ids.get(rng.index(ids.len())).filter(|_| rng.percent(30));
        match left_out.and_then(|id| self.server.connection(*id)) {
            Some(connection) => {
                room.except.insert(room.emitted, connection.id());
                room.emitted += 1;
                group.emit_except(&connection, "room", event);
                self.count("left out");
            }
            None => {
                room.emitted += 1;
                group.emit("room", event);
            }
        }
    }

    /// The number of the next event of a group after these that a client has to get. `Some(end)` looks only at those before
    /// `end`.
    pub fn next_of_room(
        &self,
        id: ClientId,
        name: &str,
        after: Option<u64>,
        end: Option<u64>,
    ) -> Option<u64> {
        let rooms = self.rooms.lock().unwrap();
        let room = rooms.get(name)?;
        let from = after.map_or(0, |after| after + 1);
        let last = end.unwrap_or(room.emitted);
        let stays = room.stays.get(&id)?.iter();
        stays
            .flat_map(|(start, until)| from.max(*start)..until.unwrap_or(last).min(last))
            .find(|n| room.except.get(n) != Some(&id))
    }

    /// Whether a client is in the group for which several threads emit.
    pub fn is_in_loud(&self, id: ClientId) -> bool {
        self.loud.lock().unwrap().contains(&id)
    }

    /// In some worlds, emits from several threads at the same time, to all clients and to some.
    pub fn tell_at_once(&self, rng: &mut Rng) {
        if !self.is_loud {
            return;
        }
        self.count("told at once");
        let ids = self.members_with(|_, _| true);
        let threads = rng.between(2, 4);
        let events = rng.between(1, 60);
        let start = Barrier::new(threads as usize);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (mut rng, start, ids) = (rng.fork(), &start, &ids);
                scope.spawn(move || {
                    start.wait();
                    for _ in 0..events {
                        let n = self.told_at_once.fetch_add(1, Ordering::Relaxed);
                        let event = Payload::from(json!({"n": n}));
                        let some: Vec<_> = ids.iter().copied().filter(|_| rng.percent(70)).collect();
                        match rng.below(4) {
                            0 => self.server.emit("at-once", event),
                            1 => self.server.emit_to_many(&some, "at-once", event),
                            2 => {
                                let user = rng.below(USERS);
                                let event = json!({"n": n, "user": user});
                                self.server.emit_to_identity(&identity_of(user), "at-once", event);
                            }
                            _ => self.server.group(LOUD).emit("at-once", json!({"n": n, "group": LOUD})),
                        }
                    }
                });
            }
        });
    }

    /// A client got an event that others get too.
    pub fn saw(&self, id: ClientId, event: String) {
        if self.is_loud {
            self.seen.lock().unwrap().entry(id).or_default().push(event);
        }
    }

    /// Emits to some clients an event for that client only.
    pub fn tell_some(&self, rng: &mut Rng) {
        let mut ids = self.members_with(|_, _| true);
        let filler = "x".repeat(rng.below(400) as usize);
        ids.retain(|_| rng.percent(50));
        for id in ids {
            let n = self.change(id, |member| {
                member.told += 1;
                member.told - 1
            });
            let event = self.event(json!({"to": id.to_string(), "n": n, "filler": filler}));
            self.post(&[id], &event);
            match rng.below(3) {
                0 => self.server.emit_to(id, "you", event),
                1 => self.server.emit_to_many(&[id], "you", event),
                _ => self.server.connection(id).expect("it is connected").emit("you", event),
            }
        }
    }

    fn post(&self, ids: &[ClientId], event: &Payload) {
        let mut members = self.members.lock().unwrap();
        for id in ids {
            let member = members.get_mut(id).expect("only a reported client receives events");
            member.posted += event.as_str().map_or(0, str::len) as u64;
        }
    }

    /// What had been emitted when a client connected.
    pub fn start_of(&self, id: ClientId) -> Marks {
        self.change(id, |member| member.start.clone())
    }
}
