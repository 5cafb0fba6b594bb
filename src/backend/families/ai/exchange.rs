//! Requests to models and their answers, the same for all providers. Pure: no sockets, no clock.

use serde_json::Value;

use crate::backend::shared::encode::{Object, array};

pub(super) use crate::backend::shared::provider::Failure;

/// One message of a conversation.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// `user`, `assistant` or `system`.
    pub(super) role: &'static str,
    /// A string, or content blocks as the provider defines them.
    pub(super) content: Value,
}

impl Message {
    /// Returns the text of the content; for blocks, the texts of those that have one.
    pub(super) fn text(&self) -> String {
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(blocks) => {
                let texts = blocks.iter().filter_map(|block| block.get("text").and_then(Value::as_str));
                texts.collect::<Vec<_>>().join("\n")
            }
            _ => String::new(),
        }
    }
}

/// A request to a model.
#[derive(Debug, Clone)]
pub(super) struct ChatRequest {
    pub(super) model: String,
    pub(super) messages: Vec<Message>,
    pub(super) system: Option<String>,
    pub(super) temperature: Option<f64>,
    pub(super) max_tokens: Option<u64>,
    pub(super) stop_sequences: Vec<String>,
    /// Whether the provider sends the answer as a stream, or all at once.
    pub(super) stream: bool,
}

impl ChatRequest {
    /// Returns the system prompts: `system`, then the messages of that role.
    pub(super) fn system_texts(&self) -> Vec<String> {
        let messages = self.messages.iter().filter(|message| message.role == "system").map(Message::text);
        self.system.iter().cloned().chain(messages).collect()
    }
}

/// Numbers of tokens. `input_tokens` does not include those that were read from a cache or written to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) cache_read_tokens: Option<u64>,
    pub(super) cache_write_tokens: Option<u64>,
}

impl Usage {
    pub(super) fn to_json(self) -> String {
        let mut usage = Object::new()
            .raw("inputTokens", &self.input_tokens.to_string())
            .raw("outputTokens", &self.output_tokens.to_string());
        for (name, count) in
            [("cacheReadTokens", self.cache_read_tokens), ("cacheWriteTokens", self.cache_write_tokens)]
        {
            if let Some(count) = count {
                usage = usage.raw(name, &count.to_string());
            }
        }
        usage.finish()
    }
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Chunk {
    Text(String),
    Thinking(String),
    ToolUse(ToolUse),
    /// The tokens used so far.
    Usage(Usage),
}

impl Chunk {
    pub(super) fn to_json(&self) -> String {
        match self {
            Chunk::Text(text) => Object::new().text("type", "text").text("text", text).finish(),
            Chunk::Thinking(text) => Object::new().text("type", "thinking").text("text", text).finish(),
            Chunk::ToolUse(tool) => tool.to_json(),
            Chunk::Usage(usage) => {
                Object::new().text("type", "usage").raw("usage", &usage.to_json()).finish()
            }
        }
    }
}

/// A call of a tool that the model asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ToolUse {
    pub(super) id: String,
    pub(super) name: String,
    /// The JSON of the input, joined from its pieces.
    pub(super) input: String,
}

impl ToolUse {
    /// Returns the content block. An input that is not JSON, because the token limit cut it off, becomes a string.
    pub(super) fn to_json(&self) -> String {
        let input = match serde_json::from_str::<Value>(&self.input) {
            Ok(value) => value,
            Err(_) if self.input.trim().is_empty() => Value::Object(serde_json::Map::new()),
            Err(_) => Value::String(self.input.clone()),
        };
        Object::new()
            .text("type", "tool_use")
            .text("id", &self.id)
            .text("name", &self.name)
            .raw("input", &input.to_string())
            .finish()
    }
}

/// Why a model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopReason {
    End,
    MaxTokens,
    StopSequence,
    ToolUse,
    Refusal,
    Other,
}

impl StopReason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            StopReason::End => "end",
            StopReason::MaxTokens => "max_tokens",
            StopReason::StopSequence => "stop_sequence",
            StopReason::ToolUse => "tool_use",
            StopReason::Refusal => "refusal",
            StopReason::Other => "other",
        }
    }
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Finish {
    pub(super) stop_reason: StopReason,
    /// `None` if the provider reported no usage.
    pub(super) usage: Option<Usage>,
}

/// An answer, collected from its chunks.
#[derive(Debug, Default)]
pub(super) struct ChatAnswer {
    pub(super) text: String,
    pub(super) tools: Vec<ToolUse>,
    /// Length of all chunks so far, thinking included.
    bytes: usize,
}

impl ChatAnswer {
    /// Adds a chunk.
    ///
    /// # Errors
    /// When the answer exceeds `max_bytes` or [`MAX_TOOLS`].
    pub(super) fn add(&mut self, chunk: &Chunk, max_bytes: usize) -> Result<(), Failure> {
        self.bytes += match chunk {
            Chunk::Text(text) | Chunk::Thinking(text) => text.len(),
            Chunk::ToolUse(tool) => tool.input.len() + tool.name.len() + tool.id.len(),
            Chunk::Usage(_) => 0,
        };
        if self.bytes > max_bytes {
            return Err(Failure::new(format!("the answer is longer than {max_bytes} bytes")));
        }
        if matches!(chunk, Chunk::ToolUse(_)) && self.tools.len() >= MAX_TOOLS {
            return Err(Failure::new(format!("more than {MAX_TOOLS} tool calls in one answer")));
        }
        match chunk {
            Chunk::Text(text) => self.text.push_str(text),
            Chunk::ToolUse(tool) => self.tools.push(tool.clone()),
            Chunk::Thinking(_) | Chunk::Usage(_) => {}
        }
        Ok(())
    }

    /// Returns the answer as content blocks; `None` if it is only text.
    pub(super) fn blocks(&self) -> Option<String> {
        if self.tools.is_empty() {
            return None;
        }
        let text = (!self.text.is_empty())
            .then(|| Object::new().text("type", "text").text("text", &self.text).finish());
        Some(array(&text.into_iter().chain(self.tools.iter().map(ToolUse::to_json)).collect::<Vec<_>>()))
    }
}

/// Returns a count from a provider's JSON.
pub(super) fn count(object: &Value, name: &str) -> Option<u64> {
    object.get(name).and_then(Value::as_u64)
}

/// Returns a text from a provider's JSON; empty if it is missing.
pub(super) fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Parses a provider's JSON.
///
/// # Errors
/// When it is not JSON.
pub(super) fn parse(data: &str) -> Result<Value, Failure> {
    serde_json::from_str(data).map_err(|error| Failure::new(format!("invalid JSON: {error}")))
}

/// Most tool calls in one answer.
pub(super) const MAX_TOOLS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_have_the_json_of_the_specification() {
        let usage =
            Usage { input_tokens: 1, output_tokens: 2, cache_read_tokens: Some(3), cache_write_tokens: None };
        let tool = |input: &str| {
            Chunk::ToolUse(ToolUse { id: "i".to_owned(), name: "n".to_owned(), input: input.to_owned() })
        };
        for (chunk, json) in [
            (Chunk::Text("a\n".to_owned()), r#"{"type":"text","text":"a\n"}"#),
            (Chunk::Thinking("b".to_owned()), r#"{"type":"thinking","text":"b"}"#),
            (tool(r#"{"x":1}"#), r#"{"type":"tool_use","id":"i","name":"n","input":{"x":1}}"#),
            (tool(""), r#"{"type":"tool_use","id":"i","name":"n","input":{}}"#),
            (tool(r#"{"x":"#), r#"{"type":"tool_use","id":"i","name":"n","input":"{\"x\":"}"#),
            (
                Chunk::Usage(usage),
                r#"{"type":"usage","usage":{"inputTokens":1,"outputTokens":2,"cacheReadTokens":3}}"#,
            ),
        ] {
            assert_eq!(chunk.to_json(), json);
        }
    }

    #[test]
    fn an_answer_has_a_longest_length_and_a_most_tools() {
        let mut answer = ChatAnswer::default();
        assert!(answer.add(&Chunk::Text("123".to_owned()), 4).is_ok());
        assert!(answer.add(&Chunk::Thinking("4".to_owned()), 4).is_ok());
        assert!(answer.add(&Chunk::Thinking("5".to_owned()), 4).is_err());
        assert_eq!(answer.text, "123");
        // Even empty tool calls take memory, so their number is limited.
        let tool = Chunk::ToolUse(ToolUse { id: String::new(), name: String::new(), input: String::new() });
        let mut answer = ChatAnswer::default();
        assert!((0..MAX_TOOLS).all(|_| answer.add(&tool, 4).is_ok()));
        assert!(answer.add(&tool, 4).is_err());
    }
}
