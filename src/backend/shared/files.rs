//! Files and folders that only the current user can access, and names of files that survive a crash.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

/// Removes the rights of other users, if they have any.
#[cfg(unix)]
pub(crate) fn close_to_others(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if fs::metadata(path)?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Does nothing: there is no mode to set.
#[cfg(not(unix))]
pub(crate) fn close_to_others(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

/// Restricts a new file to the current user (0600).
#[cfg(unix)]
pub(crate) fn restrict(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600);
}

/// Does nothing: there is no mode to set.
#[cfg(not(unix))]
pub(crate) fn restrict(_: &mut OpenOptions) {}

/// Syncs a folder, so that the names in it survive a crash.
#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// Does nothing: folders cannot be synced.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Returns a builder of folders that only the current user can access (0700).
#[cfg(unix)]
pub(crate) fn private_folder() -> fs::DirBuilder {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// Returns a builder of folders.
#[cfg(not(unix))]
pub(crate) fn private_folder() -> fs::DirBuilder {
    fs::DirBuilder::new()
}
