//! The server of one seed, its handlers, and the invariants that it must keep.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::protocol::limits::Limits;
use switchboard::protocol::session::MAX_INLINE_BYTES;
use switchboard::{ClientId, Config, Connection, HandlerError, Payload, RequestContext, Server};
use tokio::time::{Instant, sleep};

use super::wire::Wire;
use crate::support::random::Rng;

/// The token, in the worlds that have one.
pub const TOKEN: &str = "open sesame";
/// What a clock of whole milliseconds, and timers that are rounded up, can add.
pub const SLACK: Duration = Duration::from_millis(20);

/// How often each thing happened.
pub type Counts = BTreeMap<String, u64>;

/// A client that the server has reported.
pub struct Member {
    /// The number of clients before it.
    number: usize,
    wire: Option<Wire>,
    joined: u32,
    left: u32,
    /// Events sent to this client only.
    told: u64,
    /// Bytes of events emitted to it.
    posted: u64,
    /// Since when its outbox is over the limit.
    over_limit_since: Option<Instant>,
    /// When each of its requests reached a handler.
    handled: Vec<Instant>,
}

/// The groups that clients join and leave by request.
pub const ROOMS: [&str; 3] = ["room:1", "room:2", "room:3"];
/// A group that clients join when they connect.
const LOUD: &str = "loud";

/// What was emitted to a group, and to whom.
#[derive(Default)]
struct Room {
    emitted: u64,
    /// From which event to which each client is a member.
    stays: HashMap<ClientId, Vec<(u64, Option<u64>)>>,
}

pub struct World {
    /// Whether there are thousands of clients.
    pub is_crowded: bool,
    pub server: Server,
    pub limits: Limits,
    pub has_token: bool,
    members: Mutex<HashMap<ClientId, Member>>,
    everyone_told: AtomicU64,
    told_at_once: AtomicU64,
    /// The events for several clients that each client got, in order.
    seen: Mutex<HashMap<ClientId, Vec<String>>>,
    rooms: Mutex<HashMap<String, Room>>,
    /// The clients in the group for which several threads emit.
    loud: Mutex<Vec<ClientId>>,
    /// Whether several threads emit at the same time.
    is_loud: bool,
    /// The time after which no client starts anything new.
    quiet: Mutex<Option<Instant>>,
    /// The number of responses that each connection expects.
    waits: Mutex<HashMap<usize, u64>>,
    /// Handlers that are running.
    running: Arc<AtomicU64>,
    pub counts: Mutex<Counts>,
    trace: Option<Mutex<Vec<String>>>,
    started: Instant,
}

/// Counts a running handler.
struct AtWork(Arc<AtomicU64>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl World {
    pub fn new(rng: &mut Rng, is_crowded: bool, traced: bool) -> Arc<World> {
        let is_loud = !is_crowded && rng.percent(20);
        let mut limits = Limits {
            max_message_bytes: match rng.percent(15) && !is_crowded {
                true => rng.between(100_000, 200_000),
                false => rng.between(600, 4000),
            } as usize,
            rate_max_requests: rng.between(3, 40) as u32,
            rate_window: Duration::from_millis(rng.between(50, 1000)),
            max_in_flight: rng.between(1, 6) as usize,
            handler_timeout: Duration::from_millis(rng.between(200, 2000)),
            ping_interval: rng.percent(80).then(|| Duration::from_millis(rng.between(200, 900))),
            idle_timeout: Duration::from_millis(rng.between(1000, 4000)),
            auth_timeout: Duration::from_millis(rng.between(100, 800)),
            close_timeout: Duration::from_millis(rng.between(100, 800)),
            max_outbox_bytes: rng.between(500, 8000) as usize,
            soft_outbox_bytes: rng.between(500, 8000) as usize,
            soft_outbox_timeout: Duration::from_millis(rng.between(200, 2000)),
            send_timeout: Duration::from_millis(rng.between(200, 2000)),
            ..Limits::default()
        };
        if limits.max_message_bytes > MAX_INLINE_BYTES {
            // Answers that find no room in the account are cut beyond this.
            limits.soft_outbox_bytes = 1 << 20;
        }
        if is_loud {
            // Threads emit while no client can read.
            (limits.max_outbox_bytes, limits.soft_outbox_bytes) = (1 << 20, 1 << 20);
        }
        let has_token = rng.percent(25);
        Arc::new_cyclic(|world: &std::sync::Weak<World>| {
            let token = has_token.then(|| TOKEN.to_owned());
            let mut config = Config { limits: limits.clone(), token, ..Config::default() };
            if limits.max_message_bytes > MAX_INLINE_BYTES {
                // Room for one or a few large messages, beyond what is free for each client.
                config.max_buffered_bytes = rng.between(10_000, 40_000) as usize;
                config.memory_timeout = Duration::from_millis(rng.between(50, 800));
            }
            config.max_groups_per_connection = rng.between(1, 4) as usize;
            config.max_groups = rng.between(2, 4) as usize;
            let (joins, leaves) = (world.clone(), world.clone());
            let config = config
                .on_connection(move |id| joins.upgrade().iter().for_each(|world| world.joined(id)))
                .on_disconnection(move |id| leaves.upgrade().iter().for_each(|world| world.left(id)));
            World {
                is_crowded,
                server: Server::new(config),
                limits,
                has_token,
                members: Mutex::default(),
                everyone_told: AtomicU64::new(0),
                told_at_once: AtomicU64::new(0),
                seen: Mutex::default(),
                rooms: Mutex::default(),
                loud: Mutex::default(),
                is_loud,
                quiet: Mutex::default(),
                waits: Mutex::default(),
                running: Arc::default(),
                counts: Mutex::default(),
                trace: traced.then(Mutex::default),
                started: Instant::now(),
            }
        })
    }

    pub fn count(&self, what: &str) {
        *self.counts.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    /// Prints what happens, if a single seed was chosen.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let at = self.started.elapsed().as_millis();
            trace.lock().unwrap().push(format!("{at:>6} ms  {}", what()));
        }
    }

    pub fn trace(&self) -> Vec<String> {
        self.trace.as_ref().map_or_else(Vec::new, |trace| trace.lock().unwrap().clone())
    }

    // The end.

    /// From now on no client starts anything new.
    pub fn fall_quiet(&self) {
        self.quiet.lock().unwrap().get_or_insert_with(Instant::now);
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet.lock().unwrap().is_some()
    }

    /// A connection expects this many responses.
    pub fn waits_for(&self, wire: &Wire, answers: u64) {
        self.waits.lock().unwrap().insert(wire.number(), answers);
    }

    /// Responses that are still expected.
    pub fn waiting(&self) -> u64 {
        self.waits.lock().unwrap().values().sum()
    }

    // Clients.

    fn joined(&self, id: ClientId) {
        self.note(|| format!("{id} is here"));
        let mut members = self.members.lock().unwrap();
        let number = members.len();
        members.entry(id).or_insert_with(|| Member::new(number)).joined += 1;
    }

    fn left(&self, id: ClientId) {
        self.note(|| format!("{id} has left"));
        let mut members = self.members.lock().unwrap();
        members.get_mut(&id).expect("a client that disconnects was connected").left += 1;
    }

    /// Assigns a connection to a client, so that what the server could send is known.
    pub fn met(&self, id: ClientId, wire: &Wire) {
        let mut members = self.members.lock().unwrap();
        let number = members.len();
        members.entry(id).or_insert_with(|| Member::new(number)).wire = Some(wire.clone());
    }

    // Handlers.

    fn handler<F, Fut>(self: &Arc<World>, channel: &'static str, handler: F)
    where
        F: Fn(Value, RequestContext, Server) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Payload, HandlerError>> + Send + 'static,
    {
        let world = Arc::downgrade(self);
        self.server.on_request(channel, move |payload: Payload, cx: RequestContext| {
            let world = world.upgrade().expect("the world outlives its requests");
            world.count(channel);
            world.running.fetch_add(1, Ordering::Relaxed);
            if let Some(member) = world.members.lock().unwrap().get_mut(&cx.client_id) {
                member.handled.push(Instant::now());
            }
            let at_work = AtWork(world.running.clone());
            let server = cx.server();
            let answer = handler(payload.parse().unwrap_or_default(), cx, server);
            async move {
                let result = answer.await;
                drop(at_work);
                result
            }
        });
    }

    pub fn register(self: &Arc<World>) {
        self.handler("echo", |payload, _, _| async move { Ok(payload.into()) });
        self.handler("wait", |payload, _, _| async move {
            sleep(Duration::from_millis(payload["ms"].as_u64().unwrap_or(1))).await;
            Ok(payload.into())
        });
        self.handler("fail", |_, _, _| async { Err(HandlerError::new("asked to fail")) });
        self.handler("panic", |payload, _, _| async move {
            if payload["ms"].is_u64() {
                sleep(Duration::from_millis(payload["ms"].as_u64().unwrap_or(1))).await;
            }
            panic!("asked to panic")
        });
        self.handler("never", |_, _, _| std::future::pending());
        self.handler("big", |payload, _, _| async move {
            let bytes = payload["bytes"].as_u64().unwrap_or(1) as usize;
            Ok(Value::from("x".repeat(bytes)).into())
        });
        // Events to the client that asks, in order, all before the response.
        self.handler("own", |payload, cx, _| async move {
            for n in 0..payload["events"].as_u64().unwrap_or(0) {
                if payload["pauses"] == true {
                    sleep(Duration::from_millis(1)).await;
                }
                let event = Payload::from(json!({"of": payload["name"], "n": n}));
                cx.emit("own", event);
            }
            Ok(payload.into())
        });
        for (channel, joins) in [("join", true), ("leave", false)] {
            let world = Arc::downgrade(self);
            self.handler(channel, move |payload, cx, _| {
                let world = world.upgrade().expect("the world outlives its requests");
                let room = payload["room"].as_str().unwrap_or_default().to_owned();
                let moved = world.moves(&cx.connection(), &room, joins);
                async move { moved.map(|()| Payload::none()) }
            });
        }
        let world = Arc::downgrade(self);
        self.server.on_connection(move |connection| {
            let world = world.upgrade().expect("the world outlives its clients");
            if world.is_loud && connection.id().as_bytes()[0] & 1 == 0 && connection.join(LOUD).is_ok() {
                world.loud.lock().unwrap().push(connection.id());
            }
        });
        let world = Arc::downgrade(self);
        self.handler("all", move |_, _, _| {
            let world = world.upgrade().expect("the world outlives its requests");
            async move {
                world.tell_everyone();
                Ok(Payload::none())
            }
        });
    }

    // Events from the server.

    pub fn tell_everyone(&self) {
        let n = self.everyone_told.fetch_add(1, Ordering::Relaxed);
        let event = Payload::from(json!({"n": n}));
        self.post(&self.server.client_ids(), &event);
        self.server.emit("everyone", event);
    }

    /// A client joins or leaves a group.
    fn moves(&self, connection: &Connection, name: &str, joins: bool) -> Result<(), HandlerError> {
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
        let event = Payload::from(json!({"room": name, "n": room.emitted}));
        room.emitted += 1;
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
        self.post(&members.iter().map(Connection::id).collect::<Vec<_>>(), &event);
        group.emit("room", event);
    }

    /// The number of the next event of a group after these that a client has to get.
    pub fn next_of_room(&self, id: ClientId, name: &str, after: Option<u64>) -> Option<u64> {
        let rooms = self.rooms.lock().unwrap();
        let room = rooms.get(name)?;
        let from = after.map_or(0, |after| after + 1);
        let stays = room.stays.get(&id)?.iter();
        stays
            .map(|(start, end)| (from.max(*start), end.unwrap_or(room.emitted)))
            .find(|(n, end)| n < end)
            .map(|(n, _)| n)
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
        let mut ids = self.server.client_ids();
        ids.sort_by_key(|id| self.members.lock().unwrap().get(id).map(|member| member.number));
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
                        match rng.below(3) {
                            0 => self.server.emit("at-once", event),
                            1 => self.server.emit_to_many(&some, "at-once", event),
                            _ => self.server.group(LOUD).emit("at-once", json!({"n": n, "group": LOUD})),
                        }
                    }
                });
            }
        });
    }

    /// A client got an event that others get too.
    pub fn saw(&self, id: ClientId, channel: &str, n: u64) {
        if self.is_loud {
            self.seen.lock().unwrap().entry(id).or_default().push(format!("{channel} {n}"));
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

    /// Emits to some clients an event for that client only.
    pub fn tell_some(&self, rng: &mut Rng) {
        let mut ids = self.server.client_ids();
        // Ids differ from run to run, the order of connecting does not.
        ids.sort_by_key(|id| self.members.lock().unwrap().get(id).map(|member| member.number));
        let filler = "x".repeat(rng.below(400) as usize);
        ids.retain(|_| rng.percent(50));
        for id in ids {
            let n = {
                let mut members = self.members.lock().unwrap();
                let member = members.get_mut(&id).expect("only a reported client receives events");
                member.told += 1;
                member.told - 1
            };
            let event = Payload::from(json!({"to": id.to_string(), "n": n, "filler": filler}));
            self.post(&[id], &event);
            match rng.percent(50) {
                true => self.server.emit_to(id, "you", event),
                false => self.server.emit_to_many(&[id], "you", event),
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

    // Invariants.

    /// At all times: a client whose outbox is over the limit is disconnected within the close timeout.
    pub fn check_memory(&self) {
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

    /// How many requests of a client have reached a handler.
    pub fn handled(&self, id: ClientId) -> usize {
        self.members.lock().unwrap().get(&id).map_or(0, |member| member.handled.len())
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

    /// What holds when every client has disconnected.
    pub fn check_end(&self) {
        assert_eq!(self.server.client_count(), 0, "clients after the end");
        assert_eq!(self.running.load(Ordering::Relaxed), 0, "handlers after the end");
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
        }
    }
}

impl Member {
    fn new(number: usize) -> Member {
        Member {
            number,
            wire: None,
            joined: 0,
            left: 0,
            told: 0,
            posted: 0,
            over_limit_since: None,
            handled: Vec::new(),
        }
    }
}
