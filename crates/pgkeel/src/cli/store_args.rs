//! What can be said after `store`.

use super::args::AskArgs;
use crate::config::store_section;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What to do about the place where the record is kept.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Show where each node keeps the cluster's record, and which configuration files are out of date
    Show {
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Keep the record elsewhere from now on: in an etcd, or in the agents again; the primary serves on meanwhile
    Migrate(MigrateArgs),
}

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// In an etcd beside the agents
    Etcd,
    /// In the agents themselves
    Embedded,
}

/// Options of `store migrate`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Every agent is asked first whether it can use the new place; nothing is changed if one cannot. Files are read by each \
    agent on its own host, under the same paths. Afterwards bring the section [store] of the configuration files up to date: pgkeel \
    store show says what is to be written."
)]
pub struct MigrateArgs {
    /// Where to
    #[arg(long, value_name = "KIND")]
    pub to: Kind,
    /// Client address of a member of etcd, http://HOST:PORT or https://HOST:PORT; name all of them
    #[arg(long = "endpoint", value_name = "URL", value_parser = store_section::endpoint_url)]
    pub endpoints: Vec<String>,
    /// What every key begins with [default: /pgkeel/CLUSTER/]
    #[arg(long, value_name = "TEXT", value_parser = store_section::prefix)]
    pub prefix: Option<String>,
    /// The authorities that sign etcd's certificates; needed with https://
    #[arg(long, value_name = "FILE", value_parser = store_section::path)]
    pub ca: Option<PathBuf>,
    /// Own certificate, for an etcd that asks for one
    #[arg(long, value_name = "FILE", value_parser = store_section::path, requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", value_parser = store_section::path, requires = "cert")]
    pub key: Option<PathBuf>,
    /// A user of etcd
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub user: Option<String>,
    /// The file with its password
    #[arg(long, value_name = "FILE", value_parser = store_section::path, requires = "user")]
    pub password_file: Option<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}
