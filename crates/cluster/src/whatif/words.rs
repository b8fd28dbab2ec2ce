//! An answer in sentences.

use super::{Answer, Commits, End, Event, Leadership, Times};
use crate::basics::{Millis, NodeName};
use crate::reason::Safe;
use std::collections::BTreeSet;
use std::fmt;

fn list(names: &BTreeSet<NodeName>) -> String {
    let names: Vec<&str> = names.iter().map(NodeName::as_str).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

fn seconds(ms: Millis) -> String {
    let hundredths = ms.saturating_add(5) / 10;
    format!("{}.{:02} s", hundredths / 100, hundredths % 100)
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Down { node } => write!(f, "the host of {node} were lost"),
            Event::Partition { nodes } if nodes.len() == 1 => {
                write!(f, "{} could reach none of the others", list(nodes))
            }
            Event::Partition { nodes } => write!(f, "{} could only reach each other", list(nodes)),
            Event::Switchover { to: Some(to) } => write!(f, "a switchover to {to} were ordered"),
            Event::Switchover { to: None } => f.write_str("a switchover to the best candidate were ordered"),
        }
    }
}

impl Answer {
    /// The answer for people: what would come of it first, then why, then what it would mean.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let mut told = vec![self.end_sentence()];
        told.extend(self.times.map(|times| self.times_sentence(times)));
        told.extend(self.why_sentences());
        told.push(self.majority_sentence());
        told.extend(self.loss_sentence());
        told.extend(self.commits_sentence());
        told.push(self.clients_sentence());
        told
    }

    fn end_sentence(&self) -> String {
        let gone = |node: &NodeName| match &self.event {
            Event::Down { node: down } => down == node,
            Event::Partition { .. } | Event::Switchover { .. } => false,
        };
        match (&self.end, &self.primary) {
            (End::Stays { node }, _) => format!("{node} would stay primary"),
            (End::Replaced { node, .. }, Some(old)) => {
                format!("{node} would become primary instead of {old}")
            }
            (End::Replaced { node, .. }, None) => format!("{node} would become primary"),
            (End::NoMajority, Some(old)) if !gone(old) => {
                format!(
                    "there would be no primary: {old} could not renew its lease, and its guard would stop it"
                )
            }
            (End::NoMajority | End::NoPrimary, _) => "there would be no primary".to_owned(),
            (End::Refused { .. }, _) => "it would be refused, and nothing would change".to_owned(),
        }
    }

    fn times_sentence(&self, times: Times) -> String {
        let total = seconds(times.total_ms());
        if let Event::Switchover { .. } = self.event {
            return format!(
                "clients would wait about {total}, and as long as open transactions (at most {}) and the shutdown checkpoint \
                 take; a checkpoint beforehand, which clients do not notice, keeps that short",
                seconds(crate::decide::switchover::DRAIN_MS)
            );
        }
        let election = match &self.deciders.leadership {
            Leadership::Elected { .. } => ", a new leader elected meanwhile",
            Leadership::Kept { .. } | Leadership::None => "",
        };
        format!(
            "expected after about {total}: {} until it is sure that the primary is gone{election}, {} until one is chosen, {} \
             to promote it; recording the decisions comes on top",
            seconds(times.detect_ms),
            seconds(times.choose_ms),
            seconds(times.promote_ms)
        )
    }

    fn why_sentences(&self) -> Vec<String> {
        match &self.end {
            End::Replaced { safe, others, .. } => {
                let mut told = vec![format!("that is safe: {safe}")];
                // Of those that are supposed to be gone nobody asks.
                let left = others.iter().filter(|(node, _)| self.deciders.with.contains(*node));
                told.extend(left.map(|(node, why)| format!("not {node}: it {why}")));
                told
            }
            End::Refused { because } => because.iter().map(|o| format!("refused: {o}")).collect(),
            End::NoPrimary => self.waits.iter().map(|reason| format!("because: {reason}")).collect(),
            End::Stays { .. } | End::NoMajority => Vec::new(),
        }
    }

    fn majority_sentence(&self) -> String {
        let d = &self.deciders;
        let silent = match d.silent.len() {
            0 => String::new(),
            _ => format!("; not heard now already: {}", list(&d.silent)),
        };
        let have = format!("{} of {} voters ({})", d.with.len(), d.of, list(&d.with));
        match (&d.leadership, &self.event) {
            (Leadership::None, Event::Partition { .. }) => format!(
                "no side would have the majority of {}: one has {have}, the other {}{silent}",
                d.needed,
                list(&d.without)
            ),
            (Leadership::None, _) => {
                format!("{have} would be left, {} are needed to decide anything{silent}", d.needed)
            }
            (Leadership::Kept { leader }, Event::Partition { .. }) => {
                format!("the side that decides: {have}, led by {leader} as now{silent}")
            }
            (Leadership::Kept { leader }, _) => {
                format!("{have} would decide, led by {leader} as now{silent}")
            }
            (Leadership::Elected { before, .. }, Event::Partition { .. }) => format!(
                "the side that decides: {have}; {before} leads now and is on the other, so a leader would be elected first{silent}"
            ),
            (Leadership::Elected { before, .. }, _) => {
                format!(
                    "{have} would decide; {before} leads now, so another leader would be elected first{silent}"
                )
            }
        }
    }

    fn loss_sentence(&self) -> Option<String> {
        let alone = match (self.alone_ms, &self.primary, &self.end) {
            (Some(ms), Some(old), End::Replaced { .. } | End::NoPrimary) => format!(
                ", and what {old}, cut off, still acknowledges until its lease ends ({} at most)",
                seconds(ms)
            ),
            _ => String::new(),
        };
        match (self.loss_bytes?, &self.end) {
            (0, End::Replaced { safe: Safe::WithinLoss { .. }, .. }) => {
                Some(format!("could be lost: what came after the last heartbeats{alone}"))
            }
            (0, End::Replaced { .. }) => Some("nothing acknowledged would be lost".to_owned()),
            (0, _) => None,
            (bytes, _) => Some(format!(
                "could be lost: {bytes} bytes of WAL as of the last heartbeats, what came after them{alone}"
            )),
        }
    }

    fn commits_sentence(&self) -> Option<String> {
        match &self.commits {
            Commits::Wait { have, k } => Some(format!(
                "commits would wait: {have} synchronous standbys would stream, {k} must confirm each commit"
            )),
            Commits::Reduced { k: 0, .. } => Some(
                "commits would wait for no standby (degrade = available): until one streams again, only that primary surely has \
                 them"
                    .to_owned(),
            ),
            Commits::Reduced { k, full_k } => {
                Some(format!("each commit would be confirmed by {k}, not {full_k} (degrade = available)"))
            }
            Commits::GoOn | Commits::Stop => None,
        }
    }

    fn clients_sentence(&self) -> String {
        let cut = match (&self.event, self.deciders.without.is_empty(), &self.end) {
            (Event::Partition { .. }, false, End::Stays { .. } | End::Replaced { .. }) => {
                format!("; a proxy that reaches only {} finds no primary", list(&self.deciders.without))
            }
            _ => String::new(),
        };
        match (&self.end, &self.commits, &self.event) {
            (End::Stays { .. }, Commits::Wait { .. }, _) => {
                format!("clients could read; their commits would wait{cut}")
            }
            (End::Stays { .. }, _, _) => format!("clients would go on and notice nothing{cut}"),
            (End::Refused { .. }, _, _) => "clients would notice nothing".to_owned(),
            (End::Replaced { .. }, _, Event::Switchover { .. }) => {
                "clients of the proxies would notice nothing but the pause, if what they do can be moved"
                    .to_owned()
            }
            (End::Replaced { .. }, commits, _) => {
                let then =
                    if matches!(commits, Commits::Wait { .. }) { ", and could then only read" } else { "" };
                format!(
                    "clients of the proxies would lose their sessions, and new ones would wait that long{then}{cut}"
                )
            }
            (End::NoMajority | End::NoPrimary, _, _) => {
                let until =
                    self.alone_ms.map(|ms| format!("after at most {} ", seconds(ms))).unwrap_or_default();
                format!(
                    "{until}clients of the proxies would wait, at most as long as proxy.hold says, and then get an error"
                )
            }
        }
    }
}
