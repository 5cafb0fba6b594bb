//! Data goes round once: `protocol <- server, client <- backend <- main`. A room imports itself and the rooms to its
//! left; server and client do not import each other; a family of the backend uses of a sibling only what its docs offer; no two
//! files of a folder import each other in a circle; `protocol/` knows no socket, no clock and no runtime.
//!
//! The sources are read as text, comments and literals left out, so a rule holds in tests and behind features too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each room and the rooms it may import besides itself.
const ROOMS: [(&str, &[&str]); 6] = [
    ("guide", &[]),
    ("protocol", &[]),
    ("server", &["protocol"]),
    ("client", &["protocol"]),
    ("backend", &["protocol", "server", "client"]),
    ("main", &["protocol", "server", "client", "backend"]),
];

/// What the docs of a family say before the names that its siblings may use. A blank line ends them.
const FACE: &str = "//! What other families may use:";

/// Files outside of `protocol/` that are as pure: what a provider says, and what an archive holds, is read without a socket or
/// a clock.
const PURE_FILES: [&str; 14] = [
    "backend::families::ai::anthropic",
    "backend::families::ai::echo",
    "backend::families::ai::exchange",
    "backend::families::ai::models",
    "backend::families::ai::openai",
    "backend::families::ai::sse",
    "backend::families::analytics::calendar",
    "backend::families::artifact::manifest",
    "backend::families::artifact::plan",
    "backend::families::artifact::schema",
    "backend::families::artifact::tar",
    "backend::families::imagegen::job",
    "backend::families::imagegen::pattern",
    "backend::families::imagegen::picture",
];

/// Words and paths that reach for a socket, a clock, a file, a runtime or the terminal.
const IMPURE_WORDS: [&str; 4] = ["tokio", "hyper", "Instant", "SystemTime"];
const IMPURE_PATHS: [[&str; 2]; 2] = [["std", "net"], ["std", "fs"]];
const IMPURE_MACROS: [&str; 5] = ["println", "print", "eprintln", "eprint", "dbg"];

#[test]
fn every_file_keeps_to_its_room() {
    let sources = read_sources();
    let report = check(&sources);
    assert!(report.is_empty(), "\n{}", report.join("\n"));
}

/// The checker would be content with sources that it cannot read.
#[test]
fn imports_are_seen_through_every_way_of_writing_them() {
    let sources = read_sources();
    let crate_map = CrateMap::new(&sources);
    let imports = crate_map.imports();
    let sees = |from: &str, to: &str| imports.iter().any(|import| import.from == from && import.to == to);
    assert!(sees("protocol::session", "protocol::json"), "super:: in a use");
    assert!(sees("protocol::payload", "protocol::json"), "super:: in a nested use");
    assert!(sees("server::hub", "protocol::session"), "crate:: in a use");
    assert!(sees("backend::chat", "server::shared"), "a name that the parent re-exports");
    for pure in PURE_FILES {
        assert!(sources.contains_key(&format!("src/{}.rs", pure.replace("::", "/"))), "{pure}");
    }
    assert!(imports.len() > 60, "only {} imports seen", imports.len());
}

#[test]
fn the_checker_reports_each_broken_rule_with_file_and_line() {
    const PURE: &str = "protocol is pure";
    const ORDER: &str = "room order";
    for (path, text, line, rule) in [
        ("src/protocol/a.rs", "use tokio::time::Sleep;", 1, PURE),
        ("src/protocol/a.rs", "// tokio\n\nfn f() -> hyper::Error {}", 3, PURE),
        ("src/protocol/a.rs", "use std::net::IpAddr;", 1, PURE),
        ("src/protocol/a.rs", "use std::{\n    fmt,\n    net::IpAddr,\n};", 3, PURE),
        ("src/protocol/a.rs", "fn f() { ::std::fs::read(\"x\"); }", 1, PURE),
        ("src/protocol/a.rs", "use std::time::{Duration, Instant};", 1, PURE),
        ("src/protocol/a.rs", "\nfn f(at: std::time::SystemTime) {}", 2, PURE),
        ("src/protocol/a.rs", "fn f() { g()\n    .await }", 2, PURE),
        ("src/protocol/a.rs", "fn f() { println!(\"x\") }", 1, PURE),
        ("src/backend/families/ai/sse.rs", "use tokio::time::Sleep;", 1, "this file is pure"),
        ("src/protocol/a.rs", "use crate::server::Config;", 1, ORDER),
        ("src/protocol/a.rs", "use crate::Config;", 1, ORDER),
        ("src/protocol/a.rs", "fn f() { crate::server::config::Config::default(); }", 1, ORDER),
        ("src/protocol/a.rs", "mod tests {\n    use super::super::super::server::Config;\n}", 2, ORDER),
        ("src/server/config.rs", "use crate::client::Client;", 1, ORDER),
        ("src/server/config.rs", "use crate::{\n    backend::chat,\n};", 2, ORDER),
        ("src/client/mod.rs", "use crate::server::Config;", 1, ORDER),
        ("src/backend/families/chat/mod.rs", "use crate::elsewhere::X;", 1, "unknown room"),
        ("src/elsewhere.rs", "", 1, "unknown room"),
        ("src/backend/families/settings.rs", "use super::chat::store::Row;", 1, "family internals"),
        (
            "src/backend/families/settings.rs",
            "use crate::backend::families::chat::{self, store};",
            1,
            "family internals",
        ),
        ("src/protocol/a.rs", "use super::b::B;", 1, "import cycle"),
        (
            "src/backend/families/settings.rs",
            "use super::chat;\nfn f() { chat::delete(); }",
            2,
            "not offered",
        ),
        ("src/backend/families/settings.rs", "use super::{settings, chat::Row};", 1, "not offered"),
        ("src/backend/families/settings.rs", "fn f() { super::chat::delete(); }", 1, "not offered"),
        ("src/backend/families/chat/mod.rs", "use super::settings::S;", 1, "import cycle"),
        ("src/backend/families/chat/store.rs", "use super::rows::Row;", 1, "import cycle"),
    ] {
        let mut sources = sound_sources();
        sources.insert(path.to_owned(), text.to_owned());
        let report = check(&sources);
        let place = format!("{path}:{line}: {rule}");
        assert!(
            report.iter().any(|entry| entry.starts_with(&place)),
            "{place} expected for {text:?}: {report:?}"
        );
    }
}

#[test]
fn the_checker_has_nothing_to_say_about_sound_sources() {
    for (path, text) in [
        ("src/protocol/a.rs", "//! Uses no tokio.\nuse core::net::IpAddr;\n/* crate::server::Config */"),
        ("src/protocol/a.rs", "const S: &str = \"crate::server\"; const R: &str = r#\"tokio \" .await\"#;"),
        ("src/protocol/a.rs", "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' } // println!"),
        ("src/protocol/a.rs", "mod tests { use super::*; use super::super::Payload; }"),
        ("src/server/hub.rs", "use crate::protocol::a; use super::config::Config; use std::time::Instant;"),
        (
            "src/backend/families/settings.rs",
            "use super::chat; use super::super::shared::db::Db; fn f() { chat::create(); }",
        ),
        ("src/backend/families/ai/http.rs", "use tokio::time::Sleep;"),
        ("src/main.rs", "use switchboard::backend::chat; use switchboard::Config;"),
    ] {
        let mut sources = sound_sources();
        sources.insert(path.to_owned(), text.to_owned());
        assert_eq!(check(&sources), [""; 0], "{path}: {text}");
    }
}

/// A small crate that breaks no rule.
fn sound_sources() -> BTreeMap<String, String> {
    [
        (
            "src/lib.rs",
            "pub mod protocol; pub mod server; pub use server::Config; pub use protocol::a::Payload;",
        ),
        ("src/main.rs", "use switchboard::Config;"),
        ("src/protocol/mod.rs", "pub mod a; pub mod b; pub use a::Payload;"),
        ("src/protocol/a.rs", ""),
        ("src/protocol/b.rs", "use super::a::Payload;"),
        ("src/server/mod.rs", "mod config; mod hub; pub use config::Config; use hub::Hub;"),
        ("src/server/config.rs", ""),
        ("src/server/hub.rs", "use super::Config;"),
        ("src/client/mod.rs", "use crate::protocol::Payload;"),
        ("src/backend/mod.rs", "mod families; mod shared; use crate::{client, server};"),
        ("src/backend/families/mod.rs", "pub mod chat; pub mod settings;"),
        ("src/backend/shared/db.rs", ""),
        ("src/backend/families/settings.rs", "use super::chat::create;"),
        (
            "src/backend/families/chat/mod.rs",
            "//! What other families may use: `create`.\n\nmod rows; mod store; pub use store::create;",
        ),
        ("src/backend/families/chat/rows.rs", "use super::store;"),
        ("src/backend/families/chat/store.rs", "use crate::backend::shared::db;"),
    ]
    .map(|(path, text)| (path.to_owned(), text.to_owned()))
    .into()
}

fn read_sources() -> BTreeMap<String, String> {
    fn walk(folder: &Path, root: &Path, sources: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                walk(&path, root, sources);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name =
                    path.strip_prefix(root).expect("it is below the root").to_string_lossy().into_owned();
                sources.insert(name, fs::read_to_string(&path).expect("a source is UTF-8"));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = BTreeMap::new();
    walk(&root.join("src"), root, &mut sources);
    sources
}

/// Every broken rule as `file:line: rule: what`.
fn check(sources: &BTreeMap<String, String>) -> Vec<String> {
    let crate_map = CrateMap::new(sources);
    let imports = crate_map.imports();
    let mut report = Vec::new();
    for file in crate_map.files.values() {
        check_place(file, &mut report);
        check_purity(file, &mut report);
        check_face(file, &crate_map, sources, &mut report);
    }
    for import in &imports {
        check_room_order(import, &crate_map, &mut report);
        check_family(import, &crate_map, &mut report);
    }
    check_cycles(&imports, &crate_map, &mut report);
    report
}

fn check_place(file: &File, report: &mut Vec<String>) {
    let room = room_of(&file.module);
    if !room.is_empty() && !ROOMS.iter().any(|(name, _)| *name == room) {
        report.push(format!("{}:1: unknown room: {room}", file.path));
    }
}

fn check_purity(file: &File, report: &mut Vec<String>) {
    let place = match room_of(&file.module) {
        "protocol" => "protocol",
        _ if PURE_FILES.contains(&&*file.module) => "this file",
        _ => return,
    };
    let mut refuse = |line: usize, what: &str| {
        report.push(format!("{}:{line}: {place} is pure: {what}", file.path));
    };
    for (index, token) in file.tokens.iter().enumerate() {
        let next = file.tokens.get(index + 1).map_or("", |token| token.text.as_str());
        let last =
            index.checked_sub(1).and_then(|index| file.tokens.get(index)).map_or("", |token| &token.text);
        if IMPURE_WORDS.contains(&token.text.as_str()) {
            refuse(token.line, &token.text);
        } else if IMPURE_MACROS.contains(&token.text.as_str()) && next == "!" {
            refuse(token.line, &format!("{}!", token.text));
        } else if token.text == "await" && last == "." {
            refuse(token.line, ".await");
        }
    }
    for path in &file.paths {
        if IMPURE_PATHS.iter().any(|impure| path.segments.len() > 1 && path.segments[..2] == *impure) {
            refuse(path.line, &path.segments.join("::"));
        }
    }
}

fn check_room_order(import: &Import, crate_map: &CrateMap, report: &mut Vec<String>) {
    let (from, to) = (room_of(&import.from), room_of(&import.to));
    if from.is_empty() || from == to {
        return;
    }
    let allowed = ROOMS.iter().find(|(name, _)| *name == from).map_or(&[] as &[&str], |(_, allowed)| allowed);
    let place = crate_map.place(import);
    if !ROOMS.iter().any(|(name, _)| *name == to) {
        report.push(format!("{place}: unknown room: {}", import.written));
    } else if !allowed.contains(&to) {
        report.push(format!("{place}: room order: {from} does not import {to} ({})", import.written));
    }
}

fn check_family(import: &Import, crate_map: &CrateMap, report: &mut Vec<String>) {
    let (Some(own), Some(other)) = (family_of(&import.from), family_of(&import.named)) else { return };
    if own != other && import.named.split("::").count() > 3 {
        let place = crate_map.place(import);
        report.push(format!("{place}: family internals: {own} reaches into {other} ({})", import.written));
    }
}

/// What a family uses of a sibling stands in the sibling's docs.
fn check_face(
    file: &File,
    crate_map: &CrateMap,
    sources: &BTreeMap<String, String>,
    report: &mut Vec<String>,
) {
    let Some(own) = family_of(&file.module) else { return };
    for path in &file.paths {
        let Some(absolute) = crate_map.absolute(path).or_else(|| crate_map.through_alias(path)) else {
            continue;
        };
        let [_, _, _, item, ..] = absolute.as_slice() else { continue };
        let Some(other) = family_of(&absolute[..3].join("::")).map(str::to_owned) else { continue };
        let face = crate_map.files.get(&format!("backend::families::{other}")).map_or("", |face| &face.path);
        let offered = sources.get(face).map_or("", |text| offer(text));
        if own != other && !offered.contains(&format!("`{item}`")) {
            let (place, line) = (&file.path, path.line);
            report.push(format!(
                "{place}:{line}: not offered: {own} uses {other}::{item}, which its docs do not offer"
            ));
        }
    }
}

/// The part of a family's docs that names what its siblings may use.
fn offer(text: &str) -> &str {
    let rest = text.split_once(FACE).map_or("", |(_, rest)| rest);
    let end = rest.find("\n//!\n").into_iter().chain(rest.find("\n\n")).min();
    &rest[..end.unwrap_or(rest.len())]
}

/// A circle between two files shows as a circle between what holds them in the lowest folder that holds both. The
/// `mod.rs` of that folder is its face and stands on neither side.
fn check_cycles(imports: &[Import], crate_map: &CrateMap, report: &mut Vec<String>) {
    let mut folders: BTreeMap<Vec<&str>, BTreeMap<(&str, &str), &Import>> = BTreeMap::new();
    for import in imports {
        let from: Vec<&str> = import.from.split("::").collect();
        let to: Vec<&str> = import.to.split("::").collect();
        let common = from.iter().zip(&to).take_while(|(from, to)| from == to).count();
        // Between rooms the order of rooms decides.
        if let (1.., Some(from_child), Some(to_child)) = (common, from.get(common), to.get(common)) {
            let folder = folders.entry(from[..common].to_vec()).or_default();
            folder.entry((from_child, to_child)).or_insert(import);
        }
    }
    for (folder, edges) in folders {
        for ((from, to), import) in &edges {
            if reaches(&edges, to, from) {
                let place = crate_map.place(import);
                let folder = folder.join("::");
                report.push(format!("{place}: import cycle: in {folder}, {from} -> {to} -> .. -> {from}"));
            }
        }
    }
}

fn reaches(edges: &BTreeMap<(&str, &str), &Import>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(at) = open.pop() {
        if at == to {
            return true;
        }
        open.extend(
            edges
                .keys()
                .filter(|(start, _)| *start == at)
                .map(|(_, end)| *end)
                .filter(|end| seen.insert(end)),
        );
    }
    false
}

fn room_of(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

fn family_of(module: &str) -> Option<&str> {
    let mut segments = module.split("::");
    let is_family = segments.next() == Some("backend") && segments.next() == Some("families");
    is_family.then(|| segments.next()).flatten()
}

struct File {
    path: String,
    /// `server::hub`; the crate's root is empty.
    module: String,
    tokens: Vec<Token>,
    paths: Vec<PathUse>,
}

/// One path as the text has it, braces multiplied out.
struct PathUse {
    line: usize,
    segments: Vec<String>,
    /// The name that a `use` gives it here.
    name: Option<String>,
    /// The module in which it stands, inline modules counted.
    module: String,
}

struct Import {
    from: String,
    line: usize,
    written: String,
    /// The module that the path names, re-exports not followed.
    named: String,
    /// The module that has the item.
    to: String,
}

struct CrateMap {
    /// By module.
    files: BTreeMap<String, File>,
    /// What a `use` in a `mod.rs` or in `lib.rs` calls by another path: (module, name) to that path.
    aliases: BTreeMap<(String, String), Vec<String>>,
}

impl CrateMap {
    fn new(sources: &BTreeMap<String, String>) -> CrateMap {
        let mut files = BTreeMap::new();
        for (path, text) in sources {
            let module = module_of(path);
            let tokens = tokenize(text);
            let paths = find_paths(&module, &tokens);
            files.insert(module.clone(), File { path: path.clone(), module, tokens, paths });
        }
        let mut crate_map = CrateMap { files, aliases: BTreeMap::new() };
        let mut aliases = BTreeMap::new();
        for file in crate_map.files.values() {
            for path in file.paths.iter().filter(|path| path.module == file.module) {
                if let (Some(name), Some(absolute)) = (&path.name, crate_map.absolute(path)) {
                    aliases.insert((file.module.clone(), name.clone()), absolute);
                }
            }
        }
        crate_map.aliases = aliases;
        crate_map
    }

    fn imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        for file in self.files.values() {
            for path in &file.paths {
                let Some(absolute) = self.absolute(path) else { continue };
                let to = self.resolve(absolute.clone());
                if to != file.module {
                    imports.push(Import {
                        from: file.module.clone(),
                        line: path.line,
                        written: path.segments.join("::"),
                        named: self.module_in(&absolute),
                        to,
                    });
                }
            }
        }
        imports
    }

    fn place(&self, import: &Import) -> String {
        let path = self.files.get(&import.from).map_or("", |file| file.path.as_str());
        format!("{path}:{}", import.line)
    }

    /// A path from the crate's root on; `None` for one that leaves the crate or only uses what is imported already.
    fn absolute(&self, path: &PathUse) -> Option<Vec<String>> {
        let mut module: Vec<String> =
            path.module.split("::").filter(|s| !s.is_empty()).map(String::from).collect();
        let mut rest = path.segments.as_slice();
        match rest.first()?.as_str() {
            "crate" | "switchboard" => {
                module.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
            }
            child => {
                let mut as_child = module.clone();
                as_child.push(child.to_owned());
                if !self.files.contains_key(&as_child.join("::")) {
                    return None;
                }
            }
        }
        module.extend_from_slice(rest);
        Some(module)
    }

    /// A path that begins with a name that a `use` of the same file gave.
    fn through_alias(&self, path: &PathUse) -> Option<Vec<String>> {
        let alias = self.aliases.get(&(path.module.clone(), path.segments.first()?.clone()))?;
        Some(alias.iter().chain(&path.segments[1..]).cloned().collect())
    }

    /// The module that has the item at an absolute path, re-exports followed.
    fn resolve(&self, mut path: Vec<String>) -> String {
        // A re-export of a re-export of a re-export is deeper than this crate goes.
        for _ in 0..4 {
            let module = self.module_in(&path);
            let depth = module.split("::").filter(|segment| !segment.is_empty()).count();
            let Some(name) = path.get(depth) else { return module };
            let Some(alias) = self.aliases.get(&(module.clone(), name.clone())) else {
                // What is not in the crate's root cannot be judged as if it were.
                return if module.is_empty() { name.clone() } else { module };
            };
            path = alias.iter().chain(&path[depth + 1..]).cloned().collect();
        }
        self.module_in(&path)
    }

    /// The longest part of a path that is a module with a file.
    fn module_in(&self, path: &[String]) -> String {
        (0..=path.len())
            .rev()
            .map(|end| path[..end].join("::"))
            .find(|module| self.files.contains_key(module))
            .unwrap_or_default()
    }
}

/// `src/server/hub.rs` is `server::hub`, `src/server/mod.rs` is `server`, `src/lib.rs` is the root.
fn module_of(path: &str) -> String {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let module = inside.strip_suffix("/mod").unwrap_or(inside);
    if module == "lib" { String::new() } else { module.replace('/', "::") }
}

struct Token {
    text: String,
    line: usize,
}

/// Words, `::` and single characters. Comments, strings and characters in quotes are left out.
fn tokenize(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest) {
            length
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(Token { text: rest[..length].to_owned(), line });
            length
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                tokens.push(Token { text: rest[..length].to_owned(), line });
            }
            length
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of the string or character literal at the start.
fn literal(text: &str) -> Option<usize> {
    let bare = text.strip_prefix('b').unwrap_or(text);
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

/// Every path of a file.
fn find_paths(module: &str, tokens: &[Token]) -> Vec<PathUse> {
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

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Reads the path at `at`, with its branches, and answers where it ends.
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
    let begun = line(at);
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
            _ => at += 1,
        }
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    let mut name = prefix.last().cloned();
    if in_use && text(at) == "as" {
        name = tokens.get(at + 1).map(|token| token.text.clone());
        at += 2;
    }
    let segments = prefix.clone();
    paths.push(PathUse { line: begun, segments, name: name.filter(|_| in_use), module: module.to_owned() });
    prefix.truncate(base);
    at
}
