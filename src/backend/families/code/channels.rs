//! The channels of the family, and their handlers.

use crate::backend::shared::db::View;
use crate::backend::shared::registry::{Channel, Direction};
use crate::backend::shared::validate::Fields;
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::config::CodeConfig;
use super::entries::get_transcript;
use super::follow::Code;
use super::points;
use super::search::search_transcript;
use super::sessions::{get_session, list_sessions};

/// The channels of the family.
pub const CHANNELS: &[Channel] = &[
    Channel {
        name: "code:list-sessions",
        direction: Direction::Request,
        payload: "{ project?: string, limit?: number }",
        response: "Session[]",
        description: "List coding sessions, of one project or of all, last updated first: 1..=500 of them, 50 by default",
        example: r#"{"limit":20}"#,
    },
    Channel {
        name: "code:get-session",
        direction: Direction::Request,
        payload: "{ id: string }",
        response: "Session | null",
        description: "Get a coding session",
        example: r#"{"id":"550e8400-e29b-41d4-a716-446655440000"}"#,
    },
    Channel {
        name: "code:get-transcript",
        direction: Direction::Request,
        payload: "TranscriptQuery",
        response: "TranscriptPage",
        description: "Get the last entries of a session, or those just before or after an entry: 1..=500, 100 by default, oldest first",
        example: r#"{"sessionId":"550e8400-e29b-41d4-a716-446655440000","limit":50,"roles":["user","assistant"]}"#,
    },
    Channel {
        name: "code:search-transcript",
        direction: Direction::Request,
        payload: "{ query: string, sessionId?: string, limit?: number }",
        response: "TranscriptSearchResult[]",
        description: "Search the entries' text, best first: 1..=100 results, 20 by default",
        example: r#"{"query":"parser"}"#,
    },
    Channel {
        name: "code:list-restore-points",
        direction: Direction::Request,
        payload: "{ sessionId: string }",
        response: "RestorePoint[]",
        description: "List the states of files that a session has backed up, newest first",
        example: r#"{"sessionId":"550e8400-e29b-41d4-a716-446655440000"}"#,
    },
    Channel {
        name: "code:restore",
        direction: Direction::Request,
        payload: "{ restorePointId: string, targetDir: string, overwrite?: boolean }",
        response: "RestoreResult",
        description: "Put the files of a restore point into a folder below the restore root; those that exist are skipped unless told otherwise",
        example: r#"{"restorePointId":"550e8400-e29b-51d4-a716-446655440000","targetDir":"before-the-change"}"#,
    },
];

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// Registers the family's handlers.
pub fn register(server: &Server, code: &Code) {
    on_read(server, code, "code:list-sessions", list_sessions);
    on_read(server, code, "code:get-session", get_session);
    on_read(server, code, "code:get-transcript", get_transcript);
    on_read(server, code, "code:search-transcript", search_transcript);
    let handler = code.clone();
    server.on_request("code:list-restore-points", move |payload: Payload, cx| {
        let code = handler.clone();
        async move { points::list(&code, &cx.server(), payload).await }
    });
    let handler = code.clone();
    server.on_request("code:restore", move |payload: Payload, cx| {
        let code = handler.clone();
        async move { points::restore(&code, &cx.server(), payload).await }
    });
}

type Read = fn(&View<'_>, &Fields<'_>, &CodeConfig) -> Result<Payload, WireError>;

fn on_read(server: &Server, code: &Code, channel: &str, handler: Read) {
    let code = code.clone();
    server.on_request(channel, move |payload: Payload, cx| {
        let code = code.clone();
        async move {
            code.refresh(&cx.server()).await;
            let config = code.config().clone();
            code.read(move |view| handler(view, &Fields::decode(&payload)?, &config)).await
        }
    });
}
