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
use pgwire::message::put;
use pgwire::scram::Verifier;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long a verifier is believed: so long an old password does after it was changed, and many logins of one user cost one look.
const KEPT: Duration = Duration::from_secs(5);

/// Most users that are remembered.
const USERS_MAX: usize = 10_000;

/// How long one look may take.
const LOOKUP_MAX: Duration = Duration::from_secs(10);

/// Nothing here depends on the session's search_path.
const LOOKUP: &[u8] = b"SELECT a.rolpassword FROM pg_catalog.pg_authid a WHERE a.rolname OPERATOR(pg_catalog.=) $1 \
    AND a.rolcanlogin AND (a.rolvaliduntil IS NULL OR a.rolvaliduntil OPERATOR(pg_catalog.>) pg_catalog.now())";

/// See the module.
#[derive(Debug, Default)]
pub struct Secrets {
    known: HashMap<Box<[u8]>, (Verifier, Instant)>,
}

impl Secrets {
    /// The next login of this user looks again.
    pub fn forget(&mut self, user: &[u8]) {
        self.known.remove(user);
    }

    fn get(&self, user: &[u8], now: Instant) -> Option<Verifier> {
        let (verifier, since) = self.known.get(user)?;
        (now.saturating_duration_since(*since) < KEPT).then(|| verifier.clone())
    }

    fn keep(&mut self, user: &[u8], verifier: Verifier, now: Instant) {
        if self.known.len() >= USERS_MAX {
            self.known.clear();
        }
        self.known.insert(user.into(), (verifier, now));
    }
}

/// The verifier of a user; one that no password fits, if there is none.
pub async fn find_verifier(user: &[u8], worker: &Rc<Worker>) -> Result<Verifier, NotAdmitted> {
    if let Some(verifier) = worker.secrets.borrow().get(user, Instant::now()) {
        return Ok(verifier);
    }
    let settings = worker.shared.settings();
    let text = match settings.verifiers() {
        None => return Err(NotAdmitted::Gone),
        Some(Verifiers::Agents) => ask_agents(user, worker).await?,
        Some(Verifiers::Role(lookup)) => ask_server(lookup, user, worker).await?,
    };
    let mut secrets = worker.secrets.borrow_mut();
    let verifier = text.as_deref().and_then(|text| Verifier::parse(text).ok());
    let verifier = verifier.unwrap_or_else(|| Verifier::mock(user, &worker.shared.mock));
    secrets.keep(user, verifier.clone(), Instant::now());
    Ok(verifier)
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
