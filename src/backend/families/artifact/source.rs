//! Reads the source of an installation. Input: the name that a client sent, and the folders in which sources are allowed.
//! Output: the list of the artifact's files, later their content, to a [`Copier`].
//!
//! A source can change while it is read. So paths are opened part by part, relative to the open parent folder, and links
//! are not followed. Each file is checked before it is opened and again once it is open. A source is read twice, first to
//! check it and then to copy it, and the [`Copier`] refuses any difference.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use crate::backend::shared::below::open_unlinked;

use super::config::ArtifactLimits;
use super::copy::Copier;
use super::plan::{MANIFEST_NAME, Plan, PlannedFile, normalize};
use super::tar::{BLOCK_BYTES, Decoder, Item, Kind};

const CHUNK_BYTES: usize = 64 << 10;
/// What an archive can hold for each file besides its content: headers, long names and padding.
const MAX_OVERHEAD_PER_FILE: u64 = 8 * BLOCK_BYTES as u64;

/// Why a source is refused: the text after "got" in the error message.
pub(super) type Problem = String;

/// An open source.
#[derive(Debug)]
pub(super) enum Source {
    Folder(OwnedFd),
    Archive { file: fs::File, size: u64 },
}

/// The result of the first reading of a source.
#[derive(Debug)]
pub(super) struct Survey {
    /// Sorted by path.
    pub files: Vec<PlannedFile>,
    /// The prefix of every name in the source: empty, or the one folder that holds everything, with `/`.
    pub top: String,
    /// The content of the manifest.
    pub manifest: Vec<u8>,
}

/// Opens a source: a folder, or a file named `*.tar`, below one of the roots. A relative name is looked up in each root,
/// in order.
///
/// # Errors
/// When it is not below a root, does not exist, or its path contains a link.
pub(super) fn open(name: &str, roots: &[PathBuf], limits: &ArtifactLimits) -> Result<Source, Problem> {
    // The operator chose the roots, so they can be links.
    for root in roots {
        let Ok(real) = root.canonicalize() else { continue };
        let below = if name.starts_with('/') {
            let below = [root, &real].into_iter().find_map(|root| Path::new(name).strip_prefix(root).ok());
            below.and_then(Path::to_str)
        } else {
            Some(name)
        };
        let Some(below) = below else { continue };
        // The limits of names hold inside an artifact, not for the path to it.
        let wide = ArtifactLimits { max_path_bytes: usize::MAX, max_depth: usize::MAX, ..limits.clone() };
        let below = normalize(below, &wide).map_err(|refusal| refusal.to_string())?;
        if below.is_empty() {
            return Err("the --artifact-source itself".to_owned());
        }
        match open_below(&real, &below) {
            Err(Unopened::Missing) => {}
            Err(Unopened::Refused(problem)) => return Err(problem),
            Ok(Found::Folder(folder)) => return Ok(Source::Folder(folder)),
            Ok(Found::File { file, size, .. }) if below.ends_with(".tar") => {
                return Ok(Source::Archive { file, size });
            }
            Ok(Found::File { .. }) => return Err("a file whose name does not end in .tar".to_owned()),
        }
    }
    Err("a name that does not exist below an --artifact-source".to_owned())
}

fn open_below(root: &Path, below: &str) -> Result<Found, Unopened> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let root = rustix::fs::open(root, flags, Mode::empty()).map_err(|error| problem(below, error))?;
    find(root, below)
}

/// An open file or folder.
#[derive(Debug)]
enum Found {
    Folder(OwnedFd),
    File { file: fs::File, size: u64, executable: bool },
}

#[derive(Debug)]
enum Unopened {
    Missing,
    Refused(Problem),
}

impl From<Unopened> for Problem {
    fn from(unopened: Unopened) -> Problem {
        match unopened {
            Unopened::Missing => "a file that disappeared".to_owned(),
            Unopened::Refused(problem) => problem,
        }
    }
}

/// Opens a path below a folder, part by part.
fn find(folder: impl AsFd, path: &str) -> Result<Found, Unopened> {
    let (folders, name) = path.rsplit_once('/').map_or((None, path), |(folders, name)| (Some(folders), name));
    let mut at = rustix::io::fcntl_dupfd_cloexec(folder, 0).map_err(|error| problem(path, error))?;
    for part in folders.into_iter().flat_map(|folders| folders.split('/')) {
        match open_entry(&at, part, path)? {
            Found::Folder(next) => at = next,
            Found::File { .. } => {
                return Err(Unopened::Refused(format!("{path:?}: a file where a folder is needed")));
            }
        }
    }
    open_entry(&at, name, path)
}

/// Opens a name in a folder if it is a plain file or a folder. `path` names it in errors.
fn open_entry(folder: impl AsFd, name: &str, path: &str) -> Result<Found, Unopened> {
    // Checked first, because opening a pipe or a device can have side effects.
    let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let file_type = checked_type(&stat.map_err(|error| problem(path, error))?, path)?;
    let more = if file_type == FileType::Directory { OFlags::DIRECTORY } else { OFlags::empty() };
    let opened = open_unlinked(&folder, name, more).map_err(|error| problem(path, error))?;
    let stat = rustix::fs::fstat(&opened).map_err(|error| problem(path, error))?;
    match checked_type(&stat, path)? {
        FileType::Directory => Ok(Found::Folder(opened)),
        _ => Ok(Found::File {
            file: fs::File::from(opened),
            size: u64::try_from(stat.st_size).unwrap_or(u64::MAX),
            executable: Mode::from_raw_mode(stat.st_mode).contains(Mode::XUSR),
        }),
    }
}

/// Returns the type of a plain file or a folder, and refuses all others.
fn checked_type(stat: &Stat, path: &str) -> Result<FileType, Unopened> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => return Ok(FileType::Directory),
        // A hard link can expose a file from outside of the sources.
        FileType::RegularFile if stat.st_nlink > 1 => "a file with several names (hard links)",
        FileType::RegularFile => return Ok(FileType::RegularFile),
        FileType::Symlink => "a link",
        _ => "something other than a file or a folder",
    };
    Err(Unopened::Refused(format!("{path:?}: {what}")))
}

fn problem(path: &str, error: rustix::io::Errno) -> Unopened {
    match error {
        rustix::io::Errno::NOENT => Unopened::Missing,
        error => Unopened::Refused(format!("{path:?}: {error}")),
    }
}

impl Source {
    /// The first reading: lists the files and checks whether they can be installed.
    ///
    /// # Errors
    /// Names the first problem.
    pub(super) fn survey(&self, limits: &ArtifactLimits) -> Result<Survey, Problem> {
        match self {
            Source::Folder(folder) => survey_folder(folder, limits),
            Source::Archive { file, size } => survey_archive(file, *size, limits),
        }
    }

    /// The second reading: passes every file to the copier, which compares it with the plan.
    ///
    /// # Errors
    /// When a file has changed, or cannot be read or written.
    pub(super) fn copy(
        &self,
        survey: &Survey,
        copier: &mut Copier,
        limits: &ArtifactLimits,
    ) -> Result<(), Problem> {
        match self {
            Source::Folder(folder) => {
                survey.files.iter().try_for_each(|file| copy_file(folder, &survey.top, &file.path, copier))
            }
            Source::Archive { file, size } => read_archive(file, *size, limits, |item| match item {
                Item::Entry(entry) => {
                    let Kind::File { executable } = entry.kind else { return Ok(()) };
                    let path = normalize(&entry.name, limits).map_err(|refusal| refusal.to_string())?;
                    let path = path.strip_prefix(&survey.top).unwrap_or(&path).to_owned();
                    copier.begin(PlannedFile { path, size: entry.size, executable })
                }
                Item::Data(data) => copier.write(data),
            }),
        }
    }
}

fn survey_folder(folder: &OwnedFd, limits: &ArtifactLimits) -> Result<Survey, Problem> {
    let mut plan = Plan::new(limits);
    walk(folder, "", &mut plan)?;
    let (files, top) = plan.finish().map_err(|refusal| refusal.to_string())?;
    let manifest = match find(folder, &format!("{top}{MANIFEST_NAME}"))? {
        Found::File { file, .. } => read_all(file, limits.max_manifest_bytes)?,
        Found::Folder(_) => return Err(format!("{MANIFEST_NAME:?}: a folder")),
    };
    Ok(Survey { files, top, manifest })
}

/// Adds the entries of a folder and of the folders below it. The plan's limit of depth ends the recursion.
fn walk(folder: &OwnedFd, prefix: &str, plan: &mut Plan<'_>) -> Result<(), Problem> {
    let mut entries = Dir::read_from(folder).map_err(|error| format!("{prefix:?}: {error}"))?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(|error| format!("{prefix:?}: {error}"))?;
        let name = entry.file_name();
        let name =
            name.to_str().map_err(|_| format!("{:?}: a name that is not UTF-8", name.to_string_lossy()))?;
        if matches!(name, "." | "..") {
            continue;
        }
        let path = format!("{prefix}{name}");
        match open_entry(folder, name, &path)? {
            Found::Folder(inner) => {
                plan.add_folder(&path).map_err(|refusal| format!("{path:?}: {refusal}"))?;
                walk(&inner, &format!("{path}/"), plan)?;
            }
            Found::File { size, executable, .. } => {
                let added = plan.add_file(PlannedFile { path: path.clone(), size, executable });
                added.map_err(|refusal| format!("{path:?}: {refusal}"))?;
            }
        }
    }
    Ok(())
}

fn copy_file(folder: &OwnedFd, top: &str, path: &str, copier: &mut Copier) -> Result<(), Problem> {
    let Found::File { mut file, size, executable } = find(folder, &format!("{top}{path}"))? else {
        return Err(format!("{path:?}: a folder that was a file before"));
    };
    copier.begin(PlannedFile { path: path.to_owned(), size, executable })?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => copier.write(chunk.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("{path:?}: {error}")),
        }
    }
}

fn read_all(file: fs::File, max_bytes: usize) -> Result<Vec<u8>, Problem> {
    let mut content = Vec::new();
    let read = file.take((max_bytes as u64).saturating_add(1)).read_to_end(&mut content);
    read.map_err(|error| format!("{MANIFEST_NAME:?}: {error}"))?;
    if content.len() > max_bytes { Err("a manifest that is too large".to_owned()) } else { Ok(content) }
}

fn survey_archive(file: &fs::File, size: u64, limits: &ArtifactLimits) -> Result<Survey, Problem> {
    let mut plan = Plan::new(limits);
    // Only the whole archive shows which one is the manifest: that at the top, or that in the one folder with everything.
    let (mut at_top, mut in_folder): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
    let mut current = None;
    read_archive(file, size, limits, |item| {
        match item {
            Item::Entry(entry) => {
                let problem = |refusal| format!("{:?}: {refusal}", entry.name);
                current = None;
                match entry.kind {
                    Kind::Folder => plan.add_folder(&entry.name).map_err(problem)?,
                    Kind::File { executable } => {
                        let (path, size) = (entry.name.clone(), entry.size);
                        plan.add_file(PlannedFile { path, size, executable }).map_err(problem)?;
                        let path = normalize(&entry.name, limits).map_err(problem)?;
                        let fits = entry.size <= limits.max_manifest_bytes as u64;
                        match Candidate::of(&path).filter(|_| fits) {
                            Some(Candidate::AtTop) => {
                                (current, at_top) = (Some(Candidate::AtTop), Some(Vec::new()));
                            }
                            Some(Candidate::InFolder) if in_folder.is_none() => {
                                (current, in_folder) = (Some(Candidate::InFolder), Some(Vec::new()));
                            }
                            _ => {}
                        }
                    }
                }
            }
            Item::Data(data) => {
                let content = match current {
                    Some(Candidate::AtTop) => at_top.as_mut(),
                    Some(Candidate::InFolder) => in_folder.as_mut(),
                    None => None,
                };
                if let Some(content) = content {
                    content.extend_from_slice(data);
                }
            }
        }
        Ok(())
    })?;
    let (files, top) = plan.finish().map_err(|refusal| refusal.to_string())?;
    let manifest = if top.is_empty() { at_top } else { in_folder };
    debug_assert!(manifest.is_some(), "a plan that finishes has a manifest within the limits");
    Ok(Survey { files, top, manifest: manifest.unwrap_or_default() })
}

/// Where a file lies that can be the manifest.
#[derive(Clone, Copy)]
enum Candidate {
    AtTop,
    InFolder,
}

impl Candidate {
    fn of(path: &str) -> Option<Candidate> {
        match path.split_once('/') {
            None if path == MANIFEST_NAME => Some(Candidate::AtTop),
            Some((_, MANIFEST_NAME)) => Some(Candidate::InFolder),
            _ => None,
        }
    }
}

/// Passes every item of an archive to `visit`, up to the end or the first problem.
fn read_archive(
    mut file: &fs::File,
    size: u64,
    limits: &ArtifactLimits,
    mut visit: impl FnMut(Item<'_>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let overhead = MAX_OVERHEAD_PER_FILE.saturating_mul((limits.max_files as u64).saturating_add(256));
    let allowed = limits.max_total_bytes.saturating_add(overhead);
    if size > allowed {
        return Err(format!("an archive of {size} bytes, {allowed} allowed"));
    }
    file.seek(SeekFrom::Start(0)).map_err(|error| error.to_string())?;
    let mut archive = file.take(size);
    let mut decoder = Decoder::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut name = String::new();
    loop {
        let count = match archive.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.to_string()),
        };
        debug_assert!(count <= chunk.len(), "a read fits into the chunk");
        let mut rest = chunk.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            let (consumed, item) = decoder.handle(rest).map_err(|error| after(&name, error))?;
            if let Some(Item::Entry(entry)) = &item {
                name.clone_from(&entry.name);
            }
            item.map_or(Ok(()), &mut visit)?;
            debug_assert!(
                (1..=rest.len()).contains(&consumed),
                "the decoder makes progress within its input"
            );
            rest = rest.get(consumed..).unwrap_or_default();
        }
    }
    decoder.finish().map_err(|error| after(&name, error))
}

/// Says after which name an archive could not be read.
fn after(name: &str, error: super::tar::TarError) -> Problem {
    if name.is_empty() { error.to_string() } else { format!("{error}, at {name:?} or after it") }
}
