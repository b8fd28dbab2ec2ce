//! The store, three nodes in one process: each with a runtime, a port and a directory of its own, so that ending its runtime
//! is as sudden as a crash. One suite runs on both kinds of store; what only one of them can show is in a file of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod both;
mod embedded;
mod etcd;
mod etcd_rounds;
mod etcd_secured;
mod removed;
mod servers;
mod trio;
mod voters;
