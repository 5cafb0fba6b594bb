//! The files of images: one file per image, named by its id, in a folder that is created with the first one. A file is
//! written under a temporary name, synced and renamed, and the folder is synced, all before the image's row is written.
//! Files without a row, which a crash can leave, are deleted at the next start. A path is built from the id of a row, never
//! from a name that a client chose.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::backend::shared::files::{private_folder, restrict, sync_folder};

use super::picture::Format;

/// The name of the folder, next to the database.
const FOLDER: &str = "images";
/// The extension of files that are still being written.
const UNFINISHED: &str = "tmp";
const UUID_LENGTH: usize = 36;

/// The folder of the files.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Returns the folder next to a database. It need not exist yet.
    pub(super) fn beside(database: &Path) -> Folder {
        Folder(database.with_file_name(FOLDER))
    }

    pub(super) fn path_of(&self, id: &str, format: Format) -> PathBuf {
        self.0.join(format!("{id}.{}", format.extension()))
    }

    /// Writes files atomically: even after a crash each one is complete or does not exist.
    ///
    /// # Errors
    /// When one cannot be written. Then all of them are removed.
    pub(super) fn write(&self, files: &[(&str, Format, &[u8])]) -> io::Result<()> {
        self.create()?;
        let written = files.iter().try_for_each(|(id, format, bytes)| {
            let path = self.path_of(id, *format);
            let unfinished = unfinished(&path);
            let mut options = OpenOptions::new();
            options.create_new(true).write(true);
            restrict(&mut options);
            let mut file = options.open(&unfinished)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(unfinished, path)
        });
        if let Err(error) = written.and_then(|()| sync_folder(&self.0)) {
            self.remove(files.iter().map(|(id, format, _)| (*id, *format)));
            return Err(error);
        }
        Ok(())
    }

    /// Removes files, if they exist. The sweep of the next start removes those that cannot be removed now.
    pub(super) fn remove<'a>(&self, files: impl Iterator<Item = (&'a str, Format)>) {
        for (id, format) in files {
            let path = self.path_of(id, format);
            let _ = fs::remove_file(unfinished(&path));
            let _ = fs::remove_file(path);
        }
    }

    /// Lists the files with a name as this family makes them: the id in the name, and the name.
    ///
    /// # Errors
    /// When the folder cannot be read. A folder that does not exist is empty.
    pub(super) fn list(&self) -> io::Result<Vec<(String, String)>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            // Other names are not ours to delete.
            if let Ok(name) = entry?.file_name().into_string()
                && let Some(id) = id_in(&name)
            {
                found.push((id.to_owned(), name));
            }
        }
        Ok(found)
    }

    /// Removes a file by a name that [`list`](Folder::list) returned.
    pub(super) fn remove_name(&self, name: &str) {
        let _ = fs::remove_file(self.0.join(name));
    }

    /// Creates the folder, for this user alone (0700), unless it exists.
    fn create(&self) -> io::Result<()> {
        match private_folder().create(&self.0) {
            Ok(()) => self.0.parent().map_or(Ok(()), sync_folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Opens a file of at most `max_bytes`, and returns its length too; `None` if it does not exist or is longer.
pub(super) fn open(path: &Path, max_bytes: usize) -> Option<(File, u64)> {
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    (length <= max_bytes as u64).then_some((file, length))
}

/// Whether a text has the form of an id. Such a text is safe as a file name: it has no `/` and no `.`.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == UUID_LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    PathBuf::from(name)
}

fn id_in(name: &str) -> Option<&str> {
    let (id, extension) = name.split_once('.')?;
    let extension =
        extension.strip_suffix(UNFINISHED).and_then(|rest| rest.strip_suffix('.')).unwrap_or(extension);
    let is_ours = is_id(id) && Format::ALL.iter().any(|format| format.extension() == extension);
    is_ours.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "550e8400-e29b-41d4-a716-446655440000";

    #[test]
    fn only_our_own_names_are_swept() {
        for (name, ours) in [
            (format!("{ID}.png"), true),
            (format!("{ID}.svg.tmp"), true),
            (format!("{ID}.txt"), false),
            (format!("{ID}."), false),
            (format!("{ID}.tmp"), false),
            (ID.to_owned(), false),
            ("holiday.png".to_owned(), false),
            (format!("{}.png", ID.to_uppercase()), false),
        ] {
            assert_eq!(id_in(&name).is_some(), ours, "{name}");
        }
        for path in [
            "",
            "..",
            "../550e8400-e29b-41d4-a716-44665544",
            "%2e%2e",
            "550E8400-e29b-41d4-a716-446655440000",
        ] {
            assert!(!is_id(path), "{path}");
        }
    }

    #[test]
    fn files_are_written_together_or_not_at_all() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::beside(&temporary.path().join("switchboard.db"));
        assert_eq!(folder.list().unwrap(), []);
        folder.write(&[(ID, Format::Png, b"png")]).unwrap();
        let other = "550e8400-e29b-41d4-a716-446655440001";
        folder.write(&[(other, Format::Png, b"1")]).unwrap();
        // The temporary name of the second file is taken, so the first one is removed again.
        fs::create_dir(folder.0.join(format!("{ID}.webp.tmp"))).unwrap();
        let third = "550e8400-e29b-41d4-a716-446655440002";
        assert!(folder.write(&[(third, Format::Png, b"1"), (ID, Format::Webp, b"2")]).is_err());
        let (file, length) = open(&folder.path_of(ID, Format::Png), 3).unwrap();
        assert_eq!((io::read_to_string(file).unwrap().as_str(), length), ("png", 3));
        assert!(open(&folder.path_of(ID, Format::Png), 2).is_none());
        assert!(open(&folder.path_of(third, Format::Png), 9).is_none());
        let mut names: Vec<_> = folder.list().unwrap().into_iter().map(|(_, name)| name).collect();
        names.sort();
        assert_eq!(names, [format!("{ID}.png"), format!("{ID}.webp.tmp"), format!("{other}.png")]);
    }
}
