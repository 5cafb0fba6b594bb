//! The channels of the family, and their handlers.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::shared::db::Db;
use crate::backend::shared::registry::{Channel, Direction};
use crate::protocol::payload::Payload;
use crate::server::Server;

use super::super::analytics::Recorder;
use super::config::AiConfig;
use super::handlers::Ai;

/// How much later the deadline of the handler is, so that the more precise error comes first.
const DEADLINE_SLACK: Duration = Duration::from_secs(30);
const EXAMPLE: &str =
    r#"{"provider":"echo","model":"echo","messages":[{"role":"user","content":"Hello, world"}]}"#;

/// The channels of the family.
pub const CHANNELS: &[Channel] = &[
    Channel {
        name: "ai:chat",
        direction: Direction::Request,
        payload: "ChatRequest",
        response: "ChatResponse",
        description: "Ask a model; the answer comes whole. With `chatId` question and answer are stored in that chat",
        example: EXAMPLE,
    },
    Channel {
        name: "ai:chat-stream",
        direction: Direction::Request,
        payload: "ChatRequest",
        response: "ChatResponse",
        description: "Ask a model; the answer comes in events, then whole",
        example: EXAMPLE,
    },
    Channel {
        name: "ai:models",
        direction: Direction::Request,
        payload: "{ provider?: AiProvider }",
        response: "ModelConfig[]",
        description: "List models: the provider's own list with prices, or without credentials the ones known here",
        example: r#"{"provider":"echo"}"#,
    },
    Channel {
        name: "ai:has-credentials",
        direction: Direction::Request,
        payload: "{ provider: AiProvider }",
        response: "boolean",
        description: "Get whether there is a key for a provider; one that needs none always has it",
        example: r#"{"provider":"echo"}"#,
    },
    Channel::event(
        "ai:stream-chunk",
        "{ requestId: string, chunk: StreamChunk }",
        "A piece of an answer, to the client that asked",
    ),
    Channel::event(
        "ai:stream-complete",
        "{ requestId: string, response: ChatResponse }",
        "An answer is complete; the response follows",
    ),
    Channel::event(
        "ai:stream-error",
        "{ requestId: string, error: { code: WSErrorCode, message: string, details?: unknown } }",
        "There is no answer, or no more of it; the error response follows",
    ),
];

/// The types that the channels name, in TypeScript.
pub const TYPES: &str = concat!("\n", include_str!("types.d.ts"));

/// Registers the family's handlers.
pub fn register(server: &Server, db: &Db, config: AiConfig, recorder: Recorder) {
    let deadline = config.max_duration + DEADLINE_SLACK;
    let ai = Arc::new(Ai::new(db.clone(), config, recorder));
    let own = ai.clone();
    server.on_request_within("ai:chat", deadline, move |payload: Payload, cx| {
        let ai = own.clone();
        async move { ai.chat(&payload, &cx, |_, _| {}).await }
    });
    let own = ai.clone();
    server.on_request_within("ai:chat-stream", deadline, move |payload: Payload, cx| {
        let ai = own.clone();
        async move { ai.chat_stream(&payload, &cx).await }
    });
    let own = ai.clone();
    server.on_request_within("ai:models", deadline, move |payload: Payload, _| {
        let ai = own.clone();
        async move { ai.models(&payload).await }
    });
    server.on_request("ai:has-credentials", move |payload: Payload, _| {
        let ai = ai.clone();
        async move { ai.has_credentials(&payload).await }
    });
}
