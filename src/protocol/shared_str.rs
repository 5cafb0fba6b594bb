//! A part of a shared text. Clones share the text's memory and keep it alive.

use std::ops::Range;
use std::sync::Arc;

use super::json;

#[derive(Clone)]
pub(super) struct SharedStr {
    text: Arc<str>,
    range: Range<usize>,
}

impl SharedStr {
    /// The part of a text at a range that the scanner found in it.
    pub(super) fn new(text: Arc<str>, range: Range<usize>) -> SharedStr {
        SharedStr { text, range }
    }

    pub(super) fn as_str(&self) -> &str {
        json::part(&self.text, self.range.clone())
    }
}
