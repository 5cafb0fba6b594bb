//! The channels of the family, and their handlers.

use crate::backend::shared::channel::Handler::{Own, Read, Write};
use crate::backend::shared::channel::{self, Row};
use crate::backend::shared::db::Db;
use crate::backend::shared::registry::Channel;
use crate::server::Server;

use super::store::{delete, get, list, set};

/// The channels of the family with their handlers.
const ROWS: &[Row<Db>] = &[
    Row {
        name: "credentials:list",
        payload: "-",
        response: "string[]",
        description: "List the keys of the credentials, sorted",
        example: "",
        handler: Read(list),
    },
    Row {
        name: "credentials:get",
        payload: "{ key: string }",
        response: "Credential",
        description: "Get whether a credential exists, and its metadata; never its token",
        example: r#"{"key":"anthropic"}"#,
        handler: Read(get),
    },
    Row {
        name: "credentials:set",
        payload: "{ key: string, token: string, metadata?: Record<string, unknown>, origin?: string }",
        response: "-",
        description: "Store or replace a credential; its token is encrypted on disk. A provider's token is sent only to `origin`, by default to that of the base URL that is set at this time",
        example: r#"{"key":"example","token":"not-a-real-token","metadata":{"label":"Example"}}"#,
        handler: Own(|db, payload, cx| Box::pin(set(db.on_behalf_of(cx.party()), payload))),
    },
    Row {
        name: "credentials:delete",
        payload: "{ key: string }",
        response: "boolean",
        description: "Delete a credential and return whether it existed",
        example: r#"{"key":"example"}"#,
        handler: Write(delete),
    },
    Row::event(
        "credentials:changed",
        "{ key: string, exists: boolean }",
        "A credential was stored or deleted",
    ),
];

/// The channels of the family.
pub const CHANNELS: &[Channel] = &channel::channels::<_, { ROWS.len() }>(ROWS);

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// The column for tokens that were encrypted without their origins.
pub(crate) const ORIGINS: &str = include_str!("origins.sql");

/// Registers the family's handlers.
pub fn register(server: &Server, db: &Db) {
    channel::register(server, Some(db), db, ROWS);
}
