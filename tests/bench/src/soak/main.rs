//! Runs mixed load against the real program for half an hour, or another time: `switchboard serve` is a separate process, and
//! its memory, descriptors, threads and data folder are read from `/proc`.
//!
//! The clients read and write, send invalid messages, exceed the rate limit, stop reading for seconds, and disconnect in the
//! middle of a frame, in the middle of a request, with a reset or properly; each is replaced by another. Each response must
//! belong to a request of its client, once, and have the right shape. Every client must receive every event once, in the same
//! order.
//!
//! `cargo run --release --manifest-path tests/bench/Cargo.toml --bin soak -- target/release/switchboard MINUTES CLIENTS`
//! (Linux). With `--attackers` after these, see [`attacked`]. The exit status is 1 if anything unexpected happened, if descriptors leaked, or if memory grew.

mod attacked;
mod client;
mod order;
mod shared;

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use client::{Client, PATIENCE};
use shared::{Soak, count};
use switchboard_bench::dice::Dice;
use switchboard_bench::program::{Folder, Holds, Program};
use switchboard_bench::wire::Failure;

/// Runs one client after another until the end.
async fn place(soak: Rc<Soak>, number: usize) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1) << 20);
    while !soak.ending.get() {
        if let Err(error) = life(&soak, number, &mut dice).await {
            soak.unexpected(&format!("client {number}: {error}"));
            sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn life(soak: &Rc<Soak>, number: usize, dice: &mut Dice) -> Result<(), Failure> {
    let connecting = timeout(PATIENCE, Client::connect(soak, number % 10 == 1));
    let mut client = connecting.await.map_err(|_| "no upgrade")??;
    client.keeps_chats = number == 0;
    let _connected = Connected::new(soak);
    loop {
        let pause = client.act(dice).await?;
        client.listen_until(Instant::now() + pause).await?;
        if soak.ending.get() {
            // Requests in flight are answered first.
            let deadline = Instant::now() + PATIENCE;
            while client.asked.len() as u64 + client.nameless > 0 && Instant::now() < deadline {
                client.listen_until(Instant::now() + Duration::from_millis(100)).await?;
            }
            if client.nameless > 0 {
                soak.unexpected("no answer to what is no message");
            }
            return client.close().await;
        }
        if !client.keeps_chats && dice.below(40) == 0 {
            count(&soak.left);
            return client.leave(dice).await;
        }
    }
}

/// Counts a client while it is connected.
struct Connected<'a>(&'a Soak);

impl<'a> Connected<'a> {
    fn new(soak: &'a Soak) -> Connected<'a> {
        soak.connected.set(soak.connected.get() + 1);
        Connected(soak)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connected.set(self.0.connected.get() - 1);
    }
}

const COLUMNS: [&str; 12] = [
    "seconds",
    "clients",
    "answers",
    "events",
    "limited",
    "invalid",
    "gone",
    "left",
    "UNEXPECTED",
    "MiB",
    "fds",
    "threads",
];

fn print_row(start: Instant, soak: &Soak, holds: &Holds) {
    let counted = [
        start.elapsed().as_secs(),
        soak.connected.get() as u64,
        soak.answered.get(),
        soak.events.get(),
        soak.rate_limited.get(),
        soak.invalid.get(),
        soak.gone.get(),
        soak.left.get(),
        soak.unexpected.get(),
    ];
    println!(
        "{} {:>10.1} {:>10} {:>10} {:>10}",
        counted.map(|number| format!("{number:>10}")).join(" "),
        holds.resident_kib as f64 / 1024.0,
        holds.descriptors,
        holds.threads,
        holds.data_kib
    );
}

fn median(mut kib: Vec<u64>) -> u64 {
    kib.sort_unstable();
    kib.get(kib.len() / 2).copied().unwrap_or_default()
}

/// Returns the number of descriptors without clients. The database opens some permanently on first use.
async fn at_rest(program: &Program, soak: &Rc<Soak>) -> Result<Holds, Failure> {
    let mut client = Client::connect(soak, false).await?;
    let mut out = Vec::new();
    for _ in 0..20 {
        client.request(&mut out, "chat:search", json!({"query": "lemon"}));
        client.request(&mut out, "settings:set", json!({"key": "theme", "value": "dark"}));
    }
    client.send(&out).await?;
    while !client.asked.is_empty() {
        client.listen_until(Instant::now() + Duration::from_millis(100)).await?;
    }
    let with_one = program.holds()?.descriptors;
    client.close().await?;
    wait_for_descriptors(program, with_one - 1).await
}

/// Waits until the number of descriptors is at most `most`, for at most the time of a response.
async fn wait_for_descriptors(program: &Program, most: usize) -> Result<Holds, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let holds = program.holds()?;
        if holds.descriptors <= most || Instant::now() > deadline {
            return Ok(holds);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn run(program: &Program, minutes: f64, clients: usize) -> Result<bool, Failure> {
    let soak = Rc::new(Soak {
        port: program.port,
        clients,
        connected: Cell::default(),
        answered: Cell::default(),
        events: Cell::default(),
        rate_limited: Cell::default(),
        invalid: Cell::default(),
        gone: Cell::default(),
        left: Cell::default(),
        unexpected: Cell::default(),
        ending: Cell::default(),
        chats: RefCell::default(),
        order: RefCell::default(),
    });
    let whole = Duration::from_secs_f64(minutes * 60.0);
    let interval = (whole / 20).max(Duration::from_secs(5));
    println!("{}    data KiB", COLUMNS.map(|name| format!("{name:>10}")).join(" "));
    let start = Instant::now();
    let before = at_rest(program, &soak).await?;
    print_row(start, &soak, &before);
    let mut places = JoinSet::new();
    for number in 0..clients {
        places.spawn_local(place(soak.clone(), number));
        // A few hundred a second: clients arrive gradually.
        sleep(Duration::from_millis(3)).await;
    }
    let mut resident = Vec::new();
    while start.elapsed() + interval / 2 < whole {
        sleep_until(start + interval * (resident.len() as u32 + 1)).await;
        let holds = program.holds()?;
        print_row(start, &soak, &holds);
        resident.push(holds.resident_kib);
    }
    soak.ending.set(true);
    while places.join_next().await.transpose()?.is_some() {}
    let after = wait_for_descriptors(program, before.descriptors).await?;
    print_row(start, &soak, &after);
    let third = resident.len() / 3;
    let [second, last] =
        [&resident[third..third * 2], &resident[third * 2..]].map(|part| median(part.to_vec()));
    let is_flat = last <= second + second / 20 + 1024;
    println!(
        "memory: median of the second third {:.1} MiB, of the last {:.1} MiB: {}; {:.1} MiB when all had gone, {:.1} before",
        second as f64 / 1024.0,
        last as f64 / 1024.0,
        if is_flat { "flat" } else { "GROWN" },
        after.resident_kib as f64 / 1024.0,
        before.resident_kib as f64 / 1024.0
    );
    let are_closed = after.descriptors <= before.descriptors;
    println!("descriptors: {} before, {} after", before.descriptors, after.descriptors);
    Ok(is_flat && are_closed && soak.unexpected.get() == 0)
}

fn main() -> Result<ExitCode, Failure> {
    let mut arguments: Vec<_> = std::env::args().skip(1).collect();
    let is_attackers = |argument: &String| argument == "--attackers" || argument.starts_with("--attackers=");
    let attackers = arguments.iter().position(is_attackers).map(|at| arguments.remove(at));
    let (path, minutes, clients) = match arguments.as_slice() {
        [path] => (path, 30.0, 1000),
        [path, minutes] => (path, minutes.parse()?, 1000),
        [path, minutes, clients] => (path, minutes.parse()?, clients.parse()?),
        _ => return Err("soak SWITCHBOARD [MINUTES [CLIENTS]] [--attackers[=KIND,...]]".into()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(attackers) = attackers {
        let kinds = attackers.split_once('=').map_or("", |(_, kinds)| kinds).split_terminator(',');
        let kinds = kinds.map(str::to_owned).collect();
        let is_well = LocalSet::new().block_on(&runtime, attacked::run(path, minutes, clients, kinds))?;
        return Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let program = Program::start(path, Folder::new()?, &[])?;
    let is_well = LocalSet::new().block_on(&runtime, run(&program, minutes, clients))?;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
