//! Folders that are held open, for writing below a folder that other processes can change at the same time. Input: names
//! of single files and folders. Output: what has this name in the held folder itself, never what a link leads to.
//!
//! A path is resolved anew with each use, so that a folder on it can be swapped for a link between a check and a use. An
//! open folder stays the same one, wherever its name leads later.

use std::fs::File;
use std::io;
use std::path::Path;

/// What has a name in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Link,
    Other,
}

/// Whether a file can take the place of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replace {
    Allowed,
    /// It fails with `AlreadyExists` instead.
    Refused,
}

fn not_a_folder(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotADirectory, format!("{name:?} on the path is a link or not a folder"))
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

#[cfg(unix)]
mod system {
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::fs::{AtFlags, FileType, Mode, OFlags};
    use rustix::io::Errno;

    use super::{File, Kind, Path, Replace, io, not_a_file, not_a_folder};

    /// Opens a name in a folder for reading, unless it is a link. It waits for no other process, as a pipe would.
    pub(crate) fn open_unlinked(folder: impl AsFd, name: &str, more: OFlags) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        rustix::fs::openat(folder, name, flags | more, Mode::empty())
    }

    /// An open folder.
    #[derive(Debug)]
    pub(crate) struct Folder(OwnedFd);

    impl Folder {
        /// Opens a folder by its path, which can lead through links.
        pub(crate) fn open(path: &Path) -> io::Result<Folder> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(Folder(rustix::fs::open(path, flags, Mode::empty())?))
        }

        /// Opens a folder in this one; a link is refused.
        pub(crate) fn enter(&self, name: &str) -> io::Result<Folder> {
            match open_unlinked(&self.0, name, OFlags::DIRECTORY) {
                Ok(folder) => Ok(Folder(folder)),
                Err(Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => Err(not_a_folder(name)),
                Err(error) => Err(error.into()),
            }
        }

        /// Creates a folder in this one, for the current user only.
        pub(crate) fn create_folder(&self, name: &str) -> io::Result<()> {
            Ok(rustix::fs::mkdirat(&self.0, name, Mode::RWXU)?)
        }

        /// Returns what has a name in this folder.
        pub(crate) fn kind(&self, name: &str) -> io::Result<Option<Kind>> {
            match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => Ok(None),
                Err(error) => Err(error.into()),
                Ok(stat) => Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => Kind::File,
                    FileType::Directory => Kind::Folder,
                    FileType::Symlink => Kind::Link,
                    _ => Kind::Other,
                })),
            }
        }

        /// Opens a regular file in this folder for reading.
        pub(crate) fn open_file(&self, name: &str) -> io::Result<File> {
            // Checked first, because opening a device can have side effects, and once more when it is open.
            if self.kind(name)?.is_some_and(|kind| kind != Kind::File) {
                return Err(not_a_file());
            }
            let file = File::from(open_unlinked(&self.0, name, OFlags::empty())?);
            if file.metadata()?.is_file() { Ok(file) } else { Err(not_a_file()) }
        }

        /// Creates a file in this folder, for the current user only. It fails if anything has this name.
        pub(crate) fn create_file(&self, name: &str, executable: bool) -> io::Result<File> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = if executable { Mode::RWXU } else { Mode::RUSR | Mode::WUSR };
            Ok(File::from(rustix::fs::openat(&self.0, name, flags, mode)?))
        }

        /// Renames a file within this folder.
        pub(crate) fn rename(&self, from: &str, to: &str, replace: Replace) -> io::Result<()> {
            if replace == Replace::Refused {
                // Unlike a rename, this never replaces a file that was created since. Some file systems have no hard links.
                match rustix::fs::linkat(&self.0, from, &self.0, to, AtFlags::empty()) {
                    Ok(()) => return self.remove_file(from),
                    Err(Errno::EXIST) => return Err(Errno::EXIST.into()),
                    Err(_) => {}
                }
            }
            Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
        }

        pub(crate) fn remove_file(&self, name: &str) -> io::Result<()> {
            Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
        }

        /// Syncs the folder, so that the names in it survive a crash.
        pub(crate) fn sync(&self) -> io::Result<()> {
            Ok(rustix::fs::fsync(&self.0)?)
        }
    }
}

/// Without handles of folders: each use checks that there is no link on the path, but a swap between the check and the use
/// is not noticed.
#[cfg(not(unix))]
mod system {
    use std::fs::{self, OpenOptions};
    use std::path::PathBuf;

    use super::{File, Kind, Path, Replace, io, not_a_file, not_a_folder};

    #[derive(Debug)]
    pub(crate) struct Folder {
        root: PathBuf,
        path: PathBuf,
    }

    impl Folder {
        pub(crate) fn open(path: &Path) -> io::Result<Folder> {
            let root = path.canonicalize()?;
            Ok(Folder { path: root.clone(), root })
        }

        pub(crate) fn enter(&self, name: &str) -> io::Result<Folder> {
            let path = self.path.join(name);
            if !fs::symlink_metadata(&path)?.is_dir() || !path.canonicalize()?.starts_with(&self.root) {
                return Err(not_a_folder(name));
            }
            Ok(Folder { root: self.root.clone(), path })
        }

        pub(crate) fn create_folder(&self, name: &str) -> io::Result<()> {
            fs::create_dir(self.path.join(name))
        }

        pub(crate) fn kind(&self, name: &str) -> io::Result<Option<Kind>> {
            match fs::symlink_metadata(self.path.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
                Ok(metadata) if metadata.is_file() => Ok(Some(Kind::File)),
                Ok(metadata) if metadata.is_dir() => Ok(Some(Kind::Folder)),
                Ok(metadata) if metadata.is_symlink() => Ok(Some(Kind::Link)),
                Ok(_) => Ok(Some(Kind::Other)),
            }
        }

        pub(crate) fn open_file(&self, name: &str) -> io::Result<File> {
            if self.kind(name)?.is_some_and(|kind| kind != Kind::File) {
                return Err(not_a_file());
            }
            File::open(self.path.join(name))
        }

        pub(crate) fn create_file(&self, name: &str, _executable: bool) -> io::Result<File> {
            OpenOptions::new().create_new(true).write(true).open(self.path.join(name))
        }

        pub(crate) fn rename(&self, from: &str, to: &str, replace: Replace) -> io::Result<()> {
            let (from, to) = (self.path.join(from), self.path.join(to));
            if replace == Replace::Refused {
                match fs::hard_link(&from, &to) {
                    Ok(()) => return fs::remove_file(&from),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
                    Err(_) => {}
                }
            }
            fs::rename(from, to)
        }

        pub(crate) fn remove_file(&self, name: &str) -> io::Result<()> {
            fs::remove_file(self.path.join(name))
        }

        pub(crate) fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }
}

pub(crate) use system::Folder;
#[cfg(unix)]
pub(crate) use system::open_unlinked;

impl Folder {
    /// Opens a folder below this one, and creates those on the way that are missing. A link on the way is refused.
    pub(crate) fn descend(&self, parts: &[&str]) -> io::Result<Folder> {
        let mut at = self.enter(".")?;
        for part in parts {
            at = match at.enter(part) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match at.create_folder(part) {
                        // Another process can have created it.
                        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                        _ => at.enter(part)?,
                    }
                }
                entered => entered?,
            };
        }
        Ok(at)
    }
}
