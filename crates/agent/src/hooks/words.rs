//! How something that happened is told to a command: by environment variables, and by the placeholders of pgpool-II for
//! people who bring a failover_command or follow_primary_command along. Pure.
//!
//! The placeholders are those of pgpool-II 4.2 and later (src/main/pgpool_main.c, `trigger_failover_command`). It speaks
//! of a main node, the live one with the smallest number; here that is the primary, old and new. As there, a number that
//! is not known is -1, and another value `""`. A node's number is its place in the sorted list of all nodes, from 0.

use super::notice::{Happened, Role, Way};
use cluster::state::{Phase, State};
use cluster::{Epoch, NodeName};

/// Longest command, in bytes.
const COMMAND_BYTES_MAX: usize = 8_192;

/// A node, as commands know nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Its number.
    pub id: usize,
    /// Its name.
    pub node: String,
    /// Where its server is reached; a witness: its agent.
    pub host: String,
    /// The port of its server; `None`: a witness.
    pub port: Option<u16>,
    /// Its data directory, if its agent told it.
    pub data_dir: Option<String>,
}

/// All that a command is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// One word.
    pub event: &'static str,
    /// Name of the cluster.
    pub cluster: String,
    /// The node that runs the command.
    pub runner: NodeName,
    /// The epoch.
    pub epoch: Epoch,
    /// The node that it is about.
    pub subject: Option<Party>,
    /// Its role and the one before, where that changed.
    pub roles: Option<(Role, Role)>,
    /// The primary before.
    pub old_primary: Option<Party>,
    /// The primary now.
    pub new_primary: Option<Party>,
}

impl Told {
    /// What `happened` means to a command that `me` runs.
    #[must_use]
    pub fn of(happened: &Happened, state: &State, me: &NodeName) -> Told {
        let party = |node: &NodeName| party(state, node);
        let (old, new) = primaries(state);
        let (before, now) = (old.and_then(party), new.and_then(party));
        let told = Told {
            event: event(happened),
            cluster: state.cluster.clone(),
            runner: me.clone(),
            epoch: state.epoch,
            subject: None,
            roles: None,
            old_primary: before.clone(),
            new_primary: now.clone(),
        };
        match happened {
            Happened::Role { from, to } => Told { subject: party(me), roles: Some((*from, *to)), ..told },
            Happened::Primary { epoch, old, new, .. } => Told {
                epoch: *epoch,
                subject: party(old),
                old_primary: party(old),
                new_primary: party(new),
                ..told
            },
            // The primary did not change by it: a command that compares %d with %P must not take an old one for it.
            Happened::Down(node) | Happened::Up(node) => {
                Told { subject: party(node), old_primary: now.or(before), ..told }
            }
        }
    }

    /// The environment variables.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let role = |role: Option<Role>| role.map_or("", Role::word).to_owned();
        let mut all = vec![
            ("PGKEEL_EVENT".to_owned(), self.event.to_owned()),
            ("PGKEEL_CLUSTER".to_owned(), self.cluster.clone()),
            ("PGKEEL_RUN_BY".to_owned(), self.runner.to_string()),
            ("PGKEEL_EPOCH".to_owned(), self.epoch.to_string()),
            ("PGKEEL_ROLE".to_owned(), role(self.roles.map(|(_, to)| to))),
            ("PGKEEL_OLD_ROLE".to_owned(), role(self.roles.map(|(from, _)| from))),
        ];
        let parties = [
            ("PGKEEL_NODE", &self.subject),
            ("PGKEEL_OLD_PRIMARY", &self.old_primary),
            ("PGKEEL_NEW_PRIMARY", &self.new_primary),
        ];
        for (name, party) in parties {
            let party = party.as_ref();
            let of = |what: &dyn Fn(&Party) -> String| party.map(what).unwrap_or_default();
            all.push((name.to_owned(), of(&|p| p.node.clone())));
            all.push((format!("{name}_ID"), party.map_or_else(|| "-1".to_owned(), |p| p.id.to_string())));
            all.push((format!("{name}_HOST"), of(&|p| p.host.clone())));
            all.push((
                format!("{name}_PORT"),
                of(&|p| p.port.map(|port| port.to_string()).unwrap_or_default()),
            ));
            all.push((format!("{name}_DATA_DIR"), of(&|p| p.data_dir.clone().unwrap_or_default())));
        }
        all
    }

    /// The command with its placeholders replaced.
    #[must_use]
    pub fn expand(&self, command: &str) -> String {
        let mut text = String::with_capacity(command.len());
        let mut rest = command.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                text.push(c);
            } else if let Some(value) = rest.next().and_then(|letter| self.value(letter)) {
                text.push_str(&value);
            }
        }
        text
    }

    /// What stands for a letter; `None`: it is no placeholder.
    fn value(&self, letter: char) -> Option<String> {
        let (subject, old, new) = (&self.subject, &self.old_primary, &self.new_primary);
        Some(match letter {
            'd' => id(subject),
            'h' => word(subject, |p| Some(p.host.clone())),
            'p' => word(subject, |p| p.port.map(|port| port.to_string())),
            'D' => word(subject, |p| p.data_dir.clone()),
            'm' => id(new),
            'H' => word(new, |p| Some(p.host.clone())),
            'r' => word(new, |p| p.port.map(|port| port.to_string())),
            'R' => word(new, |p| p.data_dir.clone()),
            'M' | 'P' => id(old),
            'N' => word(old, |p| Some(p.host.clone())),
            'S' => word(old, |p| p.port.map(|port| port.to_string())),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

/// Whether a command can be run as it stands.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn check(command: &str) -> Result<(), String> {
    if command.trim().is_empty() {
        return Err("is empty; write a command for /bin/sh, or remove the key".to_owned());
    }
    if command.len() > COMMAND_BYTES_MAX {
        return Err(format!("is longer than {COMMAND_BYTES_MAX} bytes; put it into a script and name that"));
    }
    if command.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err("has a control character in it; write plain text".to_owned());
    }
    let mut rest = command.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            continue;
        }
        let known = "known are %d %h %p %D %m %H %M %P %r %R %N %S";
        match rest.next() {
            Some(letter) if "dhpDmHMPrRNS%".contains(letter) => {}
            Some(letter) => {
                return Err(format!(
                    "has an unknown placeholder %{letter}; {known}; write %%{letter} for a plain %{letter}"
                ));
            }
            None => return Err(format!("ends with a lone %; {known}; write %% for a plain %")),
        }
    }
    Ok(())
}

fn event(happened: &Happened) -> &'static str {
    match happened {
        Happened::Role { .. } => "role_change",
        Happened::Primary { way: Way::Failover, .. } => "failover",
        Happened::Primary { way: Way::Switchover, .. } => "switchover",
        Happened::Down(_) => "node_down",
        Happened::Up(_) => "node_up",
    }
}

/// The published primary before the present one, and the present one. Between two there is only one before.
fn primaries(state: &State) -> (Option<&NodeName>, Option<&NodeName>) {
    let mut published = state.promotions.iter().rev().filter(|p| p.published.is_some()).map(|p| &p.node);
    let last = published.next();
    match &state.phase {
        Phase::Serving { appointment } => (published.next(), Some(&appointment.node)),
        Phase::Empty | Phase::Initialising { .. } | Phase::Sealing { .. } | Phase::Promoting { .. } => {
            (last, None)
        }
    }
}

fn party(state: &State, node: &NodeName) -> Option<Party> {
    let (id, member) = state
        .members
        .iter()
        .enumerate()
        .find_map(|(id, (name, member))| (name == node).then_some((id, member)))?;
    let agent_host = || member.agent.rsplit_once(':').map_or(member.agent.as_str(), |(host, _)| host);
    Some(Party {
        id,
        node: node.to_string(),
        host: member.postgres.as_ref().map_or_else(|| agent_host().to_owned(), |pg| pg.host.clone()),
        port: member.postgres.as_ref().map(|pg| pg.port),
        data_dir: member.data_dir.clone(),
    })
}

fn id(party: &Option<Party>) -> String {
    party.as_ref().map_or_else(|| "-1".to_owned(), |p| p.id.to_string())
}

fn word(party: &Option<Party>, what: impl Fn(&Party) -> Option<String>) -> String {
    party.as_ref().and_then(what).map_or_else(|| "\"\"".to_owned(), |value| quoted(&value))
}

/// As one word of the shell.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::state::{Member, PgAddress};

    fn member(host: &str, data_dir: Option<&str>) -> Member {
        Member {
            agent: format!("{host}:7400"),
            postgres: data_dir.map(|_| PgAddress { host: host.to_owned(), port: 5432 }),
            tags: Default::default(),
            data_dir: data_dir.map(str::to_owned),
        }
    }

    fn told() -> Told {
        let members =
            [("n1", "10.0.0.1", Some("/data/a b")), ("n2", "db2", Some("/d'x")), ("w", "10.0.0.9", None)];
        let members = members.map(|(name, host, dir)| (name.parse().unwrap(), member(host, dir)));
        let state =
            State { cluster: "shop".to_owned(), epoch: 4, members: members.into(), ..State::default() };
        let (old, new): (NodeName, NodeName) = ("n1".parse().unwrap(), "n2".parse().unwrap());
        let happened = Happened::Primary { epoch: 4, old, new, way: Way::Failover };
        Told::of(&happened, &state, &"w".parse().unwrap())
    }

    #[test]
    fn placeholders_are_those_of_pgpool() {
        let all = "%d %h %p %D|%m %H %r %R|%M %P %N %S|100%%";
        assert_eq!(check(all), Ok(()));
        let expected = "0 10.0.0.1 5432 '/data/a b'|1 db2 5432 '/d'\\''x'|0 0 10.0.0.1 5432|100%";
        assert_eq!(told().expand(all), expected);
        let nobody = Told { subject: None, old_primary: None, new_primary: None, ..told() };
        assert_eq!(nobody.expand(all), "-1 \"\" \"\" \"\"|-1 \"\" \"\" \"\"|-1 -1 \"\" \"\"|100%");
    }

    #[test]
    fn variables_say_the_same() {
        let all = told().environment();
        let value = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        for (name, expected) in [
            ("PGKEEL_EVENT", "failover"),
            ("PGKEEL_CLUSTER", "shop"),
            ("PGKEEL_RUN_BY", "w"),
            ("PGKEEL_EPOCH", "4"),
            ("PGKEEL_ROLE", ""),
            ("PGKEEL_NODE", "n1"),
            ("PGKEEL_NODE_DATA_DIR", "/data/a b"),
            ("PGKEEL_OLD_PRIMARY_ID", "0"),
            ("PGKEEL_NEW_PRIMARY", "n2"),
            ("PGKEEL_NEW_PRIMARY_HOST", "db2"),
            ("PGKEEL_NEW_PRIMARY_PORT", "5432"),
        ] {
            assert_eq!(value(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn a_witness_has_no_server() {
        let state =
            State { members: [("w".parse().unwrap(), member("10.0.0.9", None))].into(), ..State::default() };
        let down = Told::of(&Happened::Down("w".parse().unwrap()), &state, &"w".parse().unwrap());
        assert_eq!(down.expand("%d %h %p %D %P"), "0 10.0.0.9 \"\" \"\" -1");
    }

    #[test]
    fn commands_that_cannot_be_meant_are_refused() {
        for (command, said) in [
            (" ", "is empty"),
            ("date +%F", "unknown placeholder %F"),
            ("echo 100%", "lone %"),
            ("echo \u{0}", "control character"),
        ] {
            let refusal = check(command).unwrap_err();
            assert!(refusal.contains(said), "{command:?}: {refusal}");
        }
        assert!(check(&"x".repeat(COMMAND_BYTES_MAX + 1)).is_err());
        assert_eq!(check("a\n\tb %% %d"), Ok(()));
    }
}
