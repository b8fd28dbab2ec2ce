//! What keeps a node from doing its part, or from becoming primary.

use super::cure::Cure;
use crate::basics::{Epoch, Millis, Moment, NodeName};
use crate::decide::switchover::BEHIND_MAX;
use crate::handover::Hindrance;
use crate::lineage;
use crate::observe::{DataDir, Heard, Observation, Observations, Server, Standby};
use crate::reason::Position;
use crate::state::{Phase, Replication, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Silence after which a node counts as silent while no setting is recorded.
const SILENT_DEFAULT_MS: Millis = 1500;

/// One thing that speaks against a node, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "bar")]
pub enum Bar {
    /// It only votes.
    Witness,
    /// Its configuration forbids it to be primary.
    NeverPrimary,
    /// Somebody looks after it by hand.
    Maintained {
        /// Who asked for it.
        by: String,
        /// Why, in that person's words.
        text: Option<String>,
    },
    /// It is leaving the cluster.
    Leaves {
        /// Who asked for it.
        by: String,
    },
    /// The leader has had no heartbeat of it.
    NeverHeard {
        /// Since it leads.
        leading_ms: Millis,
    },
    /// Its agent is silent.
    Silent {
        /// For so long.
        silent_ms: Millis,
        /// What it did last.
        last: String,
    },
    /// It has no data.
    NoData {
        /// What it does.
        doing: String,
    },
    /// Its data belongs to another database system.
    ForeignData {
        /// What it has.
        mine: u64,
        /// What the cluster has.
        cluster: Option<u64>,
    },
    /// Its server does not run as a standby.
    Server {
        /// What it is instead.
        is: String,
        /// What its agent does.
        doing: String,
    },
    /// It has not seen the present epoch.
    OldEpoch {
        /// The epoch it has seen.
        seen: Epoch,
        /// The present one.
        present: Epoch,
    },
    /// It does not follow the primary.
    NotFollowing {
        /// What it does.
        doing: String,
    },
    /// It follows, and its WAL receiver does not stream.
    NotStreaming {
        /// What it does.
        doing: String,
    },
    /// An epoch is open and it has not sealed.
    NotSealed {
        /// What it does.
        doing: String,
    },
    /// Its data is not known to descend from the last primary.
    OtherLine {
        /// Where it stands.
        at: Position,
    },
    /// It has much to replay.
    Behind {
        /// Bytes received and not replayed.
        bytes: u64,
        /// Age of what it replays.
        lag_ms: Option<Millis>,
    },
    /// Its configuration forbids it to confirm commits.
    NeverSync,
    /// It does not confirm commits now.
    NotInSyncSet {
        /// Who does.
        set: BTreeSet<NodeName>,
    },
    /// Something in its server.
    Hindered {
        /// What.
        by: Hindrance,
    },
    /// Its agent reports a problem.
    Problem {
        /// In its words.
        said: String,
    },
}

impl Bar {
    /// Whether it keeps the node from becoming primary, or only speaks against it.
    #[must_use]
    pub fn stops(&self) -> bool {
        match self {
            Bar::Witness
            | Bar::NeverPrimary
            | Bar::Maintained { .. }
            | Bar::Leaves { .. }
            | Bar::NeverHeard { .. }
            | Bar::Silent { .. }
            | Bar::NoData { .. }
            | Bar::ForeignData { .. }
            | Bar::Server { .. }
            | Bar::OldEpoch { .. }
            | Bar::NotFollowing { .. }
            | Bar::NotSealed { .. }
            | Bar::OtherLine { .. } => true,
            Bar::NotStreaming { .. }
            | Bar::Behind { .. }
            | Bar::NeverSync
            | Bar::NotInSyncSet { .. }
            | Bar::Hindered { .. }
            | Bar::Problem { .. } => false,
        }
    }

    /// What would cure it; `None`: its own sentence says it, or nothing needs to be done.
    #[must_use]
    pub fn cure(&self, node: &NodeName) -> Option<Cure> {
        let own = || node.clone();
        match self {
            Bar::NeverPrimary => Some(Cure::Untag { node: own(), key: "never_primary".to_owned() }),
            Bar::Maintained { .. } => Some(Cure::EndMaintenance { node: own() }),
            Bar::NeverHeard { .. } | Bar::Silent { .. } => {
                Some(Cure::Agents { nodes: BTreeSet::from([own()]) })
            }
            Bar::ForeignData { .. } => Some(Cure::MoveData { node: own() }),
            Bar::Server { .. } | Bar::NotStreaming { .. } | Bar::Problem { .. } => {
                Some(Cure::Logs { node: own() })
            }
            Bar::NoData { .. }
            | Bar::OldEpoch { .. }
            | Bar::NotFollowing { .. }
            | Bar::NotSealed { .. }
            | Bar::OtherLine { .. }
            | Bar::Behind { .. } => Some(Cure::Passes { in_ms: None }),
            Bar::Witness
            | Bar::Leaves { .. }
            | Bar::NeverSync
            | Bar::NotInSyncSet { .. }
            | Bar::Hindered { .. } => None,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bar::Witness => f.write_str("it is a witness: it votes and holds no data"),
            Bar::NeverPrimary => f.write_str("it has never_primary in its configuration"),
            Bar::Maintained { by, text: None } => write!(f, "it is under maintenance, asked for by {by}"),
            Bar::Maintained { by, text: Some(text) } => {
                write!(f, "it is under maintenance, asked for by {by}: {text}")
            }
            Bar::Leaves { by } => write!(f, "it is leaving the cluster, asked for by {by}"),
            Bar::NeverHeard { leading_ms } => {
                write!(f, "its agent has not been heard by this leader, which leads for {leading_ms} ms")
            }
            Bar::Silent { silent_ms, last } => {
                write!(f, "its agent is silent since {:.1} s (last: {last})", *silent_ms as f64 / 1000.0)
            }
            Bar::NoData { doing } => write!(f, "it has no data yet ({doing})"),
            Bar::ForeignData { mine, cluster: Some(cluster) } => {
                write!(f, "its data belongs to system identifier {mine}, this cluster is {cluster}")
            }
            Bar::ForeignData { mine, cluster: None } => {
                write!(f, "it has data (system identifier {mine}) that this new cluster does not know")
            }
            Bar::Server { is, doing } => write!(f, "its server {is} ({doing})"),
            Bar::OldEpoch { seen, present } => {
                write!(f, "it has seen epoch {seen} only, the present one is {present}")
            }
            Bar::NotFollowing { doing } => write!(f, "it does not follow the primary ({doing})"),
            Bar::NotStreaming { doing } => write!(f, "it follows the primary and does not stream ({doing})"),
            Bar::NotSealed { doing } => write!(f, "it has not sealed ({doing})"),
            Bar::OtherLine { at } => {
                write!(f, "its data stands at {at}, which is not known to descend from the last primary; it rejoins when there is one")
            }
            Bar::Behind { bytes, lag_ms: Some(ms) } => write!(
                f,
                "it has {bytes} bytes of WAL still to replay, the oldest {:.1} s old: it would have to before it takes writes",
                *ms as f64 / 1000.0
            ),
            Bar::Behind { bytes, lag_ms: None } => {
                write!(f, "it has {bytes} bytes of WAL still to replay: it would have to before it takes writes")
            }
            Bar::NeverSync => f.write_str(
                "it has never_sync in its configuration and confirms no commits: it is chosen only if it has as much as those \
                 that do",
            ),
            Bar::NotInSyncSet { set } => {
                let set: Vec<&str> = set.iter().map(NodeName::as_str).collect();
                write!(
                    f,
                    "it is not in the sync set ({}): it is chosen only if it has as much as those that are",
                    set.join(", ")
                )
            }
            Bar::Hindered { by } => by.fmt(f),
            Bar::Problem { said } => write!(f, "its agent says: {said}"),
        }
    }
}

/// What keeps a node from doing its part, as the leader last heard; empty when all is well with it.
#[must_use]
pub fn plight(state: &State, seen: &Observations, node: &NodeName, now: Moment) -> Vec<Bar> {
    // What its server does then is somebody's own business.
    if let Some(maintenance) = state.maintenance.get(node) {
        return vec![Bar::Maintained { by: maintenance.by.clone(), text: maintenance.text.clone() }];
    }
    if let Some(leaving) = state.leaving.get(node) {
        return vec![Bar::Leaves { by: leaving.by.clone() }];
    }
    let silent_after = state.settings.as_ref().map_or(SILENT_DEFAULT_MS, |s| s.detect_ms);
    let Some(Heard { at, observation: o }) = seen.nodes.get(node) else {
        return vec![Bar::NeverHeard { leading_ms: now.since(seen.leading_since) }];
    };
    let silent_ms = now.since(*at);
    if silent_ms >= silent_after {
        return vec![Bar::Silent { silent_ms, last: o.doing.clone() }];
    }
    let mut found: Vec<Bar> = own(state, o).into_iter().collect();
    found.extend(o.problem.iter().map(|said| Bar::Problem { said: said.clone() }));
    found.extend(o.hindrances.iter().map(|by| Bar::Hindered { by: by.clone() }));
    found
}

fn own(state: &State, o: &Observation) -> Option<Bar> {
    let doing = || o.doing.clone();
    match o.data {
        DataDir::Witness => return None,
        DataDir::Absent => return Some(Bar::NoData { doing: doing() }),
        DataDir::Present { system_identifier: mine } if state.system_identifier != Some(mine) => {
            return Some(Bar::ForeignData { mine, cluster: state.system_identifier });
        }
        DataDir::Present { .. } | DataDir::Unknown => {}
    }
    let server = |is: &str| Some(Bar::Server { is: is.to_owned(), doing: doing() });
    match &o.server {
        Server::Unknown => server("was not looked at yet"),
        Server::Stopped => server("is stopped"),
        Server::Starting => server("starts"),
        Server::Unresponsive { silent_ms } => server(&format!("has answered nothing for {silent_ms} ms")),
        Server::Primary { .. } if state.lease_holder() == Some(&o.node) => None,
        Server::Primary { .. } => server("runs as a primary that was replaced"),
        Server::Standby(standby) => standing(state, o, standby),
    }
}

fn standing(state: &State, o: &Observation, standby: &Standby) -> Option<Bar> {
    let doing = || o.doing.clone();
    if o.epoch != state.epoch {
        return Some(Bar::OldEpoch { seen: o.epoch, present: state.epoch });
    }
    if let Phase::Sealing { .. } = state.phase {
        let Some(seal) = o.seal.as_ref().filter(|s| s.epoch == state.epoch) else {
            return Some(Bar::NotSealed { doing: doing() });
        };
        let at = Position { timeline: seal.timeline, lsn: seal.lsn };
        let fits = lineage::eligible(state, seal.line.as_deref(), seal.lsn);
        return (!fits).then_some(Bar::OtherLine { at });
    }
    if state.primary() == Some(&o.node) {
        return None;
    }
    let follows = standby.upstream.is_some() && standby.upstream.as_ref() == state.primary();
    let bytes = standby.lsn.bytes_after(standby.replay_lsn);
    if !follows {
        Some(Bar::NotFollowing { doing: doing() })
    } else if !standby.streaming {
        Some(Bar::NotStreaming { doing: doing() })
    } else if o.wal_silent_ms.is_none() {
        Some(Bar::NotFollowing { doing: "it has not noted yet that it follows".to_owned() })
    } else {
        (bytes > BEHIND_MAX).then_some(Bar::Behind { bytes, lag_ms: standby.replay_lag_ms })
    }
}

/// What its configuration and the sync set say against it as the next primary.
pub(super) fn role(state: &State, node: &NodeName) -> Vec<Bar> {
    let Some(member) = state.members.get(node) else { return Vec::new() };
    if member.postgres.is_none() {
        return vec![Bar::Witness];
    }
    let mut found = Vec::new();
    if member.tags.never_primary {
        found.push(Bar::NeverPrimary);
    }
    let quorum = state.settings.as_ref().is_some_and(|s| matches!(s.replication, Replication::Quorum { .. }));
    if quorum && member.tags.never_sync {
        found.push(Bar::NeverSync);
    } else if quorum
        && !member.tags.never_primary
        && !state.sync.contains(node)
        && state.primary() != Some(node)
    {
        let members = state.sync.in_force.iter().flat_map(|set| &set.members);
        found.push(Bar::NotInSyncSet { set: members.cloned().collect() });
    }
    found
}
