//! The invariants of ARCHITECTURE.md, one file each, checked after every event or where they could break.

mod appointment;
mod avoidable;
mod configuration;
mod coverage;
mod durability;
mod fence;
mod knowledge;
mod lease;
mod liveness;
mod max_loss;
mod membership;
mod needless;
mod only_copy;
mod prefix;
mod seal;
mod views;
mod word;
mod writer;

use super::node::NodeId;
use super::postgres::Waiting;
use super::world::World;
use cluster::command::{Change, Command};
use cluster::state::State;
use cluster::step::Step;
use std::fmt;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name: the file under `invariants`.
    pub invariant: &'static str,
    /// What happened, with the evidence.
    pub what: String,
    /// When, in microseconds of the simulation.
    pub at: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken after {:.3} s: {}", self.invariant, self.at as f64 / 1e6, self.what)
    }
}

/// What the checks remember.
#[derive(Debug, Default)]
pub struct Checks {
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// The agreed state, as nobody in the simulation knows it.
    pub agreed: State,
    pub(super) knowledge: knowledge::Knowledge,
    promotions: appointment::Promotions,
    acknowledged: durability::Acknowledged,
    writer: writer::LastWriter,
    views: views::LastViews,
    recovery: liveness::Recovery,
}

impl Checks {
    fn fail(&mut self, invariant: &'static str, what: String, at: u64) {
        if self.violation.is_none() {
            self.violation = Some(Violation { invariant, what, at });
        }
    }

    /// Outside faults have ended.
    pub fn healed(&mut self, now: u64) {
        self.recovery.healed(now);
    }

    /// Whether the cluster is whole again after the last fault.
    pub fn recovered(&self) -> bool {
        self.recovery.is_whole()
    }
}

/// Checks what can be seen at any moment.
pub fn after_event(world: &mut World) {
    lease::check(world);
    views::check(world);
    liveness::check(world);
    if let Some(violation) = &world.checks.violation {
        world.say(|_| format!("BROKEN {violation}"));
    }
}

/// A server's WAL is not what its own PostgreSQL believes.
pub fn prefix_broken(world: &mut World, node: NodeId, what: &str) {
    prefix::broken(world, node, what);
}

/// WAL of another history was streamed from `from` onto what `to` has.
pub fn spoiled(world: &mut World, from: NodeId, to: NodeId) {
    prefix::spoiled(world, from, to);
}

/// A client was told that its commit is safe.
pub fn acknowledged(world: &mut World, node: NodeId, commit: Waiting) {
    writer::acknowledged(world, node, commit);
    durability::acknowledged(world, node, commit);
    coverage::acknowledged(world, node, commit.id);
    liveness::acknowledged(world, node);
}

/// A primary is about to start in place.
pub fn serves_again(world: &mut World, node: NodeId) {
    lease::serves_again(world, node);
}

/// A server is about to leave recovery.
pub fn before_promotion(world: &mut World, node: NodeId) {
    appointment::check(world, node);
    membership::promoted(world, node);
    lease::promoted(world, node);
    prefix::check(world, node);
    durability::check(world, node);
    max_loss::check(world, node);
}

/// A leader proposes `change`.
pub fn proposed(world: &mut World, leader: NodeId, command: &Command) {
    let change = &command.change;
    let term = world.nodes[leader].agent.as_ref().and_then(|a| a.leads.as_ref()).map(|l| l.term);
    if let (Change::Appoint { appointment, .. }, Some(term)) = (change, term) {
        world.checks.knowledge.decide(term, &appointment.promotion_id);
    }
    needless::proposed(world, leader, command);
    avoidable::proposed(world, leader, command);
    seal::counted(world, leader, change, &command.reasons);
    lease::proposed(world, leader, change);
    membership::proposed(world, leader, command);
}

/// `change` was agreed and applied.
pub fn agreed(world: &mut World, change: &Change) {
    appointment::agreed(world);
    word::agreed(world, change);
    lease::agreed(world, change);
    coverage::changed(world, change);
    configuration::agreed(world, change);
    membership::agreed(world, change);
}

/// An agent begins a step.
pub fn begins(world: &mut World, node: NodeId, step: &Step) {
    seal::begins(world, node, step);
}

/// An agent has looked at its server and begun what follows.
pub fn looked(world: &mut World, node: NodeId) {
    fence::looked(world, node);
}

/// A standby takes WAL of the server at `from`.
pub fn received(world: &mut World, from: NodeId, to: NodeId) {
    seal::received(world, from, to);
}

/// `node` gives up its data for a copy, whole or in part.
pub fn replaced(world: &mut World, node: NodeId, line: &str, system_identifier: u64) {
    only_copy::replaced(world, node, line, system_identifier);
}

/// `node` makes the database.
pub fn initialised(world: &mut World, node: NodeId) {
    only_copy::initialised(world, node);
}
