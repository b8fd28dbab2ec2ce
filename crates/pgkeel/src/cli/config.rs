//! `pgkeel config check FILE`: is this file right for this host, and what would it run?

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use agent::hooks::Hook;
use agent::settings::{Replication, SecondLine, Settings, check_host};
use cluster::state::Degrade;

use crate::config::{self, Config, LoadError};

/// What `check` has to say: text for each stream, and how to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// For standard output.
    pub out: String,
    /// For standard error.
    pub err: String,
    /// 0: right; 1: wrong, in the file or on this host; 2: the file cannot be read.
    pub exit_code: u8,
}

/// Checks the file and this host, prints what was found. Ends with 0 (right), 1 (wrong) or 2 (unreadable).
#[must_use]
pub fn check(path: &Path) -> ExitCode {
    let verdict = judge(path);
    print!("{}", verdict.out);
    eprint!("{}", verdict.err);
    ExitCode::from(verdict.exit_code)
}

/// The same without printing.
#[must_use]
pub fn judge(path: &Path) -> Verdict {
    let config = match config::load(path) {
        Ok(config) => config,
        Err(error) => {
            let exit_code = match error {
                LoadError::Unreadable { .. } => 2,
                LoadError::Invalid(_) => 1,
            };
            return Verdict { out: String::new(), err: format!("{error}\n"), exit_code };
        }
    };
    let mut problems = config.agent.as_ref().map(check_host).unwrap_or_default();
    problems.extend(config.proxy.iter().flat_map(proxy::check_files));
    problems.extend(certificate_trouble(&config));
    if !problems.is_empty() {
        let err = problems.iter().map(|problem| format!("{}: {problem}\n", path.display())).collect();
        return Verdict { out: String::new(), err, exit_code: 1 };
    }
    let out = format!("{}: ok\n{}{}", path.display(), summary(&config), moved(&config));
    Verdict { out, err: String::new(), exit_code: 0 }
}

/// What the node remembers of where the record is, where the file says something else.
fn moved(config: &Config) -> String {
    let Some(agent) = &config.agent else { return String::new() };
    match agent::store::moving::recall(&agent.dir.join("store")) {
        Ok(opening) => {
            let differs = opening.and_then(|opening| opening.differs(&agent.store));
            differs.map_or_else(String::new, |differs| format!("  warning: {differs}\n"))
        }
        // It may not be for whoever checks to read.
        Err(_) => String::new(),
    }
}

/// A certificate of the wrong time is one too, though a process would start with it.
fn certificate_trouble(config: &Config) -> Option<String> {
    match config.credentials(config::Shower::Host) {
        Ok(credentials) => credentials?.doubt().map(|doubt| doubt.to_string()),
        Err(trouble) => Some(trouble.to_string()),
    }
}

/// What the file would run, one line each, warnings last.
#[must_use]
pub fn summary(config: &Config) -> String {
    let mut lines = vec![format!("cluster {}", config.cluster)];
    lines.extend(config.tls.iter().map(config::ClusterTls::line));
    if let Some(agent) = &config.agent {
        lines.extend(agent_lines(agent));
    }
    if let Some(proxy) = &config.proxy {
        let mut listen: Vec<String> = proxy.listen.iter().map(ToString::to_string).collect();
        listen.extend(proxy.unix_listen.as_ref().map(|unix| unix.dir.display().to_string()));
        let servers: Vec<&str> = proxy.servers.iter().map(|server| server.node.as_str()).collect();
        let asks = match servers.as_slice() {
            [] => format!("asks {}", proxy.agents.join(", ")),
            [one] => format!("in front of {one}"),
            several => format!("finds the primary among {}", several.join(", ")),
        };
        lines.push(format!(
            "proxy on {}, {asks}, holds statements for up to {}",
            listen.join(", "),
            humantime::format_duration(proxy.hold)
        ));
        lines.extend(config::proxy_servers::line(&proxy.server_sockets));
        if let Some(path) = &proxy.takeover {
            lines.push(format!(
                "a new proxy takes over by {}, clients may stay with this one for {}",
                path.display(),
                humantime::format_duration(proxy.drain)
            ));
        }
        lines.extend(config::tls_section::lines(proxy));
        let proxy::ConsoleSettings { users, viewers, .. } = &proxy.console;
        if !users.is_empty() || !viewers.is_empty() {
            let list =
                |names: &[String]| if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
            lines.push(format!("console for {}, to look for {}", list(users), list(viewers)));
        }
    }
    lines.extend(config.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "  {line}");
        text
    })
}

fn agent_lines(agent: &Settings) -> Vec<String> {
    let names: Vec<&str> = agent.members.keys().map(String::as_str).collect();
    let mut lines = vec![
        format!("node {} at {}, its own files in {}", agent.node, agent.listen, agent.dir.display()),
        match config::store_section::line(&agent.store) {
            None if agent.founded => format!("joined; at first it asks {}", names.join(", ")),
            None => format!("voters: {}", names.join(", ")),
            Some(elsewhere) => format!("members: {}; {elsewhere}", names.join(", ")),
        },
    ];
    match &agent.postgres {
        None => lines.push("witness: no PostgreSQL here, it only votes".to_owned()),
        Some(postgres) => lines.push(format!(
            "PostgreSQL at {}:{}, data in {}{}, programs in {}",
            postgres.host,
            postgres.port,
            postgres.data_dir.display(),
            if postgres.adopt { ", which are there and are taken over" } else { "" },
            postgres.bin_dir.display()
        )),
    }
    lines.push(match agent.replication {
        Replication::Async { max_loss_bytes, loss_bound_bytes } => {
            let lost = size_text(max_loss_bytes);
            let bound = loss_bound_bytes.map(|bound| {
                format!("; commits wait while no standby is within {} of the primary", size_text(bound))
            });
            format!(
                "asynchronous replication: a failover may lose up to {lost} of WAL{}",
                bound.unwrap_or_default()
            )
        }
        Replication::Quorum { sync_standbys, degrade } => {
            let standbys = if sync_standbys == 1 { "standby" } else { "standbys" };
            let degraded = match degrade {
                Degrade::Strict => "",
                Degrade::Available => "; with fewer, commits go on (degrade = available)",
            };
            format!("quorum replication: every commit is confirmed by {sync_standbys} {standbys}{degraded}")
        }
    });
    lines.push(format!(
        "a loss is noticed after {}, clocks may drift by {} %",
        humantime::format_duration(agent.detect),
        f64::from(agent.drift_ppm) / 10_000.0
    ));
    if let (SecondLine::Nftables, Some(postgres)) = (agent.second_line, &agent.postgres) {
        lines.push(format!("nftables closes port {} when the lease of a primary ends", postgres.port));
    }
    let hooks: Vec<&str> =
        Hook::ALL.into_iter().filter(|hook| agent.hooks.command(*hook).is_some()).map(Hook::key).collect();
    if !hooks.is_empty() {
        let limit = humantime::format_duration(agent.hooks.timeout);
        lines.push(format!("commands: {}, each for up to {limit}", hooks.join(", ")));
    }
    lines
}

/// The size in the largest unit that needs no fraction.
fn size_text(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}
