//! Attackers that send many small messages: refused ones, and new connections for new rate windows.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use switchboard::protocol::frame;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Answers, Target, collect};
use crate::wire::{Failure, MASK, request};

/// 20,000 frames of 7 bytes on a connection, again and again after a pause. Reports on the first.
pub async fn refused(target: &Target, pause: Duration, length: Duration) -> Result<String, Failure> {
    const FRAMES: usize = 20_000;
    let mut frames = Vec::new();
    for _ in 0..FRAMES {
        frame::write_text(&mut frames, Some(MASK), &["x"]);
    }
    let end = Instant::now() + length;
    let mut first = None;
    let (mut rounds, mut total) = (0, 0);
    while Instant::now() < end {
        let (out, closed) = flood(target, &frames).await?;
        rounds += 1;
        total += out;
        first.get_or_insert((out, closed));
        sleep(pause).await;
    }
    let (out, closed) = first.unwrap_or_default();
    Ok(format!(
        "{} KB in, {} KB out ({:.1}-fold), {}; {rounds} rounds, {:.1} MB out",
        frames.len() / 1000,
        out / 1000,
        out as f64 / frames.len() as f64,
        closed.as_deref().unwrap_or("NOT closed"),
        total as f64 / 1e6
    ))
}

/// Returns the bytes that came, and how the server closed the connection.
async fn flood(target: &Target, frames: &[u8]) -> Result<(usize, Option<String>), Failure> {
    let mut socket = target.connect(target.from).await?;
    let mut bytes = 0;
    let talk = async {
        // The server can close meanwhile.
        let _ = socket.send(frames).await;
        loop {
            match socket.text().await {
                // A header of four bytes.
                Ok(text) => bytes += text.len() + 4,
                Err(error) => return error.to_string(),
            }
        }
    };
    let closed = timeout(Duration::from_secs(2), talk).await.ok();
    Ok((bytes, closed))
}

/// Four clients that use their rate window up, and connect again after a pause.
pub async fn reconnect(target: &Target, pause: Duration, length: Duration) -> Result<String, Failure> {
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
                let Ok(mut socket) = target.connect(target.from).await else {
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
                sleep(pause).await;
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
