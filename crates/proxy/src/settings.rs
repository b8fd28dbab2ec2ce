//! What a proxy is told at its start.

use crate::roster::Patience;
use cluster::view::Server;
use std::collections::BTreeMap;
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
    /// A Unix socket for clients of this host, besides.
    pub unix_listen: Option<UnixListen>,
    /// Agents that tell the view, as `host:port`; all are listened to at the same time and the newest view counts.
    pub agents: Vec<String>,
    /// Without a cluster's agents: the servers, one of which is the primary. One alone always is.
    pub servers: Vec<Server>,
    /// With several of them: the role that asks them which one it is.
    pub ask_as: Option<Lookup>,
    /// Nodes whose server may be reached by a Unix socket of this host, each with the directory that the socket is in.
    pub server_sockets: BTreeMap<String, PathBuf>,
    /// All proxies that a client's cancel request may reach, as `host:port`; this one may be among them.
    pub peers: Vec<String>,
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
    /// Who may use the console, the database `pgkeel` of the proxy itself.
    pub console: ConsoleSettings,
    /// A Unix socket by which a later process can take the listening sockets over.
    pub takeover: Option<PathBuf>,
    /// How long clients may stay after that. Usually 5 minutes.
    pub drain: Duration,
}

/// The Unix socket `.s.PGSQL.PORT`, with the port of the first address of [`Settings::listen`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixListen {
    /// The directory that it is in.
    pub dir: PathBuf,
    /// Permissions of its file: who may write to it may connect.
    pub mode: u32,
}

/// How connections without TLS are read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// By io_uring where the kernel permits it, or else by epoll.
    #[default]
    Auto,
    /// By epoll.
    Epoll,
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
    /// The authorities that sign clients' certificates (PEM). With [`ClientTlsMode::Verify`] all clients need one, otherwise
    /// those of whom [`ClientAuth::Rules`] ask for it.
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

/// Settings of the console. While nobody may use it, it is off.
#[derive(Clone, Debug, Default)]
pub struct ConsoleSettings {
    /// Roles that may do everything there.
    pub users: Vec<String>,
    /// Roles that may look.
    pub viewers: Vec<String>,
    /// In the session mode: who tells their verifiers. The pooled mode knows that already.
    pub verifiers: Option<Verifiers>,
}

/// Settings of the pooled mode. Limits are those of all workers together.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Most server connections of one pool, which is one database, user and set of start-up parameters.
    pub servers_max: usize,
    /// So many more, once a client has waited for `reserve_after`.
    pub reserve: usize,
    /// See `reserve`.
    pub reserve_after: Duration,
    /// Server connections of a pool that are kept open though nobody needs them.
    pub servers_min: usize,
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
    /// What clients may use.
    pub limits: ClientLimits,
    /// Who keeps a server for the whole session.
    pub whole_sessions: WholeSessions,
    /// How connections are read and written.
    pub io: Io,
}

/// Clients of the pooled mode that keep the server that they were lent first until they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WholeSessions {
    /// Those of these users.
    pub users: Vec<String>,
    /// Those of these databases.
    pub databases: Vec<String>,
}

impl WholeSessions {
    pub(crate) fn has(&self, user: &[u8], database: &[u8]) -> bool {
        let names = |list: &[String], name: &[u8]| list.iter().any(|listed| listed.as_bytes() == name);
        names(&self.users, user) || names(&self.databases, database)
    }
}

/// Limits of the pooled mode's clients; `None` is no limit.
#[derive(Clone, Debug, Default)]
pub struct ClientLimits {
    /// Most clients of one user.
    pub per_user_max: Option<usize>,
    /// Most clients of one database.
    pub per_database_max: Option<usize>,
    /// A client that sits in a transaction so long without a statement is ended with SQLSTATE 25P03.
    pub idle_in_transaction_max: Option<Duration>,
    /// A client that says nothing outside a transaction for so long is ended with SQLSTATE 57P05.
    pub idle_max: Option<Duration>,
}

impl Settings {
    /// Whether there are pools; in the session mode only for looking up the verifiers of the console's users.
    pub(crate) fn has_pools(&self) -> bool {
        self.pool.is_some() || matches!(self.console.verifiers, Some(Verifiers::Role(_)))
    }

    /// Who tells verifiers.
    pub(crate) fn verifiers(&self) -> Option<&Verifiers> {
        match self.pool.as_ref().map(|pool| &pool.auth) {
            Some(
                ClientAuth::Scram(verifiers) | ClientAuth::Md5(verifiers) | ClientAuth::Rules(_, verifiers),
            ) => Some(verifiers),
            Some(ClientAuth::Trust) => None,
            None => self.console.verifiers.as_ref(),
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        let limits = self.pool.as_ref().map(|pool| &pool.limits);
        Patience {
            idle_in_transaction_max: limits.and_then(|limits| limits.idle_in_transaction_max),
            idle_max: limits.and_then(|limits| limits.idle_max),
        }
    }
}

impl ConsoleSettings {
    /// Whether somebody may use it.
    pub(crate) fn is_on(&self) -> bool {
        !self.users.is_empty() || !self.viewers.is_empty()
    }
}

impl PoolSettings {
    /// Of a proxy in the session mode, which only looks up verifiers: one connection for each worker.
    pub(crate) fn for_lookups(workers: usize) -> PoolSettings {
        PoolSettings {
            servers_max: workers,
            reserve: 0,
            reserve_after: Duration::ZERO,
            servers_min: 0,
            open_max: workers,
            query_wait: Duration::from_secs(10),
            notice_after: Duration::from_secs(3_600),
            idle_max: Duration::from_secs(10),
            age_max: Duration::from_secs(600),
            auth: ClientAuth::Trust,
            limits: ClientLimits::default(),
            whole_sessions: WholeSessions::default(),
            io: Io::Epoll,
        }
    }
}

/// How clients are let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Whoever comes, under any name: only where nobody else can reach the proxy.
    Trust,
    /// By SCRAM-SHA-256.
    Scram(Verifiers),
    /// As [`ClientAuth::Scram`]; roles whose password is an old one of MD5 by that.
    Md5(Verifiers),
    /// As the rules of these files say.
    Rules(RuleFiles, Verifiers),
}

/// Who tells the verifiers of passwords, as the server has them in pg_authid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verifiers {
    /// The cluster's agents, that of the primary first. Nothing has to be set up for it, and the proxy has no password.
    Agents,
    /// A role of the server that may read them.
    Role(Lookup),
}

impl Verifiers {
    /// The role, if it is one.
    #[must_use]
    pub fn role(&self) -> Option<&Lookup> {
        match self {
            Verifiers::Agents => None,
            Verifiers::Role(lookup) => Some(lookup),
        }
    }
}

/// Files in the form of PostgreSQL's own. They are looked at again while the proxy runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFiles {
    /// Who may come from where, and how they prove who they are: as `pg_hba.conf`.
    pub hba: PathBuf,
    /// The names that certificates stand for: as `pg_ident.conf`.
    pub ident: Option<PathBuf>,
}

/// The role that looks up verifiers: it may log in, and read the catalog pg_authid.
#[derive(Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Its name.
    pub user: String,
    /// Its password, if servers ask it for one.
    pub password: Option<String>,
    /// The database in which it looks: any will do.
    pub database: String,
}

impl Lookup {
    /// With which it logs in.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut body = (3_u32 << 16).to_be_bytes().to_vec();
        for text in ["user", &self.user, "database", &self.database, "application_name", "pgkeel proxy", ""] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
        [&length.to_be_bytes()[..], &body].concat()
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup")
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}
