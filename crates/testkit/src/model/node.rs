//! What a node knows of itself and tells the leader.

use super::picture::{NodeId, Picture, Process, id, name};
use super::wal::{forks, lsn, timeline};
use super::{Planted, start};
use cluster::Moment;
use cluster::observe::{DataDir, Observation, Promoted, Replica, Seal, Seen, Server, Standby, SyncApplied};
use cluster::state::{Fork, Phase};
use cluster::step::Local;

impl Picture {
    /// What `step` is asked with.
    pub fn local(&self, node: NodeId) -> Local {
        let host = &self.nodes[node];
        Local {
            data: DataDir::Present { system_identifier: start::SYSTEM_IDENTIFIER },
            server: self.server(node),
            seal: self.seal(node),
            line: host.notes.line.clone(),
            following: host.notes.following.map(|(epoch, upstream)| (epoch, name(upstream))),
            lease: host.agent.lease.map(|epoch| (epoch, Moment(u64::MAX))),
            promised: host.notes.promised,
            inconsistent: !host.is_readable(),
            rewound_for: host.notes.rewound_for,
            sync_configured: host.agent.sync_configured.clone(),
            sync_revision: 0,
            ..Local::default()
        }
    }

    fn seal(&self, node: NodeId) -> Option<Seal> {
        self.nodes[node].notes.seal.as_ref().map(|seal| Seal {
            epoch: seal.epoch,
            timeline: seal.timeline,
            lsn: lsn(seal.records),
            line: seal.line.clone(),
            copied: false,
        })
    }

    fn server(&self, node: NodeId) -> Server {
        let host = &self.nodes[node];
        let (timeline, lsn) = (timeline(&host.wal), lsn(host.wal.len()));
        match host.process {
            Process::Stopped => Server::Stopped,
            Process::Primary => Server::Primary { timeline, lsn },
            Process::Standby | Process::Promoting if !host.is_readable() => Server::Starting,
            Process::Standby | Process::Promoting => Server::Standby(Standby {
                timeline,
                lsn,
                replay_lsn: lsn,
                upstream: host.upstream.map(name),
                streaming: host.stream.as_ref().is_some_and(|s| s.open),
                replay_lag_ms: None,
            }),
        }
    }

    /// What a heartbeat says. No ages: the model lets the leader suspect a primary at any time.
    pub fn observe(&mut self, node: NodeId, planted: Planted) -> Observation {
        self.watch_sync(node, planted);
        let host = &self.nodes[node];
        let state = self.known(node);
        let mut observation = Observation::blank(name(node));
        observation.epoch = state.epoch;
        observation.seen = Seen::of(&state);
        observation.data = DataDir::Present { system_identifier: start::SYSTEM_IDENTIFIER };
        observation.server = self.server(node);
        observation.seal = self.seal(node).filter(|s| s.epoch == state.epoch);
        observation.promoted = self.promoted(node);
        // That it follows the primary of this epoch is told; how long ago it last received is any time, so it never vetoes.
        let follows =
            host.stream.is_some() && host.notes.following.is_some_and(|(epoch, _)| epoch == state.epoch);
        let detect_ms = state.settings.as_ref().map_or(0, |s| s.detect_ms);
        observation.wal_silent_ms = follows.then_some(detect_ms);
        if host.process == Process::Primary {
            let streams = self.nodes.iter().enumerate().filter_map(|(id, n)| Some((id, n.stream.as_ref()?)));
            observation.replicas = streams
                .filter(|(_, s)| s.from == node)
                .map(|(id, s)| {
                    let flush_lsn = lsn(s.confirmed);
                    (name(id), Replica { streaming: true, flush_lsn, replay_lsn: flush_lsn })
                })
                .collect();
        }
        observation.sync_applied.clone_from(&host.agent.sync_applied);
        observation
    }

    /// Notes since when every WAL sender obeys the configured set.
    fn watch_sync(&mut self, node: NodeId, planted: Planted) {
        let host = &self.nodes[node];
        let Some(configured) =
            host.agent.sync_configured.as_ref().filter(|_| host.process == Process::Primary)
        else {
            return;
        };
        let set = configured.members.iter().filter_map(id).collect::<std::collections::BTreeSet<_>>();
        let mut senders = self.nodes.iter().filter_map(|n| n.stream.as_ref()).filter(|s| s.from == node);
        let obeyed = planted == Planted::SendersNotAwaited || senders.all(|s| s.obeys == host.sync);
        if host.agent.sync_applied.is_none()
            && set == host.sync.members
            && configured.k == host.sync.k
            && obeyed
        {
            let applied = SyncApplied { set: configured.clone(), since: lsn(host.wal.len()) };
            self.nodes[node].agent.sync_applied = Some(applied);
        }
    }

    fn promoted(&self, node: NodeId) -> Option<Promoted> {
        let host = &self.nodes[node];
        let state = self.known(node);
        let Phase::Promoting { appointment } = &state.phase else { return None };
        let mine =
            appointment.node == name(node) && host.notes.line.as_ref() == Some(&appointment.promotion_id);
        (mine && host.process == Process::Primary).then(|| Promoted {
            epoch: state.epoch,
            timeline: timeline(&host.wal),
            forks: forks(&host.wal)
                .into_iter()
                .map(|(timeline, at)| Fork { timeline, at: lsn(at) })
                .collect(),
            system_identifier: start::SYSTEM_IDENTIFIER,
        })
    }
}
