//! What the agents tell each other about where the record is: one that was away while it moved is led by nobody, and asks.

use super::moving::Opening;
use crate::http;
use cluster::NodeName;
use cluster::state::State;
use futures::future::join_all;
use identity::Caller;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Path of the question.
pub(crate) const PATH: &str = "/v1/store/opening";
/// Deadline of a question.
const LIMIT: Duration = Duration::from_millis(700);
/// How long nobody has to lead before the others are asked, and between two questions.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(1500);

/// Where an agent has the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// Whose agent it is.
    pub node: NodeName,
    /// Its cluster.
    pub cluster: String,
    /// The number of the store that it uses.
    pub number: u64,
    /// The store that it uses, or is to use, if it knows how that began.
    pub opening: Option<Opening>,
    /// The revision of the record as it knows it.
    #[serde(default)]
    pub revision: u64,
}

/// Whoever else belongs to the cluster, by the record and by the configuration file.
pub(crate) fn others(
    state: &State,
    configured: &BTreeMap<NodeName, String>,
    me: &NodeName,
) -> BTreeMap<NodeName, String> {
    let mut all = configured.clone();
    all.extend(state.admitted.iter().map(|(name, seat)| (name.clone(), seat.address.clone())));
    all.extend(state.members.iter().map(|(name, member)| (name.clone(), member.agent.clone())));
    all.retain(|name, _| name != me && !state.removed.contains(name));
    all
}

/// Asks all of these at once.
pub(crate) async fn ask(caller: &Caller, others: &BTreeMap<NodeName, String>) -> Vec<Whereabouts> {
    let calls = others.iter().map(|(node, address)| async move {
        let answer = http::get::<Whereabouts>(caller, address, PATH, LIMIT).await;
        answer.ok().filter(|answer| answer.node == *node)
    });
    join_all(calls).await.into_iter().flatten().collect()
}

/// The latest store that somebody of this cluster tells of, if it is later than this one.
pub(crate) fn latest(
    (cluster, me): (&str, &NodeName),
    number: u64,
    answers: Vec<Whereabouts>,
) -> Option<Opening> {
    let told =
        answers.into_iter().filter(|answer| answer.cluster == cluster).filter_map(|answer| answer.opening);
    told.filter(|opening| opening.number > number && opening.fits(cluster, me))
        .max_by_key(|opening| opening.number)
}

/// Whether a majority of these nodes, `me` included, knows of no store after this number, and none that this one, which begins with
/// this revision, has begun; otherwise what is missing.
pub(crate) fn none_later(
    (cluster, me): (&str, &NodeName),
    (number, revision): (u64, u64),
    nodes: &BTreeSet<NodeName>,
    answers: &[Whereabouts],
) -> Result<(), String> {
    let of_us = |answer: &&Whereabouts| answer.cluster == cluster && nodes.contains(&answer.node);
    let knows_of =
        |answer: &Whereabouts| answer.opening.as_ref().map_or(0, |opening| opening.number).max(answer.number);
    if let Some(later) = answers.iter().filter(of_us).find(|answer| knows_of(answer) > number) {
        return Err(format!("{} knows of a later move ({})", later.node, knows_of(later)));
    }
    let begun = |answer: &&Whereabouts| {
        let said = answer.opening.as_ref().is_some_and(|opening| opening.number == number && opening.begun);
        said || answer.revision > revision
    };
    if let Some(there) = answers.iter().filter(of_us).find(begun) {
        return Err(format!(
            "{} says that it has begun there, and it is not found: was that etcd emptied?",
            there.node
        ));
    }
    let mut heard: BTreeSet<&NodeName> = answers.iter().filter(of_us).map(|answer| &answer.node).collect();
    heard.insert(me);
    if heard.len() * 2 > nodes.len() {
        return Ok(());
    }
    Err(format!(
        "{} of {} nodes answer, and a majority has to say that the record has not gone further before it begins",
        heard.len(),
        nodes.len()
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(node: &str, number: u64) -> Whereabouts {
        Whereabouts { node: node.parse().unwrap(), cluster: "c".into(), number, opening: None, revision: 9 }
    }

    #[test]
    fn a_store_begins_only_while_a_majority_knows_of_no_later_one() {
        let me: NodeName = "n1".parse().unwrap();
        let nodes: BTreeSet<NodeName> = ["n1", "n2", "n3"].map(|n| n.parse().unwrap()).into();
        let judged = |answers: &[Whereabouts]| none_later(("c", &me), (1, 9), &nodes, answers);
        assert!(judged(&[]).unwrap_err().starts_with("1 of 3"));
        assert_eq!(judged(&[at("n2", 0)]), Ok(()));
        assert_eq!(judged(&[at("n2", 1)]), Ok(()));
        assert!(judged(&[at("n2", 1), at("n3", 2)]).unwrap_err().contains("later move (2)"));
        assert!(judged(&[at("n1", 1)]).is_err(), "itself counts once");
        assert!(judged(&[at("n9", 1)]).is_err(), "who does not belong does not count");
        let foreign = Whereabouts { cluster: "d".into(), ..at("n2", 1) };
        assert!(judged(&[foreign]).is_err());
        let begun = |text: Result<(), String>| text.unwrap_err().contains("says that it has begun there");
        assert!(begun(judged(&[Whereabouts { revision: 10, ..at("n2", 1) }])), "it knows more than that");
        let opening = |number, begun| Opening { number, begun, ..Opening::for_test(State::default()) };
        let told = |number, is_begun| Whereabouts { opening: Some(opening(number, is_begun)), ..at("n2", 1) };
        assert_eq!(judged(&[told(1, false)]), Ok(()));
        assert!(begun(judged(&[told(1, true)])));
        assert!(judged(&[told(2, true)]).unwrap_err().contains("later move (2)"), "it goes there");
        let alone: BTreeSet<NodeName> = [me.clone()].into();
        assert_eq!(none_later(("c", &me), (1, 9), &alone, &[]), Ok(()));
    }
}
