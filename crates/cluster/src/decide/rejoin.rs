//! Remembers how nodes came back. How a node rejoins is decided by the node itself, in `step`.

use super::{Draft, Outcome};
use crate::command::Change;
use crate::observe::Observations;
use crate::reason::Reason;
use crate::state::State;

pub(super) fn note(state: &State, seen: &Observations) -> Outcome {
    let unknown = seen.nodes.iter().find_map(|(node, heard)| {
        let rejoined = heard.observation.rejoined.as_ref().filter(|r| r.epoch == state.epoch)?;
        let reason = Reason::Rejoined { node: node.clone(), rejoined: rejoined.clone() };
        (!state.history.iter().any(|entry| entry.reason == reason)).then_some(reason)
    });
    match unknown {
        Some(reason) => {
            Outcome::Do(Draft { change: Change::Note { epoch: state.epoch }, reasons: vec![reason] })
        }
        None => Outcome::Nothing,
    }
}
