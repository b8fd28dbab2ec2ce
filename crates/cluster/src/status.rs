//! The cluster as a person sees it: one line per node, and what is waited for.

use crate::basics::{Epoch, Lsn, Millis, Moment, NodeName, Timeline};
use crate::configuration::{self, Pending};
use crate::copy::CopyProgress;
use crate::exposure::Exposure;
use crate::handover::{Planned, Stage};
use crate::membership;
use crate::observe::{DataDir, Heard, Observation, Observations, Server};
use crate::readiness::Readiness;
use crate::reason::Reason;
use crate::state::{Degrade, Phase, Replication, State};
use crate::view;
use serde::{Deserialize, Serialize};

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It receives WAL.
    Standby,
    /// It only votes.
    Witness,
    /// It has no running server.
    None,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: NodeName,
    /// `host:port` of its agent.
    pub agent: String,
    /// `host:port` of its PostgreSQL.
    pub postgres: Option<String>,
    /// What it is.
    pub role: Role,
    /// One word: running, streaming, sealed, starting, stopped, hung, silent, no data, ...
    pub state: String,
    /// The epoch it has seen.
    pub epoch: Option<Epoch>,
    /// The timeline of its last WAL.
    pub timeline: Option<Timeline>,
    /// The last position it holds.
    pub lsn: Option<Lsn>,
    /// Bytes of WAL it lacks, against the furthest known position of the primary.
    pub lag_bytes: Option<u64>,
    /// Age of the last transaction replayed, in milliseconds; 0 when nothing waits to be replayed.
    pub lag_ms: Option<Millis>,
    /// What remains of its lease.
    pub lease_left_ms: Option<Millis>,
    /// Whether it is in the sync set.
    pub sync: bool,
    /// Age of its last heartbeat at the leader.
    pub heard_ms: Option<Millis>,
    /// How far its copy is, while one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copying: Option<CopyProgress>,
    /// The version of the cluster-wide configuration that its server has.
    #[serde(default)]
    pub configured: u64,
    /// What its server takes on only when it starts again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<Pending>,
    /// What is left of its certificate's time, once that is less than a third and it should have been renewed; 0: others refuse it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_left_ms: Option<Millis>,
    /// What it does, and what hinders it.
    pub why: String,
}

/// What would be lost if the primary vanished now, and why so much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposed {
    /// How much.
    #[serde(flatten)]
    pub exposure: Exposure,
    /// In one sentence.
    pub why: String,
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub cluster: String,
    /// The node that answered.
    pub asked: NodeName,
    /// The leader, if the store has one.
    pub leader: Option<NodeName>,
    /// The present epoch.
    pub epoch: Epoch,
    /// Commands applied.
    pub revision: u64,
    /// One word: empty, initialising, sealing, promoting, serving.
    pub phase: String,
    /// The published primary.
    pub primary: Option<NodeName>,
    /// Replication mode in words.
    pub replication: String,
    /// The version of the cluster-wide configuration in force.
    #[serde(default)]
    pub configuration: u64,
    /// What would be lost if the primary vanished now; `None`: there is none, or it is not known here.
    #[serde(default)]
    pub exposure: Option<Exposed>,
    /// Where commits do not wait for standbys whatever `replication` says (`synchronous_commit` lowered).
    #[serde(default)]
    pub opted_out: Vec<String>,
    /// Switchovers that wait for their time.
    #[serde(default)]
    pub planned: Vec<Planned>,
    /// All nodes.
    pub nodes: Vec<NodeStatus>,
    /// Whether the primary could be lost now; only the leader can say.
    #[serde(default)]
    pub readiness: Option<Readiness>,
    /// What the cluster waits for or refuses, and why; one "all is well" when nothing.
    pub why: Vec<String>,
}

/// Puts together what the node `asked` knows. On the leader `observations` has all nodes, elsewhere only itself.
#[must_use]
pub fn status(
    state: &State,
    observations: &Observations,
    asked: &NodeName,
    leader: Option<&NodeName>,
    reasons: &[Reason],
    now: Moment,
) -> Status {
    let primary = view_primary(state);
    let primary_lsn = furthest_primary_lsn(observations);
    let nodes = state.seated().map(|n| node_status(state, observations, n, primary_lsn, now)).collect();
    Status {
        cluster: state.cluster.clone(),
        asked: asked.clone(),
        leader: leader.cloned(),
        epoch: state.epoch,
        revision: state.revision,
        phase: phase_word(&state.phase).to_owned(),
        primary,
        replication: replication_words(state),
        configuration: state.configuration.number(),
        exposure: exposed(state, observations),
        opted_out: opted_out(state, observations),
        planned: state.planned.clone(),
        nodes,
        readiness: None,
        why: reasons.iter().map(ToString::to_string).collect(),
    }
}

/// The view that proxies get.
#[must_use]
pub fn view(state: &State) -> view::View {
    let server = |name: &NodeName| {
        state.members.get(name).and_then(|m| m.postgres.as_ref()).map(|pg| view::Server {
            node: name.to_string(),
            host: pg.host.clone(),
            port: pg.port,
        })
    };
    let primary = view_primary(state);
    let readers = match primary {
        Some(ref p) => {
            let stay = |n: &&NodeName| *n != p && !state.leaving.contains_key(*n);
            state.data_nodes().map(|(n, _)| n).filter(stay).filter_map(server).collect()
        }
        None => Vec::new(),
    };
    view::View {
        cluster: state.cluster.clone(),
        epoch: state.epoch,
        revision: state.revision,
        waiting: primary.is_none().then(|| waiting_sentence(state)),
        primary: primary.as_ref().and_then(server),
        primary_agent: primary.as_ref().and_then(|node| agent_address(state, node)),
        readers,
        hold: state.handover.as_ref().filter(|h| h.stage != Stage::Preparing).map(ToString::to_string),
        agents: state.seated().filter_map(|node| agent_address(state, node)).collect(),
    }
}

fn agent_address(state: &State, node: &NodeName) -> Option<String> {
    let registered = state.members.get(node).map(|member| member.agent.clone());
    registered.or_else(|| state.admitted.get(node).map(|seat| seat.address.clone()))
}

fn view_primary(state: &State) -> Option<NodeName> {
    match &state.phase {
        Phase::Serving { appointment } => Some(appointment.node.clone()),
        Phase::Empty | Phase::Initialising { .. } | Phase::Sealing { .. } | Phase::Promoting { .. } => None,
    }
}

fn waiting_sentence(state: &State) -> String {
    match &state.phase {
        Phase::Empty => "the cluster has no database yet".to_owned(),
        Phase::Initialising { node } => format!("{node} makes the database"),
        Phase::Sealing { .. } => format!("epoch {} is open: a new primary is being chosen", state.epoch),
        Phase::Promoting { appointment } => {
            format!("{} is being promoted for epoch {}", appointment.node, state.epoch)
        }
        Phase::Serving { appointment } => format!("{} serves", appointment.node),
    }
}

fn phase_word(phase: &Phase) -> &'static str {
    match phase {
        Phase::Empty => "empty",
        Phase::Initialising { .. } => "initialising",
        Phase::Sealing { .. } => "sealing",
        Phase::Promoting { .. } => "promoting",
        Phase::Serving { .. } => "serving",
    }
}

fn replication_words(state: &State) -> String {
    match state.settings.as_ref().map(|s| s.replication) {
        None => "not known yet".to_owned(),
        Some(Replication::Async { max_loss_bytes, loss_bound_bytes: None }) => {
            format!("async, max_loss {max_loss_bytes} bytes")
        }
        Some(Replication::Async { max_loss_bytes, loss_bound_bytes: Some(bound) }) => {
            format!("async, max_loss {max_loss_bytes} bytes, loss_bound {bound} bytes")
        }
        Some(Replication::Quorum { k, degrade: Degrade::Strict }) => {
            format!("quorum, {k} standby(s) confirm each commit")
        }
        Some(Replication::Quorum { k, degrade: Degrade::Available }) => {
            format!("quorum, {k} standby(s) confirm each commit while they can (degrade = available)")
        }
    }
}

fn exposed(state: &State, observations: &Observations) -> Option<Exposed> {
    let primary = view_primary(state)?;
    let fewest = state.sync.in_force.iter().filter(|set| set.can_confirm()).map(|set| set.k).min();
    if let (Some(_), Some(k), false) = (state.confirmations(), fewest, state.sync.any_open()) {
        let why = format!("every acknowledged commit is confirmed by {k} of the sync set");
        return Some(Exposed { exposure: Exposure::none(), why });
    }
    let report = &observations.nodes.get(&primary)?.observation;
    let exposure = report.exposure.clone().filter(|_| report.epoch == state.epoch)?;
    let why = match (state.confirmations(), &exposure.nearest) {
        (_, None) => "no standby that may become primary has been heard".to_owned(),
        (Some(_), Some(node)) => {
            format!("commits were not waiting for standbys (degrade = available); {node} has most")
        }
        (None, Some(node)) => format!("commits do not wait for standbys; {node} has most"),
    };
    Some(Exposed { exposure, why })
}

fn opted_out(state: &State, observations: &Observations) -> Vec<String> {
    let primary = view_primary(state).filter(|_| state.confirmations().is_some());
    let report = primary.and_then(|p| observations.nodes.get(&p));
    report.map(|heard| heard.observation.opted_out.clone()).unwrap_or_default()
}

/// The furthest position that any node has heard of the primary.
#[must_use]
pub fn furthest_primary_lsn(observations: &Observations) -> Option<Lsn> {
    observations.nodes.values().filter_map(|h| h.observation.primary_lsn).max()
}

fn node_status(
    state: &State,
    observations: &Observations,
    node: &NodeName,
    primary_lsn: Option<Lsn>,
    now: Moment,
) -> NodeStatus {
    let member = state.members.get(node);
    let heard = observations.nodes.get(node);
    let silent_after = state.settings.as_ref().map_or(1500, |s| s.detect_ms);
    let silent = heard.is_none_or(|h| now.since(h.at) >= silent_after);
    let (role, word) = role_and_word(state, heard, silent);
    let (timeline, lsn) = position(heard);
    let sync = state.sync.contains(node);
    let age = heard.map(|h| now.since(h.at));
    NodeStatus {
        node: node.clone(),
        agent: agent_address(state, node).unwrap_or_default(),
        postgres: member.and_then(|m| m.postgres.as_ref()).map(|pg| format!("{}:{}", pg.host, pg.port)),
        role,
        state: word,
        epoch: heard.map(|h| h.observation.epoch),
        timeline,
        lsn,
        lag_bytes: if role == Role::Standby {
            primary_lsn.zip(lsn).map(|(p, l)| p.bytes_after(l))
        } else {
            None
        },
        lag_ms: heard.and_then(|h| replay_lag(&h.observation)),
        lease_left_ms: heard
            .and_then(|h| h.observation.lease_left_ms)
            .zip(age)
            .map(|(l, a)| l.saturating_sub(a)),
        sync,
        heard_ms: age,
        copying: heard.and_then(|h| h.observation.copying.clone()),
        configured: heard.map_or(0, |h| h.observation.configured),
        pending: heard.map(|h| h.observation.pending.clone()).unwrap_or_default(),
        certificate_left_ms: heard.and_then(|h| h.observation.certificate_left_ms),
        why: leaving(state, node)
            + &maintained(state, node)
            + &restart_pending(heard)
            + &heard.map_or_else(
                || "no heartbeat yet".to_owned(),
                |h| why_line(&h.observation, silent, now.since(h.at)),
            ),
    }
}

fn leaving(state: &State, node: &NodeName) -> String {
    let of = |l: &membership::Leaving| format!("leaving: asked for by {}; ", l.by);
    state.leaving.get(node).map_or_else(String::new, of)
}

fn maintained(state: &State, node: &NodeName) -> String {
    state.maintenance.get(node).map_or_else(String::new, |m| {
        let text = m.text.as_ref().map_or_else(String::new, |text| format!(": {text}"));
        format!("maintenance by {}{text}; ", m.by)
    })
}

fn restart_pending(heard: Option<&Heard>) -> String {
    let pending = heard.map(|h| h.observation.pending.as_slice()).unwrap_or_default();
    match pending {
        [] => String::new(),
        pending => format!("restart pending: {}; ", configuration::pending_names(pending)),
    }
}

fn replay_lag(o: &Observation) -> Option<Millis> {
    match &o.server {
        Server::Standby(s) => Some(s.replay_lag_ms.unwrap_or(0)),
        _ => None,
    }
}

fn position(heard: Option<&Heard>) -> (Option<Timeline>, Option<Lsn>) {
    match heard.map(|h| &h.observation.server) {
        Some(Server::Standby(s)) => (Some(s.timeline), Some(s.lsn)),
        Some(Server::Primary { timeline, lsn }) => (Some(*timeline), Some(*lsn)),
        _ => (None, None),
    }
}

fn why_line(o: &Observation, silent: bool, age: Millis) -> String {
    if silent {
        return format!("no heartbeat for {:.1} s; last: {}", age as f64 / 1000.0, o.doing);
    }
    let doing = match &o.copying {
        Some(progress) => format!("{}: {progress}", o.doing),
        None => o.doing.clone(),
    };
    match &o.problem {
        Some(problem) => format!("{doing}: {problem}"),
        None => doing,
    }
}

fn role_and_word(state: &State, heard: Option<&Heard>, silent: bool) -> (Role, String) {
    let Some(heard) = heard else { return (Role::None, "unknown".to_owned()) };
    let o = &heard.observation;
    if o.data == DataDir::Witness {
        return (Role::Witness, if silent { "silent" } else { "voting" }.to_owned());
    }
    let (role, word) = match &o.server {
        Server::Unknown => (Role::None, "unknown"),
        Server::Stopped if o.data == DataDir::Absent => (Role::None, "no data"),
        Server::Stopped => (Role::None, "stopped"),
        Server::Starting => (Role::None, "starting"),
        Server::Unresponsive { .. } => (Role::None, "hung"),
        Server::Primary { .. } if state.lease_holder() == Some(&o.node) => (Role::Primary, "running"),
        Server::Primary { .. } => (Role::None, "fenced"),
        Server::Standby(s) if s.streaming => (Role::Standby, "streaming"),
        Server::Standby(s) if s.upstream.is_some() => (Role::Standby, "connecting"),
        Server::Standby(_) => (Role::Standby, "sealed"),
    };
    if silent { (Role::None, "silent".to_owned()) } else { (role, word.to_owned()) }
}
