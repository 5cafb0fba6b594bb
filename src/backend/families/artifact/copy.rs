//! Writes an artifact's files. Input: the planned files, then their content. Output: a folder with exactly these files,
//! synced to the disk. Of a file's mode only the owner's right to execute is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::backend::shared::below::Folder;

use super::plan::{MANIFEST_NAME, PlannedFile};

/// Shortest time between two reports of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Copies files into an empty folder.
pub(super) struct Copier {
    to: Folder,
    /// Files that were not started yet.
    planned: BTreeMap<String, PlannedFile>,
    manifest: Vec<u8>,
    current: Option<Current>,
    /// The folders below, which are created as they are needed.
    folders: BTreeSet<String>,
    stop: Arc<AtomicBool>,
    done_bytes: u64,
    total_bytes: u64,
    report: Box<dyn FnMut(f64) + Send>,
    reported_at: Instant,
}

/// The file that is being written.
struct Current {
    path: String,
    file: File,
    written: u64,
    size: u64,
}

impl Copier {
    /// Creates a copier of these files. It fails once `stop` is set. `report` is called with the progress, from 0 to 1.
    pub(super) fn new(
        to: Folder,
        files: &[PlannedFile],
        manifest: &[u8],
        stop: Arc<AtomicBool>,
        report: impl FnMut(f64) + Send + 'static,
    ) -> Copier {
        Copier {
            to,
            planned: files.iter().map(|file| (file.path.clone(), file.clone())).collect(),
            manifest: manifest.to_owned(),
            current: None,
            folders: BTreeSet::new(),
            stop,
            done_bytes: 0,
            // Each file counts as one more byte, so that empty files make progress too.
            total_bytes: files.iter().map(|file| file.size + 1).sum(),
            report: Box::new(report),
            reported_at: Instant::now(),
        }
    }

    /// Starts a file.
    ///
    /// # Errors
    /// When it differs from the plan, or cannot be created.
    pub(super) fn begin(&mut self, found: PlannedFile) -> Result<(), String> {
        self.end_file()?;
        if self.planned.remove(&found.path).as_ref() != Some(&found) {
            return Err(changed(&found.path));
        }
        let created = self.create_file(&found);
        let file = created.map_err(|error| format!("{:?}: cannot be copied: {error}", found.path))?;
        self.current = Some(Current { path: found.path, file, written: 0, size: found.size });
        Ok(())
    }

    /// Writes the next bytes of the current file.
    ///
    /// # Errors
    /// When they differ from the plan, when they cannot be written, or once `stop` is set.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), String> {
        if self.stop.load(Ordering::Relaxed) {
            return Err("a request that was cancelled".to_owned());
        }
        let Some(current) = &mut self.current else { return Ok(()) };
        let from = current.written;
        current.written += data.len() as u64;
        if current.written > current.size
            || current.path == MANIFEST_NAME && !has_at(&self.manifest, from, data)
        {
            return Err(changed(&current.path));
        }
        let written = current.file.write_all(data);
        written.map_err(|error| format!("{:?}: cannot be copied: {error}", current.path))?;
        self.done_bytes += data.len() as u64;
        if self.reported_at.elapsed() >= PROGRESS_INTERVAL {
            self.reported_at = Instant::now();
            (self.report)(self.done_bytes as f64 / self.total_bytes.max(1) as f64);
        }
        Ok(())
    }

    /// Ends the copy. All files and folders are synced to the disk.
    ///
    /// # Errors
    /// When a file is missing, or the disk fails.
    pub(super) fn finish(mut self) -> Result<(), String> {
        self.end_file()?;
        if let Some(path) = self.planned.keys().next() {
            return Err(changed(path));
        }
        // Inner folders first.
        let inner = self.folders.iter().rev();
        let mut synced = inner.map(|folder| self.to.descend(&parts(folder))?.sync());
        let synced = synced.try_for_each(|synced| synced).and_then(|()| self.to.sync());
        synced.map_err(|error| format!("files that cannot be copied: {error}"))
    }

    fn end_file(&mut self) -> Result<(), String> {
        let Some(current) = self.current.take() else { return Ok(()) };
        if current.written != current.size {
            return Err(changed(&current.path));
        }
        self.done_bytes += 1;
        let synced = current.file.sync_all();
        synced.map_err(|error| format!("{:?}: cannot be copied: {error}", current.path))
    }

    fn create_file(&mut self, file: &PlannedFile) -> io::Result<File> {
        let (folders, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        self.folders.extend(
            file.path.match_indices('/').filter_map(|(end, _)| file.path.get(..end).map(str::to_owned)),
        );
        self.to.descend(&parts(folders))?.create_file(name, file.executable)
    }
}

/// Splits the path of a folder; the artifact's own folder has no parts.
fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

fn changed(path: &str) -> String {
    format!("{path:?}: a file that changed while it was copied")
}

/// Whether `content` has `data` at this offset.
fn has_at(content: &[u8], from: u64, data: &[u8]) -> bool {
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    content.get(from..).is_some_and(|rest| rest.starts_with(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &[u8] = b"{}";

    /// Copies these files, where a manifest and a file of three bytes are planned.
    fn copied(files: &[(&str, u64, bool, &[u8])], stop: bool) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let planned = [("a/b", 3, true), (MANIFEST_NAME, 2, false)]
            .map(|(path, size, executable)| PlannedFile { path: path.to_owned(), size, executable });
        let stop = Arc::new(AtomicBool::new(stop));
        let to = Folder::open(folder.path()).unwrap();
        let mut copier = Copier::new(to, &planned, MANIFEST, stop, |_| {});
        for (path, size, executable, content) in files {
            copier.begin(PlannedFile { path: (*path).to_owned(), size: *size, executable: *executable })?;
            for byte in *content {
                copier.write(&[*byte])?;
            }
        }
        copier.finish()?;
        assert_eq!(std::fs::read(folder.path().join("a/b")).unwrap(), b"abc");
        Ok(())
    }

    #[test]
    fn a_source_that_changes_while_it_is_copied_is_refused() {
        let (manifest, file) = ((MANIFEST_NAME, 2, false, MANIFEST), ("a/b", 3, true, &b"abc"[..]));
        assert_eq!(copied(&[manifest, file], false), Ok(()));
        assert_eq!(copied(&[file, manifest], false), Ok(()));
        assert_eq!(copied(&[file, manifest], true), Err("a request that was cancelled".to_owned()));
        for (name, files) in [
            ("a file is missing", &[manifest][..]),
            ("another file", &[manifest, file, ("c", 1, false, b"x")]),
            ("a file twice", &[manifest, file, file]),
            ("another size", &[manifest, ("a/b", 4, true, b"abcd")]),
            ("another mode", &[manifest, ("a/b", 3, false, b"abc")]),
            ("fewer bytes", &[manifest, ("a/b", 3, true, b"ab")]),
            ("more bytes", &[manifest, ("a/b", 3, true, b"abcd")]),
            ("another manifest", &[(MANIFEST_NAME, 2, false, b"[]"), file]),
        ] {
            let problem = copied(files, false).unwrap_err();
            assert!(problem.ends_with("a file that changed while it was copied"), "{name}: {problem}");
        }
    }
}
