//! How this node calls the other members: JSON over HTTP, one keep-alive connection per member and purpose, so that
//! neither a snapshot nor a long append ever stands before a heartbeat.

use super::ballots::Ballots;
use super::contacts::Contacts;
use super::types::{Peer, SnapshotMeta, Types, Vote};
use crate::http::{BODY_MAX, Connection, HttpError};
use cluster::state::State;
use identity::Caller;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Largest snapshot on the wire, in bytes.
pub(super) const SNAPSHOT_MAX: usize = 16 * 1024 * 1024;

/// Every call says from whom it comes and whom it means: after a host got a new store, or an address a new host, the
/// wrong node must not answer.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope<T> {
    pub(super) cluster: String,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) call: T,
}

/// A snapshot on the wire.
#[derive(Serialize, Deserialize)]
pub(super) struct SentSnapshot {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
    pub(super) state: State,
}

/// Makes the links to other members.
pub(super) struct Network {
    pub(super) cluster: String,
    pub(super) me: u64,
    pub(super) contacts: Arc<Contacts>,
    pub(super) ballots: Arc<Ballots>,
    pub(super) caller: Caller,
    /// Deadline of an append, in which the other side's disk has to be waited for.
    pub(super) append_timeout: Duration,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Link {
        Link {
            cluster: self.cluster.clone(),
            me: self.me,
            target,
            address: node.address.clone(),
            contacts: self.contacts.clone(),
            ballots: self.ballots.clone(),
            append_timeout: self.append_timeout,
            connection: Connection::new(&self.caller, &node.address, BODY_MAX),
            caller: self.caller.clone(),
        }
    }
}

/// A link to one member for one purpose.
pub(super) struct Link {
    cluster: String,
    me: u64,
    target: u64,
    address: String,
    contacts: Arc<Contacts>,
    ballots: Arc<Ballots>,
    append_timeout: Duration,
    connection: Connection,
    caller: Caller,
}

impl Link {
    async fn call<B, R>(
        &mut self,
        what: RPCTypes,
        path: &str,
        call: B,
        timeout: Duration,
    ) -> Result<R, RPCError<Types>>
    where
        B: Serialize + Sync,
        R: DeserializeOwned,
    {
        let envelope = self.envelope(call);
        let answer = self.connection.post_json(path, &envelope, timeout).await;
        self.heard(what, timeout, answer)
    }

    async fn ask_for_vote(
        &self,
        path: &str,
        rpc: VoteRequest<Types>,
        timeout: Duration,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let envelope = self.envelope(rpc);
        let answer = self.ballots.ask((self.target, &self.address), path, &envelope, timeout).await;
        self.heard(RPCTypes::Vote, timeout, answer)
    }

    fn envelope<B>(&self, call: B) -> Envelope<B> {
        Envelope { cluster: self.cluster.clone(), from: self.me, to: self.target, call }
    }

    fn heard<R>(
        &self,
        what: RPCTypes,
        timeout: Duration,
        answer: Result<R, HttpError>,
    ) -> Result<R, RPCError<Types>> {
        match answer {
            Ok(answer) => {
                self.contacts.heard(self.target);
                Ok(answer)
            }
            Err(e) => Err(self.explain(what, timeout, &e)),
        }
    }

    fn explain(&self, action: RPCTypes, timeout: Duration, e: &HttpError) -> RPCError<Types> {
        match e {
            HttpError::Timeout { .. } => {
                RPCError::Timeout(Timeout { action, id: self.me, target: self.target, timeout })
            }
            HttpError::Broken { .. } => RPCError::Network(NetworkError::new(e)),
            HttpError::Unreachable { .. } | HttpError::Status { .. } | HttpError::Malformed { .. } => {
                RPCError::Unreachable(Unreachable::new(e))
            }
        }
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Arc<State>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.call(RPCTypes::AppendEntries, "/v1/raft/append", rpc, self.append_timeout).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote("/v1/raft/vote", rpc, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote("/v1/raft/pre-vote", rpc, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, Arc<State>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sent = SentSnapshot { vote, meta: snapshot.meta, state: State::clone(&snapshot.snapshot) };
        // Its own connection, because its limit is another one.
        self.connection = Connection::new(&self.caller, &self.address, SNAPSHOT_MAX);
        let answer = self.call(RPCTypes::InstallSnapshot, "/v1/raft/snapshot", sent, option.soft_ttl());
        tokio::select! {
            answer = answer => Ok(answer?),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.call(RPCTypes::TransferLeader, "/v1/raft/transfer", req, option.hard_ttl()).await
    }
}
