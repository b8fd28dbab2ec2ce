//! How often each rule of `cluster` fired: a rule that never does is one that the simulator says nothing about.

use cluster::membership::Tale as Coming;
use cluster::reason::Reason;
use cluster::restart::Tale;
use cluster::step::{Step, Wait};
use cluster::word::Word;
use std::collections::BTreeMap;

/// Counts by the name of the rule.
pub type Counts = BTreeMap<&'static str, u64>;

/// One function that names a variant and one list of all names, from one list: a new variant does not compile before
/// it is here.
macro_rules! names {
    ($type:ident, $name:ident, $all:ident, [$($variant:ident),+ $(,)?]) => {
        fn $name(value: &$type) -> &'static str {
            match value { $($type::$variant { .. } => concat!(stringify!($type), "::", stringify!($variant)),)+ }
        }

        const $all: &[&str] = &[$(concat!(stringify!($type), "::", stringify!($variant)),)+];
    };
}

names!(
    Reason,
    reason,
    REASONS,
    [
        Formed,
        Initialise,
        ServerGone,
        ServerHung,
        NotPrimaryAnyMore,
        Silent,
        LeaseOver,
        EpochOpened,
        Sealed,
        Chosen,
        Appointed,
        Published,
        SyncSetChanging,
        SyncSetChanged,
        Rejoined,
        WaitNodes,
        RefuseInitialise,
        WaitInitialise,
        NotConfirmed,
        StreamAdvances,
        WaitSeals,
        WaitLease,
        WaitLoss,
        WaitPromotion,
        SyncShort,
        SyncReduced,
        LossBound,
        Steady,
        SwitchoverPlanned,
        SwitchoverCancelled,
        SwitchoverBegun,
        SwitchoverGoesOn,
        SwitchoverRefused,
        Paused,
        Word,
        Resumed,
        SwitchoverWaits,
        Configured,
        Restart,
        Membership,
        StoreMoved,
    ]
);
names!(
    Step,
    step,
    STEPS,
    [
        Wait,
        Initialise,
        Clone,
        StartSealed,
        StartPrimary,
        Seal,
        Follow,
        Rewind,
        Promote,
        SetSync,
        Fence,
        Checkpoint,
        StopInOrder,
        Configure,
        Restart,
        RestartPrimary
    ]
);
names!(
    Wait,
    wait,
    WAITS,
    [
        Looking,
        NotRecorded,
        StateIsOld,
        Witness,
        NoDatabase,
        ForeignData,
        Starting,
        NoAnswer,
        Sealed,
        NoLease,
        Primary,
        Following,
        ServerGone,
        NotAsAppointed,
        Maintained,
        Removed,
        Promotion,
    ]
);
names!(Word, word, WORDS, [Forced, GivenUp, LeasedAgain, WaitLeased, MaintenanceBegun, MaintenanceEnded]);
names!(Tale, tale, TALES, [Begun, Goes, Back, Ended, GivenUp, Cancelled, Waits]);
names!(
    Coming,
    coming,
    COMINGS,
    [Admitted, Leaves, Kept, Removed, Waits, Invited, Uninvited, Redeemed, UserAdded, UserRemoved, Knocked]
);

/// A leader gave this reason.
pub(super) fn count_reason(counts: &mut Counts, value: &Reason) {
    let name = match value {
        Reason::Word { word: what } => word(what),
        Reason::Restart { tale: what } => tale(what),
        Reason::Membership { tale: what } => coming(what),
        other => reason(other),
    };
    *counts.entry(name).or_default() += 1;
}

/// An agent was told to do this.
pub(super) fn count_step(counts: &mut Counts, value: &Step) {
    let name = if let Step::Wait(why) = value { wait(why) } else { step(value) };
    *counts.entry(name).or_default() += 1;
}

/// Rules that are not in `counts`.
#[must_use]
pub fn never(counts: &Counts) -> Vec<&'static str> {
    let all = REASONS.iter().chain(STEPS).chain(WAITS).chain(WORDS).chain(TALES).chain(COMINGS);
    let parts = ["Step::Wait", "Reason::Word", "Reason::Restart", "Reason::Membership"];
    all.filter(|name| !parts.contains(*name) && !counts.contains_key(*name)).copied().collect()
}
