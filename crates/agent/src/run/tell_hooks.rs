//! Tells a person's commands what has happened.

use super::{Run, now};
use crate::hooks::Hooks;
use crate::hooks::notice::{Facts, Noticed};
use crate::hooks::runner::Runner;
use cluster::state::State;

/// What was noticed, and who runs the commands.
pub(super) struct Telling {
    noticed: Noticed,
    runner: Runner,
}

impl Telling {
    /// `None`: there are no commands.
    pub(super) fn start(hooks: &Hooks, state: &State) -> Option<Telling> {
        if hooks.is_empty() {
            return None;
        }
        Some(Telling { noticed: Noticed::new(state), runner: Runner::start(hooks.clone()) })
    }

    /// How many commands run or wait.
    pub(super) fn at_work(&self) -> usize {
        self.runner.at_work()
    }

    /// The agent ends.
    pub(super) async fn finish(self) {
        self.runner.finish().await;
    }
}

impl Run {
    /// Looks what has happened, and hands the commands for it over. Waits for nothing.
    pub(super) fn tell_hooks(&mut self) {
        let Some(telling) = &mut self.telling else { return };
        let (state, me) = (&self.state, &self.parts.me);
        let facts = Facts { me, state, server: &self.local.server, seen: self.lead.seen(), now: now() };
        for happened in telling.noticed.look(&facts) {
            telling.runner.tell(&happened, state, me);
        }
    }
}
