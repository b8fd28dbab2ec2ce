//! The guard: parent of the postmaster, and its dead man's switch.
//!
//! An agent tells the guard until when the server may run unattended. When CLOCK_BOOTTIME passes that deadline, the
//! guard kills the server with everything it started, whatever has become of the agent. It also tells the agent
//! when the last process of the server is gone, which no observer from outside can know for certain.
//!
//! What is absent here: the guard knows nothing of leases, epochs or PostgreSQL's files; it never starts a server a
//! second time. It has one thread, no async runtime and no signal handler, so that little can go wrong in it.
//! If it is killed all the same, the kernel stops the server (parent-death signal, set by [`exec_main`]).

mod children;
pub mod client;
mod connection;
mod conversation;
mod duty;
mod launch;
pub mod protocol;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;

pub use client::{GuardError, GuardEvent, GuardHandle, StartOptions};
pub use launch::{Become, exec_main};
pub use protocol::{EndCode, StopMode};
pub use watch::main;

/// What `pgkeel guard` was told on its command line.
#[derive(Debug, Clone)]
pub struct GuardOptions {
    /// Unix socket to listen at; created with mode 0600, removed at the end. At most 107 bytes.
    pub socket: PathBuf,
    /// File to which output of the server and of the guard is appended.
    pub log: PathBuf,
    /// Operating-system user to run the server as; `None`: the guard's own.
    pub user: Option<String>,
    /// First deadline, CLOCK_BOOTTIME milliseconds, in force before the server is started; `None`: no deadline.
    pub deadline_ms: Option<u64>,
    /// Table of nftables that closes the server's port (see [`crate::fence`]): removed at the end, unless an agent is there
    /// to do it.
    pub fence: Option<String>,
    /// The server's program. It runs in the directory `/`, so give an absolute path.
    pub program: OsString,
    /// Its arguments; paths among them are to be absolute too.
    pub args: Vec<OsString>,
}
