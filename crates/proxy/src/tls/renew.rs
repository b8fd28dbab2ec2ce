//! Certificates are replaced while clients are connected: has them read again.

use super::Tls;
use identity::file_changes::{FileChanges, LOOK_EVERY};
use identity::files::Problem;
use std::sync::Arc;

/// Keeps both sides as their files say. Never returns.
pub async fn keep_current(tls: Arc<Tls>) {
    let mut clients = tls.clients.as_ref().map(|side| (side, FileChanges::since(side.stamp())));
    let mut servers = tls.servers.as_ref().map(|side| (side, FileChanges::since(side.stamp())));
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Some((side, changes)) = &mut clients
            && changes.are_due(side.stamp_now())
        {
            tell("the certificate for clients", changes, side.renew());
        }
        if let Some((side, changes)) = &mut servers
            && changes.are_due(side.stamp_now())
        {
            tell("the authorities that sign servers' certificates", changes, side.renew());
        }
    }
}

fn tell(what: &str, changes: &mut FileChanges, outcome: Result<(), Problem>) {
    match outcome {
        Ok(()) => {
            changes.succeeded();
            tracing::info!("{what}: the new file is in use from now on; open sessions keep the old one")
        }
        Err(problem) => {
            if changes.failed(&problem.to_string()) {
                tracing::error!("{what}: the old file stays in use, because of the new one: {problem}");
            }
        }
    }
}
