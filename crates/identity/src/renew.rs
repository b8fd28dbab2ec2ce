//! Keeps a running process's certificate good: takes new files into use when they come, and sees to a new certificate in time,
//! signed here where the authority's key is, or else by another host of the cluster.

use crate::authority::{self, CannotSign, Pair};
use crate::certificate;
use crate::credentials::Credentials;
use crate::file_changes::{FileChanges, LOOK_EVERY};
use crate::folder::{Folder, NotWritten};
use crate::subject::Subject;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// How often a certificate that runs out and is not renewed is complained about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// The same once others refuse it.
const COMPLAIN_EVERY_REFUSED: Duration = Duration::from_secs(60 * 60);
/// Longest pause between two tries, whatever came of the first; of a certificate that is good for a short time, a 50th of that.
const TRY_EVERY_MAX: Duration = Duration::from_secs(60 * 60);
/// The same once others refuse it.
const TRY_EVERY_REFUSED: Duration = Duration::from_secs(60);
/// Seconds of a day, and of an hour.
const DAY_S: u64 = 24 * HOUR_S;
const HOUR_S: u64 = 60 * 60;

/// Why a certificate was not renewed.
#[derive(Debug, Error)]
pub enum NotRenewed {
    /// It could not be signed.
    #[error(transparent)]
    Sign(#[from] CannotSign),
    /// It was not put in place.
    #[error(transparent)]
    Write(#[from] NotWritten),
}

/// Writes a new key and a certificate for it, signed by the authority whose key is in the same folder. Running processes
/// take it into use by themselves.
///
/// # Errors
/// [`NotRenewed`]
pub fn renew(folder: &Folder, subject: &Subject, good: Duration) -> Result<(), NotRenewed> {
    Ok(folder.renew_own(&folder.authority()?.issue(subject, good)?, subject)?)
}

/// Has a request (PEM) signed for the holder who asks; returns the certificate (PEM), or why there is none.
pub type Sign =
    Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> + Send + Sync>;

/// Another host that may have the authority's key.
#[derive(Clone)]
pub struct Signer {
    /// Where it is, for messages.
    pub name: String,
    /// Asks it. What it answers is checked.
    pub sign: Sign,
}

/// Who sees to a new certificate in time.
#[derive(Clone)]
pub enum Renewal {
    /// This process: it signs with the authority's key if that is in its folder, or asks these one after the other.
    Here(Vec<Signer>),
    /// Another process with the same folder: two at once would do it twice.
    Elsewhere,
}

/// Says aloud what will go wrong with the own certificate, and renews one that others refuse already if the authority's key is here.
/// For a process that starts; it starts in any case, for its server may run, and be fenced without it.
pub async fn begin(credentials: &Credentials, renewal: &Renewal) {
    let signs_here = {
        let folder = credentials.folder().clone();
        matches!(renewal, Renewal::Here(_))
            && blocking(move || folder.has_authority_key()).await.unwrap_or_default()
    };
    if let Some(doubt) = credentials.doubt() {
        tracing::error!("others refuse the certificate of this host: {doubt}");
        if signs_here {
            match renew_now(credentials, &Renewal::Here(Vec::new())).await {
                Ok(()) => tracing::warn!("it has been renewed with the authority's key, which is beside it"),
                Err(why) => tracing::error!("it is not renewed: {why}"),
            }
        } else {
            tracing::error!(
                "{}",
                by_hand(credentials, "it cannot be renewed here, without the authority's key")
            );
        }
    }
    let folder = credentials.folder().clone();
    if matches!(renewal, Renewal::Here(_))
        && let Ok(Err(why)) = blocking(move || folder.check_writable()).await
    {
        let why = format!("{why}, so the certificate of this host does not renew itself");
        tracing::warn!("{}; or let that user write there", by_hand(credentials, &why));
    }
}

/// Keeps them current. Never returns.
pub async fn keep_current(credentials: Credentials, renewal: Renewal) {
    let mut keeper = Keeper {
        changes: FileChanges::since(&credentials.current().stamp),
        credentials,
        renewal,
        tried: None,
        complained: None,
    };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        keeper.take_new_files().await;
        keeper.renew_in_time().await;
    }
}

struct Keeper {
    credentials: Credentials,
    renewal: Renewal,
    changes: FileChanges,
    tried: Option<Instant>,
    complained: Option<Instant>,
}

impl Keeper {
    async fn take_new_files(&mut self) {
        let folder = self.credentials.folder().clone();
        let Ok(stamp) = blocking(move || folder.stamp()).await else { return };
        if !self.changes.are_due(stamp) {
            return;
        }
        match reload(&self.credentials).await {
            Ok(()) => {
                self.changes.succeeded();
                tracing::info!("the new certificate is in use for connections from now on");
            }
            Err(trouble) => {
                if self.changes.failed(&trouble) {
                    tracing::error!(
                        "the old certificate stays in use, because of the new one: {trouble}; it is tried again each minute"
                    );
                }
            }
        }
    }

    async fn renew_in_time(&mut self) {
        let now = certificate::now();
        let current = self.credentials.current();
        let is_due = match &self.renewal {
            Renewal::Here(_) => current.is_left(3, now),
            // Whoever does it had the time.
            Renewal::Elsewhere => current.is_left(4, now),
        };
        let doubt = self.credentials.doubt();
        let (try_every, complain_every) = match &doubt {
            None => (TRY_EVERY_MAX, COMPLAIN_EVERY),
            Some(_) => (TRY_EVERY_REFUSED, COMPLAIN_EVERY_REFUSED),
        };
        let pause = (current.lifetime / 50).min(try_every);
        if !is_due || self.tried.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        self.tried = Some(Instant::now());
        let Err(why) = renew_now(&self.credentials, &self.renewal).await else {
            self.complained = None;
            return;
        };
        if self.complained.is_some_and(|at| at.elapsed() < complain_every) {
            return;
        }
        self.complained = Some(Instant::now());
        match doubt {
            Some(doubt) => tracing::error!(
                "others refuse the certificate of this host: {doubt}; it is not renewed: {why}"
            ),
            None => {
                let hours = current.good.1.saturating_sub(now).as_secs() / HOUR_S;
                tracing::warn!(
                    "the certificate of this host is good for {hours} more hours, and is not renewed: {why}"
                );
            }
        }
    }
}

/// For as long as the one was made that is there.
async fn renew_now(credentials: &Credentials, renewal: &Renewal) -> Result<(), String> {
    let renewed = match renewal {
        Renewal::Here(signers) => renew_here(credentials, signers).await,
        Renewal::Elsewhere => Err("that is left to the agent of this host, which has not done it".to_owned()),
    };
    // Not left to the next look, which would find it due once more.
    let renewed = match renewed {
        Ok(()) => reload(credentials).await,
        Err(why) => Err(why),
    };
    renewed.map_err(|why| by_hand(credentials, &why))
}

async fn renew_here(credentials: &Credentials, signers: &[Signer]) -> Result<(), String> {
    let (folder, current) = (credentials.folder().clone(), credentials.current());
    let (subject, lifetime) = (current.subject.clone(), current.lifetime);
    let mut refused = Vec::new();
    let there = folder.clone();
    let here = blocking(move || {
        there.check_writable().map_err(NotWritten::from)?;
        if !there.has_authority_key() {
            return Ok(None);
        }
        renew(&there, &subject, lifetime).map(Some)
    });
    match here.await? {
        Ok(Some(())) => return Ok(()),
        Ok(None) => {}
        // Another signature would not be written either.
        Err(why @ NotRenewed::Write(NotWritten::Io(_))) => return Err(why.to_string()),
        Err(why) => refused.push(format!("here: {why}")),
    }
    let (key, request) =
        blocking(authority::request).await?.map_err(|error| format!("no key could be made: {error}"))?;
    for Signer { name, sign } in signers {
        let certificate = match sign(request.clone()).await {
            Ok(certificate) => certificate,
            Err(why) => {
                refused.push(format!("{name}: {why}"));
                continue;
            }
        };
        let (there, subject, key) = (folder.clone(), current.subject.clone(), key.clone());
        match blocking(move || there.renew_own(&Pair { certificate, key }, &subject)).await? {
            Ok(()) => return Ok(()),
            Err(why @ NotWritten::Io(_)) => return Err(why.to_string()),
            // What one answers need not be what the next does.
            Err(why) => refused.push(format!("{name}: what it signed is of no use: {why}")),
        }
    }
    Err(format!("nobody has signed one ({})", refused.join("; ")))
}

fn by_hand(credentials: &Credentials, why: &str) -> String {
    let current = credentials.current();
    format!(
        "{why}; on a host with the authority's key, run `pgkeel cert issue {} {} --days {} --out DIR`, and copy own.crt and \
         own.key to {}",
        current.subject.role,
        current.subject.name,
        (current.lifetime.as_secs() / DAY_S).max(1),
        credentials.folder().dir().display()
    )
}

async fn reload(credentials: &Credentials) -> Result<(), String> {
    let credentials = credentials.clone();
    blocking(move || credentials.reload().map_err(|trouble| trouble.to_string())).await?
}

/// Files and keys: what takes too long for a task that others wait for.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}
