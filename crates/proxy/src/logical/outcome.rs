//! What becomes of settings that are changed inside a transaction.

use super::last_values::LastValues;
use super::settings::name_statement;
use super::{Holding, Logical, Settings};
use crate::sql::{ChannelChange, Effect, Pin};
use pgwire::TransactionStatus;
use std::collections::HashSet;

/// With so many changes in one transaction, those that later ones have taken back are forgotten.
const PENDING_MAX: usize = 1_000;

/// Of the transaction that is open, or of the statements up to the next ReadyForQuery.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pending: Vec<Effect>,
    /// BEGIN has succeeded since the last ReadyForQuery.
    begun: bool,
    in_savepoint: bool,
    failed: bool,
    /// COMMIT or ROLLBACK has succeeded, or an error was told, since the last ReadyForQuery.
    ended: bool,
    told_error: bool,
    /// A setting was changed of which SET changes a part only; which value that makes, the server reports before it is
    /// ready.
    restates_date_style: bool,
    /// The server has told the client another application name.
    tells_name: bool,
    /// The last that was committed of it is a RESET, or a SET.
    resets_name: bool,
    sets_name: bool,
}

impl Outcome {
    fn add(&mut self, effect: Effect) {
        if self.pending.len() >= PENDING_MAX {
            let mut behind = HashSet::new();
            let mut is_last = |effect: &Effect| match effect {
                Effect::Set { name, .. } | Effect::Reset { name } => behind.insert(name.clone()),
                Effect::ResetAll | Effect::Deallocate { .. } => behind.insert(Box::default()),
            };
            let kept: Vec<bool> = self.pending.iter().rev().map(&mut is_last).collect();
            let mut kept = kept.into_iter().rev();
            // What succeeded is a setting that the server has, of which there are some hundreds.
            self.pending.retain(|_| kept.next().unwrap_or(true));
        }
        self.pending.push(effect);
    }

    /// BEGIN is taken to have succeeded.
    pub(super) fn begin(&mut self) {
        self.begun = true;
    }

    /// Whether BEGIN has succeeded in the transaction that is open, or since the last ReadyForQuery.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether COMMIT or ROLLBACK has succeeded since the last ReadyForQuery.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether an error was told since the last ReadyForQuery.
    pub(super) fn has_told_error(&self) -> bool {
        self.told_error
    }
}

impl Logical {
    /// A statement has succeeded, with this command tag.
    /// With its effect, or what it does to a channel.
    pub(super) fn command_completed(
        &mut self,
        tag: &[u8],
        (effect, channel): (Option<&Effect>, Option<ChannelChange>),
        holding: &mut Holding,
    ) {
        match tag {
            b"SET" | b"RESET" => {
                if let Some(effect) = effect {
                    if self.outcome.in_savepoint {
                        self.pins.add(Pin::Setting);
                    }
                    self.outcome.add(effect.clone());
                }
            }
            b"COMMIT" => {
                self.outcome.ended = true;
                self.settle(holding);
                self.settle_channels(false);
                // It may have begun the next one.
                self.outcome.in_savepoint = false;
            }
            b"BEGIN" | b"START TRANSACTION" => self.outcome.begun = true,
            b"ROLLBACK" => {
                self.outcome.ended |= self.outcome.begun || self.in_transaction();
                // To a savepoint, or to the end: both are possible.
                if self.outcome.in_savepoint && !self.outcome.pending.is_empty() {
                    self.pins.add(Pin::Setting);
                }
                // Without a BEGIN it undoes what the same pipeline has done (src/backend/access/transam/xact.c,
                // UserAbortTransactionBlock).
                self.outcome.pending.clear();
                let is_part = channel == Some(ChannelChange::EndsPart);
                self.channels_rolled_back(is_part);
                self.outcome.in_savepoint &= is_part;
            }
            b"SAVEPOINT" => self.outcome.in_savepoint = true,
            b"LISTEN" | b"UNLISTEN" => self.channel_changed(channel, self.outcome.in_savepoint),
            b"DEALLOCATE" => {
                if let Some(Effect::Deallocate { name }) = effect
                    && let Some(gone) = self.forget(name)
                {
                    holding.statements.remove(&gone.number);
                }
            }
            b"DEALLOCATE ALL" => self.deallocated_all(holding),
            b"DISCARD ALL" => self.discarded_all(holding),
            b"DISCARD SEQUENCES" => holding.last_values = LastValues::OfNobody,
            _ => {}
        }
    }

    fn deallocated_all(&mut self, holding: &mut Holding) {
        // Nothing is sent behind a statement that is known to do so. Whether these came before it, nobody can say.
        if self.has_statements_behind() {
            self.lose_sight();
        }
        self.statements.clear();
        self.statements_bytes = 0;
        holding.statements.clear();
    }

    fn discarded_all(&mut self, holding: &mut Holding) {
        self.deallocated_all(holding);
        holding.last_values = LastValues::OfNobody;
        self.settings = self.first_settings.clone();
        holding.in_place = Settings::default();
        self.outcome = Outcome { resets_name: true, ..Outcome::default() };
        self.give_up_all_channels();
        // Only if nothing was sent behind it that pins again.
        if self.expected.len() <= 1 {
            self.pins = self.pins.after_discard_all();
        }
    }

    /// The server is ready, with this status.
    pub(super) fn ready(&mut self, status: TransactionStatus, holding: &mut Holding) {
        if self.keeps_begin() || self.begin_ahead {
            // It was said before the client's transaction, of something that the proxy has asked.
            return;
        }
        self.transaction = status;
        match status {
            TransactionStatus::Idle => {
                if self.outcome.failed {
                    self.outcome.pending.clear();
                }
                self.settle(holding);
                self.settle_channels(self.outcome.failed);
                if self.outcome.tells_name && !self.outcome.resets_name {
                    self.restate_application_name(holding);
                }
                if self.outcome.restates_date_style {
                    self.restate_date_style(holding);
                }
                self.outcome = Outcome::default();
                self.unshared &= !self.expected.is_empty();
            }
            TransactionStatus::InTransaction | TransactionStatus::Failed => {
                // ROLLBACK TO a savepoint undoes an error.
                self.outcome.failed = status == TransactionStatus::Failed;
                (self.outcome.ended, self.outcome.told_error) = (false, false);
                // What was told so far was a reset that is committed.
                self.outcome.tells_name &= !self.outcome.resets_name;
                (self.outcome.resets_name, self.outcome.sets_name) = (false, false);
            }
        }
        // They live as long as their transaction.
        if self.expected.is_empty() && status == TransactionStatus::Idle {
            self.portals.clear();
        }
    }

    /// Whether no change of a setting is pending.
    pub(super) fn is_settled(&self) -> bool {
        self.outcome.pending.is_empty()
    }

    #[cfg(test)]
    pub(super) fn pending_changes(&self) -> usize {
        self.outcome.pending.len()
    }

    /// An error was reported.
    pub(super) fn statement_failed(&mut self) {
        (self.outcome.failed, self.outcome.told_error) = (true, true);
    }

    /// The server says that the client's application name is another one now.
    pub(super) fn told_name(&mut self) {
        self.outcome.tells_name = true;
    }

    fn name_changed(&mut self, setting: &str, is_set: bool) {
        if setting == "application_name" {
            (self.outcome.sets_name, self.outcome.resets_name) = (is_set, !is_set);
        }
    }

    /// It may have been changed in passing, mostly by set_config: no examination shows that, for servers keep the names of
    /// others. What the server has told last holds, whatever changed it.
    fn restate_application_name(&mut self, holding: &mut Holding) {
        let Some(name) = holding.reported.get(b"application_name") else { return };
        let text = name_statement(name);
        // A transaction that has changed it was rolled back.
        if self.settings.has("application_name", &text) {
            return;
        }
        // What RESET ALL comes to on a server is not what the client has begun with.
        if !self.outcome.sets_name && *name == *holding.first_name {
            return self.reset_in_place("application_name", holding);
        }
        if !self.settings.set("application_name", &text) {
            self.pins.add(Pin::Setting);
        }
        holding.in_place.set("application_name", &text);
    }

    /// `SET DateStyle = ymd` keeps the style of output that an earlier one has set (src/backend/commands/variable.c,
    /// `check_datestyle`).
    fn restate_date_style(&mut self, holding: &mut Holding) {
        let Some(value) = holding.reported.get(b"DateStyle") else { return self.pins.add(Pin::Setting) };
        let text = [b"SET DateStyle = '", value, b"'"].concat();
        self.settings.set("datestyle", &text);
        holding.in_place.set("datestyle", &text);
    }

    fn reset_in_place(&mut self, name: &str, holding: &mut Holding) {
        self.settings.reset(name);
        self.settings.set_again(&self.first_settings, Some(name));
        holding.in_place.reset(name);
    }

    /// What was pending holds.
    fn settle(&mut self, holding: &mut Holding) {
        for effect in std::mem::take(&mut self.outcome.pending) {
            match effect {
                Effect::Set { name, text } => {
                    self.name_changed(&name, true);
                    self.outcome.restates_date_style |= &*name == "datestyle";
                    if !self.settings.set(&name, &text) {
                        self.pins.add(Pin::Setting);
                    }
                    holding.in_place.set(&name, &text);
                }
                Effect::Reset { name } => {
                    self.name_changed(&name, false);
                    self.reset_in_place(&name, holding);
                }
                Effect::ResetAll => {
                    self.name_changed("application_name", false);
                    self.settings.reset_all();
                    self.settings.set_again(&self.first_settings, None);
                    holding.in_place.reset_all();
                }
                Effect::Deallocate { .. } => {}
            }
        }
        if self.settings == holding.in_place {
            holding.in_place = self.settings.clone();
        }
    }
}
