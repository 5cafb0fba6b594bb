//! What may be installed. In: the names, sorts and sizes of what a source holds, in any order. Out: the files of the
//! artifact, or why it is refused.
//!
//! A folder and an archive are held to the same rules, which are these alone: plain files and folders, each below the top,
//! each with one name, none of them too large, too deep or too many.

use std::collections::BTreeMap;
use std::fmt;

use super::config::ArtifactLimits;

/// The file that says what an artifact is.
pub(super) const MANIFEST_NAME: &str = "artifact.json";
/// Longest name of a file in a folder, in bytes, as most systems have it.
const MAX_PART_BYTES: usize = 255;

/// Why a source is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The name begins with `/`, or is empty.
    Absolute,
    /// The name has a part `..`.
    Upwards,
    /// The name has an empty part.
    EmptyPart,
    /// The name has a backslash or a control character, which mean other things elsewhere.
    Character,
    /// A part of the name, or all of it, is too long.
    NameTooLong,
    /// Too many folders stand in each other.
    TooDeep,
    /// The name stands for two things.
    Twice,
    /// Another name differs in upper and lower case alone.
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
            Refusal::TooDeep => "too many folders in each other",
            Refusal::Twice => "a name that stands for two things",
            Refusal::Case => "a name that differs from another in upper and lower case alone",
            Refusal::FileTooLarge => "a file that is too large",
            Refusal::ManifestTooLarge => "a manifest that is too large",
            Refusal::TooLarge => "more bytes than an artifact may have",
            Refusal::TooMany => "more files and folders than an artifact may have",
            Refusal::NoManifest => "no artifact.json",
        })
    }
}

/// A file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Its name below the artifact's folder, with `/` between the parts.
    pub path: String,
    pub size: u64,
    pub executable: bool,
}

/// What is known so far of a source.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    limits: &'a ArtifactLimits,
    files: Vec<File>,
    total_bytes: u64,
    /// Every name in lower case, those of folders on the way included, with its spelling and whether it is a file's.
    names: BTreeMap<String, (String, bool)>,
}

impl<'a> Plan<'a> {
    /// A plan without files.
    pub(super) fn new(limits: &'a ArtifactLimits) -> Plan<'a> {
        Plan { limits, files: Vec::new(), total_bytes: 0, names: BTreeMap::new() }
    }

    /// Takes a folder. That it is told of twice, as some archives do, changes nothing.
    ///
    /// # Errors
    /// When it may not be there.
    pub(super) fn add_folder(&mut self, name: &str) -> Result<(), Refusal> {
        let path = normal(name, self.limits)?;
        self.claim(&path, false)
    }

    /// Takes a file.
    ///
    /// # Errors
    /// When it may not be there.
    pub(super) fn add_file(&mut self, name: &str, size: u64, executable: bool) -> Result<(), Refusal> {
        let path = normal(name, self.limits)?;
        if path.is_empty() {
            return Err(Refusal::Absolute);
        }
        self.claim(&path, true)?;
        if size > self.limits.max_file_bytes {
            return Err(Refusal::FileTooLarge);
        }
        self.total_bytes = self.total_bytes.saturating_add(size);
        if self.total_bytes > self.limits.max_total_bytes {
            return Err(Refusal::TooLarge);
        }
        self.files.push(File { path, size, executable });
        Ok(())
    }

    /// Takes a name, and those of the folders that it stands in.
    fn claim(&mut self, path: &str, is_file: bool) -> Result<(), Refusal> {
        let ends = path.match_indices('/').map(|(at, _)| (at, false)).chain([(path.len(), is_file)]);
        for (end, is_file) in ends {
            let Some(name) = path.get(..end).filter(|name| !name.is_empty()) else { continue };
            match self.names.get(&name.to_lowercase()) {
                Some((spelling, _)) if spelling != name => return Err(Refusal::Case),
                Some((_, was_file)) if is_file || *was_file => return Err(Refusal::Twice),
                Some(_) => {}
                None => {
                    self.names.insert(name.to_lowercase(), (name.to_owned(), is_file));
                }
            }
        }
        if self.names.len() > self.limits.max_files { Err(Refusal::TooMany) } else { Ok(()) }
    }

    /// The files in order, and what stands before the name of each in the source: nothing, or the one folder that holds
    /// them all and `/`, as in an archive made of a folder.
    ///
    /// # Errors
    /// When there is no manifest where it must be.
    pub(super) fn finish(mut self) -> Result<(Vec<File>, String), Refusal> {
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

    /// The folder that holds everything, the manifest too.
    fn top(&self) -> Option<String> {
        let folders = self.files.iter().filter_map(|file| file.path.strip_suffix(MANIFEST_NAME));
        let holds_all = |top: &str| self.names.values().all(|(name, _)| format!("{name}/").starts_with(top));
        let mut outermost =
            folders.filter(|folder| folder.ends_with('/') && folder.matches('/').count() == 1);
        outermost.find(|folder| holds_all(folder)).map(str::to_owned)
    }
}

/// A name with its parts checked and those that say nothing left out; empty for the top itself.
///
/// # Errors
/// When it leads elsewhere than down, or is too long.
pub(super) fn normal(name: &str, limits: &ArtifactLimits) -> Result<String, Refusal> {
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
            // As `tar -C folder .` writes before each name.
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

    /// What becomes of files (and of folders, whose names end in `/`) of five bytes each.
    fn planned(names: &[&str]) -> Result<(Vec<String>, String), Refusal> {
        let limits = limits();
        let mut plan = Plan::new(&limits);
        for name in names {
            match name.ends_with('/') {
                true => plan.add_folder(name)?,
                false => plan.add_file(name, 5, false)?,
            }
        }
        let (files, top) = plan.finish()?;
        Ok((files.into_iter().map(|file| file.path).collect(), top))
    }

    #[test]
    fn only_names_that_lead_down_are_names() {
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
            assert_eq!(normal(name, &limits()).as_deref(), expected.as_ref().copied(), "{name:?}");
        }
        let wide = ArtifactLimits { max_path_bytes: 1000, ..limits() };
        assert!(normal(&"x".repeat(255), &wide).is_ok());
        assert_eq!(normal(&"x".repeat(256), &wide), Err(Refusal::NameTooLong));
    }

    #[test]
    fn a_plan_has_each_name_once_and_is_within_its_limits() {
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
            assert_eq!(Plan::new(&limits).add_file(name, size, false).err(), expected, "{name} {size}");
        }
        let mut plan = Plan::new(&limits);
        plan.add_file("artifact.json", 9, false).unwrap();
        assert_eq!(plan.finish().unwrap_err(), Refusal::ManifestTooLarge);
    }
}
