//! Looks at the files that the settings name before anything is started.

use crate::hba::Hba;
use crate::settings::{ClientAuth, Settings};
use crate::tls::{Clients, Servers};

/// Everything about the settings' files that stands in the way, one sentence each; empty when nothing does.
#[must_use]
pub fn check_files(settings: &Settings) -> Vec<String> {
    let clients = settings.tls.as_ref().map(Clients::load).transpose();
    let servers = Servers::load(&settings.server_tls);
    let mut problems = Vec::new();
    match &clients {
        Ok(clients) => problems.extend(clients.iter().flat_map(Clients::doubts)),
        Err(problem) => problems.push(problem.clone()),
    }
    problems.extend(servers.err());
    let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    if let Some(ClientAuth::Rules(files, _)) = settings.pool.as_ref().map(|pool| &pool.auth) {
        problems.extend(Hba::load(files).err().map(|problem| problem.to_string()));
    }
    problems
}
