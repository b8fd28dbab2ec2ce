//! Reasons in words: the log, `pgkeel why` and the transcripts print these.

use super::{NotChosen, Reason, Safe};
use crate::basics::NodeName;
use crate::brake::Brake;
use crate::configuration;
use crate::handover::Stage;
use crate::observe::{Lost, RejoinWay};
use crate::state::{Fencing, OldLease};
use std::collections::BTreeMap;
use std::fmt;

fn names(set: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let list: Vec<String> = set.into_iter().map(|n| n.to_string()).collect();
    if list.is_empty() { "none".into() } else { list.join(", ") }
}

fn pairs<V>(map: &BTreeMap<NodeName, V>, show: impl Fn(&V) -> String) -> String {
    names(map.iter().map(|(n, v)| format!("{n} {}", show(v))))
}

impl fmt::Display for OldLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OldLease::Returned => "its lease was returned",
            OldLease::MayRun => "its lease may still run",
        })
    }
}

impl fmt::Display for RejoinWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RejoinWay::Follow => "follow: its data was a prefix",
            RejoinWay::Rewind => "rewind: its data had diverged",
            RejoinWay::Clone => "clone: copied anew",
        })
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transactions {
            Some(1) => f.write_str("1 transaction, ")?,
            Some(count) => write!(f, "{count} transactions, ")?,
            None => f.write_str("an unknown number of transactions, ")?,
        }
        write!(f, "{} bytes of WAL between {} and {}", self.bytes, self.from_lsn, self.to_lsn)?;
        self.problem.as_ref().map_or(Ok(()), |problem| write!(f, " ({problem})"))
    }
}

impl fmt::Display for Safe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Safe::Quorum { sealed, of, k } => write!(
                f,
                "{} of the sync set of {} ({}) are sealed and {k} confirm each commit, so every acknowledged commit is on a sealed one",
                sealed.len(),
                of.len(),
                names(of)
            ),
            Safe::LastPrimary { node } => {
                write!(f, "{node} was the last primary and has all that it acknowledged")
            }
            Safe::StoppedInOrder { node, at } => {
                write!(
                    f,
                    "{node} has stopped in order, and its shutdown checkpoint at {at} is replayed there"
                )
            }
            Safe::WithinLoss { missing_bytes, max_loss_bytes } => {
                write!(f, "{missing_bytes} bytes of WAL may be lost, {max_loss_bytes} are allowed (max_loss)")
            }
            Safe::Accepted { by } => write!(f, "{by} has accepted what is lost by it"),
        }
    }
}

impl fmt::Display for NotChosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotChosen::Behind { at, bytes } => write!(f, "stands at {at}, {bytes} bytes behind"),
            NotChosen::Equal { at } => {
                write!(f, "stands at {at} too, and comes later in the order of preference")
            }
            NotChosen::OtherLine { at } => {
                write!(f, "stands at {at}, which is not known to descend from the last primary")
            }
            NotChosen::NotSealed { seen } => write!(f, "has not sealed ({seen})"),
            NotChosen::Ahead { at } => write!(f, "stands at {at}, but a person chose otherwise"),
            NotChosen::LeftOut { at } => {
                write!(f, "stands at {at}, with WAL of a promotion that the last choice had to do without")
            }
            NotChosen::Maintained => f.write_str("is under maintenance"),
            NotChosen::Leaves => f.write_str("is leaving the cluster"),
            NotChosen::Witness => f.write_str("is a witness"),
            NotChosen::NeverPrimary => f.write_str("is never to be primary, its configuration says"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Reason as R;
        match self {
            R::Formed { .. } | R::Initialise { .. } | R::Published { .. } | R::Appointed { .. } => {
                self.said_setup(f)
            }
            R::ServerGone { .. }
            | R::ServerHung { .. }
            | R::NotPrimaryAnyMore { .. }
            | R::Silent { .. }
            | R::LeaseOver { .. } => self.said_suspicion(f),
            R::EpochOpened { .. } | R::Sealed { .. } | R::Chosen { .. } => self.said_change(f),
            R::SyncSetChanging { .. }
            | R::SyncSetChanged { .. }
            | R::SyncShort { .. }
            | R::SyncReduced { .. }
            | R::LossBound { .. }
            | R::Rejoined { .. } => self.said_upkeep(f),
            R::SwitchoverPlanned { .. }
            | R::SwitchoverCancelled { .. }
            | R::SwitchoverBegun { .. }
            | R::SwitchoverGoesOn { .. }
            | R::SwitchoverRefused { .. }
            | R::SwitchoverWaits { .. }
            | R::Paused { .. }
            | R::Configured { .. }
            | R::Resumed { .. } => self.said_order(f),
            R::NotConfirmed { .. } | R::StreamAdvances { .. } => self.said_veto(f),
            R::WaitNodes { .. }
            | R::RefuseInitialise { .. }
            | R::WaitInitialise { .. }
            | R::WaitSeals { .. }
            | R::WaitLease { .. }
            | R::WaitLoss { .. }
            | R::WaitPromotion { .. }
            | R::Steady => self.said_wait(f),
            R::Membership { tale } => tale.fmt(f),
            R::StoreMoved { number, to, by } => {
                write!(f, "move {number}: the record is kept {to} from now on, asked by {by}")
            }
            R::Word { word } => word.fmt(f),
            R::Restart { tale } => tale.fmt(f),
        }
    }
}

impl Reason {
    fn said_setup(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Formed { members } => write!(f, "cluster formed by {}", names(members)),
            Reason::Initialise { node, adopted: None } => {
                write!(
                    f,
                    "{node} makes the database: all nodes are here, none has data, and its name comes first"
                )
            }
            Reason::Initialise { node, adopted: Some(system_identifier) } => write!(
                f,
                "{node} brings the database: what it has is taken over as the cluster's (system identifier \
                 {system_identifier}), as its configuration says"
            ),
            Reason::Appointed { node, sync } if sync.is_empty() => write!(f, "{node} appointed primary"),
            Reason::Appointed { node, sync } => {
                write!(f, "{node} appointed primary; its synchronous standbys: {}", names(sync))
            }
            Reason::Published { node, timeline } => {
                write!(f, "{node} takes writes on timeline {timeline}; published to the proxies")
            }
            _ => Ok(()),
        }
    }

    fn said_suspicion(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::ServerGone { node } => {
                write!(f, "{node} suspected: its own agent says that the server's last process is gone")
            }
            Reason::ServerHung { node, silent_ms } => {
                write!(
                    f,
                    "{node} suspected: its agent says that the server has answered nothing for {silent_ms} ms"
                )
            }
            Reason::NotPrimaryAnyMore { node, seen } => {
                write!(
                    f,
                    "{node} suspected: it is recorded as primary, but its agent sees its server as {seen}"
                )
            }
            Reason::LeaseOver { node, unleased_ms } => write!(
                f,
                "{node} suspected: the leader has had no heartbeat of it for {unleased_ms} ms, so its lease has surely \
                 ended and its guard has stopped it"
            ),
            Reason::Silent { node, leader_ms, confirmed, needed } => write!(
                f,
                "{node} suspected: silent to the leader for {leader_ms} ms; {} of the {needed} needed confirm: {}",
                confirmed.len(),
                pairs(confirmed, |ms| format!("({ms} ms)"))
            ),
            _ => Ok(()),
        }
    }

    fn said_change(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::EpochOpened { epoch, old_primary: Some(old), lease } => {
                write!(f, "epoch {epoch} opened: {old} is primary no more; {lease}")
            }
            Reason::EpochOpened { epoch, old_primary: None, lease } => {
                write!(f, "epoch {epoch} opened; {lease}")
            }
            Reason::Sealed { seals } => write!(f, "sealed: {}", pairs(seals, |p| format!("at {p}"))),
            Reason::Chosen { node, at, safe, others } => {
                let how =
                    if matches!(safe, Safe::Accepted { .. }) { "which stands" } else { "the most advanced" };
                write!(f, "{node} chosen, {how} at {at}: {safe}")?;
                others.iter().try_for_each(|(other, why)| write!(f, "; not {other}: it {why}"))
            }
            _ => Ok(()),
        }
    }

    fn said_upkeep(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::SyncSetChanging { from, to, why } => {
                write!(f, "sync set changes from {} to {}: {why}", names(&from.members), names(&to.members))?;
                match to.k {
                    k if k == from.k => Ok(()),
                    0 => f.write_str("; commits stop waiting for standbys (degrade = available)"),
                    k => write!(f, "; each commit needs {k} of them, not {}", from.k),
                }
            }
            Reason::SyncSetChanged { set, since } => {
                let members = names(&set.members);
                write!(f, "sync set is now {members}: every WAL sender obeys it since {since}")
            }
            Reason::SyncReduced { primary, set, full_k, alone: false } => write!(
                f,
                "each commit of {primary} is confirmed by {} of {}, not by {full_k}: no others stream (degrade = available)",
                set.k,
                names(&set.members)
            ),
            Reason::SyncReduced { primary, set, alone: true, .. } if set.is_open() => write!(
                f,
                "commits do not wait: no standby streams (degrade = available); while that lasts, only {primary} itself can \
                 be primary after it fails"
            ),
            Reason::SyncReduced { primary, set, alone: true, .. } => write!(
                f,
                "commits wait for {} again; until {} of them has all before, only {primary} itself can be primary after it \
                 fails",
                names(&set.members),
                set.k
            ),
            Reason::LossBound { primary, brake: Brake { bound_bytes, nearest } } => {
                write!(
                    f,
                    "commits wait: no standby is within loss_bound ({bound_bytes} bytes) of {primary}; "
                )?;
                match nearest {
                    Some((node, bytes)) => write!(f, "{node}, the nearest, lacks {bytes} bytes"),
                    None => f.write_str("none has been heard"),
                }
            }
            Reason::SyncShort { have, k } => {
                write!(f, "commits wait: {have} synchronous standbys stream, {k} must confirm each commit")
            }
            Reason::Rejoined { node, rejoined } => {
                write!(f, "{node} rejoined in {} ms by {}", rejoined.took_ms, rejoined.way)?;
                // Without data, or with half of a copy, it stood nowhere.
                if rejoined.from_timeline > 0 {
                    write!(f, " (it stood at {} on timeline {})", rejoined.from_lsn, rejoined.from_timeline)?;
                }
                if let Some(cause) = &rejoined.cause {
                    write!(f, ", because {cause}")?;
                }
                match &rejoined.lost {
                    Some(lost) => write!(f, "; lost: {lost}; listed by `pgkeel lost {node}`"),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn said_order(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::SwitchoverPlanned { id, to, by, .. } => {
                let to = to.as_ref().map_or("the best candidate of that moment", NodeName::as_str);
                write!(f, "switchover {id} to {to} planned by {by}")
            }
            Reason::SwitchoverCancelled { id, by } => write!(f, "switchover {id} cancelled by {by}"),
            Reason::SwitchoverBegun { id, from, to, by } => {
                write!(f, "switchover {id} from {from} to {to} begun, asked for by {by}")
            }
            Reason::SwitchoverGoesOn { from, stage, open_transactions: 0 } => write!(f, "{from} {stage}"),
            Reason::SwitchoverGoesOn { from, stage, open_transactions } => {
                write!(f, "{from} {stage}; {open_transactions} transactions are still open")
            }
            Reason::SwitchoverRefused { id, because } => {
                write!(f, "switchover {id} refused: ")?;
                let list: Vec<String> = because.iter().map(ToString::to_string).collect();
                f.write_str(&list.join("; "))
            }
            Reason::SwitchoverWaits { from, to, stage: Stage::Holding, open_transactions } => {
                write!(f, "{from} hands over to {to}: {open_transactions} transactions are still open")
            }
            Reason::SwitchoverWaits { from, to, stage, .. } => {
                write!(f, "{from} hands over to {to}: {from} {stage}")
            }
            Reason::Paused { by, fencing: Fencing::Kept } => write!(
                f,
                "paused by {by}: nothing is decided, no failover happens, and a primary that cannot renew its lease ends; \
                 pgkeel resume ends it"
            ),
            Reason::Paused { by, fencing: Fencing::Suspended } => write!(
                f,
                "paused by {by}: nothing is decided, no failover happens, and the primary serves on without a lease; \
                 pgkeel resume ends it"
            ),
            Reason::Resumed { by } => write!(f, "resumed by {by}"),
            Reason::Configured { version, by, back_to, differences } => {
                write!(f, "version {version} of the configuration recorded by {by}")?;
                if let Some(older) = back_to {
                    write!(f, ", back to version {older}")?;
                }
                write!(f, ": {}", configuration::in_words(differences))
            }
            _ => Ok(()),
        }
    }

    fn said_veto(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NotConfirmed { node, leader_ms, heard_by, needed } => write!(
                f,
                "no failover yet: {node} is silent to the leader for {leader_ms} ms, but {needed} others must confirm; {}",
                pairs(heard_by, |text| text.clone())
            ),
            Reason::StreamAdvances { node, on, silent_ms } => write!(
                f,
                "no failover: the agent of {node} is silent, but its WAL still reaches {on} (last {silent_ms} ms ago)"
            ),
            _ => Ok(()),
        }
    }

    fn said_wait(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::WaitNodes { missing } => {
                write!(f, "waiting for the first heartbeat of every node; missing: {}", names(missing))
            }
            Reason::RefuseInitialise { node, system_identifier } => write!(
                f,
                "no database is made: {node} already has a data directory (system identifier {system_identifier}), \
                 which this new cluster does not know; move it away, or join it to the cluster it belongs to"
            ),
            Reason::WaitInitialise { node } => {
                write!(f, "{node} makes the database, or starts the one that it has")
            }
            Reason::WaitSeals { sealed, missing, rule } => {
                write!(f, "waiting for seals: have {}, missing {}; {rule}", names(sealed), names(missing))
            }
            Reason::WaitLease { node, left_ms } => {
                write!(f, "waiting until the lease of {node} has surely ended, {left_ms} ms more")
            }
            Reason::WaitLoss { best, missing_bytes, max_loss_bytes, waiting_for } => {
                match missing_bytes {
                    Some(bytes) => write!(f, "{best} is the most advanced and lacks {bytes} bytes of WAL")?,
                    None => write!(f, "{best} is the most advanced, and how much it lacks is unknown")?,
                }
                write!(f, "; {max_loss_bytes} may be lost (max_loss); waiting for {}", names(waiting_for))
            }
            Reason::WaitPromotion { node } => write!(f, "{node} is being promoted"),
            Reason::Steady => f.write_str("all is well"),
            _ => Ok(()),
        }
    }
}
