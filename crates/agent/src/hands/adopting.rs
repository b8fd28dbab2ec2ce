//! Takes data over that were there before the cluster, once: from whoever runs a server on them, without changing a page.

use super::Hands;
use crate::postgres::adopt::Compared;
use crate::postgres::{PgError, adopt, control, history, process};
use cluster::Timeline;
use cluster::observe::Standby;
use cluster::state::{Phase, Promotion, State};
use std::time::Duration;

/// For the last checkpoint of a server that somebody else has started.
const STOP_LIMIT: Duration = Duration::from_secs(120);

impl Hands {
    /// Whether its data are still to be taken over.
    #[must_use]
    pub fn adopts(&self) -> bool {
        let facts = self.facts();
        // What it has got from a primary of the cluster, or lost the trace of since, is not taken over again.
        let untouched = facts.line.is_none() && facts.strayed.is_none() && !facts.copied && !facts.adopted;
        self.place.settings.adopt && untouched
    }

    /// Whether somebody else may run a server on its data: it is not the cluster's yet, so nobody waits for its end.
    #[must_use]
    pub fn awaits_adoption(&self) -> bool {
        let state = self.store.state();
        let before = match &state.phase {
            Phase::Empty => true,
            Phase::Initialising { node } => *node == self.me,
            _ => !state.members.contains_key(&self.me),
        };
        // What pgkeel has run is never somebody else's, whatever this node has lost.
        let foreign = !adopt::is_ours(&self.place);
        self.adopts() && before && foreign && self.facts().unfinished.is_none()
    }

    pub(super) async fn end_orphan(&self) -> Result<(), PgError> {
        if self.awaits_adoption() {
            return Ok(());
        }
        process::end_orphan(&self.place).await
    }

    /// Ends the server that ran before, so that it can be started under the guard. It must have been a primary: a standby's data
    /// that are started as a primary's would go on with the WAL of a timeline that is another's. And it must not have been pgkeel's:
    /// a node that has lost its own directory would make a second cluster of what it has.
    pub(super) async fn take_over_primary(&self) -> Result<(), PgError> {
        let data = self.place.data();
        if adopt::is_ours(&self.place) {
            return Err(PgError::Unexpected(format!(
                "the data in {} belong to a node of pgkeel, or did: they are not taken over once more. To bring this host back, empty \
                 its directories and run pgkeel join with another --node",
                data.display()
            )));
        }
        let before = self.control().await?;
        let signal = ["standby.signal", "recovery.signal"].into_iter().find(|name| data.join(name).exists());
        if signal.is_some() || !matches!(before.state.as_str(), "in production" | "shut down") {
            return Err(PgError::Unexpected(format!(
                "the data in {} are no primary's ({}{}): pgkeel adopt is for the primary, its standbys follow by pgkeel join --adopt",
                data.display(),
                before.state,
                signal.map(|name| format!(", {name} is there")).unwrap_or_default()
            )));
        }
        // Without it nobody could tell later which WAL is of this history.
        history::read_forks(&self.place, before.timeline)?;
        tracing::info!("stops the server that ran before, in order, and starts it again under the guard");
        process::end_in_order(&self.place, STOP_LIMIT).await?;
        if self.control().await?.shut_down_at.is_none() {
            return Err(PgError::Unexpected(format!(
                "the server of {} has not stopped in order; start it as it was, see whether it takes writes, and leave it running",
                data.display()
            )));
        }
        adopt::set_configuration_aside(&self.place)
    }

    /// The same for a standby. One that was promoted meanwhile is somebody's primary: it is left alone.
    pub(super) async fn take_over_standby(&self) -> Result<(), PgError> {
        let data = self.place.data();
        let no_standby = |state: &str| {
            PgError::Unexpected(format!(
                "the data in {} are not those of a standby that runs, or has stopped in order ({state}): they are not taken over",
                data.display()
            ))
        };
        if adopt::is_ours(&self.place) {
            return Ok(());
        }
        let before = self.control().await?.state;
        if !data.join("standby.signal").exists()
            || !matches!(before.as_str(), "in archive recovery" | "shut down in recovery")
        {
            return Err(no_standby(&before));
        }
        process::end_in_order(&self.place, STOP_LIMIT).await?;
        let after = self.control().await?.state;
        if after != "shut down in recovery" {
            return Err(no_standby(&after));
        }
        adopt::set_configuration_aside(&self.place)
    }

    async fn control(&self) -> Result<control::Control, PgError> {
        let control = control::look(&self.place).await?.1;
        let gone = || format!("{} holds no database any more", self.place.data().display());
        control.ok_or_else(|| PgError::Unexpected(gone()))
    }

    /// Finds out of which line the data of this standby are, by comparing what is certain to tell: the history of its timeline,
    /// and its WAL since its last checkpoint with the primary's, byte by byte. Until it is known nothing is done: it would be copied
    /// anew.
    pub(super) async fn adopt_line(&self, standby: &Standby) -> Result<(), PgError> {
        let state = self.store.state();
        let (timeline, lsn) = (standby.timeline, standby.lsn);
        let not_shown = |why: String| {
            PgError::Unexpected(format!(
                "it is not taken over, because {why}. To have it copied anew instead, remove `adopt` from its configuration file \
                 and start its agent again"
            ))
        };
        let Some(promotion) = opened(&state, timeline) else {
            return Err(not_shown(format!("no primary of this cluster has written timeline {timeline}")));
        };
        let forks = promotion.published.as_ref().map(|published| published.forks.clone()).unwrap_or_default();
        if history::read_forks(&self.place, timeline)? != forks {
            return Err(not_shown(format!("its timeline {timeline} has another history than the cluster's")));
        }
        let primary = state.primary().filter(|node| **node != self.me).cloned();
        let primary =
            primary.ok_or_else(|| not_shown("there is no primary to compare it with".to_owned()))?;
        let upstream = self.upstream(&primary)?;
        let Some(from) = self.control().await?.checkpoint.filter(|from| *from < lsn) else {
            return Err(not_shown("it is not known where its last checkpoint is".to_owned()));
        };
        let wal = adopt::Wal { timeline, from, to: lsn, segment_bytes: self.segment_bytes() };
        match adopt::compare(&self.place, &upstream, &wal).await? {
            Compared::Same => {}
            Compared::Removed => {
                return Err(not_shown(format!(
                    "{primary} does not hold its WAL from {from} to {lsn} any more"
                )));
            }
            Compared::Other => {
                return Err(not_shown(format!(
                    "its WAL from {from} to {lsn} is not what {primary} has there"
                )));
            }
        }
        tracing::info!(
            "its data, up to {lsn} on timeline {timeline}, are the cluster's: they are taken over"
        );
        let line = promotion.promotion_id.clone();
        self.remember(|f| {
            f.line = Some(line);
            f.adopted = true;
            // It has confirmed nothing to this cluster yet.
            f.copied = true;
        })
    }
}

/// The promotion that opened a timeline, when it can be told.
fn opened(state: &State, timeline: Timeline) -> Option<&Promotion> {
    let wrote = |p: &&Promotion| p.published.as_ref().is_some_and(|published| published.timeline == timeline);
    let mut all = state.promotions.iter().filter(wrote);
    all.next().filter(|_| all.next().is_none())
}
