//! Keeps a running process's certificate good: takes new files into use when they come, and sees to a new certificate in time,
//! signed here where the authority's key is, or else by another host of the cluster.

use crate::authority::{self, CannotSign, GOOD_DEFAULT, Pair};
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
/// Longest pause between two tries, whatever came of the first; of a certificate that is good for a short time, a 50th of that.
const TRY_EVERY_MAX: Duration = Duration::from_secs(60 * 60);

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
    Ok(folder.write_own(&folder.authority()?.issue(subject, good)?)?)
}

/// Has another host sign a request (PEM) for the holder who asks; returns the certificate (PEM), or why there is none.
pub type Sign =
    Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> + Send + Sync>;

/// Who sees to a new certificate in time.
#[derive(Clone)]
pub enum Renewal {
    /// This process: it signs with the authority's key if that is in its folder, or asks so.
    Here(Sign),
    /// Another process with the same folder: two at once would mix their keys up.
    Elsewhere,
}

/// Whether so much (`1 / part`) of the time in which a certificate is good is left, or less.
fn is_left(part: u32, good: (Duration, Duration), now: Duration) -> bool {
    let whole = good.1.saturating_sub(good.0);
    now + whole / part >= good.1
}

/// Keeps them current. Never returns.
pub async fn keep_current(credentials: Credentials, renewal: Renewal) {
    let mut changes = FileChanges::since(&credentials.current().stamp);
    let mut tried: Option<Instant> = None;
    let mut complained: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if changes.are_due(credentials.folder().stamp()) {
            match credentials.reload() {
                Ok(()) => tracing::info!("the new certificate is in use for connections from now on"),
                Err(trouble) => {
                    tracing::error!("the old certificate stays in use, because of the new one: {trouble}")
                }
            }
        }
        let now = certificate::now();
        let current = credentials.current();
        let due = match &renewal {
            Renewal::Here(_) => is_left(3, current.good, now),
            // Whoever does it had the time.
            Renewal::Elsewhere => is_left(4, current.good, now),
        };
        let pause = (current.good.1.saturating_sub(current.good.0) / 50).min(TRY_EVERY_MAX);
        if !due || tried.is_some_and(|at| at.elapsed() < pause) {
            continue;
        }
        tried = Some(Instant::now());
        let renewed = renew_now(&credentials, &renewal).await;
        if let Err(why) = renewed
            && complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY)
        {
            complained = Some(Instant::now());
            let hours = current.good.1.saturating_sub(now).as_secs() / 3600;
            tracing::warn!(
                "the certificate of this host is good for {hours} more hours, and is not renewed: {why}"
            );
        }
    }
}

async fn renew_now(credentials: &Credentials, renewal: &Renewal) -> Result<(), String> {
    let (folder, subject) = (credentials.folder(), &credentials.current().subject);
    let by_hand = |why: String| {
        format!(
            "{why}; on a host with the authority's key, run `pgkeel cert issue {} {} --out DIR`, and copy own.crt and own.key \
             to {}",
            subject.role,
            subject.name,
            folder.dir().display()
        )
    };
    match renewal {
        Renewal::Here(_) if folder.has_authority_key() => {
            renew(folder, subject, GOOD_DEFAULT).map_err(|error| error.to_string())?;
        }
        Renewal::Here(sign) => {
            let (key, request) = authority::request().map_err(|error| error.to_string())?;
            let certificate = sign(request).await.map_err(by_hand)?;
            folder.write_own(&Pair { certificate, key }).map_err(|error| error.to_string())?;
        }
        Renewal::Elsewhere => {
            return Err(by_hand("it is left to the agent of this host, which has not done it".to_owned()));
        }
    }
    // Not left to the next look, which would find it due once more.
    credentials.reload().map_err(|trouble| trouble.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_when_a_part_of_its_time_is_left() {
        let days = |n: u64| Duration::from_secs(n * 86_400);
        let good = (days(100), days(400));
        assert!(!is_left(3, good, days(100)) && !is_left(3, good, days(299)));
        assert!(is_left(3, good, days(300)) && is_left(3, good, days(500)));
        assert!(!is_left(4, good, days(324)) && is_left(4, good, days(325)));
    }
}
