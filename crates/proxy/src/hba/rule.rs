//! One line of `pg_hba.conf` (<https://www.postgresql.org/docs/current/auth-pg-hba-conf.html>).

use super::Caller;
use super::network::Network;
use super::words::{Field, Word};
use crate::source::Source;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    encryption: Encryption,
    databases: Vec<Database>,
    users: Vec<User>,
    from: From,
    /// What follows if it fits.
    pub method: Method,
    /// Which certificate is asked for, whatever the method.
    pub certificate: Certificate,
    /// In which the names of users of this host are looked up.
    pub map: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum From {
    /// By a Unix socket.
    Here,
    Network(Network),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Either,
    Tls,
    None,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Database {
    All,
    SameUser,
    Replication,
    Named(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum User {
    All,
    Named(String),
}

/// How a client is dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By SCRAM-SHA-256.
    Scram,
    /// By SCRAM-SHA-256, or by MD5 where that is the kind of its password.
    Md5,
    /// It is believed.
    Trust,
    /// By who it is on this host.
    Peer,
    /// It is sent away.
    Reject,
}

/// Which certificate a client must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// None.
    NotAsked,
    /// One that a trusted authority has signed.
    Any,
    /// That, and it must be made out to the role, or to a name that stands for it.
    OfUser {
        /// In which names are looked up.
        map: Option<String>,
    },
}

impl Rule {
    /// Whether it decides about this client.
    pub fn fits(&self, caller: &Caller<'_>) -> bool {
        let encryption = match self.encryption {
            Encryption::Either => true,
            Encryption::Tls => caller.tls,
            Encryption::None => !caller.tls,
        };
        let database = |database: &Database| match database {
            Database::Replication => caller.replicates,
            _ if caller.replicates => false,
            Database::All => true,
            Database::SameUser => caller.database == caller.user,
            Database::Named(name) => name.as_bytes() == caller.database,
        };
        let user = |user: &User| match user {
            User::All => true,
            User::Named(name) => name.as_bytes() == caller.user,
        };
        let from = match (&self.from, caller.source) {
            (From::Here, Source::User { .. }) => true,
            (From::Network(network), Source::Address(address)) => network.has(address),
            (From::Here, Source::Address(_)) | (From::Network(_), Source::User { .. }) => false,
        };
        encryption && from && self.databases.iter().any(database) && self.users.iter().any(user)
    }
}

/// One line; `None` if it never fits here.
pub fn parse(fields: &[Field]) -> Result<Option<Rule>, String> {
    let first = one(&fields[0], "a type of connection")?;
    let encryption = match first.text.as_str() {
        "host" | "hostnogssenc" => Encryption::Either,
        "hostssl" => Encryption::Tls,
        "hostnossl" => Encryption::None,
        // No client comes so.
        "hostgssenc" => return Ok(None),
        "local" => return local(&fields[1..]).map(Some),
        other => {
            return Err(format!(
                "{other:?} is not a type of connection; local, host, hostssl or hostnossl are"
            ));
        }
    };
    let [databases, users, address, rest @ ..] = &fields[1..] else {
        return Err("ends too early; a line has type, database, user, address and method".to_owned());
    };
    let databases = databases.iter().map(database).collect::<Result<_, _>>()?;
    let users = users.iter().map(user).collect::<Result<_, _>>()?;
    let address = one(address, "an address")?;
    let (from, rest) = match rest {
        _ if address.is("all") => (Network::All, rest),
        _ if address.is("samehost") || address.is("samenet") => {
            return Err(format!(
                "{}: write the addresses; the proxy does not look for its own",
                address.text
            ));
        }
        [mask, rest @ ..]
            if !address.text.contains('/') && address.text.parse::<std::net::IpAddr>().is_ok() =>
        {
            (Network::masked(&address.text, &one(mask, "a mask")?.text)?, rest)
        }
        _ => (Network::parse(&address.text)?, rest),
    };
    let [method, options @ ..] = rest else { return Err("names no method".to_owned()) };
    let (method, certificate) = method_of(one(method, "a method")?, options, encryption)?;
    let from = From::Network(from);
    Ok(Some(Rule { encryption, databases, users, from, method, certificate, map: None }))
}

/// What follows `local`.
fn local(fields: &[Field]) -> Result<Rule, String> {
    let [databases, users, method, options @ ..] = fields else {
        return Err("ends too early; a line for local has type, database, user and method".to_owned());
    };
    let databases = databases.iter().map(database).collect::<Result<_, _>>()?;
    let users = users.iter().map(user).collect::<Result<_, _>>()?;
    let word = one(method, "a method")?;
    let (encryption, from) = (Encryption::Either, From::Here);
    if word.text != "peer" {
        let (method, certificate) = method_of(word, options, Encryption::None)?;
        return Ok(Rule { encryption, databases, users, from, method, certificate, map: None });
    }
    let map = match options {
        [] => None,
        [option] => {
            let option = &one(option, "an option")?.text;
            let map = option.strip_prefix("map=");
            Some(map.ok_or_else(|| format!("{option:?} is not an option of peer here"))?.to_owned())
        }
        [_, ..] => return Err("has more options than peer knows here: map alone".to_owned()),
    };
    let (method, certificate) = (Method::Peer, Certificate::NotAsked);
    Ok(Rule { encryption, databases, users, from, method, certificate, map })
}

fn database(word: &Word) -> Result<Database, String> {
    match word {
        word if word.is("all") => Ok(Database::All),
        word if word.is("sameuser") => Ok(Database::SameUser),
        word if word.is("replication") => Ok(Database::Replication),
        word if word.is("samerole") || word.is("samegroup") => {
            Err(format!("{}: the proxy does not know who is a member of which role; name them", word.text))
        }
        word => name(word).map(Database::Named),
    }
}

fn user(word: &Word) -> Result<User, String> {
    match word {
        word if word.is("all") => Ok(User::All),
        word if !word.is_quoted && word.text.starts_with('+') => {
            Err(format!("{}: the proxy does not know who is a member of which role; name them", word.text))
        }
        word => name(word).map(User::Named),
    }
}

fn name(word: &Word) -> Result<String, String> {
    match word.text.chars().next() {
        Some('@') if !word.is_quoted => Err(format!("{}: other files are not read here", word.text)),
        Some('/') if !word.is_quoted => Err(format!("{}: regular expressions are not known here", word.text)),
        _ => Ok(word.text.clone()),
    }
}

/// Method and options.
fn method_of(
    word: &Word,
    options: &[Field],
    encryption: Encryption,
) -> Result<(Method, Certificate), String> {
    let (method, mut certificate) = match word.text.as_str() {
        "scram-sha-256" => (Method::Scram, Certificate::NotAsked),
        "md5" => (Method::Md5, Certificate::NotAsked),
        "trust" => (Method::Trust, Certificate::NotAsked),
        "reject" => (Method::Reject, Certificate::NotAsked),
        "cert" => (Method::Trust, Certificate::OfUser { map: None }),
        "peer" => return Err("peer needs local: nobody says who is at the other end of a network".to_owned()),
        other => {
            return Err(format!(
                "{other:?} is not a method here; scram-sha-256, md5, cert, trust and reject are"
            ));
        }
    };
    let is_cert = word.text == "cert";
    if is_cert && encryption != Encryption::Tls {
        return Err("cert needs hostssl: without TLS there is no certificate".to_owned());
    }
    for option in options {
        let option = &one(option, "an option")?.text;
        match option.split_once('=') {
            Some(("clientcert", _)) if encryption != Encryption::Tls => {
                return Err("clientcert needs hostssl: without TLS there is no certificate".to_owned());
            }
            Some(("clientcert", "verify-ca")) if !is_cert => certificate = Certificate::Any,
            Some(("clientcert", "verify-full")) if !is_cert => {
                certificate = Certificate::OfUser { map: None };
            }
            Some(("clientcert", "verify-full")) => {}
            Some(("clientcert", other)) => {
                return Err(format!("clientcert={other} is not known with {}", word.text));
            }
            Some(("map", name)) if is_cert => {
                certificate = Certificate::OfUser { map: Some(name.to_owned()) }
            }
            _ => return Err(format!("{option:?} is not an option of {} here", word.text)),
        }
    }
    Ok((method, certificate))
}

fn one<'a>(field: &'a Field, what: &str) -> Result<&'a Word, String> {
    match field.as_slice() {
        [word] => Ok(word),
        _ => Err(format!("has a list where {what} belongs")),
    }
}
