//! The JSON scanner (RFC 8259). In: text. Out: where the values begin and end. Builds nothing, copies nothing, never
//! recurses.
//!
//! It accepts exactly the documents that `serde_json` reads into a `Value`, with two differences on purpose: a lone
//! surrogate escape (`"\ud800"`) is accepted, because JavaScript sends it, and [`MAX_DEPTH`] is one more than
//! `serde_json` allows, so that the payload inside an envelope may be as deep as `serde_json` reads it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// Most arrays and objects inside one another, the outermost counted. As in `serde_json`, plus the envelope itself.
pub const MAX_DEPTH: usize = 128;

/// Where and why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonError {
    /// What is wrong.
    pub kind: JsonErrorKind,
    /// The first byte that is wrong, counted from 0; the length of the text when it ends too early.
    pub at: usize,
}

/// What is wrong with a text that is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonErrorKind {
    /// The text ends inside a value, or has none.
    UnexpectedEnd,
    /// Something else stands where a value must begin.
    ExpectedValue,
    /// Something else stands where a member's name must begin.
    ExpectedName,
    /// Something else stands between a member's name and its value.
    ExpectedColon,
    /// Something else stands after a member of an object.
    ExpectedCommaOrBrace,
    /// Something else stands after an element of an array.
    ExpectedCommaOrBracket,
    /// More follows after the value.
    TrailingData,
    /// A control character stands unescaped in a string.
    ControlCharacter,
    /// A backslash is not followed by an escape of RFC 8259, section 7.
    InvalidEscape,
    /// A number is not of the form of RFC 8259, section 6.
    InvalidNumber,
    /// A number is too large for a double, as in `1e999`.
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
            JsonErrorKind::UnexpectedEnd => write!(f, "the text ends too early, at byte {at}"),
            JsonErrorKind::ExpectedValue => write!(f, "expected a value at byte {at}"),
            JsonErrorKind::ExpectedName => write!(f, "expected a member's name in quotes at byte {at}"),
            JsonErrorKind::ExpectedColon => write!(f, "expected `:` at byte {at}"),
            JsonErrorKind::ExpectedCommaOrBrace => write!(f, "expected `,` or `}}` at byte {at}"),
            JsonErrorKind::ExpectedCommaOrBracket => write!(f, "expected `,` or `]` at byte {at}"),
            JsonErrorKind::TrailingData => write!(f, "more follows after the value, at byte {at}"),
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

/// One member of an object, as it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// The name between its quotes, escapes untouched. See [`unescape`].
    pub name: &'a str,
    /// The value's text.
    pub value: &'a str,
    /// Where the value begins in the whole text, in bytes.
    pub at: usize,
}

/// What the outermost value of a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An object, ending with the brace at this byte.
    Object {
        /// Where the closing brace is.
        end: usize,
    },
    /// Any other value, which begins at this byte.
    Other {
        /// Where the value begins.
        at: usize,
    },
}

/// Checks that a text is one JSON value with nothing but white space around it.
///
/// # Errors
/// With the first byte that is wrong.
pub fn validate(text: &str) -> Result<(), JsonError> {
    let bytes = text.as_bytes();
    let end = value(bytes, 0, 0)?;
    nothing_after(bytes, end)
}

/// Checks a text like [`validate`], and shows each member of its outermost object, in order, duplicates too.
///
/// The members seen before an error are worth nothing: only `Ok` says that the text is JSON.
///
/// # Errors
/// With the first byte that is wrong.
///
/// ```
/// use switchboard::protocol::json;
/// let mut seen = Vec::new();
/// json::members(r#"{"a":1, "b":[2, 3]}"#, |member| seen.push((member.name, member.value))).unwrap();
/// assert_eq!(seen, [("a", "1"), ("b", "[2, 3]")]);
/// ```
pub fn members<'a>(text: &'a str, mut visit: impl FnMut(Member<'a>)) -> Result<Shape, JsonError> {
    // Both ends of every range stand beside ASCII, so there is always such a slice.
    let slice = |range: Range<usize>| text.get(range).unwrap_or_default();
    member_ranges(text.as_bytes(), |name, value| {
        let at = value.start;
        visit(Member { name: slice(name), value: slice(value), at });
    })
}

/// As [`members`], with the places of each name (between its quotes) and of its value.
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

/// The value of a member of the outermost object, behind its colon.
#[inline(always)]
pub(super) fn member_value(bytes: &[u8], at: usize) -> Result<Range<usize>, JsonError> {
    let (start, first) = next(bytes, at);
    let end = match first {
        b'"' => string(bytes, start)?,
        _ => value(bytes, start, 1)?,
    };
    Ok(start..end)
}

/// What stands plainly in a string from here on: up to a quote, an escape, or what must not stand there.
#[inline(always)]
pub(super) fn plain_run(bytes: &[u8], at: usize) -> Range<usize> {
    at..plain(bytes, at)
}

/// The text between the quotes of a string value; `None` for any other value.
pub fn string_content(value: &str) -> Option<&str> {
    value.strip_prefix('"')?.strip_suffix('"')
}

/// What a string's content means, escapes resolved; `None` if it has a lone surrogate, which no Rust string can hold.
pub fn unescape(content: &str) -> Option<Cow<'_, str>> {
    if !content.contains('\\') {
        return Some(Cow::Borrowed(content));
    }
    serde_json::from_str(&format!("\"{content}\"")).ok().map(Cow::Owned)
}

/// The string that a member of an object is, or `None` if it is something else or not there. Nothing is built of the rest,
/// so that it may come from anybody.
///
/// ```
/// use switchboard::protocol::json;
/// assert_eq!(json::string_member(r#"{"a":[1, 2], "b":"x"}"#, "b").as_deref(), Some("x"));
/// assert_eq!(json::string_member(r#"{"a":[1, 2], "b":"x"}"#, "a"), None);
/// ```
pub fn string_member<'a>(object: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut found = None;
    members(object, |member| {
        if unescape(member.name).as_deref() == Some(name) {
            found = string_content(member.value);
        }
    })
    .ok()?;
    found.and_then(unescape)
}

/// Where a part of a text stands in it.
pub(super) fn range_in(text: &str, part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + part.len()
}

/// Appends a JSON string, quotes included.
pub fn write_string(out: &mut String, content: &str) {
    out.push('"');
    let mut rest = content;
    loop {
        let (run, behind) = rest.split_at(plain(rest.as_bytes(), 0));
        out.push_str(run);
        // What stands behind a run is ASCII.
        let Some(special) = behind.chars().next() else { break };
        match special {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
        rest = behind.split_at(1).1;
    }
    out.push('"');
}

/// The byte at a place; 0 behind the end, where 0 may stand as little as anywhere outside a string.
#[inline(always)]
fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// The error for what stands at a place, or for the end of the text.
#[cold]
fn error(bytes: &[u8], at: usize, kind: JsonErrorKind) -> JsonError {
    let kind = if at < bytes.len() { kind } else { JsonErrorKind::UnexpectedEnd };
    JsonError { kind, at: at.min(bytes.len()) }
}

/// The place and the byte behind white space, of which there mostly is none.
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

/// A member's name, from white space to its colon. Answers what stands between the quotes, and where the colon is.
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

/// A value inside `depth` containers, with the white space before it. Answers where it ends.
#[inline(never)]
fn value(bytes: &[u8], mut at: usize, depth: usize) -> Result<usize, JsonError> {
    // The containers that are open: one bit each, the innermost lowest, set for an object.
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
        // A value has ended: close what ends with it, up to the next value or to the end of the outermost one.
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
    let same = word.iter().zip(bytes.get(at..).unwrap_or_default()).take_while(|(a, b)| a == b).count();
    Err(error(bytes, at + same, JsonErrorKind::ExpectedValue))
}

/// A string, from quote to quote.
#[inline(always)]
fn string(bytes: &[u8], start: usize) -> Result<usize, JsonError> {
    let mut at = start + 1;
    loop {
        at = plain(bytes, at);
        match byte(bytes, at) {
            b'"' => return Ok(at + 1),
            b'\\' => at = escape(bytes, at)?,
            _ => return Err(error(bytes, at, JsonErrorKind::ControlCharacter)),
        }
    }
}

/// A number that begins with a minus or digit (RFC 8259, section 6).
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
        in_range(bytes.get(start..at).unwrap_or_default(), start)?;
    }
    Ok(at)
}

/// One digit or more.
#[inline(always)]
fn digits(bytes: &[u8], start: usize) -> Result<usize, JsonError> {
    let end = digits_end(bytes, start);
    if end == start { Err(error(bytes, end, JsonErrorKind::InvalidNumber)) } else { Ok(end) }
}

/// Whether a double can hold the number: what `serde_json` says, so that it can be read later.
#[cold]
fn in_range(number: &[u8], at: usize) -> Result<(), JsonError> {
    match serde_json::from_slice::<f64>(number) {
        Ok(_) => Ok(()),
        Err(_) => Err(JsonError { kind: JsonErrorKind::NumberOutOfRange, at }),
    }
}

/// Where the escape ends that begins with the backslash at `at` (RFC 8259, section 7).
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

/// Digits, or none.
#[inline(always)]
pub(super) fn digits_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        // A digit becomes 0 to 9, everything else is above.
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

/// The first byte from `at` on that may not stand plainly in a string: a quote, a backslash, a control character, or
/// the end of the text.
#[inline(always)]
fn plain(bytes: &[u8], mut at: usize) -> usize {
    let mut pairs = 0;
    while let Some(pair) = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        let pair = u128::from_le_bytes(*pair);
        let (low, high) = (special_bytes(pair as u64), special_bytes((pair >> 64) as u64));
        // Without a branch on where in the sixteen bytes it lies, which nobody could foretell.
        let (first, skipped) = if low == 0 { (high, 8) } else { (low, 0) };
        if first != 0 {
            return at + skipped + first.trailing_zeros() as usize / 8;
        }
        at += 16;
        pairs += 1;
        if pairs == 2 {
            at = plain_blocks(bytes, at);
        }
    }
    while bytes.get(at).is_some_and(|&byte| !is_special(byte)) {
        at += 1;
    }
    at
}

/// Passes over whole blocks without a special byte. Written so that the compiler turns it into vector instructions.
#[inline(never)]
fn plain_blocks(bytes: &[u8], mut at: usize) -> usize {
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
    // The control characters and the quote, 0x22: nothing else comes to lie below 0x21.
    (byte ^ 0x02 < 0x21) | (byte == b'\\')
}

/// [`is_special`] of eight bytes: a word whose lowest set bit lies in the first that is; 0 if none is. (Bits above the
/// lowest may be wrong: a borrow runs upwards.)
#[inline(always)]
fn special_bytes(word: u64) -> u64 {
    let low = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
    let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    (low | backslash) & !word & HIGHS
}

#[cfg(test)]
mod tests;
