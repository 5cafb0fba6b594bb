//! What a client does: requests, garbage, silence, and new credentials.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::protocol::frame;
use switchboard::protocol::payload::Payload;
use switchboard::protocol::session::MAX_INLINE_BYTES;
use switchboard::protocol::uuid::Uuid;
use tokio::time::Instant;

use super::super::world::{Access, ROOMS, TOKEN, USERS, World};
use super::{Asked, Manner, Sent, Talk, mask};
use crate::support::random::Rng;

impl Talk {
    /// Takes one action, and returns how long it does not read after it.
    pub(super) fn act(&mut self) -> Duration {
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
        let (channel, payload) = match self.world.access {
            Access::Token if !self.is_authenticated && self.rng.percent(40) => {
                let token = if self.rng.percent(70) { TOKEN } else { "guess" };
                self.wrong_tokens += u64::from(token != TOKEN);
                ("auth", json!({"token": token}))
            }
            Access::Users { .. } if self.rng.percent(if self.is_authenticated { 4 } else { 40 }) => {
                return self.renew();
            }
            // Before authentication they are too big.
            _ if self.sends_large && self.is_authenticated && self.rng.percent(7) => {
                self.world.count("large");
                let text = "x".repeat(MAX_INLINE_BYTES + self.rng.below(30_000) as usize);
                match self.rng.percent(50) {
                    true => ("echo", json!({"name": self.names, "text": text})),
                    false => ("wait", json!({"ms": self.rng.between(0, 1500), "text": text})),
                }
            }
            _ => self.any_request(),
        };
        self.request(channel, payload);
    }

    fn any_request(&mut self) -> (&'static str, Value) {
        match self.rng.below(21) {
            0..3 => ("echo", json!({"name": self.names, "text": "é\u{1f600}\"\\"})),
            3 | 4 => ("wait", json!({"ms": self.rng.between(0, 1500)})),
            5 => ("fail", Value::Null),
            6 => ("panic", if self.rng.percent(50) { json!({}) } else { json!({"ms": self.rng.below(50)}) }),
            7 => ("never", json!([])),
            8 => ("big", json!({"bytes": self.rng.below(6000)})),
            9 if !self.is_plain => ("unknown", json!(null)),
            // With many clients, that would be one event per request and client.
            10 if !self.world.is_crowded => ("all", json!({})),
            11 | 12 => {
                let room = self.rng.one_of(&ROOMS[..3]);
                (if self.rng.percent(60) { "join" } else { "leave" }, json!({"room": room}))
            }
            13 => ("admin:join", json!({})),
            14 if !self.is_plain => ("limited", json!({})),
            15 => ("whoami", json!({})),
            16 if !self.is_plain => (self.rng.one_of(&["admin:later", "guard:panic"]), Value::Null),
            17 if self.rng.percent(10) => ("sign-out", json!(self.rng.next())),
            _ => {
                let (name, events) = (self.names, self.rng.below(9));
                ("own", json!({"name": name, "events": events, "pauses": self.rng.percent(50)}))
            }
        }
    }

    fn request(&mut self, channel: &'static str, payload: Value) -> Option<Uuid> {
        let own = (channel == "own").then(|| (self.names, payload["events"].as_u64().unwrap_or_default()));
        self.names += 1;
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
        called.ok()?;
        self.world.note(|| format!("{} calls {channel} as {id}", self.name()));
        self.asked.insert(id, Asked { channel, own, after: self.credentials.len() });
        Some(id)
    }

    /// Sends a new credential, and sometimes what must be handled after it.
    pub(super) fn renew(&mut self) {
        self.renews_at = None;
        if !self.caller.is_open() || self.manner != Manner::Stays {
            return;
        }
        for _ in 0..if self.rng.percent(15) { 2 } else { 1 } {
            let is_other = self.rng.percent(12);
            let user = if is_other { self.rng.below(USERS) } else { self.user };
            let number = self.world.issue(&mut self.rng, user, true, self.identity);
            let Some(request) = self.request("auth", json!({"token": World::token(number)})) else { return };
            let request = Some(request);
            self.credentials.push(Sent { number, request, is_accepted: false, is_announced: false });
            self.world.note(|| format!("{} sends credential {number} of user {user}", self.name()));
        }
        for _ in 0..self.rng.below(3) {
            self.request("whoami", json!({}));
        }
    }

    /// The credential expires. Returns when the client sends the next one; some are late, and some send none.
    pub(super) fn plans(&mut self, left: Duration) -> Option<Instant> {
        let left_ms = left.as_millis() as u64;
        let pause = match self.rng.below(100) {
            0..20 => 0,
            20..75 => self.rng.below(left_ms + 1),
            75..90 => left_ms + self.rng.below(50),
            _ => return None,
        };
        Some(Instant::now() + Duration::from_millis(pause))
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
}

fn random_bytes(rng: &mut Rng) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&rng.next().to_le_bytes());
    bytes[8..].copy_from_slice(&rng.next().to_le_bytes());
    bytes
}
