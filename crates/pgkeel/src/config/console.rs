//! Who may use the console of this host's proxy: keys of `[proxy]`.

use proxy::ConsoleSettings;

use super::pool::{name, read_lookup};
use super::report::Report;
use super::section::{OneAlone, Section};

/// The keys that are read here.
pub(super) const KEYS: [&str; 2] = ["console_users", "console_viewers"];

/// Whether somebody is to use it, as far as that can be seen without reading further.
pub(super) fn is_wanted(section: &Section<'_>) -> bool {
    KEYS.iter().any(|key| section.has(key))
}

/// `in_session_mode` is whether the proxy has no pools, and so no role that looks up verifiers for them.
pub(super) fn read(
    section: &Section<'_>,
    report: &mut Report<'_>,
    in_session_mode: bool,
) -> Option<ConsoleSettings> {
    let [users, viewers] = KEYS.map(|key| roles(section, report, key));
    let (users, viewers) = (users?, viewers?);
    let is_used = !users.is_empty() || !viewers.is_empty();
    let lookup = match in_session_mode && is_used {
        true => Some(read_lookup(section, report, "a role that reads the verifiers of console_users")?),
        false => None,
    };
    Some(ConsoleSettings { users, viewers, lookup })
}

fn roles(section: &Section<'_>, report: &mut Report<'_>, key: &str) -> Option<Vec<String>> {
    if !section.has(key) {
        return Some(Vec::new());
    }
    let list = section.list(report, key, OneAlone::Allowed, name)?;
    list.into_iter().map(|found| Some(found?.value)).collect()
}
