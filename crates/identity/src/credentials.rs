//! What a process shows others of its cluster, and by which it knows them: its certificate, its key and the authorities that it
//! trusts, as rustls wants them. They can be read again while it runs.

use crate::authority::AGENT_DNS;
use crate::certificate::{self, Validity, validity};
use crate::exchange;
use crate::file_changes::Stamp;
use crate::files::{self, Problem, certificates, private_key};
use crate::folder::Folder;
use crate::provider;
use crate::subject::{Role, Subject};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use thiserror::Error;

const DIR: &str = "tls.dir";

/// How often files are read that somebody exchanges just now.
const READS_MAX: u32 = 3;
const READ_PAUSE: Duration = Duration::from_millis(50);

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
    /// The authorities that are trusted, as the file has them, and who asks them about a certificate.
    pub(crate) roots: Arc<Vec<CertificateDer<'static>>>,
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
    own: CertificateDer<'static>,
    /// Whom the own certificate names.
    pub subject: Subject,
    /// The first and the last moment at which it is good, as time since 1970.
    pub good: (Duration, Duration),
    /// For how long it was made.
    pub lifetime: Duration,
    /// How the files looked before they were read.
    pub(crate) stamp: Stamp,
}

impl Loaded {
    /// Reads the files of `folder` and checks that others will accept them at some time: whether now, [`Loaded::doubt`] says.
    ///
    /// # Errors
    /// [`Trouble`]
    pub fn read(folder: &Folder) -> Result<Loaded, Trouble> {
        exchange::finish(folder);
        let mut read = Loaded::read_once(folder);
        for _ in 1..READS_MAX {
            // Who exchanges them just now would leave us with the certificate of one pair and the key of another.
            if !matches!(&read, Err(Trouble::File(Problem { trouble: files::Trouble::OtherKey(_), .. }))) {
                break;
            }
            std::thread::sleep(READ_PAUSE);
            read = Loaded::read_once(folder);
        }
        read
    }

    pub(crate) fn read_once(folder: &Folder) -> Result<Loaded, Trouble> {
        let stamp = folder.stamp();
        let roots = Arc::new(certificates(DIR, &folder.authorities())?);
        let store = Arc::new(files::trusted(DIR, &folder.authorities(), &roots)?);
        let file = folder.certificate();
        let wrong = |trouble| Trouble::File(Problem::new(DIR, &file, trouble));
        let chain = certificates(DIR, &file)?;
        let own = chain.first().cloned().ok_or_else(|| wrong(files::Trouble::NoCertificate))?;
        let (Some(good), Some(lifetime)) = (certificate::span(&own), certificate::lifetime(&own)) else {
            return Err(wrong(files::Trouble::Unusable("it is no X.509 certificate".to_owned())));
        };
        let example = "pgkeel://CLUSTER/agent/NODE".to_owned();
        let subject = Subject::of_certificate(&own).ok_or(Trouble::Nobody(file.clone(), example))?;
        let refused =
            |error: rustls::server::VerifierBuilderError| wrong(files::Trouble::Unusable(error.to_string()));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), provider())
            // Who shows none is told so in words, by the API.
            .allow_unauthenticated()
            .build()
            .map_err(refused)?;
        // At a moment of its own time: an agent does not refuse to start because it, or a clock, is late.
        let moment = certificate::now().max(good.0).min(good.1);
        check_signed(&chain, &subject, (&store, &verifier), UnixTime::since_unix_epoch(moment))
            .map_err(|error| wrong(files::Trouble::Unusable(not_accepted(&error, folder))))?;
        let (client, server) = configurations(folder, store, Arc::clone(&verifier), chain)?;
        let (client, server) = (Arc::new(client), Arc::new(server));
        Ok(Loaded { client, server, roots, verifier, own, subject, good, lifetime, stamp })
    }

    /// Why others refuse the own certificate, which is in `file`, if the time is `now` since 1970.
    #[must_use]
    pub fn doubt(&self, now: Duration, file: &Path) -> Option<Problem> {
        let trouble = match validity(&self.own, now)? {
            Validity::Now => return None,
            Validity::Expired(until) => files::Trouble::Expired(until),
            Validity::NotYet(from) => files::Trouble::NotYet(from),
        };
        Some(Problem::new(DIR, file, trouble))
    }

    /// Whether so much (`1 / part`) of the time for which it was made is left, or less. One that is not good yet counts as well: that
    /// may never change as long as somebody waits for it.
    #[must_use]
    pub fn is_left(&self, part: u32, now: Duration) -> bool {
        now < self.good.0 || now + self.lifetime / part.max(1) >= self.good.1
    }
}

fn not_accepted(error: &rustls::Error, folder: &Folder) -> String {
    let authorities = folder.authorities();
    format!("the authorities in {} do not vouch for it ({error})", authorities.display())
}

/// As others will check it: better now than by everybody else.
fn check_signed(
    chain: &[CertificateDer<'_>],
    subject: &Subject,
    (roots, as_client): (&Arc<RootCertStore>, &Arc<dyn ClientCertVerifier>),
    moment: UnixTime,
) -> Result<(), rustls::Error> {
    let other = |error: rustls::server::VerifierBuilderError| rustls::Error::General(error.to_string());
    let Some((own, chain)) = chain.split_first() else { return Err(rustls::Error::NoCertificatesPresented) };
    as_client.verify_client_cert(own, chain, moment)?;
    if subject.role == Role::Agent {
        let as_server = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider());
        let as_server = as_server.build().map_err(other)?;
        as_server.verify_server_cert(own, chain, &agent_name()?, &[], moment)?;
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
    verifier: Arc<dyn ClientCertVerifier>,
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
    let versions = [&rustls::version::TLS13];
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions)
        .map_err(wrong)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.clone(), key.clone_key())
        .map_err(wrong)?;
    client.enable_sni = false;
    client.resumption = rustls::client::Resumption::disabled();
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

    /// Why others refuse the own certificate now, if they do.
    #[must_use]
    pub fn doubt(&self) -> Option<Problem> {
        self.current().doubt(certificate::now(), &self.folder.certificate())
    }

    /// Reads the files again, for connections from now on. What is in use stays unless all is well with them, and unless they
    /// are for the same holder. A certificate that is not good now does not replace one that is; where neither is, the new files are
    /// taken, for the authorities that are trusted may have changed too.
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
        let doubt = read.doubt(certificate::now(), &self.folder.certificate());
        if let Some(doubt) = doubt
            && self.doubt().is_none()
        {
            return Err(doubt.into());
        }
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
