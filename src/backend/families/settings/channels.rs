//! The channels of the family, and their handlers.

use crate::backend::shared::channel::Handler::{Read, Write};
use crate::backend::shared::channel::{self, Row};
use crate::backend::shared::db::Db;
use crate::backend::shared::registry::Channel;
use crate::server::Server;

use super::store::{get, get_all, reset, set, update};

/// The channels of the family with their handlers.
const ROWS: &[Row<()>] = &[
    Row {
        name: "settings:get-all",
        payload: "-",
        response: "Settings",
        description: "Get every setting: the value that was set, or the default",
        example: "",
        handler: Read(get_all),
    },
    Row {
        name: "settings:get",
        payload: "{ key: string }",
        response: "unknown",
        description: "Get one setting; null if it is not set and has no default",
        example: r#"{"key":"theme"}"#,
        handler: Read(get),
    },
    Row {
        name: "settings:set",
        payload: "{ key: string, value: unknown }",
        response: "-",
        description: "Set one setting. A base URL with another origin needs the provider's credential again",
        example: r#"{"key":"theme","value":"dark"}"#,
        handler: Write(set),
    },
    Row {
        name: "settings:update",
        payload: "Partial<Settings>",
        response: "Settings",
        description: "Set several settings, all of them or none",
        example: r#"{"theme":"dark","language":"de"}"#,
        handler: Write(update),
    },
    Row {
        name: "settings:reset",
        payload: "{ key?: string }",
        response: "Settings",
        description: "Reset one setting, or all, to the default; keys without a default are removed",
        example: r#"{"key":"theme"}"#,
        handler: Write(reset),
    },
    Row::event("settings:changed", "{ key: string, value: unknown }", "A setting has changed"),
];

/// The channels of the family.
pub const CHANNELS: &[Channel] = &channel::channels::<_, { ROWS.len() }>(ROWS);

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// Registers the family's handlers.
pub fn register(server: &Server, db: &Db) {
    channel::register(server, Some(db), &(), ROWS);
}
