//! Snippets of long texts. In: the text of a hit, and the words that were searched. Out: the part around a match, with marks.
//!
//! FTS5 takes a time for a snippet that grows with the square of the number of matches in the text: hours for a megabyte of one
//! letter, without a look at a deadline. So only short texts are given to it. Of a long text the pieces are indexed in memory, some
//! at a time, and the snippet is that of the best piece of the first ones that match.

use std::cell::OnceCell;

use rusqlite::{Connection, OptionalExtension, params};

use crate::protocol::error::WireError;

use super::db::View;
use super::search::{MARK_END, MARK_START, any_expression, marked_html};

/// Longest text, in bytes, that FTS5 makes a snippet of. It takes at most some milliseconds.
const MAX_SHORT_BYTES: usize = 1 << 10;
/// Pieces that are indexed at a time.
const PIECES_AT_ONCE: usize = 64;
/// Words of a snippet.
const WORDS: usize = 24;

/// Returns the column of a query with the snippet of a short text, and null for a long one.
pub(crate) fn short_snippet(index: &str, text: &str) -> String {
    format!(
        "iif(length(CAST({text} AS BLOB)) <= {MAX_SHORT_BYTES},
             snippet({index}, 0, '{MARK_START}', '{MARK_END}', '…', {WORDS}), NULL)"
    )
}

/// Makes the snippets of a search.
pub(crate) struct Snippets<'a> {
    view: &'a View<'a>,
    query: &'a str,
    /// The query for the text of a row.
    select_text: &'static str,
    pieces: OnceCell<Pieces>,
}

impl<'a> Snippets<'a> {
    /// Returns the snippets for what a person typed. `select_text` is the query for the text of a row.
    pub(crate) fn new(view: &'a View<'_>, query: &'a str, select_text: &'static str) -> Snippets<'a> {
        Snippets { view, query, select_text, pieces: OnceCell::new() }
    }

    /// Returns a snippet as HTML: that of [`short_snippet`], or else one of the text of a row.
    pub(crate) fn html(&self, short: Option<&str>, row: i64) -> Result<String, WireError> {
        if let Some(short) = short {
            return Ok(marked_html(short));
        }
        if self.pieces.get().is_none() {
            // It is empty, so this succeeds.
            let _ = self.pieces.set(Pieces::new(self.query)?);
        }
        let mut statement = self.view.connection.prepare_cached(self.select_text)?;
        let mut rows = statement.query([row])?;
        let (Some(row), Some(pieces)) = (rows.next()?, self.pieces.get()) else { return Ok(String::new()) };
        Ok(marked_html(&pieces.snippet(row.get_ref(0)?.as_str()?)?))
    }
}

/// The pieces of one text, in memory.
struct Pieces {
    connection: Connection,
    expression: String,
}

impl Pieces {
    fn new(query: &str) -> Result<Pieces, WireError> {
        let connection = Connection::open_in_memory()?;
        connection.execute_batch(
            "CREATE TABLE pieces (text);
             CREATE VIRTUAL TABLE piece_index USING fts5 (
                 text, content = 'pieces', tokenize = 'unicode61 remove_diacritics 2')",
        )?;
        Ok(Pieces { connection, expression: any_expression(query) })
    }

    /// Returns the snippet of a text, with marks around the hits.
    fn snippet(&self, text: &str) -> Result<String, WireError> {
        let mut rest = text;
        while !rest.is_empty() {
            let (start, mut pieces) = (rest, Vec::new());
            while pieces.len() < PIECES_AT_ONCE && !rest.is_empty() {
                let (piece, after) = rest.split_at(end_of_piece(rest));
                pieces.push(piece);
                rest = after;
            }
            if let Some((index, snippet)) = self.best(&pieces)? {
                let before = start.len() < text.len() || index > 0;
                let after = !rest.is_empty() || index + 1 < pieces.len();
                return Ok(with_dots(snippet, before, after));
            }
        }
        // The match is cut by the end of a piece.
        let mut words = text.split_inclusive(char::is_whitespace);
        let start: String = words.by_ref().take(WORDS).collect();
        Ok(with_dots(start, false, words.next().is_some()))
    }

    /// Returns the best of some pieces, by its index, and its snippet.
    fn best(&self, pieces: &[&str]) -> Result<Option<(usize, String)>, WireError> {
        for (index, piece) in pieces.iter().enumerate() {
            let values = params![index as i64, piece];
            self.connection
                .prepare_cached("INSERT INTO pieces (rowid, text) VALUES (?, ?)")?
                .execute(values)?;
            self.connection
                .prepare_cached("INSERT INTO piece_index (rowid, text) VALUES (?, ?)")?
                .execute(values)?;
        }
        let sql = format!(
            "SELECT rowid, snippet(piece_index, 0, '{MARK_START}', '{MARK_END}', '…', {WORDS})
             FROM piece_index WHERE piece_index MATCH ? ORDER BY rank LIMIT 1"
        );
        let best = self
            .connection
            .prepare_cached(&sql)?
            .query_row([&self.expression], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))
            .optional()?;
        self.connection.execute_batch(
            "INSERT INTO piece_index (piece_index) VALUES ('delete-all'); DELETE FROM pieces",
        )?;
        Ok(best.map(|(index, snippet)| (usize::try_from(index).unwrap_or_default(), snippet)))
    }
}

/// Returns where the first piece of a text ends: between two words after [`MAX_SHORT_BYTES`], and in a text without any after twice
/// as many bytes, but never inside a word of ASCII letters, which is one match at most.
fn end_of_piece(text: &str) -> usize {
    let is_end = |(at, c): &(usize, char)| {
        let is_between_words = *at >= MAX_SHORT_BYTES && !c.is_alphanumeric();
        is_between_words || *at >= 2 * MAX_SHORT_BYTES && !c.is_ascii_alphanumeric()
    };
    text.char_indices().find(is_end).map_or(text.len(), |(at, c)| at + c.len_utf8())
}

fn with_dots(snippet: String, before: bool, after: bool) -> String {
    let (start, end) = (before && !snippet.starts_with('…'), after && !snippet.ends_with('…'));
    format!("{}{snippet}{}", if start { "…" } else { "" }, if end { "…" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snippet(query: &str, text: &str) -> String {
        let snippet = Pieces::new(query).unwrap().snippet(text).unwrap();
        snippet.replace(MARK_START, "[").replace(MARK_END, "]")
    }

    #[test]
    fn a_snippet_of_a_long_text_is_around_its_first_matches() {
        let before = "before ".repeat(20_000);
        let after = " after".repeat(20_000);
        for (text, start, end) in [
            ("crème brûlée".to_owned(), "[crème] [brûlée]", ""),
            (format!("Crème brûlée{after}"), "[Crème] [brûlée] after", "after…"),
            (format!("{before}CREME BRULEE"), "…before", "[CREME] [BRULEE]"),
            (format!("{before}creme brulee{after}"), "…before", "after…"),
        ] {
            let found = snippet("creme bru", &text);
            assert!(found.starts_with(start) && found.ends_with(end), "{found}");
            assert!(found.contains("] [") && found.split_whitespace().count() <= WORDS, "{found}");
        }
    }

    #[test]
    fn a_text_that_matches_everywhere_is_cut_into_pieces_whatever_separates_its_words() {
        for separator in [" ", ",", "\u{24d0}", "。"] {
            let text = format!("a{separator}").repeat(1 << 17);
            let (mut rest, mut longest) = (text.as_str(), 0);
            while !rest.is_empty() {
                let end = end_of_piece(rest);
                longest = longest.max(end);
                rest = &rest[end..];
            }
            assert!(longest <= 2 * MAX_SHORT_BYTES + 4, "{separator:?}: {longest}");
            assert!(snippet("a", &text).contains("[a]"), "{separator:?}");
        }
    }

    #[test]
    fn a_long_word_is_kept_and_a_match_that_is_cut_gives_the_start_of_the_text() {
        let word = "x".repeat(40_000);
        assert_eq!(snippet("needle", &format!("needle {word}")), format!("[needle] {word}"));
        let text = "\u{4e00}".repeat(MAX_SHORT_BYTES);
        assert_eq!(snippet(&text, &text), text);
    }
}
