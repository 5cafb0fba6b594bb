//! Reading what is to be installed. In: a name that a client gives, the folders it may stand for. Out: the files of the
//! artifact, and then their content, to a [`Copier`].
//!
//! Nothing is trusted twice. The way down goes from handle to handle, and follows no link, so that it cannot be moved aside
//! under our feet; each file is looked at before it is opened, and again when it is open. A source is read twice, once to
//! be judged and once to be copied: what the second look finds has to be what the first one found.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use super::config::ArtifactLimits;
use super::copy::Copier;
use super::plan::{File, MANIFEST_NAME, Plan, normal};
use super::tar::{BLOCK_BYTES, Decoder, Item, Kind};

const CHUNK_BYTES: usize = 64 << 10;
/// What an archive may have for each file beside its content: headers, long names, and what fills blocks up.
const MAX_BYTES_AROUND_A_FILE: u64 = 8 * BLOCK_BYTES as u64;

/// Why a source is refused, in words that follow on "got".
pub(super) type Problem = String;

/// A source that is open.
#[derive(Debug)]
pub(super) enum Source {
    Folder(OwnedFd),
    Archive { file: fs::File, size: u64 },
}

/// What the first look at a source has found.
#[derive(Debug)]
pub(super) struct Survey {
    /// In order of their names.
    pub files: Vec<File>,
    /// What stands before each name in the source.
    pub top: String,
    /// The content of the manifest.
    pub manifest: Vec<u8>,
}

/// Opens a source: a folder, or a file that is called `.tar`, below one of the roots. A relative name is looked for in
/// each of them, in order.
///
/// # Errors
/// When it is not below a root, or there is a link on the way to it, or it is not there.
pub(super) fn open(name: &str, roots: &[PathBuf], limits: &ArtifactLimits) -> Result<Source, Problem> {
    // The roots are the operator's, who may name them by links.
    for root in roots {
        let Ok(real) = root.canonicalize() else { continue };
        let below = if name.starts_with('/') {
            let below = [root, &real].into_iter().find_map(|root| Path::new(name).strip_prefix(root).ok());
            below.and_then(Path::to_str)
        } else {
            Some(name)
        };
        let Some(below) = below else { continue };
        // What a source is called is not what its files are called.
        let wide = ArtifactLimits { max_path_bytes: usize::MAX, max_depth: usize::MAX, ..limits.clone() };
        let below = normal(below, &wide).map_err(|refusal| refusal.to_string())?;
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
            Ok(Found::File { .. }) => return Err("a file that is not called .tar".to_owned()),
        }
    }
    Err("a name of nothing below an --artifact-source".to_owned())
}

fn open_below(root: &Path, below: &str) -> Result<Found, Unopened> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let root = rustix::fs::open(root, flags, Mode::empty()).map_err(|error| problem(below, error))?;
    find(root, below)
}

/// What stands under a name.
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
            Unopened::Missing => "a file that is gone again".to_owned(),
            Unopened::Refused(problem) => problem,
        }
    }
}

/// Goes down from a folder, part by part.
fn find(folder: impl AsFd, path: &str) -> Result<Found, Unopened> {
    let (folders, name) = path.rsplit_once('/').map_or((None, path), |(folders, name)| (Some(folders), name));
    let mut at = rustix::io::fcntl_dupfd_cloexec(folder, 0).map_err(|error| problem(path, error))?;
    for part in folders.into_iter().flat_map(|folders| folders.split('/')) {
        match look(&at, part, path)? {
            Found::Folder(next) => at = next,
            Found::File { .. } => return Err(Unopened::Refused(format!("{path:?}: a file on the way"))),
        }
    }
    look(&at, name, path)
}

/// Opens a name in a folder if it is a plain file or a folder. `path` names it in errors.
fn look(folder: impl AsFd, name: &str, path: &str) -> Result<Found, Unopened> {
    // Not opened before it is known to be one of these: to open a pipe or a device would be to do something to it.
    let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let sort = sort_of(&stat.map_err(|error| problem(path, error))?, path)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = if sort == FileType::Directory { flags | OFlags::DIRECTORY } else { flags };
    let opened = rustix::fs::openat(&folder, name, flags, Mode::empty());
    let opened = opened.map_err(|error| problem(path, error))?;
    let stat = rustix::fs::fstat(&opened).map_err(|error| problem(path, error))?;
    match sort_of(&stat, path)? {
        FileType::Directory => Ok(Found::Folder(opened)),
        _ => Ok(Found::File {
            file: fs::File::from(opened),
            size: u64::try_from(stat.st_size).unwrap_or(u64::MAX),
            executable: Mode::from_raw_mode(stat.st_mode).contains(Mode::XUSR),
        }),
    }
}

fn sort_of(stat: &Stat, path: &str) -> Result<FileType, Unopened> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => return Ok(FileType::Directory),
        // The other name may be that of somebody's secret.
        FileType::RegularFile if stat.st_nlink > 1 => "a file with several names (hard links)",
        FileType::RegularFile => return Ok(FileType::RegularFile),
        FileType::Symlink => "a link",
        _ => "something else than a file or a folder",
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
    /// The first look: what is there, and whether it may be installed.
    ///
    /// # Errors
    /// With the first thing that may not.
    pub(super) fn survey(&self, limits: &ArtifactLimits) -> Result<Survey, Problem> {
        match self {
            Source::Folder(folder) => survey_folder(folder, limits),
            Source::Archive { file, size } => survey_archive(file, *size, limits),
        }
    }

    /// The second look: hands every file to the copier, which finds out whether it is as it was.
    ///
    /// # Errors
    /// When it is not, or cannot be read or written.
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
                    let path = normal(&entry.name, limits).map_err(|refusal| refusal.to_string())?;
                    copier.begin(path.strip_prefix(&survey.top).unwrap_or(&path), entry.size, executable)
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

/// Takes what is in a folder and below it. The plan ends this where there are too many folders in each other.
fn walk(folder: &OwnedFd, before: &str, plan: &mut Plan<'_>) -> Result<(), Problem> {
    let mut entries = Dir::read_from(folder).map_err(|error| format!("{before:?}: {error}"))?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(|error| format!("{before:?}: {error}"))?;
        let name = entry.file_name();
        let name =
            name.to_str().map_err(|_| format!("{:?}: a name that is not UTF-8", name.to_string_lossy()))?;
        if matches!(name, "." | "..") {
            continue;
        }
        let path = format!("{before}{name}");
        match look(folder, name, &path)? {
            Found::Folder(inner) => {
                plan.add_folder(&path).map_err(|refusal| format!("{path:?}: {refusal}"))?;
                walk(&inner, &format!("{path}/"), plan)?;
            }
            Found::File { size, executable, .. } => {
                plan.add_file(&path, size, executable).map_err(|refusal| format!("{path:?}: {refusal}"))?;
            }
        }
    }
    Ok(())
}

fn copy_file(folder: &OwnedFd, top: &str, path: &str, copier: &mut Copier) -> Result<(), Problem> {
    let Found::File { mut file, size, executable } = find(folder, &format!("{top}{path}"))? else {
        return Err(format!("{path:?}: a folder, where a file was"));
    };
    copier.begin(path, size, executable)?;
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
    let read = file.take(max_bytes as u64 + 1).read_to_end(&mut content);
    read.map_err(|error| format!("{MANIFEST_NAME:?}: {error}"))?;
    if content.len() > max_bytes { Err("a manifest that is too large".to_owned()) } else { Ok(content) }
}

fn survey_archive(file: &fs::File, size: u64, limits: &ArtifactLimits) -> Result<Survey, Problem> {
    let mut plan = Plan::new(limits);
    // What may turn out to be the manifest: that of the top, or that of the one folder which holds everything.
    let (mut at_top, mut in_folder): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
    let mut reading = None;
    read_archive(file, size, limits, |item| {
        match item {
            Item::Entry(entry) => {
                let told = |refusal| format!("{:?}: {refusal}", entry.name);
                reading = None;
                match entry.kind {
                    Kind::Folder => plan.add_folder(&entry.name).map_err(told)?,
                    Kind::File { executable } => {
                        plan.add_file(&entry.name, entry.size, executable).map_err(told)?;
                        let path = normal(&entry.name, limits).map_err(told)?;
                        let fits = entry.size <= limits.max_manifest_bytes as u64;
                        reading = Some(Candidate::of(&path)).filter(|_| fits);
                        match reading {
                            Some(Candidate::AtTop) => at_top = Some(Vec::new()),
                            Some(Candidate::InFolder) if in_folder.is_none() => in_folder = Some(Vec::new()),
                            _ => reading = None,
                        }
                    }
                }
            }
            Item::Data(data) => {
                let content = match reading {
                    Some(Candidate::AtTop) => at_top.as_mut(),
                    Some(Candidate::InFolder) => in_folder.as_mut(),
                    _ => None,
                };
                if let Some(content) = content {
                    content.extend_from_slice(data);
                }
            }
        }
        Ok(())
    })?;
    let (files, top) = plan.finish().map_err(|refusal| refusal.to_string())?;
    // The plan has found one, within the limits, and the top holds all that is in any folder.
    let manifest = if top.is_empty() { at_top } else { in_folder };
    Ok(Survey { files, top, manifest: manifest.unwrap_or_default() })
}

/// Which manifest a file may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Candidate {
    AtTop,
    InFolder,
    None,
}

impl Candidate {
    fn of(path: &str) -> Candidate {
        match path.split_once('/') {
            None if path == MANIFEST_NAME => Candidate::AtTop,
            Some((_, MANIFEST_NAME)) => Candidate::InFolder,
            _ => Candidate::None,
        }
    }
}

/// Reads an archive from its beginning to its end, or to the first problem.
fn read_archive(
    mut file: &fs::File,
    size: u64,
    limits: &ArtifactLimits,
    mut visit: impl FnMut(Item<'_>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let around = MAX_BYTES_AROUND_A_FILE.saturating_mul(limits.max_files as u64 + 256);
    let allowed = limits.max_total_bytes.saturating_add(around);
    if size > allowed {
        return Err(format!("an archive of {size} bytes, {allowed} are allowed"));
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
        let mut rest = chunk.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            let (consumed, item) = decoder.handle(rest).map_err(|error| behind(&name, error))?;
            if let Some(Item::Entry(entry)) = &item {
                name.clone_from(&entry.name);
            }
            item.map_or(Ok(()), &mut visit)?;
            rest = rest.get(consumed..).unwrap_or_default();
        }
    }
    decoder.finish().map_err(|error| behind(&name, error))
}

fn behind(name: &str, error: super::tar::TarError) -> Problem {
    if name.is_empty() { error.to_string() } else { format!("{error}, at {name:?} or behind it") }
}
