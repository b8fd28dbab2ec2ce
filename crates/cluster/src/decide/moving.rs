//! The record is to be kept in another store: what has to be well before that. [`crate::moving`] says what it is.

use super::switchover::Recorded;
use super::{Now, Proposed, Record};
use crate::basics::NodeName;
use crate::command::Change;
use crate::handover::Obstacle;
use crate::moving::{Bar, Home, unfit, unsettled};
use crate::observe::{Observation, Observations, Server};
use crate::reason::Reason;
use crate::state::State;

/// The record has moved: nothing is decided here any more.
pub(super) fn is_over(state: &State) -> Option<Reason> {
    let moved = state.moved.as_ref()?;
    Some(Reason::StoreMoved { number: moved.number, to: moved.to.to_string(), by: moved.by.clone() })
}

pub(super) fn begin(
    state: &State,
    seen: &Observations,
    proposed: &Proposed,
    to: &Home,
    by: String,
    now: &Now,
) -> Result<Recorded, Vec<Obstacle>> {
    let refused = |bars: Vec<Bar>| Err(bars.into_iter().map(|bar| Obstacle::Store { bar }).collect());
    if let Some(moved) = &state.moved {
        return refused(vec![Bar::Sealed { home: moved.to.to_string() }]);
    }
    let same = match (to, proposed.record) {
        (Home::Embedded { .. }, Record::Nodes) => Some("in the agents"),
        (Home::Etcd { .. }, Record::Elsewhere) => Some("in an etcd"),
        (Home::Embedded { .. }, Record::Elsewhere) | (Home::Etcd { .. }, Record::Nodes) => None,
    };
    let same = same.map(|home| Bar::Same { home: home.to_owned() });
    if let Some(bar) = same.or_else(|| unsettled(state)).or_else(|| unfit(state, to)) {
        return refused(vec![bar]);
    }
    let detect_ms = state.settings.as_ref().map_or(0, |settings| settings.detect_ms);
    let ill: Vec<Bar> = state
        .seated()
        .filter_map(|node| {
            let why = match seen.fresh(node, now.at, detect_ms) {
                None => Some("its agent was not heard lately".to_owned()),
                Some(report) => ill(state, node, report),
            };
            why.map(|why| Bar::NotWell { node: node.clone(), why })
        })
        .collect();
    if !ill.is_empty() {
        return refused(ill);
    }
    let number = state.moves + 1;
    let reason = Reason::StoreMoved { number, to: to.to_string(), by: by.clone() };
    Ok((Change::MoveStore { number, to: to.clone(), by }, vec![reason]))
}

/// What is amiss with a node that is heard.
fn ill(state: &State, node: &NodeName, report: &Observation) -> Option<String> {
    let is_primary = state.primary() == Some(node);
    let is_witness = state.members.get(node).is_some_and(|member| member.postgres.is_none());
    let well = match &report.server {
        _ if is_witness || state.maintenance.contains_key(node) => true,
        Server::Primary { .. } => is_primary,
        Server::Standby(standby) => !is_primary && standby.streaming,
        Server::Unknown | Server::Stopped | Server::Starting | Server::Unresponsive { .. } => false,
    };
    match () {
        () if report.epoch != state.epoch => Some("it does not know the present epoch yet".to_owned()),
        () if !well && is_primary => Some("its server is not known to take writes".to_owned()),
        () if !well => Some("its server does not stream from the primary".to_owned()),
        () if report.copying.is_some() => Some("it is being copied".to_owned()),
        () if !is_witness
            && !state.maintenance.contains_key(node)
            && report.configured != state.configuration.number() =>
        {
            Some("its server does not have the last version of the configuration yet".to_owned())
        }
        () => None,
    }
}
