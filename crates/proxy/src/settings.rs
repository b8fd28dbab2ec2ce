//! What a proxy is told at its start.

use std::net::SocketAddr;
use std::time::Duration;

/// Settings of one proxy; it reads nothing else.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the cluster; views of another cluster are refused.
    pub cluster: String,
    /// Addresses on which clients are accepted.
    pub listen: Vec<SocketAddr>,
    /// Agents that tell the view, as `host:port`; all are listened to at the same time and the newest view counts.
    pub agents: Vec<String>,
    /// How long a new connection, or a session that moves to another server, waits while there is no primary. Usually 30 s.
    pub hold: Duration,
    /// How long one attempt to reach a server may take before the next one.
    pub connect_timeout: Duration,
    /// How long a client may take to send its start-up packet. Usually 10 s.
    pub startup_timeout: Duration,
    /// Most client sessions at the same time; more are refused with SQLSTATE 53300.
    pub clients_max: usize,
    /// Number of worker threads, usually one for each core; at least one is started.
    pub workers: usize,
}
