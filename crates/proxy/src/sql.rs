//! Reads the text of statements as far as it says what they may leave in a session. Pure.
//!
//! The rule is conservative: a text pins the server ([`Pin`]) unless it is known to leave nothing but what the proxy
//! itself can put in place on another server ([`Effect`]). It holds for what the text names. What is behind a view, a
//! trigger, an operator or a cast is not seen.

mod calls;

mod channels;

mod ends;

mod keyword;

pub mod lex;

mod pin;

mod read;

mod setting;

pub use channels::{ChannelChange, is_plain_channel};
pub use ends::Ends;
pub use pin::{Pin, Pins};
pub use read::{Effect, Reading, read};
pub use setting::WITHOUT_MEANING;
