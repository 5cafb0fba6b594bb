//! jsonrpsee's server: JSON-RPC 2.0 over WebSocket, with the channels as methods and the event as a subscription.
//!
//! The library runs each call as a task, and sends through a queue and a task for each connection; this cannot be tuned. It has no
//! rate window, so none is measured.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::server::{BatchRequestConfig, PingConfig, RpcModule, Server, ServerConfig, SubscriptionSink};
use jsonrpsee::types::ErrorObjectOwned;
use serde_json::value::RawValue;
use switchboard_bench_peers::wire::Payload;
use switchboard_bench_peers::{
    IDLE_TIMEOUT, MAX_EVENTS_WAITING, MAX_MESSAGE_BYTES, PING_INTERVAL, listen, start,
};

type Text = Box<RawValue>;

/// All subscribers. Locked to subscribe and to broadcast.
#[derive(Default)]
struct Subscribers(Mutex<Vec<SubscriptionSink>>);

fn main() -> io::Result<()> {
    start(|options| async move {
        let listener = listen(options).await?.into_std()?;
        let config = ServerConfig::builder()
            .ws_only()
            .set_tcp_no_delay(true)
            .max_connections(20_000)
            .max_request_body_size(MAX_MESSAGE_BYTES as u32)
            .max_response_body_size(MAX_MESSAGE_BYTES as u32)
            .set_message_buffer_capacity(MAX_EVENTS_WAITING as u32)
            .set_batch_request_config(BatchRequestConfig::Disabled)
            .enable_ws_ping(PingConfig::new().ping_interval(PING_INTERVAL).inactive_limit(IDLE_TIMEOUT))
            .build();
        let server = Server::builder().set_config(config).build_from_tcp(listener)?;
        server.start(methods().map_err(io::Error::other)?).stopped().await;
        Ok(())
    })
}

fn methods() -> Result<RpcModule<Subscribers>, RegisterMethodError> {
    let mut module = RpcModule::new(Subscribers::default());
    // The library recommends a method that is not async if it never waits.
    module.register_method("echo", |params, _, _| params.one::<Text>())?;
    module.register_async_method("wait", |params, _, _| async move {
        let payload = params.one::<Text>()?;
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok::<_, ErrorObjectOwned>(payload)
    })?;
    module.register_method("broadcast", |params, subscribers, _| {
        let payload = params.one::<Text>()?;
        Ok::<_, ErrorObjectOwned>(Text::sent(subscribers.broadcast(&payload)))
    })?;
    module.register_subscription(
        "subscribe_tick",
        "tick",
        "unsubscribe_tick",
        |_, pending, subscribers: Arc<Subscribers>, _| async move {
            if let Ok(sink) = pending.accept().await {
                subscribers.join(sink);
            }
        },
    )?;
    Ok(module)
}

impl Subscribers {
    fn join(&self, sink: SubscriptionSink) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sink);
    }

    /// Removes clients that disconnected or are too slow for their queue.
    fn broadcast(&self, payload: &Text) -> usize {
        let mut sinks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sinks.retain_mut(|sink| sink.try_send(payload.clone()).is_ok());
        sinks.len()
    }
}
