//! `pgkeel invite`: one line to be run on a host that is to join.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster::WallMs;
use cluster::decide::switchover::{Order, Ordered};
use cluster::membership::TokenRole;
use cluster::status::{Role, Status};
use identity::Invitation;
use identity::invitation::fingerprint_of;
use serde::Serialize;

use super::agents::{Agents, first_answer};
use super::order;
use super::status::Format;
use super::text::say;
use crate::config;

/// What is wished.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Who may come.
    pub role: TokenRole,
    /// For so long.
    pub good_for: Duration,
    /// So many.
    pub uses: u32,
}

/// An invitation, and how it is used.
#[derive(Serialize)]
pub struct Invited {
    /// Its identity.
    pub id: String,
    /// What it is good for.
    pub role: TokenRole,
    /// Until when, in ms since 1970.
    pub until: WallMs,
    /// How many may use it.
    pub uses: u32,
    /// The agent that it is shown to.
    pub agent: String,
    /// The word itself: a secret.
    pub token: String,
    /// What to run on the other host.
    pub command: String,
}

/// A host on which `create` has not come to its end might found the cluster once more, after it has lost what it had: first
/// it has to know that the cluster exists.
///
/// # Errors
/// What to do.
pub fn check_founded(given: Option<&Path>) -> Result<(), String> {
    let usual = Path::new(config::FILE_DEFAULT);
    let file = given.unwrap_or(usual);
    // What is wrong with it is told when it is used.
    let Ok(config) = config::load(file) else { return Ok(()) };
    match config.agent {
        Some(agent) if !agent.founded && agent.members.len() == 1 => Err(format!(
            "{}: it does not say yet that the cluster exists (node.joined); run pgkeel create once more, without --no-start: it \
             goes on where it was, notes that, and prints an invitation",
            file.display()
        )),
        _ => Ok(()),
    }
}

/// Makes one and prints it. 1: it was refused, or nobody answered.
pub async fn run(agents: &Agents, format: Format, wish: Wish) -> ExitCode {
    match make(agents, wish).await {
        Ok(invited) => {
            match format {
                Format::Json => say(&(serde_json::to_string(&invited).unwrap_or_default() + "\n")),
                Format::Table => say(&told(&invited, wish.good_for)),
            }
            ExitCode::SUCCESS
        }
        Err(said) => {
            eprintln!("pgkeel invite: {said}");
            ExitCode::FAILURE
        }
    }
}

/// Takes one back.
pub async fn revoke(agents: &Agents, format: Format, id: String) -> ExitCode {
    // Whoever copies the whole word means its second part.
    let id = id.parse::<Invitation>().map_or(id, |whole| whole.id);
    let done = format!("invitation {id} is good for nobody any more");
    order::run(agents, format, Order::Uninvite { id }, &done).await
}

/// For people.
#[must_use]
pub fn told(invited: &Invited, good_for: Duration) -> String {
    let uses = if invited.uses == 1 { "once".to_owned() } else { format!("{} times", invited.uses) };
    format!(
        "for {}, within {}, {uses}; to be run on its host, as root:\n\n{}\n\nto take it back: pgkeel invite revoke {}\n",
        invited.role,
        humantime::format_duration(good_for),
        invited.command,
        invited.id
    )
}

/// Makes one.
///
/// # Errors
/// Why not.
pub async fn make(agents: &Agents, wish: Wish) -> Result<Invited, String> {
    if agents.caller.authorization().is_some() {
        return Err(
            "an invitation is made with a certificate, which names the authority, and not with a token"
                .to_owned(),
        );
    }
    let credentials = agents.caller.credentials().ok_or(
        "the cluster has no [tls], and without certificates nobody can be let in by an invitation: see `pgkeel cert init`, \
         and \"Going over while the cluster runs\" in docs/security.md",
    )?;
    let authority = fingerprint_of(credentials.folder()).map_err(|problem| problem.to_string())?;
    let status: Status = first_answer(agents, "/v1/status").await?;
    let agent =
        host_of(&status).ok_or("no node of the cluster has an address to join at; see pgkeel status")?;
    let invitation = Invitation::make(&authority).map_err(|error| error.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let until = WallMs::try_from((now + wish.good_for).as_millis()).unwrap_or(WallMs::MAX);
    let Wish { role, uses, .. } = wish;
    let (id, hash) = (invitation.id.clone(), invitation.hash());
    let asked = Order::Invite { id: id.clone(), hash, role, until, uses };
    if let Ordered::Refused { because } = order::send(agents, &asked, false).await? {
        let all: Vec<String> = because.iter().map(ToString::to_string).collect();
        return Err(format!("refused: {}", all.join("; ")));
    }
    let token = invitation.word();
    let command = match role {
        TokenRole::Data => format!("pgkeel join {agent} --token {token}"),
        TokenRole::Witness => format!("pgkeel join {agent} --witness --token {token}"),
        TokenRole::Proxy => format!("pgkeel add-proxy {agent} --token {token}"),
    };
    Ok(Invited { id, role, until, uses, agent, token, command })
}

/// Where to knock: at the primary's agent, which is likely to have the authority's key, else at any.
fn host_of(status: &Status) -> Option<String> {
    let with_data = status.nodes.iter().filter(|node| node.postgres.is_some() && !node.agent.is_empty());
    let mut all: Vec<_> = with_data.collect();
    all.sort_by_key(|node| (node.role != Role::Primary, node.role != Role::Standby));
    all.first().map(|node| node.agent.clone())
}
