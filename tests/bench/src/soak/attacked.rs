//! The soak with attackers: clients that behave well, in phases without and with an attacker of each kind beside them. All attackers
//! run at the same time, each at a rate that leaves time of two cores: what is measured is what the server gives to whom, not how
//! fast the machine is.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use serde_json::json;
use switchboard_bench::attackers::memory::{Ballast, in_flight, unfinished};
use switchboard_bench::attackers::places::{Origin, heads, strangers, tokens};
use switchboard_bench::attackers::{Target, fill_chat, floods, order, pages, prepared, shown, work};
use switchboard_bench::others::{Class, Habits, Others, Sample, summarise};
use switchboard_bench::program::{Folder, Program, resident_mib};
use switchboard_bench::wire::{Failure, LOCALHOST};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

const TOKEN: &str = "soak-with-attackers-0123456789";
const PHASE: Duration = Duration::from_secs(60);
const SHORTEST_PHASE: Duration = Duration::from_secs(20);
/// The time in which attackers finish what they have begun, and the server forgets them.
const BREAK: Duration = Duration::from_secs(10);
/// Messages of a chat that an attacker deletes.
const DELETED: usize = 30_000;

/// What the attackers of one phase know.
struct Prey {
    target: Target,
    /// The chat that one of them deletes.
    chat: String,
    /// The page that one of them asks for.
    page: String,
    length: Duration,
    /// The attackers that run; empty for all.
    kinds: Vec<String>,
}

type Attack = Pin<Box<dyn Future<Output = Result<String, Failure>>>>;

/// An attacker of each kind, for one phase.
fn attackers(prey: &Prey) -> Vec<(&'static str, Attack)> {
    let length = prey.length;
    let of = |number| prey.target.for_another(number);
    let t = std::array::from_fn::<_, 14, _>(|number| of(number as u8 + 1));
    let [burst, search, delete, slow, few, many, flight, over, before, flood, again, tell, guess, idle] = t;
    let (chat, page) = (prey.chat.clone(), prey.page.clone());
    let every = |seconds| Duration::from_secs(seconds);
    vec![
        (
            "burst",
            repeated(length, every(15), move |round| {
                let target = burst.clone();
                Box::pin(async move { work::settings_burst(&target, round, 50).await })
            }),
        ),
        ("search", Box::pin(async move { work::search(&search, 10, length).await })),
        ("delete", Box::pin(async move { work::delete(&delete, &chat).await })),
        ("heads", Box::pin(async move { heads_for(&slow, length).await })),
        (
            "strangers",
            repeated(length, every(15), move |_| {
                let target = few.clone();
                Box::pin(async move { unfinished(&target, &[]).await })
            }),
        ),
        ("places", Box::pin(async move { strangers(&many, 300, every(1), length).await })),
        (
            "inflight",
            repeated(length, every(10), move |_| {
                let target = flight.clone();
                Box::pin(async move { in_flight(&target, 1, 10, Ballast::Payload, &[]).await })
            }),
        ),
        ("escapes", Box::pin(async move { work::escapes(&over, false, 1, length).await })),
        ("escapes-before", Box::pin(async move { work::escapes(&before, true, 1, length).await })),
        ("refused", Box::pin(async move { floods::refused(&flood, every(1), length).await })),
        ("reconnect", Box::pin(async move { floods::reconnect(&again, every(1) / 5, length).await })),
        ("order", Box::pin(async move { order::order(&tell, 2, length).await })),
        ("tokens", Box::pin(async move { tokens(&guess, length.as_secs() as usize * 10, every(1)).await })),
        ("pages", Box::pin(async move { pages::pages(&idle, &page, length).await })),
    ]
}

/// Repeats an attack that ends by itself. Returns its last report.
fn repeated(length: Duration, pause: Duration, attack: impl Fn(usize) -> Attack + 'static) -> Attack {
    Box::pin(async move {
        let end = Instant::now() + length;
        let mut round = 0;
        loop {
            let next = Instant::now() + pause;
            let report = attack(round).await?;
            round += 1;
            if next >= end {
                return Ok(format!("{round} times, at last {report}"));
            }
            sleep_until(next).await;
        }
    })
}

async fn heads_for(target: &Target, length: Duration) -> Result<String, Failure> {
    let end = Instant::now() + length;
    loop {
        let report = heads(target, Origin::One, 1100, Duration::from_secs(1)).await?;
        if Instant::now() >= end {
            return Ok(report);
        }
    }
}

/// What is in the database, and in the folder, before the soak.
struct Prepared {
    folder: Folder,
    chat: String,
    deleted: Vec<String>,
}

async fn prepare(path: &str, phases: usize) -> Result<Prepared, Failure> {
    let prepare = async |target: &Target| {
        let mut socket = target.connect(LOCALHOST).await?;
        let chat = socket.call("chat:create", &json!({"title": "of the others"})).await?;
        fill_chat(target, 3000, 3900).await?;
        let mut deleted = Vec::new();
        for _ in 0..phases {
            deleted.push(fill_chat(target, DELETED, 200).await?);
        }
        Ok((chat["id"].as_str().unwrap_or_default().to_owned(), deleted))
    };
    let (folder, (chat, deleted)) = prepared(path, Folder::new()?, prepare).await?;
    Ok(Prepared { folder, chat, deleted })
}

/// Runs attackers until they end. Returns what they saw.
async fn run_attackers(prey: &Prey) -> Result<Vec<String>, Failure> {
    let mut running = JoinSet::new();
    let is_wanted = |kind: &str| prey.kinds.is_empty() || prey.kinds.iter().any(|wanted| wanted == kind);
    for (kind, attack) in attackers(prey).into_iter().filter(|(kind, _)| is_wanted(kind)) {
        running.spawn_local(async move {
            let report = attack.await.unwrap_or_else(|error| format!("ended: {error}"));
            format!("{kind}: {report}")
        });
    }
    let mut reports = Vec::new();
    while let Some(report) = running.join_next().await.transpose()? {
        reports.push(report);
    }
    reports.sort();
    Ok(reports)
}

/// One phase. Returns its samples' limits in time and the most memory.
async fn phase(
    process: u32,
    attack: Option<&Prey>,
    length: Duration,
) -> Result<(Phase, Vec<String>), Failure> {
    let start = Instant::now();
    let mut most = 0.0;
    let mut watch = Box::pin(async {
        loop {
            most = f64::max(most, resident_mib(process).unwrap_or_default());
            sleep(Duration::from_millis(200)).await;
        }
    });
    let run = async {
        let Some(prey) = attack else { return Ok(Vec::new()) };
        run_attackers(prey).await
    };
    let reports = tokio::select! {
        reports = async { let (reports, ()) = tokio::join!(run, sleep(length)); reports } => reports?,
        () = &mut watch => Vec::new(),
    };
    drop(watch);
    let is_attacked = attack.is_some();
    Ok((Phase { start, end: Instant::now(), is_attacked, most_mib: most }, reports))
}

struct Phase {
    start: Instant,
    end: Instant,
    is_attacked: bool,
    most_mib: f64,
}

fn print_row(name: &str, samples: &[Sample], mib: f64, most: f64) {
    let [all, reads, writes] =
        [None, Some(Class::Read), Some(Class::Write)].map(|class| summarise(samples, class));
    println!(
        "| {name} | {} | {} | {} · {} | {} · {} | {} | {} | {} | {mib:.0} | {most:.0} |",
        all.requests,
        shown(all.p50),
        shown(reads.p99),
        shown(reads.worst),
        shown(writes.p99),
        shown(writes.worst),
        all.errors,
        all.lost,
        shown(all.lag)
    );
}

/// Runs phases for so long, with the attackers of these kinds, or all. Returns whether the clients that behave well had no
/// errors.
pub async fn run(path: &str, minutes: f64, clients: usize, kinds: Vec<String>) -> Result<bool, Failure> {
    let whole = Duration::from_secs_f64(minutes * 60.0);
    let length = (whole / 4).clamp(SHORTEST_PHASE, PHASE);
    let pairs = (whole.as_secs_f64() / (length * 2 + BREAK).as_secs_f64()).round().max(1.0) as usize;
    let Prepared { folder, chat, deleted } = prepare(path, pairs).await?;
    let at: PathBuf = folder.path().to_owned();
    let token_file = at.join("token");
    std::fs::write(&token_file, TOKEN)?;
    let program = Program::start(path, folder, &["--token-file", &token_file.to_string_lossy()])?;
    let target = Target::of(&program, at, Some(TOKEN));
    let page = pages::large_page(&target).await?;
    let habits = Habits {
        clients,
        pause: Duration::from_secs(1),
        write_each: 100,
        ..Habits::of_few(&chat, Some(TOKEN))
    };
    let mut others = Others::start(program.port, habits)?;
    sleep(Duration::from_secs(3)).await;
    println!(
        "| phase | requests | p50 | reads: p99 · longest | writes: p99 · longest | errors | of them lost | lag p99 | \
         MiB at the end | at most |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut phases: Vec<Phase> = Vec::new();
    let mut reports = Vec::new();
    for (number, chat) in deleted.into_iter().enumerate() {
        let prey = Prey { target: target.clone(), chat, page: page.clone(), length, kinds: kinds.clone() };
        for attack in [None, Some(&prey)] {
            let (phase, seen) = phase(program.process(), attack, length).await?;
            // Late responses.
            sleep(if attack.is_some() { BREAK } else { Duration::ZERO }).await;
            let name = if attack.is_some() { "with attackers" } else { "without" };
            let samples = others.between(phase.start, phase.end);
            let name = format!("{} {name}", number + 1);
            print_row(&name, &samples, resident_mib(program.process())?, phase.most_mib);
            phases.push(phase);
            reports = if seen.is_empty() { reports } else { seen };
        }
    }
    others.finish();
    let all = |is_attacked: bool| -> Vec<Sample> {
        let of_kind = phases.iter().filter(|phase| phase.is_attacked == is_attacked);
        of_kind.flat_map(|phase| others.between(phase.start, phase.end)).collect()
    };
    let resident = resident_mib(program.process())?;
    let most = phases.iter().map(|phase| phase.most_mib).fold(0.0, f64::max);
    let [without, with] = [all(false), all(true)];
    print_row("all without", &without, resident, most);
    print_row("all with attackers", &with, resident, most);
    let [without, with] = [without, with].map(|samples| summarise(&samples, None));
    println!("\nIn the last phase:");
    for report in reports {
        println!("- {report}");
    }
    println!(
        "\np99 with attackers: {:.1} times",
        with.p99.as_secs_f64() / without.p99.as_secs_f64().max(1e-6)
    );
    Ok(without.errors + with.errors == 0)
}
