//! What only a person may decide, and what a person must be told before: what a forced failover would lose, why one is
//! refused, and the reasons that a person's word leaves in the history.
//!
//! An acceptance is of exactly one situation: its [`Loss::token`] is made from everything in the [`Loss`] that was shown.
//! If another node seals, or more becomes known of the last primary, the token is another one and the old is refused.

use crate::basics::{Epoch, Lsn, Millis, NodeName};
use crate::quorum;
use crate::reason::Position;
use crate::state::SyncSet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What would be lost if a node became primary now, as far as anybody knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The open epoch.
    pub epoch: Epoch,
    /// The node that is to be primary.
    pub to: NodeName,
    /// Where it is sealed.
    pub at: Position,
    /// The last primary.
    pub last: Option<NodeName>,
    /// The furthest position that anybody heard of it.
    pub known: Option<Lsn>,
    /// Sealed nodes that hold more, and where.
    pub ahead: BTreeMap<NodeName, Position>,
    /// Nodes with data that have not sealed: what they hold is not known.
    pub unsealed: BTreeSet<NodeName>,
    /// By which rule it may not be done without a person's word.
    pub rule: LossRule,
}

/// Why nothing automatic may choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "mode")]
pub enum LossRule {
    /// More than this would be lost.
    Async {
        /// Bound on what an automatic failover may lose, in bytes of WAL.
        max_loss_bytes: u64,
    },
    /// Too few of a sync set are sealed.
    Quorum {
        /// The sets that are not covered.
        uncovered: Vec<SyncSet>,
    },
}

impl Loss {
    /// Bytes of WAL that are known to be missing; `None`: nothing was heard of the last primary's position.
    #[must_use]
    pub fn missing_bytes(&self) -> Option<u64> {
        let held = self.ahead.values().map(|p| p.lsn);
        self.known.into_iter().chain(held).max().map(|lsn| lsn.bytes_after(self.at.lsn))
    }

    /// What a person writes to accept exactly this loss.
    #[must_use]
    pub fn token(&self) -> String {
        let amount = match (self.missing_bytes(), &self.rule) {
            (Some(0), LossRule::Quorum { .. }) => "commits".to_owned(),
            (Some(bytes), _) => format!("{bytes}-bytes"),
            (None, _) => "unknown".to_owned(),
        };
        let last = self.last.as_ref().map_or("nobody", NodeName::as_str);
        format!("{amount}-of-{last}-{:08x}", checksum(&format!("{self:?}")))
    }
}

/// FNV-1a, folded to 32 bits: it tells two situations apart, it keeps no secret.
fn checksum(text: &str) -> u32 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    let hash = text.bytes().fold(0xCBF2_9CE4_8422_2325, step);
    u32::try_from((hash >> 32) ^ (hash & 0xFFFF_FFFF)).unwrap_or(0)
}

/// Why a person's order is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Objection {
    /// There is no database, or it is being made.
    NoDatabase,
    /// A primary serves.
    Serves {
        /// It.
        primary: NodeName,
        /// The node that was asked for.
        to: NodeName,
    },
    /// The primary may serve; whether it does is found out without anybody's help.
    MayServe {
        /// It.
        primary: NodeName,
        /// What is known.
        known: String,
        /// It takes at most so long.
        within_ms: Millis,
    },
    /// Nothing automatic stands in the way.
    NotNeeded {
        /// The node that was asked for.
        to: NodeName,
    },
    /// The lease of the old primary is not surely over.
    LeaseRuns {
        /// The old primary.
        node: NodeName,
        /// So long.
        left_ms: Millis,
    },
    /// Nodes that run have not sealed yet: the best may be one of them.
    SealsCome {
        /// They.
        missing: BTreeSet<NodeName>,
        /// They are waited for so long at most.
        left_ms: Millis,
    },
    /// It has not sealed in this epoch.
    NotSealed {
        /// The node.
        node: NodeName,
        /// What is known of it.
        seen: String,
    },
    /// Its data is not of the cluster's line.
    OtherLine {
        /// The node.
        node: NodeName,
        /// Where it stands.
        at: Position,
    },
    /// A loss that was not accepted.
    WouldLose {
        /// What.
        loss: Box<Loss>,
        /// What to write to accept it.
        token: String,
    },
    /// What was accepted is not what would be lost now.
    Stale {
        /// What was given.
        given: String,
    },
    /// A primary that was left without a lease may still run, and nobody hears it.
    Unleased {
        /// It.
        node: NodeName,
        /// The node that was asked for.
        to: NodeName,
    },
    /// The person vouches for a node of which that is not needed, or that was heard to run.
    Vouched {
        /// The node that is said to be stopped.
        node: NodeName,
        /// What is known of it.
        seen: String,
    },
    /// It is under maintenance.
    Maintained {
        /// The node.
        node: NodeName,
    },
    /// It is not under maintenance.
    NotMaintained {
        /// The node.
        node: NodeName,
    },
    /// The primary cannot be maintained.
    MaintainsPrimary {
        /// It.
        node: NodeName,
    },
    /// Commits would wait.
    TooFewConfirm {
        /// The node.
        node: NodeName,
        /// How many others could confirm.
        left: usize,
        /// As many as must.
        k: usize,
    },
}

/// What a person's word did, or what waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "word")]
pub enum Word {
    /// A person chose the next primary and accepted a loss.
    Forced {
        /// Who, from where.
        by: String,
        /// What was given as acceptance.
        token: String,
        /// What that meant.
        loss: Box<Loss>,
    },
    /// A person gave up a primary that does not serve.
    GivenUp {
        /// The primary.
        node: NodeName,
        /// Who, from where.
        by: String,
        /// Whether the person vouches that its server does not run.
        stopped: bool,
    },
    /// The primary of a pause runs under a lease again, or not at all.
    LeasedAgain {
        /// It.
        node: NodeName,
    },
    /// A primary that was left without a lease has not been heard since.
    WaitLeased {
        /// It.
        node: NodeName,
    },
    /// A node is left alone.
    MaintenanceBegun {
        /// It.
        node: NodeName,
        /// Who, from where.
        by: String,
        /// Why.
        text: Option<String>,
    },
    /// It is not any more.
    MaintenanceEnded {
        /// It.
        node: NodeName,
        /// Who, from where.
        by: String,
    },
}

fn names(set: &BTreeSet<NodeName>) -> String {
    set.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} stands at {}", self.to, self.at)?;
        for (node, at) in &self.ahead {
            let more = at.lsn.bytes_after(self.at.lsn);
            write!(f, "; {node} is sealed with {more} bytes more, at {at}: it would lose less")?;
        }
        let last = self.last.as_ref().map_or("the last primary", NodeName::as_str);
        match self.known.map(|known| (known, known.bytes_after(self.at.lsn))) {
            Some((known, bytes)) => write!(
                f,
                "; {last}, the last primary, was heard of up to {known}: {bytes} bytes of WAL that {} lacks",
                self.to
            )?,
            None => write!(f, "; how far {last}, the last primary, had come is not known")?,
        }
        match &self.rule {
            LossRule::Async { max_loss_bytes } => write!(
                f,
                "; at most {max_loss_bytes} bytes may be lost unasked (max_loss); what it acknowledged after it was last heard is lost too"
            )?,
            LossRule::Quorum { uncovered } => {
                for set in uncovered {
                    self.said_uncovered(f, set, last)?;
                }
            }
        }
        if self.unsealed.is_empty() {
            return Ok(());
        }
        write!(f, "; not sealed, so what they hold is not known: {}", names(&self.unsealed))
    }
}

impl Loss {
    fn said_uncovered(&self, f: &mut fmt::Formatter<'_>, set: &SyncSet, last: &str) -> fmt::Result {
        if set.is_open() {
            return write!(
                f,
                "; commits were not waiting for standbys (degrade = available): what {last} acknowledged after {} last \
                 received WAL is lost",
                self.to
            );
        }
        let open: BTreeSet<NodeName> = set.members.intersection(&self.unsealed).cloned().collect();
        let unsealed = if open.is_empty() {
            "none, but of those that have too few fit".to_owned()
        } else {
            names(&open)
        };
        write!(
            f,
            "; commits acknowledged after {} last received WAL may be lost: any {} of {{{}}} confirmed each, and {} of them \
             would have to seal to be sure of all (not sealed: {unsealed})",
            self.to,
            set.k,
            names(&set.members),
            quorum::needed(set),
        )
    }
}

fn seconds(ms: Millis) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::NoDatabase => {
                f.write_str("there is no database yet, so there is nothing to fail over")
            }
            Objection::Serves { primary, to } => {
                write!(f, "{primary} is primary and serves; change it in order: pgkeel switchover --to {to}")
            }
            Objection::MayServe { primary, known, within_ms } => write!(
                f,
                "{primary} may still serve ({known}); wait: within {} it is heard again, replaced, or its lease is over",
                seconds(*within_ms)
            ),
            Objection::NotNeeded { to } => write!(
                f,
                "nobody's word is needed: the cluster chooses its primary by itself at this moment; see pgkeel status, and \
                 then pgkeel switchover --to {to} if it is another one"
            ),
            Objection::LeaseRuns { node, left_ms } => write!(
                f,
                "the lease of {node} is not surely over, it may still acknowledge commits; try again in {}",
                seconds(*left_ms)
            ),
            Objection::SealsCome { missing, left_ms } => write!(
                f,
                "{} run and have not sealed yet, one of them may lose less; try again in {}",
                names(missing),
                seconds(*left_ms)
            ),
            Objection::NotSealed { node, seen } => write!(
                f,
                "{node} has not sealed in this epoch ({seen}): it may not be promoted; start its host, agent and server, \
                 or choose a node that pgkeel status shows as sealed"
            ),
            Objection::OtherLine { node, at } => write!(
                f,
                "{node} stands at {at}, on WAL that is not of this cluster's history; choose another node"
            ),
            Objection::WouldLose { loss, token } => {
                write!(f, "{loss}; to accept this loss: --accept-loss {token}")
            }
            Objection::Stale { given } => {
                write!(
                    f,
                    "{given} was accepted, but the situation is another one now; read what would be lost"
                )
            }
            Objection::Vouched { node, seen } => {
                write!(f, "--stopped {node} is not taken: {seen}; leave it out")
            }
            Objection::Unleased { .. }
            | Objection::Maintained { .. }
            | Objection::NotMaintained { .. }
            | Objection::MaintainsPrimary { .. }
            | Objection::TooFewConfirm { .. } => self.said_upkeep(f),
        }
    }
}

impl Objection {
    fn said_upkeep(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::Unleased { node, to } => write!(
                f,
                "{node} was left without a lease in a pause and nobody hears it: it may still acknowledge commits. Make \
                 sure that its server is stopped (power its host off), then vouch for it: pgkeel failover --to {to} \
                 --stopped {node}"
            ),
            Objection::Maintained { node } => {
                write!(
                    f,
                    "{node} is under maintenance; pgkeel maintenance off {node} first, or choose another node"
                )
            }
            Objection::NotMaintained { node } => write!(f, "{node} is not under maintenance"),
            Objection::MaintainsPrimary { node } => {
                write!(f, "{node} is primary, or about to be; pgkeel switchover first, then maintain it")
            }
            Objection::TooFewConfirm { node, left, k } => write!(
                f,
                "without {node} only {left} standbys could confirm commits, and {k} must: from the moment its server \
                 stops commits wait, or with degrade = available fewer nodes have them; bring another standby back first, \
                 or add --yes"
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Forced { by, token, loss } => {
                write!(f, "failover to {} forced by {by}, who accepted {token}: {loss}", loss.to)
            }
            Word::GivenUp { node, by, stopped: false } => {
                write!(f, "{node} is primary and does not serve: given up by {by}")
            }
            Word::GivenUp { node, by, stopped: true } => {
                write!(f, "{node} given up by {by}, who vouches that its server does not run")
            }
            Word::LeasedAgain { node } => {
                write!(f, "{node} runs under a lease again, or not at all: failover is possible")
            }
            Word::WaitLeased { node } => write!(
                f,
                "no failover: {node} was left without a lease in a pause and has not been heard since, so it may still \
                 take writes; bring it back, or stop its host and then: pgkeel failover --to NODE --stopped {node}"
            ),
            Word::MaintenanceBegun { node, by, text } => {
                write!(f, "{node} is under maintenance, asked for by {by}")?;
                text.as_ref().map_or(Ok(()), |text| write!(f, ": {text}"))
            }
            Word::MaintenanceEnded { node, by } => write!(f, "maintenance of {node} ended by {by}"),
        }
    }
}
