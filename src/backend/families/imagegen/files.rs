//! The files of images: one an image, named by its id, in a folder of their own that is made with the first one. A file is
//! written under another name, synced and renamed, and the folder synced, before the image's row is; what a crash leaves
//! without a row is swept away at the next start. A file is found by its row alone, never by a name that a client chose.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::picture::Kind;
use crate::backend::shared::files::{restrict, sync_folder};

/// The name of the folder beside the database.
const FOLDER: &str = "images";
/// How the names of files end that are still being written.
const UNFINISHED: &str = "tmp";
const UUID_LENGTH: usize = 36;

/// The folder of the files.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The folder beside a database.
    pub(super) fn beside(database: &Path) -> Folder {
        Folder(database.with_file_name(FOLDER))
    }

    pub(super) fn path_of(&self, id: &str, kind: Kind) -> PathBuf {
        self.0.join(format!("{id}.{}", kind.extension()))
    }

    /// Writes files that are to be complete or not there, whatever happens to the machine.
    ///
    /// # Errors
    /// When one cannot be written. Those that were are removed.
    pub(super) fn write(&self, files: &[(&str, Kind, &[u8])]) -> io::Result<()> {
        self.make()?;
        let written = files.iter().try_for_each(|(id, kind, bytes)| {
            let path = self.path_of(id, *kind);
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
            self.remove(files.iter().map(|(id, kind, _)| (*id, *kind)));
            return Err(error);
        }
        Ok(())
    }

    /// Removes files, if they are there. What cannot be removed now is swept away later.
    pub(super) fn remove<'a>(&self, files: impl Iterator<Item = (&'a str, Kind)>) {
        for (id, kind) in files {
            let path = self.path_of(id, kind);
            let _ = fs::remove_file(unfinished(&path));
            let _ = fs::remove_file(path);
        }
    }

    /// The names of the files that look like ours, with the ids in them.
    ///
    /// # Errors
    /// When the folder cannot be read. One that is not there yet is empty.
    pub(super) fn list(&self) -> io::Result<Vec<(String, String)>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            // What is named otherwise is somebody's, and is left alone.
            if let Ok(name) = entry?.file_name().into_string()
                && let Some(id) = id_in(&name)
            {
                found.push((id.to_owned(), name));
            }
        }
        Ok(found)
    }

    /// Removes a file that [`list`](Folder::list) named.
    pub(super) fn remove_name(&self, name: &str) {
        let _ = fs::remove_file(self.0.join(name));
    }

    #[cfg(unix)]
    fn make(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        self.made(fs::DirBuilder::new().mode(0o700).create(&self.0))
    }

    #[cfg(not(unix))]
    fn make(&self) -> io::Result<()> {
        self.made(fs::create_dir(&self.0))
    }

    fn made(&self, made: io::Result<()>) -> io::Result<()> {
        match made {
            Ok(()) => self.0.parent().map_or(Ok(()), sync_folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Reads a file of at most `max_bytes`; `None` if it is not there, or longer.
pub(super) fn read(path: &Path, max_bytes: usize) -> Option<Vec<u8>> {
    let length = usize::try_from(File::open(path).ok()?.metadata().ok()?.len()).ok()?;
    (length <= max_bytes).then(|| fs::read(path).ok())?
}

/// Whether a text is an id as this family makes them: then it is no path either.
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
    let is_ours = is_id(id) && Kind::ALL.iter().any(|kind| kind.extension() == extension);
    is_ours.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "550e8400-e29b-41d4-a716-446655440000";

    #[test]
    fn only_names_of_ours_are_swept() {
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
    fn a_file_is_there_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::beside(&place.path().join("switchboard.db"));
        assert_eq!(folder.list().unwrap(), []);
        folder.write(&[(ID, Kind::Png, b"png")]).unwrap();
        let other = "550e8400-e29b-41d4-a716-446655440001";
        folder.write(&[(other, Kind::Png, b"1")]).unwrap();
        // A name is taken, so the file before it goes as well.
        fs::create_dir(folder.0.join(format!("{ID}.webp.tmp"))).unwrap();
        let third = "550e8400-e29b-41d4-a716-446655440002";
        assert!(folder.write(&[(third, Kind::Png, b"1"), (ID, Kind::Webp, b"2")]).is_err());
        assert_eq!(read(&folder.path_of(ID, Kind::Png), 3).as_deref(), Some(&b"png"[..]));
        assert_eq!(read(&folder.path_of(ID, Kind::Png), 2), None);
        assert_eq!(read(&folder.path_of(third, Kind::Png), 9), None);
        let mut names: Vec<_> = folder.list().unwrap().into_iter().map(|(_, name)| name).collect();
        names.sort();
        assert_eq!(names, [format!("{ID}.png"), format!("{ID}.webp.tmp"), format!("{other}.png")]);
    }
}
