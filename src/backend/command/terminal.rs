//! What the command writes for people. Input: texts, some of them from servers and their clients. Output: stdout, unchanged
//! unless it is a terminal, and stderr. A terminal never gets their control characters, which could change what it shows, its
//! title, or the clipboard.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal, Write as _};

/// Whether a line break is part of the text, or could only be there to look like another line of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineBreaks {
    Kept,
    Shown,
}

/// Returns a text with its control characters as JSON escapes: those of C0 and C1, DEL, line and paragraph separators, and
/// those that change the direction of the text. A tab stays. Valid JSON stays valid, with the same value.
pub(super) fn visible(text: &str, breaks: LineBreaks) -> Cow<'_, str> {
    let is_hidden = |c: char| match c {
        '\n' => breaks == LineBreaks::Shown,
        '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    };
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut visible = String::with_capacity(text.len() + 32);
    for c in text.chars() {
        if is_hidden(c) {
            // A String takes everything.
            let _ = write!(visible, "\\u{:04x}", u32::from(c));
        } else {
            visible.push(c);
        }
    }
    Cow::Owned(visible)
}

/// Writes a line to stderr. Nothing is left to do if that fails.
pub(super) fn say(line: impl Display) {
    let line = line.to_string();
    let _ = writeln!(io::stderr().lock(), "{}", visible(&line, LineBreaks::Shown));
}

/// As [`visible`] if stdout is a terminal, else unchanged.
pub(super) fn for_stdout(text: &str, breaks: LineBreaks) -> Cow<'_, str> {
    if io::stdout().is_terminal() { visible(text, breaks) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_escapes() {
        for (text, expected) in [
            ("", ""),
            ("plain, žluťoučký, 👩‍👩‍👧, \u{ad}", "plain, žluťoučký, 👩‍👩‍👧, \u{ad}"),
            ("a\tb", "a\tb"),
            ("\u{1b}[2J", "\\u001b[2J"),
            ("\u{1b}]0;title\u{7}", "\\u001b]0;title\\u0007"),
            ("a\rb\u{8}\0", "a\\u000db\\u0008\\u0000"),
            ("\u{7f}\u{80}\u{9b}31m\u{9f}\u{a0}", "\\u007f\\u0080\\u009b31m\\u009f\u{a0}"),
            ("\u{202e}exe\u{2066}\u{2069}\u{200f}\u{61c}", "\\u202eexe\\u2066\\u2069\\u200f\\u061c"),
            ("a\u{2028}b\u{2029}c", "a\\u2028b\\u2029c"),
        ] {
            assert_eq!(visible(text, LineBreaks::Shown), expected, "{text:?}");
            assert_eq!(visible(text, LineBreaks::Kept), expected, "{text:?}");
        }
        assert_eq!(visible("a\nb", LineBreaks::Shown), "a\\u000ab");
        assert_eq!(visible("a\nb\r\n", LineBreaks::Kept), "a\nb\\u000d\n");
    }

    #[test]
    fn json_keeps_its_value() {
        for c in (0..0x3000).filter_map(char::from_u32) {
            let json = serde_json::json!({ "a": format!("x{c}y"), format!("k{c}"): [null] });
            let visible = visible(&json.to_string(), LineBreaks::Shown).into_owned();
            assert!(!visible.contains(char::is_control), "{c:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&visible).unwrap(), json, "{c:?}");
        }
    }
}
