//! The cluster-wide configuration: PostgreSQL's parameters and rules of pg_hba.conf, in numbered versions.
//!
//! A change names the version that it was made from, and is refused when another one was recorded meanwhile: of two
//! people who edit at once the second is told. Which values PostgreSQL takes is not known here; that was asked of the
//! servers before. What a server does with them is [`crate::step`]'s, when it restarts for them [`crate::restart`]'s.

use crate::basics::{NodeName, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Versions kept; the oldest go first.
pub const VERSIONS_MAX: usize = 32;
/// Bytes of names, values and rules in one version.
pub const BYTES_MAX: usize = 32 * 1024;
/// And in all that are kept.
pub const ALL_BYTES_MAX: usize = 256 * 1024;
/// Differences that the history of decisions tells of one change, and characters of each value.
const TOLD_MAX: usize = 12;
const TOLD_CHARS_MAX: usize = 80;

/// A standby must have at least as much of each as the primary whose WAL it replays, or it stops
/// (`CheckRequiredParameterValues`, src/backend/access/transam/xlogrecovery.c; before PostgreSQL 15 in xlog.c).
pub const ORDERED: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];

/// What one version says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Parameters by name, in lower case, with values as PostgreSQL reads them (not quoted).
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Lines of pg_hba.conf, in their order.
    #[serde(default)]
    pub hba: Vec<String>,
}

static EMPTY: Content = Content { parameters: BTreeMap::new(), hba: Vec::new() };

impl Content {
    /// Bytes of names, values and rules.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let parameters: usize = self.parameters.iter().map(|(name, value)| name.len() + value.len()).sum();
        parameters + self.hba.iter().map(String::len).sum::<usize>()
    }
}

/// One version, as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number; the first is 1.
    pub number: u64,
    /// Who made it, from where.
    pub by: String,
    /// When, on the leader's wall clock.
    pub at: WallMs,
    /// The version that it repeats, if it takes changes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u64>,
    /// What it says.
    pub content: Content,
}

/// Every version that is kept, oldest first; the last one is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// They.
    #[serde(default)]
    pub versions: Vec<Version>,
}

impl Configuration {
    /// The number of the version in force; 0 before the first.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.versions.last().map_or(0, |version| version.number)
    }

    /// What is in force.
    #[must_use]
    pub fn content(&self) -> &Content {
        self.versions.last().map_or(&EMPTY, |version| &version.content)
    }

    /// What a version that is kept says; version 0 said nothing.
    #[must_use]
    pub fn find(&self, number: u64) -> Option<&Content> {
        if number == 0 {
            return Some(&EMPTY);
        }
        self.versions.iter().find(|version| version.number == number).map(|version| &version.content)
    }

    /// Adds a version and drops what is too much, never the last two.
    pub(crate) fn add(&mut self, by: String, at: WallMs, back_to: Option<u64>, content: Content) {
        let number = self.number() + 1;
        self.versions.push(Version { number, by, at, back_to, content });
        let mut bytes: usize = self.versions.iter().map(|version| version.content.bytes()).sum();
        while self.versions.len() > VERSIONS_MAX || self.versions.len() > 2 && bytes > ALL_BYTES_MAX {
            bytes -= self.versions.remove(0).content.bytes();
        }
    }
}

/// One difference between two versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Difference {
    /// A parameter has another value; `None`: it is not set.
    Parameter {
        /// Its name.
        name: String,
        /// Before.
        from: Option<String>,
        /// After.
        to: Option<String>,
    },
    /// A rule is new.
    HbaAdded {
        /// It.
        line: String,
    },
    /// A rule is gone.
    HbaRemoved {
        /// It.
        line: String,
    },
    /// The rules are the same in another order.
    HbaMoved,
    /// So many more that are not told here.
    More {
        /// How many.
        count: usize,
    },
}

/// How `to` differs from `from`.
#[must_use]
pub fn differences(from: &Content, to: &Content) -> Vec<Difference> {
    let names: BTreeSet<&String> = from.parameters.keys().chain(to.parameters.keys()).collect();
    let mut found: Vec<Difference> = names
        .into_iter()
        .map(|name| (name, from.parameters.get(name), to.parameters.get(name)))
        .filter(|(_, before, after)| before != after)
        .map(|(name, from, to)| Difference::Parameter {
            name: name.clone(),
            from: from.cloned(),
            to: to.cloned(),
        })
        .collect();
    let gone = from.hba.iter().filter(|line| !to.hba.contains(line));
    found.extend(gone.map(|line| Difference::HbaRemoved { line: line.clone() }));
    let new = to.hba.iter().filter(|line| !from.hba.contains(line));
    let before = found.len();
    found.extend(new.map(|line| Difference::HbaAdded { line: line.clone() }));
    let same = before == found.len()
        && !found.iter().any(|d| matches!(d, Difference::HbaRemoved { .. } | Difference::HbaAdded { .. }));
    if same && from.hba != to.hba {
        found.push(Difference::HbaMoved);
    }
    found
}

/// The same, short enough for the history of decisions.
#[must_use]
pub fn brief(mut differences: Vec<Difference>) -> Vec<Difference> {
    let cut = |text: &mut String| {
        if text.chars().count() > TOLD_CHARS_MAX {
            *text = text.chars().take(TOLD_CHARS_MAX).chain(['…']).collect();
        }
    };
    let count = differences.len().saturating_sub(TOLD_MAX);
    differences.truncate(TOLD_MAX);
    for difference in &mut differences {
        match difference {
            Difference::Parameter { from, to, .. } => from.iter_mut().chain(to.iter_mut()).for_each(cut),
            Difference::HbaAdded { line } | Difference::HbaRemoved { line } => cut(line),
            Difference::HbaMoved | Difference::More { .. } => {}
        }
    }
    if count > 0 {
        differences.push(Difference::More { count });
    }
    differences
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| {
            value.as_ref().map_or_else(|| "not set".to_owned(), |value| format!("'{value}'"))
        };
        match self {
            Difference::Parameter { name, from, to } => {
                write!(f, "{name}: {} -> {}", shown(from), shown(to))
            }
            Difference::HbaAdded { line } => write!(f, "hba: + {line}"),
            Difference::HbaRemoved { line } => write!(f, "hba: - {line}"),
            Difference::HbaMoved => f.write_str("hba: another order"),
            Difference::More { count } => write!(f, "and {count} more"),
        }
    }
}

/// Differences in one line.
#[must_use]
pub fn in_words(differences: &[Difference]) -> String {
    let each: Vec<String> = differences.iter().map(ToString::to_string).collect();
    if each.is_empty() { "no difference".to_owned() } else { each.join("; ") }
}

/// A parameter that a server takes on only when it starts again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its name.
    pub name: String,
    /// What it is on the running server.
    pub running: String,
    /// What it will be.
    pub configured: String,
}

impl Pending {
    fn change(&self) -> Option<(i64, i64)> {
        let ordered = ORDERED.contains(&self.name.as_str());
        ordered.then(|| self.running.parse().ok().zip(self.configured.parse().ok())).flatten()
    }

    /// The primary must restart for it before the standbys do.
    #[must_use]
    pub fn is_lowered(&self) -> bool {
        self.change().is_some_and(|(running, configured)| configured < running)
    }

    /// The standbys must restart for it before the primary does.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.change().is_some_and(|(running, configured)| configured > running)
    }
}

/// The names, for people.
#[must_use]
pub fn pending_names(pending: &[Pending]) -> String {
    pending.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Why a configuration is not recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub enum Fault {
    /// Somebody else has changed it meanwhile.
    Edited {
        /// The version that the change was made from.
        from: u64,
        /// The version in force.
        present: u64,
        /// Who made it.
        by: String,
        /// What is different since then; `None`: the version is not kept any more.
        since: Option<Vec<Difference>>,
    },
    /// It says what is in force already.
    Same,
    /// It is too large.
    TooLarge {
        /// Its size.
        bytes: usize,
        /// As large as it may be.
        bytes_max: usize,
    },
    /// A server does not take it.
    Wrong {
        /// The node whose server was asked.
        node: NodeName,
        /// The parameter; `None`: a rule of pg_hba.conf.
        name: Option<String>,
        /// What it says.
        said: String,
    },
    /// No server could be asked.
    Unasked {
        /// Each node and why.
        each: BTreeMap<NodeName, String>,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Edited { from, present, by, since } => {
                write!(
                    f,
                    "this was made from version {from}, but {by} has recorded version {present} meanwhile"
                )?;
                match since {
                    Some(since) => write!(f, " ({})", in_words(since))?,
                    None => f.write_str(", and more than is kept lies between the two")?,
                }
                f.write_str("; look at it (pgkeel config show) and make your change again")
            }
            Fault::Same => f.write_str("nothing would change: that is in force already"),
            Fault::TooLarge { bytes, bytes_max } => {
                write!(
                    f,
                    "it has {bytes} bytes of names, values and rules, at most {bytes_max} are kept; shorten it"
                )
            }
            Fault::Wrong { node, name: Some(name), said } => write!(f, "{name}: {said} (asked of {node})"),
            Fault::Wrong { node, name: None, said } => write!(f, "hba: {said} (asked of {node})"),
            Fault::Unasked { each } => {
                f.write_str("no server could be asked whether it takes this")?;
                each.iter().try_for_each(|(node, why)| write!(f, "; {node}: {why}"))?;
                f.write_str("; see pgkeel status, and try again when one runs")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(parameters: &[(&str, &str)], hba: &[&str]) -> Content {
        let parameters = parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Content { parameters, hba: hba.iter().map(|line| (*line).to_owned()).collect() }
    }

    #[test]
    fn differences_are_told_one_by_one() {
        let before = content(&[("a", "1"), ("b", "2")], &["x", "y"]);
        let after = content(&[("b", "3"), ("c", "4")], &["y", "z"]);
        let told = in_words(&differences(&before, &after));
        assert_eq!(
            told, "a: '1' -> not set; b: '2' -> '3'; c: not set -> '4'; hba: - x; hba: + z",
            "{before:?} {after:?}"
        );
        let moved = content(&[("a", "1"), ("b", "2")], &["y", "x"]);
        assert_eq!(differences(&before, &moved), [Difference::HbaMoved]);
        assert!(differences(&before, &before).is_empty());
    }

    #[test]
    fn the_versions_stay_bounded() {
        let mut configuration = Configuration::default();
        let large = content(&[("a", &"x".repeat(BYTES_MAX - 1))], &[]);
        for _ in 0..100 {
            configuration.add("ada".to_owned(), 0, None, large.clone());
        }
        assert_eq!(configuration.number(), 100);
        let bytes: usize = configuration.versions.iter().map(|v| v.content.bytes()).sum();
        assert!(bytes <= ALL_BYTES_MAX && configuration.find(99).is_some(), "{bytes}");
        for _ in 0..100 {
            configuration.add("ada".to_owned(), 0, None, Content::default());
        }
        assert_eq!(configuration.versions.len(), VERSIONS_MAX);
        assert_eq!(configuration.find(0), Some(&Content::default()));
        assert_eq!(configuration.find(1), None);
    }

    #[test]
    fn what_is_told_of_a_change_is_short() {
        let names: Vec<String> = (0..40).map(|n| format!("p{n:02}")).collect();
        let long = "v".repeat(5000);
        let parameters: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), long.as_str())).collect();
        let told = brief(differences(&Content::default(), &content(&parameters, &[])));
        assert_eq!(told.len(), TOLD_MAX + 1);
        assert!(in_words(&told).len() < 2000 && in_words(&told).ends_with("and 28 more"));
    }

    #[test]
    fn only_what_standbys_must_match_has_an_order() {
        let pending = |name: &str, running: &str, configured: &str| Pending {
            name: name.to_owned(),
            running: running.to_owned(),
            configured: configured.to_owned(),
        };
        assert!(pending("max_connections", "100", "90").is_lowered());
        assert!(pending("max_connections", "100", "300").is_raised());
        assert!(!pending("shared_buffers", "16384", "8192").is_lowered());
    }
}
