//! Lines of code of the rooms. Counted are lines that are neither blank nor comments nor tests, as in `DEPENDENCIES.md`; items
//! that `#[cfg]` leaves out of a build are not counted in it.

use std::collections::BTreeSet;

use crate::crate_map::Sources;
use crate::text::{Token, after_bracket, tokenize};

/// A part of the crate, built with some features, and the most lines that it may have.
pub struct Room {
    pub name: &'static str,
    features: &'static [&'static str],
    /// Files, and folders with all that is in them, below `src/`.
    parts: &'static [&'static str],
    pub budget: Option<usize>,
}

const CORE: [&str; 2] = ["protocol/", "server/"];

/// A budget that is too small is raised together with what needs it, for a reason that the commit gives.
pub const ROOMS: [Room; 7] = [
    Room { name: "core, no features", features: &[], parts: &CORE, budget: Some(9_000) },
    Room {
        name: "core, all its features",
        features: &["pages", "client"],
        parts: &CORE,
        budget: Some(10_000),
    },
    Room {
        name: "what strangers' bytes reach before authentication",
        features: &["pages"],
        parts: &[
            "protocol/json",
            "protocol/escape",
            "protocol/envelope",
            "protocol/frame",
            "protocol/connection",
            "protocol/assembly",
            "protocol/handshake",
            "server/upgrade",
        ],
        budget: Some(2_300),
    },
    Room { name: "client", features: &["client", "backend"], parts: &["client/"], budget: Some(2_000) },
    Room { name: "protocol", features: &["pages", "client"], parts: &["protocol/"], budget: None },
    Room { name: "server", features: &["pages", "client"], parts: &["server/"], budget: None },
    Room { name: "backend", features: &["pages", "client", "backend"], parts: &["backend/"], budget: None },
];

impl Room {
    pub fn lines(&self, sources: &Sources) -> usize {
        let compiled = compiled(sources, self.features);
        let files = compiled.iter().filter(|(path, _)| {
            let inside = path.trim_start_matches("src/");
            self.parts.iter().any(|part| {
                let rest = inside.strip_prefix(part);
                rest.is_some_and(|rest| part.ends_with('/') || rest == ".rs" || rest.starts_with('/'))
            })
        });
        files.map(|(_, tokens)| rows(tokens)).sum()
    }
}

/// The files that a build reads, beginning at `src/lib.rs`, with the tokens that it keeps of each.
pub fn compiled(sources: &Sources, features: &[&str]) -> Vec<(String, Vec<Token>)> {
    let mut files = Vec::new();
    let mut open = vec![("src/lib.rs".to_owned(), "src".to_owned())];
    while let Some((path, folder)) = open.pop() {
        let Some(text) = sources.get(&path) else { continue };
        let tokens = kept(&tokenize(text), features);
        for declaration in tokens.windows(3) {
            if declaration[0].text == "mod" && declaration[2].text == ";" {
                let child = format!("{folder}/{}", declaration[1].text);
                open.push((format!("{child}.rs"), child.clone()));
                open.push((format!("{child}/mod.rs"), child));
            }
        }
        files.push((path, tokens));
    }
    files
}

pub fn rows(tokens: &[Token]) -> usize {
    tokens.iter().map(|token| token.row).collect::<BTreeSet<_>>().len()
}

/// The tokens without the items that `#[cfg]` leaves out, tests among them.
pub fn kept(tokens: &[Token], features: &[&str]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_cfg =
            ["#", "[", "cfg", "("].iter().zip(&tokens[at..]).filter(|(a, b)| **a == b.text).count() == 4;
        if is_cfg && !holds(&tokens[at + 4..], features) {
            at = after_attributes(tokens, at);
            at = after_part(tokens, at);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Whether a condition holds in a build for Linux with these features. It ends at a comma or a closing parenthesis.
fn holds(condition: &[Token], features: &[&str]) -> bool {
    let text = |at: usize| condition.get(at).map_or("", |token| token.text.as_str());
    if text(1) == "(" {
        let parts = arguments(&condition[2..after_bracket(condition, 1) - 1]);
        let mut parts = parts.iter().map(|part| holds(part, features));
        return match text(0) {
            "not" => !parts.all(|part| part),
            "any" => parts.any(|part| part),
            _ => parts.all(|part| part),
        };
    }
    let value = text(2).trim_matches('"');
    match text(0) {
        "feature" => features.contains(&value),
        "target_os" => value == "linux",
        name => ["unix", "debug_assertions"].contains(&name),
    }
}

fn arguments(tokens: &[Token]) -> Vec<&[Token]> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            "(" => at = after_bracket(tokens, at),
            "," => {
                parts.push(&tokens[start..at]);
                at += 1;
                start = at;
            }
            _ => at += 1,
        }
    }
    parts.push(&tokens[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

fn after_attributes(tokens: &[Token], mut at: usize) -> usize {
    while tokens.get(at).is_some_and(|token| token.text == "#") {
        at = after_bracket(tokens, at + 1);
    }
    at
}

/// The index after the item, field, variant, match arm or statement that begins at `at`.
fn after_part(tokens: &[Token], start: usize) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut first = start;
    while text(first) == "pub" || text(first) == "(" && text(first.saturating_sub(1)) == "pub" {
        first = if text(first) == "pub" { first + 1 } else { after_bracket(tokens, first) };
    }
    let ends_with_semicolon = ["use", "static", "type", "let", "extern"].contains(&text(first))
        || text(first) == "const" && text(first + 1) != "fn";
    let is_item = ["fn", "const", "async", "struct", "enum", "impl", "trait", "mod"].contains(&text(first));
    let is_field = text(first + 1) == ":";
    let (mut at, mut angles) = (first, 0_usize);
    while at < tokens.len() {
        let is_arrow = ["-", "="].contains(&text(at.saturating_sub(1)));
        match text(at) {
            ";" => return at + 1,
            "," if !is_item && !ends_with_semicolon && angles == 0 => return at + 1,
            "}" | ")" | "]" => return at,
            "{" if !ends_with_semicolon => {
                let end = after_bracket(tokens, at);
                let is_literal = is_field || text(end) == "." || text(end) == ",";
                if !is_literal {
                    return end;
                }
                at = end;
                continue;
            }
            "(" | "[" | "{" => {
                at = after_bracket(tokens, at);
                continue;
            }
            "<" if is_field => angles += 1,
            ">" if is_field && !is_arrow => angles = angles.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    at
}
