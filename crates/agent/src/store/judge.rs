//! Whether this node could use the store that the record is to move to; asked before anybody decides.

use super::{Store, etcd, moving};
use cluster::moving::Home;
use serde::{Deserialize, Serialize};

/// The question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The number that the move would have.
    pub number: u64,
    /// Where to.
    pub to: Home,
    /// What is to be found in that etcd, whoever looks.
    #[serde(default)]
    pub mark: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Why it cannot.
    pub fault: Option<String>,
    /// It did not find the mark.
    pub differs: bool,
    /// Under which number it would vote; 0 where nobody does.
    pub raft_id: u64,
}

impl Store {
    /// Looks, and prepares what has to be there before.
    pub(crate) async fn judge(&self, asked: &Asked) -> Judged {
        let fault = |why: String| Judged { fault: Some(why), ..Judged::default() };
        let next = self.number() + 1;
        if asked.number != next {
            return fault(format!("for it the next move has number {next}, and not {}", asked.number));
        }
        match &asked.to {
            Home::Embedded { .. } => {
                let prepared = moving::prepare(&self.stores, next, &self.cluster, &self.me).await;
                match prepared {
                    Ok(raft_id) => Judged { raft_id, ..Judged::default() },
                    Err(e) => fault(e.to_string()),
                }
            }
            Home::Etcd { access } => {
                if let Some(bar) = cluster::moving::unfit(&self.state(), &asked.to) {
                    return fault(bar.to_string());
                }
                let options = match moving::options(access) {
                    Ok(options) => options,
                    Err(e) => return fault(e.to_string()),
                };
                match etcd::look(options, &self.me).await {
                    Ok(found) => Judged { differs: found.mark != asked.mark, ..Judged::default() },
                    Err(why) => fault(why),
                }
            }
        }
    }

    /// Leaves a mark where the record is to go, which every node must find.
    pub(crate) async fn leave_mark(&self, to: &Home, text: &str) -> Result<(), String> {
        let Home::Etcd { access } = to else { return Ok(()) };
        let options = moving::options(access).map_err(|e| e.to_string())?;
        etcd::leave_mark(options, text).await
    }

    /// Takes it away; what is left of it is in nobody's way.
    pub(crate) async fn take_mark(&self, to: &Home) {
        let Home::Etcd { access } = to else { return };
        let Ok(options) = moving::options(access) else { return };
        if let Err(e) = etcd::take_mark(options).await {
            tracing::debug!("{e}");
        }
    }
}
