//! Copies the cluster's data: sees that there is room, takes the least busy source, and another one when it fails.

use super::{Done, Hands, lock};
use crate::http;
use crate::marker::Facts;
use crate::messages::DataSize;
use crate::postgres::configuration::Upstream;
use crate::postgres::{PgError, basebackup, process, room, slots};
use cluster::copy::{self, Choice, ChosenBecause, CloneCause, CopyProgress};
use cluster::observe::{RejoinWay, Server};
use cluster::status::Status;
use cluster::step::Unfinished;
use cluster::{Lsn, NodeName};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Looking at the size of many files takes a while.
const SIZE_LIMIT: Duration = Duration::from_secs(60);
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Tells how far a copy is as long as it lives.
pub(super) struct Telling<'a> {
    hands: &'a Hands,
    from: NodeName,
    logged: Instant,
}

impl Telling<'_> {
    pub(super) fn note(&mut self, done_bytes: u64, total_bytes: u64) {
        let progress = CopyProgress { from: self.from.clone(), done_bytes, total_bytes };
        if self.logged.elapsed() >= LOG_EVERY {
            self.logged = Instant::now();
            tracing::info!("copied {progress}");
        }
        *lock(&self.hands.progress) = Some(progress);
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        *lock(&self.hands.progress) = None;
    }
}

impl Hands {
    /// How far the copy under way is.
    #[must_use]
    pub fn progress(&self) -> Option<CopyProgress> {
        lock(&self.progress).clone()
    }

    pub(super) fn telling(&self, from: &NodeName) -> Telling<'_> {
        let mut telling = Telling { hands: self, from: from.clone(), logged: Instant::now() };
        telling.note(0, 0);
        telling
    }

    /// Replaces the data by a copy of what the primary `of` has; what was there is set aside.
    pub(super) async fn clone_from(
        &self,
        of: &NodeName,
        line: &str,
        cause: &CloneCause,
    ) -> Result<Done, PgError> {
        let primary = self.upstream(of)?;
        let timeline = self.store.state().last_published().map_or(0, |(_, published)| published.timeline);
        // What this node has confirmed must be in the copy: it would be missing when the primary is lost meanwhile.
        let held = self.held_of(line).await?;
        self.keep_lost(line).await?;
        let mut failed = BTreeSet::new();
        loop {
            let Choice { node, why } = self.source(of, cause, &failed).await;
            tracing::info!("copies from {node}: {why}");
            let copying = self.copy_one(&node, &primary, cause);
            let (copied, ()) = tokio::join!(copying, self.examine_lost());
            let checked = copied.and_then(|()| basebackup::check(&self.place, timeline, held));
            match checked {
                Ok(()) => break,
                Err(e) if node == *of || matches!(e, PgError::NoRoom(_)) => return Err(e),
                Err(e) => {
                    tracing::warn!("the copy from {node} failed, another node is asked: {e}");
                    failed.insert(node);
                }
            }
        }
        process::end_copying(&self.place).await?;
        self.fence().await?;
        // What is set aside now may be what a later epoch needs: it was needless before its primary was lost.
        if !self.store.state().serves(line) {
            return Err(PgError::Unexpected(format!("given up: {of} is not the primary any more")));
        }
        let unfinished = self.facts().unfinished;
        self.remember(|f| f.unfinished = Some(Unfinished::Clone))?;
        if let Err(e) = basebackup::exchange(&self.place) {
            if basebackup::is_occupied(self.place.data()) {
                // Nothing has been moved: the node still has what it had.
                self.remember(|f| f.unfinished = unfinished)?;
            }
            return Err(e);
        }
        self.remember(|f| {
            let (promised, leased_again, lost) = (f.promised, f.leased_again, f.lost.take());
            let line = Some(line.to_owned());
            let copied = Facts { inconsistent: true, copied: true, ..Facts::default() };
            *f = Facts { line, promised, leased_again, lost, ..copied };
        })?;
        Ok(Done::DataChanged(RejoinWay::Clone))
    }

    /// How much this node has of the primary's own line.
    async fn held_of(&self, line: &str) -> Result<Option<Lsn>, PgError> {
        let facts = self.facts();
        let sound = self.guard().is_some() && !facts.inconsistent && facts.unfinished.is_none();
        if !sound || facts.line.as_deref() != Some(line) {
            return Ok(None);
        }
        match self.probe().await? {
            Server::Standby(standby) => Ok(Some(standby.lsn)),
            _ => Ok(None),
        }
    }

    async fn source(&self, primary: &NodeName, cause: &CloneCause, failed: &BTreeSet<NodeName>) -> Choice {
        let named = match cause {
            CloneCause::Ordered { from, .. } => from.as_ref(),
            _ => None,
        };
        let leader = self.store.standing().borrow().leader.clone();
        let agent = leader.and_then(|l| self.store.state().members.get(&l).map(|m| m.agent.clone()));
        if let Some(agent) = agent
            && let Ok(status) =
                http::get::<Status>(&self.caller, &agent, "/v1/status?local=1", ASK_LIMIT).await
        {
            return copy::choose(&status, &self.me, primary, named, failed);
        }
        Choice { node: primary.clone(), why: ChosenBecause::NotKnown }
    }

    async fn copy_one(&self, from: &NodeName, primary: &Upstream, cause: &CloneCause) -> Result<(), PgError> {
        let source = self.upstream(from)?;
        basebackup::clear(&self.place).await?;
        let needed = self.size_of(from).await.unwrap_or(0);
        room::check(&self.place, from, needed)?;
        // The copy goes on at the primary, whoever it came from: WAL is kept for it there from now on.
        slots::wait_until_kept(primary, &self.me).await?;
        // One that is cut off serves until there is something better; it gets nothing new and so confirms nothing.
        if !matches!(cause, CloneCause::CutOff { .. }) {
            self.fence().await?;
        }
        let mut telling = self.telling(from);
        let copied = basebackup::copy(&self.place, &source, |done, total| telling.note(done, total)).await;
        let Err(error) = copied else { return Ok(()) };
        let explained = room::explain(&self.place, error, Some(needed));
        // A full disk stops more than this copy.
        basebackup::clear(&self.place).await?;
        Err(explained)
    }

    async fn size_of(&self, node: &NodeName) -> Option<u64> {
        let agent = self.store.state().members.get(node).map(|m| m.agent.clone())?;
        match http::get::<DataSize>(&self.caller, &agent, "/v1/size", SIZE_LIMIT).await {
            Ok(size) => Some(size.bytes),
            Err(e) => {
                tracing::warn!("it is not known how large the data of {node} are: {e}");
                None
            }
        }
    }
}
