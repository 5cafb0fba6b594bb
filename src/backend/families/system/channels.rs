//! The channels of the family, and their handlers.

use crate::backend::shared::encode::array;
use crate::backend::shared::registry::{Channel, Direction};
use crate::backend::shared::validate::Fields;
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::handlers::{stats, timestamp};

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
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

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
