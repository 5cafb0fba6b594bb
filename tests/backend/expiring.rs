//! The client in Rust and a credential that expires again and again, on the server of `tests/examples/expiring_tokens.rs`. The
//! clients in JavaScript have the same traffic in `tests/web/expiring.test.mjs`, with the same two variables.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use switchboard::client::{Client, ClientOptions, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::skip;

/// The fewest renewals of a run.
const RENEWALS: usize = 3;
/// Between two calls, so that all clients of a long run together leave the machine some time.
const PAUSE: Duration = Duration::from_millis(10);

/// The example server, and its address.
struct Example(Child, String);

impl Example {
    fn start(life_ms: u64) -> Option<Example> {
        // `cargo test` builds the examples, but not `cargo test --test backend`.
        let path =
            Path::new(env!("CARGO_BIN_EXE_switchboard")).with_file_name("examples").join("expiring_tokens");
        if !path.exists() {
            return None;
        }
        let mut command = Command::new(path);
        let mut child = command.args(["0", &life_ms.to_string()]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("ws://").next().unwrap().to_owned();
        Some(Example(child, address))
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // It can have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Exchanges the long-lived secret for a token.
async fn token(address: String) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(&address).await?;
    let request = format!(
        "GET /token?token=a-long-lived-secret HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.split_once("\r\n\r\n") {
        Some((head, token)) if head.starts_with("HTTP/1.1 200 ") => Ok(token.to_owned()),
        _ => Err(std::io::Error::other(answer)),
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test]
async fn no_call_fails_in_rust_because_a_credential_expires() {
    let length = Duration::from_secs(variable("CREDENTIAL_SECONDS", 0));
    let Some(server) = Example::start(variable("CREDENTIAL_LIFE", 2000)) else {
        return skip::skipped("tokens that expire: the example expiring_tokens is not built");
    };
    let (tokens, address) = (Arc::new(AtomicUsize::new(0)), server.1.clone());
    let asked = tokens.clone();
    let source = Source::from_async(move || {
        asked.fetch_add(1, Ordering::SeqCst);
        token(address.clone())
    });
    let options = ClientOptions { token_source: Some(source), ..ClientOptions::default() };
    let client = Client::new(format!("ws://{}", server.1), options).unwrap();
    let (warnings, states) = (Arc::new(AtomicUsize::new(0)), Arc::new(std::sync::Mutex::new(Vec::new())));
    let (warned, seen) = (warnings.clone(), states.clone());
    client.on_message("*", move |event| {
        if event.channel == "auth:expiring" {
            warned.fetch_add(1, Ordering::SeqCst);
        } else if event.channel.starts_with("connection:") {
            seen.lock().unwrap().push(format!("{} {:?}", event.channel, event.payload.as_str()));
        }
    });
    client.open().await.unwrap();
    let started = Instant::now();
    let traffic = |channel: &'static str| {
        let (client, warnings) = (client.clone(), warnings.clone());
        tokio::spawn(async move {
            let (mut calls, mut failures) = (0, Vec::new());
            while started.elapsed() < length || warnings.load(Ordering::SeqCst) < RENEWALS {
                match client.send_message(channel, json!(calls)).await {
                    Ok(answer) if answer.as_str() == Some(&*calls.to_string()) => calls += 1,
                    other => failures.push(format!("{channel}: {other:?}")),
                }
                tokio::time::sleep(PAUSE).await;
            }
            (calls, failures)
        })
    };
    let loops = [traffic("echo"), traffic("echo"), traffic("slow"), traffic("slow")];
    let (mut calls, mut failures) = (0, Vec::new());
    for one in loops {
        let (made, failed) = one.await.unwrap();
        calls += made;
        failures.extend(failed);
    }
    let (tokens, warnings) = (tokens.load(Ordering::SeqCst), warnings.load(Ordering::SeqCst));
    println!("Rust: {calls} calls, {warnings} renewals, {} failures", failures.len());
    assert!(failures.is_empty(), "{failures:?}");
    // One connection; one token for it, and one after each warning.
    assert_eq!(*states.lock().unwrap(), ["connection:open Some(\"{}\")"]);
    assert_eq!(tokens, warnings + 1);
    client.disconnect().await;
}
