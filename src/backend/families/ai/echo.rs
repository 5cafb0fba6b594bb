//! The built-in provider: no network. It repeats the last user message, word by word. Pure.

use super::exchange::{ChatRequest, Chunk, Finish, Message, StopReason, Usage};

/// Most chunks of text. The words of a longer message come several at a time, so that it is not a flood of events.
const MAX_PIECES: usize = 1000;

/// Returns the chunks of the answer, and how it ended.
pub(super) fn answer(request: &ChatRequest) -> (Vec<Chunk>, Finish) {
    let last = request.messages.iter().rfind(|message| message.role == "user");
    let text = last.map(Message::text).unwrap_or_default();
    let words: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
    // A word counts as a token.
    let input = request.messages.iter().map(|message| message.text().split_whitespace().count() as u64);
    let limit = usize::try_from(request.max_tokens.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let kept = words.get(..limit).unwrap_or(&words);
    let usage = Usage { input_tokens: input.sum(), output_tokens: kept.len() as u64, ..Usage::default() };
    let stop_reason = if kept.len() < words.len() { StopReason::MaxTokens } else { StopReason::End };
    let pieces = kept.chunks(kept.len().div_ceil(MAX_PIECES).max(1)).map(|words| Chunk::Text(words.concat()));
    let chunks = pieces.chain([Chunk::Usage(usage)]).collect();
    (chunks, Finish { stop_reason, usage: Some(usage) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn echo(text: &str, max_tokens: Option<u64>) -> (Vec<String>, Finish) {
        let message = |role, text: &str| Message { role, content: json!(text) };
        let (chunks, finish) = answer(&ChatRequest {
            model: "echo".to_owned(),
            messages: vec![
                message("user", "not this"),
                message("user", text),
                message("assistant", "nor this"),
            ],
            system: None,
            temperature: None,
            max_tokens,
            stop_sequences: Vec::new(),
            stream: true,
        });
        let text = chunks.iter().filter_map(|chunk| match chunk {
            Chunk::Text(text) => Some(text.clone()),
            _ => None,
        });
        (text.collect(), finish)
    }

    #[test]
    fn the_last_user_message_comes_back_word_by_word() {
        assert_eq!(echo("Hello, big\n world ", None).0, ["Hello, ", "big\n", " ", "world "]);
        assert_eq!(echo("", None).0, [""; 0]);
        let (words, finish) = echo("a b c", Some(2));
        assert_eq!(
            (words, finish.stop_reason),
            (vec!["a ".to_owned(), "b ".to_owned()], StopReason::MaxTokens)
        );
        assert_eq!(echo("a b", Some(2)).1.stop_reason, StopReason::End);
    }

    #[test]
    fn a_long_message_comes_in_a_thousand_pieces_at_most() {
        let text = "x ".repeat(2500);
        let (pieces, _) = echo(&text, None);
        assert_eq!((pieces.len(), pieces.concat()), (834, text));
    }
}
