//! What somebody wants and what came of it, in words. Never a secret: of an invitation only its identity, of a configuration only
//! its number. What comes from outside is bounded, and holds nothing that a terminal would act on. Pure.

use super::{Entry, Verdict};
use crate::messages::{CloneAnswer, CloneAsked, JoinAsked, OrderAsked, Prune};
use crate::successor::{UpgradeAnswer, UpgradeAsked};
use cluster::NodeName;
use cluster::decide::switchover::{Order, Ordered};
use cluster::moving::Home;
use serde::de::DeserializeOwned;
use std::fmt::Write as _;

/// Longest text of an entry, in characters.
const TEXT_MAX: usize = 300;
/// The same for names.
const SHORT_MAX: usize = 100;
/// Longest identity of an invitation that is shown: what is longer is none, and might be the whole of it.
const INVITATION_MAX: usize = 16;

/// A text from outside as it may be written and shown.
#[must_use]
pub fn clean(text: &str) -> String {
    bounded(text, TEXT_MAX)
}

/// A cell of several texts.
#[must_use]
pub fn clean_long(text: &str) -> String {
    bounded(text, 4 * TEXT_MAX)
}

/// The same for names.
#[must_use]
pub fn clean_short(text: &str) -> String {
    bounded(text, SHORT_MAX)
}

fn bounded(text: &str, chars_max: usize) -> String {
    let mut clean = String::new();
    let mut left = chars_max;
    for c in text.trim().chars() {
        let shown = match c {
            '\n' | '\t' => " ".to_owned(),
            _ if c.is_alphanumeric() || matches!(c, ' ' | '…') || c.is_ascii_graphic() => c.to_string(),
            _ => c.escape_unicode().to_string(),
        };
        if shown.len() > left {
            clean.push('…');
            break;
        }
        left -= shown.len();
        clean.push_str(&shown);
    }
    clean
}

/// In one word.
#[must_use]
pub fn verdict(result: Verdict) -> &'static str {
    match result {
        Verdict::Done => "done",
        Verdict::Refused => "refused",
        Verdict::Failed => "failed",
        Verdict::Unknown => "not known",
    }
}

/// What came of it, and why.
#[must_use]
pub fn outcome(entry: &Entry) -> String {
    let mut text = verdict(entry.result).to_owned();
    if !entry.why.is_empty() {
        let joint = if entry.result == Verdict::Done { ", " } else { ": " };
        let _ = write!(text, "{joint}{}", entry.why);
    }
    text
}

/// An entry as one line of a log.
#[must_use]
pub fn line(entry: &Entry) -> String {
    let says = entry.says.as_ref().map(|says| format!(" ({says})")).unwrap_or_default();
    format!("{}{says} from {}: {}: {}", entry.who, entry.from, entry.what, outcome(entry))
}

/// A request that is for the list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Deed {
    /// In words.
    pub(crate) what: String,
    /// Who he says he is.
    pub(crate) says: Option<String>,
    /// By which invitation he comes.
    pub(crate) invitation: Option<String>,
    /// He only wants to know whether it could be done.
    pub(crate) only_try: bool,
}

impl Deed {
    fn plain(what: String) -> Deed {
        Deed { what, says: None, invitation: None, only_try: false }
    }

    fn by(what: String, says: String, only_try: bool) -> Deed {
        let what = if only_try { format!("try of: {what}") } else { what };
        Deed { what, says: Some(says), invitation: None, only_try }
    }
}

/// What a request asks for, as far as it can be read.
pub(crate) fn deed(me: &NodeName, method: &str, path: &str, query: &str, body: &[u8]) -> Deed {
    let node = query.split('&').find_map(|part| part.strip_prefix("node="));
    let node = node.unwrap_or(me.as_str());
    let read = match (method, path) {
        ("POST", "/v1/order") => {
            json(body).map(|it: OrderAsked| Deed::by(order(&it.order), it.by, it.only_try))
        }
        ("POST", "/v1/clone") => json(body).map(|it: CloneAsked| {
            let from = it.from.map(|from| format!(" from {from}")).unwrap_or_default();
            Deed::by(format!("copy {node} anew{from}"), it.by, it.only_try)
        }),
        ("POST", "/v1/upgrade") => json(body).map(|it: UpgradeAsked| {
            Deed::by(format!("exchange the process of the agent of {node}"), it.by, it.only_try)
        }),
        ("POST", "/v1/aside/prune") => json(body).map(|it: Prune| {
            let names = it.names.join(", ");
            Deed::by(format!("remove directories of {node}: {names}"), it.by, false)
        }),
        ("POST", "/v1/reload") => Some(Deed::plain(format!("let the server of {node} read its files again"))),
        ("POST", "/v1/certificate") => Some(Deed::plain("renew a certificate".to_owned())),
        ("POST", "/v1/join") => json(body).map(|it: JoinAsked| Deed {
            invitation: Some(shown_invitation(&it.id)),
            ..Deed::plain(format!("join as {}, {}", it.node, it.role))
        }),
        _ => None,
    };
    read.unwrap_or_else(|| Deed::plain(format!("{method} {path}")))
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

fn shown_invitation(id: &str) -> String {
    match id.len() <= INVITATION_MAX && id.chars().all(|c| c.is_ascii_alphanumeric()) {
        true => format!("invitation {id}"),
        false => "an invitation".to_owned(),
    }
}

/// Somebody may have put the token in the place of the name.
fn shown_user(name: &str) -> String {
    match cluster::users::is_name(name) {
        true => format!("user {name}"),
        false => "a user".to_owned(),
    }
}

fn order(order: &Order) -> String {
    match order {
        Order::Switchover { to, at } => {
            let to = to.as_ref().map_or("the best candidate", NodeName::as_str);
            let later = if at.is_some() { ", at a later time" } else { "" };
            format!("switchover to {to}{later}")
        }
        Order::Cancel { id } => format!("cancel {id}"),
        Order::Pause { fencing } => match fencing {
            cluster::state::Fencing::Kept => "pause, with fencing".to_owned(),
            cluster::state::Fencing::Suspended => "pause".to_owned(),
        },
        Order::Resume => "resume".to_owned(),
        Order::Failover { to, accept, stopped } => {
            let accept = accept.as_ref().map(|loss| format!(", accepting the loss {loss}"));
            let stopped = stopped.as_ref().map(|node| format!(", vouching that {node} is stopped"));
            format!("failover to {to}{}{}", accept.unwrap_or_default(), stopped.unwrap_or_default())
        }
        Order::Maintain { node, text, insist } => {
            let text = text.as_ref().map(|text| format!(", because: {text}")).unwrap_or_default();
            format!("maintenance of {node}{}{text}", insisting(*insist))
        }
        Order::Unmaintain { node } => format!("end of the maintenance of {node}"),
        Order::Configure { from, back_to, .. } => {
            let back = back_to.map(|version| format!(", back to what version {version} said"));
            format!("next configuration, made from version {from}{}", back.unwrap_or_default())
        }
        Order::Admit { node, seat } => format!("let in {node} at {}", seat.address),
        Order::Remove { node, insist } => format!("remove {node}{}", insisting(*insist)),
        Order::Keep { node } => format!("keep {node}, which was to leave"),
        Order::Invite { id, role, uses, .. } => {
            format!("make {} for {role}, good for {uses}", shown_invitation(id))
        }
        Order::Uninvite { id } => format!("take back {}", shown_invitation(id)),
        Order::MoveStore { to: Home::Embedded { .. } } => "move the record to the agents".to_owned(),
        Order::MoveStore { to: Home::Etcd { access } } => {
            format!("move the record to the etcd at {}", access.endpoints.join(", "))
        }
        Order::AddUser { name, role, .. } => format!("add {}, {role}", shown_user(name)),
        Order::RemoveUser { name } => format!("remove {}", shown_user(name)),
        Order::Redeem { id, role, node, .. } => {
            format!("use {} for {node}, {role}", shown_invitation(id))
        }
        Order::Restart { node, pending, rolling, insist } => {
            let whose = node.as_ref().map_or("all servers", NodeName::as_str);
            let pending = if *pending { ", those that wait for it" } else { "" };
            let rolling = if *rolling { ", one after the other" } else { "" };
            format!("restart {whose}{pending}{rolling}{}", insisting(*insist))
        }
    }
}

fn insisting(insist: bool) -> &'static str {
    if insist { ", although commits may have to wait" } else { "" }
}

/// What an answer says: a refusal can come in a good one, too.
pub(crate) fn answered(path: &str, body: &[u8]) -> (Verdict, String) {
    let done = |why: String| (Verdict::Done, why);
    match path {
        "/v1/order" => match json(body) {
            Some(Ordered::Refused { because }) => {
                let because: Vec<String> = because.iter().map(ToString::to_string).collect();
                (Verdict::Refused, because.join("; "))
            }
            Some(Ordered::Recorded { id, .. } | Ordered::Restarts { id, .. }) if !id.is_empty() => {
                done(format!("as {id}"))
            }
            _ => done(String::new()),
        },
        "/v1/clone" => match json(body) {
            Some(CloneAnswer { refused: Some(why) }) => (Verdict::Refused, why),
            _ => done(String::new()),
        },
        "/v1/upgrade" => match json(body) {
            Some(UpgradeAnswer::Refused(why)) => (Verdict::Refused, why),
            Some(UpgradeAnswer::To(version)) => done(format!("to {version}")),
            None => done(String::new()),
        },
        _ => done(String::new()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cluster::membership::TokenRole;

    fn said(path: &str, query: &str, body: &serde_json::Value) -> Deed {
        deed(&"n1".parse().unwrap(), "POST", path, query, body.to_string().as_bytes())
    }

    fn ordered(order: Order, only_try: bool) -> Deed {
        let asked = OrderAsked { order, by: "root@db1".to_owned(), only_try };
        said("/v1/order", "", &serde_json::to_value(asked).unwrap())
    }

    #[test]
    fn orders_are_told_in_words_and_without_secrets() {
        let to = || Some("n2".parse().unwrap());
        let told = ordered(Order::Switchover { to: to(), at: None }, false);
        assert_eq!((told.what.as_str(), told.says.as_deref()), ("switchover to n2", Some("root@db1")));
        assert_eq!(
            ordered(Order::Switchover { to: None, at: Some(1) }, true).what,
            "try of: switchover to the best candidate, at a later time"
        );
        let hash = "a".repeat(64);
        let invite = Order::Invite {
            id: "1f2e3d4c".into(),
            hash: hash.clone(),
            role: TokenRole::Data,
            until: 1,
            uses: 2,
        };
        let told = ordered(invite, false);
        assert_eq!(told.what, "make invitation 1f2e3d4c for a node with data, good for 2");
        assert!(!format!("{told:?}").contains(&hash));
    }

    #[test]
    fn of_an_invitation_only_its_identity_is_told() {
        let secret = "s".repeat(32);
        let joins = |id: &str| {
            let body =
                serde_json::json!({"id": id, "secret": secret, "role": "data", "node": "n3", "request": "r"});
            said("/v1/join", "", &body)
        };
        let told = joins("1f2e3d4c");
        assert_eq!(
            (told.what.as_str(), told.invitation.as_deref()),
            ("join as n3, a node with data", Some("invitation 1f2e3d4c"))
        );
        let whole = joins(&format!("pgkeel1-1f2e3d4c-{secret}"));
        assert!(!format!("{told:?} {whole:?}").contains(&secret));
    }

    #[test]
    fn what_is_for_another_node_names_it_and_what_is_unreadable_names_the_path() {
        let none = serde_json::Value::Null;
        assert_eq!(
            said("/v1/reload", "x=1&node=n3", &none).what,
            "let the server of n3 read its files again"
        );
        assert_eq!(said("/v1/clone", "node=n3", &serde_json::json!({"by": "a"})).what, "copy n3 anew");
        assert_eq!(said("/v1/order", "", &serde_json::json!({"order": "fly"})).what, "POST /v1/order");
        let me = "n1".parse().unwrap();
        assert_eq!(deed(&me, "GET", "/v1/raft/append", "", &[0xff, 0]).what, "GET /v1/raft/append");
    }

    #[test]
    fn a_refusal_in_a_good_answer_is_one() {
        let order = |answer: &Ordered| answered("/v1/order", &serde_json::to_vec(answer).unwrap());
        let because = vec![cluster::handover::Obstacle::Paused];
        let why = because[0].to_string();
        assert_eq!(order(&Ordered::Refused { because }), (Verdict::Refused, why));
        assert_eq!(order(&Ordered::Recorded { id: "5".into(), to: None }), (Verdict::Done, "as 5".into()));
        let clone = serde_json::json!({"refused": "it is primary"}).to_string();
        assert_eq!(answered("/v1/clone", clone.as_bytes()).0, Verdict::Refused);
        let upgrade = serde_json::json!({"refused": "no room"}).to_string();
        assert_eq!(answered("/v1/upgrade", upgrade.as_bytes()), (Verdict::Refused, "no room".into()));
    }

    #[test]
    fn what_comes_from_outside_is_bounded_and_moves_no_cursor() {
        assert_eq!(clean("  a\nb\u{1b}[2J\u{202e}é  "), "a b\\u{1b}[2J\\u{202e}é");
        for hostile in ["x".repeat(100_000), "é".repeat(100_000), "\u{0}".repeat(100_000)] {
            assert!(clean(&hostile).chars().count() <= TEXT_MAX + 1);
            assert!(clean_short(&hostile).chars().count() <= SHORT_MAX + 1);
        }
    }
}
