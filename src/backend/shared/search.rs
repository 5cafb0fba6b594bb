//! Full-text search with FTS5. In: the text that a person typed, and the snippet of a hit. Out: a query for these words, without
//! any operators, and HTML in which only the marks are markup.

use std::collections::HashSet;

use rusqlite::{Params, Row};

use crate::protocol::error::WireError;
use crate::protocol::payload::Payload;

use super::db::View;
use super::encode::{Object, array};

/// Returns an FTS5 query for all words of a text; the last word matches as a prefix. Quoting removes the special meaning of
/// characters.
pub(crate) fn match_expression(query: &str) -> String {
    quoted_words(query).join(" ")
}

/// Returns an FTS5 query for any word of a text, as [`match_expression`] does for all.
pub(crate) fn any_expression(query: &str) -> String {
    quoted_words(query).join(" OR ")
}

/// Returns the words of a text, quoted, each once: FTS5 looks up all matches of every word that a query has.
fn quoted_words(query: &str) -> Vec<String> {
    let words = query.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut words: Vec<&str> = words.collect();
    let last = words.pop();
    let mut seen = HashSet::new();
    words.retain(|word| seen.insert(word.to_lowercase()));
    let quote = |word: &str| format!("\"{}\"", word.replace('"', "\"\""));
    let mut quoted: Vec<String> = words.into_iter().map(quote).collect();
    quoted.extend(last.map(|last| format!("{}*", quote(last))));
    quoted
}

/// Returns the start of a query: the table `best (seq, score, truncated)` with at most `?3` hits of `?1` in an index, best first,
/// then newest first. Only the newest `?4` matches are ranked; `truncated` is whether there are more. `filter` is a condition on
/// `rowid`, in which `?2` is what to search in. Snippets are expensive, so callers make them for the rows of this table only.
pub(crate) fn best_hits(index: &str, filter: &str) -> String {
    format!(
        "WITH newest AS MATERIALIZED (
             SELECT rowid AS seq, rank AS score FROM {index}
             WHERE {index} MATCH ?1 AND {filter}
             ORDER BY rowid DESC LIMIT ?4 + 1),
         best AS MATERIALIZED (
             SELECT seq, score, (SELECT count(*) FROM newest) > ?4 AS truncated FROM newest
             WHERE (SELECT count(*) FROM newest) <= ?4 OR seq > (SELECT min(seq) FROM newest)
             ORDER BY score, seq DESC LIMIT ?3)"
    )
}

/// Marks a hit of a search that did not rank all matches.
pub(crate) fn mark_truncated(hit: Object, truncated: bool) -> Object {
    if truncated { hit.boolean("truncated", true) } else { hit }
}

/// Runs a search, and returns its hits as an array, each encoded by `hit`. It ends early at
/// [`DbLimits::max_page_bytes`](super::db::DbLimits::max_page_bytes): a snippet has a limited number of words, but a word can be
/// as long as the text.
pub(crate) fn page_of_hits(
    view: &View<'_>,
    sql: &str,
    params: impl Params,
    hit: impl Fn(&Row<'_>) -> Result<String, WireError>,
) -> Result<Payload, WireError> {
    let mut statement = view.connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut hits = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        // SQLite looks at the deadline between its own steps only.
        if view.is_over() {
            return Err(WireError::new("the search took too long"));
        }
        let hit = hit(row)?;
        bytes += hit.len();
        if bytes > view.limits.max_page_bytes && !hits.is_empty() {
            break;
        }
        hits.push(hit);
    }
    Ok(Payload::trusted(array(&hits)))
}

/// What FTS5 puts before a hit. Both marks are Unicode noncharacters, which do not occur in interchanged text.
pub(crate) const MARK_START: char = '\u{fdd0}';
/// What FTS5 puts after a hit.
pub(crate) const MARK_END: char = '\u{fdd1}';

/// Returns a snippet as HTML: hits in `<mark>`, everything else escaped. The marks are balanced even if the text itself contains
/// these characters.
pub(crate) fn marked_html(snippet: &str) -> String {
    let mut html = String::with_capacity(snippet.len() + 16);
    let mut open = false;
    for c in snippet.chars() {
        match c {
            MARK_START if !open => {
                html.push_str("<mark>");
                open = true;
            }
            MARK_END if open => {
                html.push_str("</mark>");
                open = false;
            }
            MARK_START | MARK_END => {}
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    if open {
        html.push_str("</mark>");
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_a_query_of_quoted_words() {
        for (query, expression) in [
            ("", ""),
            (" \t\n", ""),
            ("hello wor", r#""hello" "wor"*"#),
            (r#"say "hi" OR (NEAR"#, r#""say" """hi""" "OR" "(NEAR"*"#),
            ("a\0b", r#""a" "b"*"#),
            // The last word is a prefix, so it is not the same as an earlier one.
            ("a b A a b", r#""a" "b" "b"*"#),
        ] {
            assert_eq!(match_expression(query), expression);
        }
    }

    #[test]
    fn a_snippet_is_plain_text_except_for_its_marks() {
        for (snippet, html) in [
            ("a \u{fdd0}b\u{fdd1} c", "a <mark>b</mark> c"),
            ("<script>&'\"", "&lt;script&gt;&amp;&#39;&quot;"),
            ("\u{fdd1}x\u{fdd0}y\u{fdd0}z", "x<mark>yz</mark>"),
        ] {
            assert_eq!(marked_html(snippet), html);
        }
    }
}
