//! Restarts of servers, one after the other, as recorded and told. Which node is next, and when, is decided in
//! `decide::restart`.
//!
//! A standby restarts by itself. A primary either hands over first and comes back as a standby, or restarts in place: it
//! stops in order and starts again under the same lease, while proxies hold. Only the latter makes a parameter smaller
//! that standbys must match: a promoted standby goes on with what it has, and it cannot have less than its primary
//! ([`crate::configuration::ORDERED`]).

use crate::basics::{Millis, NodeName};
use crate::handover::Obstacle;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// How a node restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// As the standby it is.
    Standby,
    /// Another node becomes primary first, then it comes back as a standby.
    HandOver,
    /// As the primary it is; proxies hold meanwhile.
    InPlace,
}

/// One restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The node.
    pub node: NodeName,
    /// How.
    pub way: Way,
}

/// Restarts under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Its identity.
    pub id: String,
    /// Who asked for it, from where.
    pub by: String,
    /// Whose turn it is when; a node may have two.
    pub turns: Vec<Turn>,
    /// The present one.
    pub at: usize,
    /// It has begun.
    pub going: bool,
    /// Although too few others may be left to confirm commits.
    #[serde(default)]
    pub insist: bool,
}

impl Restart {
    /// The present turn.
    #[must_use]
    pub fn turn(&self) -> Option<&Turn> {
        self.turns.get(self.at)
    }

    /// The identity of the present turn: a server that was started for it says so.
    #[must_use]
    pub fn token(&self) -> String {
        format!("{}.{}", self.id, self.at)
    }

    /// The token for which a server of `node` counts as restarted when it starts now.
    #[must_use]
    pub fn token_of(&self, node: &NodeName) -> Option<String> {
        self.turn().filter(|turn| self.going && turn.node == *node).map(|_| self.token())
    }
}

/// Why nothing is restarted, or not any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "bar")]
pub enum Bar {
    /// Other restarts are under way.
    Underway {
        /// Their identity.
        id: String,
    },
    /// No server waits for a restart.
    NothingPending,
    /// The node is no standby of the present primary, or not a primary, as it was to be.
    Moved {
        /// The node.
        node: NodeName,
    },
    /// It did not come back in time, or what it needs was not there.
    TooSlow {
        /// The node.
        node: NodeName,
        /// How long it was waited.
        waited_ms: Millis,
    },
    /// The primary did not get through what comes before its restart.
    NotDone {
        /// The node.
        node: NodeName,
    },
    /// Standbys would stop when the primary has more of something than they.
    StandbysFirst {
        /// The primary.
        node: NodeName,
        /// They.
        standbys: BTreeSet<NodeName>,
    },
    /// The standby has not replayed yet what the primary wrote when it restarted: it would start with as much as before of
    /// what was lowered.
    NotReplayed {
        /// The standby.
        node: NodeName,
    },
    /// There is no other node that could be primary meanwhile.
    NobodyElse {
        /// The primary.
        node: NodeName,
    },
}

/// What happens with restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "tale")]
pub enum Tale {
    /// A person asked for them.
    Begun {
        /// Their identity.
        id: String,
        /// Who, from where.
        by: String,
        /// Whose turn it is when.
        turns: Vec<Turn>,
    },
    /// A turn begins.
    Goes {
        /// Whose.
        turn: Turn,
    },
    /// A server runs again, and all is as before.
    Back {
        /// Whose.
        turn: Turn,
    },
    /// All turns are done.
    Ended {
        /// Their identity.
        id: String,
    },
    /// The rest is given up.
    GivenUp {
        /// Their identity.
        id: String,
        /// Why.
        because: Vec<Obstacle>,
    },
    /// A person does not want the rest any more.
    Cancelled {
        /// Their identity.
        id: String,
        /// Who, from where.
        by: String,
    },
    /// The present turn lasts.
    Waits {
        /// Whose.
        turn: Turn,
        /// What speaks against its beginning; empty: it has begun.
        because: Vec<Obstacle>,
    },
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.way {
            Way::Standby => write!(f, "{} restarts", self.node),
            Way::HandOver => write!(f, "{} hands over and comes back as a standby", self.node),
            Way::InPlace => write!(f, "{} restarts as primary; proxies hold meanwhile", self.node),
        }
    }
}

/// The turns in one line.
#[must_use]
pub fn in_words(turns: &[Turn]) -> String {
    turns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", then ")
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bar::Underway { id } => write!(
                f,
                "restarts are under way ({id}); wait until they have ended, or take them back: pgkeel restart --cancel {id}"
            ),
            Bar::NothingPending => f.write_str("no server waits for a restart; pgkeel status would show it"),
            Bar::Moved { node } => write!(
                f,
                "{node} is not what it was to be restarted as: the primary has changed, or its server does not follow; \
                 see pgkeel status and order it again"
            ),
            Bar::TooSlow { node, waited_ms } => write!(
                f,
                "{node} was waited for, for {} s; its log ({node}: postgresql.log in node.dir) says why its server does \
                 not come back; pgkeel config rollback takes the last change back",
                waited_ms / 1000
            ),
            Bar::NotDone { node } => {
                write!(f, "{node} was not restarted: see the reason before this one, and order it again")
            }
            Bar::StandbysFirst { node, standbys } => {
                let list: Vec<&str> = standbys.iter().map(NodeName::as_str).collect();
                write!(
                    f,
                    "{} must restart before {node}: a standby stops when its primary has more connections, workers, senders, \
                     locks or prepared transactions than it; pgkeel restart --pending does all in the right order",
                    list.join(", ")
                )
            }
            Bar::NotReplayed { node } => write!(
                f,
                "{node} has not replayed yet what the primary wrote when it restarted, and would take on nothing that was \
                 lowered; wait until it has caught up (pgkeel status shows its lag)"
            ),
            Bar::NobodyElse { node } => write!(
                f,
                "{node} is primary and no other node could be it meanwhile; restart it in place: pgkeel restart {node}"
            ),
        }
    }
}

fn all(because: &[Obstacle]) -> String {
    because.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl fmt::Display for Tale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tale::Begun { id, by, turns } => {
                write!(f, "restarts {id} asked for by {by}: {}", in_words(turns))
            }
            Tale::Goes { turn } => write!(f, "now {turn}"),
            Tale::Back { turn: Turn { node, way: Way::InPlace } } => write!(f, "{node} takes writes again"),
            Tale::Back { turn } => write!(f, "{} is back and streams", turn.node),
            Tale::Ended { id } => write!(f, "restarts {id} are done"),
            Tale::GivenUp { id, because } => write!(f, "restarts {id} given up: {}", all(because)),
            Tale::Cancelled { id, by } => write!(f, "restarts {id} cancelled by {by}"),
            Tale::Waits { turn, because } if because.is_empty() => write!(f, "{turn}"),
            Tale::Waits { turn, because } => {
                write!(f, "next {turn}; that waits, because {}", all(because))
            }
        }
    }
}
