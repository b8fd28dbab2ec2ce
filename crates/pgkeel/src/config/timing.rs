//! How commits reach the standbys, how quickly a loss is noticed, and what closes the port then: `[replication]`,
//! `[timing]`, `[fence]`.

use std::time::Duration;

use agent::settings::{Replication, SecondLine};
use cluster::state::Degrade;

use super::members::{Members, Record};
use super::report::Report;
use super::section::Section;
use super::units;

const DETECT_DEFAULT: Duration = Duration::from_millis(1_500);
/// An election of etcd's own leader takes 1 to 2 s, during which no lease is renewed.
const DETECT_WITH_ETCD_DEFAULT: Duration = Duration::from_secs(3);
const DETECT_WITH_ETCD_ADVISED: Duration = Duration::from_millis(2_500);
const DETECT_MIN: Duration = Duration::from_millis(300);
const DETECT_MAX: Duration = Duration::from_secs(60);
const DRIFT_PPM_DEFAULT: u32 = 20_000;
const DRIFT_PPM_MAX: u32 = 200_000;
const MAX_LOSS_BYTES_DEFAULT: u64 = 1 << 20;
const SYNC_STANDBYS_DEFAULT: u32 = 1;

/// The one timer, and how far clocks are trusted.
pub(super) struct Timing {
    pub(super) detect: Duration,
    pub(super) drift_ppm: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Async,
    Quorum,
}

/// `None` goes with a reported error.
pub(super) fn read_replication(
    root: &Section<'_>,
    report: &mut Report<'_>,
    members: Option<&Members>,
) -> Option<Replication> {
    let section = root.open_or_empty(report, "replication")?;
    section.refuse_unknown(report, &["mode", "sync_standbys", "degrade", "max_loss", "loss_bound"]);
    let mode = section.parsed_or(report, "mode", Mode::Async, mode)?;
    let (needless, why) = match mode {
        Mode::Async => (
            ["sync_standbys", "degrade"],
            "only mode = \"quorum\" waits for standbys; set that mode or remove this key",
        ),
        Mode::Quorum => (
            ["max_loss", "loss_bound"],
            "mode = \"quorum\" loses nothing that was acknowledged; remove this key",
        ),
    };
    if let Some(needless) = needless.into_iter().find(|key| section.has(key)) {
        report.error(section.line_of(report, needless), &section.path(needless), why.to_owned());
        return None;
    }
    match mode {
        Mode::Async => read_async(&section, report),
        Mode::Quorum => read_quorum(&section, report, members),
    }
}

fn read_async(section: &Section<'_>, report: &mut Report<'_>) -> Option<Replication> {
    let max_loss_bytes = section.parsed_or(report, "max_loss", MAX_LOSS_BYTES_DEFAULT, units::size)?;
    if !section.has("loss_bound") {
        return Some(Replication::Async { max_loss_bytes, loss_bound_bytes: None });
    }
    let bound = section.parsed_or(report, "loss_bound", 0, units::size)?;
    let problem = if bound == 0 {
        "must be more than 0: for commits that always wait for a standby use mode = \"quorum\"".to_owned()
    } else if bound > max_loss_bytes {
        format!(
            "must not be greater than max_loss ({max_loss_bytes} bytes): a standby that lacks more than max_loss is not \
             promoted without a person's word; lower loss_bound or raise max_loss"
        )
    } else {
        return Some(Replication::Async { max_loss_bytes, loss_bound_bytes: Some(bound) });
    };
    report.error(section.line_of(report, "loss_bound"), &section.path("loss_bound"), problem);
    None
}

fn read_quorum(
    section: &Section<'_>,
    report: &mut Report<'_>,
    members: Option<&Members>,
) -> Option<Replication> {
    let sync_standbys = section.integer_or(report, "sync_standbys", SYNC_STANDBYS_DEFAULT, 1..=100)?;
    let degrade = section.parsed_or(report, "degrade", Degrade::Strict, degrade)?;
    let Some(members) = members else { return Some(Replication::Quorum { sync_standbys, degrade }) };
    let standbys = members.names.len().saturating_sub(1);
    let wanted = sync_standbys as usize;
    if wanted > standbys && standbys == 0 && degrade == Degrade::Available {
        report.warning(
            "replication: one node: commits are on its disk alone until another node has joined (pgkeel invite)",
        );
    } else if wanted > standbys {
        let key = if section.has("sync_standbys") { "sync_standbys" } else { "mode" };
        let problem = format!(
            "{} must confirm every commit, but a cluster of {} can have at most {standbys} standbys; add members, or {}",
            count(wanted, "standby"),
            count(members.names.len(), "member"),
            if standbys == 0 { "use mode = \"async\"" } else { "lower sync_standbys" }
        );
        report.error(section.line_of(report, key), &section.path(key), problem);
        return None;
    }
    if wanted == standbys && degrade == Degrade::Strict {
        report.warning(format!(
            "replication: all {standbys} possible standbys must confirm every commit, so losing any one of them stops \
             commits; add a member, or lower sync_standbys"
        ));
    }
    Some(Replication::Quorum { sync_standbys, degrade })
}

/// `[fence]`: what ends a primary's service besides the guard.
pub(super) fn read_fence(root: &Section<'_>, report: &mut Report<'_>) -> SecondLine {
    let Some(section) = root.open_or_empty(report, "fence") else { return SecondLine::None };
    section.refuse_unknown(report, &["nftables"]);
    if root.has("fence") && !root.has("postgres") {
        let problem = "this host has no PostgreSQL server to fence; remove [fence]";
        report.error(root.line_of(report, "fence"), "fence", problem.to_owned());
    }
    if section.flag(report, "nftables") { SecondLine::Nftables } else { SecondLine::None }
}

/// `None` goes with a reported error.
pub(super) fn read_timing(root: &Section<'_>, report: &mut Report<'_>, record: Record) -> Option<Timing> {
    let section = root.open_or_empty(report, "timing")?;
    section.refuse_unknown(report, &["detect", "drift"]);
    let default = match record {
        Record::Members => DETECT_DEFAULT,
        Record::Elsewhere => DETECT_WITH_ETCD_DEFAULT,
    };
    let detect = section.parsed_or(report, "detect", default, detect);
    let drift_ppm = section.parsed_or(report, "drift", DRIFT_PPM_DEFAULT, drift);
    let (detect, drift_ppm) = (detect?, drift_ppm?);
    if record == Record::Elsewhere && detect < DETECT_WITH_ETCD_ADVISED {
        report.warning(format!(
            "timing: with detect = \"{}\" a lease lasts {}, and an election of etcd's own leader may take longer (2 s and more, \
             unless its --election-timeout was lowered): the primary would restart; leave detect out, or raise it to \"{}\"",
            humantime::format_duration(detect),
            humantime::format_duration(detect * 3 / 2),
            humantime::format_duration(DETECT_WITH_ETCD_DEFAULT)
        ));
    }
    Some(Timing { detect, drift_ppm })
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "async" => Ok(Mode::Async),
        "quorum" => Ok(Mode::Quorum),
        other => Err(format!("{other:?} is no mode; write \"async\" or \"quorum\"")),
    }
}

fn degrade(text: &str) -> Result<Degrade, String> {
    match text {
        "strict" => Ok(Degrade::Strict),
        "available" => Ok(Degrade::Available),
        other => Err(format!("{other:?} is no policy; write \"strict\" or \"available\"")),
    }
}

fn detect(text: &str) -> Result<Duration, String> {
    let given = units::duration(text)?;
    if (DETECT_MIN..=DETECT_MAX).contains(&given) {
        Ok(given)
    } else {
        Err(format!("{text:?} is out of range; from \"300ms\" (below it, busy hosts look dead) to \"60s\""))
    }
}

fn drift(text: &str) -> Result<u32, String> {
    let ppm = units::share_ppm(text)?;
    if ppm <= DRIFT_PPM_MAX {
        Ok(ppm)
    } else {
        Err(format!("{text:?} is out of range; from \"0%\" to \"20%\""))
    }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
