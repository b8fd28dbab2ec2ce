//! The proxy: carries PostgreSQL clients to the cluster's primary.
//!
//! It learns the view from any agent ([`watch`]), or finds the primary by itself ([`finder`]), and needs nothing else from the cluster; it never writes cluster
//! state. A client is read ([`client`]), routed ([`route`], pure; [`hold`] does the waiting), connected ([`server`])
//! and relayed ([`relay`]) while [`session`] (pure) follows what is in flight. When the primary is replaced in order,
//! sessions move along ([`park`] does it, [`portable`] and [`relogin`], pure, say whether and how). What crosses threads is small: the view,
//! the registry of open server connections ([`pool`]) and the counters ([`stats`]).
//!
//! In the pooled mode a client is lent a server for a transaction ([`pooled`]): [`lend`], [`logical`] and [`sql`], all pure, say
//! which, how and for how long, [`hearing`] who hears which notifications; [`hba`] says who may come and how, [`guesses`] slows down who guesses passwords. [`console`] is the database of the proxy itself, where people look at all this ([`roster`]) and
//! pause it.
//!
//! Connections are plain or have TLS ([`stream`], [`tls`]), and are read by epoll or by io_uring ([`ring`], on threads of batch
//! work, [`batch`]); nothing else knows which.
//!
//! Rule held here: a statement is never sent to a server of an older epoch than the newest this proxy has seen.

pub mod settings;

mod listener;

mod sockets;

mod takeover;

mod worker;

mod client;

mod who;
mod wish;

mod hold;

mod route;

mod reach;

mod source;

mod unix_door;

mod server;

mod unbind;

mod relay;

mod stream;

mod socket;

mod ring;

mod batch;

mod tls;

mod reload;

mod hba;

mod hearing;

mod check;

mod session;

mod park;

mod portable;

mod relogin;

mod lend;

mod sql;

mod logical;

mod cancel;

mod peers;

mod pooled;

mod roster;

mod crowd;

mod console;

mod pool;

mod watch;

mod finder;

mod stats;

mod once_per_source;

mod guesses;

mod error;

pub use check::check_files;
pub use error::ProxyError;
pub use hba::HbaProblem;
pub use identity::files::Problem as TlsProblem;
pub use listener::{run, run_reloading};
pub use reload::{Reader, Reload};
pub use settings::{
    ClientAuth, ClientLimits, ClientTls, ClientTlsMode, ConsoleSettings, Io, Lookup, PoolSettings, RuleFiles,
    ServerTls, Settings, UnixListen, Verifiers, WholeSessions,
};
