//! Anthropic's Messages API. In: a [`ChatRequest`], the events of a stream. Out: the JSON to send, chunks. Pure.
//!
//! A stream is `message_start`, then for each content block `content_block_start`, `content_block_delta`*,
//! `content_block_stop`, then `message_delta`+ and `message_stop`; `ping` and events of types to come may stand anywhere, and
//! `error` may end it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::exchange::{
    ChatRequest, Chunk, End, Failure, MAX_TOOLS, Reply, StopReason, ToolUse, Usage, count, parse, text,
};

/// The version of the API that is spoken.
pub(super) const VERSION: &str = "2023-06-01";
/// The API wants to be told a limit. Models that write less are asked for less.
const DEFAULT_MAX_TOKENS: u64 = 16_384;
/// Longest JSON of tools' inputs in one answer, in bytes.
const MAX_INPUT_BYTES: usize = 4 << 20;

/// The request's JSON. `max_output` is the model's own limit, where it is known.
pub(super) fn request_json(request: &ChatRequest, max_output: Option<u64>) -> String {
    let max_tokens = request
        .max_tokens
        .unwrap_or_else(|| DEFAULT_MAX_TOKENS.min(max_output.unwrap_or(DEFAULT_MAX_TOKENS)));
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

/// Reads a stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    usage: Option<Usage>,
    stop_reason: Option<StopReason>,
    /// Tool uses whose input is still coming, by the index of their block.
    open_tools: BTreeMap<u64, ToolUse>,
    input_bytes: usize,
    is_done: bool,
}

impl Reply for Stream {
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
            // `ping`, and what the API may add.
            _ => {}
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_done
    }

    fn finish(&mut self, _: &mut Vec<Chunk>) -> Result<End, Failure> {
        if !self.is_done {
            return Err(Failure::new("the stream ended before its last event"));
        }
        Ok(End { stop_reason: self.stop_reason.unwrap_or(StopReason::Other), usage: self.usage })
    }
}

impl Stream {
    /// Counts are cumulative; a later one takes the place of an earlier.
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
                    return Err(Failure::new(format!("more than {MAX_TOOLS} tools at once")));
                }
                let (id, name) = (text(block, "id").to_owned(), text(block, "name").to_owned());
                // Empty here, as a rule; the pieces that follow are the whole input.
                let input = block
                    .get("input")
                    .filter(|input| input.as_object().is_some_and(|input| !input.is_empty()));
                let input = input.map_or_else(String::new, Value::to_string);
                self.open_tools.insert(index, ToolUse { id, name, input });
            }
            // Blocks of the provider's own tools, thinking that is not shown.
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
                            "inputs of tools of more than {MAX_INPUT_BYTES} bytes"
                        )));
                    }
                    tool.input.push_str(piece);
                }
            }
            // Signatures, citations, and what the API may add.
            _ => {}
        }
        Ok(())
    }
}

/// Reads an answer that came whole.
///
/// # Errors
/// When it is none.
pub(super) fn read_whole(body: &str, chunks: &mut Vec<Chunk>) -> Result<End, Failure> {
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
    Ok(End { stop_reason: stop_reason(text(&message, "stop_reason")), usage })
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
    use super::super::exchange::{Message, Provider};
    use super::*;

    fn read(events: &[&str]) -> (Vec<Chunk>, Result<End, Failure>) {
        let (mut stream, mut chunks) = (Stream::default(), Vec::new());
        for event in events {
            if let Err(failure) = stream.handle(event, &mut chunks) {
                return (chunks, Err(failure));
            }
        }
        let end = stream.finish(&mut chunks);
        (chunks, end)
    }

    fn t(text: &str) -> Chunk {
        Chunk::Text(text.to_owned())
    }

    const START: &str = r#"{"type":"message_start","message":{"id":"m","content":[],"usage":
        {"input_tokens":25,"output_tokens":1,"cache_read_input_tokens":7,"cache_creation_input_tokens":0}}}"#;
    const STOP: &str = r#"{"type":"message_stop"}"#;

    #[test]
    fn text_and_thinking_come_in_order_and_usage_adds_up() {
        let (chunks, end) = read(&[
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
        assert_eq!(end, Ok(End { stop_reason: StopReason::End, usage: Some(usage) }));
    }

    #[test]
    fn the_input_of_a_tool_is_put_together_by_block() {
        let (chunks, end) = read(&[
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
        assert_eq!(end.unwrap().stop_reason, StopReason::ToolUse);
    }

    #[test]
    fn stop_reasons_are_those_of_the_registry() {
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
            let (_, end) = read(&[START, &error]);
            let failure = end.unwrap_err();
            assert_eq!((failure.message, failure.transient), (format!("{kind}: Sorry"), transient));
        }
        for events in [&[][..], &[START], &[START, "{"], &[START, "\u{0}"]] {
            assert!(!read(events).1.unwrap_err().transient);
        }
        for odd in ["null", "[]", "7", r#"{"type":7}"#, r#"{"type":"content_block_delta"}"#] {
            assert!(read(&[odd, STOP]).1.is_ok(), "{odd}");
        }
    }

    #[test]
    fn an_answer_that_came_whole_reads_the_same() {
        let mut chunks = Vec::new();
        let end = read_whole(
            r#"{"content":[{"type":"text","text":"A"},{"type":"tool_use","id":"a","name":"f","input":{"x":1}}],
                "stop_reason":"tool_use","usage":{"input_tokens":1,"output_tokens":2}}"#,
            &mut chunks,
        );
        assert_eq!((chunks.len(), end.unwrap().stop_reason), (3, StopReason::ToolUse));
        assert!(read_whole("{}", &mut chunks).is_err());
    }

    #[test]
    fn a_request_has_what_the_api_wants() {
        let mut request = ChatRequest {
            provider: Provider::Anthropic,
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
        let body: Value = serde_json::from_str(&request_json(&request, Some(4096))).unwrap();
        let expected = json!({
            "model": "m", "max_tokens": 4096, "stream": true, "system": "S\n\nBe brief", "temperature": 0.5,
            "stop_sequences": ["END"], "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        });
        assert_eq!(body, expected);
        request.max_tokens = Some(7);
        let body: Value = serde_json::from_str(&request_json(&request, None)).unwrap();
        assert_eq!(body["max_tokens"], 7);
    }
}
