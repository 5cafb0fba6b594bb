//! A new token for an open connection. Input: that the present one expires. Output: a request on channel `auth`, and its result.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::json;

use crate::protocol::payload::Payload;
use crate::protocol::uuid::Uuid;

use super::shared::Shared;

/// How long the client waits before it asks again for a token that it did not get.
const PAUSE: Duration = Duration::from_secs(1);

type Asking = Pin<Box<dyn Future<Output = io::Result<Option<String>>> + Send>>;

/// The renewal of one connection's token.
#[derive(Default)]
pub(super) struct Renewal {
    asking: Option<Asking>,
    /// The request that was sent.
    sent: Option<Uuid>,
}

impl Renewal {
    /// Asks for a token, unless that is being done, or there is no other one.
    pub(super) fn start(&mut self, shared: &Arc<Shared>) {
        if self.asking.is_none() && shared.options.token_source.is_some() {
            self.asking = Some(ask(shared.clone(), Duration::ZERO));
        }
    }

    /// Returns the payload of the request to send, once there is a token.
    pub(super) fn poll(&mut self, shared: &Arc<Shared>, cx: &mut Context<'_>) -> Option<Payload> {
        while let Some(asking) = &mut self.asking {
            let Poll::Ready(asked) = asking.as_mut().poll(cx) else { return None };
            match asked {
                Ok(token) => {
                    self.asking = None;
                    return token.map(|token| json!({ "token": token }).into());
                }
                Err(error) => {
                    shared.notify("connection:auth-failed", json!({ "reason": error.to_string() }));
                    self.asking = Some(ask(shared.clone(), PAUSE));
                }
            }
        }
        None
    }

    pub(super) fn sent(&mut self, id: Uuid) {
        self.sent = Some(id);
    }

    /// Whether a response answers the request of the renewal.
    pub(super) fn is_answered_by(&mut self, id: Uuid) -> bool {
        self.sent.take_if(|sent| *sent == id).is_some()
    }
}

fn ask(shared: Arc<Shared>, pause: Duration) -> Asking {
    Box::pin(async move {
        tokio::time::sleep(pause).await;
        let asked = tokio::time::timeout(shared.options.connect_timeout, shared.token()).await;
        asked.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "there was no token in time")))
    })
}
