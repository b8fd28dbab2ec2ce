//! How many consoles are open, and the verifiers of those who may use them.
//!
//! The console is wanted most while there is no primary, when no verifier can be looked up. So those of its users are kept
//! fresh while one can be, and the last known is used while not.

use crate::error::Refusal;
use crate::pooled::{NotAdmitted, find_verifier};
use crate::route::open_primary;
use crate::worker::{Worker, stopped};
use pgwire::scram::Verifier;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// Most consoles at the same time.
const CONSOLES_MAX: usize = 32;

/// How long a verifier is looked up before the last known one is used.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(3);

/// How often they are looked up.
const REFRESH: Duration = Duration::from_secs(30);

/// Until the next attempt, if one could not be looked up.
const RETRY: Duration = Duration::from_secs(3);

/// See the module; shared by all workers.
#[derive(Debug, Default)]
pub struct Consoles {
    open: AtomicUsize,
    verifiers: Mutex<HashMap<Box<[u8]>, Verifier>>,
}

/// A console that is open; dropping it counts it out.
#[derive(Debug)]
pub struct OpenConsole<'a>(&'a AtomicUsize);

impl Drop for OpenConsole<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Consoles {
    /// One more; `None` if there are too many.
    pub fn open(&self) -> Option<OpenConsole<'_>> {
        let one_more = |open| (open < CONSOLES_MAX).then_some(open + 1);
        let before = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        before.ok().map(|_| OpenConsole(&self.open))
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn verifiers(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Verifier>> {
        // Each change is one statement, so a panic elsewhere spoils nothing.
        self.verifiers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client is told when there is no room for it.
pub fn too_many() -> Refusal {
    Refusal::NoConsole {
        sqlstate: "53300",
        why: format!("{CONSOLES_MAX} consoles are open, which is the maximum"),
        hint: "Close one of them.".to_owned(),
    }
}

/// The verifier of a user: looked up, or the last known one if that is not possible.
pub async fn verifier(user: &[u8], worker: &Rc<Worker>) -> Result<Verifier, NotAdmitted> {
    let failed = match timeout(LOOKUP_PATIENCE, find_verifier(user, worker)).await {
        Ok(Ok(verifier)) => {
            keep(user, &verifier, worker);
            return Ok(verifier);
        }
        Ok(Err(failed)) => failed,
        Err(_) => {
            let why = format!("no primary has answered in {} s", LOOKUP_PATIENCE.as_secs());
            NotAdmitted::Refused(Refusal::LoginUnchecked { why })
        }
    };
    worker.shared.consoles.verifiers().get(user).cloned().ok_or(failed)
}

fn keep(user: &[u8], verifier: &Verifier, worker: &Worker) {
    let settings = worker.shared.settings();
    let console = &settings.console;
    if console.users.iter().chain(&console.viewers).any(|name| name.as_bytes() == user) {
        worker.shared.consoles.verifiers().insert(user.into(), verifier.clone());
    }
}

/// Keeps the verifiers fresh until the proxy stops: on one worker, if there is a console, and a role to look them up.
pub async fn keep_keys(worker: Rc<Worker>) {
    if worker.number != 0 || worker.shared.settings().verifiers().is_none() {
        return;
    }
    let mut stop = worker.stop.clone();
    loop {
        let pause = tokio::select! {
            () = stopped(&mut stop) => return,
            all = look_up_all(&worker) => if all { REFRESH } else { RETRY },
        };
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether all could be looked up.
async fn look_up_all(worker: &Rc<Worker>) -> bool {
    // A server that is to be stopped should not get connections of the proxy's own then.
    let is_paused = worker.pools.borrow().has_paused(b"");
    if is_paused || open_primary(&worker.views.clone().latest()).is_none() {
        return false;
    }
    let settings = worker.shared.settings();
    let console = &settings.console;
    for user in console.users.iter().chain(&console.viewers) {
        match timeout(LOOKUP_PATIENCE, find_verifier(user.as_bytes(), worker)).await {
            Ok(Ok(verifier)) => keep(user.as_bytes(), &verifier, worker),
            Ok(Err(_)) | Err(_) => return false,
        }
    }
    true
}
