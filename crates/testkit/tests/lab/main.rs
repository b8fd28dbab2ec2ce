//! The lab: real agents, real PostgreSQL, real proxies; killed, stopped, misconfigured.
//!
//! Run by `make lab`, two tests at a time, as each mostly waits; by `make lab-long` one at a time. No test asks how quick
//! something was: `make bench` measures that.

mod adoption;
mod agent;
mod at_the_server;
mod audit;
mod configuration;
mod copies;
mod degrade;
mod etcd;
mod failover;
mod fence;
mod first_start;
mod force;
mod frozen;
mod hooks;
mod host;
mod identity;
mod load;
mod lost;
mod membership;
mod moving;
mod nodes;
mod old_data;
mod oldest_first;
mod pooled;
mod proxy;
mod rejoin;
mod replication;
mod restart;
mod switchover;
mod upgrade;
mod users;
mod whatif;
mod why;
mod wrong;
