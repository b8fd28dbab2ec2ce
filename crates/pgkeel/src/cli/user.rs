//! `pgkeel user`: who may use the agents' API with a token instead of a certificate.

use std::process::ExitCode;

use agent::messages::UserTold;
use clap::{Args, Subcommand};
use cluster::decide::switchover::{Order, Ordered};
use cluster::users::UserRole;
use identity::Token;
use serde::Serialize;

use super::agents::{Agents, first_answer};
use super::args::AskArgs;
use super::order;
use super::status::Format;
use super::text::{columns, local_times, say};

/// Commands on users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Let somebody, or a program, use the agents' API with a token, which is shown once
    Add(AddArgs),
    /// Show them: name, role, who added them and when; not the tokens, which nobody knows
    List {
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Refuse a user's token from now on
    Remove {
        /// The user
        name: String,
        /// Whom to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// Options of `user add`.
#[derive(Args, Debug)]
pub struct AddArgs {
    /// Its name: letters, digits, '_', '-', '.' or '@'
    pub name: String,
    /// viewer may look, operator also give orders, admin do everything that a person can
    #[arg(long, value_name = "ROLE")]
    pub role: RoleArg,
    /// Whom to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// What a user may, on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RoleArg {
    /// May look
    Viewer,
    /// May look and give orders
    Operator,
    /// May do everything that a person can
    Admin,
}

impl From<RoleArg> for UserRole {
    fn from(role: RoleArg) -> UserRole {
        match role {
            RoleArg::Viewer => UserRole::Viewer,
            RoleArg::Operator => UserRole::Operator,
            RoleArg::Admin => UserRole::Admin,
        }
    }
}

/// What `user add --json` prints.
#[derive(Serialize)]
struct Added {
    name: String,
    role: UserRole,
    /// A secret.
    token: String,
}

/// Adds one and prints the token. 1: it was refused, or nobody answered.
pub async fn add(agents: &Agents, format: Format, name: String, role: UserRole) -> ExitCode {
    match make(agents, name, role).await {
        Ok(added) => {
            say(&match format {
                Format::Json => serde_json::to_string(&added).unwrap_or_default() + "\n",
                Format::Table => told(&added),
            });
            ExitCode::SUCCESS
        }
        Err(said) => {
            eprintln!("pgkeel user add: {said}");
            ExitCode::FAILURE
        }
    }
}

async fn make(agents: &Agents, name: String, role: UserRole) -> Result<Added, String> {
    if !agents.caller.has_tls() {
        return Err(
            "the cluster has no [tls], and a token goes over TLS only: see docs/security.md".to_owned()
        );
    }
    let token = Token::make().map_err(|e| e.to_string())?;
    let asked = Order::AddUser { name: name.clone(), role, hash: token.hash() };
    if let Ordered::Refused { because } = order::send(agents, &asked, false).await? {
        let all: Vec<String> = because.iter().map(ToString::to_string).collect();
        return Err(format!("refused: {}", all.join("; ")));
    }
    Ok(Added { name, role, token: token.word() })
}

fn told(added: &Added) -> String {
    let Added { name, role, token } = added;
    format!(
        "{name} may use the API as {role} with this token, which is not shown again:\n\n{token}\n\nPut it into a file that only its user \
         can read, and beside it in a directory the ca.crt of the cluster:\n  pgkeel status --agent HOST:PORT --tls DIR \
         --api-token-file FILE\n"
    )
}

/// Shows all.
pub async fn list(agents: &Agents, format: Format) -> ExitCode {
    let users: Vec<UserTold> = match first_answer(agents, "/v1/users").await {
        Ok(users) => users,
        Err(said) => {
            eprintln!("pgkeel user list: {said}");
            return ExitCode::FAILURE;
        }
    };
    say(&match format {
        Format::Json => serde_json::to_string(&users).unwrap_or_default() + "\n",
        Format::Table if users.is_empty() => "there are no users with tokens\n".to_owned(),
        Format::Table => table(&users),
    });
    ExitCode::SUCCESS
}

fn table(users: &[UserTold]) -> String {
    let mut rows = vec![["user", "role", "added", "by"].map(str::to_owned).to_vec()];
    let moments: Vec<u64> = users.iter().map(|user| user.made).collect();
    for (user, clock) in users.iter().zip(local_times(&moments)) {
        let added = format!("{} {}", clock.date, clock.time);
        rows.push(vec![user.name.clone(), user.role.to_string(), added, user.by.clone()]);
    }
    columns(&rows).join("\n") + "\n"
}

/// Takes one's token back.
pub async fn remove(agents: &Agents, format: Format, name: String) -> ExitCode {
    let done = format!("the token of {name} is refused from now on");
    order::run(agents, format, Order::RemoveUser { name }, &done).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_no_tokens_and_says_who_added_whom() {
        let user = UserTold {
            name: "grafana".to_owned(),
            role: UserRole::Viewer,
            by: "alice (root@db1)".to_owned(),
            made: 1_700_000_000_123,
        };
        let text = table(&[user]);
        let line = text.lines().nth(1).unwrap();
        assert!(line.starts_with("grafana  viewer  20") && line.ends_with("alice (root@db1)"), "{text}");
    }
}
