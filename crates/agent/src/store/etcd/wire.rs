//! etcd's JSON (its gRPC gateway): keys and values are base64, 64-bit numbers are texts, and what is zero is left out.

use super::super::options::EtcdKeys;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::NodeName;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

/// Path of a transaction.
pub(super) const TXN: &str = "/v3/kv/txn";
/// Path of a read of several keys.
pub(super) const RANGE: &str = "/v3/kv/range";
/// Path on which changes are told.
pub(super) const WATCH: &str = "/v3/watch";
/// Path of a new lease.
pub(super) const GRANT: &str = "/v3/lease/grant";
/// Path on which a lease is kept.
pub(super) const KEEP_ALIVE: &str = "/v3/lease/keepalive";
/// Path on which a lease ends, and every key with it.
pub(super) const REVOKE: &str = "/v3/lease/revoke";
/// Path of a login.
pub(super) const LOGIN: &str = "/v3/auth/authenticate";

/// What is written in a transaction.
pub(super) enum Write<'a> {
    /// This value; with the lease, if there is one.
    Put(&'a str, &'a [u8], Option<i64>),
    /// Nothing any more.
    Delete(&'a str),
}

/// A condition: the key was last changed by this revision; 0: it does not exist.
pub(super) type When<'a> = (&'a str, u64);

pub(super) fn text(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A transaction that writes only under these conditions, and in any case ends with a look at the leader's key and at the
/// state, the latter only if it was changed after the revision `known`.
///
/// It has reads that are not marked as serializable on both branches. So it is linearizable without conditions and writes,
/// too: etcd takes a transaction with no read at all, or with serializable ones alone, for one that any member may
/// answer from what it has (`isTxnSerializable` in etcd's server/etcdserver/v3_server.go).
pub(super) fn txn(keys: &EtcdKeys, when: &[When<'_>], writes: &[Write<'_>], known: u64) -> Value {
    let compare: Vec<Value> = when
        .iter()
        .map(|(key, at)| {
            json!({"target": "MOD", "result": "EQUAL", "key": text(key.as_bytes()), "mod_revision": at.to_string()})
        })
        .collect();
    let look = || {
        vec![
            json!({"request_range": {"key": text(keys.leader.as_bytes())}}),
            json!({"request_range": {"key": text(keys.state.as_bytes()), "min_mod_revision": (known + 1).to_string()}}),
        ]
    };
    let mut then: Vec<Value> = writes.iter().map(write).collect();
    then.extend(look());
    json!({"compare": compare, "success": then, "failure": look()})
}

fn write(write: &Write<'_>) -> Value {
    match write {
        Write::Put(key, value, lease) => json!({"request_put": {
            "key": text(key.as_bytes()),
            "value": text(value),
            "lease": lease.unwrap_or(0).to_string(),
        }}),
        Write::Delete(key) => json!({"request_delete_range": {"key": text(key.as_bytes())}}),
    }
}

/// All keys that begin with `prefix`.
pub(super) fn below(prefix: &str) -> (String, String) {
    let mut end = prefix.as_bytes().to_vec();
    // A prefix ends with "/": the next byte is no overflow.
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    (text(prefix.as_bytes()), text(&end))
}

/// A request for everything that changes below `prefix` from now on.
pub(super) fn watch(prefix: &str) -> Value {
    let (key, range_end) = below(prefix);
    json!({"create_request": {"key": key, "range_end": range_end}})
}

/// Whether a piece of what is told about changes says that nothing more will be. Keys and values are base64: what is found
/// stands outside of them. One that was cut in two is missed; the next regular look finds what was not told.
pub(super) fn says_end(piece: &[u8]) -> bool {
    let text = String::from_utf8_lossy(piece);
    text.contains("\"canceled\":true") || text.contains("\"error\":")
}

/// A plain write of a key that must not exist, or must be unchanged since.
pub(super) fn put_if(when: When<'_>, value: &[u8]) -> Value {
    let (key, at) = (text(when.0.as_bytes()), when.1.to_string());
    json!({
        "compare": [{"target": "MOD", "result": "EQUAL", "key": key, "mod_revision": at}],
        "success": [{"request_put": {"key": key, "value": text(value)}}],
        "failure": [],
    })
}

/// An answer to a transaction.
#[derive(Debug, Deserialize)]
pub(super) struct TxnAnswer {
    pub(super) header: Header,
    /// Whether the conditions were met.
    #[serde(default)]
    pub(super) succeeded: bool,
    #[serde(default)]
    responses: Vec<Response>,
}

/// What every answer begins with.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    #[serde(default, deserialize_with = "number")]
    pub(super) revision: i64,
}

#[derive(Debug, Deserialize)]
struct Response {
    response_range: Option<RangeAnswer>,
}

/// An answer to a read.
#[derive(Debug, Deserialize)]
pub(super) struct RangeAnswer {
    /// What was found, and changed late enough.
    #[serde(default)]
    pub(super) kvs: Vec<KeyValue>,
    /// How many there are, whenever they were changed.
    #[serde(default, deserialize_with = "number")]
    pub(super) count: i64,
}

/// A key with its value.
#[derive(Debug, Deserialize)]
pub(super) struct KeyValue {
    #[serde(default, deserialize_with = "bytes")]
    pub(super) key: Vec<u8>,
    #[serde(default, deserialize_with = "bytes")]
    pub(super) value: Vec<u8>,
    #[serde(default, deserialize_with = "number")]
    pub(super) mod_revision: i64,
}

/// An answer about a lease; its time is 0 or less when it is over.
#[derive(Debug, Deserialize)]
pub(super) struct LeaseAnswer {
    #[serde(rename = "ID", default, deserialize_with = "number")]
    pub(super) id: i64,
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub(super) ttl_s: i64,
}

/// An answer of a stream, of which one message was asked.
#[derive(Debug, Deserialize)]
pub(super) struct Streamed<T> {
    pub(super) result: T,
}

/// An answer to a login.
#[derive(Deserialize)]
pub(super) struct LoginAnswer {
    pub(super) token: String,
}

/// The value of the leader's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// The node.
    pub(super) node: NodeName,
    /// The run of its agent: a restarted one is not the leader that it was.
    pub(super) run: String,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// What the key says; `None`: something that no agent wrote.
    pub(super) claim: Option<Claim>,
    /// The revision that made it so.
    pub(super) term: u64,
}

/// What was found of the state.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is none.
    Absent,
    /// It was not changed since the revision that was named.
    Unchanged,
    /// This, by this revision.
    Changed(u64, Vec<u8>),
}

/// What etcd held at one revision.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) revision: u64,
    pub(super) holder: Option<Holder>,
    pub(super) state: Found,
}

impl TxnAnswer {
    /// The look with which every transaction ends; what is wrong with the answer otherwise.
    pub(super) fn snapshot(mut self) -> Result<Snapshot, String> {
        let unlike = || "the answer is not that of etcd's transactions".to_owned();
        let mut last = || self.responses.pop().and_then(|r| r.response_range).ok_or_else(unlike);
        let (state, leader) = (last()?, last()?);
        let holder = leader.kvs.into_iter().next().map(|kv| Holder {
            claim: serde_json::from_slice(&kv.value).ok(),
            term: revision(kv.mod_revision),
        });
        let state = match state.kvs.into_iter().next() {
            Some(kv) => Found::Changed(revision(kv.mod_revision), kv.value),
            None if state.count > 0 => Found::Unchanged,
            None => Found::Absent,
        };
        Ok(Snapshot { revision: revision(self.header.revision), holder, state })
    }
}

/// Revisions are never negative.
pub(super) fn revision(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(i64),
    }
    match Either::deserialize(from)? {
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        Either::Number(number) => Ok(number),
    }
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(from)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(text: &str) -> Result<Snapshot, String> {
        serde_json::from_str::<TxnAnswer>(text).map_err(|e| e.to_string())?.snapshot()
    }

    #[test]
    fn a_look_is_read_whatever_was_written_before_it() {
        // As etcd 3.4 says it.
        let said = r#"{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"12",
            "raft_term":"2"},"succeeded":true,"responses":[{"response_put":{"header":{"revision":"12"}}},
            {"response_range":{"header":{"revision":"12"},"kvs":[{"key":"bA==","create_revision":"3","mod_revision":"7",
            "version":"1","value":"eyJub2RlIjoibjEiLCJydW4iOiJyIn0=","lease":"7587883212297104899"}],"count":"1"}},
            {"response_range":{"header":{"revision":"12"},"count":"1"}}]}"#;
        let claim = Claim { node: "n1".parse().unwrap(), run: "r".into() };
        let holder = Some(Holder { claim: Some(claim), term: 7 });
        assert_eq!(answer(said), Ok(Snapshot { revision: 12, holder, state: Found::Unchanged }));
    }

    #[test]
    fn an_empty_store_has_neither() {
        let said = r#"{"header":{"revision":"1"},"succeeded":true,"responses":[
            {"response_range":{"header":{"revision":"1"}}},{"response_range":{"header":{"revision":"1"}}}]}"#;
        assert_eq!(answer(said), Ok(Snapshot { revision: 1, holder: None, state: Found::Absent }));
    }

    #[test]
    fn what_is_no_answer_is_no_empty_store() {
        for said in [
            r#"{"header":{"revision":"1"}}"#,
            r#"{"header":{"revision":"x"},"responses":[{"response_range":{}},{"response_range":{}}]}"#,
            r#"{"header":{},"responses":[{"response_put":{}},{"response_range":{}}]}"#,
            "[]",
        ] {
            assert!(answer(said).is_err(), "{said}");
        }
    }

    /// Without a read that is not serializable, any member could answer from what it has.
    #[test]
    fn every_transaction_reads_on_both_branches() {
        let keys = EtcdKeys::new("/p/");
        for (when, writes) in [(vec![], vec![]), (vec![("k", 3)], vec![Write::Delete("k")])] {
            let txn = txn(&keys, &when, &writes, 4);
            for branch in ["success", "failure"] {
                let reads = txn[branch].as_array().unwrap().iter().filter_map(|op| op.get("request_range"));
                assert_eq!(reads.filter(|read| read.get("serializable").is_none()).count(), 2, "{txn}");
            }
        }
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(below("/a/"), (text(b"/a/"), text(b"/a0")));
    }
}
