//! What the cluster is, what should happen next, and why.
//!
//! This crate is pure: it knows no clock, no network, no file, no randomness and no PostgreSQL. Time is handed in,
//! decisions are handed out. Two functions carry it:
//!
//! - [`decide::decide`] runs on the leader: from the recorded [`state::State`] and the latest
//!   [`observe::Observations`] it returns the [`command::Command`]s to record, and the [`reason::Reason`]s.
//! - [`step::step`] runs on every node: from the same state and what the node knows of itself it returns the one
//!   thing this node does next.
//!
//! State changes in one place only: [`command::apply`].

pub mod basics;
pub mod command;
pub mod configuration;
pub mod copy;
pub mod membership;
pub mod moving;
pub mod mutant;
pub mod observe;
pub mod reason;
pub mod restart;
pub mod state;
pub mod users;
pub mod view;

pub mod brake;
pub mod candidate;
pub mod decide;
pub mod detect;
pub mod explain;
pub mod exposure;
pub mod handover;
pub mod lease;
pub mod leash;
pub mod lineage;
pub mod quorum;
pub mod readiness;
pub mod status;
pub mod step;
pub mod whatif;
pub mod word;

pub use basics::{Epoch, Lsn, Millis, Moment, NodeName, Timeline, WallMs};
