//! What the store of a node must be told before it can be opened.

use super::moving::Opening;
use crate::http::tls::TlsFiles;
use cluster::NodeName;
use identity::Caller;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What the store of this node needs to know.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Directory of its file, on a local disk. Made if need be; must never be copied to another node.
    pub dir: PathBuf,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: NodeName,
    /// `host:port` under which the other members reach this agent.
    pub address: String,
    /// All members with their addresses, this node included.
    pub members: BTreeMap<NodeName, String>,
    /// The silence after which a node is suspected; every time-out derives from it.
    pub detect: Duration,
    /// Whether the cluster is known to exist: then none is founded.
    pub founded: bool,
    /// Where the record is kept.
    pub kind: StoreKind,
    /// What it began with there, if it has moved; `dir` is then the directory of that store, beside the others.
    pub opening: Option<Opening>,
    /// How the other members are called.
    pub caller: Caller,
}

/// Where the record is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// In the agents themselves.
    #[default]
    Embedded,
    /// In an etcd that runs beside them.
    Etcd(EtcdOptions),
}

/// How etcd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdOptions {
    /// Its members' client addresses, at least one.
    pub endpoints: Vec<Endpoint>,
    /// What every key begins with; ends with a slash.
    pub prefix: String,
    /// Of those endpoints that are asked with TLS.
    pub tls: Option<TlsFiles>,
    /// As whom; `None`: etcd asks nobody who they are.
    pub user: Option<EtcdUser>,
}

/// Where a member of etcd listens for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// Whether it is asked with TLS.
    pub secure: bool,
}

/// A user of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdUser {
    /// Its name.
    pub name: String,
    /// The file that holds its password, which is read at every login.
    pub password_file: PathBuf,
}

/// The names of the keys in etcd.
#[derive(Clone, Debug)]
pub(super) struct EtcdKeys {
    /// What all of them begin with.
    pub(super) prefix: String,
    /// The recorded state.
    pub(super) state: String,
    /// Who leads.
    pub(super) leader: String,
    /// What the keys of the members begin with.
    pub(super) members: String,
}

impl EtcdKeys {
    pub(super) fn new(prefix: &str) -> EtcdKeys {
        EtcdKeys {
            prefix: prefix.to_owned(),
            state: format!("{prefix}state"),
            leader: format!("{prefix}leader"),
            members: format!("{prefix}members/"),
        }
    }

    pub(super) fn member(&self, node: &NodeName) -> String {
        format!("{}{node}", self.members)
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StoreKind::Etcd(etcd) = self else { return f.write_str("in the agents") };
        let url = |e: &Endpoint| format!("{}://{}", if e.secure { "https" } else { "http" }, e.address);
        let endpoints: Vec<String> = etcd.endpoints.iter().map(url).collect();
        write!(f, "in etcd at {}, below {}", endpoints.join(", "), etcd.prefix)?;
        etcd.user.iter().try_for_each(|user| write!(f, ", as user {}", user.name))
    }
}
