//! Which file imports which. In: the sources by path. Out: imports, with re-exports followed to the file that has the item.

use std::collections::{BTreeMap, BTreeSet};

use crate::text::{PathUse, Token, find_paths, tokenize};

/// The text of each file, by its path from the root of the crate.
pub type Sources = BTreeMap<String, String>;

pub struct File {
    pub path: String,
    /// `server::hub`; the crate's root is empty.
    pub module: String,
    pub tokens: Vec<Token>,
    pub paths: Vec<PathUse>,
}

impl File {
    /// Whether the file is one of those that only declare and re-export.
    pub fn is_face(&self) -> bool {
        self.path == "src/lib.rs" || self.path.ends_with("/mod.rs")
    }
}

pub struct Import {
    pub from: String,
    pub line: usize,
    pub written: String,
    /// The path from the crate's root on, with renamed modules followed, but not the item's own re-export.
    pub named: Vec<String>,
    /// The module that has the item.
    pub to: String,
}

pub struct CrateMap {
    /// By module.
    pub files: BTreeMap<String, File>,
    /// What a `use` calls by another path: (module, name) to that path. The name `*` means all names.
    aliases: BTreeMap<(String, String), Vec<String>>,
}

impl CrateMap {
    pub fn new(sources: &Sources) -> CrateMap {
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

    pub fn imports(&self) -> Vec<Import> {
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
                        named: self.through_modules(absolute),
                        to,
                    });
                }
            }
        }
        imports
    }

    pub fn place(&self, import: &Import) -> String {
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

    /// A path from the crate's root on, through what the file's own `use` calls its first name.
    pub fn named(&self, path: &PathUse) -> Option<Vec<String>> {
        let absolute = self.absolute(path).or_else(|| {
            let alias = self.aliases.get(&(path.module.clone(), path.segments.first()?.clone()))?;
            Some(alias.iter().chain(&path.segments[1..]).cloned().collect())
        })?;
        Some(self.through_modules(absolute))
    }

    /// The same path, with modules that are re-exported replaced by the modules themselves.
    fn through_modules(&self, mut path: Vec<String>) -> Vec<String> {
        let mut seen = BTreeSet::new();
        while seen.insert(path.clone()) {
            let depth = self.depth_in(&path);
            let Some(name) = path.get(depth) else { break };
            let alias = self.aliases.get(&(path[..depth].join("::"), name.clone()));
            let Some(module) = alias.filter(|alias| self.files.contains_key(&alias.join("::"))) else {
                break;
            };
            path = module.iter().chain(&path[depth + 1..]).cloned().collect();
        }
        path
    }

    /// The module that has the item at an absolute path.
    fn resolve(&self, mut path: Vec<String>) -> String {
        let mut seen = BTreeSet::new();
        while seen.insert(path.clone()) {
            match self.follow(&path) {
                Some(next) => path = next,
                None => break,
            }
        }
        let depth = self.depth_in(&path);
        match path.get(depth) {
            // What is not in the crate's root cannot be judged as if it were.
            Some(name) if depth == 0 => name.clone(),
            _ => path[..depth].join("::"),
        }
    }

    /// The path with the first name after its longest module replaced by what a `use` there says.
    fn follow(&self, path: &[String]) -> Option<Vec<String>> {
        let depth = self.depth_in(path);
        let name = path.get(depth)?;
        let module = path[..depth].join("::");
        if let Some(alias) = self.aliases.get(&(module.clone(), name.clone())) {
            return Some(alias.iter().chain(&path[depth + 1..]).cloned().collect());
        }
        let file = self.files.get(&module)?;
        let glob = self.aliases.get(&(module, "*".to_owned())).filter(|_| file.is_face())?;
        Some(glob.iter().chain(&path[depth..]).cloned().collect())
    }

    /// How many segments of a path are a module with a file.
    fn depth_in(&self, path: &[String]) -> usize {
        (0..=path.len()).rev().find(|end| self.files.contains_key(&path[..*end].join("::"))).unwrap_or(0)
    }
}

/// `src/server/hub.rs` is `server::hub`, `src/server/mod.rs` is `server`, `src/lib.rs` is the root.
fn module_of(path: &str) -> String {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let module = inside.strip_suffix("/mod").unwrap_or(inside);
    if module == "lib" { String::new() } else { module.replace('/', "::") }
}
