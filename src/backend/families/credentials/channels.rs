//! The channels of the family, and their handlers.

use crate::backend::shared::db::Db;
use crate::backend::shared::registry::{Channel, Direction};
use crate::backend::shared::validate::Fields;
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::store::{delete, get, key_path, list, set};

/// The channels of the family.
pub const CHANNELS: &[Channel] = &[
    Channel {
        name: "credentials:list",
        direction: Direction::Request,
        payload: "-",
        response: "string[]",
        description: "List the keys of the credentials, in order",
        example: "",
    },
    Channel {
        name: "credentials:get",
        direction: Direction::Request,
        payload: "{ key: string }",
        response: "Credential",
        description: "Get whether there is a credential, and its metadata; never the token",
        example: r#"{"key":"anthropic"}"#,
    },
    Channel {
        name: "credentials:set",
        direction: Direction::Request,
        payload: "{ key: string, token: string, metadata?: Record<string, unknown> }",
        response: "-",
        description: "Store a credential, in place of one that is there; the token is sealed on the disk",
        example: r#"{"key":"example","token":"not-a-real-token","metadata":{"label":"Example"}}"#,
    },
    Channel {
        name: "credentials:delete",
        direction: Direction::Request,
        payload: "{ key: string }",
        response: "boolean",
        description: "Delete a credential; answers whether it was there",
        example: r#"{"key":"example"}"#,
    },
    Channel::event(
        "credentials:changed",
        "{ key: string, exists: boolean }",
        "A credential was stored or deleted",
    ),
];

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// Registers the family's handlers.
pub fn register(server: &Server, db: &Db) {
    db.on_read(server, "credentials:list", list);
    db.on_read(server, "credentials:get", get);
    let own = db.clone();
    server.on_request("credentials:set", move |payload: Payload, cx| {
        let db = own.clone();
        async move {
            let path = key_path(&db);
            db.write(cx.server(), move |change| set(change, &Fields::decode(&payload)?, &path)).await
        }
    });
    db.on_write(server, "credentials:delete", delete);
}
