//! Attacks the `switchboard` command, each kind on a fresh database, and prints what eight clients that behave well had of it: the
//! time of their small requests and their errors, without and with the attack in the same run.
//!
//! `cargo run --release --manifest-path tests/bench/Cargo.toml --bin attack -- target/release/switchboard [KIND ...]` (Linux).

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use switchboard_bench::attackers::memory::{Ballast, in_flight, unfinished, unread};
use switchboard_bench::attackers::places::{Origin, heads, strangers, tokens};
use switchboard_bench::attackers::{Target, fill_chat, floods, order, pages, prepared, shown, work};
use switchboard_bench::others::{Class, Habits, Others, Summary, summarise};
use switchboard_bench::program::{Folder, Program, has_option};
use switchboard_bench::wire::{Failure, LOCALHOST};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

/// How long the others are measured without an attack.
const QUIET: Duration = Duration::from_secs(6);
/// How long an attack lasts that does not end by itself.
const LENGTH: Duration = Duration::from_secs(10);
/// The pause of an attacker before it connects again.
const SHORT: Duration = Duration::from_millis(100);
/// An attack that ends sooner is followed by a pause, so that there are enough requests for a p99.
const SHORTEST: Duration = Duration::from_secs(3);
const TOKEN: &str = "attack-program-0123456789abcdef";

const KINDS: [&str; 21] = [
    "burst",
    "search",
    "delete",
    "heads",
    "heads-same",
    "heads-many",
    "strangers",
    "places",
    "inflight",
    "inflight-256",
    "inflight-payload",
    "inflight-many",
    "unread",
    "escapes",
    "escapes-before",
    "refused",
    "reconnect",
    "reconnect-by-address",
    "order",
    "tokens",
    "pages",
];

/// The options of the server and what its database must have.
struct Needs {
    token: bool,
    options: &'static [&'static str],
    /// Messages and their bytes.
    messages: (usize, usize),
    /// Whether the others read only chats, which is what the attack delays.
    reads_settings: bool,
    /// The time between two requests of each of the others.
    pause: Duration,
}

fn needs(kind: &str) -> Needs {
    let pause = Duration::from_millis(50);
    let needs = Needs { token: false, options: &[], messages: (0, 0), reads_settings: true, pause };
    match kind {
        "search" => Needs { messages: (10_000, 3900), reads_settings: false, ..needs },
        "delete" => Needs { messages: (30_000, 1500), ..needs },
        "strangers" | "places" | "escapes-before" | "tokens" => Needs { token: true, ..needs },
        // The others have one address, and together less than its 100 requests a second.
        "reconnect-by-address" => Needs { options: &["--rate-by-address"], pause: pause * 2, ..needs },
        _ => needs,
    }
}

async fn attack(kind: &str, target: &Target, filled: &str) -> Result<String, Failure> {
    match kind {
        "burst" => {
            let mut reports = Vec::new();
            for round in 0..3 {
                reports.push(work::settings_burst(target, round, 990).await?);
            }
            for messages in [12, 60] {
                reports.push(work::message_burst(target, messages).await?);
            }
            Ok(reports.join("; "))
        }
        "search" => work::search(target, 100, LENGTH).await,
        "delete" => work::delete(target, filled).await,
        "heads" => heads(target, Origin::One, 1500, SHORT).await,
        "heads-same" => heads(target, Origin::Same, 1500, SHORT).await,
        "heads-many" => heads(target, Origin::Many, 1500, SHORT).await,
        "strangers" => unfinished(target, &[1, 5, 20]).await,
        "places" => strangers(target, 10_500, Duration::from_secs(5), LENGTH).await,
        "inflight" => in_flight(target, 1, 60, Ballast::Message, &[1, 5, 20]).await,
        "inflight-256" => in_flight(target, 1, 256, Ballast::Message, &[1, 5, 20]).await,
        "inflight-payload" => in_flight(target, 1, 60, Ballast::Payload, &[1, 5, 20]).await,
        "inflight-many" => in_flight(target, 40, 2, Ballast::Payload, &[1, 5, 20]).await,
        "unread" => unread(target, 60, 20, LENGTH, &[1, 5, 20]).await,
        "escapes" => work::escapes(target, false, 4, LENGTH).await,
        "escapes-before" => work::escapes(target, true, 4, LENGTH).await,
        "refused" => floods::refused(target, SHORT, LENGTH).await,
        "reconnect" | "reconnect-by-address" => floods::reconnect(target, Duration::ZERO, LENGTH).await,
        "order" => order::order(target, 80, LENGTH).await,
        "tokens" => tokens(target, 500, Duration::ZERO).await,
        "pages" => {
            let path = pages::large_page(target).await?;
            pages::pages(target, &path, LENGTH).await
        }
        other => Err(format!("no kind {other:?}; there are {}", KINDS.join(", ")).into()),
    }
}

/// Runs one kind, and returns its row.
async fn row(program: &str, kind: &str) -> Result<String, Failure> {
    let needs = needs(kind);
    let (messages, bytes) = needs.messages;
    let (folder, (chat, filled)) = prepared(program, Folder::new()?, async |target: &Target| {
        let mut socket = target.connect(LOCALHOST).await?;
        let chat = socket.call("chat:create", &json!({"title": "of the others"})).await?;
        Ok((chat["id"].as_str().unwrap_or_default().to_owned(), fill_chat(target, messages, bytes).await?))
    })
    .await?;
    let at = folder.path().to_owned();
    let token_file = at.join("token");
    std::fs::write(&token_file, TOKEN)?;
    let token_path = token_file.to_string_lossy();
    let mut options = needs.options.to_vec();
    if needs.token {
        options.extend(["--token-file", &token_path]);
    }
    let token = needs.token.then_some(TOKEN);
    let server = Program::start(program, folder, &options)?;
    let target = Target::of(&server, at, token);
    let mut others = Others::start(
        server.port,
        Habits { reads_settings: needs.reads_settings, pause: needs.pause, ..Habits::of_few(&chat, token) },
    )?;
    // The first requests open files.
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    sleep(QUIET).await;
    let attacked = Instant::now();
    let finding = attack(kind, &target, &filled).await.unwrap_or_else(|error| format!("FAILED: {error}"));
    sleep(SHORTEST.saturating_sub(attacked.elapsed())).await;
    let end = target.over.get().unwrap_or_else(Instant::now).max(attacked + SHORTEST);
    others.finish();
    let phases = [(start, attacked), (attacked, end)].map(|(from, to)| others.between(from, to));
    let figures = [Class::Read, Class::Write].map(|class| {
        let [without, with] = [&phases[0], &phases[1]].map(|samples| summarise(samples, Some(class)));
        compared(&without, &with)
    });
    let [without, with] = phases.map(|samples| summarise(&samples, None));
    Ok(format!(
        "| {kind} | {} | {} | {} of {} / {} of {} | {finding} |",
        figures[0], figures[1], without.errors, without.requests, with.errors, with.requests
    ))
}

/// p50, p99 and the longest time, without and with the attack.
fn compared(without: &Summary, with: &Summary) -> String {
    let times = |of: &Summary| format!("{} · {} · {}", shown(of.p50), shown(of.p99), shown(of.worst));
    let factor = with.p99.as_secs_f64() / without.p99.as_secs_f64().max(1e-6);
    format!("{} | {} | {factor:.1}", times(without), times(with))
}

fn main() -> Result<ExitCode, Failure> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().ok_or("attack SWITCHBOARD [KIND ...]")?;
    let mut kinds: Vec<String> = arguments.collect();
    if kinds.is_empty() {
        kinds = KINDS.map(str::to_owned).to_vec();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("p50 · p99 · longest time of small requests of 8 clients, 20 a second each; factor of the p99");
    println!();
    println!(
        "| attack | reads without | with | factor | writes without | with | factor | errors without / with | |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---|");
    let mut all_ran = true;
    for kind in &kinds {
        if let Some(option) = needs(kind).options.iter().find(|option| !has_option(&program, option)) {
            println!("| {kind} | the program has no {option} |");
            continue;
        }
        match LocalSet::new().block_on(&runtime, row(&program, kind)) {
            Ok(row) => println!("{row}"),
            Err(error) => {
                all_ran = false;
                println!("| {kind} | FAILED: {error} |");
            }
        }
    }
    Ok(if all_ran { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
