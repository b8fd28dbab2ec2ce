//! Where the cluster's record is kept: `[store]`. Without it, in the agents themselves.

use std::path::PathBuf;

use agent::http::tls::TlsFiles;
use agent::store::{Endpoint, EtcdOptions, EtcdUser, StoreKind};

use super::members::absolute_path;
use super::report::Report;
use super::section::{OneAlone, Section};
use super::units;

/// Enough for any name; keys of etcd should be short.
const PREFIX_BYTES_MAX: usize = 200;

/// `None` goes with a reported error.
pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>, cluster: Option<&str>) -> Option<StoreKind> {
    if !root.has("store") {
        return Some(StoreKind::Embedded);
    }
    let section = root.open(report, "store")?;
    section.refuse_unknown(report, &["etcd", "prefix", "ca", "cert", "key", "user", "password_file"]);
    if !root.has("node") {
        let problem = "this host has no agent that would use it: add [node], or remove [store]";
        report.error(section.line, "store", problem.to_owned());
    }
    section.require(report, "etcd", "[\"http://10.0.0.1:2379\"], the client addresses of etcd's members");
    let endpoints = read_endpoints(&section, report);
    let prefix = match cluster {
        Some(name) => section.parsed_or(report, "prefix", format!("/pgkeel/{name}/"), prefix),
        None => section.parsed(report, "prefix", prefix).map(|found| found.value),
    };
    let tls = read_tls(&section, report, endpoints.as_deref());
    let user = read_user(&section, report);
    let (endpoints, prefix, tls, user) = (endpoints?, prefix?, tls?, user?);
    if user.is_some() && endpoints.iter().any(|endpoint| !endpoint.secure) {
        report.warning("store: the password goes to etcd in clear text, because an endpoint begins with http://; use https://");
    }
    Some(StoreKind::Etcd(EtcdOptions { endpoints, prefix, tls, user }))
}

fn read_endpoints(section: &Section<'_>, report: &mut Report<'_>) -> Option<Vec<Endpoint>> {
    let given = section.list(report, "etcd", OneAlone::Allowed, endpoint)?;
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let all = given.len();
    for found in given.into_iter().flatten() {
        if endpoints.iter().any(|other| other.address == found.value.address) {
            let problem = format!("{:?} is given twice; name every member of etcd once", found.value.address);
            report.error(found.line, &section.path("etcd"), problem);
        }
        endpoints.push(found.value);
    }
    if all == 0 {
        let problem = "is empty; name the client addresses of etcd's members: [\"http://10.0.0.1:2379\"]";
        report.error(section.line_of(report, "etcd"), &section.path("etcd"), problem.to_owned());
    }
    (!endpoints.is_empty() && endpoints.len() == all).then_some(endpoints)
}

/// The inner `None`: no endpoint is asked with TLS.
fn read_tls(
    section: &Section<'_>,
    report: &mut Report<'_>,
    endpoints: Option<&[Endpoint]>,
) -> Option<Option<TlsFiles>> {
    let ca = section.parsed_or(report, "ca", None, file);
    let cert = section.parsed_or(report, "cert", None, file);
    let key = section.parsed_or(report, "key", None, file);
    let secure = endpoints?.iter().any(|endpoint| endpoint.secure);
    if !secure {
        let needless: Vec<&str> = ["ca", "cert", "key"].into_iter().filter(|key| section.has(key)).collect();
        for key in &needless {
            let problem =
                "is for endpoints that begin with https://, and there is none; write https:// in store.etcd";
            report.error(section.line_of(report, key), &section.path(key), problem.to_owned());
        }
        return needless.is_empty().then_some(None);
    }
    section.require(
        report,
        "ca",
        "\"/etc/pgkeel/etcd-ca.crt\", which signs the certificates of etcd's members",
    );
    let own = match (cert?, key?) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            section.require(report, "key", "\"/etc/pgkeel/etcd-client.key\", the key of store.cert");
            return None;
        }
        (None, Some(_)) => {
            section.require(report, "cert", "\"/etc/pgkeel/etcd-client.crt\", whose key store.key is");
            return None;
        }
    };
    Some(Some(TlsFiles { ca: ca??, own }))
}

/// The inner `None`: etcd asks nobody who they are.
fn read_user(section: &Section<'_>, report: &mut Report<'_>) -> Option<Option<EtcdUser>> {
    let user = section.parsed_or(report, "user", None, |text| match text {
        "" => Err("is empty; name a user of etcd, or remove it".to_owned()),
        name => Ok(Some(name.to_owned())),
    });
    let password_file = section.parsed_or(report, "password_file", None, file);
    match (user?, password_file?) {
        (Some(name), Some(password_file)) => Some(Some(EtcdUser { name, password_file })),
        (None, None) => Some(None),
        (Some(_), None) => {
            section.require(
                report,
                "password_file",
                "\"/etc/pgkeel/etcd-password\", readable by the agent's user alone",
            );
            None
        }
        (None, Some(_)) => {
            section.require(report, "user", "\"pgkeel\", whose password is in store.password_file");
            None
        }
    }
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let example = "write for example \"http://10.0.0.1:2379\"";
    let (secure, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => {
            return Err(format!("{text:?} begins neither with http:// nor with https://; {example}"));
        }
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('/') {
        return Err(format!("{text:?} has a path; keys are put below store.prefix; {example}"));
    }
    if !rest.contains(':') {
        return Err(format!("{text:?} has no port; {example}"));
    }
    let address = units::address(rest)?;
    Ok(Endpoint { address: address.text(), secure })
}

/// What every key begins with.
pub(crate) fn prefix(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    let framed = text.len() > 1 && text.starts_with('/') && text.ends_with('/');
    if plain && framed && text.len() <= PREFIX_BYTES_MAX {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is no prefix; it begins and ends with a slash and has at most {PREFIX_BYTES_MAX} letters without blanks, for \
             example \"/pgkeel/shop/\""
        ))
    }
}

/// The address of a member of etcd, as it is written.
pub(crate) fn endpoint_url(text: &str) -> Result<String, String> {
    endpoint(text).map(|found| format!("{}://{}", if found.secure { "https" } else { "http" }, found.address))
}

/// A file that means the same on every host.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    absolute_path(text)
}

fn file(text: &str) -> Result<Option<PathBuf>, String> {
    absolute_path(text).map(Some)
}

/// What the summary says of it.
pub(crate) fn line(store: &StoreKind) -> Option<String> {
    matches!(store, StoreKind::Etcd(_)).then(|| format!("the record is {store}"))
}
