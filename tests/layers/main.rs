//! The layout of the sources. Imports point in one direction: `protocol <- server, client <- backend <- main`. A room imports
//! only itself and the rooms to its left; server and client do not import each other; a family of the backend uses of another
//! one only what the other's docs offer. No two files import each other in a circle, and no two folders. `mod.rs` and `lib.rs`
//! only declare and re-export. `protocol/` uses no socket, no clock and no runtime. No room has more lines than its budget.
//!
//! The sources are read as text, so a rule also holds in tests and in code that a feature leaves out.
//! `cargo test --test layers size -- --nocapture` prints the sizes.

mod crate_map;
mod planted;
mod rules;
mod size;
mod text;

use std::fs;
use std::path::Path;

use crate_map::{CrateMap, Sources};

#[test]
fn every_file_follows_the_rules_of_its_room() {
    let report = rules::check(&read_sources());
    assert!(report.is_empty(), "\n{}", report.join("\n"));
}

/// A checker that cannot read the sources would accept them.
#[test]
fn imports_are_seen_however_they_are_written() {
    let sources = read_sources();
    let crate_map = CrateMap::new(&sources);
    let imports = crate_map.imports();
    let sees = |from: &str, to: &str| imports.iter().any(|import| import.from == from && import.to == to);
    assert!(sees("protocol::session", "protocol::json"), "super:: in a use");
    assert!(sees("protocol::payload", "protocol::json"), "super:: in a nested use");
    assert!(sees("backend::table", "server::shared"), "a name that the parent re-exports");
    assert!(imports.len() > 60, "only {} imports seen", imports.len());
    for pure in rules::PURE_FILES {
        assert!(crate_map.files.contains_key(pure), "{pure}");
    }
}

#[test]
fn the_size_of_every_room_is_within_its_budget() {
    let sources = read_sources();
    let mut too_large = Vec::new();
    for room in size::ROOMS {
        let lines = room.lines(&sources);
        let budget = room.budget.map_or("-".to_owned(), |budget| budget.to_string());
        println!("{lines:>6} of {budget:>5}  {}", room.name);
        if room.budget.is_some_and(|budget| lines > budget) {
            too_large.push(format!("{}: {lines} lines of code, {budget} allowed", room.name));
        }
        assert!(lines > 100, "{}: only {lines} lines were seen", room.name);
    }
    assert!(too_large.is_empty(), "\n{}", too_large.join("\n"));
}

fn read_sources() -> Sources {
    fn walk(folder: &Path, root: &Path, sources: &mut Sources) {
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
    let mut sources = Sources::new();
    walk(&root.join("src"), root, &mut sources);
    sources
}
