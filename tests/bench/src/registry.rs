//! Measures requests for chats with 1 000, 10 000 and 100 000 messages in the database: microseconds of CPU time on all threads
//! of the server, as accounted by the kernel. The client runs on another thread and is not counted.
//!
//! `cargo run --release --manifest-path tests/bench/Cargo.toml --bin registry` (Linux)

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::backend::{Backend, BackendConfig, register_all};
use switchboard::client::{Client, ClientOptions};
use switchboard::{Config, Server};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error>;

const MESSAGES_A_CHAT: usize = 100;
const CALLS: u32 = 300;
const WORDS: [&str; 16] = [
    "about",
    "breakfast",
    "clouds",
    "dinner",
    "every",
    "forest",
    "garden",
    "house",
    "island",
    "journey",
    "kitchen",
    "lemon",
    "morning",
    "never",
    "orange",
    "people",
];

/// The CPU time of the server's threads, in microseconds.
fn server_cpu_us() -> Result<f64, Failure> {
    let mut ns = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        let name = fs::read_to_string(task.join("comm"))?;
        if name.starts_with("server") || name.starts_with("switchboard-db") {
            let stat = fs::read_to_string(task.join("schedstat"))?;
            ns += stat.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
    }
    Ok(ns as f64 / 1000.0)
}

/// A text of about 60 words. One in a thousand messages contains the rare word.
fn text(n: usize) -> String {
    let mut words: Vec<_> = (0..60).map(|k| WORDS[(n * 31 + k * 7 + k * k) % WORDS.len()]).collect();
    if n % 1000 == 500 {
        words.push("quixotic");
    }
    words.join(" ")
}

async fn fill(client: &Client, messages: usize) -> Result<Vec<Value>, Failure> {
    let mut chats = Vec::new();
    let mut adding = JoinSet::new();
    for chat in 0..messages / MESSAGES_A_CHAT {
        let id = client
            .send_message("chat:create", json!({"title": format!("Chat {chat}")}))
            .await?
            .parse()?["id"]
            .clone();
        for n in 0..MESSAGES_A_CHAT {
            let content = text(chat * MESSAGES_A_CHAT + n);
            let message = json!({"chatId": id, "role": "user", "content": content});
            let client = client.clone();
            adding.spawn(async move { client.send_message("chat:add-message", message).await });
            if adding.len() >= 200 {
                adding.join_next().await.ok_or("no task")???;
            }
        }
        chats.push(id);
    }
    while let Some(added) = adding.join_next().await {
        added??;
    }
    Ok(chats)
}

/// The CPU time of a call, in microseconds: the median of five rounds.
async fn cost(client: &Client, channel: &str, payload: impl Fn(usize) -> Value) -> Result<f64, Failure> {
    let mut rounds = Vec::new();
    for _ in 0..5 {
        let before = server_cpu_us()?;
        for n in 0..CALLS {
            client.send_message(channel, payload(n as usize)).await?;
        }
        rounds.push((server_cpu_us()? - before) / f64::from(CALLS));
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[2])
}

async fn run(port: u16, messages: usize) -> Result<(), Failure> {
    let client = Client::connect(&format!("ws://localhost:{port}"), ClientOptions::default()).await?;
    let chats = fill(&client, messages).await?;
    let chat = |n: usize| chats[n * 7 % chats.len()].clone();
    let costs = [
        cost(&client, "chat:list", |_| json!({})).await?,
        cost(&client, "chat:get-messages", |n| json!({"chatId": chat(n)})).await?,
        cost(&client, "chat:search", |_| json!({"query": "quixotic"})).await?,
        cost(&client, "chat:search", |_| json!({"query": "lemon"})).await?,
        cost(&client, "chat:add-message", |n| json!({"chatId": chat(n), "role": "user", "content": "Hello"}))
            .await?,
        cost(&client, "system:ping", |_| json!({})).await?,
    ];
    println!("{messages:>9} {}", costs.map(|cost| format!("{cost:>12.0}")).concat());
    client.disconnect().await;
    Ok(())
}

fn main() -> Result<(), Failure> {
    println!(
        "{:>9} {}",
        "messages",
        ["list", "a page", "rare word", "common word", "add", "ping"]
            .map(|name| format!("{name:>12}"))
            .concat()
    );
    for messages in [1_000, 10_000, 100_000] {
        let folder =
            std::env::temp_dir().join(format!("switchboard-bench-{}-{messages}", std::process::id()));
        // The times of ended threads would be lost.
        let server_side = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("server")
            .thread_keep_alive(Duration::from_secs(3600))
            .enable_all()
            .build()?;
        let backend = Backend::open(BackendConfig::new(&folder))?;
        let mut config = Config::default().port(0);
        config.limits.rate_max_requests = u32::MAX;
        let server = Server::new(config);
        let port = server_side.block_on(async {
            register_all(&server, &backend);
            server.start().await
        })?;
        let client_side = Builder::new_current_thread().enable_all().build()?;
        let ran = client_side.block_on(run(port, messages));
        server_side.block_on(async {
            server.stop().await;
            backend.close().await;
        });
        fs::remove_dir_all(&folder)?;
        ran?;
    }
    Ok(())
}
