//! The server of one seed: what it was made with, who is connected, and what is expected of it.

mod checks;
mod events;
mod handlers;
mod kicks;
mod users;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::protocol::limits::Limits;
use switchboard::protocol::session::{Ending, MAX_INLINE_BYTES};
use switchboard::{ClientId, Config, Payload, Server};
use tokio::time::Instant;

use super::wire::Wire;
use crate::support::random::Rng;
use events::Room;
pub use events::{Marks, ROOMS, VIP};
pub use handlers::ADMIN;
pub use kicks::Kick;
pub use users::USERS;
use users::{Credential, Quota};

/// The token, in the worlds that have one.
pub const TOKEN: &str = "open sesame";
/// What a clock of whole milliseconds, and timers that are rounded up, can add.
pub const SLACK: Duration = Duration::from_millis(20);

/// How often each thing happened.
pub type Counts = BTreeMap<String, u64>;

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every client.
    Open,
    /// Those that know `Config::token`.
    Token,
    /// Those that an authenticator lets in.
    Users {
        /// Whether a client without a credential is let in to send one on channel `auth`.
        lets_in: bool,
    },
}

/// A client that the server has reported.
struct Member {
    /// The number of clients before it.
    number: usize,
    wire: Option<Wire>,
    joined: u32,
    left: u32,
    /// Who it is, in the worlds that have users.
    user: Option<u64>,
    /// Events sent to this client only.
    told: u64,
    /// What had been emitted when it connected.
    start: Marks,
    /// Bytes of events emitted to it.
    posted: u64,
    /// Since when its outbox is over the limit.
    over_limit_since: Option<Instant>,
    /// When each of its requests reached a handler.
    handled: Vec<Instant>,
    /// How the embedder closes it.
    kick: Option<Arc<Kick>>,
    /// The code and the reason of the server's close frame, as the client has read them.
    closed: Option<(u16, String)>,
    /// How the connection ended, as the server reports it.
    ending: Option<Ending>,
}

pub struct World {
    /// Whether there are thousands of clients.
    pub is_crowded: bool,
    pub server: Server,
    pub limits: Limits,
    pub access: Access,
    /// How long the authenticator can take.
    pub patience: Duration,
    members: Mutex<HashMap<ClientId, Member>>,
    everyone_told: AtomicU64,
    told_at_once: AtomicU64,
    /// The number of events for each user.
    mail: Mutex<HashMap<u64, u64>>,
    /// The events for several clients that each client got, in order.
    seen: Mutex<HashMap<ClientId, Vec<String>>>,
    rooms: Mutex<HashMap<String, Room>>,
    /// The clients in the group for which several threads emit.
    loud: Mutex<Vec<ClientId>>,
    /// Whether several threads emit at the same time.
    is_loud: bool,
    credentials: Mutex<Vec<Credential>>,
    /// The users that the authenticator refuses at present.
    suspended: Mutex<Vec<u64>>,
    /// The uses of the channel that has a limit of its own.
    quota: Quota,
    kicks: AtomicU64,
    /// The time after which no client starts anything new.
    quiet: Mutex<Option<Instant>>,
    /// Until when requests in flight end while the server stops.
    drains_until: OnceLock<Instant>,
    /// The number of responses that each connection expects.
    waits: Mutex<HashMap<usize, u64>>,
    /// Handlers that are running.
    running: Arc<AtomicU64>,
    pub counts: Mutex<Counts>,
    trace: Option<Mutex<Vec<String>>>,
    started: Instant,
    started_in_reality: std::time::Instant,
}

fn limits(rng: &mut Rng, is_crowded: bool, is_loud: bool) -> Limits {
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
        max_auth_attempts: rng.between(1, 5) as u32,
        expiry_notice: Duration::from_millis(rng.between(50, 1000)),
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
    limits
}

impl World {
    pub fn new(rng: &mut Rng, is_crowded: bool, traced: bool) -> Arc<World> {
        let is_loud = !is_crowded && rng.percent(20);
        let limits = limits(rng, is_crowded, is_loud);
        let access = match rng.below(100) {
            0..20 => Access::Token,
            20..60 if !is_crowded => Access::Users { lets_in: rng.percent(50) },
            _ => Access::Open,
        };
        let patience = Duration::from_millis(rng.between(100, 1000));
        Arc::new_cyclic(|world: &std::sync::Weak<World>| {
            let token = (access == Access::Token).then(|| TOKEN.to_owned());
            let mut config = Config { limits: limits.clone(), token, ..Config::default() };
            if limits.max_message_bytes > MAX_INLINE_BYTES {
                // Room for one or a few large messages, beyond what is free for each client.
                config.max_buffered_bytes = rng.between(10_000, 40_000) as usize;
                config.memory_timeout = Duration::from_millis(rng.between(50, 800));
            }
            config.max_groups_per_connection = rng.between(1, 4) as usize;
            config.max_groups = rng.between(2, 5) as usize;
            config.handshake_timeout = patience;
            config.max_authentications = rng.between(1, 8) as usize;
            let (joins, leaves) = (world.clone(), world.clone());
            let config = config
                .on_connection(move |id| joins.upgrade().iter().for_each(|world| world.joined(id)))
                .on_disconnection(move |id| leaves.upgrade().iter().for_each(|world| world.left(id)));
            World {
                is_crowded,
                server: Server::new(config),
                limits,
                access,
                patience,
                members: Mutex::default(),
                everyone_told: AtomicU64::new(0),
                told_at_once: AtomicU64::new(0),
                mail: Mutex::default(),
                seen: Mutex::default(),
                rooms: Mutex::default(),
                loud: Mutex::default(),
                is_loud,
                credentials: Mutex::default(),
                suspended: Mutex::default(),
                quota: Quota::new(rng),
                kicks: AtomicU64::new(0),
                quiet: Mutex::default(),
                drains_until: OnceLock::new(),
                waits: Mutex::default(),
                running: Arc::default(),
                counts: Mutex::default(),
                trace: traced.then(Mutex::default),
                started: Instant::now(),
                started_in_reality: std::time::Instant::now(),
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

    /// The time in the world, in ms.
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Credentials expire in Unix time, which goes on while the world's clock is paused. So expiry is known up to the time that
    /// the world has taken in reality.
    fn drift(&self) -> Duration {
        self.started_in_reality.elapsed() + SLACK
    }

    // The end.

    /// From now on no client starts anything new.
    pub fn fall_quiet(&self) {
        self.quiet.lock().unwrap().get_or_insert_with(Instant::now);
    }

    /// The server begins to drain.
    pub fn drains(&self, time: Duration) {
        self.drains_until.get_or_init(|| Instant::now() + time);
    }

    /// Until when the server lets requests in flight end, if it does.
    pub fn drains_until(&self) -> Option<Instant> {
        self.drains_until.get().copied()
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

    /// Changes what is known of a client.
    fn change<T>(&self, id: ClientId, change: impl FnOnce(&mut Member) -> T) -> T {
        let mut members = self.members.lock().unwrap();
        let number = members.len();
        change(members.entry(id).or_insert_with(|| Member::new(number)))
    }

    fn joined(&self, id: ClientId) {
        self.note(|| format!("{id} is here"));
        self.change(id, |member| member.joined += 1);
    }

    fn left(&self, id: ClientId) {
        self.note(|| format!("{id} has left"));
        let mut members = self.members.lock().unwrap();
        members.get_mut(&id).expect("a client that disconnects was connected").left += 1;
    }

    /// Assigns a connection to a client, so that what the server could send is known.
    pub fn met(&self, id: ClientId, wire: &Wire) {
        self.change(id, |member| member.wire = Some(wire.clone()));
    }

    /// A client has read the server's close frame, and had not closed before.
    pub fn was_closed(&self, id: ClientId, code: u16, reason: &str) {
        self.change(id, |member| member.closed = Some((code, reason.to_owned())));
    }

    /// The connected clients that this is true for, in the order in which they connected: ids differ from run to run.
    fn members_with(&self, is_meant: impl Fn(&ClientId, &Member) -> bool) -> Vec<ClientId> {
        let members = self.members.lock().unwrap();
        let connected =
            members.iter().filter(|(id, member)| member.joined > member.left && is_meant(id, member));
        let mut ids: Vec<_> = connected.map(|(id, member)| (member.number, *id)).collect();
        ids.sort_by_key(|(number, _)| *number);
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// An event with the time at which it is emitted.
    fn event(&self, mut content: Value) -> Payload {
        content["at"] = json!(self.now_ms());
        content.into()
    }
}

impl Member {
    fn new(number: usize) -> Member {
        Member {
            number,
            wire: None,
            joined: 0,
            left: 0,
            user: None,
            told: 0,
            start: Marks::default(),
            posted: 0,
            over_limit_since: None,
            handled: Vec::new(),
            kick: None,
            closed: None,
            ending: None,
        }
    }
}

/// Counts a running handler.
struct AtWork(Arc<AtomicU64>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
