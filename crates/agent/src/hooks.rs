//! A person's own commands, run when something has happened. They are told; they decide nothing and delay nothing.
//!
//! [`notice`] (pure) says what has happened, [`words`] (pure) how it is told to a command, [`runner`] runs the command.
//! For people: docs/hooks.md.

pub mod notice;
pub mod runner;
pub mod words;

use std::fmt;
use std::time::Duration;

/// The commands of one node, as the configuration file has them: already checked by [`words::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// When this node has become primary or standby, or is primary no more.
    pub on_role_change: Option<String>,
    /// When another node has become primary; run where that was recorded.
    pub on_failover: Option<String>,
    /// When a node is not up any more; run by the leader.
    pub on_node_down: Option<String>,
    /// When it is up again; run by the leader.
    pub on_node_up: Option<String>,
    /// How long each may run.
    pub timeout: Duration,
}

/// How long a command may run when the file does not say.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

impl Default for Hooks {
    fn default() -> Hooks {
        let (on_role_change, on_failover, on_node_down, on_node_up) = (None, None, None, None);
        Hooks { on_role_change, on_failover, on_node_down, on_node_up, timeout: TIMEOUT_DEFAULT }
    }
}

/// The hooks there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `on_role_change`.
    RoleChange,
    /// `on_failover`.
    Failover,
    /// `on_node_down`.
    NodeDown,
    /// `on_node_up`.
    NodeUp,
}

impl Hook {
    /// All of them.
    pub const ALL: [Hook; 4] = [Hook::RoleChange, Hook::Failover, Hook::NodeDown, Hook::NodeUp];

    /// Its key in `[hooks]`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Hook::RoleChange => "on_role_change",
            Hook::Failover => "on_failover",
            Hook::NodeDown => "on_node_down",
            Hook::NodeUp => "on_node_up",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.key())
    }
}

impl Hooks {
    /// The command of a hook, if there is one.
    #[must_use]
    pub fn command(&self, hook: Hook) -> Option<&str> {
        match hook {
            Hook::RoleChange => self.on_role_change.as_deref(),
            Hook::Failover => self.on_failover.as_deref(),
            Hook::NodeDown => self.on_node_down.as_deref(),
            Hook::NodeUp => self.on_node_up.as_deref(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        Hook::ALL.into_iter().all(|hook| self.command(hook).is_none())
    }
}
