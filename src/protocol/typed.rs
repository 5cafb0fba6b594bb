//! Payloads from and to types of the caller, which `serde_json` reads and writes. Input: a payload and a function. Output: a value,
//! or the error of the request. It names the member and the byte, and repeats no value: a value can be a secret, or very long.

use super::error::WireError;
use super::json;
use super::payload::Payload;

/// Longest path or reason in an error, in bytes.
const MAX_TEXT_BYTES: usize = 200;

impl Payload {
    /// The payload as a type of the caller, which can borrow from it. No payload is read as `null`.
    ///
    /// ```
    /// use serde::Deserialize;
    /// use switchboard::Payload;
    ///
    /// #[derive(Deserialize)]
    /// struct Greet<'a> {
    ///     name: &'a str,
    ///     times: u8,
    /// }
    ///
    /// let payload = Payload::from_json(r#"{"name": "Ada", "times": 2}"#).unwrap();
    /// let greet = payload.read(serde_json::from_str::<Greet>).unwrap();
    /// assert_eq!((greet.name, greet.times), ("Ada", 2));
    ///
    /// let payload = Payload::from_json(r#"{"name": "Ada", "times": 300}"#).unwrap();
    /// let error = payload.read(serde_json::from_str::<Greet>).err().unwrap();
    /// assert_eq!(error.message, "times: invalid value: integer, expected u8 at byte 27");
    /// assert_eq!(error.details.as_str(), Some(r#"{"path":"times","byte":27}"#));
    /// ```
    ///
    /// # Errors
    /// When the payload does not fit the type: a `HANDLER_ERROR` with the path of the member, and the byte of the payload at
    /// which reading stopped: the last one of the value that does not fit, or of the object that lacks a member. It repeats no
    /// value. The error of a check that `serde_json` knows no place of, as in `from_value`, has neither.
    pub fn read<'a, T>(
        &'a self,
        parse: impl FnOnce(&'a str) -> serde_json::Result<T>,
    ) -> Result<T, WireError> {
        let text = self.as_str().unwrap_or("null");
        parse(text).map_err(|error| mismatch(text, &error))
    }

    /// A payload of JSON that a serializer wrote. The text is checked, since no client could read a response that is not JSON.
    ///
    /// ```
    /// use serde::Serialize;
    /// use switchboard::Payload;
    ///
    /// #[derive(Serialize)]
    /// struct Greeting {
    ///     text: String,
    /// }
    ///
    /// let answer = Greeting { text: "Hello, Ada!".to_owned() };
    /// let payload = Payload::write(serde_json::to_string(&answer)).unwrap();
    /// assert_eq!(payload.as_str(), Some(r#"{"text":"Hello, Ada!"}"#));
    /// ```
    ///
    /// # Errors
    /// When the serializer failed, or its text is not one JSON value, with the first wrong byte: a `HANDLER_ERROR`.
    pub fn write(text: serde_json::Result<String>) -> Result<Payload, WireError> {
        let text = text.map_err(|error| unwritable(&error))?;
        Payload::from_json(text).map_err(|error| unwritable(&error))
    }
}

/// The error of a request whose payload is this text.
#[cold]
fn mismatch(text: &str, error: &serde_json::Error) -> WireError {
    let reason = cut(&without_value(&without_place(error)));
    let Some(at) = byte_of(text, error.line(), error.column()) else {
        // An error that was not found while reading, such as that of a check after it.
        return WireError::new(format!("payload: {reason}"));
    };
    let path = cut(&path_at(text, at));
    let mut details = String::from("{\"path\":");
    json::write_string(&mut details, &path);
    details.push_str(&format!(",\"byte\":{at}}}"));
    WireError::new(format!("{path}: {reason} at byte {at}")).details(Payload::trusted(details))
}

/// The error of an answer that cannot be written as JSON.
#[cold]
fn unwritable(reason: &dyn std::fmt::Display) -> WireError {
    WireError::new(format!("response cannot be written: {}", cut(&reason.to_string())))
}

/// The index of the last byte that was read; `None` without a line.
fn byte_of(text: &str, line: usize, column: usize) -> Option<usize> {
    let before = line.checked_sub(1)?;
    let line_at = match before.checked_sub(1) {
        None => 0,
        Some(last) => text.match_indices('\n').nth(last)?.0 + 1,
    };
    Some((line_at + column).saturating_sub(1).min(text.len()))
}

/// The error's text without the line and the column.
fn without_place(error: &serde_json::Error) -> String {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = error.to_string();
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// `invalid type: string, expected u8` of `invalid type: string "secret", expected u8`.
fn without_value(reason: &str) -> String {
    const STARTS: [&str; 4] = ["invalid type: ", "invalid value: ", "unknown variant ", "unknown field "];
    let expected =
        reason.rfind(", expected ").filter(|_| STARTS.iter().any(|start| reason.starts_with(start)));
    match expected.and_then(|at| reason.split_at_checked(at)) {
        Some((seen, expected)) => {
            let kind = seen.split(['"', '`']).next().unwrap_or_default();
            format!("{}{expected}", kind.trim_end())
        }
        None => reason.to_owned(),
    }
}

/// A text of at most [`MAX_TEXT_BYTES`].
fn cut(text: &str) -> String {
    match (0..=MAX_TEXT_BYTES).rev().find_map(|end| text.get(..end)) {
        Some(start) if text.len() > MAX_TEXT_BYTES => format!("{start}…"),
        _ => text.to_owned(),
    }
}

/// A container around a byte: an array and the index of its element, or an object and the name of its member, as written.
enum Step<'a> {
    Index(usize),
    Name(Option<&'a str>),
}

/// The path of the value, or of the member's name, at a byte of JSON: `list[0].name`; `payload` for the outermost. The brackets
/// of a container belong to the container.
fn path_at(text: &str, at: usize) -> String {
    let bytes = text.as_bytes();
    let mut open: Vec<Step<'_>> = Vec::new();
    let mut here = 0;
    while let Some(&byte) = bytes.get(here).filter(|_| here <= at) {
        let end = if byte == b'"' { string_end(bytes, here) } else { here + 1 };
        match (byte, open.last_mut()) {
            (b'"', Some(Step::Name(name @ None))) => *name = text.get(here + 1..end.saturating_sub(1)),
            (b'}' | b']', _) => drop(open.pop()),
            (b'{', _) if here < at => open.push(Step::Name(None)),
            (b'[', _) if here < at => open.push(Step::Index(0)),
            (b',', Some(Step::Index(index))) if here < at => *index += 1,
            (b',', Some(Step::Name(name))) if here < at => *name = None,
            _ => {}
        }
        here = end;
    }
    let mut path = String::new();
    for step in open {
        match step {
            Step::Index(index) => path.push_str(&format!("[{index}]")),
            Step::Name(None) => {}
            Step::Name(Some(name)) => {
                path.push_str(if path.is_empty() { "" } else { "." });
                path.push_str(&json::unescape(name).unwrap_or(name.into()));
            }
        }
    }
    if path.is_empty() { "payload".to_owned() } else { path }
}

/// The index after a string that starts here.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_that_of_the_innermost_value_at_a_byte() {
        let text = r#"{"a": [1, {"b\"c": "x,]"}], "d": 2}"#;
        let expected = [
            ("{", "payload"),
            ("a\":", "a"),
            ("[1", "a"),
            ("1", "a[0]"),
            (", {", "a[0]"),
            ("{\"b", "a[1]"),
            ("b\\", "a[1].b\"c"),
            ("x,", "a[1].b\"c"),
            ("}]", "a[1]"),
            ("]\"", "a[1].b\"c"),
            ("], ", "a"),
            ("d", "d"),
            ("2", "d"),
        ];
        for (part, path) in expected {
            assert_eq!(path_at(text, text.find(part).unwrap()), path, "{part}");
        }
        assert_eq!(path_at(text, text.len() - 1), "payload");
        assert_eq!(path_at("[[3]]", 2), "[0][0]");
        assert_eq!(path_at(r#" "text" "#, 3), "payload");
    }

    #[test]
    fn a_reason_repeats_no_value_and_is_short() {
        for (reason, expected) in [
            (r#"invalid type: string "a, expected b", expected u8"#, "invalid type: string, expected u8"),
            ("invalid value: integer `300`, expected u8", "invalid value: integer, expected u8"),
            ("invalid type: null, expected a string", "invalid type: null, expected a string"),
            ("unknown variant `secret`, expected `a` or `b`", "unknown variant, expected `a` or `b`"),
            ("missing field `name`", "missing field `name`"),
        ] {
            assert_eq!(without_value(reason), expected);
        }
        assert!(cut(&"é".repeat(200)).len() <= MAX_TEXT_BYTES + 3);
    }
}
