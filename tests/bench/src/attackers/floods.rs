//! Attackers that send many small messages: refused ones, and new connections for new rate windows.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use switchboard::protocol::frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{ATTACKER, Answers, Target, collect};
use crate::wire::{Failure, MASK, request};

/// 20,000 frames of 7 bytes on a connection, again and again. Reports on the first.
pub async fn refused(target: &Target, length: Duration) -> Result<String, Failure> {
    const FRAMES: usize = 20_000;
    let mut frames = Vec::new();
    for _ in 0..FRAMES {
        frame::write_text(&mut frames, Some(MASK), &["x"]);
    }
    let end = Instant::now() + length;
    let mut first = None;
    let (mut rounds, mut total) = (0, 0);
    while Instant::now() < end {
        let (out, is_closed) = flood(target, &frames).await?;
        rounds += 1;
        total += out;
        first.get_or_insert((out, is_closed));
        sleep(Duration::from_millis(200)).await;
    }
    let (out, is_closed) = first.unwrap_or_default();
    Ok(format!(
        "{} KB in, {} KB out ({:.1}-fold), {}; {rounds} rounds, {:.1} MB out",
        frames.len() / 1000,
        out / 1000,
        out as f64 / frames.len() as f64,
        if is_closed { "closed" } else { "NOT closed" },
        total as f64 / 1e6
    ))
}

/// Returns the bytes that came, and whether the server closed the connection.
async fn flood(target: &Target, frames: &[u8]) -> Result<(usize, bool), Failure> {
    let mut socket = target.connect(ATTACKER).await?;
    let (mut reader, mut writer) = socket.stream.split();
    let mut bytes = 0;
    let read = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            bytes += count;
        }
    };
    let write = async {
        // The server can close meanwhile.
        let _ = writer.write_all(frames).await;
        sleep(Duration::from_millis(1500)).await;
    };
    let is_closed = tokio::select! {
        () = read => true,
        () = write => false,
    };
    Ok((bytes, is_closed))
}

/// Four clients that use their rate window up, and connect again.
pub async fn reconnect(target: &Target, length: Duration) -> Result<String, Failure> {
    let (answered, refused) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let connections = Rc::new(Cell::new(0));
    let end = Instant::now() + length;
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (target, connections) = (target.clone(), connections.clone());
        let (answered, refused) = (answered.clone(), refused.clone());
        tasks.spawn_local(async move {
            let pings = request("ping", "system:ping", &Value::Null).repeat(100);
            while Instant::now() < end {
                let Ok(mut socket) = target.connect(ATTACKER).await else {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                };
                connections.set(connections.get() + 1);
                let mut answers = Answers::default();
                if socket.send(&pings).await.is_ok() {
                    collect(&mut socket, &mut answers, 100, end).await;
                }
                answered.set(answered.get() + answers.answered);
                refused.set(refused.get() + answers.refused);
            }
        });
    }
    while tasks.join_next().await.transpose()?.is_some() {}
    let a_second = |count: &Cell<usize>| count.get() as f64 / length.as_secs_f64();
    Ok(format!(
        "{:.0} connections a second: {:.0} requests a second answered, {:.0} refused",
        a_second(&connections),
        a_second(&answered),
        a_second(&refused)
    ))
}
