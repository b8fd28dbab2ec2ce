//! What is said of moves, for people.

use super::Home;
use crate::basics::NodeName;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What speaks against a move of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "bar")]
pub enum Bar {
    /// No primary serves.
    NotServing,
    /// Something is half done.
    HalfDone {
        /// What.
        what: String,
    },
    /// It is kept in the same kind of store already.
    Same {
        /// Where.
        home: String,
    },
    /// A node is not heard, or not well.
    NotWell {
        /// The node.
        node: NodeName,
        /// Why.
        why: String,
    },
    /// The agent of a node cannot use the new store.
    Unfit {
        /// The node.
        node: NodeName,
        /// Why.
        why: String,
    },
    /// The agents found different stores under the same addresses.
    Differs {
        /// Who did not find what another had written there.
        node: NodeName,
    },
    /// What is asked for cannot be.
    BadHome {
        /// Why.
        why: String,
    },
    /// The record has moved already.
    Sealed {
        /// Where to.
        home: String,
    },
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Home::Embedded { .. } => f.write_str("in the agents"),
            Home::Etcd { access } => {
                write!(f, "in etcd at {}, below {}", access.endpoints.join(", "), access.prefix)?;
                access.user.iter().try_for_each(|user| write!(f, ", as user {user}"))
            }
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bar::NotServing => f.write_str(
                "the record moves only while a primary serves; pgkeel status says what the cluster waits for",
            ),
            Bar::HalfDone { what } => write!(f, "{what}; try again when that is over"),
            Bar::Same { home } => write!(
                f,
                "the record is kept {home} already; from one etcd to another it goes by way of the agents (--to embedded)"
            ),
            Bar::NotWell { node, why } => {
                write!(f, "{node} is not well: {why}. All nodes have to be, so that none is left behind")
            }
            Bar::Unfit { node, why } => write!(f, "{node} cannot use it: {why}"),
            Bar::Differs { node } => write!(
                f,
                "{node} does not find there what another agent wrote: do the addresses mean the same etcd on every host?"
            ),
            Bar::BadHome { why } => f.write_str(why),
            Bar::Sealed { home } => write!(f, "the record has moved: it is kept {home} now"),
        }
    }
}
