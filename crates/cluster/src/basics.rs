//! The small types that everything else is made of.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Number that grows by one with each change of primary.
pub type Epoch = u64;

/// PostgreSQL's timeline number (`TimeLineID` in src/include/access/xlogdefs.h).
pub type Timeline = u32;

/// A length of time, in milliseconds.
pub type Millis = u64;

/// Wall clock, milliseconds since 1970 UTC. Only for people: no decision compares two of them.
pub type WallMs = u64;

/// A moment on this host's own clock (CLOCK_BOOTTIME), in milliseconds. Never sent to another host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// Milliseconds from `earlier` to `self`; 0 when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Millis {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `ms` milliseconds after this one.
    #[must_use]
    pub fn plus(self, ms: Millis) -> Moment {
        Moment(self.0.saturating_add(ms))
    }
}

/// Name of a node: 1 to 63 of `a-z A-Z 0-9 _ -`, beginning with a letter. Doubles as PostgreSQL's `application_name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

/// A text that cannot be a node's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a node name: 1 to 63 letters, digits, '_' or '-', beginning with a letter")]
pub struct BadNodeName(String);

impl NodeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The physical replication slot kept for this node on every other one. Slot names allow only `a-z 0-9 _`
    /// (src/backend/replication/slot.c, `ReplicationSlotValidateName`); other characters become their code.
    #[must_use]
    pub fn slot(&self) -> String {
        let mut slot = String::from("pgkeel_");
        for c in self.0.chars() {
            match c {
                'a'..='z' | '0'..='9' => slot.push(c),
                other => slot.push_str(&format!("_{:02x}", u32::from(other))),
            }
        }
        slot
    }
}

impl TryFrom<String> for NodeName {
    type Error = BadNodeName;

    fn try_from(text: String) -> Result<Self, BadNodeName> {
        let begins_well = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
        let all_good = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if begins_well && all_good && text.len() <= 63 { Ok(NodeName(text)) } else { Err(BadNodeName(text)) }
    }
}

impl FromStr for NodeName {
    type Err = BadNodeName;

    fn from_str(text: &str) -> Result<Self, BadNodeName> {
        NodeName::try_from(text.to_owned())
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> String {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A position in the write-ahead log, in bytes; written `X/X` as PostgreSQL does (pg_lsn).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

/// A text that is no write-ahead log position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a write-ahead log position such as 0/3000060")]
pub struct BadLsn(String);

impl Lsn {
    /// Bytes from `earlier` to `self`; 0 when `earlier` is ahead.
    #[must_use]
    pub fn bytes_after(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.chars().take(40).collect());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let half = |s: &str| u32::from_str_radix(s, 16).map_err(|_| bad());
        Ok(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

impl TryFrom<String> for Lsn {
    type Error = BadLsn;

    fn try_from(text: String) -> Result<Self, BadLsn> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_and_writes_as_postgresql_does() {
        for text in ["0/0", "0/3000060", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().map(|l| l.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "/", "0/", "1", "0/1FFFFFFFF", "0/-1", "x/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn slots_of_different_names_differ() {
        let slot = |n: &str| n.parse::<NodeName>().map(|n| n.slot());
        assert_eq!(slot("n1"), Ok("pgkeel_n1".to_owned()));
        assert_eq!(slot("N-1"), Ok("pgkeel__4e_2d1".to_owned()));
        assert!("1n".parse::<NodeName>().is_err());
        assert!("".parse::<NodeName>().is_err());
        assert!("n\"1".parse::<NodeName>().is_err());
    }
}
