//! TLS of this host's proxy: `[proxy.tls]` towards clients, and the keys of `[proxy]` for servers.

use std::path::{Path, PathBuf};

use proxy::{ClientTls, ClientTlsMode, ServerTls};

use super::members::absolute_path;
use super::report::Report;
use super::section::Section;

/// The keys of `[proxy]` that are read here.
pub(super) const KEYS: [&str; 3] = ["tls", "server_tls", "server_ca"];

/// Both sides.
pub(super) struct Tls {
    pub(super) clients: Option<ClientTls>,
    pub(super) servers: ServerTls,
}

/// `None` goes with a reported error. `section` is `[proxy]`.
pub(super) fn read(section: &Section<'_>, report: &mut Report<'_>) -> Option<Tls> {
    let clients = match section.has("tls") {
        true => {
            // Rules ask some clients for a certificate, and others not.
            let has_rules = section.has("hba_file");
            read_clients(&section.open(report, "tls")?, has_rules, report)
        }
        false => Some(None),
    };
    let servers = read_servers(section, report);
    Some(Tls { clients: clients?, servers: servers? })
}

/// In the session mode the server checks its clients itself, through the proxy. With TLS on both sides, libpq binds its login
/// by SCRAM to the proxy's certificate, and a server whose certificate is another one refuses that.
pub(super) fn refuse_two_channels(section: &Section<'_>, report: &mut Report<'_>, proxy: &proxy::Settings) {
    if proxy.pool.is_none() && proxy.tls.is_some() && proxy.server_tls != ServerTls::Disable {
        let problem = "cannot go with [proxy.tls] in the session mode: clients bind their login to the proxy's certificate, \
                       which the server refuses; write pool_mode = \"pooled\", or leave one of the two out";
        report.error(section.line_of(report, "server_tls"), "proxy.server_tls", problem.to_owned());
    }
}

/// What clients are asked for, if they are offered TLS at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Offered(ClientTlsMode),
}

/// The inner `None` is `mode = "disable"`.
fn read_clients(
    section: &Section<'_>,
    has_rules: bool,
    report: &mut Report<'_>,
) -> Option<Option<ClientTls>> {
    section.refuse_unknown(report, &["mode", "cert", "key", "ca"]);
    let mode = section.parsed_or(report, "mode", Mode::Offered(ClientTlsMode::Allow), mode);
    let cert = section.parsed_or(report, "cert", None, file);
    let key = section.parsed_or(report, "key", None, file);
    let ca = section.parsed_or(report, "ca", None, file);
    let (mode, cert, key, ca) = (mode?, cert?, key?, ca?);
    let Mode::Offered(mode) = mode else { return Some(None) };
    section.require(report, "cert", "\"/etc/pgkeel/proxy.crt\"");
    section.require(report, "key", "\"/etc/pgkeel/proxy.key\", readable by the proxy's user alone");
    match (mode, &ca) {
        (ClientTlsMode::Verify, None) => {
            section.require(
                report,
                "ca",
                "\"/etc/pgkeel/clients-ca.crt\", which signs the clients' certificates",
            );
            return None;
        }
        (ClientTlsMode::Allow | ClientTlsMode::Require, Some(_)) if !has_rules => {
            let problem =
                "needs mode = \"verify\", or auth = \"hba\"; otherwise no client's certificate is looked at";
            report.error(section.line_of(report, "ca"), &section.path("ca"), problem.to_owned());
        }
        _ => {}
    }
    Some(Some(ClientTls { mode, cert: cert?, key: key?, ca }))
}

/// How servers are asked for TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

fn read_servers(section: &Section<'_>, report: &mut Report<'_>) -> Option<ServerTls> {
    let word = section.parsed_or(report, "server_tls", Word::Disable, word);
    let ca = section.parsed_or(report, "server_ca", None, file);
    let (word, ca) = (word?, ca?);
    match (word, ca) {
        (Word::VerifyCa, Some(ca)) => Some(ServerTls::VerifyCa(ca)),
        (Word::VerifyFull, Some(ca)) => Some(ServerTls::VerifyFull(ca)),
        (Word::VerifyCa | Word::VerifyFull, None) => {
            section.require(
                report,
                "server_ca",
                "\"/etc/pgkeel/servers-ca.crt\", which signs the servers' certificates",
            );
            None
        }
        (Word::Disable | Word::Prefer | Word::Require, Some(_)) => {
            let problem =
                "needs server_tls = \"verify-full\" or \"verify-ca\"; otherwise no certificate is checked";
            report.error(
                section.line_of(report, "server_ca"),
                &section.path("server_ca"),
                problem.to_owned(),
            );
            None
        }
        (Word::Disable, None) => Some(ServerTls::Disable),
        (Word::Prefer, None) => Some(ServerTls::Prefer),
        (Word::Require, None) => Some(ServerTls::Require),
    }
}

/// What the summary says of it, one line each.
pub(crate) fn lines(proxy: &proxy::Settings) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(tls) = &proxy.tls {
        let asked = match tls.mode {
            ClientTlsMode::Allow => "may use TLS",
            ClientTlsMode::Require => "must use TLS",
            ClientTlsMode::Verify => "must use TLS and show a certificate",
        };
        lines.push(format!("its clients {asked}, its own certificate is {}", tls.cert.display()));
    }
    let signed = |ca: &Path| format!("with a certificate that {} has signed", ca.display());
    let servers = match &proxy.server_tls {
        ServerTls::Disable => return lines,
        ServerTls::Prefer => "TLS to servers that have it, whatever their certificate".to_owned(),
        ServerTls::Require => "TLS to servers, whatever their certificate".to_owned(),
        ServerTls::VerifyCa(ca) => format!("TLS to servers {}, whatever its name", signed(ca)),
        ServerTls::VerifyFull(ca) => format!("TLS to servers {} for their host", signed(ca)),
    };
    lines.push(servers);
    lines
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "disable" => Ok(Mode::Disable),
        "allow" => Ok(Mode::Offered(ClientTlsMode::Allow)),
        "require" => Ok(Mode::Offered(ClientTlsMode::Require)),
        "verify" => Ok(Mode::Offered(ClientTlsMode::Verify)),
        _ => Err(format!("{text:?} is not a mode; write \"disable\", \"allow\", \"require\" or \"verify\"")),
    }
}

fn word(text: &str) -> Result<Word, String> {
    match text {
        "disable" => Ok(Word::Disable),
        "prefer" => Ok(Word::Prefer),
        "require" => Ok(Word::Require),
        "verify-ca" => Ok(Word::VerifyCa),
        "verify-full" => Ok(Word::VerifyFull),
        _ => Err(format!(
            "{text:?} is not a mode; write \"disable\", \"prefer\", \"require\", \"verify-ca\" or \"verify-full\""
        )),
    }
}

fn file(text: &str) -> Result<Option<PathBuf>, String> {
    absolute_path(text).map(Some)
}
