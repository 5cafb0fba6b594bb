//! Anthropic's Messages API. Input: a [`ChatRequest`], the events of a stream. Output: the JSON to send, chunks. Pure.
//!
//! A stream is `message_start`, then for each content block `content_block_start`, `content_block_delta`*,
//! `content_block_stop`, then `message_delta`+ and `message_stop`. `ping` and unknown events can appear anywhere, and
//! `error` ends the stream.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::dialect::{Dialect, StreamReader, Target};
use super::exchange::{
    ChatRequest, Chunk, Failure, Finish, MAX_TOOLS, StopReason, ToolUse, Usage, count, parse, text,
};

pub(super) const DIALECT: Dialect = Dialect {
    chat_path: "/v1/messages",
    models_path: "/v1/models?limit=1000",
    key_header: "x-api-key",
    key_prefix: "",
    headers: &[("anthropic-version", "2023-06-01")],
    request: request_json,
    read_whole,
    stream: || Box::<MessageStream>::default(),
};

/// The API requires a limit. The limit of the model applies if it is lower.
const DEFAULT_MAX_TOKENS: u64 = 16_384;
/// Longest JSON of all tool inputs in one answer, in bytes.
const MAX_INPUT_BYTES: usize = 4 << 20;

fn request_json(request: &ChatRequest, target: Target) -> String {
    let max_tokens = request
        .max_tokens
        .unwrap_or_else(|| DEFAULT_MAX_TOKENS.min(target.max_output.unwrap_or(DEFAULT_MAX_TOKENS)));
    let messages: Vec<Value> = request
        .messages
        .iter()
        .filter(|message| message.role != "system")
        .map(|message| json!({"role": message.role, "content": message.content}))
        .collect();
    let mut body = json!({
        "model": request.model, "max_tokens": max_tokens, "messages": messages, "stream": request.stream,
    });
    let system = request.system_texts();
    if !system.is_empty() {
        body["system"] = json!(system.join("\n\n"));
    }
    if let Some(temperature) = request.temperature {
        body["temperature"] = json!(temperature);
    }
    if !request.stop_sequences.is_empty() {
        body["stop_sequences"] = json!(request.stop_sequences);
    }
    body.to_string()
}

#[derive(Debug, Default)]
struct MessageStream {
    usage: Option<Usage>,
    stop_reason: Option<StopReason>,
    /// Tool calls whose input is incomplete, by the index of their block.
    open_tools: BTreeMap<u64, ToolUse>,
    input_bytes: usize,
    is_done: bool,
}

impl StreamReader for MessageStream {
    fn handle(&mut self, data: &str, chunks: &mut Vec<Chunk>) -> Result<(), Failure> {
        let event = parse(data)?;
        let member = |name: &str| event.get(name).unwrap_or(&Value::Null);
        match text(&event, "type") {
            "message_start" => self.count(member("message").get("usage")),
            "content_block_start" => self.start_block(index(&event), member("content_block"), chunks)?,
            "content_block_delta" => self.extend_block(index(&event), member("delta"), chunks)?,
            "content_block_stop" => {
                chunks.extend(self.open_tools.remove(&index(&event)).map(Chunk::ToolUse));
            }
            "message_delta" => {
                if let Some(reason) = member("delta").get("stop_reason").and_then(Value::as_str) {
                    self.stop_reason = Some(stop_reason(reason));
                }
                self.count(event.get("usage"));
                chunks.extend(self.usage.map(Chunk::Usage));
            }
            "message_stop" => self.is_done = true,
            "error" => return Err(failure(member("error"))),
            // `ping`, and events that the API adds later.
            _ => {}
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_done
    }

    fn finish(&mut self, _: &mut Vec<Chunk>) -> Result<Finish, Failure> {
        if !self.is_done {
            return Err(Failure::new("the stream ended before its last event"));
        }
        Ok(Finish { stop_reason: self.stop_reason.unwrap_or(StopReason::Other), usage: self.usage })
    }
}

impl MessageStream {
    /// Counts are cumulative: a later one replaces an earlier one.
    fn count(&mut self, counted: Option<&Value>) {
        if let Some(counted) = counted.filter(|counted| counted.is_object()) {
            self.usage = Some(usage(self.usage.unwrap_or_default(), counted));
        }
    }

    fn start_block(&mut self, index: u64, block: &Value, chunks: &mut Vec<Chunk>) -> Result<(), Failure> {
        match text(block, "type") {
            "text" => push_text(chunks, text(block, "text")),
            "thinking" => push_thinking(chunks, text(block, "thinking")),
            "tool_use" => {
                if self.open_tools.len() >= MAX_TOOLS {
                    return Err(Failure::new(format!("more than {MAX_TOOLS} open tool calls")));
                }
                let (id, name) = (text(block, "id").to_owned(), text(block, "name").to_owned());
                // Usually empty: the deltas that follow are the whole input.
                let input = block
                    .get("input")
                    .filter(|input| input.as_object().is_some_and(|input| !input.is_empty()));
                let input = input.map_or_else(String::new, Value::to_string);
                self.open_tools.insert(index, ToolUse { id, name, input });
            }
            // Blocks of the provider's own tools, redacted thinking.
            _ => {}
        }
        Ok(())
    }

    fn extend_block(&mut self, index: u64, delta: &Value, chunks: &mut Vec<Chunk>) -> Result<(), Failure> {
        match text(delta, "type") {
            "text_delta" => push_text(chunks, text(delta, "text")),
            "thinking_delta" => push_thinking(chunks, text(delta, "thinking")),
            "input_json_delta" => {
                if let Some(tool) = self.open_tools.get_mut(&index) {
                    let piece = text(delta, "partial_json");
                    self.input_bytes += piece.len();
                    if self.input_bytes > MAX_INPUT_BYTES {
                        return Err(Failure::new(format!(
                            "tool inputs of more than {MAX_INPUT_BYTES} bytes"
                        )));
                    }
                    tool.input.push_str(piece);
                }
            }
            // Signatures, citations, and deltas that the API adds later.
            _ => {}
        }
        Ok(())
    }
}

fn read_whole(body: &str, chunks: &mut Vec<Chunk>) -> Result<Finish, Failure> {
    let message = parse(body)?;
    let Some(blocks) = message.get("content").and_then(Value::as_array) else {
        return Err(Failure::new("an answer without content"));
    };
    for block in blocks {
        match text(block, "type") {
            "text" => push_text(chunks, text(block, "text")),
            "thinking" => push_thinking(chunks, text(block, "thinking")),
            "tool_use" => chunks.push(Chunk::ToolUse(ToolUse {
                id: text(block, "id").to_owned(),
                name: text(block, "name").to_owned(),
                input: block.get("input").map_or_else(String::new, Value::to_string),
            })),
            _ => {}
        }
    }
    let counted = message.get("usage").filter(|counted| counted.is_object());
    let usage = counted.map(|counted| usage(Usage::default(), counted));
    chunks.extend(usage.map(Chunk::Usage));
    Ok(Finish { stop_reason: stop_reason(text(&message, "stop_reason")), usage })
}

fn index(event: &Value) -> u64 {
    count(event, "index").unwrap_or_default()
}

fn push_text(chunks: &mut Vec<Chunk>, text: &str) {
    if !text.is_empty() {
        chunks.push(Chunk::Text(text.to_owned()));
    }
}

fn push_thinking(chunks: &mut Vec<Chunk>, text: &str) {
    if !text.is_empty() {
        chunks.push(Chunk::Thinking(text.to_owned()));
    }
}

/// Updates the counts with those that are present.
fn usage(before: Usage, counted: &Value) -> Usage {
    Usage {
        input_tokens: count(counted, "input_tokens").unwrap_or(before.input_tokens),
        output_tokens: count(counted, "output_tokens").unwrap_or(before.output_tokens),
        cache_read_tokens: count(counted, "cache_read_input_tokens").or(before.cache_read_tokens),
        cache_write_tokens: count(counted, "cache_creation_input_tokens").or(before.cache_write_tokens),
    }
}

fn stop_reason(reason: &str) -> StopReason {
    match reason {
        "end_turn" => StopReason::End,
        "max_tokens" | "model_context_window_exceeded" => StopReason::MaxTokens,
        "stop_sequence" => StopReason::StopSequence,
        "tool_use" => StopReason::ToolUse,
        "refusal" => StopReason::Refusal,
        _ => StopReason::Other,
    }
}

fn failure(error: &Value) -> Failure {
    let kind = text(error, "type");
    let transient = matches!(kind, "overloaded_error" | "api_error" | "rate_limit_error" | "timeout_error");
    Failure { transient, ..Failure::new(format!("{kind}: {}", text(error, "message"))) }
}

#[cfg(test)]
mod tests {
    use super::super::dialect::read_events;
    use super::super::exchange::Message;
    use super::*;
    use crate::backend::shared::provider::Host;

    fn read(events: &[&str]) -> (Vec<Chunk>, Result<Finish, Failure>) {
        read_events(&DIALECT, events)
    }

    fn t(text: &str) -> Chunk {
        Chunk::Text(text.to_owned())
    }

    const START: &str = r#"{"type":"message_start","message":{"id":"m","content":[],"usage":
        {"input_tokens":25,"output_tokens":1,"cache_read_input_tokens":7,"cache_creation_input_tokens":0}}}"#;
    const STOP: &str = r#"{"type":"message_stop"}"#;

    #[test]
    fn text_and_thinking_come_in_order_and_usage_adds_up() {
        let (chunks, finish) = read(&[
            START,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
            r#"{"type": "ping"}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"xyz"}}"#,
            r#"{"type":"content_block_stop","index":0}"#,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"text","text":"A"}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"b\n"}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"to_come","text":"no"}}"#,
            r#"{"type":"to_come","index":1}"#,
            r#"{"type":"content_block_stop","index":1}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":15}}"#,
            STOP,
        ]);
        let usage = Usage {
            input_tokens: 25,
            output_tokens: 15,
            cache_read_tokens: Some(7),
            cache_write_tokens: Some(0),
        };
        assert_eq!(chunks, [Chunk::Thinking("Hm".to_owned()), t("A"), t("b\n"), Chunk::Usage(usage)]);
        assert_eq!(finish, Ok(Finish { stop_reason: StopReason::End, usage: Some(usage) }));
    }

    #[test]
    fn the_input_of_a_tool_is_joined_by_block() {
        let (chunks, finish) = read(&[
            START,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"a","name":"f","input":{}}}"#,
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"b","name":"g","input":{}}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"x\""}}"#,
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":""}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":":1}"}}"#,
            r#"{"type":"content_block_delta","index":9,"delta":{"type":"input_json_delta","partial_json":"lost"}}"#,
            r#"{"type":"content_block_stop","index":2}"#,
            r#"{"type":"content_block_stop","index":1}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"}}"#,
            STOP,
        ]);
        let tool = |id: &str, name: &str, input: &str| {
            Chunk::ToolUse(ToolUse { id: id.to_owned(), name: name.to_owned(), input: input.to_owned() })
        };
        assert_eq!(chunks[..2], [tool("b", "g", ""), tool("a", "f", r#"{"x":1}"#)]);
        assert_eq!(finish.unwrap().stop_reason, StopReason::ToolUse);
    }

    #[test]
    fn each_stop_reason_has_a_name_on_the_wire() {
        for (reason, expected) in [
            ("end_turn", "end"),
            ("max_tokens", "max_tokens"),
            ("model_context_window_exceeded", "max_tokens"),
            ("stop_sequence", "stop_sequence"),
            ("tool_use", "tool_use"),
            ("refusal", "refusal"),
            ("pause_turn", "other"),
            ("to_come", "other"),
        ] {
            assert_eq!(stop_reason(reason).as_str(), expected);
        }
    }

    #[test]
    fn an_error_or_an_early_end_is_a_failure() {
        for (kind, transient) in
            [("overloaded_error", true), ("api_error", true), ("invalid_request_error", false)]
        {
            let error = format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"Sorry"}}}}"#);
            let (_, finish) = read(&[START, &error]);
            let failure = finish.unwrap_err();
            assert_eq!((failure.message, failure.transient), (format!("{kind}: Sorry"), transient));
        }
        for events in [&[][..], &[START], &[START, "{"], &[START, "\u{0}"]] {
            assert!(!read(events).1.unwrap_err().transient);
        }
        for unknown in ["null", "[]", "7", r#"{"type":7}"#, r#"{"type":"content_block_delta"}"#] {
            assert!(read(&[unknown, STOP]).1.is_ok(), "{unknown}");
        }
    }

    #[test]
    fn a_response_without_a_stream_has_the_same_chunks() {
        let mut chunks = Vec::new();
        let finish = read_whole(
            r#"{"content":[{"type":"text","text":"A"},{"type":"tool_use","id":"a","name":"f","input":{"x":1}}],
                "stop_reason":"tool_use","usage":{"input_tokens":1,"output_tokens":2}}"#,
            &mut chunks,
        );
        assert_eq!((chunks.len(), finish.unwrap().stop_reason), (3, StopReason::ToolUse));
        assert!(read_whole("{}", &mut chunks).is_err());
    }

    #[test]
    fn a_request_has_the_members_that_the_api_requires() {
        let mut request = ChatRequest {
            model: "m".to_owned(),
            messages: vec![
                Message { role: "system", content: json!("Be brief") },
                Message { role: "user", content: json!([{"type": "text", "text": "Hi"}]) },
            ],
            system: Some("S".to_owned()),
            temperature: Some(0.5),
            max_tokens: None,
            stop_sequences: vec!["END".to_owned()],
            stream: true,
        };
        let target = |max_output| Target { host: Host::Own, max_output };
        let body: Value = serde_json::from_str(&request_json(&request, target(Some(4096)))).unwrap();
        let expected = json!({
            "model": "m", "max_tokens": 4096, "stream": true, "system": "S\n\nBe brief", "temperature": 0.5,
            "stop_sequences": ["END"], "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        });
        assert_eq!(body, expected);
        request.max_tokens = Some(7);
        let body: Value = serde_json::from_str(&request_json(&request, target(None))).unwrap();
        assert_eq!(body["max_tokens"], 7);
    }
}
