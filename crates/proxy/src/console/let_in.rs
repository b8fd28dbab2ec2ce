//! Who may use the console, and what a client is told when it is let in.
//!
//! The console is no less guarded than the databases: a password is checked by SCRAM as for any client. Where the proxy lets
//! anybody in (`auth = "trust"`), the console takes clients of this host only; where it cannot check (the session mode
//! without a role that looks up verifiers), nobody.

use super::keys;
use super::read::PARAMETERS;
use super::show_proxy::SERVER_VERSION;
use crate::error::Refusal;
use crate::pooled::{NotAdmitted, check_with, negotiate};
use crate::settings::{ClientAuth, ConsoleSettings};
use crate::source::Source;
use crate::stream::Stream;
use crate::worker::Worker;
use pgwire::message::put;
use pgwire::{CancelKey, StartupMessage};
use std::rc::Rc;
use tokio::time::timeout;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    All,
    /// Look.
    View,
}

/// How somebody has to show who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Scram,
    /// Nothing is asked, because anybody may be anybody here.
    Nothing,
}

fn refused(sqlstate: &'static str, why: impl Into<String>, hint: &str) -> Refusal {
    Refusal::NoConsole { sqlstate, why: why.into(), hint: hint.to_owned() }
}

/// Checks who it is and what it may do.
pub async fn check(
    stream: &mut Stream,
    message: &StartupMessage<'_>,
    worker: &Rc<Worker>,
) -> Result<Role, NotAdmitted> {
    let settings = &worker.shared.settings();
    let auth = settings.pool.as_ref().map(|pool| &pool.auth);
    let proof = proof(&settings.console, auth, stream.peer()?.source())?;
    let user = message.get("user").filter(|user| !user.is_empty()).ok_or(Refusal::NoUser)?;
    let mut greeting = Vec::new();
    negotiate(message, &mut greeting);
    stream.write_all(&greeting).await?;
    if proof == Proof::Scram {
        let checked = async {
            let verifier = keys::verifier(user, worker).await?;
            check_with(stream, user, verifier, worker).await
        };
        timeout(settings.startup_timeout, checked).await.map_err(|_| NotAdmitted::Gone)??;
    }
    // Only who has shown that it is that user is told what it may not do.
    Ok(role(&settings.console, user)?)
}

fn proof(console: &ConsoleSettings, auth: Option<&ClientAuth>, peer: Source) -> Result<Proof, Refusal> {
    if !console.is_on() {
        let why = "the database \"pgkeel\" is the proxy's own console, and it is off";
        let hint =
            "Name who may use it: `console_users` or `console_viewers` in `[proxy]` of its configuration.";
        return Err(refused("3D000", why, hint));
    }
    match auth {
        Some(ClientAuth::Scram(_) | ClientAuth::Md5(_) | ClientAuth::Rules(..)) => Ok(Proof::Scram),
        Some(ClientAuth::Trust) if peer.is_here() => Ok(Proof::Nothing),
        Some(ClientAuth::Trust) => {
            let why = "with auth = \"trust\" the console takes clients of the proxy's own host only";
            Err(refused("28000", why, "Connect to 127.0.0.1 there, or set auth = \"scram\" in `[proxy]`."))
        }
        None if console.verifiers.is_some() => Ok(Proof::Scram),
        None => {
            let why = "in the session mode the proxy cannot check who uses its console";
            let hint = "Set `lookup_user` in `[proxy]`: a role that may read the verifiers of passwords.";
            Err(refused("28000", why, hint))
        }
    }
}

fn role(console: &ConsoleSettings, user: &[u8]) -> Result<Role, Refusal> {
    let is_in = |list: &[String]| list.iter().any(|name| name.as_bytes() == user);
    if is_in(&console.users) {
        return Ok(Role::All);
    }
    if is_in(&console.viewers) {
        return Ok(Role::View);
    }
    let user = String::from_utf8_lossy(user);
    let hint = "Name the role in `console_users` or `console_viewers` in `[proxy]`.";
    Err(refused("28000", format!("role \"{user}\" may not use the console"), hint))
}

/// Tells a client what a server would.
pub fn greet(key: &CancelKey, out: &mut Vec<u8>) {
    put(b'R', &[&0_u32.to_be_bytes()], out);
    let version = ("server_version", SERVER_VERSION);
    for (name, value) in [version].iter().chain(&PARAMETERS) {
        let name = match *name {
            "datestyle" => "DateStyle",
            "timezone" => "TimeZone",
            name => name,
        };
        put(b'S', &[name.as_bytes(), b"\0", value.as_bytes(), b"\0"], out);
    }
    put(b'K', &[&key.to_bytes()], out);
    put(b'Z', &[b"I"], out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Lookup, Verifiers};

    fn lookup() -> Lookup {
        Lookup { user: "l".into(), password: None, database: "postgres".into() }
    }

    fn console() -> ConsoleSettings {
        ConsoleSettings { users: vec!["ann".into()], viewers: vec!["bob".into()], verifiers: None }
    }

    fn state(result: Result<Proof, Refusal>) -> String {
        match result {
            Ok(proof) => format!("{proof:?}"),
            Err(Refusal::NoConsole { sqlstate, .. }) => sqlstate.to_owned(),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn nobody_is_believed_without_proof_but_where_everybody_is() {
        let at = |text: &str| Source::Address(text.parse().unwrap());
        let (here, there) = (at("127.0.0.1"), at("10.0.0.1"));
        let mapped = at("::ffff:127.0.0.1");
        let scram = ClientAuth::Scram(Verifiers::Role(lookup()));
        for auth in [Some(&scram), Some(&ClientAuth::Trust), None] {
            assert_eq!(state(proof(&ConsoleSettings::default(), auth, here)), "3D000", "it is off");
        }
        assert_eq!(state(proof(&console(), Some(&scram), here)), "Scram");
        assert_eq!(state(proof(&console(), Some(&scram), there)), "Scram");
        assert_eq!(state(proof(&console(), Some(&ClientAuth::Trust), here)), "Nothing");
        assert_eq!(state(proof(&console(), Some(&ClientAuth::Trust), mapped)), "Nothing");
        assert_eq!(state(proof(&console(), Some(&ClientAuth::Trust), there)), "28000");
        assert_eq!(state(proof(&console(), None, here)), "28000", "not even from here");
        let can_check = ConsoleSettings { verifiers: Some(Verifiers::Role(lookup())), ..console() };
        assert_eq!(state(proof(&can_check, None, there)), "Scram");
    }

    #[test]
    fn who_is_named_may_do_what_it_is_named_for() {
        let both = ConsoleSettings { viewers: vec!["ann".into(), "bob".into()], ..console() };
        assert_eq!(role(&both, b"ann"), Ok(Role::All));
        assert_eq!(role(&both, b"bob"), Ok(Role::View));
        for other in [&b"eve"[..], b"", b"ANN", b"ann "] {
            assert!(matches!(role(&both, other), Err(Refusal::NoConsole { sqlstate: "28000", .. })));
        }
    }
}
