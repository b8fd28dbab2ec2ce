//! PostgreSQL's protocol as bytes: start-up packets, message headers, errors, cancel requests.
//!
//! This crate is pure. It does not know sockets, time, or what a message is used for; it never holds a message's body
//! except for the few small ones named in [`tracker`], and in a proxy's own conversations with a server ([`whole`]).
//! Every byte it reads is taken as hostile: each parser answers with a value or an error, never with a panic, and its
//! memory is bounded by constants.
//!
//! The protocol is described in PostgreSQL's documentation, chapter "Frontend/Backend Protocol"; constants name the
//! source file of PostgreSQL they mirror.

pub mod startup;

pub mod frame;

pub mod tracker;

pub mod whole;

mod mention;

pub mod error_response;

pub mod cancel;

pub mod message;

pub mod scram;

pub mod md5;

#[cfg(any(test, feature = "random"))]
#[doc(hidden)]
pub mod random;

pub use cancel::{CancelKey, encode_cancel_request};
pub use error_response::{
    ErrorFields, ErrorSummary, Severity, encode_error_response, encode_notice_response,
};
pub use frame::{FrameError, FrameHeader, HEADER_LEN};
pub use startup::{Startup, StartupError, StartupMessage};
pub use tracker::{FrameTracker, Notable, TransactionStatus};
pub use whole::{WholeMessage, WholeMessages};
