//! OpenAI's Chat Completions API, which many other servers implement. Input: a [`ChatRequest`], the events of a stream.
//! Output: the JSON to send, chunks. Pure.
//!
//! A stream is chunks with the `delta` of a choice, one of them with a `finish_reason`, then optionally a chunk with `usage`
//! and no choice, then `[DONE]`. Tool calls come in pieces, by index.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::backend::shared::provider::Host;

use super::dialect::{Dialect, StreamReader, Target};
use super::exchange::{
    ChatRequest, Chunk, Failure, Finish, MAX_TOOLS, StopReason, ToolUse, Usage, count, parse, text,
};

pub(super) const DIALECT: Dialect = Dialect {
    chat_path: "/chat/completions",
    models_path: "/models",
    key_header: "authorization",
    key_prefix: "Bearer ",
    headers: &[],
    request: request_json,
    read_whole,
    stream: || Box::<CompletionStream>::default(),
};

/// Longest JSON of all tool inputs in one answer, in bytes.
const MAX_INPUT_BYTES: usize = 4 << 20;

fn request_json(request: &ChatRequest, target: Target) -> String {
    let system = request.system.iter().map(|system| json!({"role": "system", "content": system}));
    let messages =
        request.messages.iter().map(|message| json!({"role": message.role, "content": message.content}));
    let messages: Vec<Value> = system.chain(messages).collect();
    let mut body = json!({"model": request.model, "messages": messages, "stream": request.stream});
    if request.stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    if let Some(temperature) = request.temperature {
        body["temperature"] = json!(temperature);
    }
    if let Some(max_tokens) = request.max_tokens {
        // OpenAI's newer models refuse the old name, some compatible servers know only that one.
        let name = match target.host {
            Host::Own => "max_completion_tokens",
            Host::Compatible => "max_tokens",
        };
        body[name] = json!(max_tokens);
    }
    if !request.stop_sequences.is_empty() {
        body["stop"] = json!(request.stop_sequences);
    }
    body.to_string()
}

#[derive(Debug, Default)]
struct CompletionStream {
    usage: Option<Usage>,
    stop_reason: Option<StopReason>,
    /// Tool calls that are incomplete, by index.
    open_tools: BTreeMap<u64, ToolUse>,
    has_tools: bool,
    has_refused: bool,
    input_bytes: usize,
    is_done: bool,
}

impl StreamReader for CompletionStream {
    fn handle(&mut self, data: &str, chunks: &mut Vec<Chunk>) -> Result<(), Failure> {
        if data.trim() == "[DONE]" {
            self.is_done = true;
            return Ok(());
        }
        let event = parse(data)?;
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            return Err(failure(error));
        }
        // We ask for one choice. Some servers omit the list, or send null, in a chunk that has only `usage`.
        if let Some(choice) = event.get("choices").and_then(|choices| choices.get(0)) {
            if let Some(delta) = choice.get("delta") {
                self.extend(delta, chunks)?;
            }
            if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
                self.stop_reason = Some(stop_reason(reason));
                self.close_tools(chunks);
            }
        }
        if let Some(counted) = event.get("usage").filter(|counted| counted.is_object()) {
            let usage = usage(counted);
            // Some servers repeat the usage in each chunk.
            if self.usage.replace(usage) != Some(usage) {
                chunks.push(Chunk::Usage(usage));
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_done
    }

    fn finish(&mut self, chunks: &mut Vec<Chunk>) -> Result<Finish, Failure> {
        // Servers that omit `[DONE]` send a stop reason.
        if !self.is_done && self.stop_reason.is_none() {
            return Err(Failure::new("the stream ended before its last event"));
        }
        self.close_tools(chunks);
        let stop_reason = match self.stop_reason.unwrap_or(StopReason::Other) {
            StopReason::End if self.has_refused => StopReason::Refusal,
            StopReason::End if self.has_tools => StopReason::ToolUse,
            reason => reason,
        };
        Ok(Finish { stop_reason, usage: self.usage })
    }
}

impl CompletionStream {
    fn extend(&mut self, delta: &Value, chunks: &mut Vec<Chunk>) -> Result<(), Failure> {
        // Compatible servers send the model's thinking under either name.
        for thinking in [text(delta, "reasoning_content"), text(delta, "reasoning")] {
            if !thinking.is_empty() {
                chunks.push(Chunk::Thinking(thinking.to_owned()));
                break;
            }
        }
        let refusal = text(delta, "refusal");
        self.has_refused |= !refusal.is_empty();
        for piece in [text(delta, "content"), refusal] {
            if !piece.is_empty() {
                chunks.push(Chunk::Text(piece.to_owned()));
            }
        }
        let calls = delta.get("tool_calls").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for (position, call) in (0..).zip(calls) {
            self.extend_tool(count(call, "index").unwrap_or(position), call)?;
        }
        Ok(())
    }

    fn extend_tool(&mut self, index: u64, call: &Value) -> Result<(), Failure> {
        if self.open_tools.len() >= MAX_TOOLS && !self.open_tools.contains_key(&index) {
            return Err(Failure::new(format!("more than {MAX_TOOLS} open tool calls")));
        }
        let function = call.get("function").unwrap_or(&Value::Null);
        let (id, name, piece) = (text(call, "id"), text(function, "name"), text(function, "arguments"));
        self.input_bytes += id.len() + name.len() + piece.len();
        if self.input_bytes > MAX_INPUT_BYTES {
            return Err(Failure::new(format!("tool inputs of more than {MAX_INPUT_BYTES} bytes")));
        }
        self.has_tools = true;
        let tool = self.open_tools.entry(index).or_insert_with(|| ToolUse {
            id: String::new(),
            name: String::new(),
            input: String::new(),
        });
        // Sent once, or with every piece.
        for (known, sent) in [(&mut tool.id, id), (&mut tool.name, name)] {
            if !sent.is_empty() {
                sent.clone_into(known);
            }
        }
        tool.input.push_str(piece);
        Ok(())
    }

    fn close_tools(&mut self, chunks: &mut Vec<Chunk>) {
        chunks.extend(std::mem::take(&mut self.open_tools).into_values().map(Chunk::ToolUse));
    }
}

/// The document is like the only chunk of a stream, except that `delta` is called `message`.
fn read_whole(body: &str, chunks: &mut Vec<Chunk>) -> Result<Finish, Failure> {
    let mut completion = parse(body)?;
    let mut stream = CompletionStream::default();
    if let Some(choice) = completion.get_mut("choices").and_then(|choices| choices.get_mut(0))
        && let Some(message) = choice.get_mut("message").map(Value::take)
    {
        choice["delta"] = message;
    }
    stream.handle(&completion.to_string(), chunks)?;
    stream.finish(chunks)
}

/// `prompt_tokens` includes the tokens that were read from the cache.
fn usage(counted: &Value) -> Usage {
    let cached = counted.get("prompt_tokens_details").and_then(|details| count(details, "cached_tokens"));
    Usage {
        input_tokens: count(counted, "prompt_tokens")
            .unwrap_or_default()
            .saturating_sub(cached.unwrap_or_default()),
        output_tokens: count(counted, "completion_tokens").unwrap_or_default(),
        cache_read_tokens: cached,
        cache_write_tokens: None,
    }
}

fn stop_reason(reason: &str) -> StopReason {
    match reason {
        "stop" => StopReason::End,
        "length" => StopReason::MaxTokens,
        "tool_calls" | "function_call" => StopReason::ToolUse,
        "content_filter" => StopReason::Refusal,
        _ => StopReason::Other,
    }
}

fn failure(error: &Value) -> Failure {
    let kind = text(error, "type");
    let message = error.as_str().unwrap_or_else(|| text(error, "message"));
    let code = error.get("code").and_then(Value::as_u64).unwrap_or_default();
    let transient =
        matches!(kind, "server_error" | "overloaded_error" | "rate_limit_error" | "rate_limit_exceeded")
            || code == 429
            || (500..600).contains(&code);
    let message = if kind.is_empty() { message.to_owned() } else { format!("{kind}: {message}") };
    Failure { transient, ..Failure::new(message) }
}

#[cfg(test)]
mod tests {
    use super::super::dialect::read_events;
    use super::super::exchange::Message;
    use super::*;

    fn read(events: &[&str]) -> (Vec<Chunk>, Result<Finish, Failure>) {
        read_events(&DIALECT, events)
    }

    fn t(text: &str) -> Chunk {
        Chunk::Text(text.to_owned())
    }

    fn tool(id: &str, name: &str, input: &str) -> Chunk {
        Chunk::ToolUse(ToolUse { id: id.to_owned(), name: name.to_owned(), input: input.to_owned() })
    }

    const HELLO: &str =
        r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"Hello"},"finish_reason":null}]}"#;
    const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

    #[test]
    fn usage_can_come_late_or_never() {
        let counted = r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        let usage =
            Usage { input_tokens: 6, output_tokens: 2, cache_read_tokens: Some(4), cache_write_tokens: None };
        let (chunks, finish) = read(&[HELLO, STOP, counted, "[DONE]"]);
        assert_eq!(chunks, [t("Hello"), Chunk::Usage(usage)]);
        assert_eq!(finish, Ok(Finish { stop_reason: StopReason::End, usage: Some(usage) }));
        for events in [&[HELLO, STOP, "[DONE]"][..], &[HELLO, STOP]] {
            let (chunks, finish) = read(events);
            assert_eq!(
                (chunks, finish),
                (vec![t("Hello")], Ok(Finish { stop_reason: StopReason::End, usage: None }))
            );
        }
        let null = r#"{"choices":null,"usage":null}"#;
        assert_eq!(read(&[null, HELLO, null, STOP, " [DONE]"]).0, [t("Hello")]);
    }

    #[test]
    fn tool_calls_are_joined_by_index() {
        let (chunks, finish) = read(&[
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"b","function":{"name":"g","arguments":"{}"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
            "[DONE]",
        ]);
        assert_eq!(chunks, [tool("a", "f", r#"{"x":1}"#), tool("b", "g", "{}")]);
        assert_eq!(finish.unwrap().stop_reason, StopReason::ToolUse);
        // Whole, without an index, and with the reason of a text.
        let (chunks, finish) = read(&[
            r#"{"choices":[{"delta":{"content":"","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}}]}}]}"#,
            STOP,
            "[DONE]",
        ]);
        assert_eq!((chunks, finish.unwrap().stop_reason), (vec![tool("a", "f", "{}")], StopReason::ToolUse));
    }

    #[test]
    fn each_finish_reason_has_a_name_on_the_wire() {
        for (reason, expected) in [
            ("stop", "end"),
            ("length", "max_tokens"),
            ("tool_calls", "tool_use"),
            ("function_call", "tool_use"),
            ("content_filter", "refusal"),
            ("to_come", "other"),
        ] {
            let event =
                format!(r#"{{"choices":[{{"delta":{{"content":null}},"finish_reason":"{reason}"}}]}}"#);
            assert_eq!(read(&[&event]).1.unwrap().stop_reason.as_str(), expected);
        }
        let refusal = r#"{"choices":[{"delta":{"refusal":"No"}}]}"#;
        let (chunks, finish) = read(&[refusal, STOP]);
        assert_eq!((chunks, finish.unwrap().stop_reason), (vec![t("No")], StopReason::Refusal));
    }

    #[test]
    fn thinking_is_read_under_both_names() {
        let (chunks, _) = read(&[
            r#"{"choices":[{"delta":{"reasoning_content":"a"}}]}"#,
            r#"{"choices":[{"delta":{"reasoning":"b","content":"c"}}]}"#,
        ]);
        assert_eq!(chunks, [Chunk::Thinking("a".to_owned()), Chunk::Thinking("b".to_owned()), t("c")]);
    }

    #[test]
    fn an_error_or_an_early_end_is_a_failure() {
        for (error, message, transient) in [
            (r#"{"error":{"message":"m","type":"server_error"}}"#, "server_error: m", true),
            (r#"{"error":{"message":"m","code":503}}"#, "m", true),
            (
                r#"{"error":{"message":"m","type":"invalid_request_error"}}"#,
                "invalid_request_error: m",
                false,
            ),
            (r#"{"error":"m"}"#, "m", false),
        ] {
            let failure = read(&[HELLO, error]).1.unwrap_err();
            assert_eq!((&*failure.message, failure.transient), (message, transient));
        }
        for events in [&[][..], &[HELLO], &[HELLO, "{"], &[HELLO, "DONE"]] {
            assert!(!read(events).1.unwrap_err().transient);
        }
        for unknown in
            ["null", "[]", "7", r#"{"choices":{}}"#, r#"{"choices":[7]}"#, r#"{"choices":[{"delta":[]}]}"#]
        {
            assert!(read(&[unknown, "[DONE]"]).1.is_ok(), "{unknown}");
        }
    }

    #[test]
    fn a_response_without_a_stream_has_the_same_chunks() {
        let mut chunks = Vec::new();
        let finish = read_whole(
            r#"{"choices":[{"message":{"role":"assistant","content":"Hi"},"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
            &mut chunks,
        );
        assert_eq!((chunks.len(), finish.unwrap().stop_reason), (2, StopReason::MaxTokens));
        assert!(read_whole("{}", &mut chunks).is_err());
        assert!(read_whole(r#"{"choices":[7]}"#, &mut chunks).is_err());
    }

    #[test]
    fn a_request_has_the_members_that_the_api_requires() {
        let request = ChatRequest {
            model: "m".to_owned(),
            messages: vec![Message { role: "user", content: json!("Hi") }],
            system: Some("S".to_owned()),
            temperature: None,
            max_tokens: Some(9),
            stop_sequences: vec!["END".to_owned()],
            stream: true,
        };
        let body = |host| -> Value {
            let target = Target { host, max_output: None };
            serde_json::from_str(&request_json(&request, target)).unwrap()
        };
        let expected = json!({
            "model": "m", "max_completion_tokens": 9, "stream": true, "stream_options": {"include_usage": true},
            "stop": ["END"],
            "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}],
        });
        assert_eq!(body(Host::Own), expected);
        assert_eq!(body(Host::Compatible)["max_tokens"], 9);
    }
}
