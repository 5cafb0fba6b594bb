//! How a client connects: what it sends to be let in, and whether the server's answer is the right one.

use tokio::io::{AsyncReadExt, ReadHalf};

use super::super::wire::End;
use super::super::world::{Access, TOKEN, World};
use crate::support::random::Rng;
use crate::support::socket::upgrade;

/// A request for an upgrade.
pub struct Arrival {
    pub request: String,
    pub is_v1: bool,
    /// The credential in it, and its user.
    pub credential: Option<(usize, u64)>,
    /// Whether the token of the world is in it; `Some(false)` for another one.
    token: Option<bool>,
}

/// What the server has answered.
pub enum Answer {
    Refused,
    Upgraded {
        /// The close frame that comes next.
        refusal: Option<(u16, String)>,
        is_authenticated: bool,
    },
}

impl Arrival {
    pub fn new(world: &World, rng: &mut Rng, user: u64) -> Arrival {
        let is_v1 = rng.percent(60);
        let mut arrival = Arrival { request: String::new(), is_v1, credential: None, token: None };
        let sent = match world.access {
            Access::Token if rng.percent(60) => {
                let is_right = rng.percent(85);
                arrival.token = Some(is_right);
                Some(if is_right { TOKEN.replace(' ', "%20") } else { "guess".to_owned() })
            }
            Access::Users { .. } if rng.percent(80) => {
                let number = world.issue(rng, user, false, None);
                arrival.credential = Some((number, user));
                Some(World::token(number))
            }
            _ => None,
        };
        let v1 = if is_v1 { "Sec-WebSocket-Protocol: switchboard.v1\r\n" } else { "" };
        arrival.request = match (sent, rng.below(3)) {
            (None, _) => upgrade(v1),
            (Some(token), 0) => upgrade(v1).replace("/ws", &format!("/ws?token={token}")),
            // A space cannot be in the name of a subprotocol.
            (Some(token), 1) if !token.contains('%') => {
                let v1 = if is_v1 { "switchboard.v1, " } else { "" };
                upgrade(&format!("Sec-WebSocket-Protocol: {v1}bearer.{token}\r\n"))
            }
            (Some(token), _) => {
                upgrade(&format!("{v1}Authorization: Bearer {}\r\n", token.replace("%20", " ")))
            }
        };
        arrival
    }

    /// Reads the server's answer; `None` if the connection ends before.
    pub async fn answer(&self, world: &World, reader: &mut ReadHalf<End>) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(reader.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).expect("a head is text");
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        world.count(&format!("status {status}"));
        if status == 101 {
            let selected = head.to_lowercase().contains("sec-websocket-protocol: switchboard.v1\r\n");
            assert_eq!(selected, self.is_v1, "{head}");
            return Some(self.upgraded(world));
        }
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.expect("a length")];
        reader.read_exact(&mut body).await.ok()?;
        let body = String::from_utf8(body).expect("a body is text");
        world.note(|| format!("a client is refused with {status} {body}"));
        if (status, &*body) == (503, "Server is stopping") {
            assert!(world.is_quiet() || world.drains_until().is_some(), "the server goes on");
            return Some(Answer::Refused);
        }
        assert!(
            !self.is_v1 || status >= 500,
            "a client of switchboard.v1 is refused in the answer: {status}"
        );
        match world.access {
            Access::Open => panic!("{status} {body}"),
            Access::Token => assert_eq!((status, self.token, &*body), (401, Some(false), "Token is wrong")),
            Access::Users { .. } => {
                world.is_refused(self.credential.map(|(number, _)| number), status, &body)
            }
        }
        Some(Answer::Refused)
    }

    fn upgraded(&self, world: &World) -> Answer {
        let (lets_in, refuses) = (
            |is_authenticated| Answer::Upgraded { refusal: None, is_authenticated },
            |code, reason: &str| {
                assert!(self.is_v1, "it is upgraded, and would be closed with {code} {reason}");
                Answer::Upgraded { refusal: Some((code, reason.to_owned())), is_authenticated: false }
            },
        );
        match (world.access, self.credential) {
            (Access::Open, _) => lets_in(true),
            (Access::Token, _) => match self.token {
                Some(false) => refuses(4401, "Token is wrong"),
                sent => lets_in(sent.is_some()),
            },
            (Access::Users { lets_in: true }, None) => lets_in(false),
            (Access::Users { lets_in: false }, None) => refuses(4401, "unauthorized"),
            (Access::Users { .. }, Some((number, _))) => {
                let (decision, valid) = world
                    .with_credential(number, |credential| (credential.decision.clone(), credential.valid));
                let decision = decision.expect("nothing is answered before the decision");
                match decision.refusal {
                    Some(switchboard::Refusal::AwaitAuth) => lets_in(false),
                    Some(refusal) if refusal.is_forbidden() => refuses(4403, refusal.reason()),
                    Some(refusal) => refuses(4401, refusal.reason()),
                    None if valid.is_some_and(|valid| valid.is_zero()) => refuses(4401, "credential expired"),
                    None => lets_in(true),
                }
            }
        }
    }
}
