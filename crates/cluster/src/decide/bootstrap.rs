//! From nothing to a database: record the settings and the nodes, let one node make the database, publish it.

use super::{Draft, Now, Outcome, Proposed};
use crate::basics::NodeName;
use crate::candidate;
use crate::command::{Change, first_promotion_id};
use crate::configuration::{Content, brief, differences};
use crate::mutant::{self, Mutant};
use crate::observe::{DataDir, Observations};
use crate::reason::Reason;
use crate::state::{Settings, State};
use std::collections::BTreeSet;

pub(super) fn record_settings(state: &State, _: &Observations, proposed: &Proposed) -> Outcome {
    if state.settings.is_some() {
        return Outcome::Nothing;
    }
    let change = Change::Configure { cluster: proposed.cluster.clone(), settings: proposed.settings.clone() };
    Outcome::Do(Draft { change, reasons: vec![Reason::Formed { members: proposed.names.clone() }] })
}

/// A node's addresses come from its own configuration: record them when they are new or changed.
pub(super) fn register_members(state: &State, seen: &Observations, proposed: &Proposed) -> Outcome {
    let names = state.names(&proposed.names);
    let unrecorded = seen.nodes.iter().find_map(|(node, heard)| {
        let member = heard.observation.member.as_ref()?;
        let known = names.contains(node) || state.members.contains_key(node);
        (known && state.members.get(node) != Some(member)).then(|| (node.clone(), member.clone()))
    });
    match unrecorded {
        Some((node, member)) => {
            Outcome::Do(Draft { change: Change::Register { node, member }, reasons: Vec::new() })
        }
        None => Outcome::Nothing,
    }
}

/// All nodes must be here and without data: a node that has data may hold somebody's only copy.
pub(super) fn initialise(state: &State, seen: &Observations, proposed: &Proposed, now: &Now) -> Outcome {
    let looked = |node: &NodeName| {
        let data = seen.nodes.get(node).map(|h| &h.observation.data);
        data.is_some_and(|d| *d != DataDir::Unknown) && state.members.contains_key(node)
    };
    let missing: BTreeSet<NodeName> = proposed.names.iter().filter(|n| !looked(n)).cloned().collect();
    if !missing.is_empty() {
        return Outcome::Wait(Reason::WaitNodes { missing });
    }
    if let Some(found) = &proposed.adopt {
        return adopt(state, seen, found, now);
    }
    for (node, heard) in &seen.nodes {
        if let DataDir::Present { system_identifier } = heard.observation.data
            && !mutant::is(Mutant::InitialiseOverData)
        {
            return Outcome::Wait(Reason::RefuseInitialise { node: node.clone(), system_identifier });
        }
    }
    let mut able = state.data_nodes().filter(|(node, _)| !candidate::tags(state, node).never_primary);
    let Some((first, _)) = able.next() else {
        return Outcome::Wait(Reason::WaitNodes { missing });
    };
    Outcome::Do(Draft {
        change: Change::Initialise { node: first.clone(), replication_password: now.nonce.clone() },
        reasons: vec![Reason::Initialise { node: first.clone(), adopted: None }],
    })
}

/// The leader's own data become the cluster's. A person has named this directory: no other node is asked, and none is chosen. What
/// held for its clients is recorded first, so that it holds again when the server starts.
fn adopt(state: &State, seen: &Observations, found: &Content, now: &Now) -> Outcome {
    let node = &seen.leader;
    let data = seen.nodes.get(node).map(|heard| &heard.observation.data);
    let Some(DataDir::Present { system_identifier }) = data else {
        return Outcome::Wait(Reason::WaitNodes { missing: BTreeSet::from([node.clone()]) });
    };
    let changes = differences(state.configuration.content(), found);
    if state.configuration.number() == 0 && !changes.is_empty() {
        let (by, back_to) = ("pgkeel adopt".to_owned(), None);
        let reason = Reason::Configured { version: 1, by: by.clone(), back_to, differences: brief(changes) };
        let change = Change::Reconfigure { from: 0, content: found.clone(), back_to, by };
        return Outcome::Do(Draft { change, reasons: vec![reason] });
    }
    Outcome::Do(Draft {
        change: Change::Initialise { node: node.clone(), replication_password: now.nonce.clone() },
        reasons: vec![Reason::Initialise { node: node.clone(), adopted: Some(*system_identifier) }],
    })
}

pub(super) fn publish_first(
    state: &State,
    seen: &Observations,
    settings: &Settings,
    node: &NodeName,
    now: &Now,
) -> Outcome {
    let report = seen.fresh(node, now.at, settings.detect_ms).and_then(|o| o.promoted.as_ref());
    match report {
        Some(promoted) if promoted.epoch == state.epoch => Outcome::Do(Draft {
            change: Change::Publish {
                epoch: state.epoch,
                promoted: promoted.clone(),
                promotion_id: first_promotion_id(node),
            },
            reasons: vec![Reason::Published { node: node.clone(), timeline: promoted.timeline }],
        }),
        _ => Outcome::Wait(Reason::WaitInitialise { node: node.clone() }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::basics::Moment;
    use crate::command::{Command, apply};
    use crate::decide::{Record, decide};
    use crate::observe::Observation;
    use crate::state::{Member, PgAddress, Phase, Replication};
    use crate::step::{Local, Step, step};

    fn me() -> NodeName {
        "n1".parse().unwrap()
    }

    fn proposed(adopt: Option<Content>) -> Proposed {
        let replication = Replication::Async { max_loss_bytes: 1, loss_bound_bytes: None };
        Proposed {
            cluster: "shop".to_owned(),
            settings: Settings { replication, detect_ms: 1000, drift_ppm: 0 },
            names: [me()].into(),
            record: Record::Nodes,
            adopt,
        }
    }

    /// Decides until nothing more is recorded; every change, and what is waited for then.
    fn run(state: &mut State, data: DataDir, proposed: &Proposed) -> (Vec<Change>, Vec<Reason>) {
        let mut seen = Observations::new(me(), Moment(0));
        let postgres = PgAddress { host: "h".to_owned(), port: 5432 };
        let member = Member {
            agent: "h:7400".to_owned(),
            postgres: Some(postgres),
            tags: Default::default(),
            data_dir: None,
        };
        let observation = Observation { member: Some(member), data, ..Observation::blank(me()) };
        seen.hear(state, observation, Moment(0));
        let now = Now { at: Moment(0), wall: 0, nonce: "secret".to_owned() };
        let mut changes = Vec::new();
        loop {
            let decision = decide(state, &seen, proposed, &now);
            let Some(Command { by, at, change, reasons }) = decision.command else {
                return (changes, decision.waits);
            };
            apply(state, &Command { by, at, change: change.clone(), reasons }).unwrap();
            changes.push(change);
        }
    }

    #[test]
    fn what_a_person_has_named_is_taken_over_with_what_held_for_its_clients() {
        let found = Content { hba: vec!["host all all samenet md5".to_owned()], ..Content::default() };
        let mut state = State::default();
        let present = DataDir::Present { system_identifier: 7 };
        let (changes, _) = run(&mut state, present, &proposed(Some(found.clone())));
        assert_eq!(state.phase, Phase::Initialising { node: me() });
        assert_eq!(*state.configuration.content(), found);
        let first = changes.iter().position(|change| matches!(change, Change::Reconfigure { .. })).unwrap();
        let then = changes.iter().position(|change| matches!(change, Change::Initialise { .. })).unwrap();
        assert!(first < then, "the server would start without its rules: {changes:?}");
        let told =
            |entry: &crate::state::Entry| entry.reason == Reason::Initialise { node: me(), adopted: Some(7) };
        assert!(state.history.iter().any(told));
    }

    #[test]
    fn nothing_is_made_where_something_was_to_be_taken_over() {
        let (changes, waits) =
            run(&mut State::default(), DataDir::Absent, &proposed(Some(Content::default())));
        assert!(!changes.iter().any(|change| matches!(change, Change::Initialise { .. })), "{changes:?}");
        assert_eq!(waits, [Reason::WaitNodes { missing: [me()].into() }]);
    }

    #[test]
    fn data_that_nobody_has_named_are_left_alone() {
        let present = DataDir::Present { system_identifier: 7 };
        let (_, waits) = run(&mut State::default(), present, &proposed(None));
        assert_eq!(waits, [Reason::RefuseInitialise { node: me(), system_identifier: 7 }]);
    }

    #[test]
    fn data_of_no_line_are_taken_over_and_others_started() {
        let mut state = State::default();
        let present = DataDir::Present { system_identifier: 7 };
        run(&mut state, present.clone(), &proposed(Some(Content::default())));
        let next = |line: Option<&str>, lease: Option<(u64, Moment)>| {
            let server = crate::observe::Server::Stopped;
            let line = line.map(str::to_owned);
            let local = Local { data: present.clone(), server, line, lease, ..Local::default() };
            step(&state, &me(), &local, Moment(0))
        };
        let lease = Some((1, Moment(10)));
        assert_eq!(next(None, lease), Step::Initialise);
        assert_eq!(next(Some(&first_promotion_id(&me())), lease), Step::StartPrimary);
        assert!(matches!(next(None, None), Step::Wait(_)), "nobody would end it");
    }
}
