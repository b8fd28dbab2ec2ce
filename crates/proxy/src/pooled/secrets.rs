//! The verifiers of clients, as a server has them. Nothing is stored but in memory, and no password at all.

use super::agents;
use super::login::NotAdmitted;
use super::pools::{Lent, give_back, want};
use super::post::Told;
use crate::error::Refusal;
use crate::lend::Returned;
use crate::settings::{Lookup, Verifiers};
use crate::worker::Worker;
use pgwire::WholeMessages;
use pgwire::md5::Md5Verifier;
use pgwire::message::put;
use pgwire::scram::{KEY_LEN, Verifier};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long a verifier is believed: so long an old password does after it was changed, and many logins of one user cost one look.
const KEPT: Duration = Duration::from_secs(5);

/// Most users that are remembered.
const USERS_MAX: usize = 10_000;

/// How long one look may take.
const LOOKUP_MAX: Duration = Duration::from_secs(8);

/// Nothing here depends on the session's search_path.
/// Of who has no password, the kind that it would be given now is told.
const LOOKUP: &[u8] = b"SELECT COALESCE((SELECT a.rolpassword FROM pg_catalog.pg_authid a \
    WHERE a.rolname OPERATOR(pg_catalog.=) $1 AND a.rolcanlogin \
    AND (a.rolvaliduntil IS NULL OR a.rolvaliduntil OPERATOR(pg_catalog.>) pg_catalog.now())), \
    pg_catalog.current_setting('password_encryption'))";

/// What a server keeps of a password, by its kind.
#[derive(Clone, Debug)]
pub enum Stored {
    Scram(Verifier),
    Md5(Md5Verifier),
}

impl Stored {
    /// Reads rolpassword, or the kind of password that the server makes now; for who has none it is one that no
    /// password fits.
    fn read(text: Option<&str>, user: &[u8], mock: &[u8; KEY_LEN]) -> Stored {
        let text = text.unwrap_or_default();
        match (Verifier::parse(text), Md5Verifier::parse(text), text) {
            (Ok(verifier), _, _) => Stored::Scram(verifier),
            (Err(_), Some(verifier), _) => Stored::Md5(verifier),
            // Before PostgreSQL 14 it may be `on` (src/backend/utils/misc/guc.c, `password_encryption_options`).
            (Err(_), None, "md5" | "on") => Stored::Md5(Md5Verifier::mock(user, mock)),
            (Err(_), None, _) => Stored::Scram(Verifier::mock(user, mock)),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Secrets {
    known: HashMap<Box<[u8]>, (Stored, Instant)>,
}

impl Secrets {
    /// The next login of this user looks again.
    pub fn forget(&mut self, user: &[u8]) {
        self.known.remove(user);
    }

    fn get(&self, user: &[u8], now: Instant) -> Option<Stored> {
        let (stored, since) = self.known.get(user)?;
        (now.saturating_duration_since(*since) < KEPT).then(|| stored.clone())
    }

    fn keep(&mut self, user: &[u8], stored: Stored, now: Instant) {
        if self.known.len() >= USERS_MAX {
            self.known.clear();
        }
        self.known.insert(user.into(), (stored, now));
    }
}

/// The verifier of SCRAM of a user; one that no password fits, if there is none.
pub async fn find_verifier(user: &[u8], worker: &Rc<Worker>) -> Result<Verifier, NotAdmitted> {
    match find_stored(user, worker).await? {
        Stored::Scram(verifier) => Ok(verifier),
        Stored::Md5(_) => Ok(Verifier::mock(user, &worker.shared.mock)),
    }
}

/// What the servers keep of a user's password; something that no password fits, if there is none.
pub async fn find_stored(user: &[u8], worker: &Rc<Worker>) -> Result<Stored, NotAdmitted> {
    if let Some(stored) = worker.secrets.borrow().get(user, Instant::now()) {
        return Ok(stored);
    }
    // Many logins of one user cost one look, and many of others wait here, not at the server.
    let _turn = worker.lookups.acquire().await;
    if let Some(stored) = worker.secrets.borrow().get(user, Instant::now()) {
        return Ok(stored);
    }
    let settings = worker.shared.settings();
    let text = match settings.verifiers() {
        None => return Err(NotAdmitted::Gone),
        Some(Verifiers::Agents) => ask_agents(user, worker).await?,
        Some(Verifiers::Role(lookup)) => ask_server(lookup, user, worker).await?,
    };
    let mut secrets = worker.secrets.borrow_mut();
    let stored = Stored::read(text.as_deref(), user, &worker.shared.mock);
    secrets.keep(user, stored.clone(), Instant::now());
    Ok(stored)
}

async fn ask_agents(user: &[u8], worker: &Rc<Worker>) -> Result<Option<String>, NotAdmitted> {
    let asked = timeout(LOOKUP_MAX, agents::ask(user, worker)).await;
    asked.unwrap_or_else(|_| Err("no agent has answered".to_owned())).map_err(|why| {
        let trouble = format!("no agent tells with what users log in ({why}); nobody new can log in");
        worker.shared.log_trouble(trouble);
        let why = "no agent of the cluster could be asked for the verifier of the password".to_owned();
        Refusal::LoginUnchecked { why }.into()
    })
}

async fn ask_server(
    lookup: &Lookup,
    user: &[u8],
    worker: &Rc<Worker>,
) -> Result<Option<String>, NotAdmitted> {
    let mut borrowed = Borrowed { worker, lent: Some(lend(lookup, worker).await?) };
    let asked = timeout(LOOKUP_MAX, borrowed.ask(user)).await;
    let asked = asked.unwrap_or_else(|_| Err("no answer".to_owned()));
    if asked.is_ok() {
        borrowed.give_back_clean();
    }
    asked.map_err(|why| {
        let role = &lookup.user;
        worker
            .shared
            .log_trouble(format!("cannot look up the secret of a user as {role}: {why}; nobody can log in"));
        Refusal::LoginUnchecked { why: "the role that looks up secrets cannot do so".to_owned() }.into()
    })
}

/// A server that is given back whatever becomes of the login, which may be given up at any moment.
struct Borrowed<'a> {
    worker: &'a Rc<Worker>,
    lent: Option<Box<Lent>>,
}

impl Borrowed<'_> {
    async fn ask(&mut self, user: &[u8]) -> Result<Option<String>, String> {
        match &mut self.lent {
            Some(lent) => ask(lent, user).await,
            None => Err("no server".to_owned()),
        }
    }

    fn give_back_clean(&mut self) {
        if let Some(lent) = self.lent.take() {
            give_back(self.worker, lent, Returned::Clean);
        }
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if let Some(lent) = self.lent.take() {
            give_back(self.worker, lent, Returned::Unclean);
        }
    }
}

/// A server on which the role that looks up secrets has logged in.
async fn lend(lookup: &Lookup, worker: &Rc<Worker>) -> Result<Box<Lent>, NotAdmitted> {
    let packet = lookup.packet();
    let (pool, login) = worker.pools.borrow_mut().pool(&packet).ok_or(Refusal::TooManyPools)?;
    login.use_password(lookup);
    let id = worker.pools.borrow_mut().client();
    let waiting = match want(worker, pool, id, None, &Rc::default()) {
        Ok(lent) => return Ok(lent),
        Err(waiting) => waiting,
    };
    loop {
        match waiting.told().await {
            Told::Lent(lent) => return Ok(lent),
            Told::Waits => {}
            Told::GivenUp(waited) => return Err(Refusal::QueryWait { waited }.into()),
            Told::Refused(refusal) => return Err((*refusal).into()),
            Told::RefusedByServer(message) => {
                let why = String::from_utf8_lossy(&message).replace('\0', " ");
                let trouble =
                    format!("{} cannot log in to look up secrets: {why}; nobody can log in", lookup.user);
                worker.shared.log_trouble(trouble);
                let why = "the role that looks up secrets cannot log in".to_owned();
                return Err(Refusal::LoginUnchecked { why }.into());
            }
        }
    }
}

/// Asks for rolpassword.
async fn ask(lent: &mut Lent, user: &[u8]) -> Result<Option<String>, String> {
    let length = u32::try_from(user.len()).map_err(|error| error.to_string())?.to_be_bytes();
    let mut out = Vec::new();
    put(b'P', &[b"\0", LOOKUP, b"\0\0\0"], &mut out);
    put(b'B', &[b"\0\0\0\0\0\x01", &length, user, b"\0\0"], &mut out);
    put(b'E', &[b"\0\0\0\0\0"], &mut out);
    // It leaves no unnamed statement behind.
    put(b'C', &[b"S\0"], &mut out);
    put(b'S', &[], &mut out);
    lent.stream.write_all(&out).await.map_err(|error| error.to_string())?;
    let (mut messages, mut found) = (WholeMessages::default(), None);
    loop {
        while let Some(message) = messages.take().map_err(|error| error.to_string())? {
            match (message.kind(), message.body()) {
                (b'D', [0, 1, a, b, c, d, value @ ..]) => {
                    let len = i32::from_be_bytes([*a, *b, *c, *d]);
                    found = (len >= 0).then(|| String::from_utf8_lossy(value).into_owned());
                }
                (b'E', body) => return Err(String::from_utf8_lossy(body).replace('\0', " ")),
                (b'Z', b"I") => return Ok(found),
                _ => {}
            }
        }
        let mut bytes = Vec::with_capacity(1_024);
        if lent.stream.read_buf(&mut bytes).await.map_err(|error| error.to_string())? == 0 {
            return Err("the server closed the connection".to_owned());
        }
        messages.push(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_none_is_asked_as_others_would_be() {
        let read = |text| match Stored::read(text, b"ann", &[7; KEY_LEN]) {
            Stored::Scram(verifier) => format!("scram {}", verifier == Verifier::mock(b"ann", &[7; KEY_LEN])),
            Stored::Md5(verifier) => format!("md5 {}", verifier == Md5Verifier::mock(b"ann", &[7; KEY_LEN])),
        };
        assert_eq!(read(None), "scram true");
        assert_eq!(read(Some("scram-sha-256")), "scram true");
        assert_eq!(read(Some("SCRAM-SHA-256$broken")), "scram true");
        assert_eq!(read(Some("md5")), "md5 true");
        assert_eq!(read(Some("on")), "md5 true");
        assert_eq!(read(Some("md5a3556571e93b0d20722ba62be61e8c2d")), "md5 false");
    }
}
