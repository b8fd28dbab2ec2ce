//! Keeps what only this node has before a step undoes it.

use super::Hands;
use crate::postgres::{PgError, history, lost};
use cluster::observe::{Server, Standby};
use cluster::state::{Fork, State};
use cluster::{Timeline, lineage};

impl Hands {
    /// Copies aside the WAL that this sealed standby has beyond the line of the primary, if it has any.
    ///
    /// # Errors
    /// When the server does not say where it stands, or the WAL cannot be kept: nothing may be undone then.
    pub(super) async fn keep_lost(&self, primary_line: &str) -> Result<(), PgError> {
        let facts = self.facts();
        // Without a server, or before its data is consistent again, whatever was to be kept has been kept already.
        if self.guard().is_none() || facts.inconsistent || facts.unfinished.is_some() {
            return Ok(());
        }
        let Server::Standby(Standby { timeline, lsn, .. }) = self.probe().await? else {
            return Err(PgError::Unexpected(
                "the server is no standby: what only it has is not known".into(),
            ));
        };
        let state = self.store.state();
        if facts.line.as_deref() == Some(primary_line) {
            return Ok(()); // all that it has came from there
        }
        let line = facts.line.as_deref().and_then(|line| lineage::written_by(&state, line, timeline, lsn));
        let parted = line.or(facts.strayed.as_deref()).and_then(|l| lineage::parted(&state, l, primary_line));
        let strayed = facts.strayed.as_deref().and_then(|line| self.strayed_at(&state, line, timeline));
        let Some(fork) = [parted, strayed].into_iter().flatten().min_by_key(|fork| fork.at) else {
            tracing::warn!(
                "it is not known where this data left the cluster's WAL: it is set aside as a whole"
            );
            return Ok(());
        };
        if lsn <= fork.at {
            return Ok(());
        }
        let beyond = lost::Beyond {
            epoch: state.epoch,
            fork: fork.at,
            timeline,
            end: lsn,
            segment_bytes: self.segment_bytes(),
        };
        let (dir, record) = lost::keep(&self.place, &beyond, lost::KEPT_BYTES_MAX).await?;
        let bytes = beyond.end.bytes_after(beyond.fork);
        tracing::warn!("{bytes} bytes of WAL are on this node alone; kept in {}", dir.display());
        self.remember(|f| f.lost = Some(record.summary()))
    }

    /// Where data that was promoted by hand left the WAL of its line: the history file of that promotion says it.
    fn strayed_at(&self, state: &State, line: &str, timeline: Timeline) -> Option<Fork> {
        let published = state.promotions.iter().find(|p| p.promotion_id == line)?.published.as_ref()?;
        let forks = history::read_forks(&self.place, timeline).ok()?;
        forks.into_iter().find(|fork| fork.timeline == published.timeline)
    }

    /// Looks at what was kept and not examined yet; on the side, because nothing depends on it.
    pub(super) async fn examine_lost(&self) {
        for record in lost::examine_pending(&self.place).await {
            let summary = record.summary();
            tracing::warn!("lost: {summary}");
            let told = self.remember(|f| {
                if f.lost.as_ref().is_some_and(|l| l.from_lsn == record.from && l.to_lsn == record.to) {
                    f.lost = Some(summary);
                }
            });
            if let Err(e) = told {
                tracing::warn!("{e}");
            }
        }
    }
}
