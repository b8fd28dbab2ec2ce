//! Starts servers, starts them again, and gives them the cluster-wide configuration.

use super::{Done, Hands, PROBE_LIMIT, STOP_LIMIT, lock};
use crate::clock::boottime_ms;
use crate::fence;
use crate::postgres::configuration::{self, Managed};
use crate::postgres::connection::connect;
use crate::postgres::judge::{self, Wrong};
use crate::postgres::layers::{self, Doors};
use crate::postgres::process::{self, Kind};
use crate::postgres::{PgError, control, pending, prepare};
use cluster::configuration::Content;
use cluster::observe::Server;
use cluster::state::SyncSet;
use cluster::step::sync_of_standby;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A primary that restarts must serve again by then: after an orderly stop it has nothing to replay.
const SERVE_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Pause between two tries to reach a server that was found; doubled up to the maximum.
const REFRESH_AGAIN: Duration = Duration::from_millis(200);
const REFRESH_AGAIN_MAX: Duration = Duration::from_secs(10);
/// So much of the lease must be left for a server to be worth starting.
const LEFT_MIN_MS: u64 = 100;

impl Hands {
    pub(super) async fn start(&self, kind: Kind) -> Result<Done, PgError> {
        if self.adopts() && kind == Kind::Standby {
            self.take_over_standby().await?;
        }
        process::end_orphan(&self.place).await?;
        let state = self.store.state();
        let token = state.restart.as_ref().and_then(|restart| restart.token_of(&self.me));
        self.remember(|f| {
            f.following = None;
            f.restarted = token.or(f.restarted.take());
        })?;
        let sync = match kind {
            Kind::Primary => state.sync_target(),
            Kind::Standby => sync_of_standby(&state),
        };
        self.write_files(kind, sync, Doors::Open).await?;
        let deadline = match kind {
            Kind::Standby => None,
            // A primary is never started without somebody who ends it: the first lease comes within a heartbeat.
            Kind::Primary => {
                let lease = self.store.state().settings.as_ref().map_or(1000, |s| s.lease_ms());
                Some(boottime_ms() + lease)
            }
        };
        self.launch(deadline).await
    }

    async fn write_files(&self, kind: Kind, sync: SyncSet, doors: Doors) -> Result<(), PgError> {
        let _writing = self.writing.lock().await;
        let state = self.store.state();
        let (version, content) = (state.configuration.number(), state.configuration.content());
        let mut managed = Managed { upstream: None, sync: Some(sync), needed: Vec::new() };
        *lock(&self.sealed_with) = None;
        let data = self.place.data();
        configuration::write_all(&self.place, data, &self.me, &managed, (content, doors))?;
        if kind == Kind::Standby
            && let Some(control) = control::look(&self.place).await?.1
        {
            managed.needed = pending::needed(&self.place, content, &control).await?;
            if !managed.needed.is_empty() {
                configuration::write_managed(&self.place, data, &self.me, &managed)?;
            }
        }
        self.sync_taken_back.store(0, Ordering::Relaxed);
        self.remember(|f| f.configured = version)?;
        process::mark_standby(&self.place, kind)
    }

    async fn launch(&self, deadline_ms: Option<u64>) -> Result<Done, PgError> {
        self.fence_until(deadline_ms).await?;
        self.held_until.store(deadline_ms.unwrap_or(0), Ordering::Relaxed);
        self.session.forget();
        let table = self.fence.as_ref().map(|_| fence::table(self.place.settings.port));
        let (guard, events) = process::start(&self.place, deadline_ms, table).await?;
        self.adopt(guard, events);
        Ok(Done::Started)
    }

    /// A standby's server ends in order and starts again.
    pub(super) async fn restart(&self, token: Option<&str>) -> Result<Done, PgError> {
        let asked = self.store.state().restart.as_ref().and_then(|restart| restart.token_of(&self.me));
        if token.is_some() && asked.as_deref() != token {
            return Err(PgError::Unexpected("given up: nobody wants this restart any more".to_owned()));
        }
        self.stop(STOP_LIMIT).await?;
        self.start(Kind::Standby).await
    }

    /// The primary's server ends in order and starts again as the primary that it is.
    ///
    /// Nobody is told meanwhile that it has ended (`Acting::starts_server`), so nobody takes its lease for returned, and the
    /// new server has no other deadline than the old one had: whoever waits for the end of this lease waits for both.
    /// Clients come in when sessions surely wait for standbys again: that follows a flag which the checkpointer sets after
    /// the start (SyncRepUpdateSyncStandbysDefined, src/backend/replication/syncrep.c), in older minor versions later than
    /// the first commit.
    pub(super) async fn restart_primary(&self, token: &str, sync: &SyncSet) -> Result<Done, PgError> {
        self.stop(STOP_LIMIT).await?;
        let deadline = self.held_until.load(Ordering::Relaxed);
        let state = self.store.state();
        let wanted = state.handover.as_ref().is_some_and(|h| h.id == token && h.is_in_place());
        if !wanted {
            return Err(PgError::Unexpected("given up: nobody wants this restart any more".to_owned()));
        }
        if deadline < boottime_ms() + LEFT_MIN_MS {
            return Err(PgError::Unexpected(
                "its lease ended while the server stopped, so it may not start as primary".to_owned(),
            ));
        }
        self.remember(|f| f.restarted = Some(token.to_owned()))?;
        self.write_files(Kind::Primary, sync.clone(), Doors::Closed).await?;
        let serves = async {
            self.launch(Some(deadline)).await?;
            self.wait_until_primary().await?;
            prepare::checkpoint(&self.place).await?;
            self.open_doors().await
        };
        let served = tokio::time::timeout(SERVE_LIMIT, serves).await.unwrap_or_else(|_| {
            let doing = "the start of the primary".to_owned();
            Err(PgError::Slow { doing, limit_s: SERVE_LIMIT.as_secs() })
        });
        if let Err(e) = served {
            // What is said next is that it has ended.
            self.fence().await?;
            return Err(e);
        }
        Ok(Done::Started)
    }

    async fn wait_until_primary(&self) -> Result<(), PgError> {
        loop {
            match self.probe().await {
                Ok(Server::Primary { .. }) => return Ok(()),
                Ok(Server::Starting) => {}
                Ok(other) => {
                    return Err(PgError::Unexpected(format!(
                        "the server started as {other:?}, not as primary"
                    )));
                }
                Err(e) if self.guard().is_none() => return Err(e),
                Err(_) => {}
            }
            if self.guard().is_none() {
                return Err(PgError::Unexpected(
                    "the server ended while it started; its log says why".to_owned(),
                ));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn open_doors(&self) -> Result<(), PgError> {
        let _writing = self.writing.lock().await;
        let state = self.store.state();
        layers::write_hba(&self.place, self.place.data(), state.configuration.content(), Doors::Open)?;
        self.reload().await
    }

    /// A server that was found running has what its files said then: they are brought up to date.
    pub async fn refresh(&self) {
        let mut pause = REFRESH_AGAIN;
        while self.guard().is_some() {
            match self.take_on(self.facts().configured).await {
                Ok(_) => return,
                Err(e) => tracing::debug!("the server's files are not brought up to date yet: {e}"),
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(REFRESH_AGAIN_MAX);
        }
    }

    /// Gives the running server the cluster-wide configuration, which is of this version or a later one.
    pub(super) async fn take_on(&self, version: u64) -> Result<Done, PgError> {
        let _writing = self.writing.lock().await;
        let state = self.store.state();
        let (present, content) = (state.configuration.number(), state.configuration.content());
        if present < version.max(self.facts().configured) {
            return Err(PgError::Unexpected(format!(
                "version {version} of the configuration is not here yet"
            )));
        }
        let data = self.place.data();
        let before = std::fs::read(data.join("pg_hba.conf")).unwrap_or_default();
        layers::write(&self.place, data, content, Doors::Open)?;
        let client = connect(&self.place, PROBE_LIMIT).await?;
        let wrong = judge::rule_errors(&client).await?;
        if !wrong.is_empty() {
            // PostgreSQL would go on with the old rules, and not start with these.
            crate::postgres::files::replace(&data.join("pg_hba.conf"), before, self.place.owner())?;
        }
        self.reload().await?;
        if !wrong.is_empty() {
            return Err(PgError::Unexpected(format!(
                "rules of version {present} for pg_hba.conf are not right here, the old ones stay: {}",
                wrong.join("; ")
            )));
        }
        self.remember(|f| f.configured = present)?;
        Ok(Done::Plain)
    }

    /// Whether this node's server takes a configuration.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn judge(&self, to: &Content) -> Result<Wrong, PgError> {
        let _writing = self.writing.lock().await;
        if self.guard().is_none() {
            return Err(PgError::Unexpected("its server does not run".to_owned()));
        }
        let state = self.store.state();
        judge::judge(&self.place, state.configuration.content(), to).await
    }

    /// Lets the running server read its configuration files again.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn read_again(&self) -> Result<(), PgError> {
        let _writing = self.writing.lock().await;
        self.reload().await
    }
}
