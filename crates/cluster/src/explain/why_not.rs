//! Why a node is not primary: whether it could become it now, and why it was not chosen last time.

use super::bar::{self, Bar};
use crate::basics::{Epoch, NodeName, WallMs};
use crate::decide::switchover::{self, Order};
use crate::decide::{Now, Proposed};
use crate::handover::Obstacle;
use crate::observe::Observations;
use crate::reason::{NotChosen, Reason, Safe};
use crate::state::State;
use crate::whatif::{self, End, Event, NoSuchNode};
use serde::{Deserialize, Serialize};

/// Whether a node would become primary if there had to be another one now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "chance")]
pub enum Chance {
    /// It is primary.
    IsPrimary,
    /// If the primary were lost now, it would be chosen.
    First,
    /// If the primary were lost now, another would be chosen.
    NotFirst {
        /// Who.
        first: NodeName,
        /// Why not this one.
        because: NotChosen,
    },
    /// It cannot become primary now.
    Barred,
    /// If the primary were lost now, nobody would be chosen.
    Nobody {
        /// What would be waited for; empty: no majority could decide.
        waits: Vec<Reason>,
    },
}

/// What became of a node when a primary was chosen last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "then")]
pub enum Then {
    /// It was chosen.
    Chosen {
        /// Why that was safe.
        safe: Safe,
    },
    /// Another was chosen.
    NotChosen {
        /// Who.
        chosen: NodeName,
        /// Why not this one.
        because: NotChosen,
    },
    /// A switchover went to another node.
    OtherOrdered {
        /// To whom.
        chosen: NodeName,
    },
}

/// The last choice of a primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastChoice {
    /// For this epoch.
    pub epoch: Epoch,
    /// When, on the wall clock of the leader that decided.
    pub at: WallMs,
    /// What became of the node.
    pub then: Then,
}

/// Why a node is not primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyNot {
    /// The node.
    pub node: NodeName,
    /// The primary.
    pub primary: Option<NodeName>,
    /// Whether it could become primary.
    pub chance: Chance,
    /// What speaks against it, and what would cure each.
    pub bars: Vec<Bar>,
    /// Why a switchover to it would be refused now; empty: it would begin.
    pub switchover: Vec<Obstacle>,
    /// The last choice that is remembered.
    pub last: Option<LastChoice>,
}

/// Answers on what the leader knows; changes nothing.
///
/// # Errors
/// When there is no such node.
pub fn why_not(
    state: &State,
    seen: &Observations,
    proposed: &Proposed,
    node: &NodeName,
    now: &Now,
) -> Result<WhyNot, NoSuchNode> {
    if !state.members.contains_key(node) {
        return Err(NoSuchNode { node: node.clone(), known: state.members.keys().cloned().collect() });
    }
    let primary = state.primary().cloned();
    let mut bars = bar::role(state, node);
    bars.extend(bar::plight(state, seen, node, now.at));
    let chance = chance(state, seen, proposed, node, &bars, now)?;
    let order = Order::Switchover { to: Some(node.clone()), at: None };
    let switchover = switchover::order(state, seen, proposed, &order, "why not", now);
    let switchover = switchover.err().unwrap_or_default();
    Ok(WhyNot { node: node.clone(), primary, chance, bars, switchover, last: last_choice(state, node) })
}

fn chance(
    state: &State,
    seen: &Observations,
    proposed: &Proposed,
    node: &NodeName,
    bars: &[Bar],
    now: &Now,
) -> Result<Chance, NoSuchNode> {
    if state.primary() == Some(node) {
        return Ok(Chance::IsPrimary);
    }
    if bars.iter().any(Bar::stops) {
        return Ok(Chance::Barred);
    }
    let Some(primary) = state.primary().or(state.last_appointed.as_ref().map(|a| &a.node)) else {
        return Ok(Chance::Nobody { waits: Vec::new() });
    };
    let lost = whatif::what_if(state, seen, proposed, &Event::Down { node: primary.clone() }, now)?;
    Ok(match lost.end {
        End::Replaced { node: first, .. } if first == *node => Chance::First,
        End::Replaced { node: first, others, .. } => {
            let other = NotChosen::NotSealed { seen: "not heard".to_owned() };
            Chance::NotFirst { first, because: others.get(node).cloned().unwrap_or(other) }
        }
        End::Stays { .. } | End::NoMajority | End::NoPrimary | End::Refused { .. } => {
            Chance::Nobody { waits: lost.waits }
        }
    })
}

fn last_choice(state: &State, node: &NodeName) -> Option<LastChoice> {
    state.history.iter().rev().find_map(|entry| {
        let Reason::Chosen { node: chosen, safe, others, .. } = &entry.reason else { return None };
        let then = match (others.get(node), safe) {
            _ if chosen == node => Then::Chosen { safe: safe.clone() },
            (Some(because), _) => Then::NotChosen { chosen: chosen.clone(), because: because.clone() },
            (None, Safe::StoppedInOrder { .. }) => Then::OtherOrdered { chosen: chosen.clone() },
            (None, _) => return None,
        };
        Some(LastChoice { epoch: entry.epoch, at: entry.at, then })
    })
}

impl WhyNot {
    /// For people; the second of each pair is the cure.
    #[must_use]
    pub fn sentences(&self) -> Vec<(String, Option<String>)> {
        let mut told = vec![(self.chance_sentence(), None)];
        if self.chance == Chance::IsPrimary {
            return told;
        }
        if let Chance::Nobody { waits } = &self.chance {
            let cured = |reason: &Reason| match &self.primary {
                Some(primary) => super::cure_without(reason, primary),
                None => super::cure(reason),
            };
            told.extend(waits.iter().map(|r| (r.to_string(), cured(r).map(|c| c.to_string()))));
        }
        let cured = |bar: &Bar| bar.cure(&self.node).map(|cure| cure.to_string());
        told.extend(self.bars.iter().map(|bar| (bar.to_string(), cured(bar))));
        match self.switchover.as_slice() {
            [] => told.push((
                format!("a switchover to it would begin at once: pgkeel switchover --to {}", self.node),
                None,
            )),
            because => {
                // What was said above need not be said twice.
                let own = self.bars.iter().any(Bar::stops);
                let new = because
                    .iter()
                    .filter(|o| !own || matches!(o, Obstacle::Paused | Obstacle::Underway { .. }));
                told.extend(new.map(|o| (format!("a switchover to it would be refused: {o}"), None)));
            }
        }
        told.extend(self.last.as_ref().map(|last| (self.last_sentence(last), None)));
        told
    }

    fn chance_sentence(&self) -> String {
        let node = &self.node;
        let lost = match &self.primary {
            Some(primary) => format!("if {primary} were lost now"),
            None => "now that there is no primary".to_owned(),
        };
        match &self.chance {
            Chance::IsPrimary => format!("{node} is primary of the present epoch"),
            Chance::First => format!("{node} could become primary: {lost}, it would be chosen"),
            Chance::NotFirst { first, because } => {
                format!("{node} could become primary, but {lost}, {first} would be chosen: {node} {because}")
            }
            Chance::Barred => format!("{node} cannot become primary now:"),
            Chance::Nobody { waits } if waits.is_empty() => {
                format!(
                    "{node} would not become primary: {lost}, no majority of voters would be left to decide it"
                )
            }
            Chance::Nobody { .. } => {
                format!("{node} would not become primary: {lost}, nobody would be chosen")
            }
        }
    }

    fn last_sentence(&self, last: &LastChoice) -> String {
        let epoch = last.epoch;
        match &last.then {
            Then::Chosen { safe } => format!("last time, for epoch {epoch}, it was chosen: {safe}"),
            Then::NotChosen { chosen, because } => {
                format!(
                    "last time, for epoch {epoch}, {chosen} was chosen and not {}: it {because}",
                    self.node
                )
            }
            Then::OtherOrdered { chosen } => {
                format!("last time, for epoch {epoch}, a switchover to {chosen} was ordered")
            }
        }
    }
}
