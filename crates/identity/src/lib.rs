//! Who is who between the processes of one cluster: its certificate authority, the certificates that the authority has
//! signed, and TLS in which both sides show theirs.
//!
//! - [`subject`]: for whom a certificate is, and what that allows. Pure.
//! - [`authority`]: signs certificates. [`folder`]: where a host keeps its own, [`credentials`] makes of them what rustls
//!   wants, and [`renew`] sees that they stay good.
//! - [`caller`] connects to another process, [`acceptor`] lets others in; both hand out a [`stream`].
//! - [`invitation`]: what somebody carries who has no certificate yet. [`token`]: what a user shows instead of one.
//! - [`files`], [`file_changes`], [`certificate`] read such files for whoever has some; the proxy uses them for its clients.
//!
//! This crate does not know what is said over a connection, nor who may ask for what: see [`subject::Right`] and the
//! agent's API.

pub mod acceptor;
pub mod authority;
pub mod caller;
pub mod certificate;
pub mod credentials;
mod exchange;
pub mod file_changes;
pub mod files;
pub mod folder;
pub mod holder;
pub mod invitation;
pub mod renew;
mod stranger;
pub mod stream;
pub mod subject;
pub mod token;

pub use acceptor::{Acceptor, Who};
pub use authority::Authority;
pub use caller::Caller;
pub use credentials::{Credentials, Plain, Trouble};
pub use folder::Folder;
pub use holder::{Holder, Standing};
pub use invitation::Invitation;
pub use stream::Stream;
pub use subject::{Right, Role, Subject};
pub use token::Token;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::Arc;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
