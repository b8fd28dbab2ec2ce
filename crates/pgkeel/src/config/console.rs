//! Who may use the console of this host's proxy: keys of `[proxy]`.

use proxy::ConsoleSettings;

use super::pool::{name, read_verifiers};
use super::report::Report;
use super::section::{OneAlone, Section};

/// The keys that are read here.
pub(super) const KEYS: [&str; 2] = ["console_users", "console_viewers"];

/// Whether somebody is to use it, as far as that can be seen without reading further.
pub(super) fn is_wanted(section: &Section<'_>) -> bool {
    KEYS.iter().any(|key| section.has(key))
}

/// `in_session_mode` is whether the proxy has no pools, and so nobody yet who tells verifiers.
pub(super) fn read(
    section: &Section<'_>,
    report: &mut Report<'_>,
    in_session_mode: bool,
) -> Option<ConsoleSettings> {
    let [users, viewers] = KEYS.map(|key| roles(section, report, key));
    let (users, viewers) = (users?, viewers?);
    let is_used = !users.is_empty() || !viewers.is_empty();
    let verifiers = match in_session_mode && is_used {
        true => Some(read_verifiers(section, report)?),
        false => None,
    };
    Some(ConsoleSettings { users, viewers, verifiers })
}

/// A list of names.
pub(super) fn roles(section: &Section<'_>, report: &mut Report<'_>, key: &str) -> Option<Vec<String>> {
    if !section.has(key) {
        return Some(Vec::new());
    }
    let list = section.list(report, key, OneAlone::Allowed, name)?;
    list.into_iter().map(|found| Some(found?.value)).collect()
}
