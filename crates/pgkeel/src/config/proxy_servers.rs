//! Which servers the proxy of this host reaches, and by which Unix sockets: keys of `[proxy]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent::settings::SecondLine;
use cluster::view::Server;

use super::members::{Node, absolute_path};
use super::report::Report;
use super::section::{OneAlone, Section};
use super::units;

/// The kernel takes 107 bytes (manual page unix(7), `sun_path`), of which `/.s.PGSQL.65535` needs some.
const DIR_LEN_MAX: usize = 92;

/// Servers that something else manages; none if there is no such list.
pub(super) fn read_servers(
    root: &Section<'_>,
    section: &Section<'_>,
    report: &mut Report<'_>,
) -> Option<Vec<Server>> {
    if !section.has("servers") {
        return Some(Vec::new());
    }
    let line = section.line_of(report, "servers");
    for (is_there, other) in [
        (section.has("agents"), "proxy.agents"),
        (root.has("node"), "[node]"),
        (root.has("members"), "[members]"),
    ] {
        if is_there {
            let problem = format!("is for servers that something else manages; remove it, or {other}");
            report.error(line, "proxy.servers", problem);
        }
    }
    let listed = section.list(report, "servers", OneAlone::Allowed, server)?;
    if listed.is_empty() {
        let problem = "is empty; name at least one server, for example \"10.0.0.1:5432\"".to_owned();
        report.error(line, "proxy.servers", problem);
    }
    Some(listed.into_iter().flatten().map(|found| found.value).collect())
}

/// `host:port`, or as libpq has it: a host that begins with a slash is the directory of a Unix socket.
fn server(text: &str) -> Result<Server, String> {
    if !text.starts_with('/') {
        let address = units::address(text)?;
        return Ok(Server { node: address.text(), host: address.host, port: address.port });
    }
    let wrong =
        || format!("{text:?} is no socket; write directory:port, for example \"/run/postgresql:5432\"");
    let (dir, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    socket_dir(dir)?;
    Ok(Server { node: text.to_owned(), host: dir.to_owned(), port })
}

/// The nodes that are reached by a Unix socket of this host, each with the socket's directory.
pub(super) fn read_sockets(
    section: &Section<'_>,
    report: &mut Report<'_>,
) -> Option<BTreeMap<String, PathBuf>> {
    if !section.has("server_sockets") {
        return Some(BTreeMap::new());
    }
    if section.has("servers") {
        let line = section.line_of(report, "server_sockets");
        let problem =
            "is for nodes of a cluster; write the directory in `servers`, as \"/run/postgresql:5432\"";
        report.error(line, "proxy.server_sockets", problem.to_owned());
    }
    let table = section.open(report, "server_sockets")?;
    let mut sockets = BTreeMap::new();
    for (node, _, _) in table.entries(report) {
        if let Some(found) = table.parsed(report, node, socket_dir) {
            sockets.insert(node.to_owned(), found.value);
        }
    }
    Some(sockets)
}

/// The kernel closes the server's port when a primary must not serve any more; a socket it cannot close.
pub(super) fn refuse_way_around_fence(
    root: &Section<'_>,
    report: &mut Report<'_>,
    proxy: Option<&proxy::Settings>,
    fenced: Option<(&Node, SecondLine)>,
) {
    let (Some(proxy), Some((node, SecondLine::Nftables))) = (proxy, fenced) else { return };
    let node = node.name.as_str();
    let Some(section) = root.open(report, "proxy") else { return };
    if proxy.server_sockets.contains_key(node) {
        let problem = format!(
            "leads around [fence]: nftables closes the port of {node}, not its socket; remove {node} here, or the fence"
        );
        report.error(section.line_of(report, "server_sockets"), "proxy.server_sockets", problem);
    }
}

/// A directory for Unix sockets.
pub(super) fn socket_dir(text: &str) -> Result<PathBuf, String> {
    let path = absolute_path(text)?;
    if path.as_os_str().len() <= DIR_LEN_MAX {
        return Ok(path);
    }
    Err(format!("{text:?} is too long for the directory of a Unix socket; at most {DIR_LEN_MAX} bytes"))
}

/// For `config check`: one line, if there is something to say.
pub(crate) fn line(sockets: &BTreeMap<String, PathBuf>) -> Option<String> {
    let one =
        |(node, dir): (&String, &PathBuf)| format!("{node} by its Unix socket in {}", Path::display(dir));
    let all: Vec<String> = sockets.iter().map(one).collect();
    (!all.is_empty()).then(|| format!("reaches {}", all.join(", ")))
}
