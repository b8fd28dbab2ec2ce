//! What a node remembers of its data directory, outside of it: a crash in the middle of a copy or a rewind is noticed,
//! and so is a directory that was exchanged by hand.

use crate::postgres::{PgError, files};
use cluster::copy::CloneCause;
use cluster::observe::Lost;
use cluster::step::Unfinished;
use cluster::{Epoch, NodeName};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The remembered facts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The data directory that these facts are about; others do not count.
    pub system_identifier: Option<u64>,
    /// The line of WAL that the data belongs to (see `cluster::lineage`).
    pub line: Option<String>,
    /// The data were there before this node belonged to the cluster, and were taken over.
    #[serde(default)]
    pub adopted: bool,
    /// The primary that the configuration points to, and for which epoch.
    pub following: Option<(Epoch, NodeName)>,
    /// The latest epoch for which this node sealed or promoted.
    #[serde(default)]
    pub promised: Epoch,
    /// The latest epoch for which this node was told to promote.
    #[serde(default)]
    pub promoted_for: Epoch,
    /// The last pause for which the lease is not taken off any more (see `cluster::leash`).
    #[serde(default)]
    pub leased_again: u64,
    /// Work that was begun and not ended.
    pub unfinished: Option<Unfinished>,
    /// The data was rewound or copied and has not been seen consistent since.
    pub inconsistent: bool,
    /// The data was copied and has not caught up since (see `cluster::copy::caught_up`).
    #[serde(default)]
    pub copied: bool,
    /// The file that PostgreSQL never replaces: another one in its place tells that the directory was exchanged by hand.
    #[serde(default)]
    pub control_file: Option<FileId>,
    /// The epoch for which a rewind was done.
    pub rewound_for: Option<Epoch>,
    /// The revision of the state whose sync set the server was last told.
    #[serde(default)]
    pub sync_revision: u64,
    /// The line that the data had been of, when it was found to have been changed behind the node's back.
    #[serde(default)]
    pub strayed: Option<String>,
    /// The version of the cluster-wide configuration in the server's files.
    #[serde(default)]
    pub configured: u64,
    /// The restart for which the server was started last (see `cluster::restart`).
    #[serde(default)]
    pub restarted: Option<String>,
    /// A person wants this node copied anew.
    #[serde(default)]
    pub clone_ordered: Option<CloneCause>,
    /// WAL that was kept because the cluster lost it, until that is recorded in the history.
    #[serde(default)]
    pub lost: Option<Lost>,
}

/// Which file it is on its disk, whatever its name. The number of the disk is not part of it: that may change with a start
/// of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    inode: u64,
    /// When it was made, in nanoseconds since 1970; 0 where the file system does not know.
    born_ns: u64,
}

impl FileId {
    /// Whether the other may be the same file: a system may have learnt only later when files were made.
    #[must_use]
    pub fn may_be(self, other: FileId) -> bool {
        let born_alike = self.born_ns == other.born_ns || self.born_ns == 0 || other.born_ns == 0;
        self.inode == other.inode && born_alike
    }

    /// Of the file at this path.
    ///
    /// # Errors
    /// Those of looking at it.
    pub fn of(path: &Path) -> std::io::Result<FileId> {
        let facts = std::fs::metadata(path)?;
        let born = facts.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let born_ns = born.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0);
        Ok(FileId { inode: std::os::unix::fs::MetadataExt::ino(&facts), born_ns })
    }
}

/// The file that holds them.
#[derive(Debug)]
pub struct Marker {
    path: PathBuf,
    facts: Facts,
}

impl Marker {
    /// Reads the marker of the agent's directory; a missing file means that nothing is known.
    ///
    /// # Errors
    /// When the file cannot be read or makes no sense.
    pub fn open(dir: &Path) -> Result<Marker, PgError> {
        let path = dir.join("node.json");
        let facts = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Facts::default(),
            Err(e) => return Err(PgError::file("read", &path)(e)),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                PgError::Unexpected(format!(
                    "{} is damaged ({e}); remove it: the node is then cloned from the primary",
                    path.display()
                ))
            })?,
        };
        Ok(Marker { path, facts })
    }

    /// The facts.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Changes the facts; on disk when this returns.
    ///
    /// # Errors
    /// When the file cannot be written; the facts are then as before.
    pub fn change(&mut self, change: impl FnOnce(&mut Facts)) -> Result<(), PgError> {
        let mut facts = self.facts.clone();
        change(&mut facts);
        if facts != self.facts {
            let text =
                serde_json::to_string_pretty(&facts).map_err(|e| PgError::Unexpected(e.to_string()))?;
            files::replace(&self.path, &text, None)?;
            self.facts = facts;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_copy_of_a_file_is_another_file() {
        let path =
            |name: &str| std::env::temp_dir().join(format!("pgkeel-file-{name}-{}", std::process::id()));
        std::fs::write(path("a"), "a").unwrap();
        let first = FileId::of(&path("a")).unwrap();
        std::fs::write(path("a"), "written in place").unwrap();
        std::fs::rename(path("a"), path("b")).unwrap();
        assert!(first.may_be(FileId::of(&path("b")).unwrap()));
        assert!(first.may_be(FileId { born_ns: 0, ..first }));
        std::fs::copy(path("b"), path("c")).unwrap();
        assert!(!first.may_be(FileId::of(&path("c")).unwrap()));
        std::fs::remove_file(path("b")).unwrap();
        std::fs::remove_file(path("c")).unwrap();
    }

    #[test]
    fn facts_survive_and_damage_is_named() {
        let dir = std::env::temp_dir().join(format!("pgkeel-marker-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut marker = Marker::open(&dir).unwrap();
        marker.change(|f| f.unfinished = Some(Unfinished::Clone)).unwrap();
        assert_eq!(Marker::open(&dir).unwrap().facts().unfinished, Some(Unfinished::Clone));
        std::fs::write(dir.join("node.json"), "{").unwrap();
        assert!(Marker::open(&dir).unwrap_err().to_string().contains("node.json"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
