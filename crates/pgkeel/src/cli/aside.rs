//! `pgkeel aside`: the directories that nodes keep beside their data, listed and pruned.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent::messages::Prune;
use agent::postgres::aside::{Kept, Kind};
use cluster::{NodeName, WallMs};

use super::agents::Agents;
use super::each_node::{Answers, ask_each, tell_one};
use super::order::who;
use super::status::Format;
use super::text::{bytes, columns, local_times, say};

/// Whether a person has agreed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// Ask.
    Ask,
    /// `--yes` was given.
    Given,
}

/// What `pgkeel aside prune` was told.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// The agents to ask, "host:port", in this order.
    pub agents: Agents,
    /// How to print.
    pub format: Format,
    /// Only on this node.
    pub node: Option<NodeName>,
    /// Only what is older.
    pub older_than: Option<Duration>,
    /// Kept WAL too.
    pub wal: bool,
    /// Whether to ask.
    pub confirm: Confirm,
}

/// Lists. Ends with 1 when a node did not answer.
pub async fn list(agents: &Agents, format: Format) -> ExitCode {
    let (kept, ending) = match fetch(agents, None).await {
        Ok(found) => found,
        Err(ending) => return ending,
    };
    match format {
        Format::Json => say_json(&kept),
        Format::Table if kept.is_empty() => say("nothing is kept beside the data\n"),
        Format::Table => say(&table(&kept)),
    }
    ending
}

/// Lists what can go, asks, and removes it. Ends with 1 when a node did not do it, or nobody agreed.
pub async fn prune(options: &PruneOptions) -> ExitCode {
    let (kept, mut ending) = match fetch(&options.agents, options.node.as_ref()).await {
        Ok(found) => found,
        Err(ending) => return ending,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as WallMs);
    let (going, needed): (Vec<_>, Vec<_>) = kept
        .into_iter()
        .filter(|(_, kept)| wanted(options, kept, now))
        .partition(|(_, k)| k.needed.is_none());
    for (node, kept) in &needed {
        eprintln!("{node}: {} stays: {}", kept.name, kept.needed.as_deref().unwrap_or_default());
    }
    if going.is_empty() {
        eprintln!("there is nothing to remove");
        return ending;
    }
    if options.format == Format::Table {
        say(&table(&going));
    }
    if options.confirm == Confirm::Ask && !agreed() {
        eprintln!("nothing was removed");
        return ExitCode::FAILURE;
    }
    let mut removed = Vec::new();
    for group in going.chunk_by(|(a, _), (b, _)| a == b) {
        let Some((node, _)) = group.first() else { continue };
        let names = group.iter().map(|(_, kept)| kept.name.clone()).collect();
        let names = Prune { names, by: who() };
        match tell_one::<_, Vec<String>>(&options.agents, node, "/v1/aside/prune", &names).await {
            Ok(_) => removed.extend_from_slice(group),
            Err(error) => {
                eprintln!("pgkeel aside prune: {node}: {error}");
                ending = ExitCode::FAILURE;
            }
        }
    }
    match options.format {
        Format::Json => say_json(&removed),
        Format::Table => say(&format!("removed {} of {}\n", removed.len(), going.len())),
    }
    ending
}

fn wanted(options: &PruneOptions, kept: &Kept, now: WallMs) -> bool {
    let age = Duration::from_millis(now.saturating_sub(kept.since));
    (kept.kind == Kind::Data || options.wal) && options.older_than.is_none_or(|limit| age > limit)
}

fn agreed() -> bool {
    let input = std::io::stdin();
    if !input.is_terminal() {
        eprintln!("nobody can be asked; to remove them without a question: --yes");
        return false;
    }
    eprint!("remove them for good? [y/N] ");
    let mut answer = String::new();
    input.lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

type Found = Vec<(NodeName, Kept)>;

async fn fetch(agents: &Agents, node: Option<&NodeName>) -> Result<(Found, ExitCode), ExitCode> {
    let answers: Answers<Vec<Kept>> = ask_each(agents, node, "/v1/aside").await.map_err(|error| {
        eprintln!("pgkeel aside: {error}");
        ExitCode::FAILURE
    })?;
    let mut ending = ExitCode::SUCCESS;
    let mut found = Vec::new();
    for (node, answer) in answers {
        match answer {
            Ok(kept) => found.extend(kept.into_iter().map(|kept| (node.clone(), kept))),
            Err(error) => {
                eprintln!("pgkeel aside: {node}: {error}");
                ending = ExitCode::FAILURE;
            }
        }
    }
    Ok((found, ending))
}

#[derive(serde::Serialize)]
struct Told<'a> {
    node: &'a NodeName,
    #[serde(flatten)]
    kept: &'a Kept,
}

fn say_json(kept: &[(NodeName, Kept)]) {
    let told: Vec<Told<'_>> = kept.iter().map(|(node, kept)| Told { node, kept }).collect();
    match serde_json::to_string(&told) {
        Ok(text) => say(&(text + "\n")),
        Err(error) => eprintln!("pgkeel aside: {error}"),
    }
}

/// One line for each directory.
#[must_use]
pub fn table(kept: &[(NodeName, Kept)]) -> String {
    let head = ["node", "directory", "what", "since", "size", "needed"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    let moments: Vec<WallMs> = kept.iter().map(|(_, kept)| kept.since).collect();
    for ((node, kept), clock) in kept.iter().zip(local_times(&moments)) {
        let what = match kept.kind {
            Kind::Data => "replaced data",
            Kind::Wal => "lost WAL",
        };
        rows.push(vec![
            node.to_string(),
            kept.name.clone(),
            what.to_owned(),
            format!("{} {}", clock.date, clock.time),
            bytes(kept.bytes),
            kept.needed.clone().unwrap_or_else(|| "no".to_owned()),
        ]);
    }
    columns(&rows).join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_meant_goes() {
        let kept = |kind, since| Kept { name: "x".to_owned(), kind, since, bytes: 1, needed: None };
        let mut options = PruneOptions {
            agents: Agents { addresses: Vec::new(), caller: identity::Caller::plain() },
            format: Format::Table,
            node: None,
            older_than: None,
            wal: false,
            confirm: Confirm::Ask,
        };
        assert!(wanted(&options, &kept(Kind::Data, 5), 10));
        assert!(!wanted(&options, &kept(Kind::Wal, 5), 10));
        options.wal = true;
        options.older_than = Some(Duration::from_millis(5));
        assert!(!wanted(&options, &kept(Kind::Wal, 5), 10));
        assert!(wanted(&options, &kept(Kind::Wal, 4), 10));
    }
}
