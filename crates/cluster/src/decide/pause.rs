//! A pause begins, and its end is awaited. Why a primary may serve without a lease meanwhile is explained in
//! [`crate::leash`].

use super::switchover::Recorded;
use super::{Draft, Now, Outcome};
use crate::command::Change;
use crate::handover::Obstacle;
use crate::leash;
use crate::observe::{Observations, Server};
use crate::reason::Reason;
use crate::state::{Fencing, Paused, Phase, Settings, State};
use crate::word::Word;

/// Checks the order to pause.
///
/// A primary that is not heard could not be told that its lease does not matter: it would end all the same, and nobody
/// could be sure of that afterwards. So fencing is suspended only for one that is heard.
pub(super) fn begin(
    state: &State,
    seen: &Observations,
    fencing: Fencing,
    by: String,
    now: &Now,
) -> Result<Recorded, Vec<Obstacle>> {
    if let Some(handover) = &state.handover {
        return Err(vec![Obstacle::Underway { to: handover.to.clone() }]);
    }
    if let (Fencing::Suspended, Phase::Serving { appointment }, Some(settings)) =
        (fencing, &state.phase, &state.settings)
    {
        let report = seen.fresh(&appointment.node, now.at, settings.detect_ms);
        let serves = |s: &Server| matches!(s, Server::Primary { .. });
        if !report.is_some_and(|o| o.epoch == state.epoch && serves(&o.server)) {
            return Err(vec![Obstacle::Silent { node: appointment.node.clone() }]);
        }
    }
    let paused = Paused { by: by.clone(), at: now.wall, fencing };
    Ok((Change::Pause { paused }, vec![Reason::Paused { by, fencing }]))
}

/// Records that the primary which a pause left without a lease has one again, or is none any more.
pub(super) fn end(state: &State, settings: &Settings, seen: &Observations, now: &Now) -> Outcome {
    let Some(unleased) = &state.unleased else { return Outcome::Nothing };
    if !leash::is_over(state, settings, seen, now.at) {
        return Outcome::Nothing;
    }
    Outcome::Do(Draft {
        change: Change::LeasedAgain { number: unleased.number },
        reasons: vec![Reason::Word { word: Word::LeasedAgain { node: unleased.node.clone() } }],
    })
}
