//! Users of the API come and go: what may be asked for. Nothing else depends on them, so it may be asked at any time.

use super::Now;
use super::order::Recorded;
use crate::basics::NodeName;
use crate::command::Change;
use crate::handover::Obstacle;
use crate::membership::{self, Tale};
use crate::observe::Observations;
use crate::reason::Reason;
use crate::state::State;
use crate::users::{Bar, USERS_MAX, User, UserRole, is_name};

/// The form of the record that has users.
const USERS_FORM: u32 = 1;
/// Characters of a SHA-256 in hexadecimal.
const HASH_LEN: usize = 64;

fn bar<T>(user: Bar) -> Result<T, Vec<Obstacle>> {
    Err(vec![Obstacle::Membership { bar: membership::Bar::User { user } }])
}

fn told(tale: Tale) -> Vec<Reason> {
    vec![Reason::Membership { tale }]
}

pub(super) fn add(
    (state, seen): (&State, &Observations),
    (name, role, hash): (&str, UserRole, &str),
    by: String,
    now: &Now,
) -> Result<Recorded, Vec<Obstacle>> {
    let reads =
        |node: &NodeName| seen.nodes.get(node).is_some_and(|heard| heard.observation.reads >= USERS_FORM);
    if let Some(node) = state.members.keys().find(|node| !reads(node)) {
        return bar(Bar::OldAgent { node: node.clone() });
    }
    if !is_name(name) {
        return bar(Bar::BadName);
    }
    if hash.len() != HASH_LEN || !hash.chars().all(|c| c.is_ascii_hexdigit()) {
        return bar(Bar::BadHash);
    }
    let name = name.to_owned();
    if state.users.contains_key(&name) {
        return bar(Bar::Taken { name });
    }
    if state.users.len() >= USERS_MAX {
        return bar(Bar::TooMany);
    }
    let user = User { role, hash: hash.to_ascii_lowercase(), by: by.clone(), made: now.wall };
    Ok((Change::AddUser { name: name.clone(), user }, told(Tale::UserAdded { name, role, by })))
}

pub(super) fn remove(state: &State, name: &str, by: String) -> Result<Recorded, Vec<Obstacle>> {
    if !is_name(name) {
        return bar(Bar::BadName);
    }
    if !state.users.contains_key(name) {
        return bar(Bar::Unknown { name: name.chars().take(HASH_LEN).collect() });
    }
    let name = name.to_owned();
    Ok((Change::RemoveUser { name: name.clone() }, told(Tale::UserRemoved { name, by })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Moment;
    use crate::command::{Command, apply};

    fn now() -> Now {
        Now { at: Moment(1), wall: 5, nonce: String::new() }
    }

    fn recorded(state: &State, (change, reasons): Recorded) -> State {
        let by = "n1".parse().unwrap();
        let mut next = state.clone();
        apply(&mut next, &Command { by, at: 5, change, reasons }).unwrap();
        next
    }

    #[test]
    fn users_come_and_go_and_each_name_is_held_once() {
        let hash = "A".repeat(HASH_LEN);
        let add = |state: &State, name: &str| {
            super::add(
                (state, &Observations::new("n1".parse().unwrap(), Moment(0))),
                (name, UserRole::Viewer, &hash),
                "alice".to_owned(),
                &now(),
            )
        };
        let refused = |outcome: Result<Recorded, Vec<Obstacle>>, said: &str| {
            let said_instead = outcome.unwrap_err().iter().map(ToString::to_string).collect::<String>();
            assert!(said_instead.contains(said), "{said_instead}");
        };
        let none = State::default();
        let one = recorded(&none, add(&none, "grafana").unwrap());
        assert_eq!(one.users["grafana"].hash, "a".repeat(HASH_LEN));
        let told = one.history.last().map(|entry| entry.reason.to_string());
        assert_eq!(told.as_deref(), Some("user grafana, viewer, added by alice"));
        refused(add(&one, "grafana"), "there is a user grafana");
        for name in ["", "a b", "a/b", "é", &"x".repeat(64)] {
            refused(add(&none, name), "a user's name is");
        }
        for hash in ["", "abc", &"g".repeat(HASH_LEN), &"a".repeat(HASH_LEN + 1)] {
            refused(
                super::add(
                    (&none, &Observations::new("n1".parse().unwrap(), Moment(0))),
                    ("bob", UserRole::Admin, hash),
                    String::new(),
                    &now(),
                ),
                "SHA-256",
            );
        }
        refused(remove(&one, "bob", String::new()), "no user bob");
        let gone = recorded(&one, remove(&one, "grafana", "alice".to_owned()).unwrap());
        assert!(gone.users.is_empty());
        let full =
            (0..USERS_MAX).fold(none, |state, n| recorded(&state, add(&state, &format!("u{n}")).unwrap()));
        refused(add(&full, "more"), "there are 64 users already");
    }

    #[test]
    fn nobody_is_added_before_all_agents_can_read_it() {
        let (n1, n2): (NodeName, NodeName) = ("n1".parse().unwrap(), "n2".parse().unwrap());
        let member = crate::state::Member {
            agent: "h:1".to_owned(),
            postgres: None,
            tags: Default::default(),
            data_dir: None,
        };
        let mut state = State::default();
        state.members.extend([(n1.clone(), member.clone()), (n2.clone(), member)]);
        let mut seen = Observations::new(n1.clone(), Moment(0));
        let hear = |seen: &mut Observations, node: &NodeName, reads: u32, number: u64| {
            let serial = ("run".to_owned(), number);
            let blank = crate::observe::Observation::blank(node.clone());
            let observation = crate::observe::Observation { reads, serial, ..blank };
            seen.hear(&state, observation, Moment(0));
        };
        let hash = "a".repeat(HASH_LEN);
        let add = |seen: &Observations| {
            let asked = ("bob", UserRole::Viewer, hash.as_str());
            super::add((&state, seen), asked, String::new(), &now()).map_err(|because| because[0].to_string())
        };
        hear(&mut seen, &n1, USERS_FORM, 1);
        assert!(add(&seen).unwrap_err().contains("n2"), "not heard");
        hear(&mut seen, &n2, 0, 1);
        assert!(add(&seen).unwrap_err().contains("upgrade all agents"));
        hear(&mut seen, &n2, USERS_FORM, 2);
        assert!(add(&seen).is_ok());
    }
}
