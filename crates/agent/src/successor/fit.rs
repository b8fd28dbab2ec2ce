//! What the program that would follow is asked before this process ends: whether it finds what this one uses, and can read it.
//!
//! It answers for itself, from the configuration file as it understands that, and with its own eyes on the files: when it
//! cannot, this process is still there.

use crate::guard;
use crate::marker::Marker;
use crate::postgres::Place;
use crate::settings::Settings;
use crate::store;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What an agent runs with, and its successor has to find the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
    /// The agent's own directory.
    pub dir: PathBuf,
    /// Own address.
    pub listen: String,
    /// Its server; `None`: a witness.
    pub postgres: Option<UsedPostgres>,
}

/// What an agent knows its server by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedPostgres {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The port.
    pub port: u16,
}

/// To the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// What this process uses.
    pub used: Used,
    /// The postmaster that the guard holds, if one runs.
    pub postmaster: Option<u32>,
    /// The recorded state, as this process writes it into the store. The file itself is locked.
    pub store: String,
}

/// From the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its version.
    pub version: String,
    /// What it would use.
    pub used: Used,
}

impl Used {
    /// Of these settings.
    #[must_use]
    pub fn of(settings: &Settings) -> Used {
        let postgres = settings
            .postgres
            .as_ref()
            .map(|postgres| UsedPostgres { data_dir: postgres.data_dir.clone(), port: postgres.port });
        Used {
            cluster: settings.cluster.clone(),
            node: settings.node.clone(),
            dir: settings.dir.clone(),
            listen: settings.listen.clone(),
            postgres,
        }
    }

    /// What is another for the one that would follow, with both values.
    #[must_use]
    pub fn differences(&self, next: &Used) -> Vec<String> {
        let text = |path: &PathBuf| path.display().to_string();
        let of_server = |used: &Used, value: fn(&UsedPostgres) -> String| {
            used.postgres.as_ref().map_or_else(|| "none (a witness)".to_owned(), value)
        };
        let both = |value: fn(&UsedPostgres) -> String| (of_server(self, value), of_server(next, value));
        let pairs = [
            ("cluster", (self.cluster.clone(), next.cluster.clone())),
            ("node.name", (self.node.clone(), next.node.clone())),
            ("node.dir", (text(&self.dir), text(&next.dir))),
            ("its address in [members]", (self.listen.clone(), next.listen.clone())),
            ("postgres.data_dir", both(|postgres| postgres.data_dir.display().to_string())),
            ("postgres.port", both(|postgres| postgres.port.to_string())),
        ];
        let different = pairs.into_iter().filter(|(_, (mine, theirs))| mine != theirs);
        different
            .map(|(what, (mine, theirs))| format!("{what} is {mine} here and would be {theirs}"))
            .collect()
    }
}

impl Question {
    /// Whether this answer says that the program can follow.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn judge(&self, answer: &Answer) -> Result<(), String> {
        let differences = self.used.differences(&answer.used);
        if differences.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} runs with other settings than the configuration file has for pgkeel {} now: {}. Its server runs on only under the \
             same: put them back, or stop the agent, which stops its server, and start it again",
            self.used.node,
            answer.version,
            differences.join("; ")
        ))
    }

    /// The answer of this program, with these settings. Changes nothing.
    ///
    /// # Errors
    /// What it cannot read or reach.
    pub async fn answer(&self, settings: &Settings) -> Result<Answer, String> {
        let answer = Answer { version: env!("CARGO_PKG_VERSION").to_owned(), used: Used::of(settings) };
        // Elsewhere there is nothing to be looked at: who asks sees why.
        if !self.used.differences(&answer.used).is_empty() {
            return Ok(answer);
        }
        store::can_read(&self.store)?;
        Marker::open(&settings.dir).map_err(|e| format!("it cannot read what the node remembers: {e}"))?;
        if let (Some(pid), Some(postgres)) = (self.postmaster, settings.postgres.clone()) {
            let socket = Place { settings: postgres, dir: settings.dir.clone(), user: None }.guard_socket();
            let found = guard::client::greeting(&socket).await;
            let found = found.map_err(|e| format!("it does not get on with the guard of the server: {e}"))?;
            if found != pid {
                return Err(format!("the guard at {} holds postmaster {found}, not {pid}", socket.display()));
            }
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used() -> Used {
        Used {
            cluster: "c".to_owned(),
            node: "n1".to_owned(),
            dir: "/var/lib/pgkeel".into(),
            listen: "10.0.0.1:7400".to_owned(),
            postgres: Some(UsedPostgres { data_dir: "/data".into(), port: 5432 }),
        }
    }

    #[test]
    fn a_difference_is_named_with_both_values() {
        assert_eq!(used().differences(&used()), Vec::<String>::new());
        let server = |data_dir: &str, port| Some(UsedPostgres { data_dir: data_dir.into(), port });
        let cases = [
            (Used { cluster: "d".to_owned(), ..used() }, "cluster is c here and would be d"),
            (Used { node: "n2".to_owned(), ..used() }, "node.name is n1 here and would be n2"),
            (Used { dir: "/srv".into(), ..used() }, "node.dir is /var/lib/pgkeel here and would be /srv"),
            (
                Used { listen: "10.0.0.2:7400".to_owned(), ..used() },
                "its address in [members] is 10.0.0.1:7400 here and would be 10.0.0.2:7400",
            ),
            (
                Used { postgres: server("/other", 5432), ..used() },
                "postgres.data_dir is /data here and would be /other",
            ),
            (
                Used { postgres: server("/data", 5433), ..used() },
                "postgres.port is 5432 here and would be 5433",
            ),
            (Used { postgres: None, ..used() }, "postgres.port is 5432 here and would be none (a witness)"),
        ];
        for (next, said) in cases {
            let question = Question { used: used(), postmaster: None, store: String::new() };
            let refused = question.judge(&Answer { version: "2".to_owned(), used: next });
            assert!(refused.as_ref().is_err_and(|why| why.contains(said)), "{refused:?}");
        }
    }
}
