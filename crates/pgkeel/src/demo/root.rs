//! The directory of a local cluster: made, and removed whatever happens.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A directory that cannot be emptied within this time stays.
const REMOVE_LIMIT: Duration = Duration::from_secs(5);
/// Between two attempts.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// A directory that is this process's to fill and to remove; removed when dropped.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    made: Made,
}

/// Who made the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// We: it goes with its content.
    Here,
    /// Somebody else: only its content goes.
    Before,
    /// Nothing is left to do.
    Removed,
}

impl Root {
    /// Takes `wanted`, which must be empty or not exist yet; `None`: a new directory for temporary files.
    ///
    /// # Errors
    /// When it holds something, or cannot be made.
    pub fn make(wanted: Option<&Path>) -> Result<Root> {
        match wanted {
            Some(path) => Root::take(path),
            None => Root::temporary(),
        }
    }

    /// Its absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with everything in it, or only what is in it when it was there before.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(mut self) -> Result<()> {
        self.clear().with_context(|| format!("{} cannot be removed; remove it by hand", self.path.display()))
    }

    /// Leaves it as it is, for a person to look at.
    pub fn leave(mut self) {
        self.made = Made::Removed;
    }

    fn take(path: &Path) -> Result<Root> {
        let unusable = || format!("{} cannot be used", path.display());
        let made = match fs::read_dir(path).map(Iterator::count) {
            Ok(0) => Made::Before,
            Ok(_) => {
                bail!("{} is not empty; name a directory that is, or that does not exist yet", path.display())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::create_dir_all(path).with_context(unusable)?;
                Made::Here
            }
            Err(error) => return Err(error).with_context(unusable),
        };
        let path = path.canonicalize().with_context(unusable)?;
        Root { path, made }.open_to_all()
    }

    fn temporary() -> Result<Root> {
        // Root's own TMPDIR may be closed to the server's user.
        let parent =
            if rustix::process::geteuid().is_root() { PathBuf::from("/tmp") } else { std::env::temp_dir() };
        let parent = parent.canonicalize().with_context(|| format!("{} cannot be used", parent.display()))?;
        for number in 0..1_000 {
            let path = parent.join(format!("pgkeel-demo-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Root { path, made: Made::Here }.open_to_all(),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("{} cannot be made", path.display()));
                }
            }
        }
        bail!("{} is full of old directories pgkeel-demo-*; remove them", parent.display())
    }

    /// The server may run as another user, who must be able to pass.
    fn open_to_all(self) -> Result<Root> {
        let opened = fs::set_permissions(&self.path, Permissions::from_mode(0o755));
        opened.with_context(|| format!("{} cannot be opened to the server's user", self.path.display()))?;
        Ok(self)
    }

    /// A process that is on its way out may still make a file or two: such a directory is tried again.
    fn clear(&mut self) -> std::io::Result<()> {
        let began = Instant::now();
        loop {
            match self.clear_once() {
                Err(error) if began.elapsed() > REMOVE_LIMIT => return Err(error),
                Err(_) if self.path.exists() => std::thread::sleep(TRY_AGAIN),
                Ok(()) | Err(_) => {
                    self.made = Made::Removed;
                    return Ok(());
                }
            }
        }
    }

    fn clear_once(&self) -> std::io::Result<()> {
        match self.made {
            Made::Here => fs::remove_dir_all(&self.path),
            Made::Before => fs::read_dir(&self.path)?.try_for_each(|entry| {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())
                } else {
                    fs::remove_file(entry.path())
                }
            }),
            Made::Removed => Ok(()),
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_removed_and_nothing_else() {
        let temporary = Root::make(None).unwrap();
        let base = temporary.path().to_owned();
        assert_eq!(fs::metadata(&base).unwrap().permissions().mode() & 0o777, 0o755);

        let here = Root::make(Some(&base.join("new/deep"))).unwrap();
        fs::write(here.path().join("file"), "x").unwrap();
        here.remove().unwrap();
        assert!(!base.join("new/deep").exists());

        let before = Root::make(Some(&base.join("new"))).unwrap();
        fs::create_dir(before.path().join("n1")).unwrap();
        fs::write(before.path().join("n1.log"), "x").unwrap();
        drop(before);
        assert_eq!(fs::read_dir(base.join("new")).unwrap().count(), 0);

        fs::write(base.join("new/precious"), "x").unwrap();
        assert!(Root::make(Some(&base.join("new"))).unwrap_err().to_string().contains("not empty"));
        assert!(base.join("new/precious").exists());
        drop(temporary);
        assert!(!base.exists());
    }
}
