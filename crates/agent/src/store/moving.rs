//! Where this node's agent finds the record after it has moved ([`cluster::moving`]), and how a new store begins.
//!
//! Every store after the first has a directory of its own, named by the number of the move, so no file of one is ever taken for
//! that of another. The file [`FILE`] beside them says which one counts; it is on the disk before that store is used, and
//! comes before the configuration file.
//!
//! # Why the record begins once in each store, and always with the same
//!
//! 1. *What it begins with* is worked out from the sealed record alone, which nobody can change any more.
//! 2. *In the agents*: each of them writes the same beginning, a snapshot that covers the first entry of Raft's log, into a
//!    file that was given its number before the move, for this store ([`super::embedded`]). A number that is not among the voters
//!    votes nowhere, and a majority of these files is needed for anything. A node that is let in later finds no first
//!    entry to be sent, only the snapshot.
//! 3. *In an etcd*: whoever comes first writes it, on condition that there is none (`etcd/begin.rs`). Between two stores in
//!    an etcd there is one in the agents, which decides nothing unless a majority of them has gone on to it. So before an agent writes
//!    the beginning, a majority of the nodes has to say that they know of no later store: one that was away for two moves, and finds an
//!    etcd that was emptied after the second, does not begin it anew. Nor does one while another agent says that it has begun, or knows
//!    a later revision. All use the etcd that was judged, whatever their configuration files say, and take for the record there only what
//!    goes on from that beginning.
//!
//! # Why no lease outlives what a later leader waits for
//!
//! A leader that is to seal the record grants nothing from before it proposes that ([`super::Store::propose`], until the outcome
//! is known; while it is not, another one is to lead). So every lease of the old store counts from a round that was sent before the record was sealed; that is
//! before the new store began, and before anybody led it. Whoever leads the old store after that one has read the seal before
//! it leads, and a sealed record grants nothing (`cluster::lease`). The leader of the new store waits, like every new leader, for
//! `lease × (1 + 2 × drift)` from when it leads. That is all it needs, and the primary need not be told: it serves on under the lease
//! that it has, and whoever leads the new store renews that. When no one does in time, its guard ends it.
//!
//! # Who was away
//!
//! Raft's leader stays for a moment after the seal ([`LINGER_SHARE`]), so that the others hear of it. Who was away finds the seal in
//! etcd, or is led by nobody, or leads nobody: then it asks the others ([`crate::store::elsewhere`]) and is told by one that has gone on.

use super::error::StoreError;
use super::options::{Endpoint, EtcdOptions, EtcdUser, StoreKind};
use crate::http::tls::TlsFiles;
use crate::postgres::files;
use cluster::NodeName;
use cluster::moving::{Access, Home};
use cluster::state::State;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;
/// The file, in the agent's directory for stores.
pub(crate) const FILE: &str = "home.json";
/// The leader of a store in the agents is there for this part of `detect` after the seal: more than two of its heartbeats.
pub(crate) const LINGER_SHARE: u32 = 5;

/// A store that the record has moved to, and what it began with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    pub(crate) v: u32,
    /// The number of the move.
    pub number: u64,
    /// Where.
    pub to: Home,
    /// The record as it began there.
    pub state: State,
    /// It has surely begun: an etcd without it has lost it.
    pub begun: bool,
}

impl Opening {
    /// Of a record that is sealed.
    #[must_use]
    pub fn of(sealed: &State) -> Option<Opening> {
        let (moved, state) = (sealed.moved.as_ref()?, sealed.moved_on()?);
        // Each agent has its own number already; in an etcd somebody has to write it.
        let begun = matches!(moved.to, Home::Embedded { .. });
        Some(Opening { v: FORMAT, number: moved.number, to: moved.to.clone(), state, begun })
    }

    /// In some etcd.
    #[cfg(test)]
    pub(crate) fn for_test(state: State) -> Opening {
        let none = || None;
        let (endpoints, prefix) = (vec!["http://127.0.0.1:1".to_owned()], "/p/".to_owned());
        let (ca, cert, key, user) = (none(), none(), none(), none());
        let access = Access { endpoints, prefix, ca, cert, key, user, password_file: None };
        Opening { v: FORMAT, number: state.moves, to: Home::Etcd { access }, state, begun: false }
    }

    /// Whether this node may believe it of another one: it must fit together, and be about this node's cluster.
    pub(crate) fn fits(&self, cluster: &str, me: &NodeName) -> bool {
        let whole = self.v == FORMAT && self.state.moves == self.number && self.state.moved.is_none();
        let mine = match &self.to {
            Home::Embedded { voters } => voters.contains_key(me),
            Home::Etcd { .. } => self.state.has_seat(me),
        };
        let good = cluster::moving::unfit(&self.state, &self.to).is_none();
        whole && good && mine && self.state.cluster == cluster && self.number > 0
    }

    /// How it is reached: as was judged before the move. Only which files that needs may come from the configuration file, while that
    /// names the same etcd: no agent may go on in another one than the rest.
    pub(crate) fn kind(&self, configured: &StoreKind) -> Result<StoreKind, StoreError> {
        let Home::Etcd { access } = &self.to else { return Ok(StoreKind::Embedded) };
        let judged = options(access)?;
        match configured {
            StoreKind::Etcd(mine) if is_same(mine, &judged) => Ok(configured.clone()),
            StoreKind::Etcd(_) | StoreKind::Embedded => Ok(StoreKind::Etcd(judged)),
        }
    }

    /// What the configuration file should say instead, if it says something else.
    #[must_use]
    pub fn differs(&self, configured: &StoreKind) -> Option<String> {
        let (number, home) = (self.number, &self.to);
        let what = match (home, configured) {
            (Home::Embedded { .. }, StoreKind::Embedded) => return None,
            (Home::Etcd { access }, StoreKind::Etcd(mine))
                if options(access).is_ok_and(|judged| is_same(mine, &judged)) =>
            {
                return None;
            }
            (Home::Embedded { .. }, StoreKind::Etcd(_)) => "remove the section [store]".to_owned(),
            (Home::Etcd { access }, _) => format!("write {}", section(access)),
        };
        Some(format!(
            "the record of the cluster is kept {home} since move {number}, whatever this file says; {what}"
        ))
    }
}

/// Whether both mean the same keys in the same etcd, for the same user. They may name other files.
fn is_same(mine: &EtcdOptions, judged: &EtcdOptions) -> bool {
    let endpoints = |options: &EtcdOptions| -> BTreeSet<(bool, String)> {
        options.endpoints.iter().map(|endpoint| (endpoint.secure, endpoint.address.clone())).collect()
    };
    let user = |options: &EtcdOptions| options.user.as_ref().map(|user| user.name.clone());
    mine.prefix == judged.prefix && user(mine) == user(judged) && endpoints(mine) == endpoints(judged)
}

/// The section of a configuration file, in one line.
#[must_use]
pub fn section(access: &Access) -> String {
    let urls: Vec<String> = access.endpoints.iter().map(|url| format!("{url:?}")).collect();
    let mut text = format!("[store] etcd = [{}], prefix = {:?}", urls.join(", "), access.prefix);
    let others = [
        ("ca", &access.ca),
        ("cert", &access.cert),
        ("key", &access.key),
        ("user", &access.user),
        ("password_file", &access.password_file),
    ];
    for (key, value) in others {
        if let Some(value) = value {
            text += &format!(", {key} = {value:?}");
        }
    }
    text
}

/// What an etcd is asked with. The texts were checked where they were given.
///
/// # Errors
/// [`StoreError::Home`]: they make no sense.
pub(crate) fn options(access: &Access) -> Result<EtcdOptions, StoreError> {
    let wrong = |what: &str| StoreError::Home(format!("{what} of the etcd that the record is to be kept in"));
    let endpoints = access.endpoints.iter().map(|url| {
        let (secure, address) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(address), _) => (false, address),
            (None, Some(address)) => (true, address),
            (None, None) => return Err(wrong("an address begins neither with http:// nor with https://:")),
        };
        let plain = address.contains(':') && address.chars().all(|c| c.is_ascii_graphic() && c != '/');
        if !plain {
            return Err(wrong("an address is not host:port:"));
        }
        Ok(Endpoint { address: address.to_owned(), secure })
    });
    let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
    let prefix = &access.prefix;
    if !(prefix.len() > 1 && prefix.starts_with('/') && prefix.ends_with('/')) {
        return Err(wrong("the prefix does not begin and end with a slash:"));
    }
    let path = |text: &String| PathBuf::from(text);
    let own = access.cert.as_ref().zip(access.key.as_ref()).map(|(cert, key)| (path(cert), path(key)));
    let tls = match &access.ca {
        Some(ca) => Some(TlsFiles { ca: path(ca), own }),
        None if endpoints.iter().any(|endpoint| endpoint.secure) => {
            return Err(wrong("no file with the authorities (ca) is named:"));
        }
        None => None,
    };
    let user = access.user.as_ref().zip(access.password_file.as_ref());
    let user = user.map(|(name, file)| EtcdUser { name: name.clone(), password_file: path(file) });
    Ok(EtcdOptions { endpoints, prefix: prefix.clone(), tls, user })
}

/// The directory of the store with this number; 0: that of the first one.
pub(crate) fn dir(stores: &Path, number: u64) -> PathBuf {
    if number == 0 { stores.to_owned() } else { stores.join(number.to_string()) }
}

/// What this node remembers; `None`: the record has not moved since it knows it.
///
/// # Errors
/// [`StoreError`]: it cannot be read. Without it the node does not know where the record is.
pub fn recall(stores: &Path) -> Result<Option<Opening>, StoreError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let path = stores.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::Disk { path, doing: "read", why: e.to_string() }),
    };
    let damaged = |e: serde_json::Error| StoreError::Damaged { path: path.clone(), what: e.to_string() };
    let Version { v } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if v != FORMAT {
        return Err(StoreError::NewerFormat { path, found: v, known: FORMAT });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Remembers it; on the disk when this returns.
///
/// # Errors
/// [`StoreError`]: it cannot be written, or it says that the record was here before.
pub(crate) fn remember(stores: &Path, opening: &Opening) -> Result<(), StoreError> {
    if let Some(known) = recall(stores)?
        && known.number > opening.number
    {
        let (known, told) = (known.number, opening.number);
        return Err(StoreError::Home(format!(
            "this node knows of move {known}, and is to go back to {told}"
        )));
    }
    let wrong = |why: String| StoreError::Disk { path: stores.join(FILE), doing: "written", why };
    std::fs::create_dir_all(dir(stores, opening.number)).map_err(|e| wrong(e.to_string()))?;
    let bytes = serde_json::to_vec(opening).map_err(|e| wrong(e.to_string()))?;
    files::replace(&stores.join(FILE), bytes, None).map_err(|e| wrong(e.to_string()))
}

/// Prepares the file of a store in the agents with this number, and says under which number this node would vote there.
///
/// # Errors
/// [`StoreError`]: it cannot be made, or is in use.
pub(crate) async fn prepare(
    stores: &Path,
    number: u64,
    cluster: &str,
    node: &NodeName,
) -> Result<u64, StoreError> {
    let (dir, cluster, node) = (dir(stores, number), cluster.to_owned(), node.clone());
    let kept = dir.clone();
    let opened = tokio::task::spawn_blocking(move || super::disk::open(&dir, &cluster, &node)).await;
    let (disk, loaded) = opened.map_err(|e| StoreError::Gone(e.to_string()))??;
    let closed = disk.close().await;
    closed.map_err(|e| StoreError::Gone(e.to_string()))?;
    // The name of its directory too: what is told now is relied on.
    let kept = tokio::task::spawn_blocking(move || files::sync_parent(&kept)).await;
    kept.map_err(|e| StoreError::Gone(e.to_string()))?.map_err(|e| StoreError::Home(e.to_string()))?;
    if loaded.is_used() {
        return Err(StoreError::Home(format!("{} has been used already", dir_text(stores, number))));
    }
    Ok(loaded.owner.id)
}

fn dir_text(stores: &Path, number: u64) -> String {
    dir(stores, number).display().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cluster::state::{Appointment, Member, Phase};

    fn access() -> Access {
        let none = || None;
        Access {
            endpoints: vec!["http://h:2379".into()],
            prefix: "/p/".into(),
            ca: none(),
            cert: none(),
            key: none(),
            user: none(),
            password_file: none(),
        }
    }

    fn opening(number: u64) -> Opening {
        let member = Member { agent: "a:1".into(), postgres: None, tags: Default::default(), data_dir: None };
        let appointment = Appointment {
            node: "n1".parse().unwrap(),
            promotion_id: "p".into(),
            sealed_timeline: 1,
            sealed_lsn: cluster::Lsn(0),
            parent: None,
        };
        let state = State {
            cluster: "c".into(),
            members: [("n1".parse().unwrap(), member)].into(),
            phase: Phase::Serving { appointment },
            moves: number,
            ..State::default()
        };
        Opening { v: FORMAT, number, to: Home::Etcd { access: access() }, state, begun: false }
    }

    #[test]
    fn what_is_remembered_survives_and_never_goes_back() {
        let dir = std::env::temp_dir().join(format!("pgkeel-moving-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&dir));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(recall(&dir).unwrap(), None);
        remember(&dir, &opening(2)).unwrap();
        assert_eq!(recall(&dir).unwrap(), Some(opening(2)));
        assert!(matches!(remember(&dir, &opening(1)), Err(StoreError::Home(_))));
        let begun = Opening { begun: true, ..opening(2) };
        remember(&dir, &begun).unwrap();
        assert_eq!(recall(&dir).unwrap(), Some(begun));
        std::fs::write(dir.join(FILE), br#"{"v":7}"#).unwrap();
        assert!(matches!(recall(&dir), Err(StoreError::NewerFormat { .. })));
        std::fs::write(dir.join(FILE), b"nonsense").unwrap();
        assert!(matches!(recall(&dir), Err(StoreError::Damaged { .. })));
        drop(std::fs::remove_dir_all(dir));
    }

    #[test]
    fn what_others_tell_has_to_fit() {
        let (n1, n9): (NodeName, NodeName) = ("n1".parse().unwrap(), "n9".parse().unwrap());
        assert!(opening(2).fits("c", &n1));
        assert!(!opening(2).fits("d", &n1), "another cluster");
        assert!(!opening(2).fits("c", &n9), "no node of it");
        let mut other = opening(2);
        other.state.moves = 1;
        assert!(!other.fits("c", &n1), "another number than that of its record");
        let mut other = opening(2);
        other.to = Home::Embedded { voters: Default::default() };
        assert!(!other.fits("c", &n1), "this node would not vote");
        assert!(!opening(0).fits("c", &n1), "no move at all");
    }

    #[test]
    fn the_file_says_which_files_and_never_which_etcd() {
        let same = EtcdOptions { prefix: "/p/".into(), ..options(&access()).unwrap() };
        let tls = Some(TlsFiles { ca: "/ca".into(), own: None });
        let mine = StoreKind::Etcd(EtcdOptions { tls, ..same.clone() });
        assert_eq!(opening(1).kind(&mine).unwrap(), mine);
        assert_eq!(opening(1).differs(&mine), None);
        let elsewhere = vec![Endpoint { address: "other:1".into(), secure: false }];
        let more = [same.endpoints.clone(), elsewhere.clone()].concat();
        let user = Some(EtcdUser { name: "u".into(), password_file: "/f".into() });
        for other in [
            EtcdOptions { endpoints: elsewhere, ..same.clone() },
            EtcdOptions { endpoints: more, ..same.clone() },
            EtcdOptions { prefix: "/q/".into(), ..same.clone() },
            EtcdOptions { user, ..same.clone() },
        ] {
            let other = StoreKind::Etcd(other);
            assert_eq!(opening(1).kind(&other).unwrap(), StoreKind::Etcd(same.clone()), "not {other}");
            assert!(opening(1).differs(&other).is_some(), "{other}");
        }
        let said = opening(1).differs(&StoreKind::Embedded).unwrap();
        assert!(said.contains("[store] etcd = [\"http://h:2379\"], prefix = \"/p/\""), "{said}");
        let wrong = Access { endpoints: vec!["h:2379".into()], ..access() };
        assert!(matches!(options(&wrong), Err(StoreError::Home(_))));
        let bare = Access { endpoints: vec!["https://h:2379".into()], ..access() };
        assert!(matches!(options(&bare), Err(StoreError::Home(_))), "no authority");
    }
}
