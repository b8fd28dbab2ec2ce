//! The file of the store: one redb database, written by one thread of its own, because a commit blocks until the disk
//! has it. Jobs that wait are committed together.
//!
//! Every value is JSON in an envelope `{"v":1,...}`, so that a later version can tell what it reads.

use super::error::StoreError;
use super::types::{Entry, LogId, SnapshotMeta, Types, Vote};
use super::written;
use cluster::NodeName;
use cluster::state::State;
use openraft::storage::IOFlushed;
use redb::{Database, DatabaseError, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use tokio::sync::oneshot;

const FORMAT: u32 = 1;
/// The file, in the store's directory.
pub(super) const FILE: &str = "store.redb";
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Pages that redb may hold in memory; its own default is 1 GiB.
const CACHE_BYTES: usize = 2 * 1024 * 1024;
/// How long a write that nobody waits for may wait for company.
const LAZY: Duration = Duration::from_millis(20);

/// Key of a value beside the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key {
    Identity,
    Vote,
    Committed,
    Purged,
    Snapshot,
}

impl Key {
    fn text(self) -> &'static str {
        match self {
            Key::Identity => "identity",
            Key::Vote => "vote",
            Key::Committed => "committed",
            Key::Purged => "purged",
            Key::Snapshot => "snapshot",
        }
    }
}

/// One change of the file.
#[derive(Debug)]
pub(super) enum Change {
    Entry(u64, Vec<u8>),
    Set(Key, Vec<u8>),
    /// Drop this entry and all after it.
    TruncateFrom(u64),
    /// Drop all entries up to this one, itself included.
    PurgeUpto(u64),
}

/// Whom to tell when the disk has it.
enum Done {
    Raft(IOFlushed<Types>),
    Caller(oneshot::Sender<io::Result<()>>),
    Nobody,
    /// Tell after the file is closed; the thread ends.
    Closed(oneshot::Sender<io::Result<()>>),
}

impl Done {
    /// The file is closed.
    fn refuse(self) {
        match self {
            Done::Raft(flushed) => flushed.io_completed(Err(stopped())),
            Done::Caller(caller) | Done::Closed(caller) => drop(caller.send(Err(stopped()))),
            Done::Nobody => {}
        }
    }
}

struct Job {
    changes: Vec<Change>,
    done: Done,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u32,
    value: T,
}

/// Who this store belongs to; written once, at its first start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Owner {
    /// Minted at random, never used again for another log.
    pub(super) id: u64,
    pub(super) node: NodeName,
    pub(super) cluster: String,
}

/// A snapshot as kept: what it covers, and the state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) meta: SnapshotMeta,
    pub(super) state: State,
}

/// All that the file held when it was opened.
pub(super) struct Loaded {
    pub(super) owner: Owner,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) snapshot: Option<Kept>,
    pub(super) entries: BTreeMap<u64, Entry>,
}

impl Loaded {
    /// Whether anything was ever decided, or begun, in it.
    pub(super) fn is_used(&self) -> bool {
        self.vote.is_some() || !self.entries.is_empty() || self.snapshot.is_some() || self.purged.is_some()
    }
}

/// The writing thread's door.
#[derive(Clone)]
pub(super) struct Disk {
    jobs: Sender<Job>,
}

impl Disk {
    /// Writes `changes` and returns when the disk has them.
    pub(super) async fn write(&self, changes: Vec<Change>) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        self.send(changes, Done::Caller(tx))?;
        rx.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Writes `changes` and tells the consensus library when the disk has them.
    pub(super) fn append(&self, changes: Vec<Change>, flushed: IOFlushed<Types>) -> io::Result<()> {
        self.send(changes, Done::Raft(flushed))
    }

    /// Writes `changes` soon; a crash may forget them.
    pub(super) fn note(&self, changes: Vec<Change>) -> io::Result<()> {
        self.send(changes, Done::Nobody)
    }

    /// Writes what waits, closes the file and gives up its lock.
    pub(super) async fn close(&self) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        self.send(Vec::new(), Done::Closed(tx))?;
        rx.await.unwrap_or_else(|_| Err(stopped()))
    }

    fn send(&self, changes: Vec<Change>, done: Done) -> io::Result<()> {
        self.jobs.send(Job { changes, done }).map_err(|_| stopped())
    }
}

fn stopped() -> io::Error {
    io::Error::other("the store's file is closed")
}

/// The bytes of a value, with the version tag.
pub(super) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    serde_json::to_vec(&Versioned { v: FORMAT, value }).map_err(io::Error::other)
}

/// Opens the store in `dir`, which is made if need be; a new one belongs to `node` of `cluster` from now on.
///
/// # Errors
/// [`StoreError`]: locked, unreadable, damaged, written by a later version, or of another node.
pub(super) fn open(dir: &Path, cluster: &str, node: &NodeName) -> Result<(Disk, Loaded), StoreError> {
    let path = dir.join(FILE);
    let failed = |doing, why: String| StoreError::Disk { path: path.clone(), doing, why };
    std::fs::create_dir_all(dir).map_err(|e| failed("made", e.to_string()))?;
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let db = builder.create(&path).map_err(|e| match e {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Locked { dir: dir.to_owned() },
        DatabaseError::Storage(e) if is_damage(&e) => {
            StoreError::Damaged { path: path.clone(), what: e.to_string() }
        }
        e => failed("opened", e.to_string()),
    })?;
    // The new file's name must survive a crash like its content.
    std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(|e| failed("synced", e.to_string()))?;
    let loaded = match load(&db, &path)? {
        Some(loaded) => loaded,
        None => found(&db, cluster, node).map_err(|e| failed("written", e.to_string()))?,
    };
    let owner = &loaded.owner;
    if owner.node != *node || owner.cluster != cluster {
        return Err(StoreError::OtherDirectory {
            dir: dir.to_owned(),
            had_node: owner.node.clone(),
            had_cluster: owner.cluster.clone(),
            node: node.clone(),
            cluster: cluster.to_owned(),
        });
    }
    let (jobs, waiting) = channel();
    std::thread::Builder::new()
        .name("store".into())
        .spawn(move || run(db, waiting))
        .map_err(|e| failed("served by a thread", e.to_string()))?;
    Ok((Disk { jobs }, loaded))
}

/// Whether the content of the file is at fault, not the access to it.
fn is_damage(e: &redb::StorageError) -> bool {
    match e {
        redb::StorageError::Corrupted(_) => true,
        redb::StorageError::Io(e) => e.kind() == io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// Makes the tables and mints the id.
fn found(db: &Database, cluster: &str, node: &NodeName) -> Result<Loaded, redb::Error> {
    // 53 bits, so that every reader of JSON keeps them all.
    let random = uuid::Uuid::new_v4().as_u128() as u64;
    let id = (random >> 11).max(1);
    let owner = Owner { id, node: node.clone(), cluster: cluster.to_owned() };
    let value = encode(&owner)?;
    commit(db, &[Change::Set(Key::Identity, value)])?;
    Ok(Loaded { owner, vote: None, committed: None, purged: None, snapshot: None, entries: BTreeMap::new() })
}

/// Reads everything; `None` when the file is new.
fn load(db: &Database, path: &Path) -> Result<Option<Loaded>, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
    let read = |e: redb::Error| damaged(e.to_string());
    let tx = redb::ReadableDatabase::begin_read(db).map_err(|e| read(e.into()))?;
    let meta = match tx.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(e) => return Err(read(e.into())),
    };
    let owner = read_value(&meta, Key::Identity, path)?
        .ok_or_else(|| damaged("it does not say whose it is".into()))?;
    let mut entries = BTreeMap::new();
    let log = tx.open_table(LOG).map_err(|e| read(e.into()))?;
    for row in log.iter().map_err(|e| read(e.into()))? {
        let (index, bytes) = row.map_err(|e| read(e.into()))?;
        let index = index.value();
        if entries.last_key_value().is_some_and(|(last, _)| last + 1 != index) {
            return Err(damaged(format!("the log has a hole before entry {index}")));
        }
        let entry: Entry = decode(bytes.value(), &format!("log entry {index}"), path)?;
        entries.insert(index, entry);
    }
    Ok(Some(Loaded {
        owner,
        vote: read_value(&meta, Key::Vote, path)?,
        committed: read_value(&meta, Key::Committed, path)?,
        purged: read_value(&meta, Key::Purged, path)?,
        snapshot: read_value(&meta, Key::Snapshot, path)?,
        entries,
    }))
}

fn read_value<T: DeserializeOwned>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: Key,
    path: &Path,
) -> Result<Option<T>, StoreError> {
    let bytes = meta
        .get(key.text())
        .map_err(|e| StoreError::Damaged { path: path.to_owned(), what: format!("{}: {e}", key.text()) })?;
    bytes.map(|bytes| decode(bytes.value(), key.text(), path)).transpose()
}

fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str, path: &Path) -> Result<T, StoreError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let damaged =
        |e: serde_json::Error| StoreError::Damaged { path: path.to_owned(), what: format!("{what}: {e}") };
    let Version { v } = serde_json::from_slice(bytes).map_err(damaged)?;
    if v != FORMAT {
        return Err(StoreError::NewerFormat { path: path.to_owned(), found: v, known: FORMAT });
    }
    serde_json::from_slice::<Versioned<T>>(bytes).map(|versioned| versioned.value).map_err(damaged)
}

/// Whether this program reads a state that another one has written by [`sample`].
pub(super) fn read_state(bytes: &[u8]) -> Result<State, StoreError> {
    let (what, path) = ("the recorded state", Path::new(FILE));
    let value: serde_json::Value = decode(bytes, what, path)?;
    let damaged = |e| StoreError::Damaged { path: path.to_owned(), what: format!("{what}: {e}") };
    written::decode(value.to_string().as_bytes()).map_err(damaged)
}

/// The recorded state for another program, which is to say whether it could read it.
pub(super) fn sample(state: &State) -> io::Result<Vec<u8>> {
    let value: serde_json::Value = serde_json::from_slice(&written::encode(state)?)?;
    encode(&value)
}

/// The writing thread. Ends when told to close, or when nobody is left who could ask.
fn run(db: Database, waiting: Receiver<Job>) {
    while let Some(batch) = next_batch(&waiting) {
        let mut changes = Vec::new();
        let mut told = Vec::new();
        for job in batch {
            changes.extend(job.changes);
            told.push(job.done);
        }
        let outcome =
            if changes.is_empty() { Ok(()) } else { commit(&db, &changes).map_err(|e| e.to_string()) };
        let mut closing = None;
        for done in told {
            let result = outcome.clone().map_err(io::Error::other);
            match done {
                Done::Raft(flushed) => flushed.io_completed(result),
                Done::Caller(caller) => drop(caller.send(result)),
                Done::Nobody => {}
                Done::Closed(caller) => closing = Some((caller, result)),
            }
        }
        if let Some((caller, result)) = closing {
            drop(db);
            // Before anybody is told: what is sent afterwards must fail, and what was sent meanwhile must not be lost without an answer.
            waiting.try_iter().for_each(|job| job.done.refuse());
            drop(waiting);
            drop(caller.send(result));
            return;
        }
    }
}

/// All jobs that wait. A batch that nobody waits for is held back for a moment, so that it costs no commit of its own
/// when others follow.
fn next_batch(waiting: &Receiver<Job>) -> Option<Vec<Job>> {
    let mut batch = vec![waiting.recv().ok()?];
    loop {
        batch.extend(waiting.try_iter());
        if batch.iter().any(|job| !matches!(job.done, Done::Nobody)) {
            return Some(batch);
        }
        match waiting.recv_timeout(LAZY) {
            Ok(job) => batch.push(job),
            Err(RecvTimeoutError::Timeout) => return Some(batch),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// One transaction, on the disk when this returns. In two phases: that costs a second flush (here 0.3 ms of 1.4), and
/// leaves nothing to be pieced together from checksums after a crash.
fn commit(db: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let mut tx = db.begin_write()?;
    tx.set_two_phase_commit(true);
    {
        let mut log = tx.open_table(LOG)?;
        let mut meta = tx.open_table(META)?;
        for change in changes {
            match change {
                Change::Entry(index, bytes) => drop(log.insert(index, bytes.as_slice())?),
                Change::Set(key, bytes) => drop(meta.insert(key.text(), bytes.as_slice())?),
                Change::TruncateFrom(index) => log.retain_in(*index.., |_, _| false)?,
                Change::PurgeUpto(index) => log.retain_in(..=*index, |_, _| false)?,
            }
        }
    }
    tx.commit()?;
    Ok(())
}

/// Shared so that a snapshot is read and replaced as one.
pub(super) type SharedSnapshot = Arc<std::sync::Mutex<Option<(SnapshotMeta, Arc<State>)>>>;
