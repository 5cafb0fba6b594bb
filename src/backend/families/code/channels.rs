//! The channels of the family, and their handlers.

use crate::backend::shared::channel::Handler::Own;
use crate::backend::shared::channel::{self, Row};
use crate::backend::shared::db::View;
use crate::backend::shared::registry::Channel;
use crate::backend::shared::validate::Fields;
use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;
use crate::server::{Party, Server};

use super::config::CodeConfig;
use super::entries::get_transcript;
use super::follow::Code;
use super::points;
use super::search::search_transcript;
use super::sessions::{get_session, list_sessions};

/// The channels of the family with their handlers.
const ROWS: &[Row<Code>] = &[
    Row {
        name: "code:list-sessions",
        payload: "{ project?: string, limit?: number }",
        response: "Session[]",
        description: "List coding sessions of one project or of all, last updated first: 1..=500 of them, 50 by default",
        example: r#"{"limit":20}"#,
        handler: Own(|code, payload, cx| Box::pin(search(code, payload, cx.party(), list_sessions))),
    },
    Row {
        name: "code:get-session",
        payload: "{ id: string }",
        response: "Session | null",
        description: "Get a coding session",
        example: r#"{"id":"550e8400-e29b-41d4-a716-446655440000"}"#,
        handler: Own(|code, payload, cx| Box::pin(read(code, payload, cx.party(), get_session))),
    },
    Row {
        name: "code:get-transcript",
        payload: "TranscriptQuery",
        response: "TranscriptPage",
        description: "Get the last entries of a session, or those just before or after an entry, oldest first: 1..=500 of them, 100 by default",
        example: r#"{"sessionId":"550e8400-e29b-41d4-a716-446655440000","limit":50,"roles":["user","assistant"]}"#,
        handler: Own(|code, payload, cx| Box::pin(search(code, payload, cx.party(), get_transcript))),
    },
    Row {
        name: "code:search-transcript",
        payload: "{ query: string, sessionId?: string, limit?: number }",
        response: "TranscriptSearchResult[]",
        description: "Search the text of entries, best match first: 1..=100 results, 20 by default",
        example: r#"{"query":"parser"}"#,
        handler: Own(|code, payload, cx| Box::pin(search(code, payload, cx.party(), search_transcript))),
    },
    Row {
        name: "code:list-restore-points",
        payload: "{ sessionId: string }",
        response: "RestorePoint[]",
        description: "List the restore points of a session, newest first: the files that it backed up",
        example: r#"{"sessionId":"550e8400-e29b-41d4-a716-446655440000"}"#,
        handler: Own(|code, payload, cx| Box::pin(points::list(code, payload, cx.party()))),
    },
    Row {
        name: "code:restore",
        payload: "{ restorePointId: string, targetDir: string, overwrite?: boolean }",
        response: "RestoreResult",
        description: "Copy the files of a restore point to a folder below the restore root; existing files are skipped unless `overwrite` is set",
        example: r#"{"restorePointId":"550e8400-e29b-51d4-a716-446655440000","targetDir":"before-the-change"}"#,
        handler: Own(|code, payload, cx| Box::pin(points::restore(code, payload, cx.party()))),
    },
];

/// The channels of the family.
pub const CHANNELS: &[Channel] = &channel::channels::<_, { ROWS.len() }>(ROWS);

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// The tables.
pub(crate) const TABLES: &str = include_str!("tables.sql");

/// Further indexes.
pub(crate) const INDEXES: &str = include_str!("bounded.sql");

/// Registers the family's handlers.
pub fn register(server: &Server, code: &Code) {
    channel::register(server, Some(code.db()), code, ROWS);
}

type ReadIndex = fn(&View<'_>, &Fields<'_>, &CodeConfig) -> Result<Payload, WireError>;

/// Updates the index, then answers from it by key.
async fn read(code: Code, payload: Payload, party: Party, handler: ReadIndex) -> Result<Payload, WireError> {
    code.refresh().await;
    let (db, config) = (code.db().on_behalf_of(party), code.config().clone());
    db.read(move |view| handler(view, &Fields::decode(&payload)?, &config)).await
}

/// Updates the index, then answers from many of its rows.
async fn search(
    code: Code,
    payload: Payload,
    party: Party,
    handler: ReadIndex,
) -> Result<Payload, WireError> {
    code.refresh().await;
    let (db, config) = (code.db().on_behalf_of(party), code.config().clone());
    db.search(move |view| handler(view, &Fields::decode(&payload)?, &config)).await
}
