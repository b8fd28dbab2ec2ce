//! Sync sets: when a set of sealed standbys holds every acknowledged commit.
//!
//! With a set of n standbys of which any k confirm a commit, every commit is on at least k of them. Any n - k + 1 of
//! them therefore include one that has it; and once so many are sealed, fewer than k are left to confirm a new one.
//! A set with k = 0 (the policy `available`, nobody was there to confirm) is covered by no standby, however many are sealed:
//! its commits are surely only on the primary that made them. Nothing here knows where a position is; candidates are
//! compared in `candidate`.

use crate::basics::NodeName;
use crate::mutant::{self, Mutant};
use crate::state::{SyncSet, SyncSets};
use std::collections::BTreeSet;

/// Whether `sealed` holds every commit that was acknowledged under `set`.
#[must_use]
pub fn covers(sealed: &BTreeSet<NodeName>, set: &SyncSet) -> bool {
    let have = set.members.intersection(sealed).count();
    have + set.k + usize::from(mutant::is(Mutant::OneSealTooFew)) > set.members.len()
        || mutant::is(Mutant::SealsNotCounted)
        || mutant::is(Mutant::OpenSetCovered) && set.is_open()
}

/// Whether `sealed` covers every set that is in force.
#[must_use]
pub fn covers_all(sealed: &BTreeSet<NodeName>, sets: &SyncSets) -> bool {
    let skipped = if mutant::is(Mutant::JointRuleDropped) { sets.in_force.len() - 1 } else { 0 };
    sets.in_force.iter().skip(skipped).all(|set| covers(sealed, set))
}

/// How many sealed members `set` needs; more than it has: no standby is enough.
#[must_use]
pub fn needed(set: &SyncSet) -> usize {
    (set.members.len() + 1).saturating_sub(set.k)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<NodeName> {
        names.iter().map(|n| n.parse().unwrap_or_else(|e| panic!("{e}"))).collect()
    }

    /// Every way in which a commit can be confirmed meets every sealed set that covers: exhaustively up to five members.
    #[test]
    fn a_covering_seal_meets_every_confirmation() {
        let all = ["a", "b", "c", "d", "e"];
        for n in 1..=5usize {
            for k in 1..=n {
                for sealed_bits in 0..1u32 << n {
                    let pick = |bits: u32| -> BTreeSet<NodeName> {
                        set(&(0..n).filter(|i| bits >> i & 1 == 1).map(|i| all[i]).collect::<Vec<_>>())
                    };
                    let sealed = pick(sealed_bits);
                    let always_met = (0..1u32 << n)
                        .filter(|bits| bits.count_ones() as usize == k)
                        .all(|bits| !pick(bits).is_disjoint(&sealed));
                    let whole = SyncSet { k, members: pick((1 << n) - 1) };
                    assert_eq!(covers(&sealed, &whole), always_met, "n={n} k={k} {sealed:?}");
                }
            }
        }
    }

    #[test]
    fn two_sets_in_force_must_both_be_covered() {
        let of = |names: &[&str]| SyncSet { k: 1, members: set(names) };
        let sets = SyncSets { in_force: vec![of(&["a", "b"]), of(&["b"])] };
        assert!(!covers_all(&set(&["b"]), &sets));
        assert!(covers_all(&set(&["a", "b"]), &sets));
        assert_eq!(needed(&of(&["a", "b"])), 2);
    }

    #[test]
    fn each_set_has_a_number_of_its_own() {
        let both = SyncSet { k: 2, members: set(&["a", "b"]) };
        let one = SyncSet { k: 1, members: set(&["b"]) };
        let sets = SyncSets { in_force: vec![both, one] };
        assert!(covers_all(&set(&["b"]), &sets));
        assert!(!covers_all(&set(&["a"]), &sets));
    }

    #[test]
    fn no_standby_covers_a_set_of_nobody() {
        let nobody = SyncSet { k: 0, members: BTreeSet::new() };
        let mut sets = SyncSets { in_force: vec![SyncSet { k: 1, members: set(&["a"]) }] };
        sets.add(nobody.clone());
        assert!(!covers_all(&set(&["a", "b"]), &sets));
        // It goes only when it is dropped for good, not because it has no members.
        sets.add(SyncSet { k: 1, members: set(&["a"]) });
        assert_eq!(sets.in_force.first(), Some(&nobody));
        assert!(!covers_all(&set(&["a", "b"]), &sets));
    }
}
