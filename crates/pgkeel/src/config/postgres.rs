//! The PostgreSQL server of this host: `[postgres]`.

use std::net::IpAddr;
use std::path::PathBuf;

use agent::settings::PostgresSettings;
use agent::settings::managed::{hba_line, ident_line};

use super::managed;
use super::members::{Members, Node, Standing, absolute_path};
use super::report::Report;
use super::section::{OneAlone, Section};
use super::units::{self, Address};

const PORT_DEFAULT: u32 = 5432;
const KEYS: [&str; 11] = [
    "data_dir",
    "bin_dir",
    "port",
    "host",
    "listen_addresses",
    "os_user",
    "hba",
    "ident",
    "socket_dirs",
    "adopt",
    "settings",
];

/// `None` when there is no `[postgres]`, or when a reported error leaves nothing to build from.
pub(super) fn read(
    root: &Section<'_>,
    report: &mut Report<'_>,
    own: Option<&Address>,
    find_bin_dir: impl FnOnce() -> Result<PathBuf, String>,
) -> Option<PostgresSettings> {
    let section = root.open(report, "postgres")?;
    section.refuse_unknown(report, &KEYS);
    section.require(report, "data_dir", "\"/var/lib/postgresql/shop\"");
    let data_dir = section.parsed(report, "data_dir", absolute_path).map(|found| found.value);
    let bin_dir = if section.has("bin_dir") {
        section.parsed(report, "bin_dir", absolute_path)
    } else {
        report.keep(section.line, "postgres.bin_dir", find_bin_dir())
    };
    let port = section
        .integer_or(report, "port", PORT_DEFAULT, 1..=65_535)
        .and_then(|port| u16::try_from(port).ok());
    let host = match section.has("host") {
        true => section.parsed(report, "host", units::host).map(|found| found.value),
        false => own.map(|address| address.host.clone()),
    };
    let listen_addresses = match section.has("listen_addresses") {
        true => section.parsed(report, "listen_addresses", listen_addresses).map(|found| found.value),
        false => host.clone(),
    };
    let os_user = section.parsed(report, "os_user", os_user).map(|found| found.value);
    let hba = section
        .list(report, "hba", OneAlone::Refused, hba_line)
        .map(|lines| lines.into_iter().flatten().map(|found| found.value).collect());
    let ident = section.list(report, "ident", OneAlone::Refused, ident_line).unwrap_or_default();
    let socket_dirs = section.list(report, "socket_dirs", OneAlone::Allowed, socket_dir).unwrap_or_default();
    let settings = managed::read(&section, report);
    if let (Some(host), Some(listen)) = (&host, &listen_addresses) {
        warn_if_not_listening(report, host, listen);
    }
    Some(PostgresSettings {
        data_dir: data_dir?,
        bin_dir: bin_dir?.value,
        host: host?,
        port: port?,
        listen_addresses: listen_addresses?,
        os_user,
        hba,
        ident: ident.into_iter().flatten().map(|found| found.value).collect(),
        socket_dirs: socket_dirs.into_iter().flatten().map(|found| found.value).collect(),
        adopt: section.flag(report, "adopt"),
        settings,
    })
}

/// The agent's directory must outlive the data directory, and the two servers of one node need a port each.
pub(super) fn refuse_overlap(
    root: &Section<'_>,
    report: &mut Report<'_>,
    node: Option<&Node>,
    postgres: Option<&PostgresSettings>,
) {
    let (Some(node), Some(postgres), Some(section)) = (node, postgres, root.open(report, "postgres")) else {
        return;
    };
    if node.dir.starts_with(&postgres.data_dir) {
        let problem = format!(
            "node.dir = {:?} must not be inside the data directory, because that is replaced when a node is cloned; name \
             another directory",
            node.dir
        );
        report.error(section.line_of(report, "data_dir"), "postgres.data_dir", problem);
    }
    if node.address.as_ref().is_some_and(|own| own.port == postgres.port && own.host == postgres.host) {
        let problem =
            format!("{} is also the port of this node's agent in [members]; choose another", postgres.port);
        report.error(section.line_of(report, "port"), "postgres.port", problem);
    }
}

/// Only one node can bring the database of a new cluster.
pub(super) fn refuse_adoption(
    root: &Section<'_>,
    report: &mut Report<'_>,
    node: Option<&Node>,
    members: Option<&Members>,
    postgres: Option<&PostgresSettings>,
) {
    let adopts = postgres.is_some_and(|postgres| postgres.adopt);
    let is_new = node.is_some_and(|node| node.standing == Standing::New);
    if adopts && is_new && members.is_some_and(|members| members.names.len() > 1) {
        let problem = "a cluster is formed around a database by one node alone, and the others join; list only this node in \
                       [members], or remove it";
        let line = root.open(report, "postgres").map_or(0, |section| section.line_of(report, "adopt"));
        report.error(line, "postgres.adopt", problem.to_owned());
    }
}

/// Whether a server with these `listen_addresses` would hear what is sent to `ip`.
pub(super) fn listens_on(listen_addresses: &str, ip: IpAddr) -> bool {
    listen_addresses.split(',').map(str::trim).any(|entry| match entry.parse::<IpAddr>() {
        Ok(listed) => listed == ip || (listed.is_unspecified() && listed.is_ipv4() == ip.is_ipv4()),
        Err(_) => entry == "*" || (entry == "localhost" && ip.is_loopback()),
    })
}

fn warn_if_not_listening(report: &mut Report<'_>, host: &str, listen_addresses: &str) {
    // Names are for the resolver of each host; only addresses can be compared here.
    let Ok(ip) = host.parse::<IpAddr>() else { return };
    let only_addresses = listen_addresses.split(',').all(|entry| {
        let entry = entry.trim();
        entry == "*" || entry == "localhost" || entry.parse::<IpAddr>().is_ok()
    });
    if only_addresses && !listens_on(listen_addresses, ip) {
        report.warning(format!(
            "postgres.listen_addresses: {listen_addresses:?} leaves out {host}, to which the other nodes and the proxies \
             connect; add it, or set postgres.host"
        ));
    }
}

fn listen_addresses(text: &str) -> Result<String, String> {
    let entry_fits =
        |entry: &str| entry == "*" || entry == "0.0.0.0" || entry == "::" || units::host(entry).is_ok();
    if text.split(',').map(str::trim).all(entry_fits) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a list of addresses; write \"*\", or addresses separated by commas"))
    }
}

fn socket_dir(text: &str) -> Result<PathBuf, String> {
    match text.contains(',') {
        true => {
            Err(format!("{text:?} has a comma, which PostgreSQL takes for the end of a directory's name"))
        }
        false => absolute_path(text),
    }
}

fn os_user(text: &str) -> Result<String, String> {
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let fits = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if !begins_well || !fits || text.len() > 32 {
        return Err(format!("{text:?} is not the name of an operating-system user"));
    }
    if text == "root" {
        return Err("PostgreSQL refuses to run as root; name an unprivileged user".to_owned());
    }
    Ok(text.to_owned())
}
