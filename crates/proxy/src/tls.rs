//! TLS towards clients and servers.
//!
//! [`channel`] is one connection's TLS as bytes, without a socket; [`stream`] puts it on one. [`certificate`] reads
//! what rustls does not tell, [`clients`] and [`servers`] make of the files that the configuration names what rustls wants, [`renew`] looks whether it has
//! changed. No session is ever resumed: PostgreSQL and libpq do not, and each connection then shows and binds to the
//! certificate of its own handshake.

mod certificate;

mod clients;

mod servers;

mod renew;

mod channel;

mod stream;

pub use clients::{Clients, Identity};
pub use renew::keep_current;
pub use servers::{Servers, Trust};
pub use stream::{Scratch, TlsStream};

use crate::settings::Settings;
use identity::files::Problem;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::Arc;

/// Both sides of one proxy.
#[derive(Debug)]
pub struct Tls {
    /// `None`: clients are offered none.
    pub clients: Option<Clients>,
    /// `None`: servers are not asked for it.
    pub servers: Option<Servers>,
}

impl Tls {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// The first thing for which there can be no TLS.
    pub fn load(settings: &Settings) -> Result<Tls, Problem> {
        let clients = settings.tls.as_ref().map(Clients::load).transpose()?;
        let servers = Servers::load(&settings.server_tls)?;
        Ok(Tls { clients, servers })
    }

    /// What will not work although it could be read; one sentence each.
    #[must_use]
    pub fn doubts(&self) -> Vec<Problem> {
        self.clients.iter().flat_map(Clients::doubts).collect()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
