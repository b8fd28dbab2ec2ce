//! What this node keeps of the store on its own disk: its identity, and the state as it knew it last. So an agent that is
//! started while etcd is away knows where it stands, and one that finds an older state in etcd notices.

use super::super::error::StoreError;
use super::super::written;
use crate::postgres::files;
use cluster::NodeName;
use cluster::state::State;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// With a record that has moved, or is sealed, which a program from before moves must not read.
const FORMAT: u32 = 2;
/// Without.
const FIRST: u32 = 1;
/// The file, in the store's directory.
pub(in super::super) const FILE: &str = "etcd.json";
const LOCK: &str = "etcd.lock";

/// What is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    v: u32,
    /// Minted at random: tells this node from another one that has its name.
    pub(super) id: u64,
    node: NodeName,
    cluster: String,
    /// The state that was taken over last.
    pub(super) state: State,
}

/// The file, held against other processes.
pub(super) struct Memory {
    path: PathBuf,
    kept: Mutex<Kept>,
    lock: Mutex<Option<File>>,
}

impl Memory {
    /// Opens the directory; makes it, and the identity, at the first start.
    pub(super) fn open(dir: &Path, cluster: &str, node: &NodeName) -> Result<Memory, StoreError> {
        let disk = |path: &Path, doing: &'static str| {
            let path = path.to_owned();
            move |e: std::io::Error| StoreError::Disk { path, doing, why: e.to_string() }
        };
        std::fs::create_dir_all(dir).map_err(disk(dir, "made"))?;
        let lock_path = dir.join(LOCK);
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(disk(&lock_path, "opened"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| StoreError::Locked { dir: dir.to_owned() })?;
        let path = dir.join(FILE);
        let kept = match std::fs::read(&path) {
            Ok(bytes) => read(&path, &bytes)?,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let id = uuid::Uuid::new_v4().as_u64_pair().0;
                Kept {
                    v: FIRST,
                    id,
                    node: node.clone(),
                    cluster: cluster.to_owned(),
                    state: State::default(),
                }
            }
            Err(e) => return Err(disk(&path, "read")(e)),
        };
        if kept.node != *node || kept.cluster != cluster {
            return Err(StoreError::OtherDirectory {
                dir: dir.to_owned(),
                had_node: kept.node,
                had_cluster: kept.cluster,
                node: node.clone(),
                cluster: cluster.to_owned(),
            });
        }
        let memory = Memory { path, kept: Mutex::new(kept), lock: Mutex::new(Some(lock)) };
        memory.write(None)?;
        Ok(memory)
    }

    /// What is known.
    pub(super) fn kept(&self) -> Kept {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the state, if there is a new one.
    pub(super) fn write(&self, state: Option<&State>) -> Result<(), StoreError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = state {
            kept.state = state.clone();
        }
        kept.v = if written::is_for_later(&kept.state) { FORMAT } else { FIRST };
        let wrong = |why: String| StoreError::Disk { path: self.path.clone(), doing: "written", why };
        let bytes = serde_json::to_vec(&*kept).map_err(|e| wrong(e.to_string()))?;
        files::replace(&self.path, bytes, None).map_err(|e| wrong(e.to_string()))
    }

    /// Lets another process have the directory.
    pub(super) fn release(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn read(path: &Path, bytes: &[u8]) -> Result<Kept, StoreError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let damaged = |e: serde_json::Error| StoreError::Damaged { path: path.to_owned(), what: e.to_string() };
    let Version { v } = serde_json::from_slice(bytes).map_err(damaged)?;
    if v > FORMAT {
        return Err(StoreError::NewerFormat { path: path.to_owned(), found: v, known: FORMAT });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Writes every state that comes, the last one if they come quickly.
pub(super) async fn keep(memory: Arc<Memory>, mut states: watch::Receiver<Arc<State>>) {
    while states.changed().await.is_ok() {
        let (state, memory) = (states.borrow_and_update().clone(), memory.clone());
        let written = tokio::task::spawn_blocking(move || memory.write(Some(&state))).await;
        if let Ok(Err(e)) = written {
            tracing::warn!("{e}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_has_one_user_one_owner_and_a_memory() {
        let dir = std::env::temp_dir().join(format!("pgkeel-etcd-memory-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&dir));
        let (n1, n2): (NodeName, NodeName) = ("n1".parse().unwrap(), "n2".parse().unwrap());
        let memory = Memory::open(&dir, "c", &n1).unwrap();
        let id = memory.kept().id;
        assert!(matches!(Memory::open(&dir, "c", &n1), Err(StoreError::Locked { .. })));
        memory.write(Some(&State { revision: 4, ..State::default() })).unwrap();
        memory.release();
        assert!(matches!(Memory::open(&dir, "c", &n2), Err(StoreError::OtherDirectory { .. })));
        let again = Memory::open(&dir, "c", &n1).unwrap();
        assert_eq!((again.kept().id, again.kept().state.revision), (id, 4));
        let has_moved = State { revision: 5, moves: 1, ..State::default() };
        again.write(Some(&has_moved)).unwrap();
        again.release();
        let text = std::fs::read_to_string(dir.join(FILE)).unwrap();
        assert!(text.starts_with("{\"v\":2"), "an older program must not read it: {text}");
        let again = Memory::open(&dir, "c", &n1).unwrap();
        assert_eq!(again.kept().state, has_moved);
        again.release();
        std::fs::write(dir.join(FILE), br#"{"v":3}"#).unwrap();
        assert!(matches!(Memory::open(&dir, "c", &n1), Err(StoreError::NewerFormat { .. })));
        std::fs::write(dir.join(FILE), b"nonsense").unwrap();
        assert!(matches!(Memory::open(&dir, "c", &n1), Err(StoreError::Damaged { .. })));
        drop(std::fs::remove_dir_all(dir));
    }
}
