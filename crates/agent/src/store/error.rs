//! What can go wrong with the store, said so that a person knows what to do.

use crate::http::HttpError;
use cluster::NodeName;
use cluster::command::Refusal;
use std::path::PathBuf;
use std::time::Duration;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the directory.
    #[error(
        "the store in {dir:?} is in use by another process: an agent already runs for this node; \
         stop it first, or give this one a directory of its own"
    )]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The directory or its file cannot be read or written.
    #[error(
        "the store in {path:?} cannot be {doing}: {why}; check that the directory exists, is ours and has space"
    )]
    Disk {
        /// The store's file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the operating system or the database said.
        why: String,
    },
    /// The file's content makes no sense.
    #[error(
        "the store in {path:?} is damaged: {what}; this node cannot take part with it. Put a node with a new name in \
         its place; an older copy of the file, or that of another node, could make a vote count twice"
    )]
    Damaged {
        /// The store's file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A later pgkeel wrote the file.
    #[error(
        "the store in {path:?} was written in format {found}, this pgkeel knows {known}: run the later version again"
    )]
    NewerFormat {
        /// The store's file.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// The directory belongs to another node or cluster.
    #[error(
        "the store in {dir:?} belongs to node {had_node} of cluster {had_cluster:?}, but this agent is configured as \
         {node} of {cluster:?}: correct the configuration, or give this agent a directory of its own"
    )]
    OtherDirectory {
        /// The store's directory.
        dir: PathBuf,
        /// The node recorded in it.
        had_node: NodeName,
        /// The cluster recorded in it.
        had_cluster: String,
        /// The configured node.
        node: NodeName,
        /// The configured cluster.
        cluster: String,
    },
    /// Another agent has this node's name, or this node is recorded with another address.
    #[error(
        "node {name} is taken: {told_by} knows it as id {id:x} at {address}, this agent is id {my_id:x} at {my_address}. \
         If two agents have this name, rename one. If this is the same node, start it with its old store directory \
         and its old address"
    )]
    NameTaken {
        /// The name.
        name: NodeName,
        /// The node that said so.
        told_by: NodeName,
        /// The id that holds the name.
        id: u64,
        /// The address recorded for it.
        address: String,
        /// This agent's id.
        my_id: u64,
        /// This agent's address.
        my_address: String,
    },
    /// The directory belongs to a node whose store is of the other kind.
    #[error(
        "{dir:?} holds {had}, but this agent is configured for {wanted}: that does not carry the record over. \
         Set [store] as it was, and move the record of the running cluster with pgkeel store migrate; or begin a new cluster with a \
         new node.dir"
    )]
    OtherKind {
        /// The store's directory.
        dir: PathBuf,
        /// What was found.
        had: &'static str,
        /// What is configured.
        wanted: &'static str,
    },
    /// The record does not move there.
    #[error("{0} cannot be used")]
    Home(String),
    /// Another directory has this node's name in etcd.
    #[error(
        "node {name} is taken: etcd's key {key} says that it has id {id:x} at {address}, this agent has id {my_id:x} at \
         {my_address}. If two agents have this name, rename one. If this node has lost its directory (node.dir), make sure \
         that no other agent has this name, and remove that key: etcdctl del {key}"
    )]
    NameTakenInEtcd {
        /// The name.
        name: NodeName,
        /// The key in etcd.
        key: String,
        /// The id that holds the name.
        id: u64,
        /// The address recorded for it.
        address: String,
        /// This agent's id.
        my_id: u64,
        /// This agent's address.
        my_address: String,
    },
    /// etcd does not take what is to be recorded.
    #[error("etcd did not record it: {0}")]
    Etcd(String),
    /// A configured member belongs to another cluster.
    #[error(
        "the agent at {address} belongs to cluster {theirs:?}, this one to {ours:?}: \
         correct the name of the cluster or the list of members"
    )]
    OtherCluster {
        /// The member's address.
        address: String,
        /// The name of its cluster.
        theirs: String,
        /// The name of this cluster.
        ours: String,
    },
    /// Only the leader proposes.
    #[error("this node does not lead the store; {}", match leader { Some(l) => format!("{l} does"), None => "nobody does at this moment".into() })]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeName>,
    },
    /// The command came too late or does not fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No majority confirmed in time. The command may still be applied.
    #[error("no majority of the store confirmed within {} ms; whether it did is not known yet", after.as_millis())]
    Timeout {
        /// How long was waited.
        after: Duration,
    },
    /// The leader changed while the command was under way. It may still be applied.
    #[error("the leader of the store changed during the proposal; whether it was recorded is not known")]
    Unsure,
    /// The command is too large for the log.
    #[error("the command has {bytes} bytes, the store takes at most {bytes_max}")]
    TooLarge {
        /// Its size as JSON.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The node is no member of the store.
    #[error("{0} is not a member of the store")]
    NoSuchMember(NodeName),
    /// Leadership did not move.
    #[error("leadership did not move to {to}: {why}")]
    NotTransferred {
        /// To whom it was to go.
        to: NodeName,
        /// What was seen.
        why: String,
    },
    /// The store on this node has stopped: the agent must be restarted.
    #[error("the store on this node has stopped: {0}; the agent must be restarted")]
    Gone(String),
    /// The settings give no working time-outs.
    #[error("the store's time-outs cannot be derived from detect: {0}")]
    Settings(String),
    /// A call to another agent failed.
    #[error(transparent)]
    Call(#[from] HttpError),
}
