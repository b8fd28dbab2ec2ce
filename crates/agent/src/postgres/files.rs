//! Files and directories that must survive a crash of the host and belong to the server's user.

use super::{PgError, Place};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

/// Replaces `path` by `content`, atomically and durably, readable by its owner only.
///
/// # Errors
/// When any step fails; the old content is then still there.
pub fn replace(path: &Path, content: impl AsRef<[u8]>, owner: Option<(u32, u32)>) -> Result<(), PgError> {
    let fresh = path.with_extension("pgkeel-new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(PgError::file("create", &fresh))?;
    file.write_all(content.as_ref()).map_err(PgError::file("write", &fresh))?;
    if let Some((uid, gid)) = owner {
        chown(&fresh, Some(uid), Some(gid)).map_err(PgError::file("give away", &fresh))?;
    }
    file.sync_all().map_err(PgError::file("flush", &fresh))?;
    fs::rename(&fresh, path).map_err(PgError::file("rename", &fresh))?;
    sync_parent(path)
}

/// Makes a rename or a new entry durable.
///
/// # Errors
/// When the directory cannot be opened or flushed.
pub fn sync_parent(path: &Path) -> Result<(), PgError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let dir = File::open(parent).map_err(PgError::file("open", parent))?;
    dir.sync_all().map_err(PgError::file("flush", parent))
}

/// Renames durably.
///
/// # Errors
/// When the rename or the flush fails.
pub fn rename(from: &Path, to: &Path) -> Result<(), PgError> {
    fs::rename(from, to).map_err(PgError::file("rename", from))?;
    sync_parent(to)
}

/// Removes a directory that may not exist.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove_dir(path: &Path) -> Result<(), PgError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(PgError::file("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Makes a directory that belongs to the server's user.
///
/// # Errors
/// When it cannot be made or given away.
pub fn make_dir(place: &Place, path: &Path, mode: u32) -> Result<(), PgError> {
    fs::create_dir_all(path).map_err(PgError::file("make", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(PgError::file("set the rights of", path))?;
    if let Some(user) = &place.user {
        chown(path, Some(user.uid), Some(user.gid)).map_err(PgError::file("give away", path))?;
    }
    Ok(())
}

impl Place {
    /// User and group that own the server's files; `None`: the agent's own.
    #[must_use]
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.user.as_ref().map(|u| (u.uid, u.gid))
    }
}
