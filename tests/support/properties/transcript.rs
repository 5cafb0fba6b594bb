//! The lines of transcripts, compared with `serde_json`.

use serde_json::{Map, Value, json};
use switchboard::backend::code::transcript::{self, Entry, Kind, Line, LineError, MAX_ID_BYTES, Splitter};

use super::json::without_lone_surrogates;
use super::{Choices, cut};

/// The lines are the same wherever the bytes are cut, and none is too long. A line is decoded exactly if `serde_json` reads
/// an object with a type. Its content is that of a naive implementation, and is encoded as JSON with the same blocks.
pub fn transcript(data: &[u8]) {
    let mut choices = Choices::new(data);
    let max_line_bytes = usize::from(choices.byte());
    let cuts = choices.word();
    let bytes = choices.rest();
    let lines = split(bytes, &cuts, max_line_bytes);
    lines_are_those_between_line_ends(bytes, max_line_bytes, &lines);
    for line in bytes.split(|byte| *byte == b'\n') {
        let _ = transcript::decode(line);
        // Lone surrogates are replaced, because each implementation treats them in its own way.
        let clean = without_lone_surrogates(&String::from_utf8_lossy(line));
        let decoded = transcript::decode(clean.as_bytes());
        verdict_matches_serde_json(&clean, decoded.as_ref().err().copied());
        if let Ok(line) = &decoded {
            line_matches_serde_json(&clean, line);
        }
    }
}

/// Each line with its reported position.
type Lines = Vec<(u64, Option<Vec<u8>>)>;

fn split(bytes: &[u8], cuts: &[u8], max_line_bytes: usize) -> Lines {
    let mut splitter = Splitter::new(0, false, max_line_bytes);
    let mut lines = Vec::new();
    for piece in cut(bytes, cuts) {
        splitter.feed(piece, |piece| lines.push((piece.at, piece.line.map(<[u8]>::to_vec))));
        let (at, rest) = splitter.rest();
        assert!(rest.len() <= max_line_bytes, "{} bytes held, {max_line_bytes} allowed", rest.len());
        assert!(!splitter.is_inside_long_line() || rest.is_empty());
        let end = at as usize + rest.len();
        assert!(end <= bytes.len() && bytes[..end].ends_with(rest), "the rest is the end of the bytes");
    }
    lines
}

pub fn lines_are_those_between_line_ends(bytes: &[u8], max_line_bytes: usize, lines: &Lines) {
    let mut expected = Vec::new();
    let mut at = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Some(content) = line.strip_suffix(b"\n") else { break };
        let end = at + line.len() as u64;
        let fits = content.len() <= max_line_bytes;
        expected.push(if fits { (at, Some(content.to_vec())) } else { (end, None) });
        at = end;
    }
    assert_eq!(*lines, expected);
}

fn object(line: &str) -> Option<Map<String, Value>> {
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) if object.get("type").is_some_and(Value::is_string) => Some(object),
        _ => None,
    }
}

fn is_too_deep_for_serde_json(line: &str) -> bool {
    serde_json::from_str::<Value>(line)
        .is_err_and(|error| error.to_string().starts_with("recursion limit exceeded"))
}

pub fn verdict_matches_serde_json(line: &str, error: Option<LineError>) {
    let Some(object) = object(line) else {
        let agrees = error == Some(LineError::NotJson) || is_too_deep_for_serde_json(line);
        assert!(agrees, "serde_json reads no object with a type: {line:?}, {error:?}");
        return;
    };
    let is_text = |name: &str| matches!(object.get(name), None | Some(Value::Null | Value::String(_)));
    let has_content = matches!(object["type"].as_str(), Some("user" | "assistant"));
    let content_blocks = has_content.then(|| blocks(content_of(&object))).flatten();
    match error {
        Some(LineError::NotJson | LineError::NotUtf8) => panic!("serde_json reads {line:?}"),
        Some(LineError::TooDeep) => assert!(line.matches(['[', '{']).count() > 100, "{line:?}"),
        Some(LineError::OddMembers) => {
            let ids = ["uuid", "parentUuid", "logicalParentUuid", "sessionId"];
            let odd_id = ids.iter().any(|name| !is_text(name) || id(&object, name).is_none());
            let is_whole = content_blocks.is_some() && object.get("uuid").is_some_and(Value::is_string);
            assert!(!has_content || odd_id || !is_whole, "{line:?} has all its members");
        }
        None => assert!(!has_content || content_blocks.is_some(), "{line:?} has no content"),
    }
}

/// An optional id; `None` for an invalid one.
fn id(object: &Map<String, Value>, name: &str) -> Option<Option<String>> {
    match object.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(id)) if (1..=MAX_ID_BYTES).contains(&id.len()) => Some(Some(id.clone())),
        Some(_) => None,
    }
}

fn content_of(object: &Map<String, Value>) -> &Value {
    let holder = if object["type"] == "system" {
        Some(object)
    } else {
        object.get("message").and_then(Value::as_object)
    };
    holder.and_then(|holder| holder.get("content")).unwrap_or(&Value::Null)
}

fn blocks(content: &Value) -> Option<Value> {
    match content {
        Value::String(text) => Some(json!([{"type": "text", "text": text}])),
        Value::Array(blocks) if blocks.iter().all(|block| block["type"].is_string()) => Some(content.clone()),
        _ => None,
    }
}

pub fn line_matches_serde_json(line: &str, decoded: &Line<'_>) {
    let Some(object) = object(line) else {
        assert!(is_too_deep_for_serde_json(line));
        return;
    };
    assert_eq!(Some(&decoded.id), id(&object, "uuid").as_ref(), "{line:?}");
    assert_eq!(Some(&decoded.session_id), id(&object, "sessionId").as_ref(), "{line:?}");
    let parent = match id(&object, "parentUuid") {
        Some(None) => id(&object, "logicalParentUuid"),
        parent => parent,
    };
    let parent = parent.expect("a line with an odd parent is refused");
    assert_eq!(decoded.parent_id, parent.filter(|parent| Some(parent) != decoded.id.as_ref()), "{line:?}");
    assert_eq!(decoded.sidechain, object.get("isSidechain") == Some(&Value::Bool(true)), "{line:?}");
    let Kind::Entry(entry) = &decoded.kind else {
        assert!(!matches!(object["type"].as_str(), Some("user" | "assistant")), "{line:?} has content");
        return;
    };
    entry_has_the_content(line, entry, content_of(&object));
}

pub fn entry_has_the_content(line: &str, entry: &Entry<'_>, content: &Value) {
    let sent: Value = serde_json::from_str(&entry.content_json()).expect("content is JSON");
    assert_eq!(Some(&sent), blocks(content).as_ref(), "{line:?}");
    let is_result = |block: &Value| block["type"] == "tool_result";
    let results = sent.as_array().is_some_and(|blocks| !blocks.is_empty() && blocks.iter().all(is_result));
    assert_eq!(entry.role == "tool", results && entry.role != "assistant" && entry.role != "system");
    let text = entry.text(usize::MAX);
    for max_bytes in [0, 1, 2, 3, 10, text.len()] {
        let part = entry.text(max_bytes);
        assert!(part.len() <= max_bytes && text.starts_with(&part), "{line:?}");
    }
    if let Value::String(whole) = content {
        assert_eq!(text, *whole);
    }
}
