//! One client: what it does next, and what it may receive.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::protocol::frame::{self, OpCode};
use switchboard_bench::dice::Dice;
use switchboard_bench::wire::{Failure, MASK, Socket, closed};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::order::Reader;
use super::shared::{Soak, count};

/// A response that takes longer counts as missing.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// More than the limit of the server, 100 a second.
const OVER_THE_RATE: usize = 130;
/// Chats are created below the start of this range, and deleted above its end.
const CHATS: std::ops::Range<usize> = 10..50;

pub struct Asked {
    channel: &'static str,
    at: Instant,
}

pub struct Client {
    soak: Rc<Soak>,
    socket: Socket,
    pub asked: HashMap<String, Asked>,
    last_id: u64,
    /// Messages without an id that are not answered yet.
    pub nameless: u64,
    /// Until when a request can exceed the rate.
    bursting: Instant,
    pub keeps_chats: bool,
    reader: Reader,
}

impl Client {
    pub async fn connect(soak: &Rc<Soak>, small_window: bool) -> Result<Client, Failure> {
        let socket = TcpSocket::new_v4()?;
        if small_window {
            socket.set_recv_buffer_size(4096)?;
        }
        let stream = socket.connect(([127, 0, 0, 1], soak.port).into()).await?;
        stream.set_nodelay(true)?;
        Ok(Client {
            soak: soak.clone(),
            socket: Socket::greeted(stream, None).await?,
            asked: HashMap::new(),
            last_id: 0,
            nameless: 0,
            bursting: Instant::now(),
            keeps_chats: false,
            reader: Reader::default(),
        })
    }

    /// Adds a request to `out`.
    pub fn request(&mut self, out: &mut Vec<u8>, channel: &'static str, payload: Value) {
        self.last_id += 1;
        let id = format!("r{}", self.last_id);
        let text = json!({"type": "request", "id": id, "channel": channel, "payload": payload}).to_string();
        frame::write_text(out, Some(MASK), &[&text]);
        self.asked.insert(id, Asked { channel, at: Instant::now() });
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.socket.send(bytes).await
    }

    async fn ask(&mut self, channel: &'static str, payload: Value) -> Result<(), Failure> {
        let mut out = Vec::new();
        self.request(&mut out, channel, payload);
        self.send(&out).await
    }

    /// Receives until then.
    pub async fn listen_until(&mut self, end: Instant) -> Result<(), Failure> {
        loop {
            while let Some((opcode, payload)) = self.socket.frame()? {
                self.take(opcode, &payload).await?;
            }
            tokio::select! {
                read = self.socket.read() => read?,
                () = sleep_until(end) => break,
            }
        }
        let soak = self.soak.clone();
        self.asked.retain(|id, asked| {
            let waits = asked.at.elapsed() < PATIENCE;
            if !waits {
                soak.unexpected(&format!("no answer to {id} on {}", asked.channel));
            }
            waits
        });
        if soak.order.borrow().is_missing(&mut self.reader, PATIENCE) {
            soak.unexpected("an event that others have had long since");
        }
        Ok(())
    }

    async fn take(&mut self, opcode: OpCode, payload: &[u8]) -> Result<(), Failure> {
        match opcode {
            frame::TEXT => self.message(payload)?,
            frame::PING => self.socket.pong(payload).await?,
            frame::CLOSE => return Err(closed(payload).into()),
            other => return Err(format!("unexpected frame {other:?}").into()),
        }
        Ok(())
    }

    fn message(&mut self, text: &[u8]) -> Result<(), Failure> {
        let message: &Value = &serde_json::from_slice(text)?;
        let soak = self.soak.clone();
        if message["type"] == "event" {
            match event_is_right(message) {
                true => count(&soak.events),
                false => soak.unexpected(&format!("event {message}")),
            }
            // Heartbeats are not ordered with the changes: clients can receive them at different places.
            if message["channel"] != "server:heartbeat"
                && let Err(fault) = soak.order.borrow_mut().see(&mut self.reader, text)
            {
                soak.unexpected(&format!("{fault}: {message}"));
            }
            if self.keeps_chats {
                keep_chats(&soak, message);
            }
            return Ok(());
        }
        let error = &message["error"];
        match (message["id"].as_str(), error["code"].as_str()) {
            (Some("invalid_message"), Some("INVALID_MESSAGE")) if self.nameless > 0 => {
                self.nameless -= 1;
                count(&soak.invalid);
            }
            (Some("rate_limited"), Some("RATE_LIMITED")) => {
                let id = error["details"]["requestId"].as_str().unwrap_or_default();
                if self.asked.remove(id).is_none() || self.bursting < Instant::now() {
                    soak.unexpected(&format!("refused {message}"));
                }
                count(&soak.rate_limited);
            }
            (Some(id), code) => match self.asked.remove(id) {
                None => soak.unexpected(&format!("answer to nothing {message}")),
                Some(asked) => self.answer(&asked, code, message),
            },
            _ => soak.unexpected(&format!("message {message}")),
        }
        Ok(())
    }

    fn answer(&mut self, asked: &Asked, code: Option<&str>, message: &Value) {
        let soak = &self.soak;
        let about_a_chat = matches!(asked.channel, "chat:get-messages" | "chat:add-message");
        match code {
            Some("INVALID_MESSAGE") if asked.channel.is_empty() => count(&soak.invalid),
            Some("UNKNOWN_CHANNEL") if asked.channel == "no:such" => count(&soak.answered),
            Some("HANDLER_ERROR") if about_a_chat && message["error"]["details"]["path"] == "chatId" => {
                count(&soak.gone);
            }
            None if message["channel"] == asked.channel
                && payload_is_right(asked.channel, &message["payload"]) =>
            {
                count(&soak.answered);
            }
            _ => soak.unexpected(&format!("{} answered by {message}", asked.channel)),
        }
    }

    /// Performs one action of a client.
    pub async fn act(&mut self, dice: &mut Dice) -> Result<Duration, Failure> {
        let pause = Duration::from_millis(1000 + dice.below(2000) as u64);
        // About three changes a second for any number of clients, because each change reaches all of them.
        if dice.below(self.soak.clients) < 6 {
            self.change(dice).await?;
            return Ok(pause);
        }
        match dice.below(400) {
            0 => {
                let mut out = Vec::new();
                for _ in 0..OVER_THE_RATE {
                    self.request(&mut out, "system:ping", Value::Null);
                }
                self.bursting = Instant::now() + PATIENCE;
                self.send(&out).await?;
                // Until the window is empty again.
                self.listen_until(Instant::now() + Duration::from_secs(3)).await?;
            }
            1..=2 => self.ask("chat:search", json!({"query": "lemon gard"})).await?,
            3..=20 => self.invalid(dice).await?,
            21..=22 => {
                let mut out = Vec::new();
                for _ in 0..20 {
                    self.request(&mut out, "system:channels", Value::Null);
                }
                self.socket.stream.write_all(&out).await?;
                sleep(Duration::from_millis(3000 + dice.below(4000) as u64)).await;
            }
            23..=60 => self.ask("chat:list", json!({"limit": 5})).await?,
            61..=100 => {
                let chat = self.any_chat(dice);
                self.ask("chat:get-messages", json!({"chatId": chat, "limit": 5})).await?;
            }
            101..=150 => self.ask("settings:get", json!({"key": "theme"})).await?,
            151..=160 => self.ask("settings:get-all", Value::Null).await?,
            161..=170 => self.ask("no:such", json!([1])).await?,
            _ => self.ask("system:ping", Value::Null).await?,
        }
        Ok(pause)
    }

    fn any_chat(&self, dice: &mut Dice) -> String {
        let chats = self.soak.chats.borrow();
        chats.get(dice.below(chats.len())).cloned().unwrap_or_else(|| "none".to_owned())
    }

    async fn change(&mut self, dice: &mut Dice) -> Result<(), Failure> {
        let chats = self.soak.chats.borrow().len();
        let chat = self.any_chat(dice);
        match dice.below(6) {
            0 => {
                let theme = ["light", "dark", "system"][dice.below(3)];
                self.ask("settings:set", json!({"key": "theme", "value": theme})).await
            }
            _ if chats < CHATS.start => self.ask("chat:create", json!({"title": "A chat"})).await,
            _ if chats > CHATS.end => self.ask("chat:delete", json!({"id": chat})).await,
            1 => self.ask("chat:create", json!({"title": "Another"})).await,
            2 => self.ask("chat:delete", json!({"id": chat})).await,
            _ => {
                let words = ["lemon", "garden", "kitchen", "island", "orange", "forest", "morning"];
                let text: Vec<_> = (0..40).map(|_| words[dice.below(words.len())]).collect();
                let message = json!({"chatId": chat, "role": "user", "content": text.join(" ")});
                self.ask("chat:add-message", message).await
            }
        }
    }

    async fn invalid(&mut self, dice: &mut Dice) -> Result<(), Failure> {
        let mut out = Vec::new();
        if dice.below(2) == 0 {
            self.nameless += 1;
            frame::write_text(&mut out, Some(MASK), &["{\"type\":\"request\",\"id\":"]);
        } else {
            self.last_id += 1;
            let id = format!("r{}", self.last_id);
            frame::write_text(&mut out, Some(MASK), &["{\"type\":\"request\",\"id\":\"", &id, "\"}"]);
            self.asked.insert(id, Asked { channel: "", at: Instant::now() });
        }
        self.send(&out).await
    }

    /// Closes properly: our close frame, that of the server, end of stream.
    pub async fn close(mut self) -> Result<(), Failure> {
        let mut out = Vec::new();
        frame::write(&mut out, frame::CLOSE, Some(MASK), [1000_u16.to_be_bytes().as_slice()]);
        self.send(&out).await?;
        let closed = async {
            let mut is_closed = false;
            loop {
                while let Some((opcode, payload)) = self.socket.frame()? {
                    match opcode {
                        frame::CLOSE => is_closed = payload.starts_with(&1000_u16.to_be_bytes()),
                        frame::TEXT => self.message(&payload)?,
                        _ => {}
                    }
                }
                if let Err(error) = self.socket.read().await {
                    let ended = is_closed && !error.is::<std::io::Error>();
                    return if ended { Ok(()) } else { Err::<(), Failure>(error) };
                }
            }
        };
        timeout(PATIENCE, closed).await.map_err(|_| "no close frame in answer")?
    }

    /// Disconnects in one of the ways in which clients do.
    pub async fn leave(mut self, dice: &mut Dice) -> Result<(), Failure> {
        let mut out = Vec::new();
        match dice.below(5) {
            0 => return self.close().await,
            1 => {}
            2 => self.socket.stream.set_zero_linger()?,
            3 => {
                self.request(&mut out, "system:ping", Value::Null);
                out.truncate(2 + dice.below(out.len() - 2));
                self.send(&out).await?;
            }
            _ => {
                self.request(&mut out, "chat:search", json!({"query": "orange"}));
                self.request(&mut out, "system:channels", Value::Null);
                self.send(&out).await?;
            }
        }
        Ok(())
    }
}

fn event_is_right(message: &Value) -> bool {
    let payload = &message["payload"];
    message["timestamp"].is_u64()
        && match message["channel"].as_str() {
            Some("chat:created" | "chat:updated" | "chat:deleted") => payload["id"].is_string(),
            Some("chat:message-added") => payload["chatId"].is_string() && payload["content"].is_string(),
            Some("settings:changed") => payload["key"] == "theme",
            Some("server:heartbeat") => payload["timestamp"].is_u64(),
            _ => false,
        }
}

fn payload_is_right(channel: &str, payload: &Value) -> bool {
    match channel {
        "system:ping" => payload["timestamp"].is_u64(),
        "system:channels" => payload.to_string().len() > 1000,
        "chat:list" => payload.as_array().is_some_and(|chats| chats.len() <= 5),
        "chat:search" => {
            payload.as_array().is_some_and(|hits| hits.iter().all(|hit| hit["snippet"].is_string()))
        }
        "chat:get-messages" => payload["messages"].as_array().is_some_and(|messages| messages.len() <= 5),
        "chat:create" | "chat:add-message" => payload["id"].is_string(),
        "chat:delete" => payload.is_boolean(),
        "settings:get" => payload.is_string(),
        "settings:get-all" => payload["theme"].is_string(),
        "settings:set" => payload.is_null(),
        _ => false,
    }
}

fn keep_chats(soak: &Soak, message: &Value) {
    let Some(id) = message["payload"]["id"].as_str() else { return };
    let mut chats = soak.chats.borrow_mut();
    if message["channel"] == "chat:created" {
        chats.push(id.to_owned());
    } else if message["channel"] == "chat:deleted" {
        chats.retain(|chat| chat != id);
    }
}
