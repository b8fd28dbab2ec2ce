//! Rules broken on purpose, to test the simulator: each must be caught by an invariant (`make mutants`).
//!
//! Only the feature `mutants` can switch one on, and nothing but `testkit` asks for that feature. Without it
//! [`is`] is constantly false, and the compiler drops what it guards.

macro_rules! mutants {
    ($($name:ident: $what:literal,)+) => {
        /// A rule that can be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $(#[doc = $what] $name,)+
        }

        #[cfg(feature = "mutants")]
        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$name,)+];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Mutant::$name => stringify!($name),)+ }
            }

            /// Which rule it breaks.
            #[must_use]
            pub fn breaks(self) -> &'static str {
                match self { $(Mutant::$name => $what,)+ }
            }
        }
    };
}

mutants! {
    RemovedFromSet: "a node that leaves is struck out while a sync set in force names it",
    LeavingChosen: "a node that leaves is chosen, and confirms commits, like any other",
    RemovedSeals: "quorum: the seals of nodes that were struck out count",
    EditOverwrites: "a configuration that was made from an older version is recorded",
    RestartUnleased: "a primary that restarts in place starts whether or not its lease still runs",
    LeaseNotWaited: "asynchronous: appoint without waiting for the old lease to end",
    DriftIgnored: "a lease counts as over without the allowance for drifting clocks",
    SilenceReturnsLease: "a silent primary counts as one that returned its lease",
    HungReturnsLease: "a hung primary counts as one that returned its lease",
    IsolatedLeaderRenews: "a leader without a quorum goes on giving leases",
    OwnLeasesForgotten: "a leader forgets until when it gave leases",
    EarlierLeasesIgnored: "a new leader does not wait for leases that earlier leaders gave",
    MaxLossIgnored: "asynchronous: any loss is allowed",
    LastWordForgotten: "asynchronous: what the last primary itself reported does not count",
    AppointedForgotten: "asynchronous: what the last appointed node was sealed with does not count",
    SealsNotCounted: "quorum: the best sealed node is appointed, however few are sealed",
    OneSealTooFew: "quorum: n - k seals are enough",
    JointRuleDropped: "quorum: only the newest sync set must be covered",
    IneligibleCounts: "quorum: seals of data that may not be chosen count",
    UnsealedCounts: "any standby counts as sealed where it was last heard",
    OldSealCounts: "a seal for an earlier epoch counts",
    UnpublishedIneligible: "an appointed node that was not published must descend from the last published one",
    CandidateByName: "the first name is chosen, not the most advanced",
    CandidateIgnoresLine: "positions are compared without regard to the line",
    SettledSkipped: "a line counts as soon as it is noted, before its WAL is there",
    AlwaysPrefix: "any data counts as a prefix of the primary's",
    AlwaysEligible: "any data may become the cluster's",
    StreamVetoDropped: "WAL that still arrives does not stop a failover",
    OneConfirms: "one node that cannot hear the primary is enough for a failover",
    PromoteWithoutLease: "a node promotes without a lease",
    PromiseForgotten: "a node that sealed acts on an older state",
    FollowUnchecked: "a node follows an appointed one without comparing their data",
    CloneUnpublished: "a node gives its data up for that of a primary that is not published",
    ForeignDataUsed: "data of another database system is treated as the cluster's",
    NeverFenced: "a primary of an older epoch is left running",
    OldCommandAccepted: "a command that was decided for another epoch is applied, a second hand-over too",
    SecondAppointment: "two nodes can be appointed for one epoch",
    OldSetsDropped: "an appointment replaces the sync sets instead of joining them",
    UnpublishedForgotten: "an appointed node that was not published does not count as the last primary",
    NextSetUnobeyed: "the sync set changes again before PostgreSQL obeys the last change",
    DropSetUnobeyed: "the old sync set is dropped before PostgreSQL obeys the new one",
    DropSetNotCaughtUp: "the old sync set is dropped before the new one has caught up",
    OpenSetCovered: "quorum: commits that waited for nobody count as covered by any standby",
    OpenSetDroppedEarly: "a set under which commits did not wait is dropped before the standbys have caught up",
    ReducedSetUnrecorded: "the primary stops waiting for standbys before a reduced set is recorded",
    CheckpointerNotAwaited: "commits count as waiting again before PostgreSQL's checkpointer has seen to it",
    LateReportAccepted: "a report that a later one has overtaken is believed",
    LateSetBelieved: "a report of a sync set counts though that set was recorded anew after it",
    OldWordBelieved: "what a node said of its server before it knew of its appointment is believed",
    InitialiseOverData: "a new database is made though a node has data",
    ForcedLeaseNotWaited: "a forced failover does not wait for the old lease to end",
    StaleWordTaken: "a person's acceptance counts for a loss that was not shown",
    UnleasedForgotten: "a resumed cluster counts on the lease of a primary that has none",
    LeasePromiseForgotten: "an agent takes its lease off again for a pause that has ended",
    CopiedCounts: "quorum: a seal of data that was copied and has not caught up since counts",
    PromotedTwice: "a node promotes once more for an appointment for which it was promoted",
    StartTakenForStopped: "a node says that its server has ended while it starts it",
    LeaseWithoutGuard: "a node takes a lease, and promotes, while no guard holds the lease's end",
    PromotionForgotten: "a server that was told to promote counts as a standby like others in a later epoch",
    SealBeforeReplayed: "a seal is read while a server that just started still replays its WAL",
}

#[cfg(feature = "mutants")]
thread_local! {
    static PRESENT: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks this rule, and no other, in everything that this thread does from now on.
#[cfg(feature = "mutants")]
pub fn set(mutant: Option<Mutant>) {
    PRESENT.set(mutant);
}

/// Whether this rule is broken.
#[cfg(feature = "mutants")]
#[must_use]
pub fn is(mutant: Mutant) -> bool {
    PRESENT.get() == Some(mutant)
}

/// Whether this rule is broken: never.
#[cfg(not(feature = "mutants"))]
#[must_use]
pub const fn is(_: Mutant) -> bool {
    false
}
