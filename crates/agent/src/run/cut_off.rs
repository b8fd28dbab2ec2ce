//! Notices a standby that can never stream again: its upstream has removed the WAL that it needs next.
//!
//! Nothing is guessed. The standby must have replayed all of its own WAL and wait for more, and the primary's own agent
//! must say that its server is beyond that position and that the segment is not on its disk.

use super::{Event, Run, now};
use crate::http;
use crate::messages::WalHeld;
use crate::postgres::wal;
use crate::postgres::{PgError, Place};
use cluster::copy::CloneCause;
use cluster::observe::Server;
use cluster::{Epoch, Lsn, Millis, Moment};
use identity::Caller;
use std::time::Duration;

/// How long a standby may be without a stream before somebody asks why.
const WITHOUT_STREAM_MS: Millis = 2000;
/// The same where a restore_command may bring WAL that the primary has removed.
const WITHOUT_STREAM_ARCHIVE_MS: Millis = 60_000;
/// Between two questions.
const ASK_AGAIN_MS: Millis = 3000;
const ASK_LIMIT: Duration = Duration::from_secs(3);

/// What is known of a standby that does not stream.
#[derive(Default)]
pub(super) struct CutOff {
    /// Since when, with which position replayed, in which epoch.
    since: Option<(Epoch, Lsn, Moment)>,
    asked_at: Option<Moment>,
    asking: bool,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// In this epoch.
    epoch: Epoch,
    /// The position that it lacks and its upstream has no more; `None`: all is well, or it is not certain.
    lacks: Result<Option<Lsn>, String>,
}

impl Run {
    /// The position of a standby that follows and does not stream; it is not known before its data is consistent.
    fn without_stream(&self) -> Option<Lsn> {
        let (epoch, upstream) = self.local.following.as_ref()?;
        if *epoch != self.state.epoch || self.state.primary() != Some(upstream) {
            return None;
        }
        match &self.local.server {
            Server::Standby(s) if !s.streaming && s.upstream.as_ref() == Some(upstream) => Some(s.replay_lsn),
            Server::Starting if self.local.inconsistent => Some(Lsn(0)),
            _ => None,
        }
    }

    pub(super) fn watch_for_cut_off(&mut self) {
        let (at, epoch) = (now(), self.state.epoch);
        if matches!(self.local.must_clone, Some(CloneCause::CutOff { .. })) {
            let over = self.without_stream().is_none() && self.acting.is_idle();
            if over || self.cut_off.since.is_some_and(|(found_in, ..)| found_in != epoch) {
                self.local.must_clone = None;
            }
            return;
        }
        let Some(lsn) = self.without_stream() else {
            self.cut_off.since = None;
            return;
        };
        let same = self.cut_off.since.filter(|(e, l, _)| (*e, *l) == (epoch, lsn));
        let (_, _, since) = *self.cut_off.since.insert(same.unwrap_or((epoch, lsn, at)));
        let Some(hands) = self.parts.hands.clone() else { return };
        let archive = hands.place.settings.settings.contains_key("restore_command");
        let patience = if archive { WITHOUT_STREAM_ARCHIVE_MS } else { WITHOUT_STREAM_MS };
        let due = self.cut_off.asked_at.is_none_or(|asked| at.since(asked) >= ASK_AGAIN_MS);
        if self.cut_off.asking || !due || at.since(since) < patience {
            return;
        }
        let upstream = self.state.primary().and_then(|p| self.state.members.get(p)).map(|m| m.agent.clone());
        let Some(agent) = upstream else { return };
        (self.cut_off.asking, self.cut_off.asked_at) = (true, Some(at));
        let (starting, events) = (self.local.server == Server::Starting, self.events.clone());
        let caller = self.parts.caller.clone();
        tokio::spawn(async move {
            let lacks = lacks(&caller, &hands.place, &agent, starting).await;
            let _ = events.send(Event::CutOff(Found { epoch, lacks })).await;
        });
    }

    pub(super) fn on_cut_off(&mut self, found: Found) {
        self.cut_off.asking = false;
        let lacks = match found.lacks {
            Ok(lacks) => lacks,
            Err(e) => {
                tracing::warn!("does not stream, and it is not known why: {e}");
                return;
            }
        };
        let still = found.epoch == self.state.epoch && self.without_stream().is_some();
        if let (Some(needs), true, Some(upstream)) = (lacks, still, self.state.primary().cloned()) {
            let cause = CloneCause::CutOff { needs, upstream };
            tracing::warn!("cannot stream any more: {cause}");
            self.local.must_clone = Some(cause);
        }
    }
}

/// What the standby lacks and the upstream has no more.
async fn lacks(caller: &Caller, place: &Place, agent: &str, starting: bool) -> Result<Option<Lsn>, String> {
    let said = |e: PgError| e.to_string();
    let needed = if starting { wal::needed_at_start(place).await } else { wal::needed_next(place).await };
    let Some(needed) = needed.map_err(said)? else { return Ok(None) };
    let path = format!("/v1/wal?from={needed}");
    let answer: WalHeld = http::get(caller, agent, &path, ASK_LIMIT).await.map_err(|e| e.to_string())?;
    let beyond = answer.flushed.is_some_and(|flushed| flushed > needed);
    Ok((beyond && !answer.held).then_some(needed))
}
