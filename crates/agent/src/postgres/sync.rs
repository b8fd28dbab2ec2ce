//! When does a primary surely obey a new sync set?
//!
//! `synchronous_standby_names` is read by every WAL sender for itself, when it handles the SIGHUP that the postmaster
//! passes on; there is no view of it. In its main loop (WalSndLoop, src/backend/replication/walsender.c) a WAL sender
//! re-reads the configuration before it handles replies. So once a session shows the new value, the signals are out, and
//! once two further replies of a WAL sender were handled, it has re-read the configuration. This is pure: the probes
//! are fed in.
//!
//! Whether sessions wait at all is a flag in shared memory. It follows an empty setting, and one that is not empty any
//! more, only when the checkpointer handles its SIGHUP (SyncRepUpdateSyncStandbysDefined, called from
//! UpdateSharedMemoryConfig, src/backend/postmaster/checkpointer.c), and a busy checkpointer may take minutes. So after
//! an empty setting commits surely wait only once a CHECKPOINT has ended that was asked for after the signals: the
//! checkpointer handles them before it begins one. It is asked for over a new connection, which the postmaster accepts
//! only when it has sent all signals.
//!
//! Somebody may set another value by ALTER SYSTEM. It is noticed, and what it may have done to the flag is not forgotten.

use cluster::observe::{Replica, SyncApplied};
use cluster::state::SyncSet;
use cluster::{Lsn, Millis, Moment, NodeName};
use std::collections::BTreeMap;

/// A WAL sender, as far as needed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalSender {
    /// The standby that it sends to.
    pub node: NodeName,
    /// Its process.
    pub pid: i32,
    /// Send time of the last reply it handled, as text; only compared for equality.
    pub reply_time: Option<String>,
}

/// Whether sessions waited for standbys before a set was configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// They did, or the policy never lets them stop.
    Wait,
    /// Perhaps they did not.
    MayNotWait,
}

/// The checkpoint after which sessions surely wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Checkpoint {
    #[default]
    Needless,
    Due,
    Running,
}

/// So long after it was told, a server that shows another value has not just been slow.
const OBEYS_WITHIN_MS: Millis = 3000;

/// Follows one primary.
#[derive(Clone, Debug, Default)]
pub struct SyncWatch {
    /// Counts the sets configured.
    number: u64,
    wanted: Option<(SyncSet, String)>,
    shown: bool,
    /// When the server had surely been told.
    told_at: Option<Moment>,
    /// It obeys another value than it was told.
    overridden: bool,
    /// Another value was in force: what is known of the flag does not hold before the next checkpoint.
    lapsed: bool,
    checkpoint: Checkpoint,
    /// Whether sessions surely wait for standbys.
    sessions_wait: bool,
    /// For each WAL sender: the last reply time seen, and how many newer ones since the value was shown.
    replies: Option<BTreeMap<i32, (Option<String>, u32)>>,
    applied: Option<SyncApplied>,
}

impl SyncWatch {
    /// A new set was configured; `setting` is its text as the server will show it.
    pub fn configured(&mut self, set: SyncSet, setting: String, before: Sessions) {
        let waited = !self.lapsed && (self.sessions_wait || before == Sessions::Wait);
        let sessions_wait = !set.is_open() && waited;
        let checkpoint = if set.is_open() || sessions_wait { Checkpoint::Needless } else { Checkpoint::Due };
        *self = SyncWatch {
            number: self.number + 1,
            wanted: Some((set, setting)),
            checkpoint,
            sessions_wait,
            lapsed: self.lapsed,
            ..SyncWatch::default()
        };
    }

    /// The server has been told the set that was configured last.
    pub fn told(&mut self, now: Moment) {
        self.told_at = Some(now);
    }

    /// Another value than the one that was configured has been in force: what is known of the server does not hold any more.
    pub fn lapse(&mut self) {
        (self.lapsed, self.shown, self.sessions_wait) = (true, false, false);
        (self.applied, self.replies) = (None, None);
        if self.wanted.as_ref().is_some_and(|(set, _)| !set.is_open()) {
            // A checkpoint that runs was asked for before this.
            self.number += 1;
            self.checkpoint = Checkpoint::Due;
        }
    }

    /// Whether a checkpoint must be made now, and for which set; the caller makes it.
    pub fn begin_checkpoint(&mut self) -> Option<u64> {
        let due = self.shown && self.checkpoint == Checkpoint::Due;
        due.then(|| {
            self.checkpoint = Checkpoint::Running;
            self.number
        })
    }

    /// The checkpoint for the set of this number has ended, or could not be made.
    pub fn checkpoint_ended(&mut self, number: u64, made: bool) {
        if number == self.number && self.checkpoint == Checkpoint::Running {
            self.checkpoint = if made { Checkpoint::Needless } else { Checkpoint::Due };
            self.sessions_wait |= made;
            self.lapsed &= !made;
        }
    }

    /// The server has ended: nothing is known of the next one.
    pub fn server_ended(&mut self) {
        *self = SyncWatch { number: self.number, ..SyncWatch::default() };
    }

    /// Takes in a probe of the primary, which had flushed up to `flushed`.
    pub fn see(&mut self, setting: &str, senders: &[WalSender], flushed: Lsn, now: Moment) {
        let Some((set, wanted)) = &self.wanted else { return };
        if setting != wanted {
            let late = self.told_at.is_some_and(|at| now.since(at) >= OBEYS_WITHIN_MS);
            if self.shown || late {
                self.overridden = true;
                self.lapse();
            }
            return;
        }
        // A session may have read the files before the server was told.
        if self.applied.is_some() || self.told_at.is_none() {
            return;
        }
        self.shown = true;
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
        if all_obey && self.checkpoint == Checkpoint::Needless {
            self.applied = Some(SyncApplied { set: set.clone(), since: flushed });
        }
    }

    /// Whether the server obeys another setting than the one that it was told: it must be told again.
    #[must_use]
    pub fn overridden(&self) -> bool {
        self.overridden
    }

    /// The set that is obeyed, once it surely is.
    #[must_use]
    pub fn applied(&self) -> Option<&SyncApplied> {
        self.applied.as_ref()
    }
}

/// A standby tells the primary where it stands at least so often (wal_receiver_status_interval).
const REPLY_EVERY_MS: Millis = 1000;

/// Notices standbys that have stopped to answer. PostgreSQL itself calls them streaming until wal_sender_timeout.
#[derive(Clone, Debug, Default)]
pub struct Replies {
    last: BTreeMap<i32, (Option<String>, Moment)>,
}

impl Replies {
    /// Takes in a probe of the primary: who has not answered for longer than `patience` beyond its time does not stream.
    pub fn see(
        &mut self,
        senders: &[WalSender],
        replicas: &mut BTreeMap<NodeName, Replica>,
        now: Moment,
        patience: Millis,
    ) {
        self.last.retain(|pid, _| senders.iter().any(|s| s.pid == *pid));
        for sender in senders {
            let (reply, at) = self.last.entry(sender.pid).or_insert((None, now));
            if *reply != sender.reply_time {
                (*reply, *at) = (sender.reply_time.clone(), now);
            }
            if now.since(*at) > REPLY_EVERY_MS + patience
                && let Some(replica) = replicas.get_mut(&sender.node)
            {
                replica.streaming = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn any(k: usize) -> SyncSet {
        SyncSet { k, members: BTreeSet::new() }
    }

    fn sender(pid: i32, reply: &str) -> WalSender {
        WalSender { node: "n2".parse().expect("a name"), pid, reply_time: Some(reply.to_owned()) }
    }

    #[test]
    fn two_replies_of_every_wal_sender_are_needed() {
        let mut watch = SyncWatch::default();
        watch.configured(any(1), "new".into(), Sessions::Wait);
        watch.told(Moment(0));
        for reply in ["1", "2", "3"] {
            watch.see("old", &[sender(7, reply)], Lsn(1), Moment(0));
        }
        assert_eq!(watch.applied(), None, "the value is not shown yet");
        watch.see("new", &[sender(7, "3"), sender(8, "3")], Lsn(2), Moment(0));
        watch.see("new", &[sender(7, "4"), sender(8, "3")], Lsn(3), Moment(0));
        watch.see("new", &[sender(7, "5"), sender(8, "4")], Lsn(4), Moment(0));
        assert_eq!(watch.applied(), None);
        watch.see("new", &[sender(7, "5"), sender(8, "5")], Lsn(5), Moment(0));
        assert_eq!(watch.applied().map(|a| a.since), Some(Lsn(5)));
    }

    #[test]
    fn a_standby_that_does_not_answer_does_not_stream() {
        let mut replies = Replies::default();
        let mut streams = |reply: &str, at: u64| {
            let replica = Replica { streaming: true, flush_lsn: Lsn(1), replay_lsn: Lsn(1) };
            let mut replicas = BTreeMap::from([("n2".parse().expect("a name"), replica)]);
            replies.see(&[sender(7, reply)], &mut replicas, Moment(at), 1500);
            replicas.values().all(|r| r.streaming)
        };
        assert!(streams("1", 1000));
        assert!(streams("1", 3500));
        assert!(!streams("1", 3501));
        assert!(streams("2", 3600));
    }

    #[test]
    fn a_primary_without_standbys_obeys_at_once() {
        let mut watch = SyncWatch::default();
        watch.configured(any(1), "x".into(), Sessions::Wait);
        watch.told(Moment(0));
        watch.see("x", &[], Lsn(9), Moment(0));
        assert!(watch.applied().is_some());
    }

    #[test]
    fn after_an_empty_setting_a_checkpoint_is_needed() {
        let mut watch = SyncWatch::default();
        watch.configured(any(0), String::new(), Sessions::Wait);
        watch.told(Moment(0));
        watch.see("", &[], Lsn(1), Moment(0));
        assert!(watch.applied().is_some_and(|a| a.set.is_open()), "waiting for nobody needs none");
        watch.configured(any(1), "x".into(), Sessions::MayNotWait);
        watch.told(Moment(0));
        assert_eq!(watch.begin_checkpoint(), None, "the signals may not be out");
        watch.see("x", &[], Lsn(2), Moment(0));
        assert_eq!(watch.applied(), None);
        let number = watch.begin_checkpoint().expect("due");
        assert_eq!(watch.begin_checkpoint(), None, "one at a time");
        watch.checkpoint_ended(number, false);
        assert_eq!(watch.begin_checkpoint(), Some(number), "tried again");
        watch.checkpoint_ended(number, true);
        watch.see("x", &[], Lsn(3), Moment(0));
        assert_eq!(watch.applied().map(|a| a.since), Some(Lsn(3)));
        watch.configured(any(1), "y".into(), Sessions::MayNotWait);
        watch.told(Moment(0));
        watch.see("y", &[], Lsn(4), Moment(0));
        assert!(watch.applied().is_some(), "they still wait");
    }

    #[test]
    fn another_value_is_noticed_and_its_effect_not_forgotten() {
        let mut watch = SyncWatch::default();
        watch.configured(any(1), "x".into(), Sessions::Wait);
        watch.told(Moment(0));
        watch.see("", &[], Lsn(1), Moment(0));
        assert!(!watch.overridden(), "it may not have been read yet");
        watch.see("x", &[], Lsn(2), Moment(0));
        assert!(watch.applied().is_some());
        watch.see("", &[], Lsn(3), Moment(0));
        assert!(watch.overridden());
        assert_eq!(watch.applied(), None);
        watch.see("x", &[], Lsn(3), Moment(0));
        assert_eq!(watch.applied(), None, "sessions may not wait, whoever set it back");
        watch.configured(any(1), "x".into(), Sessions::Wait);
        watch.told(Moment(0));
        assert!(!watch.overridden());
        watch.configured(any(1), "y".into(), Sessions::Wait);
        watch.told(Moment(0));
        watch.see("y", &[], Lsn(4), Moment(0));
        assert_eq!(watch.applied(), None, "sessions may not wait before a checkpoint");
        let number = watch.begin_checkpoint().expect("due");
        watch.checkpoint_ended(number, true);
        watch.see("y", &[], Lsn(5), Moment(0));
        assert!(watch.applied().is_some());
        watch.lapse();
        assert_eq!(watch.applied(), None);
    }

    #[test]
    fn a_value_that_is_never_shown_is_another() {
        let mut watch = SyncWatch::default();
        watch.configured(any(1), "x".into(), Sessions::Wait);
        watch.see("", &[], Lsn(1), Moment(9_000_000));
        assert!(!watch.overridden(), "it has not been told yet");
        watch.told(Moment(1000));
        watch.see("", &[], Lsn(1), Moment(1000 + OBEYS_WITHIN_MS - 1));
        assert!(!watch.overridden());
        watch.see("", &[], Lsn(1), Moment(1000 + OBEYS_WITHIN_MS));
        assert!(watch.overridden());
    }

    #[test]
    fn a_late_checkpoint_is_not_for_the_next_set() {
        let mut watch = SyncWatch::default();
        watch.configured(any(1), "x".into(), Sessions::MayNotWait);
        watch.told(Moment(0));
        watch.see("x", &[], Lsn(1), Moment(0));
        let late = watch.begin_checkpoint().expect("due");
        watch.configured(any(0), String::new(), Sessions::MayNotWait);
        watch.told(Moment(0));
        watch.configured(any(1), "x".into(), Sessions::MayNotWait);
        watch.told(Moment(0));
        watch.see("x", &[], Lsn(2), Moment(0));
        assert!(watch.begin_checkpoint().is_some());
        watch.checkpoint_ended(late, true);
        watch.see("x", &[], Lsn(3), Moment(0));
        assert_eq!(watch.applied(), None);
    }
}
