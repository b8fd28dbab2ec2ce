//! When does a primary surely obey a new sync set?
//!
//! `synchronous_standby_names` is read by every WAL sender for itself, when it handles the SIGHUP that the postmaster
//! passes on; there is no view of it. In its main loop (WalSndLoop, src/backend/replication/walsender.c) a WAL sender
//! re-reads the configuration before it handles replies. So once a session shows the new value, the signals are out, and
//! once two further replies of a WAL sender were handled, it has re-read the configuration. This is pure: the probes
//! are fed in.

use cluster::observe::SyncApplied;
use cluster::{Lsn, NodeName};
use std::collections::{BTreeMap, BTreeSet};

/// A WAL sender, as far as needed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalSender {
    /// Its process.
    pub pid: i32,
    /// Send time of the last reply it handled, as text; only compared for equality.
    pub reply_time: Option<String>,
}

/// Follows one primary.
#[derive(Clone, Debug, Default)]
pub struct SyncWatch {
    wanted: Option<(BTreeSet<NodeName>, String)>,
    /// For each WAL sender: the last reply time seen, and how many newer ones since the value was shown.
    replies: Option<BTreeMap<i32, (Option<String>, u32)>>,
    applied: Option<SyncApplied>,
}

impl SyncWatch {
    /// A new set was configured; `setting` is its text as the server will show it.
    pub fn configured(&mut self, members: BTreeSet<NodeName>, setting: String) {
        *self = SyncWatch { wanted: Some((members, setting)), replies: None, applied: None };
    }

    /// Takes in a probe of the primary, which had flushed up to `flushed`.
    pub fn see(&mut self, setting: &str, senders: &[WalSender], flushed: Lsn) {
        let Some((members, wanted)) = &self.wanted else { return };
        if self.applied.is_some() || setting != wanted {
            return;
        }
        let before = self.replies.take();
        let mut all_obey = true;
        let mut replies = BTreeMap::new();
        for sender in senders {
            let known = before.as_ref().and_then(|b| b.get(&sender.pid));
            let count = match known {
                Some((last, count)) if *last != sender.reply_time => count + 1,
                Some((_, count)) => *count,
                None => 0,
            };
            all_obey &= count >= 2;
            replies.insert(sender.pid, (sender.reply_time.clone(), count));
        }
        self.replies = Some(replies);
        if all_obey {
            self.applied = Some(SyncApplied { members: members.clone(), since: flushed });
        }
    }

    /// The set that is obeyed, once it surely is.
    #[must_use]
    pub fn applied(&self) -> Option<&SyncApplied> {
        self.applied.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(pid: i32, reply: &str) -> WalSender {
        WalSender { pid, reply_time: Some(reply.to_owned()) }
    }

    #[test]
    fn two_replies_of_every_wal_sender_are_needed() {
        let mut watch = SyncWatch::default();
        watch.configured(BTreeSet::new(), "new".into());
        for reply in ["1", "2", "3"] {
            watch.see("old", &[sender(7, reply)], Lsn(1));
        }
        assert_eq!(watch.applied(), None, "the value is not shown yet");
        watch.see("new", &[sender(7, "3"), sender(8, "3")], Lsn(2));
        watch.see("new", &[sender(7, "4"), sender(8, "3")], Lsn(3));
        watch.see("new", &[sender(7, "5"), sender(8, "4")], Lsn(4));
        assert_eq!(watch.applied(), None);
        watch.see("new", &[sender(7, "5"), sender(8, "5")], Lsn(5));
        assert_eq!(watch.applied().map(|a| a.since), Some(Lsn(5)));
    }

    #[test]
    fn a_primary_without_standbys_obeys_at_once() {
        let mut watch = SyncWatch::default();
        watch.configured(BTreeSet::new(), "x".into());
        watch.see("x", &[], Lsn(9));
        assert!(watch.applied().is_some());
    }
}
