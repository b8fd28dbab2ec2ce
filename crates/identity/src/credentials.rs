//! What a process shows others of its cluster, and by which it knows them: its certificate, its key and the authorities that it
//! trusts, as rustls wants them. They can be read again while it runs.

use crate::authority::AGENT_DNS;
use crate::certificate::{self, Validity, validity};
use crate::file_changes::Stamp;
use crate::files::{self, Problem, authorities, certificates, private_key};
use crate::folder::Folder;
use crate::provider;
use crate::subject::{Role, Subject};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use thiserror::Error;

const DIR: &str = "tls.dir";

/// Whether processes of the cluster that do not speak TLS are tolerated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// No.
    Refused,
    /// Yes, and they may do everything: while a cluster goes over to TLS one host after the other.
    Allowed,
}

/// Why there can be no credentials.
#[derive(Debug, Error)]
pub enum Trouble {
    /// One of the files.
    #[error(transparent)]
    File(#[from] Problem),
    /// The certificate names nobody.
    #[error(
        "{DIR}: {0:?} does not say for whom it is: it needs exactly one alternative name like {1}; make one with \
         `pgkeel cert issue`"
    )]
    Nobody(std::path::PathBuf, String),
    /// The certificate was made for something else.
    #[error("{DIR}: {file:?} is for {found}, but this is {wanted}; make one with `pgkeel cert issue`")]
    SomebodyElse {
        /// The file.
        file: std::path::PathBuf,
        /// Whom it names.
        found: Subject,
        /// What was expected.
        wanted: String,
    },
}

/// What was made of the files.
#[derive(Debug)]
pub struct Loaded {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    /// Whom the own certificate names.
    pub subject: Subject,
    /// The first and the last moment at which it is good, as time since 1970.
    pub good: (Duration, Duration),
    /// How the files looked before they were read.
    pub(crate) stamp: Stamp,
}

impl Loaded {
    /// Reads the files of `folder` and checks that others will accept them.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn read(folder: &Folder) -> Result<Loaded, Trouble> {
        folder.finish_exchange();
        let stamp = folder.stamp();
        let roots = Arc::new(authorities(DIR, &folder.authorities())?);
        let file = folder.certificate();
        let wrong = |trouble| Trouble::File(Problem::new(DIR, &file, trouble));
        let chain = certificates(DIR, &file)?;
        let own = chain.first().cloned().ok_or_else(|| wrong(files::Trouble::NoCertificate))?;
        match validity(&own, certificate::now()) {
            Some(Validity::Now) => {}
            Some(Validity::Expired(until)) => return Err(wrong(files::Trouble::Expired(until))),
            Some(Validity::NotYet(from)) => return Err(wrong(files::Trouble::NotYet(from))),
            None => return Err(wrong(files::Trouble::Unusable("it is no X.509 certificate".to_owned()))),
        }
        let example = "pgkeel://CLUSTER/agent/NODE".to_owned();
        let subject = Subject::of_certificate(&own).ok_or(Trouble::Nobody(file.clone(), example))?;
        let good = certificate::span(&own).unwrap_or_default();
        check_signed(&own, &chain[1..], &subject, &roots)
            .map_err(|error| wrong(files::Trouble::Unusable(not_accepted(&error, folder))))?;
        let (client, server) = configurations(folder, roots, chain)?;
        Ok(Loaded { client: Arc::new(client), server: Arc::new(server), subject, good, stamp })
    }
}

fn not_accepted(error: &rustls::Error, folder: &Folder) -> String {
    let authorities = folder.authorities();
    format!("the authorities in {} do not vouch for it ({error})", authorities.display())
}

/// As others will check it: better now than by everybody else.
fn check_signed(
    own: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
    subject: &Subject,
    roots: &Arc<RootCertStore>,
) -> Result<(), rustls::Error> {
    let other = |error: rustls::server::VerifierBuilderError| rustls::Error::General(error.to_string());
    let now = UnixTime::now();
    let as_client = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider());
    as_client.build().map_err(other)?.verify_client_cert(own, chain, now)?;
    if subject.role == Role::Agent {
        let as_server = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider());
        let as_server = as_server.build().map_err(other)?;
        as_server.verify_server_cert(own, chain, &agent_name()?, &[], now)?;
    }
    Ok(())
}

/// By which every agent is known to rustls.
pub(crate) fn agent_name() -> Result<ServerName<'static>, rustls::Error> {
    ServerName::try_from(AGENT_DNS).map_err(|error| rustls::Error::General(error.to_string()))
}

fn configurations(
    folder: &Folder,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
) -> Result<(ClientConfig, ServerConfig), Trouble> {
    let file = folder.certificate();
    let key = private_key(DIR, &folder.key())?;
    let wrong = |error: rustls::Error| match error {
        rustls::Error::InconsistentKeys(_) => {
            Trouble::File(Problem::new(DIR, &folder.key(), files::Trouble::OtherKey(file.clone())))
        }
        error => Trouble::File(Problem::new(DIR, &file, files::Trouble::Unusable(error.to_string()))),
    };
    let other =
        |error: rustls::server::VerifierBuilderError| wrong(rustls::Error::General(error.to_string()));
    let versions = [&rustls::version::TLS13];
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions)
        .map_err(wrong)?
        .with_root_certificates(Arc::clone(&roots))
        .with_client_auth_cert(chain.clone(), key.clone_key())
        .map_err(wrong)?;
    client.enable_sni = false;
    client.resumption = rustls::client::Resumption::disabled();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        // Who shows none is told so in words, by the API.
        .allow_unauthenticated()
        .build()
        .map_err(other)?;
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions)
        .map_err(wrong)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(wrong)?;
    server.send_tls13_tickets = 0;
    Ok((client, server))
}

/// The credentials of a running process. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Credentials {
    folder: Folder,
    plain: Plain,
    current: Arc<RwLock<Arc<Loaded>>>,
}

impl Credentials {
    /// Reads the files of `folder`.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn load(folder: Folder, plain: Plain) -> Result<Credentials, Trouble> {
        let current = Arc::new(RwLock::new(Arc::new(Loaded::read(&folder)?)));
        Ok(Credentials { folder, plain, current })
    }

    /// What new connections use.
    #[must_use]
    pub fn current(&self) -> Arc<Loaded> {
        // It is replaced as a whole, so a panic elsewhere spoils nothing.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the files are.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Whether others may go without.
    #[must_use]
    pub fn plain(&self) -> Plain {
        self.plain
    }

    /// Reads the files again, for connections from now on. What is in use stays unless all is well with them, and unless they
    /// are for the same holder.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn reload(&self) -> Result<(), Trouble> {
        let read = Loaded::read(&self.folder)?;
        self.expect(
            &read,
            |subject| *subject == self.current().subject,
            || self.current().subject.to_string(),
        )?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
        Ok(())
    }

    /// Checks that they are of this cluster, and for something that may be this.
    ///
    /// # Errors
    /// [`Trouble::SomebodyElse`]
    pub fn must_be(&self, fits: impl Fn(&Subject) -> bool, wanted: &str) -> Result<(), Trouble> {
        self.expect(&self.current(), fits, || wanted.to_owned())
    }

    fn expect(
        &self,
        loaded: &Loaded,
        fits: impl Fn(&Subject) -> bool,
        wanted: impl Fn() -> String,
    ) -> Result<(), Trouble> {
        if fits(&loaded.subject) {
            return Ok(());
        }
        let (file, found) = (self.folder.certificate(), loaded.subject.clone());
        Err(Trouble::SomebodyElse { file, found, wanted: wanted() })
    }
}
