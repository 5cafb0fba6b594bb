//! The channels. Input: a request. Output: its response, now or later.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::chats;
use crate::client::Client;
use crate::hub::Hub;
use crate::wire::{self, ErrorCode, Payload, Request, WireError};

type Handled<P> = Pin<Box<dyn Future<Output = Result<Option<P>, String>> + Send>>;
type Handler<P, M> = Box<dyn Fn(Option<P>, Arc<Hub<M>>) -> Handled<P> + Send + Sync>;

/// The text of a response.
pub enum Answer {
    /// The handler was ready immediately.
    Now(String),
    /// The handler waits; other requests continue.
    Later(BoxFuture<'static, String>),
}

/// The handlers by channel, and the clients.
pub struct Backend<P, M> {
    handlers: HashMap<&'static str, Handler<P, M>>,
    pub hub: Arc<Hub<M>>,
}

impl<P: Payload, M: Clone + From<String> + Send + 'static> Backend<P, M> {
    /// Creates the channels that are measured, and those of chats if `CHATS` is a folder.
    pub fn new() -> Backend<P, M> {
        let mut backend = Backend { handlers: HashMap::new(), hub: Arc::default() };
        backend.on_request("echo", |payload, _| async move { Ok(payload) });
        backend.on_request("wait", |payload, _| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(payload)
        });
        backend.on_request("broadcast", |payload: Option<P>, hub| async move {
            Ok(Some(P::sent(hub.broadcast(wire::event("tick", &payload)))))
        });
        if let Some(folder) = std::env::var_os("CHATS") {
            chats::register(&mut backend, Path::new(&folder));
        }
        backend
    }

    pub(crate) fn on_request<F, R>(&mut self, channel: &'static str, handler: F)
    where
        F: Fn(Option<P>, Arc<Hub<M>>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Option<P>, String>> + Send + 'static,
    {
        self.handlers.insert(channel, Box::new(move |payload, hub| Box::pin(handler(payload, hub))));
    }

    /// Counts a message and answers it. The handler is polled once here, so that a ready one needs no task.
    pub fn answer(&self, client: &mut Client, request: serde_json::Result<Request<'_, P>>) -> Answer {
        if !client.count() {
            return refuse::<P>(
                "rate_limited",
                "system",
                ErrorCode::RateLimited,
                "Too many requests".to_owned(),
            );
        }
        let Request { id, channel, payload, .. } = match request {
            Ok(request) => request,
            Err(error) => {
                return refuse::<P>(
                    "invalid_message",
                    "system",
                    ErrorCode::InvalidMessage,
                    error.to_string(),
                );
            }
        };
        let Some(handler) = self.handlers.get(&*channel) else {
            let message = format!("No handler for: {channel}");
            return refuse::<P>(&id, &channel, ErrorCode::UnknownChannel, message);
        };
        let mut handled = handler(payload, self.hub.clone());
        match (&mut handled).now_or_never() {
            Some(result) => Answer::Now(encode(&id, &channel, result)),
            None => {
                let (id, channel) = (id.into_owned(), channel.into_owned());
                Answer::Later(Box::pin(async move { encode(&id, &channel, handled.await) }))
            }
        }
    }
}

impl<P: Payload, M: Clone + From<String> + Send + 'static> Default for Backend<P, M> {
    fn default() -> Self {
        Backend::new()
    }
}

fn encode<P: Payload>(id: &str, channel: &str, result: Result<Option<P>, String>) -> String {
    wire::response(
        id,
        channel,
        result.map_err(|message| WireError { code: ErrorCode::HandlerError, message }),
    )
}

fn refuse<P: Payload>(id: &str, channel: &str, code: ErrorCode, message: String) -> Answer {
    Answer::Now(wire::response::<P>(id, channel, Err(WireError { code, message })))
}
