//! Does a node's data belong to the cluster's WAL, and up to where?
//!
//! Timeline numbers do not identify WAL: two nodes may both promote to timeline 3. So each appointment has an identity,
//! and each node remembers the identity of the last primary whose WAL it wrote or was told to receive: its *line*. A
//! node takes on a line only when its data was found to be a prefix of it, so data with line `L` up to some position is
//! always a piece of the WAL that `L` wrote or continued. Appointments name their parent line; the chain of parents is
//! the cluster's history. This module knows nothing of positions beyond the forks that published promotions carry.

use crate::basics::{Lsn, Timeline};
use crate::mutant::{self, Mutant};
use crate::observe::Seal;
use crate::state::{Appointment, Fork, Promotion, State};

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

/// The line that wrote the last WAL of data whose node took on `line` and which ends at `lsn` on `timeline`; `None`: none
/// that is known, or it cannot be told which.
///
/// What a node took on is not always what its data is of, for three reasons.
/// - *It has nothing of it yet.* A node takes on a line before it has anything of it: the appointed one before it promotes,
///   a standby before it receives. Until then its data is still the parent's, and must be compared as such: a standby of an
///   appointed node that never promoted is not ahead of another one that holds more of the parent's WAL.
/// - *It has more.* A standby whose agent stands still goes on connecting to the node that it followed, receives what that
///   wrote when it was promoted again, and may have confirmed it: WAL of a line that its agent never took on. Each line
///   wrote one timeline, which its children left for later ones, so the timeline of the data tells which of the lines that
///   go on from there it was. Where two of them fit (timeline numbers repeat) nothing is said.
/// - *Somebody else changed it.* Data of a timeline that no line opened was promoted by hand, data beyond a fork of its own
///   history is of another copy. It says nothing about what the cluster acknowledged.
#[must_use]
pub fn written_by<'a>(state: &'a State, line: &'a str, timeline: Timeline, lsn: Lsn) -> Option<&'a str> {
    let opened = |p: &&Promotion| p.parent.is_none() || timeline > p.sealed_timeline || lsn > p.sealed_lsn;
    let Some(own) = ancestry(state, line).find(opened) else { return Some(line) };
    if mutant::is(Mutant::SettledSkipped) || timeline == 0 {
        return Some(line);
    }
    let own = repeated(state, own);
    let goes_on =
        |p: &&Promotion| ancestry(state, &p.promotion_id).any(|a| a.promotion_id == own.promotion_id);
    let mut writers = state.promotions.iter().filter(goes_on).filter(|p| wrote(state, p, timeline));
    let writer = writers.next().filter(|_| writers.next().is_none())?;
    // Where a line that was not published was opened is not known for certain; what was not even taken on must fit exactly.
    let fits = writer.published.is_some() || timeline == writer.sealed_timeline + 1;
    (fits || writer.promotion_id == own.promotion_id).then_some(writer.promotion_id.as_str())
}

/// The last of the appointments of this node for the same line: it was appointed again without having written anything.
fn repeated<'a>(state: &'a State, first: &'a Promotion) -> &'a Promotion {
    let again = |p: &&Promotion| p.node == first.node && p.parent == first.parent && p.parent.is_some();
    match first.published {
        Some(_) => first,
        None => state.promotions.iter().rev().find(again).unwrap_or(first),
    }
}

/// Whether `line` can have written WAL of `timeline`.
fn wrote(state: &State, line: &Promotion, timeline: Timeline) -> bool {
    if let Some(published) = &line.published {
        return published.timeline == timeline;
    }
    // A line that another one left for this timeline, or an earlier one, wrote an earlier one itself.
    let left = |p: &Promotion| p.parent.as_ref() == Some(&line.promotion_id) && p.sealed_timeline < timeline;
    line.sealed_timeline < timeline
        && !state.promotions.iter().any(left)
        && repeated(state, line).promotion_id == line.promotion_id
}

/// Whether data of `timeline` that is taken for `line`'s may be of a later promotion: one that was published, does not go on
/// from `line`, and opened a timeline of the same number. The node that `line` was appointed on is copied anew then, and a
/// standby whose agent stands still goes on connecting to it.
#[must_use]
pub fn may_be_of_later(state: &State, line: &str, timeline: Timeline) -> bool {
    let Some(own) = rank(state, line) else { return false };
    state.promotions.iter().skip(own + 1).any(|p| {
        p.published.as_ref().is_some_and(|published| published.timeline == timeline)
            && ancestry(state, &p.promotion_id).all(|a| a.promotion_id != line)
    })
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
    match left_at(state, depth, line, of) {
        Some(fork) if lsn <= fork.at => Relation::Prefix,
        Some(_) => Relation::Diverged,
        None => Relation::Unrelated,
    }
}

/// Where the published promotion `of` left its ancestor `line`, `depth` steps up.
fn left_at(state: &State, depth: usize, line: &str, of: &str) -> Option<Fork> {
    let forks = &ancestry(state, of).next()?.published.as_ref()?.forks;
    let wrote = ancestry(state, line).next()?.published.as_ref().map(|p| p.timeline);
    match wrote {
        Some(timeline) => forks.iter().find(|f| f.timeline == timeline),
        // Each promotion leaves exactly one timeline, so it is that many forks from the end of the history file.
        None => forks.len().checked_sub(depth).and_then(|i| forks.get(i)),
    }
    .copied()
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
    let theirs = match depth {
        0 => None,
        _ => Some(left_at(state, depth, &common.promotion_id, of)?),
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

/// Whether data that is sealed so may be promoted for this appointment: it is what was appointed, and nothing was written
/// to it since. A promotion opens a timeline, so data that was promoted for it already, and whose server was started again
/// as a standby, stands on another one than the appointed. Two promotions of one appointment could not be told apart.
#[must_use]
pub fn as_appointed(state: &State, seal: &Seal, appointment: &Appointment) -> bool {
    let (parent, line) = (appointment.parent.as_deref(), seal.line.as_deref());
    let settled = line.and_then(|line| written_by(state, line, seal.timeline, seal.lsn));
    let of_line = settled == parent || line == Some(appointment.promotion_id.as_str());
    of_line && seal.timeline == appointment.sealed_timeline && seal.lsn >= appointment.sealed_lsn
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
            node: format!("n{id}").try_into().unwrap_or_else(|e| panic!("{e}")),
            promotion_id: id.to_owned(),
            parent: parent.map(str::to_owned),
            sealed_timeline: parent.map_or(0, |p| match p {
                "a" => 1,
                "b" => 2,
                _ => 3,
            }),
            sealed_lsn: Lsn(parent.map_or(0, |p| match p {
                "a" => 100,
                "b" => 200,
                _ => 250,
            })),
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
        assert_eq!(written_by(&s, "b", 1, Lsn(100)), Some("a"));
        assert_eq!(written_by(&s, "b", 2, Lsn(90)), Some("b"));
        assert_eq!(written_by(&s, "a", 1, Lsn(9999)), Some("a"));
        assert_eq!(written_by(&s, "d", 2, Lsn(200)), Some("b"));
        assert_eq!(written_by(&s, "d", 4, Lsn(9999)), Some("d"));
        assert_eq!(written_by(&s, "never heard of", 7, Lsn(0)), Some("never heard of"));
        assert_eq!(written_by(&s, "b", 0, Lsn(300)), Some("b"), "its timeline is not known");
    }

    #[test]
    fn data_changed_behind_the_nodes_back_is_of_no_line() {
        let s = history();
        assert_eq!(written_by(&s, "a", 5, Lsn(9999)), None, "promoted by hand");
        assert_eq!(written_by(&s, "d", 2, Lsn(300)), None, "an old copy from before, with WAL of its own");
        assert_eq!(written_by(&s, "b", 1, Lsn(101)), None);
        assert_eq!(written_by(&s, "x", 7, Lsn(1)), Some("x"), "where it was promoted is not known");
    }

    #[test]
    fn wal_of_a_line_that_was_never_taken_on_is_known_by_its_timeline() {
        let mut s = history();
        assert_eq!(written_by(&s, "b", 3, Lsn(230)), Some("c"), "from a node that was promoted again");
        assert_eq!(written_by(&s, "b", 4, Lsn(300)), Some("d"));
        assert_eq!(written_by(&s, "a", 3, Lsn(230)), None, "c, or x if that was opened late");
        assert_eq!(written_by(&s, "c", 4, Lsn(300)), Some("d"));
        assert_eq!(written_by(&s, "a", 2, Lsn(150)), None, "b or x");
        assert_eq!(written_by(&s, "x", 2, Lsn(150)), Some("x"));
        let mut again = promotion("c2", Some("b"), None);
        again.node = s.promotions[3].node.clone();
        s.promotions.truncate(4);
        s.promotions.push(again);
        for line in ["b", "c", "c2"] {
            assert_eq!(written_by(&s, line, 3, Lsn(230)), Some("c2"), "appointed twice, promoted once");
        }
        s.promotions.push(promotion("y", Some("b"), None));
        assert_eq!(written_by(&s, "b", 3, Lsn(230)), None, "y, on another node, may have written it too");
        assert_eq!(written_by(&s, "y", 3, Lsn(230)), Some("y"));
    }

    #[test]
    fn data_of_a_number_that_was_used_again_may_be_of_the_later_promotion() {
        let s = history();
        assert!(may_be_of_later(&s, "x", 2), "of x, or of b by way of x's node, which was copied since");
        assert!(!may_be_of_later(&s, "b", 2), "x came before");
        assert!(!may_be_of_later(&s, "a", 2), "b goes on from a");
        assert!(!may_be_of_later(&s, "x", 3), "c was not published");
        assert!(!may_be_of_later(&s, "never heard of", 2));
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
        assert_eq!(parted(&s, "c", "b"), Some(Fork { timeline: 2, at: Lsn(200) }), "its own child");
        assert_eq!(parted(&s, "never heard of", "d"), None);
    }

    #[test]
    fn what_went_on_since_it_was_appointed_is_not_promoted_again() {
        let mut s = history();
        s.promotions.truncate(4);
        let appointment = Appointment {
            node: s.promotions[3].node.clone(),
            promotion_id: "c".to_owned(),
            sealed_timeline: 2,
            sealed_lsn: Lsn(200),
            parent: Some("b".to_owned()),
        };
        let fits = |line: &str, timeline, lsn| {
            let line = Some(line.to_owned());
            let seal = Seal { epoch: 0, timeline, lsn: Lsn(lsn), line, copied: false };
            as_appointed(&s, &seal, &appointment)
        };
        assert!(fits("b", 2, 200));
        assert!(fits("c", 2, 200), "it was told to promote and did not");
        assert!(!fits("c", 3, 210), "it did");
        assert!(!fits("b", 2, 199), "it had more when it was appointed");
        assert!(!fits("x", 2, 200), "other data");
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
