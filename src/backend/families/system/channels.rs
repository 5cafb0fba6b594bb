//! The channels of the family, and their handlers.

use crate::backend::shared::channel::Handler::Own;
use crate::backend::shared::channel::{self, Row};
use crate::backend::shared::encode::array;
use crate::backend::shared::registry::Channel;
use crate::backend::shared::validate::Fields;
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::handlers::{stats, timestamp};

/// The channels of the family with their handlers.
const ROWS: &[Row<Payload>] = &[
    Row {
        name: "system:ping",
        payload: "-",
        response: "{ timestamp: number }",
        description: "Get the server's time",
        example: "",
        handler: Own(|_, payload, _| Box::pin(async move { Fields::decode(&payload).map(|_| timestamp()) })),
    },
    Row {
        name: "system:channels",
        payload: "-",
        response: "Channel[]",
        description: "List the channels of this server",
        example: "",
        handler: Own(|channels, payload, _| {
            Box::pin(async move { Fields::decode(&payload).map(|_| channels) })
        }),
    },
    Row {
        name: "system:stats",
        payload: "-",
        response: "Stats",
        description: "Get the counters of the server since its start",
        example: "",
        handler: Own(|_, payload, cx| {
            Box::pin(async move { Fields::decode(&payload).map(|_| stats(&cx.server())) })
        }),
    },
    Row::event(
        "server:connected",
        "{ clientId: string, serverTime: number }",
        "The first message: the connection is ready",
    ),
    Row::event("server:heartbeat", "{ timestamp: number }", "Heartbeat, every 30 s"),
    Row::event(
        "server:shutdown",
        "{ reason: string }",
        "The server is stopping; the connection closes with 1001",
    ),
];

/// The channels of the family.
pub const CHANNELS: &[Channel] = &channel::channels::<_, { ROWS.len() }>(ROWS);

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// Registers the family's handlers. `channels` is what `system:channels` lists.
pub fn register(server: &Server, channels: &[Channel]) {
    let channels: Vec<String> = channels.iter().map(Channel::to_json).collect();
    channel::register(server, None, &Payload::trusted(array(&channels)), ROWS);
}
