//! Which agents a command asks, and asking them one after the other until one answers.

use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::ask::{AskError, ask};
use crate::config;

/// For each agent's answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Where to ask: the addresses ("host:port") given on the command line, else the agents that a configuration file names:
/// the given one, else the one in the usual place.
///
/// # Errors
/// When neither is given, or the file is not right: a message for people.
pub fn choose(given: &[String], file: Option<&Path>) -> Result<Vec<String>, String> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let usual = Path::new(config::FILE_DEFAULT);
    let Some(file) = file.or(Some(usual).filter(|file| file.exists())) else {
        return Err(format!(
            "whom to ask? There is no {}; name a configuration file (-c FILE) or an agent (--agent HOST:PORT)",
            usual.display()
        ));
    };
    let config = config::load(file).map_err(|error| error.to_string())?;
    let of_node = config.agent.map(|agent| agent.members.into_values().collect::<Vec<_>>());
    let agents = of_node.or(config.proxy.map(|proxy| proxy.agents)).unwrap_or_default();
    if agents.is_empty() { Err(format!("{}: it names no agent to ask", file.display())) } else { Ok(agents) }
}

/// The first answer.
///
/// # Errors
/// When no agent gave one: names each and why.
pub async fn first_answer<T: DeserializeOwned>(agents: &[String], path: &str) -> Result<T, String> {
    first_answer_within(agents, path, ANSWER_LIMIT).await
}

/// The first answer, when an agent may take longer.
///
/// # Errors
/// As [`first_answer`].
pub async fn first_answer_within<T: DeserializeOwned>(
    agents: &[String],
    path: &str,
    limit: Duration,
) -> Result<T, String> {
    let mut silent: Vec<(&String, AskError)> = Vec::new();
    for agent in agents {
        match ask(agent, path, limit).await {
            Ok(answer) => return Ok(answer),
            Err(error) => silent.push((agent, error)),
        }
    }
    let each: Vec<String> = silent.iter().map(|(agent, error)| format!("  {agent}: {error}")).collect();
    Err(format!(
        "no agent answered:\n{}\nstart one (pgkeel run -c FILE), or name another by --agent",
        each.join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_given_come_before_the_file() {
        let given = vec!["10.0.0.1:7400".to_owned()];
        assert_eq!(choose(&given, Some(Path::new("/nonexistent"))), Ok(given.clone()));
        assert!(choose(&[], None).unwrap_err().contains("--agent"));
        assert!(choose(&[], Some(Path::new("/nonexistent"))).unwrap_err().contains("/nonexistent"));
    }

    #[tokio::test]
    async fn every_silent_agent_is_named() {
        let agents = ["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
        let error = first_answer::<Vec<u8>>(&agents, "/v1/why").await.unwrap_err();
        assert!(error.contains("127.0.0.1:1: ") && error.contains("127.0.0.1:2: "), "{error}");
        assert!(error.contains("refused"), "{error}");
    }
}
