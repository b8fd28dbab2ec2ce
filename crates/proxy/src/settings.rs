//! What a proxy is told at its start.

use cluster::view::Server;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
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
    /// Without a cluster: the one server, which is always the primary. It needs no agent.
    pub server: Option<Server>,
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
    /// Pools of server connections, lent for a transaction. Without it each session has its own server connection.
    pub pool: Option<PoolSettings>,
    /// TLS towards clients; without it they are offered none.
    pub tls: Option<ClientTls>,
    /// TLS towards servers.
    pub server_tls: ServerTls,
}

/// TLS towards clients. The files are looked at again while the proxy runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// What is asked of clients.
    pub mode: ClientTlsMode,
    /// The certificate and those between it and an authority (PEM).
    pub cert: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// With [`ClientTlsMode::Verify`]: the authorities that sign clients' certificates (PEM).
    pub ca: Option<PathBuf>,
}

impl ClientTls {
    /// All files.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        [&self.cert, &self.key].into_iter().chain(&self.ca).cloned().collect()
    }
}

/// What is asked of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTlsMode {
    /// They may use TLS.
    Allow,
    /// They must.
    Require,
    /// They must, and show a certificate that a trusted authority has signed.
    Verify,
}

/// TLS towards servers; the words are those of libpq's sslmode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServerTls {
    /// They are not asked for it.
    #[default]
    Disable,
    /// They are asked; those that have none are used without.
    Prefer,
    /// They must have it, whatever their certificate.
    Require,
    /// Their certificate must be signed by an authority of this file (PEM).
    VerifyCa(PathBuf),
    /// That, and it must be made out to the host that the view names.
    VerifyFull(PathBuf),
}

/// Settings of the pooled mode. Limits are shared out among the workers, rounded up.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Most server connections of one pool, which is one database, user and set of start-up parameters.
    pub servers_max: usize,
    /// Most server connections of all pools.
    pub open_max: usize,
    /// How long a client waits for a server connection before it gets an error.
    pub query_wait: Duration,
    /// A client that has waited so long is told, once.
    pub notice_after: Duration,
    /// A server connection that was idle so long is closed.
    pub idle_max: Duration,
    /// An older server connection is closed as soon as it is idle.
    pub age_max: Duration,
    /// How clients are let in.
    pub auth: ClientAuth,
}

/// How clients are let in.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// Whoever comes, under any name: only where nobody else can reach the proxy.
    Trust,
    /// By SCRAM-SHA-256, with the verifiers that this role reads from pg_authid on the server.
    Scram(Lookup),
}

/// The role that looks up verifiers: it may log in, and read the catalog pg_authid.
#[derive(Clone)]
pub struct Lookup {
    /// Its name.
    pub user: String,
    /// Its password, if servers ask it for one.
    pub password: Option<String>,
    /// The database in which it looks: any will do.
    pub database: String,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup")
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}
