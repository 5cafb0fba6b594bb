//! The channels of the family, and their handlers.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::shared::channel::Handler::{Own, OwnWithin};
use crate::backend::shared::channel::{self, Row};
use crate::backend::shared::db::Db;
use crate::backend::shared::registry::Channel;
use crate::server::Server;

use super::super::analytics::Recorder;
use super::config::AiConfig;
use super::handlers::Ai;

/// How much later the deadline of the handler is, so that the more precise error comes first.
const DEADLINE_SLACK: Duration = Duration::from_secs(30);
const EXAMPLE: &str =
    r#"{"provider":"echo","model":"echo","messages":[{"role":"user","content":"Hello, world"}]}"#;

/// The channels of the family with their handlers.
const ROWS: &[Row<Arc<Ai>>] = &[
    Row {
        name: "ai:chat",
        payload: "ChatRequest",
        response: "ChatResponse",
        description: "Send a request to a model and return its answer. With `chatId` the last user message and the answer are stored in that chat",
        example: EXAMPLE,
        handler: OwnWithin(deadline, |ai, payload, cx| {
            Box::pin(async move { ai.chat(&payload, &cx, |_, _| {}).await })
        }),
    },
    Row {
        name: "ai:chat-stream",
        payload: "ChatRequest",
        response: "ChatResponse",
        description: "Like `ai:chat`, but the answer is also sent in pieces, as events",
        example: EXAMPLE,
        handler: OwnWithin(deadline, |ai, payload, cx| {
            Box::pin(async move { ai.chat_stream(&payload, &cx).await })
        }),
    },
    Row {
        name: "ai:models",
        payload: "{ provider?: AiProvider }",
        response: "ModelConfig[]",
        description: "List models with their prices: the provider's own list, or the built-in one if there is no key",
        example: r#"{"provider":"echo"}"#,
        handler: OwnWithin(deadline, |ai, payload, cx| {
            Box::pin(async move { ai.models(&payload, cx.party()).await })
        }),
    },
    Row {
        name: "ai:has-credentials",
        payload: "{ provider: AiProvider }",
        response: "boolean",
        description: "Return whether there is a key for a provider and its base URL; always true for one that needs none",
        example: r#"{"provider":"echo"}"#,
        handler: Own(|ai, payload, _| Box::pin(async move { ai.has_credentials(&payload).await })),
    },
    Row::event(
        "ai:stream-chunk",
        "{ requestId: string, chunk: StreamChunk }",
        "A piece of an answer, only to the client that asked",
    ),
    Row::event(
        "ai:stream-complete",
        "{ requestId: string, response: ChatResponse }",
        "An answer is complete; the response follows",
    ),
    Row::event(
        "ai:stream-error",
        "{ requestId: string, error: { code: WSErrorCode, message: string, details?: unknown } }",
        "A request failed, perhaps after some chunks; the error response follows",
    ),
];

/// The channels of the family.
pub const CHANNELS: &[Channel] = &channel::channels::<_, { ROWS.len() }>(ROWS);

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// Registers the family's handlers.
pub fn register(server: &Server, db: &Db, config: AiConfig, recorder: Recorder) {
    let ai = Arc::new(Ai::new(db.clone(), config, recorder));
    channel::register(server, Some(db), &ai, ROWS);
}

/// `Ai` has its own deadline, and gets the time to report it.
fn deadline(ai: &Arc<Ai>) -> Duration {
    ai.max_duration() + DEADLINE_SLACK
}
