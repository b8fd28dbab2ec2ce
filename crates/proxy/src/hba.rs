//! Rules that say who may come from where, and how they prove who they are: a file in the form of `pg_hba.conf`, and one in
//! the form of `pg_ident.conf` with the names that certificates stand for.
//!
//! Both are read as PostgreSQL reads its own (src/backend/libpq/hba.c): the first line that fits decides. What cannot be kept
//! here, such as `ldap` or a group of roles, is an error of the file, so that no rule means something else than at a server.

mod current;

mod words;

mod rule;

mod network;

mod names;

pub use current::{Hba, HbaProblem, keep_current};

use crate::error::Refusal;
use crate::source::Source;
use names::Names;
use rule::{Certificate, Method, Rule};
use std::fmt;

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By SCRAM-SHA-256.
    Scram,
    /// By SCRAM-SHA-256, or by MD5 where that is the kind of its password.
    Md5,
    /// It need not, or has done so by its certificate.
    Trust,
}

/// Who comes, as far as rules ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller<'a> {
    /// Where it comes from.
    pub source: Source,
    /// The name of the user of this host that it is, if it comes by a Unix socket and that is known.
    pub system_user: Option<&'a str>,
    /// Whether it uses TLS.
    pub tls: bool,
    /// As whom it wants to log in.
    pub user: &'a [u8],
    /// Where.
    pub database: &'a [u8],
    /// It wants the whole WAL and no database: the word `replication` means those.
    pub replicates: bool,
    /// The common name of its certificate, which an authority has signed; empty if it has none.
    pub common_name: Option<&'a str>,
}

/// Both files, read.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    names: Names,
}

impl Rules {
    /// Of the texts of both files. What is wrong is told with its line, which begins at 1.
    ///
    /// # Errors
    /// All wrong lines of the first file that has some.
    pub fn parse(hba: &str, ident: &str) -> Result<Rules, (File, Vec<(usize, String)>)> {
        let rules = words::lines(hba, rule::parse).map_err(|wrong| (File::Hba, wrong))?;
        let maps = words::lines(ident, names::parse).map_err(|wrong| (File::Ident, wrong))?;
        Ok(Rules { rules, names: Names::new(maps) })
    }

    /// Whether users of this host are to be known by name.
    pub fn ask_for_system_user(&self) -> bool {
        self.rules.iter().any(|rule| rule.method == Method::Peer)
    }

    /// Whether a client may come, and how it has to prove who it is.
    ///
    /// # Errors
    /// What it is told.
    pub fn decide(&self, caller: &Caller<'_>) -> Result<Way, Refusal> {
        let refused =
            |why| Refusal::NotAdmitted { why, who: caller.to_string(), user: caller.user().into_owned() };
        let rule =
            self.rules.iter().find(|rule| rule.fits(caller)).ok_or_else(|| refused(NoAdmission::NoRule))?;
        match (&rule.certificate, caller.common_name) {
            (Certificate::NotAsked, _) | (Certificate::Any, Some(_)) => {}
            (Certificate::Any | Certificate::OfUser { .. }, None) => {
                return Err(Refusal::NoClientCertificate);
            }
            (Certificate::OfUser { map }, Some(name)) => {
                if !self.names.stand_for(map.as_deref(), name, caller.user) {
                    return Err(refused(NoAdmission::OtherName));
                }
            }
        }
        match rule.method {
            Method::Scram => Ok(Way::Scram),
            Method::Md5 => Ok(Way::Md5),
            Method::Trust => Ok(Way::Trust),
            Method::Peer => match caller.system_user {
                Some(name) if self.names.stand_for(rule.map.as_deref(), name, caller.user) => Ok(Way::Trust),
                Some(_) | None => Err(refused(NoAdmission::OtherUser)),
            },
            Method::Reject => Err(refused(NoAdmission::Rejected)),
        }
    }
}

/// One of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// The rules.
    Hba,
    /// The names that certificates stand for.
    Ident,
}

/// Why a client is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAdmission {
    /// No line fits.
    NoRule,
    /// The line that fits says so.
    Rejected,
    /// It is another user of this host.
    OtherUser,
    /// Its certificate is made out to somebody else.
    OtherName,
}

impl Caller<'_> {
    fn user(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.user)
    }
}

impl fmt::Display for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user();
        let source = match self.source {
            Source::Address(address) => address.to_string(),
            Source::User { .. } => "[local]".to_owned(),
        };
        let encryption = if self.tls { "SSL encryption" } else { "no encryption" };
        match self.replicates {
            true => write!(f, "replication connection from host \"{source}\", user \"{user}\", {encryption}"),
            false => {
                let database = String::from_utf8_lossy(self.database);
                write!(f, "host \"{source}\", user \"{user}\", database \"{database}\", {encryption}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
