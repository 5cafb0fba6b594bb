//! Which files can be installed. Input: the names, types and sizes of everything in a source, in any order. Output: the
//! files of the artifact, or the reason why the source is refused.
//!
//! The same rules apply to folders and archives: every path leads down from the top, every path is unique, and sizes,
//! depth and counts are within their limits.

use std::collections::BTreeMap;
use std::fmt;

use super::config::ArtifactLimits;

/// The file that describes an artifact.
pub(super) const MANIFEST_NAME: &str = "artifact.json";
/// Longest part of a path, in bytes: the limit of most file systems.
const MAX_PART_BYTES: usize = 255;

/// Why a source is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The name starts with `/`, or is empty.
    Absolute,
    /// The name has a part `..`.
    Upwards,
    /// The name has an empty part.
    EmptyPart,
    /// The name has a backslash, which separates folders on other systems, or a control character.
    Character,
    /// The name, or one of its parts, is too long.
    NameTooLong,
    /// The name is nested in too many folders.
    TooDeep,
    /// The name appears twice.
    Twice,
    /// The name differs from another only in upper and lower case.
    Case,
    /// The file is too large.
    FileTooLarge,
    /// The manifest is too large.
    ManifestTooLarge,
    /// All files together are too large.
    TooLarge,
    /// There are too many files and folders.
    TooMany,
    /// There is no manifest.
    NoManifest,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Absolute => "an absolute or empty name",
            Refusal::Upwards => "a name with ..",
            Refusal::EmptyPart => "a name with an empty part",
            Refusal::Character => "a name with a backslash or a control character",
            Refusal::NameTooLong => "a name that is too long",
            Refusal::TooDeep => "too many nested folders",
            Refusal::Twice => "a name that appears twice",
            Refusal::Case => "a name that differs from another only in upper and lower case",
            Refusal::FileTooLarge => "a file that is too large",
            Refusal::ManifestTooLarge => "a manifest that is too large",
            Refusal::TooLarge => "more bytes than an artifact can have",
            Refusal::TooMany => "more files and folders than an artifact can have",
            Refusal::NoManifest => "no artifact.json",
        })
    }
}

/// A file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlannedFile {
    /// The path below the artifact's folder, with `/` between the parts.
    pub path: String,
    pub size: u64,
    pub executable: bool,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File,
    Folder,
}

/// The files of a source, collected and checked one by one.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    limits: &'a ArtifactLimits,
    files: Vec<PlannedFile>,
    total_bytes: u64,
    /// Every path in lower case, parent folders included, with its spelling and what it leads to.
    names: BTreeMap<String, (String, Node)>,
}

impl<'a> Plan<'a> {
    /// Creates a plan without files.
    pub(super) fn new(limits: &'a ArtifactLimits) -> Plan<'a> {
        Plan { limits, files: Vec::new(), total_bytes: 0, names: BTreeMap::new() }
    }

    /// Adds a folder. Some archives list a folder twice, so adding it again changes nothing.
    ///
    /// # Errors
    /// When a rule refuses it.
    pub(super) fn add_folder(&mut self, name: &str) -> Result<(), Refusal> {
        let path = normalize(name, self.limits)?;
        self.claim(&path, Node::Folder)
    }

    /// Adds a file, by its path as it is in the source.
    ///
    /// # Errors
    /// When a rule refuses it.
    pub(super) fn add_file(&mut self, file: PlannedFile) -> Result<(), Refusal> {
        let path = normalize(&file.path, self.limits)?;
        if path.is_empty() {
            return Err(Refusal::Absolute);
        }
        self.claim(&path, Node::File)?;
        if file.size > self.limits.max_file_bytes {
            return Err(Refusal::FileTooLarge);
        }
        self.total_bytes = self.total_bytes.saturating_add(file.size);
        if self.total_bytes > self.limits.max_total_bytes {
            return Err(Refusal::TooLarge);
        }
        self.files.push(PlannedFile { path, ..file });
        Ok(())
    }

    /// Records a path and its parent folders, if each is new or the same folder again.
    fn claim(&mut self, path: &str, node: Node) -> Result<(), Refusal> {
        let parents = path.match_indices('/').map(|(at, _)| (at, Node::Folder));
        for (end, node) in parents.chain([(path.len(), node)]) {
            let Some(name) = path.get(..end).filter(|name| !name.is_empty()) else { continue };
            match self.names.get(&name.to_lowercase()) {
                Some((spelling, _)) if spelling != name => return Err(Refusal::Case),
                Some((_, Node::Folder)) if node == Node::Folder => {}
                Some(_) => return Err(Refusal::Twice),
                None => {
                    self.names.insert(name.to_lowercase(), (name.to_owned(), node));
                }
            }
        }
        if self.names.len() > self.limits.max_files { Err(Refusal::TooMany) } else { Ok(()) }
    }

    /// Returns the files, sorted by path, and the prefix of their names in the source: empty, or `FOLDER/` if one folder
    /// holds everything, as in an archive made of a folder.
    ///
    /// # Errors
    /// When the manifest is missing or too large.
    pub(super) fn finish(mut self) -> Result<(Vec<PlannedFile>, String), Refusal> {
        let top = self.top().unwrap_or_default();
        for file in &mut self.files {
            if let Some(path) = file.path.strip_prefix(&top) {
                file.path = path.to_owned();
            }
        }
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = self.files.iter().find(|file| file.path == MANIFEST_NAME);
        if manifest.ok_or(Refusal::NoManifest)?.size > self.limits.max_manifest_bytes as u64 {
            return Err(Refusal::ManifestTooLarge);
        }
        Ok((self.files, top))
    }

    /// Returns the folder, with `/`, that holds the manifest and everything else.
    fn top(&self) -> Option<String> {
        let folders = self.files.iter().filter_map(|file| file.path.strip_suffix(MANIFEST_NAME));
        let holds_all = |top: &str| self.names.values().all(|(name, _)| format!("{name}/").starts_with(top));
        let mut outermost =
            folders.filter(|folder| folder.ends_with('/') && folder.matches('/').count() == 1);
        outermost.find(|folder| holds_all(folder)).map(str::to_owned)
    }
}

/// Returns a name as a path without `.` parts; empty for the top itself.
///
/// # Errors
/// When it does not lead down from the top, or is too long.
pub(super) fn normalize(name: &str, limits: &ArtifactLimits) -> Result<String, Refusal> {
    if name.is_empty() || name.starts_with('/') {
        return Err(Refusal::Absolute);
    }
    if name.chars().any(|character| character == '\\' || character.is_control()) {
        return Err(Refusal::Character);
    }
    let mut parts = Vec::new();
    for part in name.strip_suffix('/').unwrap_or(name).split('/') {
        match part {
            "" => return Err(Refusal::EmptyPart),
            ".." => return Err(Refusal::Upwards),
            // `tar -C folder .` writes it before each name.
            "." => {}
            _ if part.len() > MAX_PART_BYTES => return Err(Refusal::NameTooLong),
            _ => parts.push(part),
        }
    }
    let path = parts.join("/");
    if path.len() > limits.max_path_bytes {
        return Err(Refusal::NameTooLong);
    }
    if parts.len() > limits.max_depth {
        return Err(Refusal::TooDeep);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> ArtifactLimits {
        ArtifactLimits {
            max_files: 4,
            max_file_bytes: 10,
            max_total_bytes: 15,
            max_path_bytes: 20,
            max_depth: 3,
            max_manifest_bytes: 8,
            ..ArtifactLimits::default()
        }
    }

    fn file(name: &str, size: u64) -> PlannedFile {
        PlannedFile { path: name.to_owned(), size, executable: false }
    }

    /// Plans folders (names that end in `/`) and files of five bytes each.
    fn planned(names: &[&str]) -> Result<(Vec<String>, String), Refusal> {
        let limits = limits();
        let mut plan = Plan::new(&limits);
        for name in names {
            match name.ends_with('/') {
                true => plan.add_folder(name)?,
                false => plan.add_file(file(name, 5))?,
            }
        }
        let (files, top) = plan.finish()?;
        Ok((files.into_iter().map(|file| file.path).collect(), top))
    }

    #[test]
    fn only_names_that_lead_down_are_accepted() {
        for (name, expected) in [
            ("a", Ok("a")),
            ("./a", Ok("a")),
            ("./", Ok("")),
            ("a/./b/", Ok("a/b")),
            ("..a/...", Ok("..a/...")),
            ("ä b/:", Ok("ä b/:")),
            ("", Err(Refusal::Absolute)),
            ("/", Err(Refusal::Absolute)),
            ("/a", Err(Refusal::Absolute)),
            ("a//b", Err(Refusal::EmptyPart)),
            ("a//", Err(Refusal::EmptyPart)),
            ("..", Err(Refusal::Upwards)),
            ("a/../b", Err(Refusal::Upwards)),
            ("a/..", Err(Refusal::Upwards)),
            ("a\\b", Err(Refusal::Character)),
            ("a\nb", Err(Refusal::Character)),
            ("a\0b", Err(Refusal::Character)),
            ("a/b/c", Ok("a/b/c")),
            ("a/b/c/d", Err(Refusal::TooDeep)),
            ("aaaaaaaaaaaaaaaaaaaa", Ok("aaaaaaaaaaaaaaaaaaaa")),
            ("aaaaaaaaaaaaaaaaaaaaa", Err(Refusal::NameTooLong)),
        ] {
            assert_eq!(normalize(name, &limits()).as_deref(), expected.as_ref().copied(), "{name:?}");
        }
        let wide = ArtifactLimits { max_path_bytes: 1000, ..limits() };
        assert!(normalize(&"x".repeat(255), &wide).is_ok());
        assert_eq!(normalize(&"x".repeat(256), &wide), Err(Refusal::NameTooLong));
    }

    #[test]
    fn each_name_is_unique_and_all_limits_hold() {
        let sorted = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (names, expected) in [
            (&["b", "artifact.json"][..], Ok((sorted(&["artifact.json", "b"]), ""))),
            (&["artifact.json"], Ok((sorted(&["artifact.json"]), ""))),
            (&["x/", "x/artifact.json", "x/y/b"], Ok((sorted(&["artifact.json", "y/b"]), "x/"))),
            (&["./", "./artifact.json", "./x/"], Ok((sorted(&["artifact.json"]), ""))),
            (&["x/", "x/", "artifact.json"], Ok((sorted(&["artifact.json"]), ""))),
            (&["artifact.json", "artifact.json"], Err(Refusal::Twice)),
            (&["artifact.json", "./artifact.json"], Err(Refusal::Twice)),
            (&["a", "a/b"], Err(Refusal::Twice)),
            (&["a/b", "a"], Err(Refusal::Twice)),
            (&["a", "a/"], Err(Refusal::Twice)),
            (&["a", "A"], Err(Refusal::Case)),
            (&["x/a", "X/b"], Err(Refusal::Case)),
            (&["ä/", "Ä"], Err(Refusal::Case)),
            (&["./"], Err(Refusal::NoManifest)),
            (&[], Err(Refusal::NoManifest)),
            (&["b"], Err(Refusal::NoManifest)),
            (&["x/artifact.json", "y"], Err(Refusal::NoManifest)),
            (&["x/y/artifact.json"], Err(Refusal::NoManifest)),
            (&["a/", "b/", "c/", "artifact.json"], Ok((sorted(&["artifact.json"]), ""))),
            (&["a/b/", "c/", "d/", "artifact.json"], Err(Refusal::TooMany)),
            (&["a", "b", "artifact.json"], Ok((sorted(&["a", "artifact.json", "b"]), ""))),
            (&["a", "b", "c", "artifact.json"], Err(Refusal::TooLarge)),
        ] {
            let expected = expected.map(|(files, top)| (files, top.to_owned()));
            assert_eq!(planned(names), expected, "{names:?}");
        }
        let limits = limits();
        for (name, size, expected) in [
            ("a", 10, None),
            ("a", 11, Some(Refusal::FileTooLarge)),
            ("a", u64::MAX, Some(Refusal::FileTooLarge)),
            ("./", 1, Some(Refusal::Absolute)),
        ] {
            assert_eq!(Plan::new(&limits).add_file(file(name, size)).err(), expected, "{name} {size}");
        }
        let mut plan = Plan::new(&limits);
        plan.add_file(file("artifact.json", 9)).unwrap();
        assert_eq!(plan.finish().unwrap_err(), Refusal::ManifestTooLarge);
    }
}
