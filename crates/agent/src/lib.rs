//! Runs one node: observes, decides with `cluster`, acts on PostgreSQL; keeps the store, serves the API.
//!
//! Read [`run`] first: it is the loop. [`hands`] does what the loop says, [`postgres`] is how, [`guard`] ends a server
//! whose agent is gone, [`store`] is the record that all agents share.

pub mod start;

pub mod run;

pub mod api;
pub mod audit;
pub mod clock;
pub mod fence;
pub mod guard;
pub mod hands;
pub mod heartbeat;
pub mod hooks;
pub mod http;
pub mod marker;
pub mod messages;
pub mod os_user;
pub mod postgres;
pub mod probing;
pub mod reach;
pub mod settings;
pub mod stall;
pub mod store;
pub mod successor;
