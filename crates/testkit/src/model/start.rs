//! Where the model starts: n1 serves epoch 1, n2 and n3 confirm, one commit was acknowledged.

use super::leader::{LATE, essence};
use super::picture::{
    Agent, Hashed, NODES, Names, Node, NodeId, Notes, Picture, Process, Stream, Used, name,
};
use super::wal::{Record, lsn};
use cluster::command::{apply, first_promotion_id};
use cluster::decide::{Now, Proposed, decide};
use cluster::observe::{DataDir, Observation, Observations, Promoted, Replica, Seen, Server, SyncApplied};
use cluster::state::{Degrade, Member, PgAddress, Phase, Replication, Settings, State};
use cluster::{Moment, NodeName};
use std::collections::BTreeMap;

/// Of the one database.
pub const SYSTEM_IDENTIFIER: u64 = 7;

/// The record as `decide` itself makes it, from nothing, while all goes well.
fn served() -> State {
    let settings = Settings {
        replication: Replication::Quorum { k: 1, degrade: Degrade::Strict },
        detect_ms: 2000,
        drift_ppm: 1000,
    };
    let names = (0..NODES).map(name).collect();
    let proposed =
        Proposed { cluster: "model".to_owned(), settings, names, record: Default::default(), adopt: None };
    let now = Now { at: LATE, wall: 0, nonce: "secret".to_owned() };
    let mut state = State::default();
    loop {
        let mut seen = Observations::new(name(NODES - 1), Moment(0));
        for node in 0..NODES {
            seen.hear(&state, well(&state, node), LATE);
        }
        match decide(&state, &seen, &proposed, &now).command {
            Some(command) if apply(&mut state, &command).is_ok() => {}
            Some(_) | None => return essence(state),
        }
    }
}

/// What a node reports while all goes well.
fn well(state: &State, node: NodeId) -> Observation {
    let mut observation = Observation::blank(name(node));
    observation.epoch = state.epoch;
    observation.seen = Seen::of(state);
    observation.member = Some(Member {
        agent: format!("{}:1", name(node)),
        postgres: Some(PgAddress { host: name(node).to_string(), port: 5432 }),
        tags: Default::default(),
        data_dir: None,
    });
    observation.data = DataDir::Absent;
    if state.phase == Phase::Empty {
        return observation;
    }
    observation.data = DataDir::Present { system_identifier: SYSTEM_IDENTIFIER };
    if node == 0 {
        observation.server = Server::Primary { timeline: 1, lsn: lsn(1) };
        observation.promoted =
            Some(Promoted { epoch: 1, timeline: 1, forks: Vec::new(), system_identifier: SYSTEM_IDENTIFIER });
        let replica = Replica { streaming: true, flush_lsn: lsn(1), replay_lsn: lsn(1) };
        observation.replicas =
            (1..NODES).map(|n| (name(n), replica.clone())).collect::<BTreeMap<NodeName, Replica>>();
        let set = state.sync_target();
        observation.sync_applied = Some(SyncApplied { set, since: lsn(1) });
    } else {
        observation.wal_silent_ms = Some(0);
    }
    observation
}

/// The first state of the model.
pub fn picture() -> Picture {
    let state = served();
    let asked = state.sync_target();
    let sync = Names::of(&asked);
    let nodes = (0..NODES).map(|node| {
        let primary = node == 0;
        Node {
            knows: 0,
            wal: vec![Record { epoch: 1, timeline: 1 }],
            consistent_at: 0,
            process: if primary { Process::Primary } else { Process::Standby },
            promoted_for: u64::from(primary),
            upstream: (!primary).then_some(0),
            stream: (!primary).then(|| Stream {
                from: 0,
                flushed: 1,
                confirmed: 1,
                obeys: sync.clone(),
                open: true,
            }),
            sync: sync.clone(),
            waiting: Vec::new(),
            notes: Notes {
                line: Some(first_promotion_id(&name(0))),
                following: (!primary).then_some((1, 0)),
                ..Notes::default()
            },
            agent: Agent {
                lease: primary.then_some(1),
                sync_configured: primary.then(|| asked.clone()),
                ..Agent::default()
            },
        }
    });
    Picture {
        nodes: nodes.collect(),
        log: vec![Hashed::new(state)],
        heard: vec![None; NODES],
        acknowledged: [((1, 1), 1)].into_iter().collect(),
        last_writer: 1,
        began_with: BTreeMap::new(),
        used: Used::default(),
        broken: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::picture::id;

    #[test]
    fn it_starts_served_with_both_standbys_in_the_set() {
        let picture = picture();
        let state = picture.agreed();
        assert!(matches!(state.phase, Phase::Serving { .. }), "{state:?}");
        assert_eq!((state.epoch, state.primary().and_then(id), state.sync.in_force.len()), (1, Some(0), 1));
        assert_eq!(state.sync_target().members, [name(1), name(2)].into_iter().collect());
    }
}
