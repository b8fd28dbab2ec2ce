//! The proxy of this host: `[proxy]`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use agent::settings::PostgresSettings;
use proxy::UnixListen;

use super::console;
use super::members::{Members, absolute_path};
use super::pool;
use super::postgres::listens_on;
use super::proxy_servers;
use super::report::Report;
use super::section::{OneAlone, Section};
use super::tls_section;
use super::units::{self, Address};

const DRAIN_DEFAULT: Duration = Duration::from_secs(300);
const DRAIN_MAX: Duration = Duration::from_secs(24 * 3_600);
/// The kernel takes 107 bytes (manual page unix(7), `sun_path`).
const SOCKET_PATH_LEN_MAX: usize = 95;
const HOLD_DEFAULT: Duration = Duration::from_secs(30);
const HOLD_MAX: Duration = Duration::from_secs(3_600);

/// A server on the same network answers within milliseconds or is lost.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bounds what a client that sends nothing, or sends slowly, can hold.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Bounds memory and file descriptors.
const CLIENTS_MAX: usize = 10_000;

/// As PostgreSQL's `unix_socket_permissions`.
const SOCKET_MODE_DEFAULT: u32 = 0o777;

/// Each is asked for every cancel request that is not for a client of here.
const PEERS_MAX: usize = 32;

const KEYS: [&str; 10] = [
    "listen",
    "unix_socket_dir",
    "unix_socket_mode",
    "agents",
    "servers",
    "server_sockets",
    "peers",
    "hold",
    "takeover",
    "takeover_drain",
];

/// `None` when there is no `[proxy]`, or when a reported error leaves nothing to build from.
pub(super) fn read(
    root: &Section<'_>,
    report: &mut Report<'_>,
    cluster: Option<&str>,
    members: Option<&Members>,
) -> Option<proxy::Settings> {
    let section = root.open(report, "proxy")?;
    let known: Vec<&str> =
        KEYS.into_iter().chain(pool::KEYS).chain(console::KEYS).chain(tls_section::KEYS).collect();
    section.refuse_unknown(report, &known);
    let listen = read_listen(&section, report);
    let unix_listen = read_unix_listen(&section, report);
    let servers = proxy_servers::read_servers(root, &section, report);
    let server_sockets = proxy_servers::read_sockets(&section, report);
    let agents = match section.has("servers") {
        true => Some(Vec::new()),
        false => read_agents(&section, report, root.has("members"), members),
    };
    let peers = read_peers(&section, report);
    let hold = section.parsed_or(report, "hold", HOLD_DEFAULT, hold);
    let takeover = section.parsed_or(report, "takeover", None, |text| socket_path(text).map(Some));
    let drain = section.parsed_or(report, "takeover_drain", DRAIN_DEFAULT, drain);
    if section.has("takeover_drain") && !section.has("takeover") {
        let problem = "needs `takeover`".to_owned();
        report.error(section.line_of(report, "takeover_drain"), &section.path("takeover_drain"), problem);
    }
    let pool = pool::read(&section, report);
    let console = console::read(&section, report, matches!(pool, Some(None)));
    let tls = tls_section::read(&section, report);
    let (pool, console, tls) = (pool?, console?, tls?);
    let built = build(cluster?, listen?, agents?, hold?);
    let (servers, ask_as) = match servers? {
        servers if servers.len() > 1 => {
            let role = pool::asking_role(&section, report, pool.as_ref())?;
            (servers, Some(role))
        }
        servers => (servers, None),
    };
    let (tls, server_tls) = (tls.clients, tls.servers);
    let settings =
        proxy::Settings { pool, console, tls, server_tls, servers, ask_as, peers: peers?, ..built };
    let server_sockets = server_sockets?;
    let settings = proxy::Settings {
        server_sockets,
        unix_listen: unix_listen?,
        takeover: takeover?,
        drain: drain?,
        ..settings
    };
    refuse_unseen_certificates(&section, report, &settings);
    tls_section::refuse_two_channels(&section, report, &settings);
    Some(settings)
}

/// A proxy cannot listen where this host's server or agent does.
pub(super) fn refuse_taken_port(
    root: &Section<'_>,
    report: &mut Report<'_>,
    proxy: Option<&proxy::Settings>,
    postgres: Option<&PostgresSettings>,
    agent: Option<&Address>,
) {
    let (Some(proxy), Some(section)) = (proxy, root.open(report, "proxy")) else { return };
    let line = section.line_of(report, "listen");
    for listen in &proxy.listen {
        let any = listen.ip().is_unspecified();
        let taken_by_server = postgres.is_some_and(|postgres| {
            postgres.port == listen.port() && (any || listens_on(&postgres.listen_addresses, listen.ip()))
        });
        if taken_by_server {
            report.error(
                line,
                "proxy.listen",
                format!("{listen} is taken by this host's server, see postgres.port"),
            );
        }
        let same_host = |agent: &Address| agent.host.parse::<IpAddr>().is_ok_and(|ip| ip == listen.ip());
        if agent.is_some_and(|agent| agent.port == listen.port() && (any || same_host(agent))) {
            report.error(
                line,
                "proxy.listen",
                format!("{listen} is taken by this host's agent, see [members]"),
            );
        }
    }
}

fn read_listen(section: &Section<'_>, report: &mut Report<'_>) -> Option<Vec<SocketAddr>> {
    section.require(report, "listen", "\"0.0.0.0:6432\"");
    let listed = section.list(report, "listen", OneAlone::Allowed, socket_address)?;
    if listed.is_empty() {
        let problem = "has no address to listen on; write for example \"0.0.0.0:6432\"";
        report.error(section.line_of(report, "listen"), "proxy.listen", problem.to_owned());
    }
    let mut addresses = Vec::new();
    for found in listed.into_iter().flatten() {
        if addresses.contains(&found.value) {
            report.error(found.line, "proxy.listen", format!("{} is listed twice", found.value));
        }
        addresses.push(found.value);
    }
    Some(addresses)
}

/// The inner `None`: no Unix socket for clients.
fn read_unix_listen(section: &Section<'_>, report: &mut Report<'_>) -> Option<Option<UnixListen>> {
    let dir =
        section.parsed_or(report, "unix_socket_dir", None, |text| proxy_servers::socket_dir(text).map(Some));
    let mode = section.parsed_or(report, "unix_socket_mode", SOCKET_MODE_DEFAULT, permissions);
    if section.has("unix_socket_mode") && !section.has("unix_socket_dir") {
        let problem = "needs `unix_socket_dir`".to_owned();
        report.error(section.line_of(report, "unix_socket_mode"), &section.path("unix_socket_mode"), problem);
    }
    let mode = mode?;
    Some(dir?.map(|dir| UnixListen { dir, mode }))
}

/// Who comes by a Unix socket shows no certificate.
fn refuse_unseen_certificates(section: &Section<'_>, report: &mut Report<'_>, settings: &proxy::Settings) {
    let asks = settings.tls.as_ref().is_some_and(|tls| tls.mode == proxy::ClientTlsMode::Verify);
    if asks && settings.unix_listen.is_some() {
        let problem = "cannot go with mode = \"verify\" in [proxy.tls]: clients show no certificate there; leave one of the \
                       two out, or let the rules of hba_file ask for certificates";
        let line = section.line_of(report, "unix_socket_dir");
        report.error(line, &section.path("unix_socket_dir"), problem.to_owned());
    }
}

fn permissions(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix('0').filter(|digits| digits.len() == 3);
    let mode = digits.and_then(|digits| u32::from_str_radix(digits, 8).ok());
    mode.ok_or_else(|| format!("{text:?} is not a mode of files; write for example \"0777\" or \"0770\""))
}

fn read_agents(
    section: &Section<'_>,
    report: &mut Report<'_>,
    members_given: bool,
    members: Option<&Members>,
) -> Option<Vec<String>> {
    if section.has("agents") {
        let agents = section.list(report, "agents", OneAlone::Allowed, units::address)?;
        if agents.is_empty() {
            let problem = "is empty; name at least one agent, or remove it so that [members] is used";
            report.error(section.line_of(report, "agents"), "proxy.agents", problem.to_owned());
        }
        return Some(agents.into_iter().flatten().map(|found| found.value.text()).collect());
    }
    if !members_given {
        section.require(report, "agents", "[\"10.0.0.1:7400\"], or copy [members] from the other hosts");
    }
    members.map(Members::agents)
}

/// All proxies of the cluster; none if there is no such list.
fn read_peers(section: &Section<'_>, report: &mut Report<'_>) -> Option<Vec<String>> {
    if !section.has("peers") {
        return Some(Vec::new());
    }
    let listed = section.list(report, "peers", OneAlone::Allowed, units::address)?;
    if listed.len() > PEERS_MAX {
        let problem = format!("names {}; at most {PEERS_MAX}", listed.len());
        report.error(section.line_of(report, "peers"), "proxy.peers", problem);
    }
    Some(listed.into_iter().flatten().map(|found| found.value.text()).collect())
}

fn build(cluster: &str, listen: Vec<SocketAddr>, agents: Vec<String>, hold: Duration) -> proxy::Settings {
    proxy::Settings {
        cluster: cluster.to_owned(),
        listen,
        unix_listen: None,
        agents,
        hold,
        connect_timeout: CONNECT_TIMEOUT,
        startup_timeout: STARTUP_TIMEOUT,
        clients_max: CLIENTS_MAX,
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        pool: None,
        tls: None,
        server_tls: proxy::ServerTls::Disable,
        console: proxy::ConsoleSettings::default(),
        servers: Vec::new(),
        ask_as: None,
        server_sockets: BTreeMap::new(),
        peers: Vec::new(),
        takeover: None,
        drain: DRAIN_DEFAULT,
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => Err(format!(
            "{text:?} is not an IP address with a port; write for example \"0.0.0.0:6432\" or \"[::]:6432\""
        )),
    }
}

/// Room is left for the end of the name that it has until it is put in place (`proxy`'s `takeover.rs`).
fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = absolute_path(text)?;
    if path.as_os_str().len() <= SOCKET_PATH_LEN_MAX {
        return Ok(path);
    }
    Err(format!("{text:?} is too long for a Unix socket; at most {SOCKET_PATH_LEN_MAX} bytes"))
}

fn drain(text: &str) -> Result<Duration, String> {
    let given = units::duration(text)?;
    if given <= DRAIN_MAX { Ok(given) } else { Err(format!("{text:?} is out of range; at most \"24h\"")) }
}

fn hold(text: &str) -> Result<Duration, String> {
    let given = units::duration(text)?;
    if given <= HOLD_MAX { Ok(given) } else { Err(format!("{text:?} is out of range; at most \"1h\"")) }
}
