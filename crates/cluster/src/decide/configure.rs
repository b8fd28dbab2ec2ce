//! A new version of the cluster-wide configuration is recorded, unless another one was meanwhile.

use super::switchover::Recorded;
use crate::command::Change;
use crate::configuration::{self, BYTES_MAX, Content, Fault, brief, differences};
use crate::handover::Obstacle;
use crate::mutant::{self, Mutant};
use crate::reason::Reason;
use crate::state::State;

fn fault(fault: Fault) -> Vec<Obstacle> {
    vec![Obstacle::Configuration { fault }]
}

pub(super) fn next(
    state: &State,
    from: u64,
    content: &Content,
    back_to: Option<u64>,
    by: String,
) -> Result<Recorded, Vec<Obstacle>> {
    let configuration = &state.configuration;
    let present = configuration.number();
    if from != present && !mutant::is(Mutant::EditOverwrites) {
        return Err(fault(edited(configuration, from)));
    }
    let bytes = content.bytes();
    if bytes > BYTES_MAX {
        return Err(fault(Fault::TooLarge { bytes, bytes_max: BYTES_MAX }));
    }
    let differences = differences(configuration.content(), content);
    if differences.is_empty() {
        return Err(fault(Fault::Same));
    }
    let reason =
        Reason::Configured { version: present + 1, by: by.clone(), back_to, differences: brief(differences) };
    Ok((Change::Reconfigure { from, content: content.clone(), back_to, by }, vec![reason]))
}

fn edited(configuration: &configuration::Configuration, from: u64) -> Fault {
    let since = configuration.find(from).map(|before| brief(differences(before, configuration.content())));
    Fault::Edited {
        from,
        present: configuration.number(),
        by: configuration.versions.last().map(|version| version.by.clone()).unwrap_or_default(),
        since,
    }
}
