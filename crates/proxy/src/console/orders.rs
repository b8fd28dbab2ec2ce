//! What is ordered at the console.

use super::ask::{Answers, Told, Wish};
use super::facts::own_number;
use super::read::{Elsewhere, Statement};
use super::talk::Failure;
use super::{Console, notice};
use crate::pooled::Chosen;
use crate::reload::reload;
use crate::worker::stopped;
use pgwire::Severity;
use std::pin::pin;
use std::time::Duration;

/// How often it is asked whether servers are still lent.
const PAUSE_LOOK: Duration = Duration::from_millis(50);

/// Why the console's client is served no longer.
#[derive(Debug)]
pub enum Quit {
    Gone,
    Stopping,
    /// It does not speak the protocol.
    Broken(String),
}

/// Why a statement was not done to its end.
#[derive(Debug)]
pub enum Stopped {
    Failed(Failure),
    Quit(Quit),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Stopped {
        Stopped::Failed(failure)
    }
}

fn failed(sqlstate: &'static str, message: impl Into<String>, hint: Option<&str>) -> Failure {
    Failure { sqlstate, message: message.into(), hint: hint.map(str::to_owned) }
}

/// One sentence about workers that do not answer.
pub fn silence(workers: &[usize], so: &str) -> String {
    let names: Vec<String> = workers.iter().map(ToString::to_string).collect();
    let limit = super::ask::ANSWER_MAX.as_secs();
    format!("worker {} did not answer in {limit} s; {so}", names.join(", "))
}

impl Console<'_> {
    /// Does what changes something; its command tag.
    pub(super) async fn order(
        &mut self,
        order: &Statement,
        out: &mut Vec<u8>,
    ) -> Result<&'static str, Stopped> {
        let is_pooled = self.worker.shared.settings().pool.is_some();
        match order {
            Statement::Elsewhere(which) => Err(elsewhere(*which).into()),
            Statement::Reload => {
                let reloaded = reload(&self.worker.shared).await;
                let outcome = reloaded.map_err(|problem| {
                    let (sqlstate, hint) = problem.advice();
                    failed(sqlstate, problem.to_string(), Some(hint))
                })?;
                tracing::info!("RELOAD at the console: {outcome}");
                notice(Severity::Notice, &outcome.to_string(), out);
                Ok("RELOAD")
            }
            Statement::KillClient(id) => self.kill_client(*id).await,
            Statement::Pause(_) | Statement::Resume(_) | Statement::Reconnect(_) | Statement::Kill(_)
                if !is_pooled =>
            {
                let message = "this needs pool_mode = \"pooled\": in the session mode each client has a server \
                               connection of its own";
                let hint = "KILL CLIENT ends one client; `pgkeel switchover` replaces the primary in order.";
                Err(failed("0A000", message, Some(hint)).into())
            }
            Statement::Pause(chosen) => {
                self.pause(chosen, out).await?;
                self.told("PAUSE", chosen);
                Ok("PAUSE")
            }
            Statement::Resume(chosen) => {
                let answers = self.all(&Wish::Resume(chosen.clone())).await?;
                self.told("RESUME", chosen);
                let lends = answers.iter().all(|told| matches!(told, Told::Resumed { lends: true }));
                if !lends {
                    notice(Severity::Warning, "everything is paused: RESUME without a name ends that", out);
                }
                Ok("RESUME")
            }
            Statement::Reconnect(chosen) => {
                let answers = self.all(&Wish::Reconnect(chosen.clone())).await?;
                self.told("RECONNECT", chosen);
                self.note_unknown(chosen, count(&answers), out);
                Ok("RECONNECT")
            }
            Statement::Kill(database) => {
                let chosen = Chosen::One(database.clone());
                self.begin_pause(&chosen).await?;
                let answers = self.all(&Wish::KillAll(chosen.clone())).await?;
                self.told("KILL", &chosen);
                notice(
                    Severity::Notice,
                    &format!("clients ended: {}; the database is paused until RESUME", count(&answers)),
                    out,
                );
                Ok("KILL")
            }
            // They change nothing.
            Statement::Show(_) | Statement::ShowParameter(..) | Statement::SetIgnored => Ok("SHOW"),
        }
    }

    async fn kill_client(&self, id: u64) -> Result<&'static str, Stopped> {
        let (worker, number) = own_number(id, self.worker.shared.desks.count());
        let ended = match number {
            Some(number) => count(&self.all(&Wish::KillClient { worker, number }).await?),
            None => 0,
        };
        if ended == 0 {
            return Err(failed("42704", format!("there is no client {id}"), None).into());
        }
        tracing::info!("KILL CLIENT {id} at the console");
        Ok("KILL")
    }

    /// Pauses, and waits until no server is lent any more. If the console's client does not wait for that, it is as if
    /// nothing had been said.
    async fn pause(&mut self, chosen: &Chosen, out: &mut Vec<u8>) -> Result<(), Stopped> {
        let was_paused = !self.begin_pause(chosen).await?;
        let mut stop = self.worker.stop.clone();
        let mut cancelled = pin!(self.entry.cancelled());
        let stopped_by: Option<Stopped> = loop {
            match self.all(&Wish::Lent(chosen.clone())).await {
                Ok(answers) if count(&answers) == 0 => break None,
                Ok(_) => {}
                Err(failure) => break Some(failure.into()),
            }
            tokio::select! {
                biased;
                () = stopped(&mut stop) => break Some(Stopped::Quit(Quit::Stopping)),
                () = &mut cancelled => {
                    let message = "canceling PAUSE due to user request: nothing is paused by it";
                    break Some(failed("57014", message, None).into());
                }
                () = self.stream.gone() => break Some(Stopped::Quit(Quit::Gone)),
                () = tokio::time::sleep(PAUSE_LOOK) => {}
            }
        };
        let Some(stopped_by) = stopped_by else {
            if was_paused {
                notice(Severity::Notice, "it was paused already", out);
            }
            return Ok(());
        };
        if !was_paused {
            self.take_back(chosen).await;
        }
        Err(stopped_by)
    }

    /// Has all workers pause. Whether they were not paused before.
    async fn begin_pause(&self, chosen: &Chosen) -> Result<bool, Stopped> {
        let answers = match self.all(&Wish::Pause(chosen.clone())).await {
            Ok(answers) => answers,
            Err(failure) => {
                self.take_back(chosen).await;
                return Err(failure.into());
            }
        };
        if answers.iter().any(|told| matches!(told, Told::TooManyPaused)) {
            return Err(failed("53400", "too many databases are paused by name", None).into());
        }
        Ok(answers.iter().any(|told| matches!(told, Told::Paused { is_news: true })))
    }

    async fn take_back(&self, chosen: &Chosen) {
        let Answers { silent, .. } = self.worker.shared.desks.ask(&Wish::Resume(chosen.clone())).await;
        if !silent.is_empty() {
            tracing::error!("{}", silence(&silent, "a PAUSE may not be taken back there; RESUME does that"));
        }
    }

    /// Has all workers do something; all must answer.
    async fn all(&self, wish: &Wish) -> Result<Vec<Told>, Failure> {
        let Answers { told, silent } = self.worker.shared.desks.ask(wish).await;
        if silent.is_empty() {
            return Ok(told.into_iter().map(|(_, told)| told).collect());
        }
        Err(failed("58000", silence(&silent, "the others have done it"), Some("Try again.")))
    }

    fn note_unknown(&self, chosen: &Chosen, pools: usize, out: &mut Vec<u8>) {
        if let (Chosen::One(database), 0) = (chosen, pools) {
            let name = String::from_utf8_lossy(database);
            let message = format!("no client has used the database \"{name}\" since the proxy started");
            notice(Severity::Notice, &message, out);
        }
    }

    fn told(&self, order: &str, chosen: &Chosen) {
        let of = match chosen {
            Chosen::All => "all databases".to_owned(),
            Chosen::One(database) => format!("database \"{}\"", String::from_utf8_lossy(database)),
        };
        tracing::info!("{order} at the console: {of}");
    }
}

/// The sum of what was counted.
fn count(answers: &[Told]) -> usize {
    let counts = answers.iter().map(|told| match told {
        Told::Count(count) => *count,
        _ => 0,
    });
    counts.sum()
}

fn elsewhere(which: Elsewhere) -> Failure {
    let (message, hint) = match which {
        Elsewhere::Shutdown => (
            "the proxy is not stopped from here: an agent may run in the same process",
            "Stop `pgkeel proxy` or `pgkeel run` by its service manager, or send the process SIGTERM.",
        ),
    };
    failed("0A000", message, Some(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_is_named() {
        let text = silence(&[1, 3], "try again");
        assert_eq!(text, "worker 1, 3 did not answer in 2 s; try again");
    }

    #[test]
    fn counts_are_summed_up() {
        assert_eq!(count(&[Told::Count(2), Told::TooManyPaused, Told::Count(3)]), 5);
    }
}
