//! Errors: those that end the proxy ([`ProxyError`]) and those that a client is told ([`Refusal`]).

use crate::hba::NoAdmission;
use crate::roster::Order;
use crate::route::GiveUp;
use crate::session::AtStake;
use crate::source::Source;
use pgwire::{ErrorFields, Severity, StartupError, encode_error_response};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Why the proxy could not start or go on. For the person who started it.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// Without random bytes no login is safe.
    #[error("the system gives no random bytes")]
    NoRandom,
    /// The settings name no address.
    #[error("the proxy has no address to listen on: give at least one `listen` address")]
    NoListenAddress,
    /// The settings name no agent.
    #[error("the proxy knows no agent to learn the primary from: give at least one `agents` address")]
    NoAgents,
    /// Another process listens there.
    #[error(
        "cannot listen on {address}: the port is taken by another process; stop that one (`ss -ltnp` shows it) or give \
         the proxy another `listen` address"
    )]
    PortTaken {
        /// Address as configured.
        address: SocketAddr,
    },
    /// Any other reason not to get the address.
    #[error(
        "cannot listen on {address}: {source}; check that this host has the address and the proxy may use the port"
    )]
    Listen {
        /// Address as configured.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The way by which a later process could take over cannot be opened, or an older one does not give its sockets.
    #[error(
        "cannot take over, or be taken over, by {}: {source}; stop the proxy that runs, or check the directory of \
         `takeover`", path.display()
    )]
    Takeover {
        /// As configured.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The Unix socket for clients cannot be made, or another process listens there.
    #[error(
        "cannot listen on {}: {source}; stop the process that does, or check `unix_socket_dir`: the proxy must be able to \
         write there", path.display()
    )]
    UnixSocket {
        /// Its file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There can be no TLS as configured.
    #[error("{0}")]
    Tls(#[from] identity::files::Problem),
    /// Who may come cannot be told.
    #[error("{0}")]
    Hba(#[from] crate::hba::HbaProblem),
    /// A worker thread could not be started, or ended by itself.
    #[error("proxy worker {worker} failed: {source}")]
    Worker {
        /// Number of the worker, from 0.
        worker: usize,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Why a client's connection is ended by the proxy; each is sent as a FATAL ErrorResponse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The start-up packet is not one.
    BadStartup(StartupError),
    /// TLS or GSSAPI encryption was asked for more than once.
    RepeatedEncryptionRequest,
    /// `clients_max` sessions are open.
    TooManyClients { clients_max: usize },
    /// The hold ended without a primary.
    NoPrimary { cluster: String, why: GiveUp },
    /// A newer epoch than the session's has been seen.
    EpochChanged { cluster: String, node: String, epoch: u64, at_stake: AtStake, now: Successor },
    /// The connection to the primary broke, and no newer epoch is known.
    ServerBroke { cluster: String, node: String, epoch: u64, at_stake: AtStake },
    /// The proxy stops.
    Stopping,
    /// The start-up packet names no user.
    NoUser,
    /// The password is wrong, or there is no such user: nobody is told which.
    WrongPassword { user: String },
    /// So many logins from this address have failed that no other one is checked now.
    TooManyFailures { source: Source },
    /// The login cannot be checked now; why.
    LoginUnchecked { why: String },
    /// The proxy could not log in to the primary.
    NoLogin { node: String, why: String },
    /// There are too many different logins.
    TooManyPools,
    /// No server connection became free.
    QueryWait { waited: Duration },
    /// The client does not speak the protocol; in what.
    ClientBroke { why: String },
    /// No server connection was lent, because the database is paused.
    Paused { waited: Duration },
    /// Somebody, or a limit, ends the client.
    Ordered(Order),
    /// A user, or a database, has its maximum of clients.
    Crowded { what: &'static str, name: String, max: usize },
    /// The console is not for this client; why, and what could be done.
    NoConsole { sqlstate: &'static str, why: String, hint: String },
    /// The session cannot be continued, on the server that it was lent or at all; why.
    NotContinued { why: String },
    /// The rules do not admit this client; `who` it is, in words.
    NotAdmitted { why: NoAdmission, who: String, user: String },
    /// Clients must use TLS.
    NoEncryption,
    /// Clients must show a certificate.
    NoClientCertificate,
    /// Bytes came between the request for TLS and its beginning.
    UnencryptedData,
    /// The login was bound to another TLS connection than this one.
    OtherChannel,
}

/// What followed the session's epoch, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// The newer epoch.
    pub epoch: u64,
    /// Its primary, if one is published.
    pub node: Option<String>,
}

impl Refusal {
    /// Appends the FATAL ErrorResponse to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (sqlstate, message, detail, hint) = self.texts();
        let fields = ErrorFields {
            severity: Severity::Fatal,
            sqlstate,
            message: &message,
            detail: detail.as_deref(),
            hint: hint.as_deref(),
        };
        encode_error_response(&fields, out);
    }

    fn texts(&self) -> (&'static str, String, Option<String>, Option<String>) {
        match self {
            Refusal::BadStartup(error @ StartupError::Version { .. }) => {
                ("0A000", error.to_string(), None, None)
            }
            Refusal::BadStartup(error) => ("08P01", error.to_string(), None, None),
            Refusal::TooManyClients { clients_max } => (
                "53300",
                format!("the proxy has its maximum of {clients_max} clients"),
                None,
                Some("Close connections that are not needed, or raise `clients_max` of the proxy.".into()),
            ),
            Refusal::NoPrimary { cluster, why } => (
                "57P03",
                format!(
                    "cluster \"{cluster}\" has no primary that takes connections (epoch {}); waited {:.1} s",
                    why.epoch,
                    why.waited.as_secs_f64()
                ),
                why.reason.clone(),
                Some(
                    "Connect again; `pgkeel status` and `pgkeel why` tell what the cluster waits for.".into(),
                ),
            ),
            Refusal::EpochChanged { cluster, node, epoch, at_stake, now } => {
                let change = text_of_change(node, *epoch, now);
                let message = format!(
                    "terminating connection because the primary of cluster {cluster} {change}; reconnect"
                );
                ("57P01", message, Some(at_stake.text().into()), None)
            }
            Refusal::ServerBroke { cluster, node, epoch, at_stake } => (
                "57P01",
                format!(
                    "terminating connection because the connection to the primary of cluster {cluster}, {node} (epoch \
                     {epoch}), broke; reconnect"
                ),
                Some(at_stake.text().into()),
                None,
            ),
            Refusal::Stopping => (
                "57P01",
                "terminating connection because the proxy is stopping; reconnect".into(),
                None,
                None,
            ),
            Refusal::RepeatedEncryptionRequest
            | Refusal::NoEncryption
            | Refusal::NoClientCertificate
            | Refusal::UnencryptedData
            | Refusal::OtherChannel => self.texts_of_tls(),
            Refusal::NotAdmitted { why, who, user } => text_of_no_admission(*why, who, user),
            Refusal::NoConsole { sqlstate, why, hint } => (*sqlstate, why.clone(), None, Some(hint.clone())),
            Refusal::NoUser
            | Refusal::WrongPassword { .. }
            | Refusal::TooManyFailures { .. }
            | Refusal::LoginUnchecked { .. }
            | Refusal::NoLogin { .. }
            | Refusal::TooManyPools
            | Refusal::QueryWait { .. }
            | Refusal::Paused { .. }
            | Refusal::Ordered(_)
            | Refusal::Crowded { .. }
            | Refusal::ClientBroke { .. }
            | Refusal::NotContinued { .. } => {
                let (sqlstate, message) = self.texts_of_pools();
                (sqlstate, message, None, None)
            }
        }
    }

    fn texts_of_tls(&self) -> (&'static str, String, Option<String>, Option<String>) {
        match self {
            Refusal::NoEncryption => (
                "28000",
                "the proxy takes no connections without TLS".into(),
                None,
                Some("Connect with sslmode=require, or better sslmode=verify-full.".into()),
            ),
            Refusal::NoClientCertificate => (
                "28000",
                "connection requires a valid client certificate".into(),
                None,
                Some("Name a certificate and its key by sslcert and sslkey.".into()),
            ),
            Refusal::OtherChannel => (
                "28000",
                "SCRAM channel binding check failed".into(),
                Some("The client has logged in to somebody else, who passed it on to here.".into()),
                None,
            ),
            Refusal::UnencryptedData => (
                "08P01",
                "received unencrypted data after the request for TLS".into(),
                Some("The client is broken, or somebody in between has added it.".into()),
                None,
            ),
            _ => ("08P01", "encryption was already asked for on this connection".into(), None, None),
        }
    }

    /// SQLSTATE and message of what only the pooled mode says.
    fn texts_of_pools(&self) -> (&'static str, String) {
        match self {
            Refusal::NoUser => ("28000", "no PostgreSQL user name specified in startup packet".into()),
            Refusal::WrongPassword { user } => {
                ("28P01", format!("password authentication failed for user \"{user}\""))
            }
            Refusal::TooManyFailures { source } => {
                ("28000", format!("too many logins from {source} have failed; try again in some seconds"))
            }
            Refusal::LoginUnchecked { why } => ("57P03", format!("the login cannot be checked now: {why}")),
            Refusal::NoLogin { node, why } => {
                ("08001", format!("cannot log in to the primary {node}: {why}"))
            }
            Refusal::TooManyPools => ("53300", "the proxy serves too many different logins".into()),
            Refusal::QueryWait { waited } => {
                ("53300", format!("no server connection became free in {:.1} s", waited.as_secs_f64()))
            }
            Refusal::Paused { waited } => {
                ("57P03", format!("the database is paused; waited {:.1} s", waited.as_secs_f64()))
            }
            Refusal::Ordered(order) => text_of_order(*order),
            Refusal::Crowded { what, name, max } => {
                ("53300", format!("too many clients of {what} \"{name}\": at most {max}"))
            }
            Refusal::ClientBroke { why } => ("08P01", why.clone()),
            Refusal::NotContinued { why } => {
                ("57P01", format!("terminating connection because {why}; reconnect"))
            }
            _ => ("XX000", "the connection ends".into()),
        }
    }
}

fn text_of_no_admission(
    why: NoAdmission,
    who: &str,
    user: &str,
) -> (&'static str, String, Option<String>, Option<String>) {
    let message = match why {
        NoAdmission::NoRule => format!("the proxy's hba_file has no entry for {who}"),
        NoAdmission::Rejected => format!("the proxy's hba_file rejects connections for {who}"),
        NoAdmission::OtherUser => format!("peer authentication failed for user \"{user}\""),
        NoAdmission::OtherName => format!("certificate authentication failed for user \"{user}\""),
    };
    ("28000", message, None, None)
}

fn text_of_change(node: &str, epoch: u64, now: &Successor) -> String {
    match &now.node {
        Some(new) => format!("changed from {node} (epoch {epoch}) to {new} (epoch {})", now.epoch),
        None => format!("is no longer {node} (epoch {epoch}), epoch {} has begun", now.epoch),
    }
}

/// The SQLSTATEs are those of PostgreSQL for the same (src/backend/tcop/postgres.c, `ProcessInterrupts`).
fn text_of_order(order: Order) -> (&'static str, String) {
    match order {
        Order::Killed => ("57P01", "terminating connection due to administrator command".into()),
        Order::IdleInTransaction(limit) => (
            "25P03",
            format!(
                "terminating connection because it was idle in a transaction for {} s",
                limit.as_secs_f64()
            ),
        ),
        Order::Idle(limit) => {
            ("57P05", format!("terminating connection because it was idle for {} s", limit.as_secs_f64()))
        }
    }
}
