//! A node is left alone: it is never chosen, it leaves the sync set as any member that may not confirm commits does
//! (`sync_set`), and its agent starts nothing (`step`). It still seals and follows while its server runs.

use super::Now;
use super::switchover::{Recorded, known};
use super::sync_set;
use crate::basics::NodeName;
use crate::candidate;
use crate::command::Change;
use crate::handover::Obstacle;
use crate::membership;
use crate::observe::Observations;
use crate::reason::Reason;
use crate::state::{Maintenance, Replication, State};
use crate::word::{Objection, Word};

/// Longest reason kept, in characters.
const TEXT_MAX: usize = 200;

fn objected(objection: Objection) -> Vec<Obstacle> {
    vec![Obstacle::Objected { objection }]
}

pub(super) fn begin(
    state: &State,
    seen: &Observations,
    node: &NodeName,
    text: Option<String>,
    insist: bool,
    by: String,
    now: &Now,
) -> Result<Recorded, Vec<Obstacle>> {
    known(state, node)?;
    if state.members.get(node).is_some_and(|m| m.postgres.is_none()) {
        return Err(vec![Obstacle::Witness { node: node.clone() }]);
    }
    if candidate::leaves(state, node) {
        let bar = membership::Bar::Leaves { node: node.clone() };
        return Err(vec![Obstacle::Membership { bar }]);
    }
    let handed_over_to = state.handover.as_ref().is_some_and(|h| h.to == *node);
    if state.lease_holder() == Some(node) || handed_over_to {
        return Err(objected(Objection::MaintainsPrimary { node: node.clone() }));
    }
    if let (Some(settings), false) = (&state.settings, insist)
        && let (Replication::Quorum { k, .. }, Some(primary)) = (settings.replication, state.primary())
    {
        let report = seen.fresh(primary, now.at, settings.detect_ms);
        let streams =
            |n: &NodeName| report.and_then(|o| o.replicas.get(n)).is_some_and(|replica| replica.streaming);
        let others = state.data_nodes().map(|(n, _)| n).filter(|n| *n != node && *n != primary);
        let left = others.filter(|n| sync_set::may_confirm(state, n) && streams(n)).count();
        if left < k {
            return Err(objected(Objection::TooFewConfirm { node: node.clone(), left, k }));
        }
    }
    let clean = |text: String| text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect::<String>();
    let text = text.map(clean).filter(|text| !text.trim().is_empty());
    let maintenance = Maintenance { by: by.clone(), at: now.wall, text: text.clone() };
    let word = Word::MaintenanceBegun { node: node.clone(), by, text };
    let change = Change::Maintain { node: node.clone(), maintenance: Some(maintenance) };
    Ok((change, vec![Reason::Word { word }]))
}

pub(super) fn end(state: &State, node: &NodeName, by: String) -> Result<Recorded, Vec<Obstacle>> {
    known(state, node)?;
    if !state.maintenance.contains_key(node) {
        return Err(objected(Objection::NotMaintained { node: node.clone() }));
    }
    let change = Change::Maintain { node: node.clone(), maintenance: None };
    Ok((change, vec![Reason::Word { word: Word::MaintenanceEnded { node: node.clone(), by } }]))
}
