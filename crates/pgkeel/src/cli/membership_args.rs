//! What can be said after `create`, `invite`, `join`, `add-proxy`, `remove` and `leave`.

use super::args::AskArgs;
use crate::config::{FILE_DEFAULT, TLS_DIR};
use clap::{Args, Subcommand};
use cluster::NodeName;
use std::path::PathBuf;
use std::time::Duration;

/// Where things are on a host that becomes a node.
#[derive(Args, Clone, Debug)]
pub struct PlaceArgs {
    /// Where its agent listens for the other nodes [default: this host's only address, port 7400]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// The data directory, which is made [default: /var/lib/postgresql/CLUSTER]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// PostgreSQL's port [default: 5432, or that of the primary]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// PostgreSQL's programs [default: found by themselves]
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// The agent's own directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/pgkeel")]
    pub dir: PathBuf,
    /// Where it runs from.
    #[command(flatten)]
    pub files: FileArgs,
}

/// Files, and whether to start.
#[derive(Args, Clone, Debug)]
pub struct FileArgs {
    /// The configuration file, which is written
    #[arg(short, long, value_name = "FILE", default_value = FILE_DEFAULT)]
    pub config: PathBuf,
    /// The directory for the certificates, which are written
    #[arg(long, value_name = "DIR", default_value = TLS_DIR)]
    pub tls: PathBuf,
    /// Only write the files; run the command once more to go on
    #[arg(long)]
    pub no_start: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How commits reach the standbys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReplicationMode {
    /// Commits do not wait for standbys
    Async,
    /// A standby confirms every commit, once there is one
    Quorum,
}

/// Options of `create`.
#[derive(Args, Debug)]
#[command(
    after_help = "It may be repeated after a failure: it goes on where it was, or says what is in its way."
)]
pub struct CreateArgs {
    /// Name of the cluster
    #[arg(long, value_name = "CLUSTER")]
    pub name: String,
    /// Name of this host's node
    #[arg(long, value_name = "NODE", default_value = "n1")]
    pub node: NodeName,
    /// How commits reach the standbys that will join
    #[arg(long, value_enum, default_value = "async")]
    pub replication: ReplicationMode,
    /// After how long without a sign of life a primary is suspected, such as 1.5s
    #[arg(long, value_name = "DURATION")]
    pub detect: Option<String>,
    /// Run a proxy here, too: where clients connect, such as 0.0.0.0:6432
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub proxy: Option<String>,
    /// Where.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Options of `adopt`.
#[derive(Args, Debug)]
#[command(
    after_help = "The server runs when this is called, and is stopped and started once, in order. Its standbys go on streaming; \
                  each follows by `pgkeel join --adopt` on its host. PGUSER, PGPASSWORD and the like hold for the questions to \
                  it; they are asked as the owner of the data directory. It may be repeated after a failure."
)]
pub struct AdoptArgs {
    /// The data directory of the primary
    #[arg(short = 'D', long, value_name = "DIR")]
    pub data: PathBuf,
    /// Name of the cluster
    #[arg(long, value_name = "CLUSTER")]
    pub name: String,
    /// Name of this host's node
    #[arg(long, value_name = "NODE", default_value = "n1")]
    pub node: NodeName,
    /// How commits reach the standbys that will join [default: quorum if commits wait for standbys now, else async]
    #[arg(long, value_enum)]
    pub replication: Option<ReplicationMode>,
    /// After how long without a sign of life a primary is suspected, such as 1.5s
    #[arg(long, value_name = "DURATION")]
    pub detect: Option<String>,
    /// Where its agent listens for the other nodes [default: this host's only address, port 7400]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// The agent's own directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/pgkeel")]
    pub dir: PathBuf,
    /// PostgreSQL's programs [default: those that run]
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Do not ask before the server is stopped and started
    #[arg(short, long)]
    pub yes: bool,
    /// Where it runs from.
    #[command(flatten)]
    pub files: FileArgs,
}

/// Options of `invite`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct InviteArgs {
    /// About those that were made.
    #[command(subcommand)]
    pub command: Option<InviteCommand>,
    /// A node that only votes
    #[arg(long, conflicts_with = "proxy")]
    pub witness: bool,
    /// A proxy on a host of its own
    #[arg(long)]
    pub proxy: bool,
    /// How long it is good
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub good_for: Duration,
    /// How many hosts may use it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub uses: u32,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// About invitations.
#[derive(Debug, Subcommand)]
pub enum InviteCommand {
    /// Take an invitation back
    Revoke {
        /// Its identity: what stands after "pgkeel1-"
        id: String,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// Options of `join`.
#[derive(Args, Debug)]
#[command(
    after_help = "It may be repeated after a failure: it goes on where it was, or says what is in its way."
)]
pub struct JoinArgs {
    /// An agent of the cluster, as `pgkeel invite` has printed it
    #[arg(value_name = "HOST:PORT")]
    pub agent: String,
    /// The invitation; - reads it from standard input
    #[arg(long, value_name = "TOKEN")]
    pub token: String,
    /// Only vote: no PostgreSQL here
    #[arg(long, conflicts_with_all = ["data", "port", "bin_dir"])]
    pub witness: bool,
    /// Take over the standby that runs on --data, without copying it: it is stopped and started once
    #[arg(long, requires = "data", conflicts_with_all = ["witness", "port"])]
    pub adopt: bool,
    /// Do not ask before that standby is stopped and started
    #[arg(short, long, requires = "adopt")]
    pub yes: bool,
    /// Name of this host's node [default: the host's own name]
    #[arg(long, value_name = "NODE")]
    pub node: Option<NodeName>,
    /// Where.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Options of `add-proxy`.
#[derive(Args, Debug)]
#[command(
    after_help = "It may be repeated after a failure: it goes on where it was, or says what is in its way."
)]
pub struct AddProxyArgs {
    /// An agent of the cluster, as `pgkeel invite --proxy` has printed it
    #[arg(value_name = "HOST:PORT")]
    pub agent: String,
    /// The invitation; - reads it from standard input
    #[arg(long, value_name = "TOKEN")]
    pub token: String,
    /// Name of this proxy [default: the host's own name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<NodeName>,
    /// Where clients connect
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:6432")]
    pub listen: String,
    /// The directory for its log, if no systemd runs this host
    #[arg(long, value_name = "DIR", default_value = "/var/lib/pgkeel")]
    pub dir: PathBuf,
    /// Where it runs from.
    #[command(flatten)]
    pub files: FileArgs,
}

/// Options of `remove`.
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// The node
    pub node: NodeName,
    /// Although too few others are left to confirm commits
    #[arg(long, conflicts_with = "cancel")]
    pub insist: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Keep it after all, while it has not left
    #[arg(long)]
    pub cancel: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Options of `leave`.
#[derive(Args, Debug)]
pub struct LeaveArgs {
    /// This host's configuration file
    #[arg(short, long, value_name = "FILE", default_value = FILE_DEFAULT)]
    pub config: PathBuf,
    /// Although too few others are left to confirm commits
    #[arg(long)]
    pub insist: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}
