//! What a person may ask the leader for, and who checks it.

use super::switchover::planned;
use super::{Now, Proposed, configure, force, maintenance, membership, moving, pause, restart, users};
use crate::basics::{NodeName, WallMs};
use crate::command::{Change, Command};
use crate::configuration::Content;
use crate::handover::Obstacle;
use crate::membership::{Seat, TokenRole};
use crate::moving::Home;
use crate::observe::Observations;
use crate::reason::Reason;
use crate::restart::Turn;
use crate::state::{Fencing, State};
use crate::users::UserRole;
use serde::{Deserialize, Serialize};

/// What a person may ask the leader for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "order")]
pub enum Order {
    /// Change the primary in order.
    Switchover {
        /// The next one; `None`: the best candidate.
        to: Option<NodeName>,
        /// When, in milliseconds since 1970; `None`: now.
        at: Option<WallMs>,
    },
    /// Forget a planned switchover.
    Cancel {
        /// Its identity.
        id: String,
    },
    /// Decide nothing until resumed.
    Pause {
        /// Whether the primary is still ended with its lease.
        #[serde(default)]
        fencing: Fencing,
    },
    /// Decide again.
    Resume,
    /// Make a node primary where nothing automatic may.
    Failover {
        /// The next primary.
        to: NodeName,
        /// The loss that the person accepts, as [`crate::word::Loss::token`] names it.
        accept: Option<String>,
        /// A node of which the person vouches that its server does not run.
        #[serde(default)]
        stopped: Option<NodeName>,
    },
    /// Leave a node alone.
    Maintain {
        /// The node.
        node: NodeName,
        /// Why, in the person's words.
        text: Option<String>,
        /// Although commits may have to wait.
        #[serde(default)]
        insist: bool,
    },
    /// Leave it alone no more.
    Unmaintain {
        /// The node.
        node: NodeName,
    },
    /// Record the next version of the cluster-wide configuration. Whether servers take it was asked before.
    Configure {
        /// The version that it was made from.
        from: u64,
        /// What it says.
        content: Content,
        /// The version that it repeats, if it takes changes back.
        #[serde(default)]
        back_to: Option<u64>,
    },
    /// Let a node in; repeated for one that was let in just so, nothing changes.
    Admit {
        /// The node.
        node: NodeName,
        /// Where it is.
        seat: Seat,
    },
    /// A node is to leave: it is struck out as soon as nothing needs it.
    Remove {
        /// The node.
        node: NodeName,
        /// Although commits may have to wait.
        #[serde(default)]
        insist: bool,
    },
    /// It stays after all, while it has not left.
    Keep {
        /// The node.
        node: NodeName,
    },
    /// Remember an invitation.
    Invite {
        /// Its identity.
        id: String,
        /// SHA-256 of its secret, in hexadecimal.
        hash: String,
        /// What it is good for.
        role: TokenRole,
        /// Until when, on the leader's wall clock.
        until: WallMs,
        /// How many may use it.
        uses: u32,
    },
    /// Forget an invitation.
    Uninvite {
        /// Its identity.
        id: String,
    },
    /// Let somebody use the API by a token.
    AddUser {
        /// His name.
        name: String,
        /// What he may.
        role: UserRole,
        /// SHA-256 of his token, in hexadecimal.
        hash: String,
    },
    /// Let him do so no more.
    RemoveUser {
        /// His name.
        name: String,
    },
    /// Use an invitation.
    Redeem {
        /// Its identity.
        id: String,
        /// SHA-256 of the secret that was shown, in hexadecimal.
        hash: String,
        /// What it is used for.
        role: TokenRole,
        /// By whom.
        node: NodeName,
    },
    /// Keep the record elsewhere from now on. Whether the agents can use that place was asked before.
    MoveStore {
        /// Where.
        to: Home,
    },
    /// Restart servers, one after the other.
    Restart {
        /// Only this node's; `None`: all.
        node: Option<NodeName>,
        /// Only those that wait for it.
        #[serde(default)]
        pending: bool,
        /// The primary hands over first, where that is possible.
        #[serde(default)]
        rolling: bool,
        /// Although commits may have to wait.
        #[serde(default)]
        insist: bool,
    },
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Ordered {
    /// It can be done; a try-out ends here.
    Possible {
        /// The next primary, of a switchover.
        to: Option<NodeName>,
    },
    /// It is recorded.
    Recorded {
        /// The switchover's identity, or empty.
        id: String,
        /// The next primary, of a switchover that begins now.
        to: Option<NodeName>,
    },
    /// Servers restart in this order, or would.
    Restarts {
        /// Their identity.
        id: String,
        /// Whose turn it is when.
        turns: Vec<Turn>,
    },
    /// It is refused.
    Refused {
        /// Why, with the cure.
        because: Vec<Obstacle>,
    },
}

/// Checks an order and returns the command that carries it out. An invitation that is refused may come with one as well:
/// it is remembered that it was shown.
///
/// # Errors
/// Every obstacle.
pub fn order(
    state: &State,
    seen: &Observations,
    proposed: &Proposed,
    order: &Order,
    by: &str,
    now: &Now,
) -> Result<(Command, Ordered), Vec<Obstacle>> {
    let id: String = now.nonce.chars().take(8).collect();
    let by = by.to_owned();
    let recorded = |to: Option<NodeName>| Ordered::Recorded { id: String::new(), to };
    let ((change, reasons), ordered) = match order {
        Order::Pause { fencing } => (pause::begin(state, seen, *fencing, by, now)?, recorded(None)),
        Order::Resume => ((Change::Resume, vec![Reason::Resumed { by }]), recorded(None)),
        Order::Failover { to, accept, stopped } => {
            let asked = force::Asked { to, accept: accept.as_deref(), stopped: stopped.as_ref(), by };
            (force::order(state, seen, &asked, now)?, recorded(Some(to.clone())))
        }
        Order::Maintain { node, text, insist } => {
            (maintenance::begin(state, seen, node, text.clone(), *insist, by, now)?, recorded(None))
        }
        Order::Unmaintain { node } => (maintenance::end(state, node, by)?, recorded(None)),
        Order::Configure { from, content, back_to } => {
            let number = (state.configuration.number() + 1).to_string();
            (
                configure::next(state, *from, content, *back_to, by)?,
                Ordered::Recorded { id: number, to: None },
            )
        }
        Order::Restart { node, pending, rolling, insist } => {
            let wanted = restart::Wanted {
                node: node.as_ref(),
                pending: *pending,
                rolling: *rolling,
                insist: *insist,
            };
            let (recorded, turns) = restart::begin(state, seen, &wanted, (id.as_str(), by), now)?;
            (recorded, Ordered::Restarts { id: id.clone(), turns })
        }
        Order::MoveStore { to } => (moving::begin(state, seen, proposed, to, by, now)?, recorded(None)),
        Order::Cancel { id } if state.restart.as_ref().is_some_and(|r| r.id == *id) => {
            (restart::cancel(id, by), recorded(None))
        }
        Order::Admit { .. }
        | Order::Remove { .. }
        | Order::Keep { .. }
        | Order::Invite { .. }
        | Order::Uninvite { .. }
        | Order::AddUser { .. }
        | Order::RemoveUser { .. }
        | Order::Redeem { .. } => belonging(state, seen, proposed, order, by, now)?,
        Order::Switchover { .. } | Order::Cancel { .. } => planned(state, seen, order, id, by, now)?,
    };
    Ok((Command { by: seen.leader.clone(), at: now.wall, change, reasons }, ordered))
}

/// A change and its reasons.
pub(super) type Recorded = (Change, Vec<Reason>);

fn belonging(
    state: &State,
    seen: &Observations,
    proposed: &Proposed,
    order: &Order,
    by: String,
    now: &Now,
) -> Result<(Recorded, Ordered), Vec<Obstacle>> {
    let of = |id: &str| Ordered::Recorded { id: id.to_owned(), to: None };
    Ok(match order {
        Order::Admit { node, seat } => (membership::admit(state, proposed, (node, seat), by)?, of("")),
        Order::Remove { node, insist } => {
            (membership::remove(state, seen, proposed, (node, *insist), by, now)?, of(""))
        }
        Order::Keep { node } => (membership::keep(state, node, by)?, of("")),
        Order::Invite { id, hash, role, until, uses } => {
            let wanted = membership::Invitation { id, hash, role: *role, until: *until, uses: *uses };
            (membership::invite(state, &wanted, by, now)?, of(id))
        }
        Order::Uninvite { id } => (membership::uninvite(state, id, by)?, of(id)),
        Order::AddUser { name, role, hash } => {
            (users::add((state, seen), (name.as_str(), *role, hash.as_str()), by, now)?, of(""))
        }
        Order::RemoveUser { name } => (users::remove(state, name, by)?, of("")),
        Order::Redeem { id, hash, role, node } => {
            match membership::redeem(state, (id.as_str(), hash.as_str()), *role, node, by, now)? {
                membership::Redeemed::Good(recorded) => (recorded, of(id)),
                membership::Redeemed::Remembered(recorded, bar) => {
                    let because = vec![Obstacle::Membership { bar }];
                    (recorded, Ordered::Refused { because })
                }
            }
        }
        _ => return Err(Vec::new()),
    })
}
