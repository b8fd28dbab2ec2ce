//! What can be said after `pgkeel cert`.

use crate::config::TLS_DIR;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Commands on certificates. The directory of a host is what its configuration file calls tls.dir.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Make the authority that signs the cluster's certificates: ca.crt, and ca.key, by which anybody can become a member
    Init {
        /// Name of the cluster, as in the configuration files
        cluster: String,
        /// Where
        #[arg(long, value_name = "DIR", default_value = TLS_DIR)]
        dir: PathBuf,
    },
    /// Make a certificate for an agent, a proxy or a person: a directory with ca.crt, own.crt and own.key
    Issue(IssueArgs),
    /// Show for whom the certificates in a directory are, and until when they are good
    Show {
        /// Where
        #[arg(long, value_name = "DIR", default_value = TLS_DIR)]
        dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a new key and certificate for the holder of a directory that has the authority's key; whoever runs with it
    /// takes it within seconds, and no connection ends
    Rotate {
        /// Where
        #[arg(long, value_name = "DIR", default_value = TLS_DIR)]
        dir: PathBuf,
        /// How long it is good, in days; as long as the one that is there, if this is not said
        #[arg(long, value_name = "N", value_parser = days)]
        days: Option<u32>,
    },
}

/// Options of `cert issue`.
#[derive(Args, Debug)]
pub struct IssueArgs {
    /// What its holder is
    #[arg(value_enum)]
    pub role: CertRole,
    /// Its name: the node's as in the configuration file, the proxy's host, the person's
    pub name: String,
    /// Where to write it: on this host, or to be carried to another one (own.key is a secret)
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Where the authority is
    #[arg(long, value_name = "DIR", default_value = TLS_DIR)]
    pub dir: PathBuf,
    /// How long it is good, in days
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = days)]
    pub days: u32,
    /// Copy the authority's key along: the agent there can then sign the next certificates of itself and of others
    #[arg(long)]
    pub with_authority: bool,
}

/// What a certificate can be made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CertRole {
    /// A node's agent
    Agent,
    /// A proxy on a host of its own
    Proxy,
    /// Who may look
    Viewer,
    /// Who may look and give orders
    Operator,
    /// Who may do everything that a person can
    Admin,
}

fn days(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(days @ 1..=3650) => Ok(days),
        _ => Err("a whole number from 1 to 3650".to_owned()),
    }
}
