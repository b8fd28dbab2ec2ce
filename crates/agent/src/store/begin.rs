//! How the record begins in a store in the agents, when it comes from another one (`super::moving`): each writes the
//! same snapshot into the file that was prepared, as if Raft's first entry, which names the voters, had been applied to it.

use super::disk::{Change, Disk, Kept, Key, Loaded, encode};
use super::error::StoreError;
use super::moving::Opening;
use super::types::{LogId, Membership, Peer, SnapshotMeta, Types};
use cluster::moving::Home;
use openraft::type_config::alias::LeaderIdOf;
use openraft::vote::RaftLeaderId as _;
use std::collections::{BTreeMap, BTreeSet};

/// Writes it, unless it is there already.
///
/// # Errors
/// [`StoreError`]: the file is not the one that was prepared, or cannot be written.
pub(super) async fn begin(disk: &Disk, loaded: &mut Loaded, opening: Opening) -> Result<(), StoreError> {
    if loaded.is_used() {
        return Ok(());
    }
    let Home::Embedded { voters } = &opening.to else {
        return Err(StoreError::Home("an opening of another kind of store".to_owned()));
    };
    let owner = &loaded.owner;
    if voters.get(&owner.node).is_none_or(|seat| seat.raft_id != owner.id) {
        return Err(StoreError::Home(format!(
            "the record has moved to the agents (move {}), and {} has lost the file with which it was to vote there: the store. \
             Run pgkeel remove {1} elsewhere, and pgkeel join here with another --node; it",
            opening.number, owner.node
        )));
    }
    let (first, kept) = first_snapshot(&opening, voters)?;
    let gone = |e: std::io::Error| StoreError::Gone(e.to_string());
    let changes = vec![
        Change::Set(Key::Snapshot, encode(&kept).map_err(gone)?),
        Change::Set(Key::Purged, encode(&first).map_err(gone)?),
        Change::Set(Key::Committed, encode(&first).map_err(gone)?),
    ];
    disk.write(changes).await.map_err(gone)?;
    (loaded.snapshot, loaded.purged, loaded.committed) = (Some(kept), Some(first), Some(first));
    Ok(())
}

fn first_snapshot(
    opening: &Opening,
    voters: &BTreeMap<cluster::NodeName, cluster::membership::Seat>,
) -> Result<(LogId, Kept), StoreError> {
    let peer = |(name, seat): (&cluster::NodeName, &cluster::membership::Seat)| {
        (seat.raft_id, Peer { name: name.clone(), address: seat.address.clone() })
    };
    let peers: BTreeMap<u64, Peer> = voters.iter().map(peer).collect();
    let ids: BTreeSet<u64> = peers.keys().copied().collect();
    // The same for all: as if the lowest number had written it before the first election.
    let nobody = LeaderIdOf::<Types>::new(0, ids.first().copied().unwrap_or_default());
    let first = LogId::new(nobody.to_committed(), 0);
    let membership =
        openraft::Membership::new(vec![ids], peers).map_err(|e| StoreError::Home(e.to_string()))?;
    let meta =
        SnapshotMeta { last_log_id: Some(first), last_membership: Membership::new(Some(first), membership) };
    Ok((first, Kept { meta, state: opening.state.clone() }))
}

#[cfg(test)]
mod tests;
