//! What can be said on the command line.

use super::audit::AuditArgs;
use super::cert_args::CertCommand;
use super::membership_args::{
    AddProxyArgs, AdoptArgs, CreateArgs, InviteArgs, JoinArgs, LeaveArgs, RemoveArgs,
};
use super::store_args::StoreCommand;
use super::user::UserCommand;
use crate::demo::{NODES_DEFAULT, NODES_MAX, NODES_MIN};
use crate::log::LogFormat;
use clap::{Args, Parser, Subcommand};
use cluster::{NodeName, WallMs};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Keeps PostgreSQL upright: failover, pooling and clients that do not notice.
#[derive(Debug, Parser)]
#[command(name = "pgkeel", version, about, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a cluster of one node on this host, and an invitation for the next host
    Create(CreateArgs),
    /// Make a cluster around the PostgreSQL that runs on this host; its standbys follow by join --adopt
    Adopt(AdoptArgs),
    /// Make an invitation: one line to be run on a host that is to join
    Invite(InviteArgs),
    /// Make this host a node of a cluster that exists, by an invitation
    Join(JoinArgs),
    /// Run a proxy on this host, by an invitation
    AddProxy(AddProxyArgs),
    /// Strike a node out of the cluster, once nothing needs it any more
    Remove(RemoveArgs),
    /// Strike this host's node out of the cluster, and end its agent; data and files stay
    Leave(LeaveArgs),
    /// Run what the configuration file has sections for: agent, proxy, or both
    Run(RunArgs),
    /// Run only the agent: it looks after this host's PostgreSQL; or exchange the program of one that runs
    Agent(AgentArgs),
    /// Run only the proxy: it carries clients to the primary; its console is the database `pgkeel`
    Proxy(ProxyArgs),
    /// Show the nodes, their roles and positions, and what the cluster waits for
    Status(StatusArgs),
    /// Say what holds now and why, then the last decisions with their evidence; or why a node is not primary
    Why(WhyArgs),
    /// Say what would happen if a host were lost, the network split, or the primary changed; nothing is changed
    Whatif(WhatifArgs),
    /// Change the primary in order, now or later; clients of the proxies notice nothing but a short pause
    Switchover(SwitchoverArgs),
    /// Make a node primary where nothing automatic may, and accept what is lost by it; without --accept-loss it only
    /// shows what that is
    Failover(FailoverArgs),
    /// Decide nothing until `resume`: no failover, no switchover; the primary serves on, even without a lease
    Pause(PauseArgs),
    /// End a pause
    Resume(OrderArgs),
    /// Have a standby copied anew, and show how far it is; its old data are set aside
    Clone(CloneArgs),
    /// Leave a node alone: it is never chosen, confirms no commits, and its server may be stopped by hand
    #[command(subcommand)]
    Maintenance(MaintenanceCommand),
    /// Show what nodes had and the cluster lost in a failover
    Lost(LostArgs),
    /// Show what people have had done, and who was refused: who, from where, what, and what came of it
    Audit(AuditArgs),
    /// Look at, or remove, the directories that nodes keep beside their data
    #[command(subcommand)]
    Aside(AsideCommand),
    /// PostgreSQL's configuration on all nodes: show it, change it, take changes back; or check a configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Restart servers one after the other: standbys alone, the primary after a switchover or in place
    Restart(RestartArgs),
    /// Let servers read their configuration files again
    Reload(ReloadArgs),
    /// Where the cluster's record is kept: show it, or move it to an etcd and back while the primary serves
    #[command(subcommand)]
    Store(StoreCommand),
    /// Make, show and renew the certificates by which the processes of a cluster, and people, know each other
    #[command(subcommand)]
    Cert(CertCommand),
    /// Who may use the agents' API with a token instead of a certificate
    #[command(subcommand)]
    User(UserCommand),
    /// Start a cluster on this machine, kill its primary under load, and tell what happens
    Demo(DemoArgs),
    /// Print the completions of this command line for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write the pages of all commands into a directory
    Man {
        /// Write them here: pgkeel.1, pgkeel-status.1, ...
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Parent of the server: ends it when its lease ends (started by the agent)
    #[command(hide = true)]
    Guard(GuardArgs),
    /// Starts the server's program for the guard
    #[command(hide = true)]
    GuardExec(GuardExecArgs),
    /// Says whether this program can follow an agent that runs, which asks on standard input
    #[command(hide = true)]
    SucceedCheck {
        /// What the process was started with
        #[arg(last = true, value_name = "ARGUMENT")]
        words: Vec<OsString>,
    },
}

/// Shells that completions can be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// Options of `run`, `agent` and `proxy`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The configuration file
    #[arg(short, long = "config", value_name = "FILE")]
    pub config: PathBuf,
    /// How the log is written [default: what the file says by log.format, else text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// Options of `agent`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct AgentArgs {
    /// About agents that run.
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
    /// What to run.
    #[command(flatten)]
    pub run: Option<RunArgs>,
}

/// Commands for agents that run.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Exchange the processes of agents for ones of the program that is installed on their hosts now; PostgreSQL runs on
    Upgrade {
        /// The node; without it all of them, one after the other
        node: Option<NodeName>,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// Options of `proxy`.
#[derive(Args, Debug)]
pub struct ProxyArgs {
    /// The configuration file
    #[arg(short, long = "config", value_name = "FILE", required_unless_present = "servers")]
    pub config: Option<PathBuf>,
    /// Instead of a file: carry clients to the primary among these servers, which something else manages; may be given
    /// several times, or with commas; a host that begins with / is the directory of a Unix socket
    #[arg(long = "server", value_name = "HOST:PORT", value_delimiter = ',', conflicts_with = "config")]
    pub servers: Vec<String>,
    /// With --server: where clients connect [default: 127.0.0.1:6432]
    #[arg(long, value_name = "ADDRESS:PORT", requires = "servers")]
    pub listen: Option<String>,
    /// With --server: a role that may read pg_authid; with it, clients share a pool of server connections, and
    /// several servers can be asked which of them is the primary
    #[arg(long, value_name = "ROLE", requires = "servers")]
    pub lookup_user: Option<String>,
    /// With --lookup-user: who may come and how, a file in the form of pg_hba.conf [default: everybody, by password]
    #[arg(long, value_name = "FILE", requires = "lookup_user")]
    pub hba_file: Option<PathBuf>,
    /// With --hba-file: the names that certificates stand for, a file in the form of pg_ident.conf
    #[arg(long, value_name = "FILE", requires = "hba_file")]
    pub ident_file: Option<PathBuf>,
    /// How the log is written [default: what the file says by log.format, else text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// Whom to ask.
#[derive(Args, Clone, Debug)]
pub struct AskArgs {
    /// Ask the agents of this configuration file [default: /etc/pgkeel.toml]
    #[arg(short, long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Ask the agent at this address; may be given several times
    #[arg(short, long = "agent", value_name = "HOST:PORT")]
    pub agents: Vec<String>,
    /// Speak TLS with the certificates in this directory [default: what the configuration file says by tls.dir]
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// Show the token in this file instead of a certificate; - is standard input [default: what PGKEEL_TOKEN_FILE names]
    #[arg(long, value_name = "FILE")]
    pub api_token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Show again every second until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
}

/// Options of `switchover`.
#[derive(Args, Debug)]
pub struct SwitchoverArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
    /// The next primary [default: the best candidate, by priority and position]
    #[arg(long, value_name = "NODE")]
    pub to: Option<NodeName>,
    /// When: a length of time from now (30min), a local time (03:00, "2026-11-22 03:00"), or one with its zone
    #[arg(long, value_name = "TIME", value_parser = super::moment::later)]
    pub at: Option<WallMs>,
    /// Do it without asking
    #[arg(short, long)]
    pub yes: bool,
    /// Only show the switchovers that wait for their time
    #[arg(long, conflicts_with_all = ["to", "at", "cancel"])]
    pub list: bool,
    /// Forget the planned switchover of this identity, or give up the present one while its primary still runs
    #[arg(long, value_name = "ID", conflicts_with_all = ["to", "at"])]
    pub cancel: Option<String>,
}

/// Options of `failover`.
#[derive(Args, Debug)]
pub struct FailoverArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
    /// The next primary: a node that has sealed (see `pgkeel status`)
    #[arg(long, value_name = "NODE")]
    pub to: NodeName,
    /// The loss to accept, by the name that this command shows without it; it counts only while the situation is the same
    #[arg(long, value_name = "LOSS")]
    pub accept_loss: Option<String>,
    /// You vouch that the server of this node, which a pause left without a lease, is stopped
    #[arg(long, value_name = "NODE")]
    pub stopped: Option<NodeName>,
    /// Do it without asking
    #[arg(short, long)]
    pub yes: bool,
}

/// Options of `pause`.
#[derive(Args, Debug)]
pub struct PauseArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Still end a primary that cannot renew its lease (without this it serves on)
    #[arg(long)]
    pub fence: bool,
}

/// Begin and end the maintenance of a node.
#[derive(Debug, Subcommand)]
pub enum MaintenanceCommand {
    /// Leave a node alone until `maintenance off`; refused for the primary
    On {
        /// The node
        node: NodeName,
        /// Why, for those who look at the status
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Although too few others are left to confirm commits
        #[arg(short, long)]
        yes: bool,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Look after it again
    Off {
        /// The node
        node: NodeName,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// Options of `resume`.
#[derive(Args, Debug)]
pub struct OrderArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Options of `why`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct WhyArgs {
    /// Why not.
    #[command(subcommand)]
    pub not: Option<WhyCommand>,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Show only the last N epochs
    #[arg(short, long, value_name = "N")]
    pub epochs: Option<usize>,
}

/// Questions to `why`.
#[derive(Debug, Subcommand)]
pub enum WhyCommand {
    /// Say whether a node could become primary now, what speaks against it, what would cure that, and why it was not
    /// chosen last time
    Not {
        /// The node
        node: NodeName,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// Options of `whatif`.
#[derive(Args, Debug)]
#[command(after_help = "EVENT is one of:\n  \
    n1 down              the host of n1 is lost\n  \
    partition n1,n2      n1 and n2 hear each other and none of the others\n  \
    switchover [n3]      somebody orders a switchover, to n3 or to the best candidate")]
pub struct WhatifArgs {
    /// What is supposed; see below
    #[arg(required = true, num_args = 1..=2, value_name = "EVENT")]
    pub event: Vec<String>,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Options of `clone`.
#[derive(Args, Debug)]
pub struct CloneArgs {
    /// The standby
    pub node: NodeName,
    /// Copy from this node [default: the least busy standby, else the primary]
    #[arg(long, value_name = "NODE")]
    pub from: Option<NodeName>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Do not wait until it is done
    #[arg(long)]
    pub no_wait: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Options of `lost`.
#[derive(Args, Debug)]
pub struct LostArgs {
    /// Only this node, with every transaction
    pub node: Option<NodeName>,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Commands on directories beside the data.
#[derive(Debug, Subcommand)]
pub enum AsideCommand {
    /// List them
    List {
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Remove replaced data directories; says which, and asks first
    Prune(PruneArgs),
}

/// Options of `aside prune`.
#[derive(Args, Debug)]
pub struct PruneArgs {
    /// Only on this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<NodeName>,
    /// Only what was kept for longer than this, such as 7d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub older_than: Option<Duration>,
    /// Kept WAL that the cluster lost, too
    #[arg(long)]
    pub lost: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Options of `restart`.
#[derive(Args, Debug)]
#[command(
    after_help = "What is pending is taken on in the right order: of max_connections and its like standbys must not have \
    less than their primary, so where they are raised the standbys come first, and where they are lowered the primary."
)]
pub struct RestartArgs {
    /// Only this node's server
    pub node: Option<NodeName>,
    /// Only servers for which something waits for a restart
    #[arg(long)]
    pub pending: bool,
    /// Hand the primary over to a standby before it restarts; without NODE and --pending: all servers
    #[arg(long)]
    pub rolling: bool,
    /// Do not ask, and do it although too few others are left to confirm commits
    #[arg(short, long)]
    pub yes: bool,
    /// Do not wait until it is done
    #[arg(long)]
    pub no_wait: bool,
    /// End the restarts of this identity: what has begun is finished, the rest is not done
    #[arg(long, value_name = "ID", conflicts_with_all = ["node", "pending", "rolling"])]
    pub cancel: Option<String>,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Options of `reload`.
#[derive(Args, Debug)]
pub struct ReloadArgs {
    /// Only this node's server
    pub node: Option<NodeName>,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Commands on the cluster-wide configuration, and on a configuration file.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show what is set for all nodes and by nodes' own files, and what waits for a restart
    Show {
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Set PostgreSQL's parameters on all nodes; every server that runs is asked first whether it takes them
    Set {
        /// As in work_mem=64MB
        #[arg(required = true, value_name = "NAME=VALUE")]
        pairs: Vec<String>,
        /// Only if this version is in force
        #[arg(long, value_name = "VERSION")]
        from: Option<u64>,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Set parameters no more: PostgreSQL's default holds again
    Unset {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Only if this version is in force
        #[arg(long, value_name = "VERSION")]
        from: Option<u64>,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Change parameters and rules of pg_hba.conf in an editor ($VISUAL, $EDITOR or vi)
    Edit {
        /// Take the text from this file instead; - is standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Show how two versions differ
    Diff {
        /// The older one [default: the one before TO]
        from: Option<u64>,
        /// The newer one [default: the one in force]
        to: Option<u64>,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// List the versions: when, by whom, what
    History {
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Record what an older version says as the next one
    Rollback {
        /// The older version; 0 is that nothing is set
        version: u64,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Say what is wrong with a configuration file, or what it would run
    Check {
        /// The file
        file: PathBuf,
    },
}

/// Options of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = NODES_DEFAULT, value_parser = nodes)]
    pub nodes: usize,
    /// Put everything under this directory instead of a temporary one
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the cluster running after the story, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// No colours
    #[arg(long)]
    pub no_color: bool,
}

fn nodes(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    if (NODES_MIN..=NODES_MAX).contains(&number) {
        Ok(number)
    } else {
        Err(format!("a demonstration has {NODES_MIN} to {NODES_MAX} nodes"))
    }
}

/// Options of `guard`.
#[derive(Args, Debug)]
pub struct GuardArgs {
    /// Unix socket to listen at
    #[arg(long)]
    pub socket: PathBuf,
    /// File for the output of the server and the guard
    #[arg(long)]
    pub log: PathBuf,
    /// Operating-system user of the server
    #[arg(long)]
    pub user: Option<String>,
    /// First deadline, in milliseconds of CLOCK_BOOTTIME
    #[arg(long)]
    pub deadline: Option<u64>,
    /// Table of nftables to remove at the end
    #[arg(long)]
    pub fence: Option<String>,
    /// The server's program and its arguments
    #[arg(last = true, required = true)]
    pub program: Vec<OsString>,
}

/// Options of `guard-exec`.
#[derive(Args, Debug)]
pub struct GuardExecArgs {
    /// The guard's process
    #[arg(long)]
    pub parent: u32,
    /// The user to become, by numbers
    #[arg(long, value_name = "UID:GID,GID...")]
    pub r#become: Option<agent::guard::Become>,
    /// The server's program and its arguments
    #[arg(last = true, required = true)]
    pub program: Vec<OsString>,
}
