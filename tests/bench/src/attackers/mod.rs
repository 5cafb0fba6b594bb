//! Attackers, each of one kind: they misbehave for a while, at a bounded rate, and return what they saw. They connect from other
//! addresses than the clients that behave well, except where the kind is about one address.

pub mod floods;
pub mod memory;
pub mod order;
pub mod pages;
pub mod places;
pub mod work;

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::dice::Dice;
use crate::program::{Folder, Program};
use crate::wire::{Answer, Failure, LOCALHOST, Socket, dial, request};

/// The address of an attacker that is alone.
pub const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
pub const MIB: usize = 1 << 20;

/// The server that is attacked.
#[derive(Clone)]
pub struct Target {
    pub port: u16,
    pub process: u32,
    pub folder: PathBuf,
    pub token: Option<String>,
    /// The address of the attacker.
    pub from: Ipv4Addr,
    /// When the attack was over, if the attacker went on to watch the server.
    pub over: Rc<Cell<Option<Instant>>>,
}

impl Target {
    pub fn of(program: &Program, folder: PathBuf, token: Option<&str>) -> Target {
        Target {
            port: program.port,
            process: program.process(),
            folder,
            token: token.map(str::to_owned),
            from: ATTACKER,
            over: Rc::default(),
        }
    }

    /// The same server for another attacker, from an address of its own.
    pub fn for_another(&self, number: u8) -> Target {
        Target { from: Ipv4Addr::new(127, 0, 2, number), over: Rc::default(), ..self.clone() }
    }

    /// Connects with the token.
    pub async fn connect(&self, from: Ipv4Addr) -> Result<Socket, Failure> {
        timeout(PATIENCE, Socket::connect(self.port, from, self.token.as_deref())).await?
    }

    pub async fn dial(&self, from: Ipv4Addr) -> Result<TcpStream, Failure> {
        Ok(timeout(PATIENCE, dial(self.port, from)).await??)
    }
}

/// Makes a chat, and fills it with messages that all have the word `common`. The server must allow this rate of messages.
pub async fn fill_chat(target: &Target, messages: usize, bytes: usize) -> Result<String, Failure> {
    const AT_ONCE: usize = 200;
    let mut socket = target.connect(LOCALHOST).await?;
    let chat = socket.call("chat:create", &json!({"title": "filled"})).await?;
    let chat = chat["id"].as_str().ok_or("a chat without an id")?.to_owned();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut sent, mut answered) = (0, 0);
    while answered < messages {
        let mut out = Vec::new();
        for _ in 0..AT_ONCE.min(messages - sent) {
            let content = words(&mut dice, bytes);
            let message = json!({"chatId": chat, "role": "user", "content": content});
            out.extend_from_slice(&request("fill", "chat:add-message", &message));
            sent += 1;
        }
        socket.send(&out).await?;
        while answered < sent {
            let text = socket.text().await?;
            let Some(answer) = Answer::read(&text) else { continue };
            if answer.error.is_some() {
                return Err(String::from_utf8_lossy(&text).into());
            }
            answered += 1;
        }
    }
    Ok(chat)
}

/// Different words, as in a text: an index has an entry for each.
fn words(dice: &mut Dice, bytes: usize) -> String {
    let mut text = "common".to_owned();
    while text.len() + 7 < bytes {
        // Some words are frequent.
        let kinds = [50, 2000, 20_000][dice.below(3)];
        text += &format!(" w{}", dice.below(kinds));
    }
    text
}

/// Starts the program without its rate limit, does something with it, and stops it. Returns the folder with its data.
pub async fn prepared<T>(
    path: &str,
    folder: Folder,
    prepare: impl AsyncFnOnce(&Target) -> Result<T, Failure>,
) -> Result<(Folder, T), Failure> {
    let at = folder.path().to_owned();
    let program = Program::start(path, folder, &["--rate-limit", "1000000/1000"])?;
    let result = prepare(&Target::of(&program, at, None)).await?;
    Ok((program.stop()?, result))
}

/// Counts what came to one client that asks and reads.
#[derive(Default, Clone, Copy)]
pub struct Answers {
    pub answered: usize,
    pub refused: usize,
}

impl Answers {
    pub fn all(self) -> usize {
        self.answered + self.refused
    }

    /// Counts a message if it is a response.
    pub fn see(&mut self, text: &[u8]) -> bool {
        let answer = Answer::read(text);
        match &answer {
            Some(answer) if answer.error.is_some() => self.refused += 1,
            Some(_) => self.answered += 1,
            None => {}
        }
        answer.is_some()
    }
}

/// Reads until so many responses came, the connection closes or the time is over. Returns why it closed.
async fn collect(socket: &mut Socket, answers: &mut Answers, want: usize, end: Instant) -> Option<String> {
    while answers.all() < want {
        match tokio::time::timeout_at(end, socket.text()).await {
            Ok(Ok(text)) => _ = answers.see(&text),
            Ok(Err(error)) => return Some(error.to_string()),
            Err(_) => return None,
        }
    }
    None
}

/// A chat of its own.
async fn new_chat(socket: &mut Socket) -> Result<String, Failure> {
    let chat: Value = socket.call("chat:create", &json!({"title": "attacked"})).await?;
    Ok(chat["id"].as_str().ok_or("a chat without an id")?.to_owned())
}

/// A duration for a table: three digits, in ms or s.
pub fn shown(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        _ if ms < 10.0 => format!("{ms:.2} ms"),
        _ if ms < 1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1000.0),
    }
}
