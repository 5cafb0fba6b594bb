//! A client of one seed: the client's machine on a simulated connection. It acts at random and
//! checks every message that it receives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::protocol::backoff::{Backoff, Ending};
use switchboard::protocol::caller::{Caller, CallerLimits, Due, Incoming};
use switchboard::protocol::connection::{Connection, Event};
use switchboard::protocol::error::ErrorCode;
use switchboard::protocol::frame;
use switchboard::protocol::payload::Payload;
use switchboard::protocol::session::MAX_INLINE_BYTES;
use switchboard::protocol::time::{Millis, Now};
use switchboard::protocol::uuid::Uuid;
use switchboard::{ClientId, Limited};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep, sleep_until};

use super::wire::{End, Weather, Wire};
use super::world::{ROOMS, SLACK, TOKEN, World};
use crate::support::random::Rng;
use crate::support::socket::{serve_hyper, upgrade};

/// The mask of every frame. Its value does not matter.
fn mask() -> [u8; 4] {
    [0x3d, 0x00, 0xff, 0x81]
}

/// How a client ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It continues as long as the connection does.
    Stays,
    /// It has started the close handshake.
    Closing,
    /// It sends nothing more, not even pongs, but reads.
    Mute,
    /// It has closed its half of the connection.
    HalfClosed,
    /// The connection is dead, and neither end was notified.
    Silent,
    /// It has broken the protocol.
    Rude,
}

/// A request without a response yet.
struct Asked {
    channel: &'static str,
    /// The channel of its events, and how many are still expected.
    own: Option<(u64, u64)>,
}

struct Talk {
    /// Whether it sends messages that are decoded apart.
    sends_large: bool,
    world: Arc<World>,
    rng: Rng,
    wire: Wire,
    started: Instant,
    caller: Caller,
    /// Reads the same bytes as the caller, and reports every message.
    shadow: Connection,
    manner: Manner,
    /// Whether it sends only requests for handlers, so that the rate window can be computed.
    is_plain: bool,
    id: Option<ClientId>,
    is_authenticated: bool,
    asked: HashMap<Uuid, Asked>,
    names: u64,
    /// Responses of handlers, and of the server instead of a handler.
    handled: usize,
    /// Messages without the id of a call that have no response yet.
    hostile: u64,
    /// Answers with `RATE_LIMITED`.
    refused: u64,
    wrong_tokens: u64,
    next_for_everyone: Option<u64>,
    next_for_you: u64,
    /// The last event of each group.
    last_of_room: HashMap<String, u64>,
    shutting_down: bool,
    closed: Option<(Option<u16>, String)>,
    out: Vec<u8>,
}

/// Connects, talks, disconnects and reconnects, until the world ends.
pub async fn live(world: Arc<World>, mut rng: Rng) {
    let mut backoff = Backoff::new(Duration::from_millis(100), 4, Duration::ZERO);
    sleep(Duration::from_millis(rng.below(300))).await;
    while !world.is_quiet() {
        if talk(&world, rng.fork()).await {
            backoff.handle_connected(Millis::default());
            backoff.handle_end(Millis::default(), Ending::Lost, false);
        }
        let Some(pause) = backoff.next_delay(rng.next() as u32) else { return };
        sleep(pause).await;
        world.count("came back");
    }
}

/// One connection, from its upgrade to its end. Returns whether the server saw a client.
async fn talk(world: &Arc<World>, mut rng: Rng) -> bool {
    let weather = Weather {
        max_delay_ms: rng.one_of(&[0, 0, 1, 5, 40]),
        capacity: rng.one_of(&[300, 2000, 64_000]),
        max_piece: rng.one_of(&[1, 7, 200, 200, 5000, 5000, 100_000, 100_000]),
    };
    let (wire, near, far) = Wire::new(weather, &mut rng);
    let server = world.server.clone();
    tokio::spawn(serve_hyper(server, far));
    let (mut reader, mut writer) = tokio::io::split(near);
    let shows_token = world.has_token && rng.percent(50);
    let token = if shows_token { format!("Authorization: Bearer {TOKEN}\r\n") } else { String::new() };
    let request = upgrade(&token);
    if writer.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match reader.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));

    let started = Instant::now();
    let limits = CallerLimits {
        ping_interval: Duration::from_millis(rng.between(300, 2000)),
        // A client without timeouts notices late errors that the others would miss.
        idle_timeout: Duration::from_millis(if rng.percent(50) {
            86_400_000
        } else {
            rng.between(2500, 6000)
        }),
        close_timeout: Duration::from_millis(500),
        ..CallerLimits::default()
    };
    let is_plain = rng.percent(50);
    let talk = Talk {
        sends_large: world.limits.max_message_bytes > MAX_INLINE_BYTES && weather.max_piece >= 5000,
        world: world.clone(),
        wire,
        started,
        caller: Caller::new(limits, mask, Millis(0)),
        shadow: Connection::client(usize::MAX, mask),
        manner: Manner::Stays,
        is_plain,
        id: None,
        is_authenticated: !world.has_token || shows_token,
        asked: HashMap::new(),
        names: 0,
        handled: 0,
        hostile: 0,
        refused: 0,
        wrong_tokens: 0,
        next_for_everyone: None,
        next_for_you: 0,
        last_of_room: HashMap::new(),
        shutting_down: false,
        closed: None,
        out: Vec::new(),
        rng,
    };
    talk.run(reader, writer).await;
    true
}

impl Talk {
    fn now(&self) -> Now {
        let at = Millis(self.started.elapsed().as_millis() as u64);
        Now { at, unix_ms: at.0 }
    }

    fn name(&self) -> String {
        self.id.map_or("a new client".to_owned(), |id| id.to_string())
    }

    async fn run(mut self, mut reader: ReadHalf<End>, mut writer: WriteHalf<End>) {
        let mut buffer = vec![0; 4096];
        let mut next_act = Instant::now();
        let mut deaf_until = Instant::now();
        loop {
            let now = Instant::now();
            let is_quiet = self.world.is_quiet();
            if now >= next_act && !is_quiet {
                deaf_until = deaf_until.max(now + self.act());
                let pause = if self.world.is_crowded { 8000 } else { 400 };
                next_act = now + Duration::from_millis(self.rng.between(1, pause));
            }
            self.say_what_waits();
            if self.manner == Manner::Silent {
                // The client is gone. Its connection stays open until the world ends.
                return std::future::pending().await;
            }
            if self.handle_deadline() || self.caller.is_finished() && self.out.is_empty() {
                break;
            }
            if self.manner == Manner::HalfClosed {
                let _ = writer.shutdown().await;
            }
            if matches!(self.manner, Manner::Mute | Manner::HalfClosed) {
                self.out.clear();
            }
            let mut wake = self.started + Duration::from_millis(self.caller.deadline().0.min(1 << 32));
            let is_deaf = now < deaf_until && !is_quiet;
            if !is_quiet {
                wake = wake.min(next_act);
            }
            tokio::select! {
                biased;
                sent = writer.write(&self.out), if !self.out.is_empty() => match sent {
                    Ok(sent) => drop(self.out.drain(..sent)),
                    Err(_) => break,
                },
                read = reader.read(&mut buffer), if !is_deaf => match read {
                    Ok(0) | Err(_) => break,
                    Ok(count) => self.take(&mut buffer[..count]),
                },
                () = sleep_until(wake.max(now + Duration::from_millis(1))) => {}
            }
        }
        self.end();
    }

    /// Reports to the world how many responses are expected.
    fn say_what_waits(&self) {
        let waits = match self.manner {
            Manner::Stays if self.caller.is_open() => self.asked.len() as u64 + self.hostile,
            _ => 0,
        };
        self.world.waits_for(&self.wire, waits);
    }

    /// The caller's deadlines. Returns whether the connection must be cut.
    fn handle_deadline(&mut self) -> bool {
        let now = self.now();
        if now.at < self.caller.deadline() {
            return false;
        }
        match self.caller.handle_deadline(now, &mut self.out) {
            Some(Due::Expired((id, error))) => {
                panic!("{}: no response to {id}, which has no timeout: {error}", self.name());
            }
            Some(Due::Cut) => {
                self.world.count("client gave up");
                true
            }
            None => false,
        }
    }

    // Actions.

    /// Takes one action, and returns how long it does not read after it.
    fn act(&mut self) -> Duration {
        if !self.caller.is_open() || self.manner != Manner::Stays {
            return Duration::ZERO;
        }
        match self.rng.below(1000) {
            0..560 => self.call(),
            560..640 => {
                for _ in 0..self.rng.between(2, 60) {
                    self.call();
                }
            }
            640..760 if !self.is_plain => self.be_hostile(),
            640..760 => {}
            760..800 => frame::write(&mut self.out, frame::PING, Some(mask()), [&b"?"[..]]),
            800..860 => {
                self.world.count("stalled");
                return Duration::from_millis(self.rng.between(10, 4000));
            }
            860..890 => {
                self.world.note(|| format!("{} closes", self.name()));
                self.manner = Manner::Closing;
                let now = self.now();
                self.caller.close(now.at, &mut self.out);
                self.world.count("closed by client");
            }
            890..905 => self.behave(Manner::Mute),
            905..920 => self.behave(Manner::HalfClosed),
            920..935 => {
                self.behave(Manner::Silent);
                self.wire.fall_silent();
            }
            935..950 => {
                self.world.note(|| format!("{} is reset", self.name()));
                self.world.count("reset");
                self.wire.reset();
            }
            950..960 if !self.is_plain => self.break_protocol(),
            _ => {}
        }
        Duration::ZERO
    }

    fn behave(&mut self, manner: Manner) {
        self.world.note(|| format!("{} is {manner:?} from now on", self.name()));
        self.world.count(&format!("{manner:?}"));
        self.manner = manner;
    }

    fn call(&mut self) {
        let world = self.world.clone();
        let mut own = None;
        let name = self.names;
        self.names += 1;
        let (channel, payload) = match self.rng.below(14) {
            _ if !self.is_authenticated && self.rng.percent(40) => {
                let token = if self.rng.percent(70) { TOKEN } else { "guess" };
                self.wrong_tokens += u64::from(token != TOKEN);
                ("auth", json!({"token": token}))
            }
            // Before authentication they are too big.
            0..3 if self.sends_large && self.is_authenticated && self.rng.percent(30) => {
                world.count("large");
                let text = "x".repeat(MAX_INLINE_BYTES + self.rng.below(30_000) as usize);
                match self.rng.percent(50) {
                    true => ("echo", json!({"name": name, "text": text})),
                    false => ("wait", json!({"ms": self.rng.between(0, 1500), "text": text})),
                }
            }
            0..3 => ("echo", json!({"name": name, "text": "é\u{1f600}\"\\"})),
            3 | 4 => ("wait", json!({"ms": self.rng.between(0, 1500)})),
            5 => ("fail", Value::Null),
            6 => ("panic", if self.rng.percent(50) { json!({}) } else { json!({"ms": self.rng.below(50)}) }),
            7 => ("never", json!([])),
            8 => ("big", json!({"bytes": self.rng.below(6000)})),
            9 if !self.is_plain => ("unknown", json!(null)),
            // With many clients, that would be one event per request and client.
            10 if !self.world.is_crowded => ("all", json!({})),
            11 | 12 => {
                let room = self.rng.one_of(&ROOMS);
                (if self.rng.percent(60) { "join" } else { "leave" }, json!({"room": room}))
            }
            _ => {
                let events = self.rng.below(9);
                own = Some((name, events));
                ("own", json!({"name": name, "events": events, "pauses": self.rng.percent(50)}))
            }
        };
        let id = Uuid::from_random(random_bytes(&mut self.rng));
        let now = self.now();
        let called = self.caller.call(
            now,
            id,
            channel,
            &Payload::from(payload),
            Duration::from_secs(86_400),
            &mut self.out,
        );
        if called.is_ok() {
            world.note(|| format!("{} calls {channel} as {id}", self.name()));
            self.asked.insert(id, Asked { channel, own });
        }
    }

    /// Sends a message that is not a request. It is answered too.
    fn be_hostile(&mut self) {
        let text = self.rng.one_of(&[
            "",
            "{",
            "null",
            "[]",
            r#"{"type":"response","id":"hostile","channel":"echo"}"#,
            r#"{"type":"request","id":7,"channel":"echo"}"#,
            r#"{"type":"request","id":"hostile"}"#,
            r#"{"type":"request","id":"hostile","channel":""}"#,
            r#"{"type":"request","id":"","channel":"echo","payload":{"a":[1,2,{"b":null}]}}"#,
        ]);
        self.world.note(|| format!("{} says {text}", self.name()));
        let opcode = if self.rng.percent(50) { frame::TEXT } else { frame::BINARY };
        frame::write(&mut self.out, opcode, Some(mask()), [text.as_bytes()]);
        self.hostile += 1;
    }

    /// Sends bytes that end the connection.
    fn break_protocol(&mut self) {
        self.world.note(|| format!("{} breaks the protocol", self.name()));
        self.behave(Manner::Rude);
        match self.rng.below(3) {
            0 => frame::write(&mut self.out, frame::TEXT, None, [&b"unmasked"[..]]),
            1 => self.out.extend_from_slice(&[0x81, 0xff, 0, 0, 0, 0, 0xff, 0, 0, 0, 1, 2, 3, 4]),
            _ => frame::write(&mut self.out, frame::TEXT, Some(mask()), [&b"\xff"[..]]),
        }
    }

    // Messages.

    fn take(&mut self, bytes: &mut [u8]) {
        self.look(&mut bytes.to_vec());
        let mut used = 0;
        while used < bytes.len() {
            let now = self.now();
            let step = self.caller.handle_input(now, &mut bytes[used..], &mut self.out);
            used += step.consumed;
            match step.action {
                None | Some(Incoming::Event { .. }) => {}
                Some(Incoming::Response { id, result }) => {
                    assert!(
                        !self.asked.contains_key(&id),
                        "{id}: the machine has an answer that did not come"
                    );
                    let code = result.map_or_else(|error| error.code.label(), |_| "answered");
                    self.world.count(code);
                }
                Some(Incoming::Closed { code, reason }) => {
                    assert_eq!(self.closed, Some((code, reason)), "both readings agree");
                }
            }
        }
    }

    /// Checks every message before the caller reads it.
    fn look(&mut self, bytes: &mut [u8]) {
        let mut used = 0;
        while used < bytes.len() {
            assert!(self.closed.is_none(), "{}: bytes after the close frame", self.name());
            let mut ignored = Vec::new();
            let received = self.shadow.receive(&mut bytes[used..], &mut ignored);
            used += received.consumed;
            match received.event {
                None => {}
                Some(Event::Text(text)) => {
                    let message: Value = serde_json::from_str(&text).expect("the server speaks JSON");
                    self.message(&message);
                }
                Some(Event::Binary(_)) => panic!("a server sends text"),
                Some(Event::Failed(violation)) => panic!("the server broke the protocol: {violation:?}"),
                Some(Event::Closed { code, reason }) => self.closed(code, reason),
            }
        }
    }

    fn message(&mut self, message: &Value) {
        self.world.note(|| {
            format!("{} gets {}", self.name(), message.to_string().chars().take(160).collect::<String>())
        });
        let payload = &message["payload"];
        let channel = message["channel"].as_str().expect("a channel");
        if self.id.is_none() {
            assert_eq!(
                (&message["type"], channel),
                (&json!("event"), "server:connected"),
                "what comes first"
            );
            let id: ClientId = payload["clientId"].as_str().and_then(|id| id.parse().ok()).expect("an id");
            self.id = Some(id);
            self.world.met(id, &self.wire);
            return;
        }
        match message["type"].as_str() {
            Some("event") => self.event(channel, payload),
            Some("response") => self.response(message),
            _ => panic!("a response or an event: {message}"),
        }
    }

    fn event(&mut self, channel: &str, payload: &Value) {
        let n = payload["n"].as_u64();
        assert!(self.is_authenticated, "{}: {channel} before authentication", self.name());
        assert!(!self.shutting_down, "{}: {channel} after server:shutdown", self.name());
        if let (Some(id), Some(n), "everyone" | "at-once") = (self.id, n, channel) {
            self.world.saw(id, channel, n);
        }
        match channel {
            "at-once" => {
                let is_in = self.id.is_some_and(|id| self.world.is_in_loud(id));
                assert!(payload["group"].is_null() || is_in, "{}: an event of another group", self.name());
            }
            "room" => {
                let room = payload["room"].as_str().expect("a group");
                let last = self.last_of_room.get(room).copied();
                let expected = self.id.and_then(|id| self.world.next_of_room(id, room, last));
                assert_eq!(n, expected, "{}: events of {room} while it is in it, in order", self.name());
                self.last_of_room.insert(room.to_owned(), n.expect("a number"));
            }
            "server:shutdown" => self.shutting_down = true,
            "everyone" => {
                let expected = self.next_for_everyone.or(n);
                assert_eq!(
                    n,
                    expected,
                    "{}: events for every client, in order and without a gap",
                    self.name()
                );
                self.next_for_everyone = n.map(|n| n + 1);
            }
            "you" => {
                assert_eq!(payload["to"], self.name(), "an event for another client");
                assert_eq!(
                    n,
                    Some(self.next_for_you),
                    "{}: its own events, in order and without a gap",
                    self.name()
                );
                self.next_for_you += 1;
            }
            "own" => {
                let name = payload["of"].as_u64();
                let asked = self.asked.values_mut().filter_map(|asked| asked.own.as_mut());
                let (_, left) = asked
                    .into_iter()
                    .find(|(asked, _)| Some(*asked) == name)
                    .expect("an event of a pending request");
                *left -= 1;
            }
            _ => panic!("an event that was not emitted: {channel}"),
        }
        self.world.count(&format!("event {channel}"));
    }

    fn response(&mut self, message: &Value) {
        let code = message["error"]["code"].as_str().unwrap_or_default();
        self.refused += u64::from(code == "RATE_LIMITED");
        let id = match message["id"].as_str() {
            Some("rate_limited") => message["error"]["details"]["requestId"].as_str(),
            id => id,
        };
        let Some(id) = id.and_then(|id| id.parse::<Uuid>().ok()) else {
            assert!(["INVALID_MESSAGE", "RATE_LIMITED", "UNAUTHORIZED"].contains(&code), "{message}");
            self.hostile = self.hostile.checked_sub(1).expect("one answer for each message");
            self.world.count(code);
            return;
        };
        let asked =
            self.asked.remove(&id).unwrap_or_else(|| panic!("answered twice, or never requested: {message}"));
        if self.shutting_down {
            assert_eq!(code, ErrorCode::ConnectionClosed.as_str(), "after server:shutdown: {message}");
        }
        if code.is_empty() {
            let left = asked.own.map_or(0, |(_, left)| left);
            assert_eq!(left, 0, "{}: a response before {left} of its events", asked.channel);
            assert!(!["fail", "panic", "never", "unknown"].contains(&asked.channel), "{message}");
            self.is_authenticated |= asked.channel == "auth";
        }
        let expected: &[&str] = match asked.channel {
            "fail" | "panic" => &["HANDLER_ERROR"],
            "never" => &["TIMEOUT"],
            "unknown" => &["UNKNOWN_CHANNEL"],
            "wait" => &["", "TIMEOUT"],
            // The second is for one group too many.
            "big" | "join" => &["", "HANDLER_ERROR"],
            _ => &[""],
        };
        let always = ["RATE_LIMITED", "UNAUTHORIZED", "CONNECTION_CLOSED"];
        assert!(expected.contains(&code) || always.contains(&code), "{}: {message}", asked.channel);
        let is_handlers = !["auth", "unknown"].contains(&asked.channel);
        self.handled += usize::from(is_handlers && !["RATE_LIMITED", "UNAUTHORIZED"].contains(&code));
        assert!(code != "UNAUTHORIZED" || !self.is_authenticated || asked.channel == "auth", "{message}");
    }

    fn closed(&mut self, code: Option<u16>, reason: String) {
        self.world.note(|| format!("{} is closed with {code:?} {reason}", self.name()));
        self.world.count(&format!("closed {} {reason}", code.unwrap_or(1005)));
        let limits = &self.world.limits;
        match (code, reason.as_str()) {
            (Some(1001), "idle timeout") => {
                let silence = self.wire.longest_silence();
                assert!(silence + SLACK >= limits.idle_timeout, "closed after {silence:?} of silence");
            }
            (Some(1001), "server stopping") => {
                assert_eq!(
                    self.shutting_down, self.is_authenticated,
                    "server:shutdown, then the close frame"
                );
                let handled = self.id.map_or(0, |id| self.world.handled(id));
                assert_eq!(self.handled, handled, "each request that was read is answered before the end");
            }
            (Some(1000), _) => assert_eq!(self.manner, Manner::Closing),
            (Some(1008), "authentication timeout") => assert!(!self.is_authenticated),
            (Some(1008), "slow consumer") => {}
            (Some(1008), "too many refused messages") => {
                let least = u64::from(limits.rate_max_requests) * 10;
                assert!(self.refused + 1 >= least, "closed after {} refusals", self.refused);
            }
            (Some(1008), "too many wrong tokens") => {
                assert!(self.wrong_tokens >= u64::from(limits.max_auth_attempts), "{}", self.wrong_tokens);
            }
            (Some(1008), "not authenticated while others wait") => {
                assert!(self.world.server.stats().limited_by(Limited::Unauthenticated) > 0);
            }
            (Some(1013), "server out of memory for messages")
            | (Some(1008), "message too slow while others wait") => {
                assert!(self.world.server.stats().limited_by(Limited::Memory) > 0);
            }
            (Some(1002 | 1007 | 1009), _) => assert_eq!(self.manner, Manner::Rude),
            _ => panic!("{}: closed with {code:?} {reason}", self.name()),
        }
        self.closed = Some((code, reason));
    }

    fn end(&self) {
        self.world.note(|| format!("{}'s connection is over", self.name()));
        self.world.waits_for(&self.wire, 0);
        if let Some(id) = self.id.filter(|_| self.is_plain && !self.world.has_token) {
            self.world.check_rate(id);
        }
    }
}

fn random_bytes(rng: &mut Rng) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&rng.next().to_le_bytes());
    bytes[8..].copy_from_slice(&rng.next().to_le_bytes());
    bytes
}
