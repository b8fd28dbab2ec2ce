//! TLS towards clients: what they are shown, and what they have to show.

use super::certificate::end_point;
use super::provider;
use crate::settings::{ClientTls, ClientTlsMode};
use identity::certificate::{Validity, now, validity};
use identity::file_changes::Stamp;
use identity::files::{Problem, Trouble, authorities, certificates, private_key};
use pgwire::startup::ALPN_PROTOCOL;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::sync::{Arc, PoisonError, RwLock};

/// What clients that come now are shown. Those that are connected keep theirs.
#[derive(Debug)]
pub struct Identity {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// What their logins are bound to, if its certificate allows it.
    pub end_point: Option<Vec<u8>>,
    doubts: Vec<Problem>,
}

/// See the module.
#[derive(Debug)]
pub struct Clients {
    settings: ClientTls,
    current: RwLock<Arc<Identity>>,
    stamp: Stamp,
}

impl Clients {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// [`Problem`]: there can be no TLS.
    pub fn load(settings: &ClientTls) -> Result<Clients, Problem> {
        let stamp = Stamp::of(&settings.files());
        let current = RwLock::new(Arc::new(read(settings)?));
        Ok(Clients { settings: settings.clone(), current, stamp })
    }

    /// What is asked of clients.
    pub fn mode(&self) -> ClientTlsMode {
        self.settings.mode
    }

    /// What is shown now.
    pub fn identity(&self) -> Arc<Identity> {
        // It is replaced as a whole, so a panic elsewhere spoils nothing.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What clients may find wrong with it.
    pub fn doubts(&self) -> Vec<Problem> {
        self.identity().doubts.clone()
    }

    /// How the files looked before they were read.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// How the files look now.
    pub fn stamp_now(&self) -> Stamp {
        Stamp::of(&self.settings.files())
    }

    /// Reads the files again. What is shown stays as it is unless all is well with them.
    ///
    /// # Errors
    /// [`Problem`]
    pub fn renew(&self) -> Result<(), Problem> {
        let identity = read(&self.settings)?;
        if let Some(doubt) = identity.doubts.first() {
            return Err(doubt.clone());
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
        Ok(())
    }
}

const CERT: &str = "proxy.tls.cert";
const KEY: &str = "proxy.tls.key";
const CA: &str = "proxy.tls.ca";

fn read(settings: &ClientTls) -> Result<Identity, Problem> {
    let ClientTls { mode: _, cert, key, ca } = settings;
    let chain = certificates(CERT, cert)?;
    let secret = private_key(KEY, key)?;
    let unusable = |error: rustls::Error| Problem::new(CERT, cert, Trouble::Unusable(error.to_string()));
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match ca {
        Some(ca) => {
            let trusted = Arc::new(authorities(CA, ca)?);
            // Who shows none is let through here: it may not need one, or is told in PostgreSQL's words.
            let verifier = WebPkiClientVerifier::builder_with_provider(trusted, provider())
                .allow_unauthenticated()
                .build()
                .map_err(|error| Problem::new(CA, ca, Trouble::Unusable(error.to_string())))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let first = chain.first().map(|certificate| certificate.to_vec()).unwrap_or_default();
    let mut config = builder.with_single_cert(chain, secret).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => Problem::new(KEY, key, Trouble::OtherKey(cert.clone())),
        error => unusable(error),
    })?;
    config.alpn_protocols = vec![ALPN_PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let doubts = match validity(&first, now()) {
        Some(Validity::Expired(until)) => vec![Problem::new(CERT, cert, Trouble::Expired(until))],
        Some(Validity::NotYet(from)) => vec![Problem::new(CERT, cert, Trouble::NotYet(from))],
        Some(Validity::Now) | None => Vec::new(),
    };
    Ok(Identity { config: Arc::new(config), end_point: end_point(&first), doubts })
}
