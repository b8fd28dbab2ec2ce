//! The command line, one file per command. [`args`] says what there is, [`dispatch`] calls it.

pub mod args;
pub mod dispatch;

pub mod add_proxy;
pub mod agents;
pub mod aside;
pub mod cert;
pub mod cert_args;
pub mod clone;
pub mod config;
pub mod configure;
pub mod create;
pub mod each_node;
pub mod explain;
pub mod failover;
pub mod generate;
pub mod guard;
pub mod invite;
pub mod join;
pub mod leave;
pub mod lost;
pub mod membership_args;
pub mod moment;
pub mod order;
pub mod restart;
pub mod run;
pub mod sign;
pub mod status;
pub mod store;
pub mod store_args;
pub mod succeed;
pub mod switchover;
pub mod text;
pub mod upgrade;
pub mod why;
