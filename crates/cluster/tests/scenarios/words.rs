//! What the code returns, in words.

use cluster::NodeName;
use cluster::state::SyncSet;
use cluster::step::Step;
use cluster::view::View;
use std::collections::BTreeSet;

fn list(names: &BTreeSet<NodeName>) -> String {
    let names: Vec<&str> = names.iter().map(NodeName::as_str).collect();
    if names.is_empty() { "nobody".into() } else { names.join(", ") }
}

fn sync(names: &SyncSet) -> String {
    match names.k {
        0 => "no standby confirms commits".into(),
        k => format!("{k} of {} confirm commits", list(&names.members)),
    }
}

pub fn step(step: &Step) -> String {
    match step {
        Step::Wait(wait) => format!("waits: {wait}"),
        Step::Initialise => "make the database".into(),
        Step::Clone { from, line, cause } => format!("copy from {from} (line {line}), because {cause}"),
        Step::StartSealed => "start as a standby that follows nobody".into(),
        Step::StartPrimary => "start as the primary it is".into(),
        Step::Seal { epoch } => format!("seal for epoch {epoch}"),
        Step::Follow { upstream, epoch, line } => format!("follow {upstream} in epoch {epoch} (line {line})"),
        Step::Rewind { from, epoch, line } => format!("rewind from {from} in epoch {epoch} (line {line})"),
        Step::Promote { epoch, line, sync: s } => {
            format!("promote for epoch {epoch} (line {line}); {}", sync(s))
        }
        Step::SetSync { sync: s, .. } => format!("configure: {}", sync(s)),
        Step::Configure { version } => format!("take on version {version} of the configuration"),
        Step::Restart { token: Some(token) } => format!("restart (turn {token})"),
        Step::Restart { token: None } => "restart, its replay cannot go on".into(),
        Step::RestartPrimary { token, sync: s } => format!("restart as primary (turn {token}); {}", sync(s)),
        Step::Checkpoint { id } => format!("make a checkpoint for switchover {id}"),
        Step::StopInOrder { id } => format!("stop in order for switchover {id}"),
        Step::Fence { epoch } => format!("end the server at once, it is not the primary of epoch {epoch}"),
    }
}

pub fn view(view: &View) -> String {
    match (&view.primary, &view.waiting) {
        (Some(primary), _) => {
            let readers: Vec<&str> = view.readers.iter().map(|r| r.node.as_str()).collect();
            let hold = view.hold.as_ref().map(|h| format!("; hold: {h}")).unwrap_or_default();
            format!(
                "view of epoch {}: primary {}, readers {}{hold}",
                view.epoch,
                primary.node,
                readers.join(", ")
            )
        }
        (None, waiting) => {
            format!("view of epoch {}: no primary; {}", view.epoch, waiting.as_deref().unwrap_or("?"))
        }
    }
}
