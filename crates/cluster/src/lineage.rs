//! Does a node's data belong to the cluster's WAL, and up to where?
//!
//! Timeline numbers do not identify WAL: two nodes may both promote to timeline 3. So each appointment has an identity,
//! and each node remembers the identity of the last primary whose WAL it wrote or was told to receive: its *line*. A
//! node takes on a line only when its data was found to be a prefix of it, so data with line `L` up to some position is
//! always a piece of the WAL that `L` wrote or continued. Appointments name their parent line; the chain of parents is
//! the cluster's history. This module knows nothing of positions beyond the forks that published promotions carry.

use crate::basics::{Lsn, Timeline};
use crate::mutant::{self, Mutant};
use crate::state::{Fork, Promotion, State};

/// How a node's data relates to another line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It is a prefix: the node may follow.
    Prefix,
    /// It went on after the fork: the node must be rewound.
    Diverged,
    /// Its line is not an ancestor, or is not known any more: the node must be cloned.
    Unrelated,
}

/// The lines that `line` descends from, itself first.
fn ancestry<'a>(state: &'a State, line: &'a str) -> impl Iterator<Item = &'a Promotion> {
    let find = |id: &str| state.promotions.iter().find(|p| p.promotion_id == id);
    std::iter::successors(find(line), move |p| p.parent.as_deref().and_then(find))
}

/// The line that wrote the last WAL of data that took on `line` and ends at `lsn` on `timeline`.
///
/// A node takes on a line before it has anything of it: the appointed one before it promotes, a standby before it
/// receives. Until then its data is still the parent's, and must be compared as such: a standby of an appointed node
/// that never promoted is not ahead of another one that holds more of the parent's WAL.
#[must_use]
pub fn settled<'a>(state: &'a State, line: &'a str, timeline: Timeline, lsn: Lsn) -> &'a str {
    ancestry(state, line)
        .find(|p| {
            mutant::is(Mutant::SettledSkipped)
                || p.parent.is_none()
                || timeline > p.sealed_timeline
                || lsn > p.sealed_lsn
        })
        .map_or(line, |p| p.promotion_id.as_str())
}

/// How data of `line`, held up to `lsn`, relates to the published promotion `of`.
#[must_use]
pub fn relation(state: &State, line: &str, lsn: Lsn, of: &str) -> Relation {
    let Some(depth) = ancestry(state, of).position(|p| p.promotion_id == line) else {
        return Relation::Unrelated;
    };
    if depth == 0 || mutant::is(Mutant::AlwaysPrefix) {
        return Relation::Prefix;
    }
    // Each promotion leaves exactly one timeline, so the fork away from the ancestor `depth` steps up is that many from
    // the end of the history file.
    let forks = ancestry(state, of).next().and_then(|p| p.published.as_ref()).map(|p| p.forks.as_slice());
    match forks.and_then(|f| f.len().checked_sub(depth).and_then(|i| f.get(i))) {
        Some(fork) if lsn <= fork.at => Relation::Prefix,
        Some(_) => Relation::Diverged,
        None => Relation::Unrelated,
    }
}

/// Whether data that ends on `timeline`, replayed up to `lsn`, can be of `line`, as its node remembers.
///
/// A line wrote one timeline, which it opened where its history says. Data of a later timeline was promoted by somebody
/// else, data beyond a fork of the history is of another copy: in both cases the directory was changed behind the node's
/// back, and says nothing about what the cluster acknowledged.
#[must_use]
pub fn fits(state: &State, line: &str, timeline: Timeline, lsn: Lsn) -> bool {
    let published = ancestry(state, line).next().and_then(|p| p.published.as_ref());
    let Some(published) = published.filter(|p| timeline != 0 && p.timeline != timeline) else { return true };
    published.forks.iter().any(|fork| fork.timeline == timeline && lsn <= fork.at)
}

/// Up to where data of `line` is the same WAL as that of the published promotion `of`; `None`: not known any more.
///
/// Their nearest common ancestor is where both parted, and the first of them to part is the end of what they share. What
/// `line` left is known by the position at which its appointed node was sealed, as it may never have been published.
#[must_use]
pub fn parted(state: &State, line: &str, of: &str) -> Option<Fork> {
    let own: Vec<&Promotion> = ancestry(state, line).collect();
    let (depth, common) = ancestry(state, of)
        .enumerate()
        .find(|(_, p)| own.iter().any(|mine| mine.promotion_id == p.promotion_id))?;
    let forks = &ancestry(state, of).next()?.published.as_ref()?.forks;
    let theirs = match depth {
        0 => None,
        _ => Some(*forks.len().checked_sub(depth).and_then(|i| forks.get(i))?),
    };
    let mine = own
        .iter()
        .find(|p| p.parent.as_ref() == Some(&common.promotion_id))
        .map(|child| Fork { timeline: child.sealed_timeline, at: child.sealed_lsn });
    match (theirs, mine) {
        (Some(theirs), Some(mine)) if mine.at < theirs.at => Some(mine),
        (Some(theirs), _) => Some(theirs),
        (None, mine) => mine,
    }
}

/// Whether `line` can have written WAL of `timeline`, as far as is known.
///
/// A standby whose agent stands still goes on connecting to the node that it followed, and receives what that wrote when
/// it was promoted again: WAL of a line that its agent never noted. Timeline numbers repeat, so to `pg_rewind` it may look
/// as if that were the source's own.
#[must_use]
pub fn may_have_written(state: &State, line: &str, timeline: Timeline) -> bool {
    let last = state.promotions.iter().find(|p| p.promotion_id == line);
    last.is_some_and(|p| timeline <= p.published.as_ref().map_or(p.sealed_timeline + 1, |w| w.timeline))
}

/// Order of appointment of a line: the later one is nearer to what clients were told. `None`: not known.
#[must_use]
pub fn rank(state: &State, line: &str) -> Option<usize> {
    state.promotions.iter().position(|p| p.promotion_id == line)
}

/// Whether data of `line` up to `lsn` may become the cluster's: it descends from the last published promotion or from a
/// later appointment, or is a prefix of the last published.
///
/// A later appointment need not descend from the last published: where that one died before any standby had its WAL, the
/// next was made of a prefix of it. It may have acknowledged commits before it could be published, so its line counts
/// (and comes first, see [`rank`]).
#[must_use]
pub fn eligible(state: &State, line: Option<&str>, lsn: Lsn) -> bool {
    if mutant::is(Mutant::AlwaysEligible) {
        return line.is_some();
    }
    let Some(line) = line else { return false };
    let Some((published, _)) = state.last_published() else { return false };
    let later = rank(state, &published.promotion_id).unwrap_or(0);
    let counts = |p: &Promotion| match mutant::is(Mutant::UnpublishedIneligible) {
        true => p.promotion_id == published.promotion_id,
        false => rank(state, &p.promotion_id) >= Some(later),
    };
    ancestry(state, line).any(counts)
        || relation(state, line, lsn, &published.promotion_id) == Relation::Prefix
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Fork, Published};

    fn promotion(
        id: &str,
        parent: Option<&str>,
        published: Option<(Timeline, &[(Timeline, u64)])>,
    ) -> Promotion {
        Promotion {
            epoch: 0,
            node: "n1".to_owned().try_into().unwrap_or_else(|e| panic!("{e}")),
            promotion_id: id.to_owned(),
            parent: parent.map(str::to_owned),
            sealed_timeline: 1,
            sealed_lsn: Lsn(if parent.is_none() { 0 } else { 100 }),
            published: published.map(|(timeline, forks)| Published {
                timeline,
                forks: forks.iter().map(|&(timeline, at)| Fork { timeline, at: Lsn(at) }).collect(),
            }),
        }
    }

    /// a (timeline 1) ── b (2, left a at 100) ── c (never published, would be 3) ── d (4, left b at 200, c at 250)
    ///               └── x (2 as well, never published)
    fn history() -> State {
        State {
            promotions: vec![
                promotion("a", None, Some((1, &[]))),
                promotion("x", Some("a"), None),
                promotion("b", Some("a"), Some((2, &[(1, 100)]))),
                promotion("c", Some("b"), None),
                promotion("d", Some("c"), Some((4, &[(1, 100), (2, 200), (3, 250)]))),
            ],
            ..State::default()
        }
    }

    #[test]
    fn a_prefix_ends_at_the_fork() {
        let s = history();
        assert_eq!(relation(&s, "a", Lsn(100), "d"), Relation::Prefix);
        assert_eq!(relation(&s, "a", Lsn(101), "d"), Relation::Diverged);
        assert_eq!(relation(&s, "b", Lsn(200), "d"), Relation::Prefix);
        assert_eq!(relation(&s, "c", Lsn(251), "d"), Relation::Diverged);
        assert_eq!(relation(&s, "d", Lsn(9999), "d"), Relation::Prefix);
    }

    #[test]
    fn a_line_counts_only_once_its_wal_is_there() {
        let s = history();
        assert_eq!(settled(&s, "b", 1, Lsn(100)), "a");
        assert_eq!(settled(&s, "b", 1, Lsn(101)), "b");
        assert_eq!(settled(&s, "b", 2, Lsn(90)), "b");
        assert_eq!(settled(&s, "a", 1, Lsn(0)), "a");
        assert_eq!(settled(&s, "never heard of", 1, Lsn(0)), "never heard of");
    }

    #[test]
    fn data_changed_behind_the_nodes_back_does_not_fit_its_line() {
        let s = history();
        assert!(fits(&s, "a", 1, Lsn(9999)));
        assert!(!fits(&s, "a", 2, Lsn(50)), "promoted by hand");
        assert!(fits(&s, "d", 4, Lsn(9999)) && fits(&s, "d", 2, Lsn(200)));
        assert!(!fits(&s, "d", 2, Lsn(201)), "an old copy from before, with WAL of its own");
        assert!(!fits(&s, "b", 3, Lsn(1)));
        assert!(fits(&s, "x", 7, Lsn(1)) && fits(&s, "unknown", 7, Lsn(1)), "nothing is known of these");
        assert!(fits(&s, "a", 0, Lsn(1)), "its timeline is not known");
    }

    #[test]
    fn a_line_wrote_no_later_timeline_than_its_own() {
        let s = history();
        assert!(may_have_written(&s, "b", 2) && may_have_written(&s, "b", 1));
        assert!(!may_have_written(&s, "b", 3), "received from a node that was promoted again");
        assert!(!may_have_written(&s, "never heard of", 1));
    }

    #[test]
    fn the_same_timeline_number_is_not_the_same_line() {
        assert_eq!(relation(&history(), "x", Lsn(50), "d"), Relation::Unrelated);
        assert_eq!(relation(&history(), "never heard of", Lsn(0), "d"), Relation::Unrelated);
    }

    #[test]
    fn what_two_lines_share_ends_where_the_first_of_them_left() {
        let s = history();
        assert_eq!(parted(&s, "a", "d"), Some(Fork { timeline: 1, at: Lsn(100) }));
        assert_eq!(parted(&s, "c", "d"), Some(Fork { timeline: 3, at: Lsn(250) }));
        assert_eq!(parted(&s, "x", "d"), Some(Fork { timeline: 1, at: Lsn(100) }));
        assert_eq!(parted(&s, "d", "d"), None, "the same line");
        assert_eq!(parted(&s, "c", "b"), Some(Fork { timeline: 1, at: Lsn(100) }), "its own child");
        assert_eq!(parted(&s, "never heard of", "d"), None);
    }

    #[test]
    fn only_descendants_and_prefixes_are_eligible() {
        let mut s = history();
        assert!(eligible(&s, Some("a"), Lsn(100)));
        assert!(!eligible(&s, Some("a"), Lsn(101)));
        assert!(!eligible(&s, Some("x"), Lsn(1)));
        assert!(!eligible(&s, None, Lsn(1)));
        s.promotions.pop();
        assert!(eligible(&s, Some("c"), Lsn(9999)), "an appointed node that was never published");
        s.promotions.push(promotion("e", Some("a"), None));
        assert!(eligible(&s, Some("e"), Lsn(9999)), "appointed later, from a prefix of the last published");
        assert!(!eligible(&s, Some("x"), Lsn(1)), "appointed before the last published");
    }
}
