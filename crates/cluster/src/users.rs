//! Users of the API who show a token instead of a certificate, as recorded. What may be asked for is decided in `decide::users`; here
//! is what holds whoever asks ([`change`]).
//!
//! Of a token the record holds the SHA-256 and nothing else. It is 256 random bits: nobody can try out all of them, so a hash that is
//! quick to make is enough; one that is slow on purpose, as for passwords, would only let strangers keep agents busy.

use crate::basics::{NodeName, WallMs};
use crate::command::{Change, Refusal};
use crate::state::State;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Users at one time.
pub const USERS_MAX: usize = 64;
/// How a token begins, and no name does.
pub const TOKEN_BEGINS: &str = "pgkeeluser1-";
/// Longest name, in bytes: that of the holder of a certificate.
pub const NAME_BYTES_MAX: usize = 63;

/// What a user is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserRole {
    /// Who may look.
    Viewer,
    /// Who may look and give orders.
    Operator,
    /// Who may do everything that a person can.
    Admin,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// What he is.
    pub role: UserRole,
    /// SHA-256 of his token, in hexadecimal.
    pub hash: String,
    /// Who made him.
    pub by: String,
    /// When, on the leader's wall clock.
    pub made: WallMs,
}

/// Why an order about a user is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "user")]
pub enum Bar {
    /// The name is none.
    BadName,
    /// What is to be the hash of a token cannot be one.
    BadHash,
    /// There is one of that name.
    Taken {
        /// It.
        name: String,
    },
    /// There is none.
    Unknown {
        /// It.
        name: String,
    },
    /// There are too many.
    TooMany,
    /// The agent of a node does not know of users, or was not heard so far.
    OldAgent {
        /// The node.
        node: NodeName,
    },
}

impl fmt::Display for UserRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UserRole::Viewer => "viewer",
            UserRole::Operator => "operator",
            UserRole::Admin => "admin",
        })
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bar::BadName => {
                write!(f, "a user's name is 1 to {NAME_BYTES_MAX} letters, digits, '_', '-', '.' or '@'")
            }
            Bar::BadHash => f.write_str("a user needs the SHA-256 of a token; pgkeel user add makes one"),
            Bar::Taken { name } => {
                write!(
                    f,
                    "there is a user {name}; for another token: pgkeel user remove {name}, then add it again"
                )
            }
            Bar::Unknown { name } => write!(f, "there is no user {name}; see pgkeel user list"),
            Bar::OldAgent { node } => write!(
                f,
                "the agent of {node} does not know of users, or was not heard so far: it could not read the record any more; upgrade \
                 all agents first, or remove {node} if it does not come back"
            ),
            Bar::TooMany => write!(f, "there are {USERS_MAX} users already; remove one that is not needed"),
        }
    }
}

/// Whether it can be a user's name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    // A token in its place would be shown to all.
    if text.starts_with(TOKEN_BEGINS) {
        return false;
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@');
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(fits)
}

pub(crate) fn change(state: &mut State, change: &Change) -> Result<(), Refusal> {
    match change {
        Change::AddUser { name, .. } if state.users.contains_key(name) => {
            Err(Refusal::OutOfPlace(format!("there is a user {name}")))
        }
        Change::AddUser { .. } if state.users.len() >= USERS_MAX => {
            Err(Refusal::OutOfPlace(format!("at most {USERS_MAX} users are kept")))
        }
        Change::AddUser { name, user } => {
            state.users.insert(name.clone(), user.clone());
            Ok(())
        }
        Change::RemoveUser { name } => match state.users.remove(name) {
            Some(_) => Ok(()),
            None => Err(Refusal::OutOfPlace(format!("there is no user {name}"))),
        },
        _ => Ok(()),
    }
}
