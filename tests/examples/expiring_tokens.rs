//! Tokens that expire: `cargo run --example expiring_tokens`. A client exchanges a long-lived secret for a token at
//! `/token?token=a-long-lived-secret`, and connects with the token. Shortly before it expires the server sends `auth:expiring`;
//! the client sends another token on channel `auth` of the same connection, and its calls continue.
//!
//! ```js
//! const token = async () => (await fetch("http://localhost:3001/token?token=a-long-lived-secret")).text();
//! const client = new WSClient({ url: "ws://localhost:3001", token });
//! ```
//!
//! The first argument is the port, the second one how many milliseconds a token lives (5000).

use std::collections::HashMap;
use std::env::args;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use switchboard::{Attempt, Config, HandlerError, Identity, Page, Payload, Refusal, RequestContext, Server};

/// A real program would look it up, and store a hash of it.
const SECRET: &str = "a-long-lived-secret";
const USER: &str = "user:7";

/// The tokens that have not expired, with their expiry in Unix milliseconds.
struct Tokens {
    life: u64,
    issued: Mutex<HashMap<String, u64>>,
}

impl Tokens {
    fn issue(&self) -> Option<String> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).ok()?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.retain(|_, expiry| *expiry > now());
        issued.insert(token.clone(), now() + self.life);
        Some(token)
    }

    fn verify(&self, token: &str) -> Result<Identity, Refusal> {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let expiry = issued.get(token).filter(|expiry| **expiry > now());
        let expiry = expiry.ok_or(Refusal::unauthorized("token is not valid"))?;
        Ok(Identity::new(USER).expires_at_unix_ms(*expiry))
    }
}

fn now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let number = |argument: Option<String>, default: u64| argument.map_or(Ok(default), |text| text.parse());
    let wrong = |_| std::io::Error::other("expected a port and milliseconds");
    let mut config = Config::default();
    let port = number(args().nth(1), config.port.into()).map_err(wrong)?;
    config.port = u16::try_from(port).map_err(std::io::Error::other)?;
    config.limits.rate_max_requests = 10_000;
    let life = number(args().nth(2), 5000).map_err(wrong)?;
    let tokens = Arc::new(Tokens { life, issued: Mutex::default() });

    let server = Server::new(config);
    let known = tokens.clone();
    server.authenticate(move |attempt: Attempt| {
        let tokens = known.clone();
        async move {
            match attempt.bearer().ok_or(Refusal::Unauthorized)? {
                // The secret opens the page, and nothing else.
                SECRET if attempt.path() == "/token" => Ok(Identity::new(USER)),
                token => tokens.verify(token),
            }
        }
    });
    server.on_get("/token", move |_| {
        let token = tokens.issue();
        async { Some(Page::new("text/plain", token?.into_bytes())) }
    });
    server
        .on_request("echo", |payload: Payload, _cx: RequestContext| async { Ok::<_, HandlerError>(payload) });
    server.on_request("slow", |payload: Payload, _cx: RequestContext| async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok::<_, HandlerError>(payload)
    });
    let port = server.start().await?;
    println!("listening on ws://localhost:{port}");
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}
