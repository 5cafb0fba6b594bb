//! The channels of the family, and their handlers.

use crate::backend::shared::db::Db;
use crate::backend::shared::registry::{Channel, Direction};
use crate::server::Server;

use super::store::{get, get_all, reset, set, update};

/// The channels of the family.
pub const CHANNELS: &[Channel] = &[
    Channel {
        name: "settings:get-all",
        direction: Direction::Request,
        payload: "-",
        response: "Settings",
        description: "Get every setting: what is set, and the defaults of what is not",
        example: "",
    },
    Channel {
        name: "settings:get",
        direction: Direction::Request,
        payload: "{ key: string }",
        response: "unknown",
        description: "Get one setting; null for a key that is not set and has no default",
        example: r#"{"key":"theme"}"#,
    },
    Channel {
        name: "settings:set",
        direction: Direction::Request,
        payload: "{ key: string, value: unknown }",
        response: "-",
        description: "Set one setting",
        example: r#"{"key":"theme","value":"dark"}"#,
    },
    Channel {
        name: "settings:update",
        direction: Direction::Request,
        payload: "Partial<Settings>",
        response: "Settings",
        description: "Set several settings, all or none",
        example: r#"{"theme":"dark","language":"de"}"#,
    },
    Channel {
        name: "settings:reset",
        direction: Direction::Request,
        payload: "{ key?: string }",
        response: "Settings",
        description: "Set one setting, or all, back to the default; keys without a default are removed",
        example: r#"{"key":"theme"}"#,
    },
    Channel::event("settings:changed", "{ key: string, value: unknown }", "A setting has changed"),
];

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// Registers the family's handlers.
pub fn register(server: &Server, db: &Db) {
    db.on_read(server, "settings:get-all", get_all);
    db.on_read(server, "settings:get", get);
    db.on_write(server, "settings:set", set);
    db.on_write(server, "settings:update", update);
    db.on_write(server, "settings:reset", reset);
}
