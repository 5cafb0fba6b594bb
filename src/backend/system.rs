//! The server about itself: `system:ping`, `system:channels`, `system:stats`, and `server:heartbeat`.

use std::time::Duration;

use crate::protocol::error::ErrorCode;
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::db::unix_ms;
use super::encode::{Object, array};
use super::registry::{Channel, Direction};
use super::validate::Fields;

/// The channels of the family.
pub const CHANNELS: &[Channel] = &[
    Channel {
        name: "system:ping",
        direction: Direction::Request,
        payload: "-",
        response: "{ timestamp: number }",
        description: "Get the server's time",
        example: "",
    },
    Channel {
        name: "system:channels",
        direction: Direction::Request,
        payload: "-",
        response: "Channel[]",
        description: "List the channels of this server",
        example: "",
    },
    Channel {
        name: "system:stats",
        direction: Direction::Request,
        payload: "-",
        response: "Stats",
        description: "Get what the server has done since its start",
        example: "",
    },
    Channel::event(
        "server:connected",
        "{ clientId: string, serverTime: number }",
        "The connection is ready; the first message",
    ),
    Channel::event("server:heartbeat", "{ timestamp: number }", "The server lives; every 30 s"),
    Channel::event(
        "server:shutdown",
        "{ reason: string }",
        "The server stops; the connection closes with 1001",
    ),
];

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = r#"
/** A line of the registry. Types are written as in TypeScript; `-` is none. */
export interface Channel {
  channel: string;
  direction: "Request" | "Event";
  payload: string;
  response: string;
  description: string;
  example?: unknown;
}

export interface Stats {
  uptimeMs: number;
  clients: number;
  requests: number;
  eventsSent: number;
  bytesIn: number;
  bytesOut: number;
  errors: Record<Exclude<WSErrorCode, "ABORTED">, number>;
}
"#;

/// Registers the family's handlers. `channels` is what `system:channels` lists.
pub fn register(server: &Server, channels: &[Channel]) {
    server.on_request("system:ping", |payload: Payload, _| async move {
        Fields::decode(&payload).map(|_| timestamp())
    });
    let channels: Vec<String> = channels.iter().map(Channel::to_json).collect();
    let channels = Payload::trusted(array(&channels));
    server.on_request("system:channels", move |payload: Payload, _| {
        let channels = channels.clone();
        async move { Fields::decode(&payload).map(|_| channels) }
    });
    server.on_request("system:stats", |payload: Payload, cx| async move {
        Fields::decode(&payload).map(|_| stats(&cx.server()))
    });
}

/// Tells every client the time, for ever.
pub(super) async fn beat(server: Server, interval: Duration) {
    let mut beats = tokio::time::interval(interval.max(Duration::from_millis(1)));
    // The first tick is at once, when nobody has connected.
    beats.tick().await;
    loop {
        beats.tick().await;
        server.emit("server:heartbeat", timestamp());
    }
}

fn timestamp() -> Payload {
    Payload::trusted(Object::new().integer("timestamp", unix_ms()).finish())
}

fn stats(server: &Server) -> Payload {
    let stats = server.stats();
    let errors = ErrorCode::ALL
        .into_iter()
        .fold(Object::new(), |errors, code| errors.raw(code.as_str(), &stats.errors_with(code).to_string()));
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
