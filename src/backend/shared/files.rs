//! Files and folders for the current user alone, and folders that survive a crash.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

#[cfg(unix)]
pub(crate) fn close_to_others(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if fs::metadata(path)?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
pub(crate) fn close_to_others(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

/// Has a file made for this user alone.
#[cfg(unix)]
pub(crate) fn restrict(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600);
}

/// Has a file made for this user alone.
#[cfg(not(unix))]
pub(crate) fn restrict(_: &mut OpenOptions) {}

/// Has the names in a folder survive a crash.
#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Has the names in a folder survive a crash.
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
