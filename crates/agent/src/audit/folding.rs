//! Refusals that repeat themselves become one entry with a count, so that whoever knocks all day fills no disk. Pure: time is handed in.
//!
//! One guest (a holder of a certificate, or a network of strangers) has [`OF_ONE_MAX`] entries in an hour, all guests have
//! [`GROUPS_MAX`]; what is beyond goes into entries that only count. An entry is written when it begins, whenever its count gets
//! another digit, and when its hour is over.

use super::{Entry, Known, Verdict};
use cluster::WallMs;

/// How long an entry counts.
const WINDOW_MS: WallMs = 3_600_000;
/// Entries of one guest.
const OF_ONE_MAX: usize = 8;
/// Entries in all.
const GROUPS_MAX: usize = 256;
/// In place of what is not listed one by one.
const REST: &str = "other requests";
const SEVERAL: &str = "several";

/// What is being counted.
#[derive(Debug)]
pub(super) struct Folding {
    known: Known,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    whose: String,
    entry: Entry,
    /// The count that was last written.
    written: u64,
}

impl Group {
    fn is_of(&self, whose: &str, other: &Entry) -> bool {
        let it = &self.entry;
        self.whose == whose
            && it.who == other.who
            && it.what == other.what
            && it.result == other.result
            && it.why == other.why
    }

    fn is_over(&self, now: WallMs) -> bool {
        // Also when the clock was set back.
        now < self.entry.at || now - self.entry.at >= WINDOW_MS
    }

    fn unwritten(self) -> Option<Entry> {
        (self.entry.times > self.written).then_some(self.entry)
    }
}

impl Folding {
    /// Of guests who are known by name, or of strangers.
    pub(super) fn of(known: Known) -> Folding {
        Folding { known, groups: Vec::new() }
    }

    /// Counts a refusal of a guest; returns the lines to write now.
    pub(super) fn note(&mut self, entry: Entry, whose: String, now: WallMs) -> Vec<Entry> {
        let over = self.groups.extract_if(.., |group| group.is_over(now));
        let mut lines: Vec<Entry> = over.filter_map(Group::unwritten).collect();
        let (entry, whose) = self.placed(entry, whose);
        let found = self.groups.iter_mut().find(|group| group.is_of(&whose, &entry));
        match found {
            Some(group) => {
                group.entry.times += 1;
                group.entry.last = now;
                if has_another_digit(group.entry.times) {
                    group.written = group.entry.times;
                    lines.push(group.entry.clone());
                }
            }
            None => {
                lines.push(entry.clone());
                self.groups.push(Group { whose, entry, written: 1 });
            }
        }
        lines
    }

    /// The entry under which it counts, and of whom.
    fn placed(&self, entry: Entry, whose: String) -> (Entry, String) {
        if self.groups.iter().any(|group| group.is_of(&whose, &entry)) {
            return (entry, whose);
        }
        let own = self.groups.iter().filter(|group| group.whose == whose);
        let (own, has_rest) =
            own.fold((0, false), |(own, rest), group| (own + 1, rest || group.entry.what == REST));
        if !has_rest && self.groups.len() >= GROUPS_MAX {
            let all = Entry { from: SEVERAL.to_owned(), who: SEVERAL.to_owned(), ..rest(entry) };
            return (all, String::new());
        }
        if own < OF_ONE_MAX {
            return (entry, whose);
        }
        let who = match self.known {
            Known::Yes => entry.who.clone(),
            // He could show another invitation each time.
            Known::No => SEVERAL.to_owned(),
        };
        (Entry { who, ..rest(entry) }, whose)
    }

    /// All entries as they are now.
    pub(super) fn open(&self) -> Vec<Entry> {
        self.groups.iter().map(|group| group.entry.clone()).collect()
    }

    /// Counts nothing any more; returns the lines to write.
    pub(super) fn close(&mut self) -> Vec<Entry> {
        self.groups.drain(..).filter_map(Group::unwritten).collect()
    }
}

fn rest(entry: Entry) -> Entry {
    Entry { what: REST.to_owned(), says: None, why: String::new(), result: Verdict::Refused, ..entry }
}

fn has_another_digit(count: u64) -> bool {
    count.checked_ilog10().is_some_and(|digits| count == 10_u64.pow(digits))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(what: &str, from: &str, at: WallMs) -> Entry {
        Entry {
            at,
            node: "n1".parse().unwrap(),
            who: "no certificate".to_owned(),
            says: None,
            from: from.to_owned(),
            what: what.to_owned(),
            result: Verdict::Refused,
            why: "show one".to_owned(),
            times: 1,
            last: at,
        }
    }

    #[test]
    fn what_repeats_itself_is_counted_and_written_as_often_as_its_count_has_digits() {
        let mut folding = Folding::of(Known::No);
        let written: Vec<Entry> =
            (0..2500).flat_map(|at| folding.note(entry("a", "h", at), "h".to_owned(), at)).collect();
        let counts: Vec<(u64, WallMs)> = written.iter().map(|it| (it.times, it.last)).collect();
        assert_eq!(counts, [(1, 0), (10, 9), (100, 99), (1000, 999)]);
        assert!(written.iter().all(|it| it.at == 0), "they tell of one entry");
        assert_eq!(folding.open().iter().map(|it| it.times).collect::<Vec<_>>(), [2500]);
        let rest = folding.note(entry("a", "h", WINDOW_MS), "h".to_owned(), WINDOW_MS);
        assert_eq!(rest.iter().map(|it| (it.at, it.times)).collect::<Vec<_>>(), [(0, 2500), (WINDOW_MS, 1)]);
        assert!(folding.close().is_empty(), "all of it is written");
    }

    #[test]
    fn one_guest_has_few_entries_and_keeps_no_other_out() {
        let mut folding = Folding::of(Known::No);
        let mut lines = 0;
        for n in 0..100_000 {
            lines += folding.note(entry(&format!("path {n}"), "h", 5), "h".to_owned(), 5).len();
        }
        assert_eq!(folding.open().len(), OF_ONE_MAX + 1);
        assert!(lines < 20, "{lines} lines");
        let rest = folding.open().pop().unwrap();
        assert_eq!((rest.what.as_str(), rest.times), (REST, 100_000 - OF_ONE_MAX as u64));
        assert_eq!(folding.note(entry("b", "k", 5), "k".to_owned(), 5)[0].what, "b");
    }

    #[test]
    fn however_many_guests_come_the_entries_stay_few() {
        let mut folding = Folding::of(Known::No);
        let mut lines = 0;
        for n in 0..20_000 {
            let from = format!("h{}", n % 5000);
            lines += folding.note(entry(&format!("path {n}"), &from, 5), from, 5).len();
        }
        let open = folding.open();
        assert!(open.len() <= GROUPS_MAX + 1 && lines < 2 * GROUPS_MAX, "{} and {lines}", open.len());
        assert_eq!(open.iter().map(|it| it.times).sum::<u64>(), 20_000, "nothing is uncounted");
        assert!(open.iter().any(|it| it.from == SEVERAL));
    }

    #[test]
    fn a_clock_that_is_set_back_ends_what_was_counted() {
        let mut folding = Folding::of(Known::No);
        for _ in 0..3 {
            folding.note(entry("a", "h", 1000), "h".to_owned(), 1000);
        }
        let lines = folding.note(entry("a", "h", 10), "h".to_owned(), 10);
        assert_eq!(lines.iter().map(|it| (it.at, it.times)).collect::<Vec<_>>(), [(1000, 3), (10, 1)]);
    }
}
