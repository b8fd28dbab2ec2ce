//! The record has moved to another store: this loop ends, and another one begins there, in the same process. The server runs on
//! under its guard. `store/moving.rs` says why leases stay right meanwhile.

use super::{Run, now};
use crate::store::moving::{LINGER_SHARE, Opening};
use crate::successor::Ended;
use cluster::Moment;

/// How a loop ends.
#[derive(Debug)]
pub enum Over {
    /// With the agent.
    Ended(Ended),
    /// It goes on where the record is now.
    Moved(Box<Opening>),
}

/// Where the record is now.
pub(super) struct Moving {
    opening: Opening,
    since: Moment,
}

impl Run {
    /// Another agent told where the record is.
    pub(super) fn on_told(&mut self, opening: Opening) {
        if opening.number > self.parts.store.number() && self.moving.is_none() {
            tracing::warn!(
                "the record of the cluster has moved meanwhile (move {}): it is kept {}",
                opening.number,
                opening.to
            );
            self.moving = Some(Moving { opening, since: now() });
        }
    }

    /// The state was read.
    pub(super) fn mind_seal(&mut self) {
        if self.moving.is_some() {
            return;
        }
        let Some(opening) = Opening::of(&self.state) else { return };
        let (number, home) = (opening.number, &opening.to);
        if !opening.fits(&self.parts.proposed.cluster, &self.parts.me) {
            tracing::error!(
                "the record has moved (move {number}): it is kept {home}, and this node has no part in it there: it does not belong to the \
                 cluster as that move was recorded. Nothing more is recorded here; bring this host back with pgkeel join and another \
                 --node"
            );
            return;
        }
        tracing::info!("the record moves (move {number}): it is kept {home} from now on");
        self.moving = Some(Moving { opening, since: now() });
    }

    /// Whether no step begins here any more.
    pub(super) fn is_moving(&self) -> bool {
        self.moving.is_some()
    }

    /// Where to go now. What is under way ends before, and the others hear of it from a leader in the agents.
    pub(super) fn moves_on(&mut self) -> Option<Box<Opening>> {
        let since = self.moving.as_ref()?.since;
        if self.acting.under_way().is_some() || self.acting.seeks_server() || self.acting.looking {
            return None;
        }
        let lingers = self.standing.leading && !self.parts.store.is_elsewhere();
        let linger_ms = self.detect_ms() / u64::from(LINGER_SHARE);
        if lingers && now().since(since) < linger_ms {
            return None;
        }
        self.moving.take().map(|moving| Box::new(moving.opening))
    }
}
