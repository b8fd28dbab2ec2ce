//! Keeps storms of one and the same line away. Pure: time is handed in.
//!
//! A line is told at once. When it comes again within the window it is only counted; at the window's end the count is
//! told, and as long as the storm lasts nothing but such counts. A line that stayed away for a window is forgotten.

/// How long the same line is only counted, in milliseconds.
pub const WINDOW_MS: u64 = 10_000;
/// Lines remembered at most, which bounds memory and the search; the oldest goes first, and its count is told.
const REMEMBERED_MAX: usize = 64;

/// A line to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<T> {
    /// The line.
    pub line: T,
    /// How often it came again since it was last told; 0: this is the line itself.
    pub times: u64,
    /// In how many milliseconds.
    pub over_ms: u64,
}

/// A line that was told.
#[derive(Debug)]
struct Known<T> {
    line: T,
    since_ms: u64,
    times: u64,
}

impl<T: Clone> Known<T> {
    fn told(&self, now_ms: u64) -> Option<Told<T>> {
        let over_ms = now_ms.saturating_sub(self.since_ms);
        (self.times > 0).then(|| Told { line: self.line.clone(), times: self.times, over_ms })
    }
}

/// The lines of the last window, in the order in which they were told.
#[derive(Debug)]
pub struct Repeats<T> {
    window_ms: u64,
    known: Vec<Known<T>>,
}

impl<T> Default for Repeats<T> {
    fn default() -> Self {
        Repeats { window_ms: WINDOW_MS, known: Vec::new() }
    }
}

impl<T: Clone + PartialEq> Repeats<T> {
    /// With another window, in milliseconds.
    #[must_use]
    pub fn new(window_ms: u64) -> Repeats<T> {
        Repeats { window_ms, known: Vec::new() }
    }

    /// A line came: what is to be written now, nothing when it was only counted.
    #[must_use]
    pub fn see(&mut self, line: T, now_ms: u64) -> Vec<Told<T>> {
        let mut told = self.take_due(now_ms);
        if let Some(known) = self.known.iter_mut().find(|known| known.line == line) {
            known.times += 1;
            return told;
        }
        if self.known.len() >= REMEMBERED_MAX {
            told.extend(self.known.remove(0).told(now_ms));
        }
        self.known.push(Known { line: line.clone(), since_ms: now_ms, times: 0 });
        told.push(Told { line, times: 0, over_ms: 0 });
        told
    }

    /// The counts whose window is over.
    #[must_use]
    pub fn take_due(&mut self, now_ms: u64) -> Vec<Told<T>> {
        let mut told = Vec::new();
        let mut go_on = Vec::new();
        let window_ms = self.window_ms;
        self.known.retain_mut(|known| {
            if now_ms.saturating_sub(known.since_ms) < window_ms {
                return true;
            }
            let due = known.told(now_ms);
            // The storm may last: what comes next is counted, not told.
            go_on.extend(due.iter().map(|due| Known { line: due.line.clone(), since_ms: now_ms, times: 0 }));
            told.extend(due);
            false
        });
        self.known.extend(go_on);
        told
    }

    /// When the next count has to be told; `None` while nothing is held back.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        let held = self.known.iter().filter(|known| known.times > 0);
        held.map(|known| known.since_ms.saturating_add(self.window_ms)).min()
    }

    /// Every count, for the end; nothing is remembered after it.
    #[must_use]
    pub fn take_all(&mut self, now_ms: u64) -> Vec<Told<T>> {
        std::mem::take(&mut self.known).iter().filter_map(|known| known.told(now_ms)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &'static str, times: u64, over_ms: u64) -> Told<&'static str> {
        Told { line, times, over_ms }
    }

    #[test]
    fn the_same_line_is_counted_and_told_once() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.see("a", 0), [told("a", 0, 0)]);
        for now in 1..=37 {
            assert_eq!(repeats.see("a", now * 100), []);
        }
        assert_eq!(repeats.see("b", 4_000), [told("b", 0, 0)]);
        assert_eq!(repeats.next_due(), Some(10_000));
        assert_eq!(repeats.take_due(9_999), []);
        assert_eq!(repeats.take_due(10_000), [told("a", 37, 10_000)]);
        assert_eq!(repeats.next_due(), None);
    }

    #[test]
    fn a_storm_that_lasts_is_told_once_a_window() {
        let mut repeats = Repeats::default();
        let all: Vec<_> = (0..100).flat_map(|second| repeats.see("a", second * 1_000)).collect();
        let counts: Vec<(u64, u64)> = all.iter().map(|told| (told.times, told.over_ms)).collect();
        assert_eq!(counts[..3], [(0, 0), (9, 10_000), (10, 10_000)]);
        let counted: u64 = counts.iter().map(|(times, _)| times).sum();
        let rest: u64 = repeats.take_all(100_000).iter().map(|told| told.times).sum();
        assert_eq!((counts.len(), 1 + counted + rest), (10, 100), "none is lost: {counts:?}");
    }

    #[test]
    fn a_line_that_stayed_away_is_told_again_at_once() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.see("a", 0), [told("a", 0, 0)]);
        assert_eq!(repeats.see("a", 10_000), [told("a", 0, 0)]);
        assert_eq!(repeats.see("a", 10_001), []);
        assert_eq!(repeats.see("a", 20_000), [told("a", 1, 10_000)]);
        // The last one was counted in the next window, which is over without another.
        assert_eq!(repeats.take_due(30_000), [told("a", 1, 10_000)]);
        assert_eq!(repeats.see("a", 40_000), [told("a", 0, 0)]);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_no_count_is_lost() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.see(0, 0).len(), 1);
        assert_eq!(repeats.see(0, 1), []);
        let mut summaries = Vec::new();
        for line in 1..=1_000 {
            summaries.extend(repeats.see(line, 2).into_iter().filter(|told| told.times > 0));
            assert!(repeats.known.len() <= REMEMBERED_MAX);
        }
        assert_eq!(summaries, [Told { line: 0, times: 1, over_ms: 2 }]);
    }

    #[test]
    fn the_end_tells_what_is_held_back() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.see("a", 0).len() + repeats.see("a", 5).len() + repeats.see("b", 6).len(), 2);
        assert_eq!(repeats.take_all(1_000), [told("a", 1, 1_000)]);
        assert_eq!(repeats.take_all(2_000), []);
    }
}
