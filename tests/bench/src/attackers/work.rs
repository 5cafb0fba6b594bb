//! Attackers that take time of the server or of its database: bursts of events, searches, a large delete, messages that are costly
//! to read.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::protocol::frame;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Answers, MIB, PATIENCE, Target, collect, new_chat, shown};
use crate::wire::{Failure, MASK, Socket, request};

const READERS: usize = 20;
/// Events of a burst are longer than this, those of other clients are shorter.
const LONG: usize = 3000;

/// Clients that read all that comes, and nothing else.
struct Readers {
    got: Rc<RefCell<Vec<usize>>>,
    closed: Rc<RefCell<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Readers {
    async fn connect(target: &Target) -> Result<Readers, Failure> {
        let got = Rc::new(RefCell::new(vec![0; READERS]));
        let closed = Rc::new(RefCell::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for number in 0..READERS {
            let mut socket = target.connect(target.from).await?;
            let (got, closed) = (got.clone(), closed.clone());
            tasks.spawn_local(async move {
                let error = loop {
                    match socket.text().await {
                        Ok(text) if text.len() > LONG => got.borrow_mut()[number] += 1,
                        Ok(_) => {}
                        Err(error) => break error.to_string(),
                    }
                };
                closed.borrow_mut().push(error);
            });
        }
        Ok(Readers { got, closed, _tasks: tasks })
    }

    /// Waits until each has so many events or is closed.
    async fn wait_for(&self, events: usize) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let complete = self.complete(events);
            if complete + self.closed.borrow().len() >= READERS {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn complete(&self, events: usize) -> usize {
        self.got.borrow().iter().filter(|got| **got >= events).count()
    }

    fn report(&self, events: usize) -> String {
        let (complete, closed) = (self.complete(events), self.closed.borrow().len());
        format!("{complete} of {READERS} readers got all {events} events, {closed} closed")
    }
}

/// One `settings:update` of so many values of 4.2 KB.
pub async fn settings_burst(target: &Target, round: usize, keys: usize) -> Result<String, Failure> {
    let readers = Readers::connect(target).await?;
    let mut writer = target.connect(target.from).await?;
    let value = char::from(b'a' + (round % 26) as u8).to_string().repeat(4200);
    let values: serde_json::Map<_, _> = (0..keys).map(|key| (format!("k{key:03}"), json!(value))).collect();
    writer.send(&request("burst", "settings:update", &Value::Object(values))).await?;
    let mut answers = Answers::default();
    let closed = collect(&mut writer, &mut answers, 1, Instant::now() + PATIENCE).await;
    readers.wait_for(keys).await;
    let answer = match (answers.answered, closed) {
        (1, _) => "answered".to_owned(),
        (_, Some(reason)) => format!("NOT answered, {reason}"),
        _ => "NOT answered".to_owned(),
    };
    Ok(format!("{keys} settings: {}, {answer}", readers.report(keys)))
}

/// Pipelined `chat:add-message` of 1 MB each. The chat is deleted at the end.
pub async fn message_burst(target: &Target, messages: usize) -> Result<String, Failure> {
    let readers = Readers::connect(target).await?;
    let mut writer = target.connect(target.from).await?;
    let chat = new_chat(&mut writer).await?;
    let content = "many words ".repeat(1_000_000 / 11);
    let one =
        request("burst", "chat:add-message", &json!({"chatId": chat, "role": "user", "content": content}));
    let mut answers = Answers::default();
    let sent = writer.send(&one.repeat(messages)).await;
    let closed = match sent {
        Ok(()) => collect(&mut writer, &mut answers, messages, Instant::now() + PATIENCE).await,
        Err(error) => Some(error.to_string()),
    };
    readers.wait_for(messages).await;
    let closed = closed.map_or_else(String::new, |reason| format!(", writer {reason}"));
    let report = readers.report(messages);
    let mut cleaner = target.connect(target.from).await?;
    cleaner.call("chat:delete", &json!({"id": chat})).await?;
    Ok(format!("{messages} × 1 MB: {report}, {} of {messages} answered{closed}", answers.answered))
}

/// So many searches a second that match all messages.
pub async fn search(target: &Target, a_second: usize, length: Duration) -> Result<String, Failure> {
    let mut socket = target.connect(target.from).await?;
    let batch = request("search", "chat:search", &json!({"query": "common"})).repeat(a_second);
    let start = Instant::now();
    let (mut sent, mut answers) = (0, Answers::default());
    while start.elapsed() < length {
        if start.elapsed() >= Duration::from_secs((sent / a_second) as u64) {
            // The server stops reading while too many are in flight.
            match tokio::time::timeout_at(start + length, socket.send(&batch)).await {
                Err(_) => break,
                Ok(sent) => sent?,
            }
            sent += a_second;
        }
        let next = start + Duration::from_secs((sent / a_second) as u64);
        collect(&mut socket, &mut answers, usize::MAX, next.min(start + length)).await.map_or(Ok(()), Err)?;
    }
    let answered = answers.answered as f64 / length.as_secs_f64();
    Ok(format!("{sent} searches asked, {answered:.1} a second answered, {} refused", answers.refused))
}

/// Deletes a chat.
pub async fn delete(target: &Target, chat: &str) -> Result<String, Failure> {
    let mut socket = target.connect(target.from).await?;
    let start = Instant::now();
    let existed = socket.call("chat:delete", &json!({"id": chat})).await?;
    Ok(format!("answered {existed} after {}", shown(start.elapsed())))
}

/// A message of 15 MiB with escaped member names.
fn escaped_message() -> Vec<u8> {
    let members = r#""\u0061\u0062\u0063\u0064":1,"#.repeat(15 * MIB / 28);
    let mut out = Vec::new();
    let text = ["{", &members, r#""type":"request","id":"x","channel":"system:ping"}"#];
    frame::write_text(&mut out, Some(MASK), &text);
    out
}

/// Messages of 15 MiB with escaped member names, four a second on each connection: over the rate limit, or before
/// authentication.
pub async fn escapes(
    target: &Target,
    before_authentication: bool,
    connections: u64,
    length: Duration,
) -> Result<String, Failure> {
    let message = Rc::new(escaped_message());
    let (sent, closed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let end = Instant::now() + length;
    let mut tasks = JoinSet::new();
    for number in 0..connections {
        let (target, message) = (target.clone(), message.clone());
        let (sent, closed) = (sent.clone(), closed.clone());
        tasks.spawn_local(async move {
            sleep(Duration::from_millis(62 * number)).await;
            while Instant::now() < end {
                let life = send_escapes(&target, &message, before_authentication, end, &sent).await;
                closed.set(closed.get() + usize::from(life.is_err()));
                sleep(Duration::from_millis(250)).await;
            }
        });
    }
    while tasks.join_next().await.transpose()?.is_some() {}
    Ok(format!("{} messages of 15 MiB sent, {} connections closed", sent.get(), closed.get()))
}

async fn send_escapes(
    target: &Target,
    message: &[u8],
    before_authentication: bool,
    end: Instant,
    sent: &Cell<usize>,
) -> Result<(), Failure> {
    let mut socket = match before_authentication {
        true => Socket::greeted(target.dial(target.from).await?, None).await?,
        false => target.connect(target.from).await?,
    };
    let pings = request("ping", "system:ping", &Value::Null).repeat(100);
    let mut window = Instant::now();
    let mut next = Instant::now();
    while Instant::now() < end {
        if !before_authentication && Instant::now() >= window {
            window = Instant::now() + Duration::from_secs(1);
            socket.send(&pings).await?;
        }
        socket.send(message).await?;
        sent.set(sent.get() + 1);
        next = (next + Duration::from_millis(250)).max(Instant::now());
        let mut answers = Answers::default();
        if let Some(reason) = collect(&mut socket, &mut answers, usize::MAX, next).await {
            return Err(reason.into());
        }
        sleep_until(next).await;
    }
    Ok(())
}
