//! A client of one seed: the client's machine on a simulated connection. It acts at random and
//! checks every message that it receives.

mod acting;
mod arriving;
mod hearing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use switchboard::ClientId;
use switchboard::protocol::backoff::{Backoff, Ending};
use switchboard::protocol::caller::{Caller, CallerLimits, Due};
use switchboard::protocol::connection::Connection;
use switchboard::protocol::session::MAX_INLINE_BYTES;
use switchboard::protocol::time::{Millis, Now};
use switchboard::protocol::uuid::Uuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep, sleep_until};

use super::wire::{End, Weather, Wire};
use super::world::{Access, USERS, World};
use crate::support::random::Rng;
use crate::support::socket::serve_hyper;
use arriving::{Answer, Arrival};

/// The mask of every frame. Its value does not matter.
fn mask() -> [u8; 4] {
    [0x3d, 0x00, 0xff, 0x81]
}

/// How a client ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It continues as long as the connection does.
    Stays,
    /// It has started the close handshake.
    Closing,
    /// It sends nothing more, not even pongs, but reads.
    Mute,
    /// It has closed its half of the connection.
    HalfClosed,
    /// The connection is dead, and neither end was notified.
    Silent,
    /// It has broken the protocol.
    Rude,
}

/// A request without a response yet.
struct Asked {
    channel: &'static str,
    /// The channel of its events, and how many are still expected.
    own: Option<(u64, u64)>,
    /// The number of credentials that were sent before it.
    after: usize,
}

/// A credential that was sent on this connection.
struct Sent {
    number: usize,
    /// The request on channel `auth`; `None` for the one of the upgrade.
    request: Option<Uuid>,
    is_accepted: bool,
    /// Whether `auth:expiring` came for it.
    is_announced: bool,
}

struct Talk {
    /// Whether it sends messages that are decoded apart.
    sends_large: bool,
    world: Arc<World>,
    rng: Rng,
    wire: Wire,
    started: Instant,
    caller: Caller,
    /// Reads the same bytes as the caller, and reports every message.
    shadow: Connection,
    manner: Manner,
    /// Whether it sends only requests for handlers, so that the rate window can be computed.
    is_plain: bool,
    /// Whether it has offered `switchboard.v1`.
    is_v1: bool,
    id: Option<ClientId>,
    is_authenticated: bool,
    /// The close frame that comes instead of the first message.
    refusal: Option<(u16, String)>,
    /// Who it wants to be, in the worlds that have users.
    user: u64,
    /// Who it is.
    identity: Option<u64>,
    credentials: Vec<Sent>,
    /// When it sends another credential.
    renews_at: Option<Instant>,
    asked: HashMap<Uuid, Asked>,
    names: u64,
    /// Responses of handlers, and of the server instead of a handler.
    handled: usize,
    /// Those of them that are `CONNECTION_CLOSED`.
    unfinished: usize,
    /// Messages without the id of a call that have no response yet.
    hostile: u64,
    /// Answers with `RATE_LIMITED`.
    refused: u64,
    wrong_tokens: u64,
    next_for_everyone: Option<u64>,
    next_for_user: Option<u64>,
    next_for_you: u64,
    /// The last event of each group.
    last_of_room: HashMap<String, u64>,
    shutting_down: bool,
    /// The close frame that must come next.
    must_close: Option<(u16, String)>,
    closed: Option<(Option<u16>, String)>,
    out: Vec<u8>,
}

/// Connects, talks, disconnects and reconnects, until the world ends.
pub async fn live(world: Arc<World>, mut rng: Rng) {
    let mut backoff = Backoff::new(Duration::from_millis(100), 4, Duration::ZERO);
    let user = rng.below(USERS);
    sleep(Duration::from_millis(rng.below(300))).await;
    while !world.is_quiet() {
        if talk(&world, rng.fork(), user).await {
            backoff.handle_connected(Millis::default());
            backoff.handle_end(Millis::default(), Ending::Lost, false);
        }
        let Some(pause) = backoff.next_delay(rng.next() as u32) else { return };
        sleep(pause).await;
        world.count("came back");
    }
}

/// One connection, from its upgrade to its end. Returns whether the server has answered.
async fn talk(world: &Arc<World>, mut rng: Rng, user: u64) -> bool {
    let weather = Weather {
        max_delay_ms: rng.one_of(&[0, 0, 1, 5, 40]),
        capacity: rng.one_of(&[300, 2000, 64_000]),
        max_piece: rng.one_of(&[1, 7, 200, 200, 5000, 5000, 100_000, 100_000]),
    };
    let (wire, near, far) = Wire::new(weather, &mut rng);
    let server = world.server.clone();
    tokio::spawn(serve_hyper(server, far));
    let (mut reader, mut writer) = tokio::io::split(near);
    let arrival = Arrival::new(world, &mut rng, user);
    if writer.write_all(arrival.request.as_bytes()).await.is_err() {
        return false;
    }
    let Some(answer) = arrival.answer(world, &mut reader).await else { return false };
    let Answer::Upgraded { refusal, is_authenticated } = answer else { return true };

    let started = Instant::now();
    let limits = CallerLimits {
        ping_interval: Duration::from_millis(rng.between(300, 2000)),
        // A client without timeouts notices late errors that the others would miss.
        idle_timeout: Duration::from_millis(if rng.percent(50) {
            86_400_000
        } else {
            rng.between(2500, 6000)
        }),
        close_timeout: Duration::from_millis(500),
        ..CallerLimits::default()
    };
    let sent = |number| Sent { number, request: None, is_accepted: is_authenticated, is_announced: false };
    let is_plain = rng.percent(50);
    let talk = Talk {
        sends_large: world.limits.max_message_bytes > MAX_INLINE_BYTES && weather.max_piece >= 5000,
        world: world.clone(),
        wire,
        started,
        caller: Caller::new(limits, mask, Millis(0)),
        shadow: Connection::client(usize::MAX, mask),
        manner: Manner::Stays,
        is_plain,
        is_v1: arrival.is_v1,
        id: None,
        is_authenticated,
        refusal,
        user,
        identity: arrival.credential.filter(|_| is_authenticated).map(|(_, user)| user),
        credentials: arrival.credential.map(|(number, _)| sent(number)).into_iter().collect(),
        renews_at: None,
        asked: HashMap::new(),
        names: 0,
        handled: 0,
        unfinished: 0,
        hostile: 0,
        refused: 0,
        wrong_tokens: 0,
        next_for_everyone: None,
        next_for_user: None,
        next_for_you: 0,
        last_of_room: HashMap::new(),
        shutting_down: false,
        must_close: None,
        closed: None,
        out: Vec::new(),
        rng,
    };
    talk.run(reader, writer).await;
    true
}

impl Talk {
    fn now(&self) -> Now {
        let at = Millis(self.started.elapsed().as_millis() as u64);
        Now { at, unix_ms: at.0 }
    }

    fn name(&self) -> String {
        self.id.map_or("a new client".to_owned(), |id| id.to_string())
    }

    async fn run(mut self, mut reader: ReadHalf<End>, mut writer: WriteHalf<End>) {
        let mut buffer = vec![0; 4096];
        let mut next_act = Instant::now();
        let mut deaf_until = Instant::now();
        loop {
            let now = Instant::now();
            let is_quiet = self.world.is_quiet();
            if now >= next_act && !is_quiet {
                deaf_until = deaf_until.max(now + self.act());
                let pause = if self.world.is_crowded { 8000 } else { 400 };
                next_act = now + Duration::from_millis(self.rng.between(1, pause));
            }
            if self.renews_at.is_some_and(|at| now >= at) && !is_quiet {
                self.renew();
            }
            self.say_what_waits();
            if self.manner == Manner::Silent {
                // The client is gone. Its connection stays open until the world ends.
                return std::future::pending().await;
            }
            if self.handle_deadline() || self.caller.is_finished() && self.out.is_empty() {
                break;
            }
            if self.manner == Manner::HalfClosed {
                let _ = writer.shutdown().await;
            }
            if matches!(self.manner, Manner::Mute | Manner::HalfClosed) {
                self.out.clear();
            }
            let mut wake = self.started + Duration::from_millis(self.caller.deadline().0.min(1 << 32));
            let is_deaf = now < deaf_until && !is_quiet;
            if !is_quiet {
                wake = wake.min(next_act).min(self.renews_at.unwrap_or(next_act));
            }
            tokio::select! {
                biased;
                sent = writer.write(&self.out), if !self.out.is_empty() => match sent {
                    Ok(sent) => drop(self.out.drain(..sent)),
                    Err(_) => break,
                },
                read = reader.read(&mut buffer), if !is_deaf => match read {
                    Ok(0) | Err(_) => break,
                    Ok(count) => self.take(&mut buffer[..count]),
                },
                () = sleep_until(wake.max(now + Duration::from_millis(1))) => {}
            }
        }
        self.end();
    }

    /// Reports to the world how many responses are expected.
    fn say_what_waits(&self) {
        let waits = match self.manner {
            Manner::Stays if self.caller.is_open() => self.asked.len() as u64 + self.hostile,
            _ => 0,
        };
        self.world.waits_for(&self.wire, waits);
    }

    /// The caller's deadlines. Returns whether the connection must be cut.
    fn handle_deadline(&mut self) -> bool {
        let now = self.now();
        if now.at < self.caller.deadline() {
            return false;
        }
        match self.caller.handle_deadline(now, &mut self.out) {
            Some(Due::Expired((id, error))) => {
                panic!("{}: no response to {id}, which has no timeout: {error}", self.name());
            }
            Some(Due::Cut) => {
                self.world.count("client gave up");
                true
            }
            None => false,
        }
    }

    fn end(&self) {
        self.world.note(|| format!("{}'s connection is over", self.name()));
        self.world.waits_for(&self.wire, 0);
        if let Some(id) = self.id.filter(|_| self.is_plain && self.world.access == Access::Open) {
            self.world.check_rate(id);
        }
    }
}
