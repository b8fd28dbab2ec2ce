//! `pgkeel cert`: the certificates by which the processes of a cluster, and people, know each other.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use identity::certificate::{self, span};
use identity::files::{Problem, certificates};
use identity::{Authority, Folder, Role, Subject, credentials::Loaded, renew};
use serde::Serialize;

use super::cert_args::{CertCommand, CertRole, IssueArgs};
use super::text::{columns, local_times, say};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Does what was asked.
#[must_use]
pub fn run(command: &CertCommand) -> ExitCode {
    let done = match command {
        CertCommand::Init { cluster, dir } => init(cluster, &Folder::at(dir)),
        CertCommand::Issue(args) => issue(args),
        CertCommand::Show { dir, json } => show(&Folder::at(dir), *json),
        CertCommand::Rotate { dir, days } => rotate(&Folder::at(dir), *days),
    };
    match done {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pgkeel cert: {error}");
            ExitCode::FAILURE
        }
    }
}

fn init(cluster: &str, folder: &Folder) -> Result<String, String> {
    Subject::new(cluster, Role::Agent, "n1")?;
    let pair = Authority::found(cluster).map_err(|error| error.to_string())?;
    folder.write_authority(&pair).map_err(|error| error.to_string())?;
    let dir = folder.dir().display();
    Ok(format!(
        "made the authority of {cluster} in {dir}\n\
         {} signs for anybody: keep it secret, and keep a copy\n\
         next, for this host and each other one: pgkeel cert issue agent NODE --dir {dir} --out DIR\n",
        folder.authority_key().display()
    ))
}

fn issue(args: &IssueArgs) -> Result<String, String> {
    let (from, to) = (Folder::at(&args.dir), Folder::at(&args.out));
    let authority = from.authority().map_err(|error| match from.has_authority_key() {
        true => error.to_string(),
        false => format!(
            "{} has no ca.key; run this where the authority is (--dir DIR), or make one: pgkeel cert init CLUSTER",
            args.dir.display()
        ),
    })?;
    let subject = Subject::new(&cluster_of(&from)?, role(args.role), &args.name)?;
    if to.certificate().exists() && subject_in(&to).is_some_and(|there| there != subject) {
        let there = to.certificate();
        return Err(format!("{} is for somebody else; name another directory by --out", there.display()));
    }
    let pair = authority.issue(&subject, DAY * args.days).map_err(|error| error.to_string())?;
    let wrong = |error: std::io::Error| error.to_string();
    let same_place = same(&from, &to);
    let mut joined = "";
    if !same_place {
        joined = trust(&from, &authority, &to)?;
        if args.with_authority {
            let key = std::fs::read_to_string(from.authority_key()).map_err(wrong)?;
            to.write_authority_key(&key).map_err(wrong)?;
        }
    }
    to.write_own(&pair).map_err(|error| error.to_string())?;
    let dir = to.dir().display();
    let next = match args.role {
        CertRole::Agent | CertRole::Proxy => {
            format!("its host needs it in the directory that its configuration names: [tls] dir = \"{dir}\"")
        }
        CertRole::Viewer | CertRole::Operator | CertRole::Admin => {
            format!("to use it: pgkeel status --agent HOST:PORT --tls {dir}")
        }
    };
    Ok(format!("{subject}: good for {} days, in {dir}\n{joined}{next}\n", args.days))
}

/// Sees to it that the authority is trusted in `to`. What is trusted there already stays: while one authority is exchanged for another,
/// both must be. Returns what is to be said of it.
fn trust(from: &Folder, authority: &Authority, to: &Folder) -> Result<&'static str, String> {
    let read = |folder: &Folder| {
        let file = folder.authorities();
        std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
    };
    let written = |text: &str| to.write_authorities(text).map_err(|error| error.to_string());
    if !to.authorities().exists() {
        written(&read(from)?)?;
        return Ok("");
    }
    let there = certificates("--out", &to.authorities()).map_err(|problem| problem.to_string())?;
    if there.iter().any(|der| authority.is(der)) {
        return Ok("");
    }
    let cluster = cluster_of(from)?;
    let other = there.iter().filter_map(|der| identity::authority::cluster_of(der)).find(|it| *it != cluster);
    if let Some(other) = other {
        return Err(format!(
            "{} holds the authority of another cluster, {other}; name another directory by --out",
            to.authorities().display()
        ));
    }
    written(&format!("{}\n{}", read(to)?.trim_end(), authority.certificate()))?;
    Ok("its ca.crt trusts this authority now beside those that it trusted before\n")
}

fn rotate(folder: &Folder, days: Option<u32>) -> Result<String, String> {
    let dir = folder.dir().display();
    let subject = subject_in(folder)
        .ok_or_else(|| format!("{dir} holds no certificate of a cluster; make one with pgkeel cert issue"))?;
    if !folder.has_authority_key() {
        return Err(format!(
            "{dir} has no ca.key, so nothing can be signed here; on a host that has it, run pgkeel cert issue {} {} \
             --out DIR, and copy own.crt and own.key here",
            subject.role, subject.name
        ));
    }
    let lifetime = days.map_or_else(|| lifetime_in(folder), |days| DAY * days);
    renew::renew(folder, &subject, lifetime).map_err(|error| error.to_string())?;
    let days = lifetime.as_secs() / DAY.as_secs();
    Ok(format!(
        "{subject}: a new key and certificate, good for {days} days; who runs with it takes it within seconds\n"
    ))
}

/// What `show` tells of one certificate.
#[derive(Debug, Serialize)]
struct Shown {
    file: String,
    /// "authority", or the role.
    role: String,
    name: Option<String>,
    cluster: Option<String>,
    /// The last moment at which it is good, in ms since 1970.
    good_until_ms: u64,
    days_left: i64,
    /// Whether who runs with it has it renewed by itself.
    renews_itself: bool,
}

fn show(folder: &Folder, json: bool) -> Result<String, String> {
    let wrong = |problem: Problem| problem.to_string();
    let mut all = Vec::new();
    for der in certificates("--dir", &folder.authorities()).map_err(wrong)? {
        all.push(shown(&folder.authorities(), &der, None)?);
    }
    let own = folder.certificate();
    if own.exists() {
        let chain = certificates("--dir", &own).map_err(wrong)?;
        if let Some(der) = chain.first() {
            all.push(shown(&own, der, Subject::of_certificate(der))?);
        }
    }
    if own.exists() {
        let doubt = match Loaded::read(folder) {
            Ok(loaded) => loaded.doubt(certificate::now(), &own).map(|doubt| doubt.to_string()),
            Err(trouble) => Some(trouble.to_string()),
        };
        if let Some(doubt) = doubt {
            eprintln!("pgkeel cert: {}", doubt.replace("tls.dir", "--dir"));
        }
    }
    if json {
        return serde_json::to_string(&all).map(|text| text + "\n").map_err(|error| error.to_string());
    }
    Ok(table(&all))
}

fn shown(path: &Path, der: &[u8], subject: Option<Subject>) -> Result<Shown, String> {
    let (_, until) = span(der).ok_or_else(|| format!("{} holds no X.509 certificate", path.display()))?;
    let left = until.as_secs().cast_signed() - certificate::now().as_secs().cast_signed();
    let renews_itself = subject.as_ref().is_some_and(|it| matches!(it.role, Role::Agent | Role::Proxy));
    let (role, name, cluster) = match subject {
        Some(Subject { cluster, role, name }) => (role.to_string(), Some(name), Some(cluster)),
        None => ("authority".to_owned(), None, None),
    };
    Ok(Shown {
        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        renews_itself,
        role,
        name,
        cluster,
        good_until_ms: u64::try_from(until.as_millis()).unwrap_or(u64::MAX),
        days_left: left.div_euclid(DAY.as_secs().cast_signed()),
    })
}

fn table(all: &[Shown]) -> String {
    let mut rows = vec![
        ["file", "role", "name", "cluster", "good until", "days", "renewed"].map(str::to_owned).to_vec(),
    ];
    let until: Vec<u64> = all.iter().map(|one| one.good_until_ms).collect();
    for (one, clock) in all.iter().zip(local_times(&until)) {
        let renewed = match (one.role.as_str(), one.renews_itself) {
            ("authority", _) => "",
            (_, true) => "by itself",
            (_, false) => "by hand",
        };
        rows.push(vec![
            one.file.clone(),
            one.role.clone(),
            one.name.clone().unwrap_or_default(),
            one.cluster.clone().unwrap_or_default(),
            clock.date,
            one.days_left.to_string(),
            renewed.to_owned(),
        ]);
    }
    columns(&rows).join("\n") + "\n"
}

fn role(role: CertRole) -> Role {
    match role {
        CertRole::Agent => Role::Agent,
        CertRole::Proxy => Role::Proxy,
        CertRole::Viewer => Role::Viewer,
        CertRole::Operator => Role::Operator,
        CertRole::Admin => Role::Admin,
    }
}

fn same(one: &Folder, other: &Folder) -> bool {
    let whole = |folder: &Folder| folder.dir().canonicalize().ok();
    whole(one).is_some() && whole(one) == whole(other)
}

fn subject_in(folder: &Folder) -> Option<Subject> {
    let chain = certificates("--dir", &folder.certificate()).ok()?;
    Subject::of_certificate(chain.first()?)
}

/// For how long the certificate there was made.
fn lifetime_in(folder: &Folder) -> Duration {
    let chain = certificates("--dir", &folder.certificate()).unwrap_or_default();
    let lifetime = chain.first().and_then(|der| certificate::lifetime(der));
    lifetime.unwrap_or(identity::authority::GOOD_DEFAULT)
}

/// Whose authority it is.
fn cluster_of(folder: &Folder) -> Result<String, String> {
    let chain = certificates("--dir", &folder.authorities()).map_err(|problem| problem.to_string())?;
    chain
        .first()
        .and_then(|der| identity::authority::cluster_of(der))
        .ok_or_else(|| format!("{} was not made by pgkeel cert init", folder.authorities().display()))
}
