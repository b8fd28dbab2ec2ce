//! Which agents a command asks, and asking them one after the other until one answers.

use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;

use identity::{Caller, Credentials, Folder, Plain};

use super::api_token;
use crate::ask::{AskError, ask};
use crate::config::{self, Config};

/// For each agent's answer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Without the authority nobody knows to whom the token is shown.
const NO_AUTHORITY: &str = "a token goes over TLS only, and to agents of the cluster only: name a directory with its ca.crt by --tls DIR";

/// Whom to ask, and how.
#[derive(Clone, Debug)]
pub struct Agents {
    /// "host:port" of each, in this order.
    pub addresses: Vec<String>,
    /// With TLS or without.
    pub caller: Caller,
}

/// Where to ask: the addresses ("host:port") given on the command line, else the agents that a configuration file names:
/// the given one, else the one in the usual place. With TLS when the file that was given, or used, has `[tls]`, or when `tls`
/// names a directory with certificates. With a `token` only the authority is taken from there.
///
/// # Errors
/// When neither is given, or a file is not right: a message for people.
pub fn choose(
    given: &[String],
    file: Option<&Path>,
    tls: Option<&Path>,
    token: Option<&Path>,
) -> Result<Agents, String> {
    let named = match (tls, token) {
        (Some(dir), Some(token)) => Some(api_token::caller(token, &Folder::at(dir))?),
        (Some(dir), None) => Some(Caller::with(Some(own(dir)?))),
        (None, _) => None,
    };
    if !given.is_empty() {
        let caller = match (named, file) {
            (Some(named), _) => named,
            (None, Some(file)) => read(file)?.caller_of(file, token)?,
            (None, None) if token.is_some() => return Err(NO_AUTHORITY.to_owned()),
            (None, None) => Caller::plain(),
        };
        return Ok(Agents { addresses: given.to_vec(), caller });
    }
    let usual = Path::new(config::FILE_DEFAULT);
    let Some(file) = file.or(Some(usual).filter(|file| file.exists())) else {
        return Err(format!(
            "whom to ask? There is no {}; name a configuration file (-c FILE) or an agent (--agent HOST:PORT)",
            usual.display()
        ));
    };
    let config = read(file)?;
    let caller = match named {
        Some(named) => named,
        None => config.caller_of(file, token)?,
    };
    let of_node = config.agent.map(|agent| agent.members.into_values().collect::<Vec<_>>());
    let addresses = of_node.or(config.proxy.map(|proxy| proxy.agents)).unwrap_or_default();
    if addresses.is_empty() {
        return Err(format!("{}: it names no agent to ask", file.display()));
    }
    Ok(Agents { addresses, caller })
}

/// A person's. One that agents refuse is of no use here, and they could not say so in words.
fn own(dir: &Path) -> Result<Credentials, String> {
    let wrong = |trouble: String| trouble.replace("tls.dir", "--tls");
    let loaded = Credentials::load(Folder::at(dir), Plain::Refused);
    let loaded = loaded.map_err(|trouble| wrong(trouble.to_string()))?;
    loaded.doubt().map_or(Ok(loaded), |doubt| Err(wrong(doubt.to_string())))
}

fn read(file: &Path) -> Result<Config, String> {
    config::load(file).map_err(|error| error.to_string())
}

impl Config {
    fn caller_of(&self, file: &Path, token: Option<&Path>) -> Result<Caller, String> {
        let credentials = self.credentials_of(file)?;
        match (credentials, token) {
            (Some(credentials), Some(token)) => api_token::caller(token, credentials.folder()),
            (None, Some(_)) => Err(NO_AUTHORITY.to_owned()),
            (credentials, None) => Ok(Caller::with(credentials)),
        }
    }

    /// Who can read the files of a host may speak for it.
    fn credentials_of(&self, file: &Path) -> Result<Option<Credentials>, String> {
        let wrong = |trouble: String| {
            format!("{}: {trouble}; or name certificates of your own: --tls DIR", file.display())
        };
        // Whatever process of the host they are for: the host's.
        let loaded = self.credentials(config::Shower::Proxy).map_err(|trouble| wrong(trouble.to_string()))?;
        let doubt = loaded.as_ref().and_then(Credentials::doubt);
        doubt.map_or(Ok(loaded), |doubt| Err(wrong(doubt.to_string())))
    }
}

/// The first answer.
///
/// # Errors
/// When no agent gave one: names each and why.
pub async fn first_answer<T: DeserializeOwned>(agents: &Agents, path: &str) -> Result<T, String> {
    first_answer_within(agents, path, ANSWER_LIMIT).await
}

/// The first answer, when an agent may take longer.
///
/// # Errors
/// As [`first_answer`].
pub async fn first_answer_within<T: DeserializeOwned>(
    agents: &Agents,
    path: &str,
    limit: Duration,
) -> Result<T, String> {
    let mut silent: Vec<(&String, AskError)> = Vec::new();
    for agent in &agents.addresses {
        match ask(&agents.caller, agent, path, limit).await {
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
        assert_eq!(choose(&given, None, None, None).unwrap().addresses, given);
        assert!(choose(&[], None, None, None).unwrap_err().contains("--agent"));
        let missing = Some(Path::new("/nonexistent"));
        assert!(choose(&[], missing, None, None).unwrap_err().contains("/nonexistent"));
        assert!(choose(&given, None, None, missing).unwrap_err().contains("ca.crt by --tls"));
        assert!(choose(&given, None, missing, None).unwrap_err().contains("--tls = \"/nonexistent/ca.crt\""));
    }

    #[tokio::test]
    async fn every_silent_agent_is_named() {
        let addresses = vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
        let agents = Agents { addresses, caller: Caller::plain() };
        let error = first_answer::<Vec<u8>>(&agents, "/v1/why").await.unwrap_err();
        assert!(error.contains("127.0.0.1:1: ") && error.contains("127.0.0.1:2: "), "{error}");
        assert!(error.contains("refused"), "{error}");
    }
}
