//! Who has shown a certificate, and whether it still holds: a connection can last longer than what it began with.

use crate::certificate;
use crate::credentials::Loaded;
use crate::subject::Subject;
use rustls::pki_types::{CertificateDer, UnixTime};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// The last moments of a certificate, in which its connections are ended in order, so that no request fails: the holder comes again
/// with the one that he has by then.
const LAST_MOMENTS: Duration = Duration::from_secs(60);

/// See the module. Reads as the [`Subject`] that the certificate names. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    subject: Subject,
    good: (Duration, Duration),
    lifetime: Duration,
    shown: Arc<Vec<CertificateDer<'static>>>,
    /// The authorities that have vouched for it.
    roots: Arc<Vec<CertificateDer<'static>>>,
}

/// What a certificate that was shown is worth now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds.
    Good,
    /// It holds, and is about to end.
    Ending,
    /// Its time is over, or, after this host's clock was set, has not come.
    Over,
    /// None of the authorities that are trusted now vouches for it.
    Disowned,
}

impl Standing {
    /// Why its holder is not listened to any more, for him.
    #[must_use]
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            Standing::Good | Standing::Ending => None,
            Standing::Over => {
                Some("the certificate that this connection began with is not good at this time")
            }
            Standing::Disowned => Some(
                "the authority of the certificate that this connection began with is not trusted any more",
            ),
        }
    }
}

impl Holder {
    /// Of the certificates that rustls has just found good with `current`; `None` if they do not say for whom they are.
    pub(crate) fn of(shown: &[CertificateDer<'static>], current: &Loaded) -> Option<Holder> {
        let own = shown.first()?;
        Some(Holder {
            subject: Subject::of_certificate(own)?,
            good: certificate::span(own)?,
            lifetime: certificate::lifetime(own)?,
            shown: Arc::new(shown.to_vec()),
            roots: Arc::clone(&current.roots),
        })
    }

    /// For how long the certificate was made.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// What it is worth with the authorities that are trusted now, at a moment that is told as time since 1970.
    #[must_use]
    pub fn standing(&self, current: &Loaded, now: Duration) -> Standing {
        if now < self.good.0 || now > self.good.1 {
            return Standing::Over;
        }
        // They rarely change, and this is asked for each request.
        if self.roots != current.roots {
            let (own, others) = match self.shown.split_first() {
                Some(parts) => parts,
                None => return Standing::Disowned,
            };
            let vouched = current.verifier.verify_client_cert(own, others, UnixTime::since_unix_epoch(now));
            if vouched.is_err() {
                return Standing::Disowned;
            }
        }
        if now + LAST_MOMENTS > self.good.1 { Standing::Ending } else { Standing::Good }
    }
}

impl Deref for Holder {
    type Target = Subject;

    fn deref(&self) -> &Subject {
        &self.subject
    }
}
