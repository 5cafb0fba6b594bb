//! What a model is asked and what it answers, whoever provides it. Pure: no sockets, no clock.

use serde_json::Value;

use crate::backend::shared::encode::{Object, array};
pub(super) use crate::backend::shared::provider::Failure;

/// Who runs models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Provider {
    Anthropic,
    OpenAi,
    Echo,
}

impl Provider {
    pub(super) const ALL: [Provider; 3] = [Provider::Anthropic, Provider::OpenAi, Provider::Echo];
    /// Their names, in the same order.
    pub(super) const NAMES: [&str; 3] = ["anthropic", "openai", "echo"];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Provider::Anthropic => "anthropic",
            Provider::OpenAi => "openai",
            Provider::Echo => "echo",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Provider> {
        Provider::ALL.into_iter().find(|provider| provider.as_str() == name)
    }
}

/// One message of a conversation.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// `user`, `assistant` or `system`.
    pub(super) role: &'static str,
    /// A string, or content blocks in the provider's own form.
    pub(super) content: Value,
}

impl Message {
    /// The text of the content; of blocks, the text of those that have one.
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

/// What a model is asked.
#[derive(Debug, Clone)]
pub(super) struct ChatRequest {
    pub(super) provider: Provider,
    pub(super) model: String,
    pub(super) messages: Vec<Message>,
    pub(super) system: Option<String>,
    pub(super) temperature: Option<f64>,
    pub(super) max_tokens: Option<u64>,
    pub(super) stop_sequences: Vec<String>,
    /// Whether the provider is asked for a stream, or for the whole answer at once.
    pub(super) stream: bool,
}

impl ChatRequest {
    /// What the system is told, from `system` and from messages of that role.
    pub(super) fn system_texts(&self) -> Vec<String> {
        let messages = self.messages.iter().filter(|message| message.role == "system").map(Message::text);
        self.system.iter().cloned().chain(messages).collect()
    }
}

/// Tokens that were counted. Each counts once: those read from a cache or written to one are not among `input`.
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
    /// What was counted up to here.
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

/// A tool that the model wants used.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ToolUse {
    pub(super) id: String,
    pub(super) name: String,
    /// The JSON of the input, as it came in pieces.
    pub(super) input: String,
}

impl ToolUse {
    /// An input that was cut off, as by the limit of tokens, is shown as the text that came.
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
pub(super) struct End {
    pub(super) stop_reason: StopReason,
    /// `None` if the provider never said.
    pub(super) usage: Option<Usage>,
}

/// Reads a provider's stream, event by event.
pub(super) trait Reply: Send {
    /// Takes the data of one event, and adds the chunks that it holds.
    fn handle(&mut self, data: &str, chunks: &mut Vec<Chunk>) -> Result<(), Failure>;
    /// Whether the provider has said that nothing follows.
    fn is_done(&self) -> bool;
    /// How the answer ended; an error if it was cut off.
    fn finish(&mut self, chunks: &mut Vec<Chunk>) -> Result<End, Failure>;
}

/// What the chunks of an answer add up to.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) tools: Vec<ToolUse>,
    bytes: usize,
}

impl Answer {
    /// Adds a chunk.
    ///
    /// # Errors
    /// When the answer gets longer than `max_bytes`.
    pub(super) fn take(&mut self, chunk: &Chunk, max_bytes: usize) -> Result<(), Failure> {
        self.bytes += match chunk {
            Chunk::Text(text) | Chunk::Thinking(text) => text.len(),
            Chunk::ToolUse(tool) => tool.input.len() + tool.name.len() + tool.id.len(),
            Chunk::Usage(_) => 0,
        };
        if self.bytes > max_bytes {
            return Err(Failure::new(format!("the answer is longer than {max_bytes} bytes")));
        }
        if matches!(chunk, Chunk::ToolUse(_)) && self.tools.len() >= MAX_TOOLS {
            return Err(Failure::new(format!("more than {MAX_TOOLS} tools in one answer")));
        }
        match chunk {
            Chunk::Text(text) => self.text.push_str(text),
            Chunk::ToolUse(tool) => self.tools.push(tool.clone()),
            Chunk::Thinking(_) | Chunk::Usage(_) => {}
        }
        Ok(())
    }

    /// The answer as content blocks; `None` if it is text alone.
    pub(super) fn blocks(&self) -> Option<String> {
        if self.tools.is_empty() {
            return None;
        }
        let text = (!self.text.is_empty())
            .then(|| Object::new().text("type", "text").text("text", &self.text).finish());
        Some(array(&text.into_iter().chain(self.tools.iter().map(ToolUse::to_json)).collect::<Vec<_>>()))
    }
}

/// A count in a provider's JSON.
pub(super) fn count(object: &Value, name: &str) -> Option<u64> {
    object.get(name).and_then(Value::as_u64)
}

/// A text in a provider's JSON.
pub(super) fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A provider's JSON.
///
/// # Errors
/// When it is none.
pub(super) fn parse(data: &str) -> Result<Value, Failure> {
    serde_json::from_str(data).map_err(|error| Failure::new(format!("an event that is no JSON: {error}")))
}

/// Most tools in one answer.
pub(super) const MAX_TOOLS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_those_of_the_wire() {
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
    fn an_answer_has_an_end() {
        let mut answer = Answer::default();
        assert!(answer.take(&Chunk::Text("123".to_owned()), 4).is_ok());
        assert!(answer.take(&Chunk::Thinking("4".to_owned()), 4).is_ok());
        assert!(answer.take(&Chunk::Thinking("5".to_owned()), 4).is_err());
        assert_eq!(answer.text, "123");
        // What stands around a tool would add up, however little it says.
        let tool = Chunk::ToolUse(ToolUse { id: String::new(), name: String::new(), input: String::new() });
        let mut answer = Answer::default();
        assert!((0..MAX_TOOLS).all(|_| answer.take(&tool, 4).is_ok()));
        assert!(answer.take(&tool, 4).is_err());
    }
}
