//! Claims this node's name: one directory for each name, and one cluster for each prefix.

use super::super::error::StoreError;
use super::Etcd;
use super::client::{Caller, EtcdError};
use super::wire::{self, RangeAnswer, TxnAnswer};
use cluster::NodeName;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pause between two tries.
const AGAIN: Duration = Duration::from_millis(200);
/// The same while the record comes from another store: a primary waits for a leader.
const BEGIN_AGAIN: Duration = Duration::from_millis(50);
/// Deadline of a call.
const LIMIT: Duration = Duration::from_secs(1);

/// A member, as its key says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    cluster: String,
    /// That of its directory.
    id: u64,
    /// `host:port` of its agent.
    address: String,
}

/// What follows from the members that are recorded.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The name is this node's.
    Done,
    /// Write the record, if the key is as this revision left it.
    Write(u64),
}

/// Judges by all records, each with its revision.
fn judge(
    (me, record): (&NodeName, &Record),
    key: &str,
    known: &BTreeMap<String, (u64, Record)>,
) -> Result<Next, StoreError> {
    if let Some((_, other)) = known.values().find(|(_, other)| other.cluster != record.cluster) {
        return Err(StoreError::OtherCluster {
            address: other.address.clone(),
            theirs: other.cluster.clone(),
            ours: record.cluster.clone(),
        });
    }
    match known.get(key) {
        None => Ok(Next::Write(0)),
        Some((_, held)) if held == record => Ok(Next::Done),
        Some((at, held)) if held.id == record.id => Ok(Next::Write(*at)),
        Some((_, held)) => Err(StoreError::NameTakenInEtcd {
            name: me.clone(),
            key: key.to_owned(),
            id: held.id,
            address: held.address.clone(),
            my_id: record.id,
            my_address: record.address.clone(),
        }),
    }
}

impl Etcd {
    /// Tries until this node's name is claimed in etcd.
    pub(in super::super) async fn form(&self) -> Result<(), StoreError> {
        let mut caller = Caller::new(&self.servers, LIMIT);
        loop {
            let begun = self.begin(&mut caller).await?;
            let pause = if begun.is_ok() { AGAIN } else { BEGIN_AGAIN };
            let claimed = match begun {
                Ok(()) => self.claim_name(&mut caller).await?,
                Err(why) => Err(why),
            };
            match claimed {
                Ok(()) => {
                    self.say(None);
                    self.formed.store(true, Ordering::Relaxed);
                    self.publish();
                    self.bells.look.notify_one();
                    return Ok(());
                }
                Err(why) => self.say(Some(format!("{} is not registered in etcd yet: {why}", self.me.node))),
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Notes what this node waits for.
    fn say(&self, why: Option<String>) {
        if let Some(why) = &why {
            tracing::debug!("{why}");
        }
        *self.founding.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.publish();
    }

    /// One try; the inner error is what it failed for, and may be over at the next.
    async fn claim_name(&self, caller: &mut Caller) -> Result<Result<(), String>, StoreError> {
        let (key, end) = wire::below(&self.keys.members);
        let all = json!({"key": key, "range_end": end});
        let answer = match caller.call::<RangeAnswer>(wire::RANGE, &all).await {
            Ok(answer) => answer,
            Err(e) => return Ok(Err(e.to_string())),
        };
        let known: BTreeMap<String, (u64, Record)> = answer
            .kvs
            .iter()
            .filter_map(|kv| {
                let record = serde_json::from_slice(&kv.value).ok()?;
                Some((String::from_utf8(kv.key.clone()).ok()?, (wire::revision(kv.mod_revision), record)))
            })
            .collect();
        let key = self.keys.member(&self.me.node);
        let (cluster, address) = (self.cluster.clone(), self.address.clone());
        let record = Record { cluster, id: self.memory.kept().id, address };
        let Next::Write(at) = judge((&self.me.node, &record), &key, &known)? else { return Ok(Ok(())) };
        let value = match serde_json::to_vec(&record) {
            Ok(value) => value,
            Err(e) => return Ok(Err(e.to_string())),
        };
        let written: Result<TxnAnswer, EtcdError> =
            caller.call(wire::TXN, &wire::put_if((&key, at), &value)).await;
        Ok(match written {
            Ok(answer) if answer.succeeded => Ok(()),
            Ok(_) => Err("its key was changed meanwhile, or is no record of a member".to_owned()),
            Err(e) => Err(e.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_has_one_directory_and_a_prefix_one_cluster() {
        let me: NodeName = "n1".parse().unwrap();
        let record = |id, address: &str| Record { cluster: "c".into(), id, address: address.into() };
        let mine = record(1, "a:1");
        let known = |held: Record| BTreeMap::from([("k".to_owned(), (9, held))]);
        let judged = |known| judge((&me, &mine), "k", &known);
        assert_eq!(judged(BTreeMap::new()).unwrap(), Next::Write(0));
        assert_eq!(judged(known(mine.clone())).unwrap(), Next::Done);
        assert_eq!(judged(known(record(1, "b:1"))).unwrap(), Next::Write(9), "it has moved");
        assert!(matches!(judged(known(record(2, "a:1"))), Err(StoreError::NameTakenInEtcd { id: 2, .. })));
        let foreign = Record { cluster: "d".into(), ..record(2, "b:1") };
        assert!(matches!(judged(known(foreign)), Err(StoreError::OtherCluster { .. })));
    }
}
