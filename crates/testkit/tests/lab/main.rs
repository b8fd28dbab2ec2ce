//! The lab: real agents, real PostgreSQL, real proxies; killed, stopped, misconfigured.
//!
//! Run by `make lab`. One test at a time keeps the machine quiet. No test asks how quick something was: `make bench`
//! measures that.

mod agent;
mod copies;
mod failover;
mod frozen;
mod host;
mod lost;
mod nodes;
mod old_data;
mod proxy;
mod rejoin;
mod replication;
mod restart;
mod switchover;
mod why;
mod wrong;
