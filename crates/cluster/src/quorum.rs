//! Sync sets: when a set of sealed standbys holds every acknowledged commit.
//!
//! With a set of n standbys of which any k confirm a commit, every commit is on at least k of them. Any n - k + 1 of
//! them therefore include one that has it; and once so many are sealed, fewer than k are left to confirm a new one.
//! Nothing here knows where a position is; candidates are compared in `candidate`.

use crate::basics::NodeName;
use crate::mutant::{self, Mutant};
use crate::state::SyncSets;
use std::collections::BTreeSet;

/// Whether `sealed` holds every commit that `set` (any `k` of it) has confirmed.
#[must_use]
pub fn covers(sealed: &BTreeSet<NodeName>, set: &BTreeSet<NodeName>, k: usize) -> bool {
    let have = set.intersection(sealed).count();
    have + k + usize::from(mutant::is(Mutant::OneSealTooFew)) > set.len()
        || mutant::is(Mutant::SealsNotCounted)
}

/// Whether `sealed` covers every set that is in force.
#[must_use]
pub fn covers_all(sealed: &BTreeSet<NodeName>, sets: &SyncSets, k: usize) -> bool {
    let skipped = if mutant::is(Mutant::JointRuleDropped) { sets.in_force.len() - 1 } else { 0 };
    sets.in_force.iter().skip(skipped).all(|set| covers(sealed, set, k))
}

/// How many sealed members `set` needs.
#[must_use]
pub fn needed(set: &BTreeSet<NodeName>, k: usize) -> usize {
    (set.len() + 1).saturating_sub(k)
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
                    assert_eq!(covers(&sealed, &pick((1 << n) - 1), k), always_met, "n={n} k={k} {sealed:?}");
                }
            }
        }
    }

    #[test]
    fn two_sets_in_force_must_both_be_covered() {
        let sets = SyncSets { in_force: vec![set(&["a", "b"]), set(&["b"])] };
        assert!(!covers_all(&set(&["b"]), &sets, 1));
        assert!(covers_all(&set(&["a", "b"]), &sets, 1));
        assert_eq!(needed(&set(&["a", "b"]), 1), 2);
    }
}
