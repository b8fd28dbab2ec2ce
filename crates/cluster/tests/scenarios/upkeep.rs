//! The cluster-wide configuration and restarts, in the language of the transcripts.

use cluster::NodeName;
use cluster::configuration::Content;
use cluster::decide::switchover::Order;
use cluster::observe::Server;
use cluster::state::State;
use cluster::step::{Local, Step};

/// `set from 0 work_mem=8MB`, `restart n2`, `restart pending rolling`
pub fn order(words: &[&str]) -> Order {
    match words {
        ["set", "from", from, pairs @ ..] => {
            let pairs = pairs.iter().filter_map(|pair| pair.split_once('='));
            let parameters = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let content = Content { parameters, hba: Vec::new() };
            Order::Configure { from: from.parse().unwrap(), content, back_to: None }
        }
        ["restart", rest @ ..] => {
            let has = |word: &str| rest.contains(&word);
            let node = rest.first().filter(|word| !["pending", "rolling", "insist"].contains(word));
            Order::Restart {
                node: node.map(|node| node.parse().unwrap()),
                pending: has("pending"),
                rolling: has("rolling"),
                insist: has("insist"),
            }
        }
        other => panic!("{other:?}: no order"),
    }
}

/// What an honest executor leaves behind.
pub fn done(local: &mut Local, told: &Step, version: u64) {
    local.configured = version;
    match told {
        Step::Restart { token } => {
            local.restarted.clone_from(token);
            (local.following, local.server) = (None, Server::Starting);
        }
        Step::RestartPrimary { token, sync } => {
            local.restarted = Some(token.clone());
            local.sync_configured = Some(sync.clone());
        }
        _ => {}
    }
}

/// A server that starts in its turn counts as restarted.
pub fn started(local: &mut Local, state: &State, me: &NodeName) {
    local.configured = state.configuration.number();
    local.restarted = state.restart.as_ref().and_then(|r| r.token_of(me)).or(local.restarted.take());
}
