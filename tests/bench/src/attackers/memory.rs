//! Attackers that take memory: messages that are never complete, requests that are large and wait.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use switchboard::protocol::frame;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::{Answers, MIB, Target, collect, new_chat};
use crate::program::resident_mib;
use crate::wire::{Failure, LOCALHOST, Socket, request};

/// Watches the resident memory of the server.
struct Watch {
    before: f64,
    most: Rc<Cell<f64>>,
    task: JoinHandle<()>,
}

impl Watch {
    fn start(target: &Target) -> Result<Watch, Failure> {
        let (process, before) = (target.process, resident_mib(target.process)?);
        let most = Rc::new(Cell::new(before));
        let seen = most.clone();
        let task = tokio::task::spawn_local(async move {
            while let Ok(mib) = resident_mib(process) {
                seen.set(seen.get().max(mib));
                sleep(Duration::from_millis(50)).await;
            }
        });
        Ok(Watch { before, most, task })
    }

    /// The memory before, the most so far, and after some seconds from now. The attack is over.
    async fn report(&self, target: &Target, seconds: &[u64]) -> Result<String, Failure> {
        target.over.set(Some(Instant::now()));
        let mut report = format!("{:.0} MiB before, {:.0} at most", self.before, self.most.get());
        let start = Instant::now();
        for second in seconds {
            tokio::time::sleep_until(start + Duration::from_secs(*second)).await;
            report += &format!(", {:.0} {second} s later", resident_mib(target.process)?);
        }
        Ok(report)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// 60 connections without the token, each with 16 MiB of a message that is not complete.
pub async fn unfinished(target: &Target, after: &[u64]) -> Result<String, Failure> {
    let watch = Watch::start(target)?;
    let mut out = Vec::new();
    // A mask of zeros, so that all connections can send the same bytes.
    frame::write_text(&mut out, Some([0; 4]), &[vec![b' '; 16 * MIB]]);
    out.pop();
    let out = Rc::new(out);
    let closed = Rc::new(Cell::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..60 {
        let (target, out, closed) = (target.clone(), out.clone(), closed.clone());
        tasks.spawn_local(async move {
            let Ok(stream) = target.dial(target.from).await else { return };
            let Ok((101, mut socket)) = Socket::upgrade(stream, None).await else { return };
            let _ = socket.stream.write_all(&out).await;
            while socket.read().await.is_ok() {}
            closed.set(closed.get() + 1);
        });
    }
    let start = Instant::now();
    while !tasks.is_empty() && start.elapsed() < Duration::from_secs(10) {
        let _ = timeout(Duration::from_millis(100), tasks.join_next()).await;
    }
    tasks.shutdown().await;
    let report = watch.report(target, after).await?;
    Ok(format!("60 × 16 MiB without a token: {report}; {} closed by the server within 10 s", closed.get()))
}

/// Where a request has what it does not need.
#[derive(Clone, Copy)]
pub enum Ballast {
    /// In a member of the message.
    Message,
    /// In a member of its payload.
    Payload,
}

/// So many clients, each with so many requests of 15 MiB, whose handlers wait for a model that does not answer. Then they leave.
pub async fn in_flight(
    target: &Target,
    clients: usize,
    requests: usize,
    ballast: Ballast,
    after: &[u64],
) -> Result<String, Failure> {
    let silent = TcpListener::bind((LOCALHOST, 0)).await?;
    let model = format!("http://{}/v1", silent.local_addr()?);
    let _model = AbortOnDrop(tokio::task::spawn_local(async move {
        let mut held = Vec::new();
        while let Ok(connection) = silent.accept().await {
            held.push(connection);
        }
    }));
    let setting = json!({"key": "ai.openai.baseUrl", "value": model});
    target.connect(target.from).await?.call("settings:set", &setting).await?;
    let message = Rc::new(waiting_request(ballast));
    let watch = Watch::start(target)?;
    let sent = Rc::new(Cell::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (target, message, sent) = (target.clone(), message.clone(), sent.clone());
        tasks.spawn_local(async move {
            let mut socket = target.connect(target.from).await.map_err(|error| error.to_string())?;
            let sending = send_waiting(&mut socket, &message, requests, &sent);
            let end = match timeout(Duration::from_millis(500) * requests as u32, sending).await {
                Err(_) => Ok(()),
                Ok(end) => end.map_err(|error| error.to_string()),
            };
            // All clients stay until the last has sent what it can.
            end.map(|()| socket)
        });
    }
    let (mut held, mut ends) = (Vec::new(), BTreeMap::<String, usize>::new());
    while let Some(end) = tasks.join_next().await.transpose()? {
        match end {
            Ok(socket) => held.push(socket),
            Err(end) => *ends.entry(end).or_default() += 1,
        }
    }
    sleep(Duration::from_secs(1)).await;
    drop(held);
    let report = watch.report(target, after).await?;
    let ends: String = ends.iter().map(|(end, count)| format!(", {count} {end}")).collect();
    let all = clients * requests;
    Ok(format!("{clients} clients: {} of {all} requests of 15 MiB were taken{ends}: {report}", sent.get()))
}

/// Sends four a second: not over the rate limit of bytes.
async fn send_waiting(
    socket: &mut Socket,
    message: &[u8],
    requests: usize,
    sent: &Cell<usize>,
) -> Result<(), Failure> {
    for _ in 0..requests {
        socket.send(message).await?;
        sent.set(sent.get() + 1);
        let mut answers = Answers::default();
        let next = Instant::now() + Duration::from_millis(250);
        if let Some(reason) = collect(socket, &mut answers, usize::MAX, next).await {
            return Err(reason.into());
        }
        if answers.refused > 0 {
            return Err("refused".into());
        }
    }
    Ok(())
}

/// So many clients that ask for so many answers of 4 MB each, and read nothing. Then they leave.
pub async fn unread(
    target: &Target,
    clients: usize,
    requests: usize,
    length: Duration,
    after: &[u64],
) -> Result<String, Failure> {
    let mut socket = target.connect(target.from).await?;
    let chat = new_chat(&mut socket).await?;
    for _ in 0..4 {
        let message = json!({"chatId": chat, "role": "user", "content": "x".repeat(1_000_000)});
        socket.call("chat:add-message", &message).await?;
    }
    let watch = Watch::start(target)?;
    let ask = request("unread", "chat:get-messages", &json!({"chatId": chat, "limit": 4})).repeat(requests);
    let mut held = Vec::new();
    for _ in 0..clients {
        let mut socket = target.connect(target.from).await?;
        socket.stream.write_all(&ask).await?;
        held.push(socket);
    }
    sleep(length).await;
    drop(held);
    let report = watch.report(target, after).await?;
    Ok(format!("{clients} clients with {requests} answers of 4 MB that they do not read: {report}"))
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn waiting_request(ballast: Ballast) -> Vec<u8> {
    let head = r#"{"type":"request","id":"w","channel":"ai:chat","payload":{"provider":"openai","model":"m","messages":[{"role":"user","content":"hello"}]"#;
    let filler = "x".repeat(15 * MIB);
    let (before, after) = match ballast {
        Ballast::Message => (r#"},"ballast":""#, r#""}"#),
        Ballast::Payload => (r#","ballast":""#, r#""}}"#),
    };
    let mut out = Vec::new();
    frame::write_text(&mut out, Some([0; 4]), &[head, before, &filler, after]);
    out
}
