//! The handlers and the heartbeat.

use std::time::Duration;

use crate::backend::shared::clock::{ticks, unix_ms};
use crate::backend::shared::encode::Object;
use crate::protocol::error::ErrorCode;
use crate::protocol::payload::Payload;
use crate::server::Server;

/// Sends the time to every client, forever.
pub(crate) async fn beat(server: Server, interval: Duration) {
    let mut beats = ticks(interval);
    // The first tick is immediate, when no client has connected.
    beats.tick().await;
    loop {
        beats.tick().await;
        server.emit("server:heartbeat", timestamp());
    }
}

pub(super) fn timestamp() -> Payload {
    Payload::trusted(Object::new().integer("timestamp", unix_ms()).finish())
}

pub(super) fn stats(server: &Server) -> Payload {
    let stats = server.stats();
    let errors = ErrorCode::labels()
        .zip(stats.errors)
        .fold(Object::new(), |errors, (code, count)| errors.raw(code, &count.to_string()));
    let object = [
        ("uptimeMs", stats.uptime_ms),
        ("clients", stats.clients as u64),
        ("requests", stats.requests),
        ("eventsSent", stats.events_sent),
        ("bytesIn", stats.bytes_in),
        ("bytesOut", stats.bytes_out),
    ]
    .into_iter()
    .fold(Object::new(), |object, (name, count)| object.raw(name, &count.to_string()));
    Payload::trusted(object.raw("errors", &errors.finish()).finish())
}
