//! A person's commands: `[hooks]`.

use std::time::Duration;

use agent::hooks::{Hook, Hooks, TIMEOUT_DEFAULT, words};

use super::report::Report;
use super::section::Section;
use super::units;

const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// `None` goes with a reported error.
pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>) -> Option<Hooks> {
    let section = root.open_or_empty(report, "hooks")?;
    let known: Vec<&str> = Hook::ALL.into_iter().map(Hook::key).chain(["timeout"]).collect();
    section.refuse_unknown(report, &known);
    if root.has("hooks") && !root.has("node") {
        let problem = "this host has no agent that could run them: add [node], or remove [hooks]";
        report.error(root.line_of(report, "hooks"), "hooks", problem.to_owned());
    }
    let mut command = |hook: Hook| {
        let checked = |text: &str| words::check(text).map(|()| text.to_owned());
        section.parsed(report, hook.key(), checked).map(|found| found.value)
    };
    let hooks = Hooks {
        on_role_change: command(Hook::RoleChange),
        on_failover: command(Hook::Failover),
        on_node_down: command(Hook::NodeDown),
        on_node_up: command(Hook::NodeUp),
        timeout: section.parsed_or(report, "timeout", TIMEOUT_DEFAULT, timeout)?,
    };
    if root.has("hooks") && hooks.is_empty() && report.errors.is_empty() {
        report.warning("hooks: no command is given, so nothing is run");
    }
    Some(hooks)
}

fn timeout(text: &str) -> Result<Duration, String> {
    let given = units::duration(text)?;
    if (TIMEOUT_MIN..=TIMEOUT_MAX).contains(&given) {
        Ok(given)
    } else {
        Err(format!("{text:?} is out of range; from \"100ms\" to \"1h\""))
    }
}
