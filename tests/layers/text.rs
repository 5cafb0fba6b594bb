//! Rust sources as tokens. In: the text of a file. Out: words, literals and signs, each with its line; no comments.

/// A word, `::`, a literal with its quotes, or one other character.
#[derive(Debug, Clone)]
pub struct Token {
    pub text: String,
    /// The line in the file, from 1.
    pub line: usize,
    /// The same, with a literal of several lines counted as one.
    pub row: usize,
}

pub fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

pub fn tokenize(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut line, mut row) = (1, 1);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, is_token) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (block_comment(rest), false)
        } else if let Some(length) = literal(rest) {
            (length, true)
        } else if is_word(rest) {
            (rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()), true)
        } else if rest.starts_with("::") {
            (2, true)
        } else {
            (first.len_utf8(), !first.is_whitespace())
        };
        let (text, after) = rest.split_at(length);
        let lines = text.matches('\n').count();
        if is_token {
            tokens.push(Token { text: text.to_owned(), line, row });
        } else {
            row += lines;
        }
        line += lines;
        rest = after;
    }
    tokens
}

/// The length of the block comment at the start. They nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        let step = match rest {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the string or character literal at the start.
fn literal(text: &str) -> Option<usize> {
    let bare = text.strip_prefix(['b', 'c']).unwrap_or(text);
    let prefix = text.len() - bare.len();
    if let Some(raw) = bare.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let content = hashes + 1;
            let length = raw[content..].find(&end).map_or(raw.len(), |at| content + at + end.len());
            return Some(prefix + 1 + length);
        }
    }
    if bare.starts_with('"') {
        return Some(prefix + quoted(bare, '"'));
    }
    // A lifetime has no second quote where a character has it.
    let is_character = bare.starts_with("'\\") || bare.starts_with('\'') && bare.chars().nth(2) == Some('\'');
    is_character.then(|| prefix + quoted(bare, '\''))
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The index after the bracket that closes the one at `at`.
pub fn after_bracket(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

/// One path as the text has it, braces multiplied out.
#[derive(Debug)]
pub struct PathUse {
    pub line: usize,
    pub segments: Vec<String>,
    /// The name that a `use` gives it; `*` if it takes all names.
    pub name: Option<String>,
    /// The module that contains it, inline modules counted.
    pub module: String,
}

/// Every path of a file.
pub fn find_paths(module: &str, tokens: &[Token]) -> Vec<PathUse> {
    let mut paths = Vec::new();
    let mut depth = 0;
    // Inline modules: their path, and the depth at which they end.
    let mut modules = vec![(module.to_owned(), 0)];
    let mut in_use = false;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let text = |offset: usize| tokens.get(at + offset).map_or("", |token| token.text.as_str());
        match token.text.as_str() {
            "mod" if text(2) == "{" => {
                let inner = format!("{}::{}", modules.last().map_or("", |(module, _)| module), text(1));
                modules.push((inner, depth));
                depth += 1;
                at += 3;
                continue;
            }
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if modules.len() > 1 && modules.last().is_some_and(|(_, end)| *end == depth) {
                    modules.pop();
                }
            }
            "use" => in_use = true,
            ";" => in_use = false,
            word if is_word(word) && (text(1) == "::" || in_use) => {
                let module = modules.last().map_or("", |(module, _)| module);
                at = path_tree(tokens, at, &mut Vec::new(), in_use, module, &mut paths);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    paths
}

/// Reads the path at `at`, with its branches, and returns where it ends.
fn path_tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &mut Vec<String>,
    in_use: bool,
    module: &str,
    paths: &mut Vec<PathUse>,
) -> usize {
    let base = prefix.len();
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let line = |at: usize| tokens.get(at).map_or(0, |token| token.line);
    let start = line(at);
    let mut is_glob = false;
    loop {
        match text(at) {
            "{" => {
                at += 1;
                while !matches!(text(at), "}" | "") {
                    match text(at) {
                        "," => at += 1,
                        _ => at = path_tree(tokens, at, prefix, in_use, module, paths),
                    }
                }
                prefix.truncate(base);
                return at + 1;
            }
            // `a::{self}` is `a`.
            "self" if prefix.len() == base && base > 0 => at += 1,
            word if is_word(word) => {
                prefix.push(word.to_owned());
                at += 1;
            }
            // A glob, a turbofish, a macro's fragment: the path so far is what counts.
            sign => {
                is_glob = in_use && sign == "*";
                at += 1;
            }
        }
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    let mut name = if is_glob { Some("*".to_owned()) } else { prefix.last().cloned() };
    if in_use && text(at) == "as" {
        name = tokens.get(at + 1).map(|token| token.text.clone());
        at += 2;
    }
    let segments = prefix.clone();
    paths.push(PathUse { line: start, segments, name: name.filter(|_| in_use), module: module.to_owned() });
    prefix.truncate(base);
    at
}
