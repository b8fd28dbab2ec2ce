//! Who is in the cluster, and which of them this host is: `cluster`, `[members]`, `[node]`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cluster::NodeName;
use cluster::state::Tags;

use super::report::Report;
use super::section::Section;
use super::units::{Address, address};
use agent::settings::nearest::nearest;

/// Longest name of a replication slot (NAMEDATALEN - 1, PostgreSQL's src/include/pg_config_manual.h).
const SLOT_BYTES_MAX: usize = 63;

/// Longest `node.dir`: Unix sockets in it must have paths of at most 107 bytes (unix(7)).
const DIR_BYTES_MAX: usize = 80;

/// Greatest `node.priority`.
const PRIORITY_MAX: u32 = 1000;

/// Where `node.dir` is when the file does not say.
const DIR_DEFAULT: &str = "/var/lib/pgkeel";

/// Who keeps the cluster's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The members, by a majority of them.
    Members,
    /// Somebody else, who has a majority of his own.
    Elsewhere,
}

/// Whether the cluster exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The members of the file form it, when all of them are there.
    New,
    /// It does: who belongs to it is recorded, whatever the file says.
    Joined,
}

/// The voters.
pub(super) struct Members {
    /// Every name that the file lists, also where its address is wrong.
    pub(super) names: BTreeSet<String>,
    /// Name to address, of those that have a good one.
    pub(super) addresses: BTreeMap<String, Address>,
}

impl Members {
    pub(super) fn texts(self) -> BTreeMap<String, String> {
        self.addresses.into_iter().map(|(name, address)| (name, address.text())).collect()
    }

    pub(super) fn agents(&self) -> Vec<String> {
        self.addresses.values().map(Address::text).collect()
    }
}

/// This host's node.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) tags: Tags,
    /// Whether the cluster exists.
    pub(super) standing: Standing,
    /// Its entry of `[members]`, when it has a good one.
    pub(super) address: Option<Address>,
}

pub(super) fn read_cluster(root: &Section<'_>, report: &mut Report<'_>) -> Option<String> {
    root.require(report, "cluster", "\"shop\", the same on every host");
    root.parsed(report, "cluster", |text| name(text).map(|_| text.to_owned())).map(|found| found.value)
}

/// `None` when the section is absent or empty.
pub(super) fn read_members(root: &Section<'_>, report: &mut Report<'_>) -> Option<Members> {
    let section = root.open(report, "members")?;
    let mut members = Members { names: BTreeSet::new(), addresses: BTreeMap::new() };
    for (given, _, line) in section.entries(report) {
        let path = section.path(given);
        if let Err(problem) = name(given).and_then(|name| slot_fits(&name)) {
            report.error(line, &path, problem);
        }
        if let Some(twin) = members.names.iter().find(|other| other.eq_ignore_ascii_case(given)) {
            let problem = format!(
                "two nodes with one name: {twin:?} and {given:?} differ only in case, which PostgreSQL ignores in the names \
                 of standbys; rename one"
            );
            report.error(line, &path, problem);
        }
        members.names.insert(given.to_owned());
        let Some(found) = section.parsed(report, given, address) else { continue };
        if let Some((twin, _)) = members.addresses.iter().find(|(_, other)| **other == found.value) {
            let problem =
                format!("{:?} is also the address of {twin}; every node has its own", found.value.text());
            report.error(line, &path, problem);
        }
        members.addresses.insert(given.to_owned(), found.value);
    }
    if members.names.is_empty() {
        report.error(section.line, "members", "is empty; list every node: n1 = \"10.0.0.1:7400\"".to_owned());
        return None;
    }
    Some(members)
}

/// `None` when there is no `[node]`, or no usable name in it.
pub(super) fn read_node(
    root: &Section<'_>,
    report: &mut Report<'_>,
    members: Option<&Members>,
    record: Record,
) -> Option<Node> {
    let section = root.open(report, "node")?;
    section.refuse_unknown(report, &["name", "dir", "joined", "priority", "never_primary", "never_sync"]);
    if !root.has("members") {
        let problem =
            "missing; an agent must know every voter: [members] with lines like n1 = \"10.0.0.1:7400\"";
        report.error(section.line, "members", problem.to_owned());
    }
    let dir = section.parsed_or(report, "dir", PathBuf::from(DIR_DEFAULT), node_dir);
    let tags = Tags {
        priority: section.integer_or(report, "priority", 0, 0..=PRIORITY_MAX).unwrap_or(0),
        never_primary: section.flag(report, "never_primary"),
        never_sync: section.flag(report, "never_sync"),
    };
    let standing = match section.flag(report, "joined") {
        true => Standing::Joined,
        false => Standing::New,
    };
    section.require(report, "name", "\"n1\", one of [members]");
    let name = section.parsed(report, "name", |text| Ok(text.to_owned()))?;
    let own = members.and_then(|members| members.addresses.get(&name.value));
    if let Some(members) = members.filter(|members| !members.names.contains(&name.value)) {
        let hint = match nearest(&name.value, members.names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("members: {}", members.names.iter().cloned().collect::<Vec<_>>().join(", ")),
        };
        report.error(name.line, "node.name", format!("{:?} is not one of [members]; {hint}", name.value));
    }
    // Of a cluster that exists the file does not know how many they are.
    if standing == Standing::New {
        warn_about_number(report, members, record);
    }
    Some(Node { name: name.value, dir: dir?, tags, standing, address: own.cloned() })
}

/// Says what a cluster of this many voters cannot do.
fn warn_about_number(report: &mut Report<'_>, members: Option<&Members>, record: Record) {
    let voters = members.map_or(0, |members| members.names.len());
    match voters {
        0 => {}
        1 if record == Record::Elsewhere => {
            report.warning("members: one node: when it is lost nothing can take over; list at least two");
        }
        _ if record == Record::Elsewhere => {}
        1 => report.warning(
            "members: one voter: when it is lost nothing can take over; list at least three nodes, of which one may be a \
             witness (a host without [postgres])",
        ),
        2 => report.warning(
            "members: two voters: losing either stops automatic failover, because one of two is no majority; add a witness \
             (a third member on a host without [postgres])",
        ),
        even if even % 2 == 0 => report.warning(format!(
            "members: {even} voters survive the loss of {}, as {} would; add one or remove one",
            even / 2 - 1,
            even - 1
        )),
        _ => {}
    }
}

/// Names of nodes and clusters follow one rule.
fn name(text: &str) -> Result<NodeName, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not a name; use 1 to 63 letters, digits, '_' or '-', beginning with a letter")
    })
}

fn slot_fits(name: &NodeName) -> Result<(), String> {
    let slot = name.slot();
    if slot.len() <= SLOT_BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "too long: the node's replication slot would be {slot:?} with {} bytes, and PostgreSQL allows {SLOT_BYTES_MAX}; \
         shorten it, small letters and digits count least",
        slot.len()
    ))
}

fn node_dir(text: &str) -> Result<PathBuf, String> {
    if text.len() > DIR_BYTES_MAX {
        return Err(format!(
            "{text:?} has {} bytes; at most {DIR_BYTES_MAX}, because Unix sockets in it must have short paths",
            text.len()
        ));
    }
    absolute_path(text)
}

/// Reads a path that means the same wherever the program is started.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let plain = !text.contains(|c: char| c.is_control() || c == '\'' || c == '"');
    let no_dots = !path.components().any(|part| part == std::path::Component::ParentDir);
    if path.is_absolute() && plain && no_dots && path.parent().is_some() {
        Ok(path.components().collect())
    } else {
        Err(format!("{text:?} is not usable; write an absolute path, without \"..\" and quotes"))
    }
}
