//! Questions to the leader, as `pgkeel why`, `why not`, `whatif` and `status` ask them.

use cluster::NodeName;
use cluster::decide::{Now, Proposed, decide};
use cluster::explain;
use cluster::observe::Observations;
use cluster::readiness;
use cluster::state::State;
use cluster::whatif::{self, Event};

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub fn answer(
    words: &[&str],
    state: &State,
    seen: &Observations,
    proposed: &Proposed,
    now: &Now,
) -> Vec<String> {
    match words {
        ["why"] => {
            let waits = decide(state, seen, proposed, now).waits;
            with_cures(explain::present(state, seen, &waits, now.at).sentences())
        }
        ["why", "not", node] => match explain::why_not(state, seen, proposed, &name(node), now) {
            Ok(answer) => with_cures(answer.sentences()),
            Err(unknown) => vec![unknown.to_string()],
        },
        ["readiness"] => {
            let waits = decide(state, seen, proposed, now).waits;
            let ready = readiness::readiness(state, seen, proposed, &waits, now);
            let concerns =
                ready.concerns.iter().map(|c| (c.to_string(), c.cure().map(|cure| cure.to_string())));
            with_cures(std::iter::once((ready.headline(), None)).chain(concerns).collect())
        }
        ["what", "if", event @ ..] => {
            let event = event_of(event);
            match whatif::what_if(state, seen, proposed, &event, now) {
                Ok(answer) => answer.sentences(),
                Err(unknown) => vec![unknown.to_string()],
            }
        }
        other => panic!("{other:?}: no question"),
    }
}

fn event_of(words: &[&str]) -> Event {
    match words {
        [node, "down"] => Event::Down { node: name(node) },
        ["partition", list] => Event::Partition { nodes: list.split(',').map(name).collect() },
        ["switchover"] => Event::Switchover { to: None },
        ["switchover", to] => Event::Switchover { to: Some(name(to)) },
        other => panic!("{other:?}: no event"),
    }
}

fn with_cures(told: Vec<(String, Option<String>)>) -> Vec<String> {
    let lines = told.into_iter().flat_map(|(said, cure)| {
        [Some(format!("says: {said}")), cure.map(|cure| format!("      cure: {cure}"))]
    });
    lines.flatten().collect()
}
