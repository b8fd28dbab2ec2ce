//! TLS between the processes of the cluster: `[tls]`.

use std::net::IpAddr;
use std::path::PathBuf;

use identity::{Credentials, Folder, Plain, Role, Subject, Trouble};

use super::Config;
use super::members::{Members, absolute_path};
use super::report::Report;
use super::section::Section;
use super::units::Address;

/// Who is going to show the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shower {
    /// Whatever the file runs: its agent, if it has one.
    Host,
    /// Its proxy alone, in a process of its own. It may have a certificate of its own, or show the agent's.
    Proxy,
}

/// Where the certificates are when the section does not say.
pub const DIR_DEFAULT: &str = "/etc/pgkeel/tls";

/// What the section says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterTls {
    /// The directory with `ca.crt`, `own.crt` and `own.key`.
    pub dir: PathBuf,
    /// What becomes of those that do not speak TLS.
    pub plain: Plain,
}

/// The outer `None` goes with a reported error; the inner one: there is no such section.
pub(super) fn read(
    root: &Section<'_>,
    report: &mut Report<'_>,
    voters: Option<&Members>,
) -> Option<Option<ClusterTls>> {
    if !root.has("tls") {
        if root.has("node") && voters.is_some_and(|voters| voters.addresses.values().any(is_elsewhere)) {
            report.warning(
                "no [tls]: agents believe whoever reaches their port, and nothing between them is encrypted; `pgkeel cert` makes \
                 what it needs",
            );
        }
        return Some(None);
    }
    let section = root.open(report, "tls")?;
    section.refuse_unknown(report, &["dir", "mode"]);
    let dir = section.parsed_or(report, "dir", PathBuf::from(DIR_DEFAULT), absolute_path);
    let plain = section.parsed_or(report, "mode", Plain::Refused, mode);
    if plain == Some(Plain::Allowed) {
        report.warning(
            "tls.mode: \"allow\" lets in who does not speak TLS, with all rights; take it out once every host has gone over",
        );
    }
    Some(Some(ClusterTls { dir: dir?, plain: plain? }))
}

/// What stays on one host needs no protection from the network.
fn is_elsewhere(address: &Address) -> bool {
    address.host != "localhost" && !address.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn mode(text: &str) -> Result<Plain, String> {
    match text {
        "require" => Ok(Plain::Refused),
        "allow" => Ok(Plain::Allowed),
        _ => Err(format!(
            "{text:?} is not a mode; write \"require\", or \"allow\" while hosts go over to TLS one after the other"
        )),
    }
}

impl ClusterTls {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(&self) -> Result<Credentials, Trouble> {
        Credentials::load(Folder::at(&self.dir), self.plain)
    }

    /// What `config check` says of it.
    pub(crate) fn line(&self) -> String {
        let plain = match self.plain {
            Plain::Refused => "",
            Plain::Allowed => "; who does not speak it is let in as well",
        };
        format!("TLS between agents and proxies, with the certificates in {}{plain}", self.dir.display())
    }
}

impl Config {
    /// What this host shows others of the cluster, which must be made out to what is run; `None`: there is no `[tls]`.
    ///
    /// # Errors
    /// What is wrong with the files that `[tls]` names.
    pub fn credentials(&self, shower: Shower) -> Result<Option<Credentials>, Trouble> {
        let Some(tls) = &self.tls else { return Ok(None) };
        let credentials = tls.load()?;
        let agent = self.agent.as_ref().map(|agent| &agent.node);
        let fits = |subject: &Subject| {
            subject.cluster == self.cluster
                && match (agent, subject.role) {
                    (Some(node), Role::Agent) => subject.name == *node,
                    (None, Role::Agent) => true,
                    (agent, Role::Proxy) => agent.is_none() || shower == Shower::Proxy,
                    (_, Role::Viewer | Role::Operator | Role::Admin) => false,
                }
        };
        let wanted = match (agent, shower) {
            (Some(node), Shower::Host) => format!("agent {node} of {}", self.cluster),
            (Some(node), Shower::Proxy) => format!("a proxy or agent {node} of {}", self.cluster),
            (None, _) => format!("a proxy of {}", self.cluster),
        };
        credentials.must_be(fits, &wanted)?;
        Ok(Some(credentials))
    }
}
