//! A new token for an open connection. Input: that the present one expires. Output: a request on channel `auth`, and its result.
//! What fails is repeated until the credential has expired; a token that the server refuses is not better the second time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::json;

use tokio::time::{Instant, sleep};

use crate::protocol::error::{ErrorCode, WireError};
use crate::protocol::payload::Payload;
use crate::protocol::uuid::Uuid;

use super::shared::Shared;

/// The shortest pause between two attempts. Otherwise it is a quarter of the time that the server announced.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Later than any credential that the server announces: it does so in its last minute.
const MAX_LEFT: Duration = Duration::from_secs(24 * 60 * 60);

type Asking = Pin<Box<dyn Future<Output = io::Result<Option<String>>> + Send>>;

/// The renewal of one connection's token.
pub(super) struct Renewal {
    asking: Option<Asking>,
    /// The request that was sent.
    sent: Option<Uuid>,
    /// When the present token expires.
    expiry: Instant,
    pause: Duration,
}

impl Renewal {
    pub(super) fn new() -> Renewal {
        Renewal { asking: None, sent: None, expiry: Instant::now(), pause: MIN_PAUSE }
    }

    /// Handles `auth:expiring`: asks for a token, unless that is being done, or there is no other one.
    pub(super) fn start(&mut self, shared: &Arc<Shared>, announced: &Payload) {
        if self.asking.is_some() || self.sent.is_some() || shared.options.token_source.is_none() {
            return;
        }
        let announced = announced.parse().ok().and_then(|payload| payload.get("inMs")?.as_u64());
        let left = Duration::from_millis(announced.unwrap_or_default()).min(MAX_LEFT);
        self.expiry = Instant::now() + left;
        self.pause = MIN_PAUSE.max(left / 4);
        self.asking = Some(ask(shared.clone(), Duration::ZERO));
    }

    /// Returns the payload of the request to send, once there is a token.
    pub(super) fn poll(&mut self, shared: &Arc<Shared>, cx: &mut Context<'_>) -> Option<Payload> {
        while let Some(asking) = &mut self.asking {
            let Poll::Ready(asked) = asking.as_mut().poll(cx) else { return None };
            self.asking = None;
            match asked {
                Ok(token) => return token.map(|token| json!({ "token": token }).into()),
                Err(error) => self.handle_failure(shared, &error.to_string()),
            }
        }
        None
    }

    pub(super) fn sent(&mut self, id: Uuid) {
        self.sent = Some(id);
    }

    /// Handles the response to the request of the renewal. Returns whether it was that.
    pub(super) fn handle_answer<T>(
        &mut self,
        shared: &Arc<Shared>,
        id: Uuid,
        result: &Result<T, WireError>,
    ) -> bool {
        let is_answer = self.sent.take_if(|sent| *sent == id).is_some();
        match result {
            Err(error) if is_answer => match error.code {
                // The server does not need tokens.
                ErrorCode::UnknownChannel => {}
                ErrorCode::Unauthorized => notify(shared, &error.to_string()),
                _ => self.handle_failure(shared, &error.to_string()),
            },
            _ => {}
        }
        is_answer
    }

    fn handle_failure(&mut self, shared: &Arc<Shared>, reason: &str) {
        notify(shared, reason);
        if Instant::now() + self.pause < self.expiry {
            self.asking = Some(ask(shared.clone(), self.pause));
        }
    }
}

fn notify(shared: &Arc<Shared>, reason: &str) {
    shared.notify("connection:auth-failed", json!({ "reason": reason }));
}

fn ask(shared: Arc<Shared>, pause: Duration) -> Asking {
    Box::pin(async move {
        sleep(pause).await;
        let asked = shared.within(shared.options.connect_timeout, shared.token()).await;
        asked.unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::TimedOut, "there was no token in time")))
    })
}
