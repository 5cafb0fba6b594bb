//! Compares servers on the same work: CPU time and memory as accounted by the kernel, a row for each kind of work, and the
//! ratio to the yardstick of the same round. The servers take turns, in three rounds, so that slow periods of the machine
//! affect all of them. The median of all windows is printed.
//!
//! `compare [--rounds N] [--rows WORD,…] [--servers WORD,…] NAME=WIRE:COMMAND …`; Called by `tests/bench/run.sh`.

mod load;
mod process;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use load::{Load, Request, Wire};
use process::Process;
use switchboard_bench::dice::Dice;

type Failure = Box<dyn std::error::Error>;

const WINDOW: Duration = Duration::from_millis(400);
const WINDOWS: usize = 4;
/// Warm-up before the first window, which just-in-time compilers need.
const WARM_UP: Duration = Duration::from_millis(1500);

struct Server {
    name: String,
    wire: Wire,
    command: Vec<String>,
}

struct Row {
    name: &'static str,
    unit: &'static str,
    work: Work,
}

enum Work {
    /// Microseconds of CPU time for a request.
    Requests { channel: &'static str, connections: usize, depth: usize, payload: fn() -> Value },
    /// Microseconds of CPU time for a request for chats in an SQLite database.
    Chats { channel: &'static str },
    /// Microseconds of CPU time for an event.
    Broadcast { connections: usize },
    /// Microseconds of CPU time for a connection.
    SetUp,
    /// Resident bytes of an idle connection.
    Idle { connections: usize },
    /// Resident bytes of a connection that does not read, and what remains after all have closed.
    Slow { connections: usize, left: bool },
    /// The 99th percentile of the latency in microseconds, at a fixed rate.
    Latency { each_second: f64 },
}

fn rows() -> Vec<Row> {
    let requests =
        |connections, depth, payload| Work::Requests { channel: "echo", connections, depth, payload };
    let row = |name, unit, work| Row { name, unit, work };
    vec![
        row("1 × 1, 16 B", "µs", requests(1, 1, || text(16))),
        row("64 × 1, 64 B", "µs", requests(64, 1, || text(64))),
        row("64 × 16, 64 B", "µs", requests(64, 16, || text(64))),
        row("16 × 4, 16 KiB, one string", "µs", requests(16, 4, || text(16 << 10))),
        row("16 × 4, 16 KiB, one string of German", "µs", requests(16, 4, || german(16 << 10))),
        row("16 × 4, 16 KiB, many members", "µs", requests(16, 4, many_members)),
        row(
            "wait 10 ms, 256 in flight",
            "µs",
            Work::Requests { channel: "wait", connections: 16, depth: 16, payload: || text(64) },
        ),
        row("chat:list, 4 × 4", "µs", Work::Chats { channel: "chat:list" }),
        row("chat:add-message, 4 × 4", "µs", Work::Chats { channel: "chat:add-message" }),
        row("broadcast to 1 000", "µs", Work::Broadcast { connections: 1000 }),
        row("set-up", "µs", Work::SetUp),
        row("idle, of 15 000", "B", Work::Idle { connections: 15_000 }),
        row("1 000 that do not read", "B", Work::Slow { connections: 1000, left: false }),
        row("… once they have gone", "B", Work::Slow { connections: 1000, left: true }),
        row("p99 at 100 000/s", "µs", Work::Latency { each_second: 100_000.0 }),
        row("10 × 1, 64 B", "µs", requests(10, 1, || text(64))),
        row("1 000 × 1, 64 B", "µs", requests(1000, 1, || text(64))),
        row("10 000 × 1, 64 B", "µs", requests(10_000, 1, || text(64))),
        row("broadcast to 10", "µs", Work::Broadcast { connections: 10 }),
        row("broadcast to 10 000", "µs", Work::Broadcast { connections: 10_000 }),
    ]
}

impl Work {
    /// Whether a server can do this work. (Node's `ws` has no SQLite.)
    fn is_for(&self, server: &Server) -> bool {
        !matches!(self, Work::Chats { .. }) || (server.wire == Wire::Envelopes && server.name != "ws")
    }
}

fn text(bytes: usize) -> Value {
    Value::String("Best wishes from here. ".chars().cycle().take(bytes).collect())
}

/// The same size; one letter in nine is not ASCII.
fn german(bytes: usize) -> Value {
    Value::String("Grüße von hier aus. ".chars().cycle().take(bytes * 20 / 22).collect())
}

/// About 16 KiB of members of five kinds, in an order that the branch predictor cannot learn.
fn many_members() -> Value {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let members = (0..850).map(|i| {
        let number = dice.below(10_usize.pow(1 + i % 6));
        match dice.below(5) {
            0 => (format!("k{i}"), json!(number)),
            1 => (format!("name{i}"), json!(format!("value {number}"))),
            2 => (format!("f{i}"), json!(number.is_multiple_of(2))),
            3 => (format!("x{i}"), json!(number as f64 + 0.5)),
            _ => (format!("arr{i}"), json!([1, number, 3])),
        }
    });
    Value::Object(members.collect())
}

/// Measures the work of a row on a server, once for each window.
fn measure(server: &Server, work: &Work, workers: usize) -> Result<Vec<f64>, Failure> {
    let cores = if workers == 1 { "1" } else { "0,1" };
    let folder = match work {
        Work::Chats { .. } => Some(Folder::new()?),
        _ => None,
    };
    let chats = folder.as_ref().map(|folder| folder.0.as_path());
    let process = Process::start(&server.command, cores, workers, chats)?;
    let mut load = Load::new(server.wire, process.port)?;
    let mut costs = Vec::new();
    match *work {
        Work::Requests { channel, connections, depth, payload } => {
            load.open(connections)?;
            costs = pump(&process, &mut load, &Request::new(server.wire, channel, payload()), depth)?;
        }
        Work::Chats { channel } => {
            load.open(4)?;
            let mut chat = Value::Null;
            for n in 0..200 {
                chat = load.call("chat:create", json!({ "title": format!("Chat {n}") }))?["id"].take();
            }
            let adds = channel == "chat:add-message";
            let message = json!({ "chatId": chat, "role": "user", "content": text(400) });
            let payload = if adds { message } else { json!({}) };
            let before = load.answers;
            let request = Request::new(server.wire, channel, payload);
            costs = pump(&process, &mut load, &request, 4)?;
            load.drain(&request)?;
            let expected = if adds { load.answers - before } else { 0 };
            let stored = load.call("chat:list", json!({}))?[0]["messageCount"].take();
            if stored != expected {
                return Err(format!("{expected} messages were acknowledged, {stored} are stored").into());
            }
        }
        Work::Broadcast { connections } => {
            let request = Request::new(server.wire, "broadcast", text(64));
            load.open(connections)?;
            load.subscribe()?;
            let rounds = 20_000 / connections;
            for window in 0..=WINDOWS {
                let (cpu, events) = (process.cpu_ns()?, load.events_seen);
                for _ in 0..rounds.max(4) {
                    load.broadcast(&request)?;
                }
                if window > 0 {
                    let events = (load.events_seen - events) as f64;
                    costs.push((process.cpu_ns()? - cpu) as f64 / 1000.0 / events);
                }
            }
        }
        Work::SetUp => {
            load.churn(WARM_UP)?;
            for _ in 0..WINDOWS {
                let cpu = process.cpu_ns()?;
                let count = load.churn(WINDOW)?;
                costs.push((process.cpu_ns()? - cpu) as f64 / 1000.0 / count as f64);
            }
        }
        Work::Idle { connections } => {
            let before = process.resident()?;
            load.open(connections)?;
            costs.push((settled(&process)? - before as f64) / connections as f64);
        }
        Work::Slow { connections, left } => {
            let request = Request::new(server.wire, "broadcast", text(4 << 10));
            let before = process.resident()?;
            load.open(connections + 1)?;
            load.subscribe()?;
            for _ in 0..1000 {
                load.ask_first(&request)?;
            }
            if left {
                load.close();
            }
            costs.push((settled(&process)? - before as f64) / connections as f64);
        }
        Work::Latency { each_second } => {
            let request = Request::new(server.wire, "echo", text(64));
            load.open(64)?;
            load.pace(&request, each_second, WARM_UP)?;
            for _ in 0..WINDOWS {
                load.latencies = Some(Vec::new());
                load.pace(&request, each_second, WINDOW)?;
                let mut latencies = load.latencies.take().unwrap_or_default();
                latencies.sort_unstable();
                costs.push(latencies[latencies.len() * 99 / 100] as f64 / 1000.0);
            }
        }
    }
    Ok(costs)
}

/// Measures the cost of a request, once for each window.
fn pump(process: &Process, load: &mut Load, request: &Request, depth: usize) -> Result<Vec<f64>, Failure> {
    load.pump(request, depth, WARM_UP)?;
    let mut costs = Vec::new();
    for _ in 0..WINDOWS {
        let (cpu, answers) = (process.cpu_ns()?, load.answers);
        load.pump(request, depth, WINDOW)?;
        costs.push((process.cpu_ns()? - cpu) as f64 / 1000.0 / (load.answers - answers) as f64);
    }
    Ok(costs)
}

/// A folder for the database of a server.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, Failure> {
        let folder = std::env::temp_dir().join(format!("switchboard-compare-{}", std::process::id()));
        fs::create_dir(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns the resident memory after it has been stable for a second.
fn settled(process: &Process) -> Result<f64, Failure> {
    let mut last = process.resident()?;
    for _ in 0..10 {
        std::thread::sleep(Duration::from_secs(1));
        let now = process.resident()?;
        if now.abs_diff(last) < last / 200 {
            return Ok(now as f64);
        }
        last = now;
    }
    Ok(last as f64)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count => (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0,
    }
}

fn parse_server(argument: &str) -> Option<Server> {
    let (name, rest) = argument.split_once('=')?;
    let (wire, command) = rest.split_once(':')?;
    let wire = match wire {
        "envelopes" => Wire::Envelopes,
        "json-rpc" => Wire::JsonRpc,
        "canned" => Wire::Canned,
        _ => return None,
    };
    let command = command.split(' ').map(str::to_owned).collect();
    Some(Server { name: name.to_owned(), wire, command })
}

fn main() -> Result<(), Failure> {
    let (mut rounds, mut workers, mut servers, mut words) = (3, 1, Vec::new(), Vec::new());
    let mut only = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument}: a value is missing"));
        let list = |text: String| text.split(',').map(str::to_owned).collect();
        match argument.as_str() {
            "--rounds" => rounds = value()?.parse()?,
            "--workers" => workers = value()?.parse()?,
            "--rows" => words = list(value()?),
            "--servers" => only = list(value()?),
            _ => servers.push(parse_server(&argument).ok_or(format!("{argument}: not NAME=WIRE:COMMAND"))?),
        }
    }
    servers.retain(|server| only.is_empty() || only.contains(&server.name));
    let named = |row: &Row| words.is_empty() || words.iter().any(|word| row.name.contains(word.as_str()));
    let rows: Vec<Row> = rows().into_iter().filter(named).collect();

    let header: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    println!("| | {} |", header.join(" | "));
    println!("|---|{}", "---:|".repeat(servers.len()));
    for row in &rows {
        let mut costs: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        let mut ratios: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for _ in 0..rounds {
            let mut yardstick = None;
            for (index, server) in servers.iter().enumerate().filter(|(_, server)| row.work.is_for(server)) {
                match measure(server, &row.work, workers) {
                    Ok(windows) => {
                        let cost = median(&windows);
                        if server.wire == Wire::Canned {
                            yardstick = Some(cost);
                        }
                        costs.entry(index).or_default().push(cost);
                        let ratio = yardstick.map(|yardstick| cost / yardstick);
                        ratios.entry(index).or_default().extend(ratio);
                    }
                    Err(error) => eprintln!("{}, {}: {error}", row.name, server.name),
                }
            }
        }
        let cell = |index: &usize| match (costs.get(index), ratios.get(index)) {
            (Some(costs), Some(ratios)) if !ratios.is_empty() && row.unit == "µs" => {
                format!("{:.2} ({:.2})", median(costs), median(ratios))
            }
            (Some(costs), _) if row.unit == "B" => format!("{:.0}", median(costs)),
            (Some(costs), _) => format!("{:.2}", median(costs)),
            _ => "-".to_owned(),
        };
        let cells: Vec<String> = (0..servers.len()).map(|index| cell(&index)).collect();
        println!("| {}, {} | {} |", row.name, row.unit, cells.join(" | "));
    }
    Ok(())
}
