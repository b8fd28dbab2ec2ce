//! Copies of data: why a node is copied anew, from whom, when a person may ask for it, and how far a copy is.

use crate::basics::{Lsn, NodeName};
use crate::observe::Server;
use crate::state::{Degrade, Phase, Replication, State};
use crate::status::{NodeStatus, Role, Status};
use crate::step::Local;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A standby that is further behind is no source: the copy would have to catch up by so much.
const LAG_BYTES_MAX: u64 = 64 << 20;

/// Why a node is copied anew. What it had is set aside, never deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "because")]
pub enum CloneCause {
    /// It has no data.
    NoData,
    /// A copy or a rewind was cut short.
    CutShort,
    /// Its data does not descend from what the primary has, or it is not known any more whether it does.
    Unrelated,
    /// It went another way after the fork, and was rewound for this epoch already.
    RewoundInVain,
    /// It needs WAL that its upstream has removed: it can never stream from it again.
    CutOff {
        /// The first position that it lacks.
        needs: Lsn,
        /// Who does not have it any more.
        upstream: NodeName,
    },
    /// A person asked for it.
    Ordered {
        /// Who.
        by: String,
        /// From which node; none: from whichever serves best.
        from: Option<NodeName>,
    },
}

impl fmt::Display for CloneCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloneCause::NoData => f.write_str("it had no data"),
            CloneCause::CutShort => f.write_str("a copy or a rewind of it was cut short"),
            CloneCause::Unrelated => f.write_str("its data does not descend from what the primary has"),
            CloneCause::RewoundInVain => f.write_str("it had diverged and was rewound in vain"),
            CloneCause::CutOff { needs, upstream } => {
                write!(f, "it needs WAL from {needs} on, which {upstream} has removed")
            }
            CloneCause::Ordered { by, .. } => write!(f, "asked for by {by}"),
        }
    }
}

/// Whether copied data has all that this node may have confirmed as a standby before it was copied.
///
/// A copy that was made from a standby has what that standby had: less, perhaps, than what the node had flushed and
/// confirmed before its own data was lost. All of that is on the primary, so it is here again once this node has flushed
/// what the primary had at some moment after the copy; `primary_lsn` is what the primary of the present epoch answered since
/// this server was started. Until then the node's seal does not count (`decide::failover`).
#[must_use]
pub fn caught_up(state: &State, local: &Local, primary_lsn: Option<Lsn>) -> bool {
    let (Server::Standby(standby), Some(primary)) = (&local.server, state.primary()) else { return false };
    let follows = local.following.as_ref() == Some(&(state.epoch, primary.clone()));
    let streams = standby.streaming && standby.upstream.as_ref() == Some(primary);
    follows && streams && primary_lsn.is_some_and(|lsn| standby.lsn >= lsn)
}

/// How far a copy or a rewind is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyProgress {
    /// From whom.
    pub from: NodeName,
    /// What has come.
    pub done_bytes: u64,
    /// What will come, as far as the source can tell; 0: not known yet.
    pub total_bytes: u64,
}

impl CopyProgress {
    /// How much of a hundred.
    #[must_use]
    pub fn percent(&self) -> u64 {
        (self.done_bytes.saturating_mul(100)).checked_div(self.total_bytes).unwrap_or(0).min(100)
    }
}

impl fmt::Display for CopyProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, total) = (Bytes(self.done_bytes), Bytes(self.total_bytes));
        write!(f, "{} %, {done} of {total} from {}", self.percent(), self.from)
    }
}

/// A number of bytes, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["kB", "MB", "GB", "TB"];
        let mut value = self.0 as f64 / 1000.0;
        if self.0 < 1000 {
            return write!(f, "{} B", self.0);
        }
        let mut unit = units[0];
        for next in &units[1..] {
            if value >= 1000.0 {
                (value, unit) = (value / 1000.0, next);
            }
        }
        write!(f, "{value:.1} {unit}")
    }
}

/// Why a node is no source of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotSource {
    /// It is no standby that streams from the present primary.
    NotStreaming {
        /// What it is instead.
        state: String,
    },
    /// Too far behind.
    Behind {
        /// By so many bytes.
        bytes: u64,
    },
    /// A copy from it was tried just now.
    Failed,
}

impl fmt::Display for NotSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotSource::NotStreaming { state } => write!(f, "is {state}"),
            NotSource::Behind { bytes } => write!(f, "is {} behind", Bytes(*bytes)),
            NotSource::Failed => f.write_str("failed just now"),
        }
    }
}

/// From whom a copy is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: NodeName,
    /// Why.
    pub why: ChosenBecause,
}

/// Why a source was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChosenBecause {
    /// A person named it.
    Named,
    /// The least busy standby: so many copies are made from it already, and so far is it behind.
    Standby {
        /// Copies under way.
        copies: usize,
        /// Lag.
        lag_bytes: u64,
    },
    /// The primary: none of the standbys will do.
    OnlyPrimary {
        /// Why not each of them.
        not: BTreeMap<NodeName, NotSource>,
    },
    /// The primary: nobody says how the standbys are.
    NotKnown,
}

impl fmt::Display for ChosenBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChosenBecause::Named => f.write_str("named by a person"),
            ChosenBecause::Standby { copies, lag_bytes } => {
                write!(f, "the least busy standby ({copies} other copies, {} behind)", Bytes(*lag_bytes))
            }
            ChosenBecause::OnlyPrimary { not } if not.is_empty() => {
                f.write_str("the primary; no other has data")
            }
            ChosenBecause::OnlyPrimary { not } => {
                f.write_str("the primary")?;
                not.iter().try_for_each(|(node, why)| write!(f, "; {node} {why}"))
            }
            ChosenBecause::NotKnown => {
                f.write_str("the primary; the leader does not say how the standbys are")
            }
        }
    }
}

fn fit(status: &Status, node: &NodeStatus, failed: &BTreeSet<NodeName>) -> Result<u64, NotSource> {
    let primary = status.nodes.iter().find(|n| Some(&n.node) == status.primary.as_ref());
    let streams = node.role == Role::Standby
        && node.state == "streaming"
        && node.epoch == Some(status.epoch)
        && primary.is_some_and(|p| p.timeline.is_some() && p.timeline == node.timeline);
    if !streams {
        return Err(NotSource::NotStreaming { state: node.state.clone() });
    }
    match node.lag_bytes {
        _ if failed.contains(&node.node) => Err(NotSource::Failed),
        Some(bytes) if bytes <= LAG_BYTES_MAX => Ok(bytes),
        lag => Err(NotSource::Behind { bytes: lag.unwrap_or(u64::MAX) }),
    }
}

/// From whom `me` is copied: the node that a person named if it will do, else the least busy standby of the present
/// primary (fewest copies, then one that confirms no commits, then the nearest), else the primary.
#[must_use]
pub fn choose(
    status: &Status,
    me: &NodeName,
    primary: &NodeName,
    named: Option<&NodeName>,
    failed: &BTreeSet<NodeName>,
) -> Choice {
    let others =
        || status.nodes.iter().filter(|n| n.node != *me && n.node != *primary && n.postgres.is_some());
    let copies = |of: &NodeName| {
        let running = status.nodes.iter().filter(|n| n.node != *me).filter_map(|n| n.copying.as_ref());
        running.filter(|c| c.from == *of).count()
    };
    let named_fits = named.filter(|name| {
        *name == primary || others().any(|n| n.node == **name && fit(status, n, failed).is_ok())
    });
    if let Some(name) = named_fits {
        return Choice { node: name.clone(), why: ChosenBecause::Named };
    }
    let fits =
        others().filter_map(|n| fit(status, n, failed).ok().map(|lag| (copies(&n.node), n.sync, lag, n)));
    if let Some((copies, _, lag_bytes, node)) =
        fits.min_by_key(|(c, sync, lag, n)| (*c, *sync, *lag, &n.node))
    {
        return Choice { node: node.node.clone(), why: ChosenBecause::Standby { copies, lag_bytes } };
    }
    let not = others().filter_map(|n| fit(status, n, failed).err().map(|e| (n.node.clone(), e))).collect();
    Choice { node: primary.clone(), why: ChosenBecause::OnlyPrimary { not } }
}

/// Why a person's order to copy a node anew is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is the primary.
    Primary {
        /// The node.
        node: NodeName,
    },
    /// There is no primary: what the node has may be all there is.
    NoPrimary,
    /// Too few would be left to confirm commits while it is copied.
    CommitsWouldWait {
        /// So many of the others stream.
        left: usize,
        /// So many must confirm.
        k: usize,
    },
    /// The node that was named will not do.
    Source {
        /// Its name.
        node: NodeName,
        /// Why not.
        why: String,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Primary { node } => {
                write!(f, "{node} is the primary; change it first: pgkeel switchover, then ask again")
            }
            Refused::NoPrimary => f.write_str(
                "there is no primary at this moment, so what the node has may be needed; ask again when there is one",
            ),
            Refused::CommitsWouldWait { left, k } => write!(
                f,
                "commits would wait while it is copied: {k} standbys must confirm each, and {left} others stream; \
                 bring another standby back first"
            ),
            Refused::Source { node, why } => {
                write!(f, "a copy cannot be made from {node}: it {why}; leave --from out, and the best is taken")
            }
        }
    }
}

/// Whether a person may have `node` copied anew, perhaps from the node `from`.
///
/// # Errors
/// Why not.
pub fn permit(
    state: &State,
    status: &Status,
    node: &NodeName,
    from: Option<&NodeName>,
) -> Result<(), Refused> {
    if state.primary() == Some(node) {
        return Err(Refused::Primary { node: node.clone() });
    }
    let (Phase::Serving { .. }, Some(primary)) = (&state.phase, state.primary()) else {
        return Err(Refused::NoPrimary);
    };
    let others = status.nodes.iter().filter(|n| n.node != *node && n.sync && n.state == "streaming").count();
    if let Some(Replication::Quorum { k, degrade: Degrade::Strict }) =
        state.settings.as_ref().map(|s| s.replication)
        && others < k
    {
        return Err(Refused::CommitsWouldWait { left: others, k });
    }
    let Some(from) = from.filter(|from| *from != primary) else { return Ok(()) };
    let unfit = |why: String| Err(Refused::Source { node: from.clone(), why });
    match status.nodes.iter().find(|n| n.node == *from) {
        _ if from == node => unfit("is the node that is to be copied".to_owned()),
        None => unfit("is no node of this cluster".to_owned()),
        Some(source) => match fit(status, source, &BTreeSet::new()) {
            Ok(_) => Ok(()),
            Err(not) => unfit(not.to_string()),
        },
    }
}

#[cfg(test)]
mod tests;
