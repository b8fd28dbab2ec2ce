//! Questions and orders that the leader must answer, passed on to it: people then need to reach only one agent, and they
//! do not notice that the leadership changes.

use super::{NotLeading, Shared, Unanswered};
use crate::http::HttpError;
use crate::run::{Event, Known};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::future::Future;
use std::time::{Duration, Instant};

/// How long a change of the leader is waited for; not at all while no majority answers.
const CHANGE_LIMIT: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(50);

/// Whether the leader may be asked.
#[derive(Clone, Copy, Deserialize, Default)]
pub(super) struct Local {
    /// `local=1`: it was passed on already; this agent answers itself.
    #[serde(default)]
    local: u8,
}

impl Local {
    /// Another agent has passed it on.
    pub(super) fn is_passed_on(self) -> bool {
        self.local != 0
    }
}

/// Whether the agent that was taken for the leader surely did nothing.
fn did_nothing(error: &HttpError) -> bool {
    match error {
        HttpError::Unreachable { .. } => true,
        HttpError::Status { status, .. } => *status == StatusCode::MISDIRECTED_REQUEST,
        _ => false,
    }
}

impl Shared {
    /// `host:port` of the leader's agent, when another node leads and may be asked.
    pub(super) fn leader(&self, asked: Local) -> Option<String> {
        let leader = self.store.standing().borrow().leader.clone();
        let leader = leader.filter(|leader| *leader != self.files.me && asked.local == 0)?;
        self.store.state().members.get(&leader).map(|member| member.agent.clone())
    }

    /// What this agent knows as the leader; `None`: it does not lead.
    pub(super) async fn known(&self) -> Result<Option<Known>, Unanswered> {
        self.ask(Event::AskKnown).await
    }

    /// The leader's answer: `there`, asked of its agent, or `here`, where `None` means that this agent does not lead or
    /// knows too little. While nobody leads, or who was taken for the leader surely did nothing, it is tried again.
    pub(super) async fn of_leader<T, There, Here>(
        &self,
        asked: Local,
        there: impl Fn(String) -> There + Send,
        here: impl Fn() -> Here + Send,
    ) -> Result<T, Response>
    where
        There: Future<Output = Result<T, HttpError>> + Send,
        Here: Future<Output = Result<Option<T>, Unanswered>> + Send,
    {
        let began = Instant::now();
        loop {
            let said = match self.leader(asked) {
                Some(agent) => match there(agent).await {
                    Ok(answer) => return Ok(answer),
                    Err(e) if did_nothing(&e) => format!("the leader did not answer: {e}"),
                    Err(e) => return Err(Unanswered(format!("the leader did not answer: {e}")).into()),
                },
                None => match here().await? {
                    Some(answer) => return Ok(answer),
                    None if asked.local != 0 => return Err(NotLeading.into_response()),
                    None => "no agent leads the cluster at this moment; pgkeel why says what it waits for"
                        .to_owned(),
                },
            };
            let hopeless = self.store.standing().borrow().problem.clone();
            if let Some(problem) = hopeless {
                return Err(Unanswered(problem).into());
            }
            if began.elapsed() >= CHANGE_LIMIT {
                return Err(Unanswered(said).into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
