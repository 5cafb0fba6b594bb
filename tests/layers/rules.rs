//! The rules of the layout. In: the sources. Out: every broken rule as `file:line: rule: what`.

use std::collections::{BTreeMap, VecDeque};

use crate::crate_map::{CrateMap, File, Import, Sources};
use crate::text::{Token, after_bracket};

/// Each room and the rooms that it may import besides itself.
const ROOMS: [(&str, &[&str]); 6] = [
    ("guide", &[]),
    ("protocol", &[]),
    ("server", &["protocol"]),
    ("client", &["protocol"]),
    ("backend", &["protocol", "server", "client"]),
    ("main", &["protocol", "server", "client", "backend"]),
];

/// The folder whose folders are families.
const FAMILIES: [&str; 2] = ["backend", "families"];
/// What the docs of a family say before the names that other families may use. A blank line ends them.
const OFFER: &str = "//! What other families may use:";

/// Files outside of `protocol/` that are as pure: they read what a provider answers or what an archive contains, without a
/// socket or a clock.
pub const PURE_FILES: [&str; 22] = [
    "backend::families::ai::anthropic",
    "backend::families::ai::dialect",
    "backend::families::ai::echo",
    "backend::families::ai::exchange",
    "backend::families::ai::models",
    "backend::families::ai::openai",
    "backend::families::ai::providers",
    "backend::families::ai::sse",
    "backend::families::analytics::calendar",
    "backend::families::artifact::manifest",
    "backend::families::artifact::plan",
    "backend::families::artifact::schema",
    "backend::families::artifact::tar",
    "backend::families::imagegen::automatic1111",
    "backend::families::imagegen::dialect",
    "backend::families::imagegen::job",
    "backend::families::imagegen::openai",
    "backend::families::imagegen::pattern",
    "backend::families::imagegen::picture",
    "backend::families::imagegen::providers",
    "backend::families::imagegen::turns",
    "backend::shared::origin",
];

/// Words and paths that need a socket, a clock, a file, a runtime or the terminal.
const IMPURE_WORDS: [&str; 4] = ["tokio", "hyper", "Instant", "SystemTime"];
const IMPURE_PATHS: [[&str; 2]; 2] = [["std", "net"], ["std", "fs"]];
const IMPURE_MACROS: [&str; 5] = ["println", "print", "eprintln", "eprint", "dbg"];

pub fn check(sources: &Sources) -> Vec<String> {
    let crate_map = CrateMap::new(sources);
    let imports = crate_map.imports();
    let mut report = Vec::new();
    for file in crate_map.files.values() {
        check_place(file, &mut report);
        check_purity(file, &mut report);
        check_face(file, &mut report);
        check_offer(file, &crate_map, sources, &mut report);
    }
    for import in &imports {
        check_room_order(import, &crate_map, &mut report);
        check_family(import, &crate_map, &mut report);
    }
    check_file_cycles(&imports, &crate_map, &mut report);
    check_folder_cycles(&imports, &crate_map, &mut report);
    report
}

fn check_place(file: &File, report: &mut Vec<String>) {
    let room = room_of(&file.module);
    if !room.is_empty() && !ROOMS.iter().any(|(name, _)| *name == room) {
        report.push(format!("{}:1: unknown room: {room}", file.path));
    }
}

fn check_purity(file: &File, report: &mut Vec<String>) {
    if room_of(&file.module) != "protocol" && !PURE_FILES.contains(&file.module.as_str()) {
        return;
    }
    let mut refuse = |line: usize, what: &str| {
        report.push(format!("{}:{line}: pure file: {what}", file.path));
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

/// A `mod.rs` and `lib.rs` contain docs, attributes, modules and imports, and nothing else.
fn check_face(file: &File, report: &mut Vec<String>) {
    if !file.is_face() {
        return;
    }
    let text = |at: usize| file.tokens.get(at).map_or("", |token| token.text.as_str());
    let mut at = 0;
    while at < file.tokens.len() {
        at = match text(at) {
            "#" => after_bracket(&file.tokens, at + 1 + usize::from(text(at + 1) == "!")),
            "pub" if text(at + 1) == "(" => after_bracket(&file.tokens, at + 1),
            "pub" | "}" => at + 1,
            "mod" => at + 3,
            "use" => after_item(&file.tokens, at),
            found => {
                let place = format!("{}:{}", file.path, file.tokens[at].line);
                report.push(format!("{place}: face only: {found} {} is defined here", text(at + 1)));
                after_item(&file.tokens, at)
            }
        };
    }
}

/// The index after the item that begins at `at`: after its `;`, or after its last brace.
fn after_item(tokens: &[Token], mut at: usize) -> usize {
    let is_use = tokens[at].text == "use";
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            ";" => return at + 1,
            "{" if !is_use => return after_bracket(tokens, at),
            "(" | "[" | "{" => at = after_bracket(tokens, at),
            _ => at += 1,
        }
    }
    at
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

/// A family imports another one by its name, and none of its files.
fn check_family(import: &Import, crate_map: &CrateMap, report: &mut Vec<String>) {
    let own = import.from.split("::").collect::<Vec<_>>();
    let (Some(own), Some(other)) = (family_of(&own), family_of(&import.named)) else { return };
    let inner = import.named.iter().take(4).map(String::as_str).collect::<Vec<_>>().join("::");
    if own != other && import.named.len() > 3 && crate_map.files.contains_key(&inner) {
        let place = crate_map.place(import);
        report
            .push(format!("{place}: family internals: {own} imports a file of {other} ({})", import.written));
    }
}

/// What a family uses of another one is named in the other's docs.
fn check_offer(file: &File, crate_map: &CrateMap, sources: &Sources, report: &mut Vec<String>) {
    let own = file.module.split("::").collect::<Vec<_>>();
    let Some(own) = family_of(&own) else { return };
    for path in &file.paths {
        let Some(named) = crate_map.named(path) else { continue };
        let (Some(other), Some(item)) = (family_of(&named), named.get(3)) else { continue };
        let face = crate_map.files.get(&named[..3].join("::")).map_or("", |face| &face.path);
        let offered = sources.get(face).map_or("", |text| offer(text));
        if own != other && !offered.contains(&format!("`{item}`")) {
            let (place, line) = (&file.path, path.line);
            report.push(format!(
                "{place}:{line}: not offered: {own} uses {other}::{item}, which its docs do not offer"
            ));
        }
    }
}

/// The part of a family's docs that names what other families may use.
fn offer(text: &str) -> &str {
    let rest = text.split_once(OFFER).map_or("", |(_, rest)| rest);
    let end = rest.find("\n//!\n").into_iter().chain(rest.find("\n\n")).min();
    &rest[..end.unwrap_or(rest.len())]
}

/// No file imports a file that imports it, directly or through others. `mod.rs` and `lib.rs` are files like any other. The
/// shortest circle of each file is reported.
fn check_file_cycles(imports: &[Import], crate_map: &CrateMap, report: &mut Vec<String>) {
    let mut edges: BTreeMap<(&str, &str), &Import> = BTreeMap::new();
    for import in imports {
        edges.entry((&import.from, &import.to)).or_insert(import);
    }
    for file in crate_map.files.keys() {
        let own = edges.iter().filter(|((from, _), _)| from == file);
        let circles = own.filter_map(|((from, to), import)| Some((way(&edges, to, from)?, import)));
        if let Some((circle, import)) = circles.min_by_key(|(circle, import)| (circle.len(), import.line)) {
            let place = crate_map.place(import);
            report.push(format!("{place}: import cycle: {file} -> {}", circle.join(" -> ")));
        }
    }
}

/// No folder imports a sibling, file or folder, that imports it. The `mod.rs` of the folder around them is on neither side.
fn check_folder_cycles(imports: &[Import], crate_map: &CrateMap, report: &mut Vec<String>) {
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
            if let Some(way) = way(&edges, to, from) {
                let (place, folder) = (crate_map.place(import), folder.join("::"));
                report.push(format!("{place}: folder cycle: in {folder}, {from} -> {}", way.join(" -> ")));
            }
        }
    }
}

/// The shortest path along imports, with both ends.
fn way<'a>(
    edges: &BTreeMap<(&'a str, &'a str), &Import>,
    from: &'a str,
    to: &'a str,
) -> Option<Vec<&'a str>> {
    let mut came_from = BTreeMap::from([(from, from)]);
    let mut open = VecDeque::from([from]);
    while let Some(at) = open.pop_front() {
        if at == to {
            let mut way = vec![to];
            while way[way.len() - 1] != from {
                way.push(came_from[way[way.len() - 1]]);
            }
            way.reverse();
            return Some(way);
        }
        for (_, child) in edges.range((at, "")..).map(|(edge, _)| edge).take_while(|(start, _)| *start == at)
        {
            if !came_from.contains_key(child) {
                came_from.insert(child, at);
                open.push_back(child);
            }
        }
    }
    None
}

fn room_of(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

/// The family that a path begins with.
fn family_of<S: AsRef<str>>(path: &[S]) -> Option<&str> {
    let [room, folder, family, ..] = path else { return None };
    ([room.as_ref(), folder.as_ref()] == FAMILIES).then_some(family.as_ref())
}
