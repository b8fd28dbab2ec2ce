//! The guard with real processes. The guard itself is the example `guard_stub`, which `cargo test -p agent` builds.

mod postgres;
mod server;
mod socket;
mod support;
