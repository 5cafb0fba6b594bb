//! Whole servers and their clients in simulated worlds. The server is the real one; bytes arrive late, in pieces,
//! or not at all; clients hurry, stall, send garbage and disconnect; handlers wait, fail and panic; the clock is paused
//! while any task can run. Every world has a seed that determines the clients' bytes, the delays and the faults.
//!
//! In every world:
//! - each request is answered once, or its client has disconnected;
//! - events arrive in order, without a gap, and at no client that its groups and its user do not allow to get them. A client
//!   that is closed by the embedder, or because the server stops, has got all events that were emitted before;
//! - two clients get the events that both get in the same order, also if several threads emit at the same time;
//! - the outbox stays within its limit, no rate window lets more requests pass, and the limit of a user is that of a naive count;
//! - silence ends a connection at its deadline;
//! - nothing comes to a client before the authenticator has let it in, and nothing after its close frame. What the client
//!   gets instead says what the authenticator has decided. A request is handled with the credential that was sent last before it;
//! - a credential of another user is refused, and changes nothing; one that expires is announced once, and ends the connection
//!   when it expires, not earlier;
//! - a client that is kicked gets the code and the reason, and is disconnected within the close timeout;
//! - each connect callback has one disconnect callback, with the code and the reason that the client has got, and no handler outlives
//!   its client.
//!
//! Two things do not follow from the seed: how threads that emit at the same time interleave, and the millisecond at which a
//! credential expires. Credentials expire in Unix time, and the world's clock is paused.
//!
//! `SIMULATION_SEEDS=10000 cargo test --profile fast --features client --test simulation` runs that many worlds,
//! `SIMULATION_SEED=7` one, and prints it with `-- --nocapture`.

mod client;
#[path = "../support/mod.rs"]
mod support;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use support::random::Rng;
use world::{Counts, World};

/// How many worlds there are without `SIMULATION_SEEDS`. In as many everything happens that must be reached.
const WORLDS: u64 = 400;
/// One world in this many has thousands of clients.
const CROWDED: u64 = 2500;
/// No response takes longer, however slow the network is.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Everything that happens in one world.
async fn play(world: Arc<World>, mut rng: Rng, clients: u64) {
    world.register();
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn(client::live(world.clone(), rng.fork()));
    }
    // Some worlds have many events.
    let at_once = if rng.percent(15) { rng.between(5, 30) } else { 1 };
    let kicks = rng.percent(40);
    let end = Instant::now() + Duration::from_millis(rng.between(500, 5000));
    while Instant::now() < end {
        sleep(Duration::from_millis(rng.between(1, 80))).await;
        match rng.below(24) {
            0..6 => world.tell_everyone(),
            6..12 => (0..at_once).for_each(|_| world.tell_some(&mut rng)),
            12 | 13 => world.tell_at_once(&mut rng),
            14..18 => (0..at_once).for_each(|_| world.tell_room(&mut rng)),
            18..21 => (0..at_once).for_each(|_| world.tell_user(&mut rng)),
            21 if kicks => {
                // What was emitted just before has not been collected yet.
                if rng.percent(60) {
                    world.tell_everyone();
                    world.tell_room(&mut rng);
                    world.tell_user(&mut rng);
                }
                world.kick_some(&mut rng);
            }
            _ => {}
        }
        look_after(&world, &mut tasks);
    }
    // Some servers are stopped under load, the others after all responses, or after those that are in flight.
    let is_patient = rng.percent(70);
    let is_drained = rng.percent(20);
    if is_drained {
        drain(&world, &mut rng).await;
    }
    world.fall_quiet();
    if is_patient && !is_drained {
        let started = Instant::now();
        while world.waiting() > 0 {
            assert!(started.elapsed() < LONGEST_WAIT, "{} responses are missing", world.waiting());
            sleep(Duration::from_millis(20)).await;
            look_after(&world, &mut tasks);
        }
    }
    world.note(|| "the server stops".to_owned());
    world.server.stop().await;
    sleep(Duration::from_secs(5)).await;
    look_after(&world, &mut tasks);
    tasks.shutdown().await;
    sleep(Duration::from_secs(5)).await;
    world.check_end();
}

/// Lets the requests in flight end while clients go on to send others.
async fn drain(world: &Arc<World>, rng: &mut Rng) {
    world.note(|| "the server drains".to_owned());
    world.count("drained");
    let time = Duration::from_millis(rng.between(1, 4000));
    world.drains(time);
    let server = world.server.clone();
    let draining = tokio::spawn(async move { server.drain(time).await });
    sleep(Duration::from_millis(rng.below(500))).await;
    world.fall_quiet();
    draining.await.expect("a drain ends");
}

/// Checks what must hold at all times, and whether a client has failed.
fn look_after(world: &World, tasks: &mut JoinSet<()>) {
    world.check();
    while let Some(ended) = tasks.try_join_next() {
        if let Err(error) = ended {
            resume_unwind(error.into_panic());
        }
    }
}

/// Runs one world, and returns how often each thing happened.
fn run(seed: u64, traced: bool) -> Counts {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let _inside = runtime.enter();
    let mut rng = Rng::new(seed);
    let is_crowded = seed % CROWDED == CROWDED - 1;
    let clients = if is_crowded { rng.between(1000, 2000) } else { rng.between(1, 6) };
    let world = World::new(&mut rng, is_crowded, traced);
    let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(play(world.clone(), rng, clients))));
    for line in world.trace() {
        println!("{line}");
    }
    if let Err(panic) = played {
        eprintln!(
            "this was world {seed}; to see it: SIMULATION_SEED={seed} cargo test --features client --test simulation -- --nocapture"
        );
        resume_unwind(panic);
    }
    world.counts.lock().unwrap().clone()
}

#[test]
fn every_world_keeps_every_invariant() {
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<&str>() != Some(&"asked to panic") {
            default_hook(panic);
        }
    }));
    if let Some(seed) = number("SIMULATION_SEED") {
        run(seed, true);
        return;
    }
    let seeds = number("SIMULATION_SEEDS").unwrap_or(WORLDS);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let mut total = Counts::new();
    std::thread::scope(|scope| {
        let worker = || {
            let mut counts = Counts::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return counts;
                }
                for (what, count) in run(seed, false) {
                    *counts.entry(what).or_default() += count;
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            for (what, count) in worker.join().unwrap_or_else(|panic| resume_unwind(panic)) {
                *total.entry(what).or_default() += count;
            }
        }
    });
    println!("{seeds} worlds:");
    for (what, count) in &total {
        println!("{count:>10}  {what}");
    }
    if seeds >= WORLDS {
        for what in REACHED {
            assert!(total.contains_key(what), "this never happened: {what}");
        }
    }
}

/// What must happen in some world. Otherwise the simulation no longer reaches it.
const REACHED: [&str; 75] = [
    "CONNECTION_CLOSED",
    "HANDLER_ERROR",
    "INVALID_MESSAGE",
    "RATE_LIMITED",
    "TIMEOUT",
    "UNAUTHORIZED",
    "UNKNOWN_CHANNEL",
    "answered",
    "custom",
    "Mute",
    "HalfClosed",
    "Silent",
    "Rude",
    "reset",
    "stalled",
    "told at once",
    "came back",
    "drained",
    "ended while the server drains",
    "refused while the server drains",
    "status 503",
    "closed by client",
    "client gave up",
    "event at-once",
    "event auth:expiring",
    "event everyone",
    "event mail",
    "event own",
    "event room",
    "event you",
    "event server:shutdown",
    "panic",
    "closed 1000 ",
    "closed 1000 kick",
    "closed 1001 idle timeout",
    "closed 1001 server stopping",
    "closed 1002 frame is not masked",
    "closed 1007 text is not UTF-8",
    "closed 1008 authentication timeout",
    "closed 1008 slow consumer",
    "closed 1008 too many wrong tokens",
    "closed 1009 message too big",
    "closed 1013 server out of memory for messages",
    "closed 4000 kick",
    "closed 4401 Token is wrong",
    "closed 4401 authentication timeout",
    "closed 4401 credential expired",
    "closed 4401 reason",
    "closed 4401 unauthorized",
    "closed 4403 forbidden",
    "closed 4403 kick",
    "closed 4403 suspended",
    "joined",
    "kick of a connection",
    "kick of a group",
    "kick of a user",
    "large",
    "left",
    "left out",
    "never",
    "quota",
    "quota used up",
    "recognised",
    "renewed",
    "renewal HANDLER_ERROR Internal error",
    "renewal RATE_LIMITED Too many requests",
    "renewal TIMEOUT Authentication took too long",
    "renewal UNAUTHORIZED credential expired",
    "renewal UNAUTHORIZED the credential is of another identity",
    "renewal UNAUTHORIZED unauthorized",
    "status 401",
    "status 403",
    "status 500",
    "status 503",
    "sign-out",
];
