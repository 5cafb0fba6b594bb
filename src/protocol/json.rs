//! The JSON scanner (RFC 8259). Input: text. Output: the ranges of its values. It never builds a value, copies text or
//! recurses.
//!
//! It accepts exactly the documents that `serde_json` reads into a `Value`, with two intended differences. A lone
//! surrogate escape (`"\ud800"`) is accepted, because JavaScript sends it. [`MAX_DEPTH`] is one more than in
//! `serde_json`, so that the payload inside an envelope can be as deep as `serde_json` reads.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

pub use super::escape::{content_is, unescape};

/// Maximum nesting of arrays and objects, including the outermost. As in `serde_json`, plus the envelope itself.
pub const MAX_DEPTH: usize = 128;

/// Where and why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonError {
    /// What is wrong.
    pub kind: JsonErrorKind,
    /// The index of the first wrong byte; the length of the text if the text ends too early.
    pub at: usize,
}

/// What is wrong with a text that is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonErrorKind {
    /// The text ends inside a value, or has none.
    UnexpectedEnd,
    /// A value must begin here.
    ExpectedValue,
    /// A member's name must begin here.
    ExpectedName,
    /// A colon must follow the member's name.
    ExpectedColon,
    /// A comma or a closing brace must follow the member.
    ExpectedCommaOrBrace,
    /// A comma or a closing bracket must follow the element.
    ExpectedCommaOrBracket,
    /// Only white space may follow the value.
    TrailingData,
    /// A string contains an unescaped control character.
    ControlCharacter,
    /// A backslash is not followed by an escape of RFC 8259, section 7.
    InvalidEscape,
    /// A number breaks the grammar of RFC 8259, section 6.
    InvalidNumber,
    /// A number is too large for a double, such as `1e999`.
    NumberOutOfRange,
    /// Arrays and objects are nested deeper than [`MAX_DEPTH`].
    TooDeep,
    /// The bytes are not UTF-8.
    NotUtf8,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at;
        match self.kind {
            JsonErrorKind::UnexpectedEnd => write!(f, "unexpected end of text at byte {at}"),
            JsonErrorKind::ExpectedValue => write!(f, "expected a value at byte {at}"),
            JsonErrorKind::ExpectedName => write!(f, "expected a member's name in quotes at byte {at}"),
            JsonErrorKind::ExpectedColon => write!(f, "expected `:` at byte {at}"),
            JsonErrorKind::ExpectedCommaOrBrace => write!(f, "expected `,` or `}}` at byte {at}"),
            JsonErrorKind::ExpectedCommaOrBracket => write!(f, "expected `,` or `]` at byte {at}"),
            JsonErrorKind::TrailingData => write!(f, "unexpected data after the value at byte {at}"),
            JsonErrorKind::ControlCharacter => write!(f, "unescaped control character at byte {at}"),
            JsonErrorKind::InvalidEscape => write!(f, "invalid escape at byte {at}"),
            JsonErrorKind::InvalidNumber => write!(f, "invalid number at byte {at}"),
            JsonErrorKind::NumberOutOfRange => write!(f, "number out of range at byte {at}"),
            JsonErrorKind::TooDeep => {
                write!(f, "depth {} at byte {at}, {MAX_DEPTH} allowed", MAX_DEPTH + 1)
            }
            JsonErrorKind::NotUtf8 => write!(f, "not UTF-8 at byte {at}"),
        }
    }
}

impl std::error::Error for JsonError {}

/// One member of an object, as written in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// The name without its quotes, escapes not resolved. See [`unescape`].
    pub name: &'a str,
    /// The value's text.
    pub value: &'a str,
    /// The index of the value's first byte in the whole text.
    pub at: usize,
}

/// What the outermost value of a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An object.
    Object {
        /// The index of the closing brace.
        end: usize,
    },
    /// Any other value.
    Other {
        /// The index of the value's first byte.
        at: usize,
    },
}

/// Checks that a text is one JSON value, with only white space around it.
///
/// # Errors
/// With the first wrong byte.
pub fn validate(text: &str) -> Result<(), JsonError> {
    let bytes = text.as_bytes();
    let end = value(bytes, 0, 0)?;
    nothing_after(bytes, end)
}

/// Checks a text like [`validate`] and visits each member of its outermost object, in order, duplicates included.
///
/// Discard the members visited before an error: only `Ok` means that the text is JSON.
///
/// # Errors
/// With the first wrong byte.
///
/// ```
/// use switchboard::protocol::json;
/// let mut seen = Vec::new();
/// json::members(r#"{"a":1, "b":[2, 3]}"#, |member| seen.push((member.name, member.value))).unwrap();
/// assert_eq!(seen, [("a", "1"), ("b", "[2, 3]")]);
/// ```
pub fn members<'a>(text: &'a str, mut visit: impl FnMut(Member<'a>)) -> Result<Shape, JsonError> {
    member_ranges(text.as_bytes(), |name, value| {
        let at = value.start;
        visit(Member { name: part(text, name), value: part(text, value), at });
    })
}

/// Visits the members of an object in a text that is known to be JSON, in order, duplicates included, until `visit` returns
/// false. Values are skipped by their quotes and brackets. That takes a fraction of the time of [`members`], which checks them.
///
/// ```
/// use switchboard::protocol::json;
/// let mut seen = Vec::new();
/// json::members_of_json(r#"{"a":[1, "]"], "b":2, "c":3}"#, |name, value| {
///     seen.push((name, value));
///     name != "b"
/// });
/// assert_eq!(seen, [("a", r#"[1, "]"]"#), ("b", "2")]);
/// ```
pub fn members_of_json<'a>(object: &'a str, mut visit: impl FnMut(&'a str, &'a str) -> bool) {
    let bytes = object.as_bytes();
    let (mut at, mut separator) = next(bytes, 0);
    while let b'{' | b',' = separator {
        let Ok((name, colon)) = name(bytes, at + 1) else { return };
        let (start, _) = next(bytes, colon + 1);
        let end = skip_value(bytes, start);
        if !visit(part(object, name), part(object, start..end)) {
            return;
        }
        (at, separator) = next(bytes, end);
    }
}

/// Visits the elements of an array in a text that is known to be JSON, as [`members_of_json`] does.
pub fn elements_of_json<'a>(array: &'a str, mut visit: impl FnMut(&'a str) -> bool) {
    let bytes = array.as_bytes();
    let (mut at, mut separator) = next(bytes, 0);
    while let b'[' | b',' = separator {
        let (start, first) = next(bytes, at + 1);
        let end = skip_value(bytes, start);
        if first == b']' || !visit(part(array, start..end)) {
            return;
        }
        (at, separator) = next(bytes, end);
    }
}

/// Skips a value that is known to be JSON. Returns the index after it.
fn skip_value(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut open) = (start, 0_usize);
    loop {
        match byte(bytes, at) {
            b'"' => at = string(bytes, at).unwrap_or(bytes.len()),
            b'[' | b'{' => (at, open) = (at + 1, open + 1),
            b']' | b'}' => (at, open) = (at + 1, open.saturating_sub(1)),
            // A number or a literal.
            _ => return skip_until(bytes, at, |byte| matches!(byte, 0..=b' ' | b',' | b']' | b'}')),
        }
        if open == 0 {
            return at;
        }
        at = skip_until(bytes, at, |byte| matches!(byte | 0x20, b'{' | b'}') | (byte == b'"'));
        if at == bytes.len() {
            return at;
        }
    }
}

/// The index of the first byte from `at` on that ends a run. Most runs are short; in long ones whole blocks are skipped.
#[inline(always)]
fn skip_until(bytes: &[u8], mut at: usize, ends: impl Fn(u8) -> bool) -> usize {
    for _ in 0..16 {
        match bytes.get(at) {
            Some(&byte) if !ends(byte) => at += 1,
            _ => return at,
        }
    }
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<64>())
        && block.iter().fold(0_u8, |found, &byte| found | u8::from(ends(byte))) == 0
    {
        at += 64;
    }
    while bytes.get(at).is_some_and(|&byte| !ends(byte)) {
        at += 1;
    }
    at
}

/// The part of a text at a range that the scanner found in it. The bytes next to both ends are ASCII, so the range never
/// cuts a character.
pub(super) fn part(text: &str, range: Range<usize>) -> &str {
    let part = text.get(range);
    debug_assert!(part.is_some(), "the range belongs to this text");
    part.unwrap_or_default()
}

/// Like [`members`], with the range of each name (without its quotes) and of its value.
#[inline(always)]
pub(super) fn member_ranges(
    bytes: &[u8],
    mut visit: impl FnMut(Range<usize>, Range<usize>),
) -> Result<Shape, JsonError> {
    let (start, first) = next(bytes, 0);
    if first != b'{' {
        let end = value(bytes, start, 0)?;
        nothing_after(bytes, end)?;
        return Ok(Shape::Other { at: start });
    }
    let (mut at, mut byte) = next(bytes, start + 1);
    if byte != b'}' {
        loop {
            let (name, colon) = name(bytes, at)?;
            let value = member_value(bytes, colon + 1)?;
            (at, byte) = next(bytes, value.end);
            visit(name, value);
            match byte {
                b',' => at += 1,
                b'}' => break,
                _ => return Err(error(bytes, at, JsonErrorKind::ExpectedCommaOrBrace)),
            }
        }
    }
    nothing_after(bytes, at + 1)?;
    Ok(Shape::Object { end: at })
}

/// The value of a member of the outermost object; `at` is after the colon.
#[inline(always)]
pub(super) fn member_value(bytes: &[u8], at: usize) -> Result<Range<usize>, JsonError> {
    let (start, first) = next(bytes, at);
    let end = match first {
        b'"' => string(bytes, start)?,
        _ => value(bytes, start, 1)?,
    };
    Ok(start..end)
}

/// The run of unescaped string bytes starting at `at`: up to a quote, a backslash or a control byte.
#[inline(always)]
pub(super) fn unescaped_run(bytes: &[u8], at: usize) -> Range<usize> {
    at..unescaped_end(bytes, at)
}

/// The text between the quotes of a string value; `None` for any other value.
pub fn string_content(value: &str) -> Option<&str> {
    value.strip_prefix('"')?.strip_suffix('"')
}

/// The string value of an object's member; `None` if the member is absent or not a string. Nothing is built from the
/// other members, so the text can be untrusted.
///
/// ```
/// use switchboard::protocol::json;
/// assert_eq!(json::string_member(r#"{"a":[1, 2], "b":"x"}"#, "b").as_deref(), Some("x"));
/// assert_eq!(json::string_member(r#"{"a":[1, 2], "b":"x"}"#, "a"), None);
/// ```
pub fn string_member<'a>(object: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut found = None;
    members(object, |member| {
        if content_is(member.name, name) {
            found = string_content(member.value);
        }
    })
    .ok()?;
    found.and_then(unescape)
}

/// Appends a JSON string, quotes included.
pub fn write_string(out: &mut String, content: &str) {
    out.push('"');
    let mut rest = content;
    loop {
        let (run, after) = rest.split_at(unescaped_end(rest.as_bytes(), 0));
        out.push_str(run);
        let Some(special) = after.chars().next() else { break };
        match special {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
        // Every special character is ASCII.
        rest = after.split_at(1).1;
    }
    out.push('"');
}

/// The byte at `at`, or 0 past the end (0 is never valid outside a string).
#[inline(always)]
fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// The error of this kind at a byte, or `UnexpectedEnd` past the end of the text.
#[cold]
fn error(bytes: &[u8], at: usize, kind: JsonErrorKind) -> JsonError {
    let kind = if at < bytes.len() { kind } else { JsonErrorKind::UnexpectedEnd };
    JsonError { kind, at: at.min(bytes.len()) }
}

/// The first byte from `at` on that is not white space, with its index. Usually that is the byte at `at`.
#[inline(always)]
fn next(bytes: &[u8], at: usize) -> (usize, u8) {
    match byte(bytes, at) {
        byte if byte > b' ' => (at, byte),
        _ => next_after_space(bytes, at),
    }
}

#[inline(never)]
fn next_after_space(bytes: &[u8], mut at: usize) -> (usize, u8) {
    loop {
        match byte(bytes, at) {
            b' ' | b'\n' | b'\r' | b'\t' => at += 1,
            byte => return (at, byte),
        }
    }
}

fn nothing_after(bytes: &[u8], at: usize) -> Result<(), JsonError> {
    let (at, _) = next(bytes, at);
    if at < bytes.len() { Err(error(bytes, at, JsonErrorKind::TrailingData)) } else { Ok(()) }
}

/// Reads a member's name, from white space to its colon. Returns the range without the quotes, and the colon's index.
#[inline(always)]
fn name(bytes: &[u8], at: usize) -> Result<(Range<usize>, usize), JsonError> {
    let (start, quote) = next(bytes, at);
    if quote != b'"' {
        return Err(error(bytes, start, JsonErrorKind::ExpectedName));
    }
    let end = string(bytes, start)?;
    let (at, colon) = next(bytes, end);
    if colon != b':' {
        return Err(error(bytes, at, JsonErrorKind::ExpectedColon));
    }
    Ok((start + 1..end - 1, at))
}

/// Reads a value inside `depth` containers, with the white space before it. Returns the index after its end.
#[inline(never)]
fn value(bytes: &[u8], mut at: usize, depth: usize) -> Result<usize, JsonError> {
    // One bit per open container, the innermost lowest; 1 is an object.
    let mut objects = 0_u128;
    let mut open = 0;
    'value: loop {
        let (start, first) = next(bytes, at);
        at = match first {
            b'"' => string(bytes, start)?,
            b'-' | b'0'..=b'9' => number(bytes, start)?,
            b'{' | b'[' => {
                if depth + open == MAX_DEPTH {
                    return Err(error(bytes, start, JsonErrorKind::TooDeep));
                }
                let object = first == b'{';
                let (inside, byte) = next(bytes, start + 1);
                if byte == if object { b'}' } else { b']' } {
                    inside + 1
                } else {
                    objects = objects << 1 | u128::from(object);
                    open += 1;
                    at = if object { name(bytes, inside)?.1 + 1 } else { inside };
                    continue 'value;
                }
            }
            b't' => literal(bytes, start, b"true")?,
            b'f' => literal(bytes, start, b"false")?,
            b'n' => literal(bytes, start, b"null")?,
            _ => return Err(error(bytes, start, JsonErrorKind::ExpectedValue)),
        };
        // A value has ended. Close the containers that end after it, until the next value or the end of the outermost.
        loop {
            if open == 0 {
                return Ok(at);
            }
            let (end, byte) = next(bytes, at);
            at = end + 1;
            let object = objects & 1 == 1;
            match byte {
                b',' => {
                    if object {
                        at = name(bytes, at)?.1 + 1;
                    }
                    continue 'value;
                }
                b'}' if object => {}
                b']' if !object => {}
                _ if object => return Err(error(bytes, end, JsonErrorKind::ExpectedCommaOrBrace)),
                _ => return Err(error(bytes, end, JsonErrorKind::ExpectedCommaOrBracket)),
            }
            objects >>= 1;
            open -= 1;
        }
    }
}

#[inline(always)]
fn literal<const N: usize>(bytes: &[u8], at: usize, word: &[u8; N]) -> Result<usize, JsonError> {
    if bytes.get(at..).and_then(|rest| rest.first_chunk()) == Some(word) {
        return Ok(at + N);
    }
    let same = word.iter().zip(bytes.iter().skip(at)).take_while(|(a, b)| a == b).count();
    Err(error(bytes, at + same, JsonErrorKind::ExpectedValue))
}

/// Reads a string, from quote to quote. Returns the index after it.
#[inline(always)]
fn string(bytes: &[u8], start: usize) -> Result<usize, JsonError> {
    let mut at = start + 1;
    loop {
        at = unescaped_end(bytes, at);
        match byte(bytes, at) {
            b'"' => return Ok(at + 1),
            b'\\' => at = escape(bytes, at)?,
            _ => return Err(error(bytes, at, JsonErrorKind::ControlCharacter)),
        }
    }
}

/// Reads a number that begins with a minus or digit (RFC 8259, section 6). Returns the index after it.
#[inline(always)]
fn number(bytes: &[u8], start: usize) -> Result<usize, JsonError> {
    let mut at = start;
    if byte(bytes, at) == b'-' {
        at += 1;
    }
    if byte(bytes, at) == b'0' {
        at += 1;
        if byte(bytes, at).is_ascii_digit() {
            return Err(error(bytes, at, JsonErrorKind::InvalidNumber));
        }
    } else {
        at = digits(bytes, at)?;
    }
    if byte(bytes, at) == b'.' {
        at = digits(bytes, at + 1)?;
    }
    let exponent = matches!(byte(bytes, at), b'e' | b'E');
    if exponent {
        at += 1;
        if let b'+' | b'-' = byte(bytes, at) {
            at += 1;
        }
        at = digits(bytes, at)?;
    }
    // Without an exponent it takes 309 digits to leave the range of a double.
    if exponent || at - start > 300 {
        check_range(bytes, start..at)?;
    }
    Ok(at)
}

/// Reads one or more digits.
#[inline(always)]
fn digits(bytes: &[u8], start: usize) -> Result<usize, JsonError> {
    let end = digits_end(bytes, start);
    if end == start { Err(error(bytes, end, JsonErrorKind::InvalidNumber)) } else { Ok(end) }
}

/// Refuses a number that a double cannot hold. `serde_json` decides, because it may read the number later.
#[cold]
fn check_range(bytes: &[u8], number: Range<usize>) -> Result<(), JsonError> {
    let at = number.start;
    match bytes.get(number).map(serde_json::from_slice::<f64>) {
        Some(Ok(_)) => Ok(()),
        _ => Err(JsonError { kind: JsonErrorKind::NumberOutOfRange, at }),
    }
}

/// Reads the escape that begins with the backslash at `at` (RFC 8259, section 7). Returns the index after it.
fn escape(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => {
            for digit in at + 2..at + 6 {
                if !bytes.get(digit).is_some_and(|digit| digit.is_ascii_hexdigit()) {
                    return Err(error(bytes, digit, JsonErrorKind::InvalidEscape));
                }
            }
            Ok(at + 6)
        }
        _ => Err(error(bytes, at + 1, JsonErrorKind::InvalidEscape)),
    }
}

/// Skips digits.
#[inline(always)]
pub(super) fn digits_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        // The xor maps digits to 0..=9 and all other bytes to larger values.
        let word = u64::from_le_bytes(*word) ^ (ONES * b'0' as u64);
        let others = (((word & !HIGHS) + ONES * 0x76) | word) & HIGHS;
        if others != 0 {
            return at + others.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while byte(bytes, at).is_ascii_digit() {
        at += 1;
    }
    at
}

const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);

/// The index of the first special byte from `at` on: a quote, a backslash, a control character, or the end of the text.
#[inline(always)]
fn unescaped_end(bytes: &[u8], mut at: usize) -> usize {
    let mut pairs = 0;
    while let Some(pair) = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        let pair = u128::from_le_bytes(*pair);
        let (low, high) = (special_bytes(pair as u64), special_bytes((pair >> 64) as u64));
        // Branch-free: the position within the 16 bytes is unpredictable.
        let (first, skipped) = if low == 0 { (high, 8) } else { (low, 0) };
        if first != 0 {
            return at + skipped + first.trailing_zeros() as usize / 8;
        }
        at += 16;
        pairs += 1;
        if pairs == 2 {
            at = skip_unescaped_blocks(bytes, at);
        }
    }
    while bytes.get(at).is_some_and(|&byte| !is_special(byte)) {
        at += 1;
    }
    at
}

/// Skips whole blocks without a special byte. Written so that the compiler emits vector instructions.
#[inline(never)]
fn skip_unescaped_blocks(bytes: &[u8], mut at: usize) -> usize {
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<64>()) {
        let special = block.iter().fold(0_u8, |found, &byte| found | u8::from(is_special(byte)));
        if special != 0 {
            break;
        }
        at += 64;
    }
    at
}

#[inline(always)]
fn is_special(byte: u8) -> bool {
    // The xor maps exactly the control characters and the quote (0x22) below 0x21.
    (byte ^ 0x02 < 0x21) | (byte == b'\\')
}

/// [`is_special`] for eight bytes at once: the lowest set bit is in the first special byte; 0 if there is none. Higher
/// bits can be wrong, because a borrow propagates upwards.
#[inline(always)]
fn special_bytes(word: u64) -> u64 {
    let low = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
    let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    (low | backslash) & !word & HIGHS
}

#[cfg(test)]
mod tests;
