//! What this agent has seen of etcd, as a value: snapshots and times go in, what follows from them is asked for. No clock and
//! no I/O. The rule by which a leader counts its rounds is written down in [`super`].

use super::super::written;
use super::wire::{Claim, Found, Holder, Snapshot};
use cluster::state::State;

/// See the module. Times are milliseconds of CLOCK_BOOTTIME.
#[derive(Debug)]
pub(super) struct Sight {
    me: Claim,
    /// The newest revision that was seen, and when the answer with it came.
    newest: (u64, u64),
    /// The revision of the state that was taken over; 0: none yet.
    state_at: u64,
    holder: Option<Holder>,
    /// When the holder of this term was seen first.
    holder_since: u64,
    /// When the last transaction was sent that found this agent leading.
    confirmed: Option<u64>,
    /// When the last transaction was sent that had an answer.
    looked_at: Option<u64>,
    /// Since when every transaction had one.
    fine_since: Option<u64>,
    /// Why the state in etcd is not taken over.
    refused: Option<String>,
}

/// What is to be done about a snapshot.
#[derive(Debug, PartialEq)]
pub(super) enum Taken {
    /// Nothing more.
    Nothing,
    /// This state is the recorded one.
    State(Box<State>),
    /// etcd is not what it was: look again, at all of it.
    LookAgain,
}

impl Sight {
    pub(super) fn new(me: Claim) -> Sight {
        Sight {
            me,
            newest: (0, 0),
            state_at: 0,
            holder: None,
            holder_since: 0,
            confirmed: None,
            looked_at: None,
            fine_since: None,
            refused: None,
        }
    }

    /// Takes in the answer to a transaction that was sent at `sent` and came at `now`. `known` is the state that this agent
    /// holds to be the recorded one.
    pub(super) fn see(
        &mut self,
        cluster: &str,
        known: &State,
        found: Snapshot,
        (sent, now): (u64, u64),
    ) -> Taken {
        let (revision, came) = self.newest;
        if found.revision < revision {
            // An answer that was overtaken by a later one says nothing new.
            if sent <= came {
                return Taken::Nothing;
            }
            // etcd had confirmed more than it has: it was restored from a backup, or is another one.
            tracing::error!(
                "etcd has gone back from revision {revision} to {}: was it restored?",
                found.revision
            );
            (self.newest, self.state_at) = ((found.revision, now), 0);
            (self.holder, self.confirmed) = (None, None);
            return Taken::LookAgain;
        }
        self.newest = (found.revision, now);
        self.looked_at = self.looked_at.max(Some(sent));
        self.fine_since.get_or_insert(now);
        let taken = self.take_state(cluster, known, found.state);
        if self.term() != found.holder.as_ref().map(|h| h.term) {
            self.holder_since = now;
            self.confirmed = None;
        }
        self.holder = found.holder;
        if self.is_mine() {
            self.confirmed = self.confirmed.max(Some(sent));
        }
        taken
    }

    fn take_state(&mut self, cluster: &str, known: &State, found: Found) -> Taken {
        let judged = match found {
            Found::Unchanged => Ok(None),
            Found::Absent if known.revision == 0 => Ok(None),
            Found::Absent => Err(format!(
                "the record in etcd is gone, and this node knows one of revision {}: was etcd restored, or emptied?",
                known.revision
            )),
            Found::Changed(at, value) => judge(cluster, known, &value).map(|state| Some((at, state))),
        };
        match judged {
            Ok(None) => {
                self.refused = None;
                Taken::Nothing
            }
            Ok(Some((at, state))) => {
                (self.refused, self.state_at) = (None, at);
                Taken::State(Box::new(state))
            }
            Err(why) => {
                if self.refused.as_ref() != Some(&why) {
                    tracing::error!("{why}");
                }
                self.refused = Some(why);
                Taken::Nothing
            }
        }
    }

    /// A transaction had no answer.
    pub(super) fn miss(&mut self) {
        self.fine_since = None;
    }

    /// The revision of the state that was taken over.
    pub(super) fn state_at(&self) -> u64 {
        self.state_at
    }

    pub(super) fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    pub(super) fn holder_since(&self) -> u64 {
        self.holder_since
    }

    /// The term of whoever holds the leader's key.
    pub(super) fn term(&self) -> Option<u64> {
        self.holder.as_ref().map(|h| h.term)
    }

    /// Whether the leader's key names this run of this agent.
    pub(super) fn is_mine(&self) -> bool {
        self.holder.as_ref().is_some_and(|h| h.claim.as_ref() == Some(&self.me))
    }

    /// The term in which this agent leads.
    pub(super) fn leads(&self) -> Option<u64> {
        self.term().filter(|_| self.is_mine() && self.refused.is_none())
    }

    /// How long ago the last round was sent that etcd confirmed, while this agent leads.
    pub(super) fn round_age(&self, now: u64) -> Option<u64> {
        self.leads()?;
        self.confirmed.map(|sent| now.saturating_sub(sent))
    }

    /// Whether etcd has answered something that was asked within this time.
    pub(super) fn is_fresh(&self, now: u64, within: u64) -> bool {
        self.looked_at.is_some_and(|at| now.saturating_sub(at) < within)
    }

    /// Since when etcd has answered everything.
    pub(super) fn fine_since(&self) -> Option<u64> {
        self.fine_since
    }

    /// Why the state in etcd is not taken over.
    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }
}

/// Whether the state that was found can follow the one that is known: epochs must never be given out twice.
pub(super) fn judge(cluster: &str, known: &State, value: &[u8]) -> Result<State, String> {
    let found: State = written::decode(value).map_err(|e| {
        format!(
            "the record in etcd cannot be read ({e}): was it written by a later pgkeel, or by something else?"
        )
    })?;
    if !found.cluster.is_empty() && found.cluster != cluster {
        return Err(format!(
            "the record in etcd is that of cluster {:?}, this agent belongs to {cluster:?}: give each cluster a prefix of \
             its own (store.prefix)",
            found.cluster
        ));
    }
    if found.moves < known.moves {
        return Err(format!(
            "the record in etcd is from before move {}: was etcd restored from a backup, or is it another one? Nothing is decided \
             until a person has looked (docs/configuration.md, \"When etcd was restored\")",
            known.moves
        ));
    }
    if found.revision < known.revision {
        return Err(format!(
            "the record in etcd has gone back from revision {} to {}: was etcd restored from a backup? Nothing is decided \
             until a person has looked (docs/configuration.md, \"When etcd was restored\")",
            known.revision, found.revision
        ));
    }
    if found.revision == known.revision && found != *known {
        return Err(format!(
            "the record in etcd is not the one that this node knows, though both have revision {}: was etcd restored from a \
             backup? Nothing is decided until a person has looked (docs/configuration.md, \"When etcd was restored\")",
            found.revision
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn claim(node: &str, run: &str) -> Claim {
        Claim { node: node.parse().unwrap(), run: run.into() }
    }

    fn held(by: Option<(&str, &str, u64)>, revision: u64) -> Snapshot {
        let holder = by.map(|(node, run, term)| Holder { claim: Some(claim(node, run)), term });
        Snapshot { revision, holder, state: Found::Absent }
    }

    fn sight() -> Sight {
        Sight::new(claim("n1", "r1"))
    }

    fn state(revision: u64) -> State {
        State { cluster: "c".into(), revision, ..State::default() }
    }

    fn recorded(revision: u64, at: u64) -> Snapshot {
        let value = serde_json::to_vec(&state(revision)).unwrap();
        Snapshot { state: Found::Changed(at, value), ..held(None, at) }
    }

    /// The age counts from when the request was SENT, and only of requests that found this run of this agent leading.
    #[test]
    fn a_round_is_as_old_as_its_request() {
        let (mut sight, empty) = (sight(), State::default());
        sight.see("c", &empty, held(Some(("n1", "r0", 5)), 5), (100, 110));
        assert_eq!((sight.leads(), sight.round_age(150)), (None, None), "an earlier run of this agent");
        sight.see("c", &empty, held(Some(("n1", "r1", 6)), 6), (200, 290));
        assert_eq!((sight.leads(), sight.round_age(300)), (Some(6), Some(100)));
        sight.miss();
        assert_eq!(sight.round_age(900), Some(700), "it goes on to lead and its round gets older");
        sight.see("c", &empty, held(Some(("n1", "r1", 6)), 6), (800, 910));
        assert_eq!(sight.round_age(920), Some(120));
        sight.see("c", &empty, held(Some(("n2", "r9", 7)), 7), (930, 940));
        assert_eq!((sight.leads(), sight.round_age(950)), (None, None));
    }

    /// An answer that comes late must not make a deposed leader lead again, nor its round younger.
    #[test]
    fn an_overtaken_answer_says_nothing() {
        let (mut sight, empty) = (sight(), State::default());
        sight.see("c", &empty, held(Some(("n1", "r1", 6)), 6), (100, 110));
        sight.see("c", &empty, held(Some(("n2", "r2", 8)), 8), (120, 130));
        assert_eq!(sight.see("c", &empty, held(Some(("n1", "r1", 6)), 7), (125, 140)), Taken::Nothing);
        assert_eq!(sight.leads(), None);
    }

    /// Led, lost it, leads again: the rounds of the term before do not count in this one.
    #[test]
    fn rounds_belong_to_their_term() {
        let (mut sight, empty) = (sight(), State::default());
        sight.see("c", &empty, held(Some(("n1", "r1", 6)), 6), (500, 510));
        // A slow request of before, answered after the agent had won again.
        sight.see("c", &empty, held(Some(("n1", "r1", 9)), 9), (400, 600));
        assert_eq!(sight.round_age(600), Some(200));
    }

    #[test]
    fn the_record_only_goes_forward() {
        let mut sight = sight();
        let at3 = |s: &mut Sight, known: u64, found| s.see("c", &state(known), found, (1, 2));
        assert!(matches!(at3(&mut sight, 0, recorded(3, 10)), Taken::State(s) if s.revision == 3));
        assert_eq!(sight.state_at(), 10);
        assert!(matches!(at3(&mut sight, 3, recorded(2, 11)), Taken::Nothing));
        assert!(sight.refused().unwrap().contains("gone back from revision 3 to 2"));
        assert_eq!(sight.state_at(), 10, "it is looked at again, and again refused");
        let mut other = recorded(3, 12);
        other.state = Found::Changed(12, serde_json::to_vec(&State { epoch: 7, ..state(3) }).unwrap());
        at3(&mut sight, 3, other);
        assert!(sight.refused().unwrap().contains("is not the one"));
        at3(&mut sight, 3, held(None, 13));
        assert!(sight.refused().unwrap().contains("is gone"));
        at3(&mut sight, 3, recorded(4, 14));
        assert_eq!(sight.refused(), None);
        let foreign = State { cluster: "d".into(), ..state(5) };
        let value = Found::Changed(15, serde_json::to_vec(&foreign).unwrap());
        at3(&mut sight, 4, Snapshot { state: value, ..held(None, 15) });
        assert!(sight.refused().unwrap().contains("of cluster \"d\""));
    }

    /// Who may not take the state over does not lead, whatever the key says.
    #[test]
    fn a_leader_needs_the_record() {
        let mut sight = sight();
        sight.see("c", &state(3), held(Some(("n1", "r1", 6)), 6), (1, 2));
        assert!(sight.is_mine());
        assert_eq!((sight.leads(), sight.round_age(5)), (None, None));
    }

    /// What was asked after the answer with a later revision had come must have that revision, or etcd has lost it.
    #[test]
    fn a_restored_etcd_is_noticed() {
        let (mut sight, empty) = (sight(), State::default());
        sight.see("c", &empty, held(Some(("n1", "r1", 6)), 60), (100, 110));
        assert_eq!(sight.see("c", &empty, held(Some(("n1", "r1", 6)), 50), (120, 130)), Taken::LookAgain);
        assert_eq!(sight.leads(), None);
        sight.see("c", &empty, held(Some(("n1", "r1", 6)), 50), (140, 150));
        assert_eq!(sight.leads(), Some(6));
    }
}
