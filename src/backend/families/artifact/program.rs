//! Where the program of an artifact is on this system.

use std::path::{Path, PathBuf};

use crate::backend::shared::validate::wrong;
use crate::protocol::error::WireError;

use super::manifest::{Program, SEARCH_PATH};

/// Checks that a program exists on this system. One of the artifact's own files is not checked here.
///
/// # Errors
/// When it does not exist or is not executable.
pub(super) fn check_system_program(program: &Program) -> Result<(), WireError> {
    match (program, locate(program, Path::new("/"))) {
        (Program::Own(_), _) | (_, Some(_)) => Ok(()),
        (Program::Absolute(name) | Program::Named(name), None) => {
            let expected = format!("an existing program, by its path or its name in {SEARCH_PATH}");
            Err(wrong("manifest.command[0]", &expected, name))
        }
    }
}

/// Returns the file of a program; `None` if it does not exist or is not executable.
pub(super) fn locate(program: &Program, folder: &Path) -> Option<PathBuf> {
    let found = |path: PathBuf| is_program(&path).then_some(path);
    match program {
        Program::Absolute(path) => found(PathBuf::from(path)),
        Program::Own(path) => found(folder.join(path)),
        Program::Named(name) => SEARCH_PATH.split(':').find_map(|folder| found(Path::new(folder).join(name))),
    }
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}
