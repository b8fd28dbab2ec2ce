//! Making a host a part of a cluster: its address and ports, its configuration file, its certificates, the service that runs
//! it. What `pgkeel create`, `join`, `add-proxy` and `leave` have in common; the commands themselves are in `cli`.

pub mod address;
pub mod file;
pub mod meeting;
pub mod progress;
pub mod running;
pub mod service;
