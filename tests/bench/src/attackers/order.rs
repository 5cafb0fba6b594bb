//! Several clients that cause events at the same time, in several families. Do all others get them in the same order?

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hasher};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Answers, Target, collect, new_chat};
use crate::wire::{Failure, LOCALHOST, request};

const LISTENERS: usize = 8;

type Sequences = Rc<RefCell<Vec<Vec<u64>>>>;

/// Writes so often with each of five clients, and compares what eight listeners get.
pub async fn order(target: &Target, a_second: usize, length: Duration) -> Result<String, Failure> {
    let sequences: Sequences = Rc::new(RefCell::new(vec![Vec::new(); LISTENERS]));
    let mut listeners = JoinSet::new();
    for number in 0..LISTENERS {
        let mut socket = target.connect(LOCALHOST).await?;
        let sequences = sequences.clone();
        listeners.spawn_local(async move {
            while let Ok(text) = socket.text().await {
                let mut hasher = DefaultHasher::new();
                hasher.write(&text);
                if !text.windows(18).any(|name| name == b"\"server:heartbeat\"") {
                    sequences.borrow_mut()[number].push(hasher.finish());
                }
            }
        });
    }
    let mut writers = JoinSet::new();
    for number in 0..5 {
        let target = target.clone();
        writers.spawn_local(async move {
            write(&target, number, a_second, length).await.map_err(|error| error.to_string())
        });
    }
    let mut answers = Answers::default();
    while let Some(written) = writers.join_next().await.transpose()? {
        let written = written?;
        answers = Answers {
            answered: answers.answered + written.answered,
            refused: answers.refused + written.refused,
        };
    }
    // What is under way arrives.
    sleep(Duration::from_secs(2)).await;
    let sequences = sequences.borrow();
    let common = sequences.iter().map(Vec::len).min().unwrap_or_default();
    let differ =
        sequences.iter().filter(|other| common_part(other, &sequences[0]) < common - common / 20).count();
    Ok(format!(
        "{} writes ({} refused), {common} events: {differ} of {} listeners had another order than the first",
        answers.answered,
        answers.refused,
        LISTENERS - 1
    ))
}

/// The length of the longest common start, once both begin with the same event.
fn common_part(one: &[u64], other: &[u64]) -> usize {
    let Some(first) = one.first() else { return 0 };
    let from = other.iter().position(|event| event == first).unwrap_or_default();
    let into =
        other.first().and_then(|first| one.iter().position(|event| event == first)).unwrap_or_default();
    let (one, other) = if from <= into || into == 0 { (one, &other[from..]) } else { (&one[into..], other) };
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

async fn write(
    target: &Target,
    number: usize,
    a_second: usize,
    length: Duration,
) -> Result<Answers, Failure> {
    let mut socket = target.connect(target.from).await?;
    let chat = new_chat(&mut socket).await?;
    let start = Instant::now();
    let (mut sent, mut answers) = (0, Answers::default());
    while start.elapsed() < length {
        let mut out = Vec::new();
        for _ in 0..a_second.div_ceil(10) {
            sent += 1;
            let (channel, payload) = a_change(number, sent, &chat);
            out.extend_from_slice(&request("change", channel, &payload));
        }
        socket.send(&out).await?;
        let next = start + Duration::from_secs_f64(sent as f64 / a_second as f64);
        if let Some(reason) = collect(&mut socket, &mut answers, usize::MAX, next).await {
            return Err(reason.into());
        }
    }
    let end = Instant::now() + Duration::from_secs(5);
    collect(&mut socket, &mut answers, sent, end).await;
    socket.call("chat:delete", &json!({"id": chat})).await?;
    Ok(answers)
}

fn a_change(number: usize, turn: usize, chat: &str) -> (&'static str, Value) {
    match number {
        0 => (
            "settings:set",
            json!({"key": "theme", "value": if turn.is_multiple_of(2) { "light" } else { "dark" }}),
        ),
        1 => ("settings:set", json!({"key": "attacked", "value": turn})),
        2 => ("credentials:set", json!({"key": "attacked", "token": format!("token-{turn}")})),
        3 => ("chat:update", json!({"id": chat, "title": format!("title {turn}")})),
        _ => (
            "chat:add-message",
            json!({"chatId": chat, "role": "user", "content": format!("message {turn}")}),
        ),
    }
}
