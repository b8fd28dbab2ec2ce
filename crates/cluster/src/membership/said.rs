//! What is said of nodes that come and go: why an order is refused, with the cure, and what the history remembers.

use super::TokenRole;
use crate::basics::{NodeName, WallMs};
use crate::users::{self, UserRole};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// Why an order is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "bar")]
pub enum Bar {
    /// Another node has the name.
    NameTaken {
        /// The name.
        node: NodeName,
        /// Where that one is.
        address: String,
    },
    /// A node of this name was removed.
    NameGone {
        /// The name.
        node: NodeName,
    },
    /// It is not said what its store calls itself.
    NoNumber {
        /// The node.
        node: NodeName,
    },
    /// Another node has the address, or the number in the store.
    AddressTaken {
        /// The address.
        address: String,
        /// That one.
        by: NodeName,
    },
    /// It is no `host:port`.
    BadAddress {
        /// What was given.
        address: String,
    },
    /// There is no room.
    Full {
        /// So many nodes at most.
        nodes_max: usize,
    },
    /// There is no primary.
    NotServing,
    /// The node is on its way out.
    Leaves {
        /// It.
        node: NodeName,
    },
    /// It is not.
    Stays {
        /// It.
        node: NodeName,
    },
    /// It is primary.
    IsPrimary {
        /// It.
        node: NodeName,
    },
    /// A switchover under way names it.
    HandsOver {
        /// It.
        node: NodeName,
    },
    /// A switchover that waits for its time names it.
    Planned {
        /// It.
        node: NodeName,
        /// The switchover.
        id: String,
    },
    /// Restarts that are under way name it.
    Restarts {
        /// It.
        node: NodeName,
        /// The restarts.
        id: String,
    },
    /// Those that are left could not decide.
    NoMajority {
        /// The node.
        node: NodeName,
        /// Who of those that are left is heard.
        heard: BTreeSet<NodeName>,
        /// So many are left.
        of: usize,
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
    /// There is no such invitation, or another secret belongs to it: which, is told nobody outside.
    NotInvited,
    /// The invitation is not good any more.
    Expired {
        /// Since when.
        until: WallMs,
    },
    /// It is good for something else.
    OtherRole {
        /// For what.
        role: TokenRole,
    },
    /// There are too many.
    TooManyInvitations {
        /// So many at most.
        tokens_max: usize,
    },
    /// It is about a user of the API.
    User {
        /// Why.
        user: users::Bar,
    },
    /// What is to be an invitation cannot be one.
    BadInvitation {
        /// Why.
        why: String,
    },
}

/// Why an invitation was refused, for those inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Knock {
    /// There is none of that name: it was never made, taken back or used up.
    Unknown,
    /// The secret is another one.
    WrongSecret,
    /// It has expired.
    Expired {
        /// When.
        until: WallMs,
    },
    /// It is good for something else.
    OtherRole {
        /// For what.
        role: TokenRole,
        /// What it was shown for.
        shown: TokenRole,
    },
}

/// What happens with the nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "tale")]
pub enum Tale {
    /// A node was let in.
    Admitted {
        /// It.
        node: NodeName,
        /// Where it is.
        address: String,
        /// Who asked for it, from where.
        by: String,
    },
    /// A node is to leave.
    Leaves {
        /// It.
        node: NodeName,
        /// Who asked for it, from where.
        by: String,
    },
    /// It stays after all.
    Kept {
        /// It.
        node: NodeName,
        /// Who asked for it, from where.
        by: String,
    },
    /// It has left.
    Removed {
        /// It.
        node: NodeName,
        /// Who asked for it, from where.
        by: String,
        /// When.
        asked: WallMs,
    },
    /// It has not left yet.
    Waits {
        /// It.
        node: NodeName,
        /// Why.
        because: String,
    },
    /// An invitation was made.
    Invited {
        /// It.
        id: String,
        /// What it is good for.
        role: TokenRole,
        /// How many may use it.
        uses: u32,
        /// Until when.
        until: WallMs,
        /// Who asked for it, from where.
        by: String,
    },
    /// An invitation was taken back.
    Uninvited {
        /// It.
        id: String,
        /// Who asked for it, from where.
        by: String,
    },
    /// An invitation was used.
    Redeemed {
        /// It.
        id: String,
        /// What for.
        role: TokenRole,
        /// By whom.
        node: NodeName,
        /// From where.
        by: String,
        /// How many more may use it.
        left: u32,
    },
    /// Somebody may use the API by a token.
    UserAdded {
        /// His name.
        name: String,
        /// What he may.
        role: UserRole,
        /// Who asked for it, from where.
        by: String,
    },
    /// He may no more.
    UserRemoved {
        /// His name.
        name: String,
        /// Who asked for it, from where.
        by: String,
    },
    /// An invitation was refused.
    Knocked {
        /// What was shown as its name.
        id: String,
        /// By whom.
        node: NodeName,
        /// From where.
        by: String,
        /// Why.
        knock: Knock,
    },
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bar::NameTaken { node, address } => write!(
                f,
                "{node} belongs to the cluster already, at {address}; choose another name"
            ),
            Bar::NameGone { node } => write!(
                f,
                "a node {node} was removed, and names are not given again: a copy of it that still runs could confirm commits \
                 in the name of the new one; choose another name"
            ),
            Bar::NoNumber { node } => {
                write!(f, "it is not said what the store of {node} calls itself; pgkeel join on its host asks and says it")
            }
            Bar::AddressTaken { address, by } => {
                write!(f, "{by} is at {address}; give the new node an address and a store of its own")
            }
            Bar::BadAddress { address } => {
                write!(f, "{address:?} is no host:port at which other nodes could reach an agent")
            }
            Bar::Full { nodes_max } => {
                write!(f, "a cluster has at most {nodes_max} nodes; remove one that is not needed")
            }
            Bar::NotServing => f.write_str(
                "there is no primary, and nodes come and go only while one serves; see pgkeel status for what the cluster \
                 waits for",
            ),
            Bar::Leaves { node } => write!(
                f,
                "{node} is leaving the cluster; take that back first (keep), or choose another node"
            ),
            Bar::Stays { node } => write!(f, "{node} is not leaving the cluster"),
            Bar::IsPrimary { node } => {
                write!(f, "{node} is primary, or about to be; pgkeel switchover first, then remove it")
            }
            Bar::HandsOver { node } => {
                write!(f, "a switchover from or to {node} is under way; wait until it has ended")
            }
            Bar::Planned { node, id } => write!(
                f,
                "a switchover to {node} is planned; take it back first: pgkeel switchover --cancel {id}"
            ),
            Bar::Restarts { node, id } => write!(
                f,
                "restarts under way name {node}; wait until they have ended, or take them back: pgkeel restart --cancel {id}"
            ),
            Bar::NoMajority { .. } | Bar::TooFewConfirm { .. } => self.said_short(f),
            Bar::NotInvited => f.write_str(
                "no such invitation; ask for a new one in the cluster: each is good for a limited time and number of nodes",
            ),
            Bar::Expired { .. } => {
                f.write_str("the invitation has expired; ask for a new one in the cluster")
            }
            Bar::OtherRole { role } => {
                write!(f, "the invitation is good for {role} only; ask for another one in the cluster")
            }
            Bar::TooManyInvitations { tokens_max } => {
                write!(f, "there are {tokens_max} invitations already; take back those that are not needed")
            }
            Bar::User { user } => user.fmt(f),
            Bar::BadInvitation { why } => write!(f, "that is no invitation: {why}"),
        }
    }
}

impl Bar {
    fn said_short(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bar::NoMajority { node, heard, of } => {
                let list: Vec<&str> = heard.iter().map(NodeName::as_str).collect();
                write!(
                    f,
                    "without {node} the cluster has {of} nodes, of which only {} ({}) are heard: no majority, so nothing \
                     could be decided any more; bring others back, or remove first those that do not come back",
                    heard.len(),
                    list.join(", "),
                )
            }
            Bar::TooFewConfirm { node, left, k } => write!(
                f,
                "without {node} only {left} standbys could confirm commits, and {k} must; let another standby in or bring \
                 one back first, or add --insist: then {node} leaves as soon as others confirm, and with degrade = available \
                 at once"
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Knock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Knock::Unknown => f.write_str("there is none of that name, or not any more"),
            Knock::WrongSecret => f.write_str("its secret is another one"),
            Knock::Expired { .. } => f.write_str("it has expired"),
            Knock::OtherRole { role, shown } => write!(f, "it is good for {role}, not for {shown}"),
        }
    }
}

impl fmt::Display for Tale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tale::Admitted { node, address, by } => write!(f, "{node} at {address} let in by {by}"),
            Tale::Leaves { node, by } => write!(f, "{node} is to leave the cluster, asked for by {by}"),
            Tale::Kept { node, by } => write!(f, "{node} stays in the cluster, asked for by {by}"),
            Tale::Removed { node, by, .. } => write!(f, "{node} has left the cluster, as asked for by {by}"),
            Tale::Waits { node, because } => write!(f, "{node} is leaving and still needed: {because}"),
            Tale::Invited { id, role, uses, by, .. } => {
                write!(f, "invitation {id} for {role} made by {by}, good for {uses}")
            }
            Tale::Uninvited { id, by } => write!(f, "invitation {id} taken back by {by}"),
            Tale::UserAdded { name, role, by } => write!(f, "user {name}, {role}, added by {by}"),
            Tale::UserRemoved { name, by } => write!(f, "user {name} removed by {by}"),
            Tale::Redeemed { id, role, node, by, left } => {
                write!(f, "invitation {id} for {role} used by {node} ({by}), good for {left} more")
            }
            Tale::Knocked { id, node, by, knock } => {
                write!(f, "invitation {id:?}, shown for {node} ({by}), refused: {knock}")
            }
        }
    }
}
