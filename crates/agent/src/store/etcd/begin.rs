//! How the record begins in an etcd, when it comes from another store; and whether an etcd could take it.

use super::super::elsewhere;
use super::super::error::StoreError;
use super::super::moving::Opening;
use super::super::options::EtcdOptions;
use super::super::written;
use super::client::{Caller, EtcdError, Members};
use super::wire::{self, RangeAnswer, TxnAnswer};
use super::{Etcd, sight};
use cluster::NodeName;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Deadline of a call.
const LIMIT: Duration = Duration::from_secs(1);
/// So many keys are named that are in the way.
const SHOWN_MAX: i64 = 20;

impl Etcd {
    /// Writes the beginning of the record, unless there is one; `Err`: what is waited for. Then it is remembered that it has begun. What
    /// is found there counts only if it goes on from that beginning.
    pub(super) async fn begin(&self, caller: &mut Caller) -> Result<Result<(), String>, StoreError> {
        let Some(opening) = self.opening.clone().filter(|opening| !opening.begun) else { return Ok(Ok(())) };
        let asked = json!({"key": wire::text(self.keys.state.as_bytes())});
        let found = match caller.call::<RangeAnswer>(wire::RANGE, &asked).await {
            Ok(found) => found.kvs.into_iter().next(),
            Err(e) => return Ok(Err(e.to_string())),
        };
        if let Some(kv) = found {
            if let Err(why) = goes_on(&self.cluster, &opening, &kv.value) {
                return Ok(Err(why));
            }
        } else {
            if let Err(why) = self.none_is_later(&opening).await {
                return Ok(Err(why));
            }
            let value = written::encode(&opening.state).map_err(|e| StoreError::Etcd(e.to_string()))?;
            let written: Result<TxnAnswer, EtcdError> =
                caller.call(wire::TXN, &wire::put_if((&self.keys.state, 0), &value)).await;
            match written {
                Ok(answer) if answer.succeeded => tracing::info!("the record begins in etcd"),
                // What that is has to be seen.
                Ok(_) => return Ok(Err("somebody else has just written it".to_owned())),
                Err(e) => return Ok(Err(format!("the record cannot begin there: {e}"))),
            }
        }
        self.remember_begun(opening).await?;
        Ok(Ok(()))
    }

    async fn none_is_later(&self, opening: &Opening) -> Result<(), String> {
        let state = &opening.state;
        let known = self.state.borrow().revision;
        if known > state.revision {
            return Err(format!(
                "this node knows a record of revision {known} there, and it is not found: was that etcd emptied?"
            ));
        }
        let nodes = state.seated().cloned().collect();
        let others = elsewhere::others(state, &self.configured, &self.me.node);
        let answers = elsewhere::ask(&self.agents, &others).await;
        let begins = (opening.number, state.revision);
        elsewhere::none_later((&self.cluster, &self.me.node), begins, &nodes, &answers)
    }

    /// Whether the record has begun here, as far as is known.
    pub(in super::super) fn is_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    async fn remember_begun(&self, opening: Opening) -> Result<(), StoreError> {
        let (stores, begun) = (self.stores.clone(), Opening { begun: true, ..opening });
        let written = tokio::task::spawn_blocking(move || super::super::moving::remember(&stores, &begun));
        written.await.map_err(|e| StoreError::Gone(e.to_string()))??;
        self.has_begun();
        Ok(())
    }
}

/// Whether what was found is this record, after it began there; otherwise what is wrong with it.
fn goes_on(cluster: &str, opening: &Opening, value: &[u8]) -> Result<(), String> {
    let found = sight::judge(cluster, &opening.state, value)?;
    if let Some(moved) = &found.moved {
        return Err(format!("the record that is there has moved on (move {})", moved.number));
    }
    if found.cluster != cluster || found.moves < opening.number {
        return Err(
            "what is there is not the record that has moved there: empty that prefix, or have a person look"
                .to_owned(),
        );
    }
    Ok(())
}

/// What an agent found that looked whether the record could be kept in an etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Found {
    /// What another agent had written there for all to see.
    pub(in super::super) mark: Option<String>,
}

/// Looks whether this node can use the etcd, and whether the place is free: it writes and removes a key of its own.
pub(in super::super) async fn look(options: EtcdOptions, node: &NodeName) -> Result<Found, String> {
    let prefix = options.prefix.clone();
    let mut caller = Caller::new(&Members::new(options), LIMIT);
    let (key, range_end) = wire::below(&prefix);
    let asked = json!({"key": key, "range_end": range_end, "limit": SHOWN_MAX.to_string()});
    let found: RangeAnswer = caller.call(wire::RANGE, &asked).await.map_err(|e| e.to_string())?;
    let tried = try_dir(&prefix);
    let names = found.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned());
    if let Some(name) = names.clone().find(|name| !name.starts_with(&tried)) {
        return Err(format!(
            "there is something below {prefix} already ({name}): a record that has moved away, or that of another cluster. Name \
             another prefix, or remove it if nobody needs it: etcdctl del --prefix {prefix}"
        ));
    }
    let mark_key = mark(&prefix);
    let mark = found.kvs.iter().find(|kv| kv.key == mark_key.as_bytes());
    let mark = mark.map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
    let own = format!("{tried}{node}");
    remove(&mut caller, &own).await?;
    put(&mut caller, &own, "pgkeel looks whether it can write here").await?;
    remove(&mut caller, &own).await?;
    Ok(Found { mark })
}

fn try_dir(prefix: &str) -> String {
    format!("{prefix}try/")
}

fn mark(prefix: &str) -> String {
    // No name of a node.
    format!("{prefix}try/@")
}

/// Leaves a mark that every agent must find: otherwise they mean different etcds.
pub(in super::super) async fn leave_mark(options: EtcdOptions, text: &str) -> Result<(), String> {
    let key = mark(&options.prefix);
    let mut caller = Caller::new(&Members::new(options), LIMIT);
    remove(&mut caller, &key).await?;
    put(&mut caller, &key, text).await
}

/// Takes the mark away.
pub(in super::super) async fn take_mark(options: EtcdOptions) -> Result<(), String> {
    let key = mark(&options.prefix);
    remove(&mut Caller::new(&Members::new(options), LIMIT), &key).await
}

async fn put(caller: &mut Caller, key: &str, value: &str) -> Result<(), String> {
    let written: TxnAnswer = caller
        .call(wire::TXN, &wire::put_if((key, 0), value.as_bytes()))
        .await
        .map_err(|e| format!("{key} cannot be written: {e}"))?;
    if written.succeeded { Ok(()) } else { Err(format!("somebody else writes {key} at the same time")) }
}

async fn remove(caller: &mut Caller, key: &str) -> Result<(), String> {
    let gone = json!({"compare": [], "failure": [], "success": [
        {"request_delete_range": {"key": wire::text(key.as_bytes())}}
    ]});
    let removed: Result<TxnAnswer, EtcdError> = caller.call(wire::TXN, &gone).await;
    removed.map(|_| ()).map_err(|e| format!("{key} cannot be written: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::options::EtcdKeys;
    use cluster::moving::{Home, Moved};
    use cluster::state::State;

    #[test]
    fn what_is_tried_is_no_part_of_a_record() {
        let keys = EtcdKeys::new("/p/");
        for key in [&keys.state, &keys.leader, &keys.members] {
            assert!(!key.starts_with(&try_dir("/p/")) && key.starts_with("/p/"), "{key}");
        }
        assert!(mark("/p/").starts_with(&try_dir("/p/")));
        assert!("@".parse::<NodeName>().is_err(), "no node's own key is the mark");
    }

    /// Only what goes on from the beginning is taken for the record that has begun.
    #[test]
    fn what_is_found_must_go_on_from_the_beginning() {
        let begins = State { cluster: "c".to_owned(), revision: 41, moves: 2, ..State::default() };
        let opening = Opening::for_test(begins.clone());
        let found = |state: &State| goes_on("c", &opening, &written::encode(state).unwrap_or_default());
        assert_eq!(found(&begins), Ok(()));
        assert_eq!(found(&State { revision: 50, ..begins.clone() }), Ok(()));
        assert!(found(&State { epoch: 9, ..begins.clone() }).is_err(), "another beginning");
        assert!(found(&State { revision: 40, ..begins.clone() }).is_err(), "before it");
        assert!(found(&State { revision: 50, moves: 1, ..begins.clone() }).is_err(), "of an earlier store");
        assert!(found(&State { cluster: "d".to_owned(), ..begins.clone() }).is_err());
        assert!(found(&State { cluster: String::new(), revision: 50, ..begins.clone() }).is_err());
        let to = Home::Embedded { voters: Default::default() };
        let moved = Some(Moved { number: 3, to, by: "alice".to_owned(), at: 1 });
        let sealed = State { revision: 50, moved, ..begins.clone() };
        assert!(found(&sealed).is_err_and(|why| why.contains("moved on (move 3)")));
        assert!(goes_on("c", &opening, b"nonsense").is_err());
    }
}
