//! The escapes of JSON strings (RFC 8259, section 7). Input: the text between the quotes, which is known to be JSON. Output: what
//! it means.

use std::borrow::Cow;

/// Resolves the escapes of a string's content; `None` for a lone surrogate, which no Rust string can hold.
pub fn unescape(content: &str) -> Option<Cow<'_, str>> {
    if !content.contains('\\') {
        return Some(Cow::Borrowed(content));
    }
    serde_json::from_str(&format!("\"{content}\"")).ok().map(Cow::Owned)
}

/// Whether a string's content, with its escapes resolved, is this text. It builds nothing and stops at the first difference,
/// so the content can be long.
///
/// ```
/// use switchboard::protocol::json;
/// assert!(json::content_is(r"\u0069d", "id"));
/// assert!(!json::content_is(r"\u0069ds", "id"));
/// ```
pub fn content_is(content: &str, text: &str) -> bool {
    let mut rest = content;
    for expected in text.chars() {
        match first_char(rest) {
            Some((found, after)) if found == expected => rest = after,
            _ => return false,
        }
    }
    rest.is_empty()
}

/// The first character of a string's content, its escape resolved, and the rest; `None` at the end and for a lone surrogate.
fn first_char(content: &str) -> Option<(char, &str)> {
    let mut chars = content.chars();
    let first = chars.next()?;
    if first != '\\' {
        return Some((first, chars.as_str()));
    }
    let escape = chars.next()?;
    let rest = chars.as_str();
    let meant = match escape {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => return unicode_escape(rest),
        itself => itself,
    };
    Some((meant, rest))
}

/// The character of an escape whose `\u` was read. One outside of the basic plane takes two escapes.
fn unicode_escape(rest: &str) -> Option<(char, &str)> {
    let unit = |text: &str| u16::from_str_radix(text, 16).ok();
    let (first, rest) = rest.split_at_checked(4)?;
    let first = unit(first)?;
    if let Some(char) = char::from_u32(first.into()) {
        return Some((char, rest));
    }
    let (second, rest) = rest.strip_prefix("\\u")?.split_at_checked(4)?;
    let char = char::decode_utf16([first, unit(second)?]).next()?.ok()?;
    Some((char, rest))
}
