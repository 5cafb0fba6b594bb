//! Servers, scripted upstreams, requests and the reading of streams.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::backend::ai::AiConfig;

use crate::support::client::Client;
use crate::support::host::Host;
use crate::support::upstream::Upstream;

pub(super) const TOKEN: &str = "sk-correct-horse-battery-staple";

/// A host with this configuration of `ai`.
pub(super) async fn host_with(ai: AiConfig) -> Host {
    Host::open(tempfile::tempdir().unwrap(), |backend, _| backend.ai = ai).await
}

/// A host that retries soon.
pub(super) async fn new_host() -> Host {
    host_with(AiConfig { retry_pause: Duration::from_millis(1), ..AiConfig::default() }).await
}

/// A client, after the provider's address was set to the upstream and a key was stored.
pub(super) async fn client_of(host: &Host, provider: &str, upstream: &Upstream) -> Client {
    let mut client = Client::connect(host.port).await;
    point_at(&mut client, provider, &upstream.url).await;
    client.call("credentials:set", json!({"key": provider, "token": TOKEN})).await;
    client.event("credentials:changed").await;
    client
}

pub(super) async fn point_at(client: &mut Client, provider: &str, url: &str) {
    client.call("settings:set", json!({"key": format!("ai.{provider}.baseUrl"), "value": url})).await;
    client.event("settings:changed").await;
}

/// A stream of events whose end is the end of the connection.
pub(super) fn stream(events: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n{events}").into_bytes()
}

pub(super) fn sse(data: &[Value]) -> String {
    let event = |data: &Value| match data["type"].as_str() {
        Some(name) => format!("event: {name}\ndata: {data}\n\n"),
        None => format!("data: {data}\n\n"),
    };
    data.iter().map(event).collect()
}

pub(super) fn anthropic_start() -> Vec<Value> {
    vec![
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 1000, "output_tokens": 1}}}),
        json!({"type": "ping"}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
    ]
}

pub(super) fn delta(text: &str) -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
}

pub(super) fn anthropic_end() -> Vec<Value> {
    vec![
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 100}}),
        json!({"type": "message_stop"}),
    ]
}

/// A complete answer of Anthropic: `Grüße, Welt`.
pub(super) fn answer() -> Vec<u8> {
    stream(&sse(&[anthropic_start(), vec![delta("Grüße,"), delta(" Welt")], anthropic_end()].concat()))
}

pub(super) fn overloaded() -> Value {
    json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
}

pub(super) fn question(provider: &str, model: &str, text: &str) -> Value {
    json!({"provider": provider, "model": model, "messages": [{"role": "user", "content": text}]})
}

pub(super) fn ask() -> Value {
    question("anthropic", "claude-opus-5", "Hello")
}

/// A streamed answer as the client sees it: the chunks, then the one event that ends it, then the response, and nothing else.
pub(super) struct Streamed {
    pub(super) request_id: String,
    pub(super) chunks: Vec<Value>,
    pub(super) last: Value,
    pub(super) response: Value,
}

impl Streamed {
    pub(super) async fn ask(client: &mut Client, payload: Value) -> Streamed {
        let id = client.send("ai:chat-stream", payload).await;
        Streamed::collect(client, id).await
    }

    pub(super) async fn collect(client: &mut Client, id: String) -> Streamed {
        let (mut chunks, mut last) = (Vec::new(), Value::Null);
        loop {
            let message = client.next().await.unwrap();
            if message["type"] == "response" && message["id"] == id.as_str() {
                let request_id = last["payload"]["requestId"].as_str().unwrap().to_owned();
                for chunk in &chunks {
                    let chunk: &Value = chunk;
                    assert_eq!(chunk["requestId"], request_id.as_str());
                }
                let chunks = chunks.iter().map(|chunk: &Value| chunk["chunk"].clone()).collect();
                return Streamed { request_id, chunks, last, response: message };
            }
            match message["channel"].as_str().unwrap() {
                "ai:stream-chunk" => {
                    assert!(last.is_null(), "a chunk after the last event: {message}");
                    chunks.push(message["payload"].clone());
                }
                "ai:stream-complete" | "ai:stream-error" => {
                    assert!(last.is_null(), "two ends: {message}");
                    last = message;
                }
                "chat:message-added" => assert!(last.is_null(), "stored after the last event"),
                other => panic!("{other}: {message}"),
            }
        }
    }

    /// The response's payload, which the last event had too.
    pub(super) fn complete(&self) -> Value {
        assert_eq!(self.last["channel"], "ai:stream-complete", "{}", self.response);
        assert_eq!(self.last["payload"]["response"], self.response["payload"]);
        self.response["payload"].clone()
    }

    /// The error, which the last event had too.
    pub(super) fn error(&self) -> Value {
        assert_eq!(self.last["channel"], "ai:stream-error", "{}", self.last);
        assert_eq!(self.last["payload"]["error"], self.response["error"]);
        self.response["error"].clone()
    }

    pub(super) fn text(&self) -> String {
        let texts = self.chunks.iter().filter(|chunk| chunk["type"] == "text");
        texts.map(|chunk| chunk["text"].as_str().unwrap()).collect()
    }
}
