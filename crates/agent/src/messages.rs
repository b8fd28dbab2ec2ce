//! What agents say to each other, and to proxies and people, besides the types of `cluster`.

use cluster::configuration::{Content, Fault};
use cluster::decide::switchover::Order;
use cluster::membership::TokenRole;
use cluster::{Epoch, Lsn, Millis, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The leader's answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// The epoch for which the lease is.
    pub epoch: Epoch,
    /// What remains of the lease, counted from the moment the heartbeat was sent; `None`: no lease.
    pub lease_ms: Option<Millis>,
}

/// A person's order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderAsked {
    /// What.
    #[serde(flatten)]
    pub order: Order,
    /// Who asks, for the history.
    pub by: String,
    /// Only say whether it could be done.
    #[serde(default)]
    pub only_try: bool,
}

/// A proxy's question, with what a user of the database logs in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoseVerifier {
    /// The user's name.
    pub user: String,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verifier {
    /// `rolpassword` of pg_authid. Of a user that is not there, has no password or may not log in (any more): the word of
    /// `password_encryption`, or nothing.
    pub verifier: Option<String>,
}

/// An agent's answer to "are you there?".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Who answers.
    pub node: NodeName,
    /// What its server has flushed, when it is a primary.
    pub lsn: Option<Lsn>,
    /// What its standbys have confirmed as flushed, when it is a primary.
    pub flushed: BTreeMap<NodeName, Lsn>,
}

/// An agent's answer to "does your server still hold this WAL?".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalHeld {
    /// Who answers.
    pub node: NodeName,
    /// What its server has flushed, when it is a primary.
    pub flushed: Option<Lsn>,
    /// Whether the segment with the position is on its disk.
    pub held: bool,
}

/// How much room a copy of a node's data takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSize {
    /// In bytes.
    pub bytes: u64,
}

/// A person wants a node copied anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneAsked {
    /// Who asks, for the history.
    pub by: String,
    /// From which node; none: from whichever serves best.
    #[serde(default)]
    pub from: Option<NodeName>,
    /// Only say whether it could be done.
    #[serde(default)]
    pub only_try: bool,
}

/// The node's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneAnswer {
    /// Why it is not done, if it is not.
    pub refused: Option<String>,
}

/// What one node's own file says, which holds there instead of the cluster-wide configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnConfiguration {
    /// Who answers.
    pub node: NodeName,
    /// Parameters by name.
    pub parameters: BTreeMap<String, String>,
    /// Rules of pg_hba.conf; none: the file says nothing of them.
    pub hba: Option<Vec<String>>,
}

/// Whether one node's server takes a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// What is wrong with it there.
    pub faults: Vec<Fault>,
}

/// Where one node has the cluster's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeping {
    /// Who answers.
    pub node: NodeName,
    /// How often the record has moved, as far as it knows.
    pub number: u64,
    /// Where it has it, in words.
    pub home: String,
    /// Whether that is an etcd.
    pub in_etcd: bool,
    /// What its configuration file should say instead, if it says something else.
    pub file: Option<String>,
    /// Where the record goes at this moment: it is sealed here.
    pub moves_to: Option<String>,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeName>,
    /// What keeps it from the record.
    pub problem: Option<String>,
    /// The silence after which a node is suspected, as recorded.
    #[serde(default)]
    pub detect_ms: Millis,
}

/// A server reads its files again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whose.
    pub node: NodeName,
}

/// Somebody's certificate runs out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateAsked {
    /// A request for one (PKCS #10, as PEM): it holds the new key's public half.
    pub request: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSigned {
    /// As PEM.
    pub certificate: String,
}

/// `GET /v1/authority`.
#[derive(Clone, Serialize, Deserialize)]
pub struct AuthorityAnswer {
    /// The authorities that are trusted, as PEM.
    pub authorities: String,
}

/// `POST /v1/join`: somebody with an invitation wants to belong to the cluster. He has no certificate yet.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinAsked {
    /// The invitation.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// As what.
    pub role: TokenRole,
    /// Under which name.
    pub node: NodeName,
    /// A request for a certificate (PKCS #10, as PEM).
    pub request: String,
    /// The database that it brings along, by its system identifier.
    #[serde(default)]
    pub system_identifier: Option<u64>,
}

/// The answer.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// Name of the cluster.
    pub cluster: String,
    /// The certificate, as PEM.
    pub certificate: String,
    /// The authorities that are trusted, as PEM.
    pub authorities: String,
    /// The authority's key, as PEM, for nodes with data: so the loss of no host leaves a cluster that can let nobody in.
    pub authority_key: Option<String>,
    /// The agents of all nodes.
    pub agents: BTreeMap<NodeName, String>,
    /// The recorded settings, which the new node's file repeats.
    pub settings: cluster::state::Settings,
    /// The cluster-wide configuration, of which a node that brings its own keeps what differs.
    #[serde(default)]
    pub configuration: Content,
    /// The port of the primary's server, as a proposal for another one.
    pub postgres_port: Option<u16>,
}

/// What somebody wants to be rid of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {
    /// Names of directories, as `GET /v1/aside` tells them.
    pub names: Vec<String>,
    /// Who asks, for the log.
    #[serde(default)]
    pub by: String,
}

/// A user of the API who shows a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserTold {
    /// His name.
    pub name: String,
    /// What he may.
    pub role: cluster::users::UserRole,
    /// Who added him, from where.
    pub by: String,
    /// When, on the wall clock of the leader.
    pub made: cluster::WallMs,
}
