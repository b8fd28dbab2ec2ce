//! For whom a certificate is: a cluster, a role in it and a name, written as one URI among its alternative names,
//! `pgkeel://shop/agent/n1`. Pure.

use std::fmt;
use std::str::FromStr;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

const SCHEME: &str = "pgkeel://";

/// Longest name of a cluster or of a holder, in bytes: that of a node.
const NAME_BYTES_MAX: usize = 63;

/// What the holder of a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A person or a program that may look.
    Viewer,
    /// A person or a program that may look, and give orders: switchover, pause, clone, ...
    Operator,
    /// A person who may do everything that a person can.
    Admin,
    /// A proxy.
    Proxy,
    /// A node's agent.
    Agent,
}

/// What somebody asks to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To look at what the cluster does.
    See,
    /// To look at what others had it do, and who was refused.
    Review,
    /// To learn what the database's users log in with: verifiers of their passwords.
    Verify,
    /// To have it do something.
    Operate,
    /// To take part in its decisions, as one node's agent does.
    TakePart,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Role; 5] = [Role::Viewer, Role::Operator, Role::Admin, Role::Proxy, Role::Agent];

    /// Whether the role goes with the right.
    #[must_use]
    pub fn may(self, right: Right) -> bool {
        match right {
            Right::See => true,
            Right::Review | Right::Operate => matches!(self, Role::Operator | Role::Admin | Role::Agent),
            Right::Verify => matches!(self, Role::Proxy | Role::Agent),
            Right::TakePart => self == Role::Agent,
        }
    }

    /// As certificates and people write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
            Role::Proxy => "proxy",
            Role::Agent => "agent",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        let words = || Role::ALL.map(Role::word).join(", ");
        let found = Role::ALL.into_iter().find(|role| role.word() == text);
        found.ok_or_else(|| format!("{text:?} is no role; the roles are {}", words()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

impl Right {
    /// What it is, after "may not".
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Right::See => "look at the cluster",
            Right::Review => "look at the audit list or at the users",
            Right::Verify => "look up what users of the database log in with",
            Right::Operate => "give orders",
            Right::TakePart => "take part as an agent",
        }
    }
}

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Name of the cluster.
    pub cluster: String,
    /// What its holder is.
    pub role: Role,
    /// Its name: the node's, the proxy's host, the person's.
    pub name: String,
}

impl Subject {
    /// Checks the two names: letters, digits, `_`, `-`, `.` and `@`, 63 bytes at most.
    ///
    /// # Errors
    /// What is wrong with them, for people.
    pub fn new(cluster: &str, role: Role, name: &str) -> Result<Subject, String> {
        for text in [cluster, name] {
            if !is_name(text) {
                return Err(format!(
                    "{text:?} is not a name; use 1 to {NAME_BYTES_MAX} letters, digits, '_', '-', '.' or '@'"
                ));
            }
        }
        Ok(Subject { cluster: cluster.to_owned(), role, name: name.to_owned() })
    }

    /// As it stands in a certificate.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}/{}/{}", self.cluster, self.role, self.name)
    }

    /// Reads [`Subject::uri`].
    #[must_use]
    pub fn of_uri(uri: &str) -> Option<Subject> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let (cluster, role, name) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        Subject::new(cluster, role.parse().ok()?, name).ok()
    }

    /// Whom a certificate names; `None` unless it names one subject of ours and one only. Says nothing of who has signed it.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Option<Subject> {
        let certificate = Certificate::from_der(der).ok()?;
        let (_, names) = certificate.tbs_certificate.get::<SubjectAltName>().ok()??;
        let mut uris = names.0.iter().filter_map(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
            _ => None,
        });
        let (uri, None) = (uris.next()?, uris.next()) else { return None };
        Subject::of_uri(uri)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} of {}", self.role, self.name, self.cluster)
    }
}

fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@');
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_reads_back_and_others_do_not() {
        let n1 = Subject::new("shop", Role::Agent, "n1").unwrap();
        assert_eq!(n1.uri(), "pgkeel://shop/agent/n1");
        assert_eq!(Subject::of_uri(&n1.uri()), Some(n1));
        for wrong in [
            "",
            "pgkeel://shop/agent",
            "pgkeel://shop/agent/n1/",
            "pgkeel://shop/agent/n1/n2",
            "pgkeel://shop/boss/n1",
            "pgkeel:///agent/n1",
            "pgkeel://shop/agent/",
            "spiffe://shop/agent/n1",
            "pgkeel://shop/agent/n 1",
        ] {
            assert_eq!(Subject::of_uri(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_name_cannot_hold_another_subject() {
        assert!(Subject::new("shop", Role::Viewer, "a/agent/n1").is_err());
        assert!(Subject::new("shop/agent", Role::Viewer, "n1").is_err());
        assert!(Subject::new("shop", Role::Viewer, "").is_err());
        assert!(Subject::new("shop", Role::Viewer, &"x".repeat(64)).is_err());
        assert!(Subject::new("shop", Role::Viewer, "alice@example.org").is_ok());
    }

    #[test]
    fn rights_grow_with_roles_and_only_agents_take_part() {
        let may = |right| Role::ALL.into_iter().filter(|role| role.may(right)).collect::<Vec<_>>();
        assert_eq!(may(Right::See), Role::ALL);
        assert_eq!(may(Right::Operate), [Role::Operator, Role::Admin, Role::Agent]);
        assert_eq!(may(Right::Review), may(Right::Operate));
        assert_eq!(may(Right::TakePart), [Role::Agent]);
    }
}
