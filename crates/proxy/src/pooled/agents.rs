//! Asks the cluster's agents for verifiers: that of the primary first, and if it does not answer the others, whose servers are
//! standbys and know what was changed a moment ago a little later.

use crate::worker::Worker;
use bytes::Bytes;
use cluster::view::View;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use identity::Caller;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};

/// How long one agent may take, before the next is asked.
const ASK_MAX: Duration = Duration::from_secs(2);

/// Longest answer. Bytes.
const ANSWER_MAX: usize = 16 * 1024;

/// `rolpassword` of this user, if it has one.
///
/// # Errors
/// What each agent said instead.
pub async fn ask(user: &[u8], worker: &Worker) -> Result<Option<String>, String> {
    // What is no UTF-8 is no user whom an agent could be asked about.
    let Ok(user) = std::str::from_utf8(user) else { return Ok(None) };
    let settings = worker.shared.settings();
    let mut failures = Vec::new();
    for agent in in_turn(&worker.views.clone().latest(), &settings.agents) {
        let asked = timeout(ASK_MAX, ask_one(&worker.shared.caller, &agent, user)).await;
        match asked.unwrap_or_else(|_| Err(format!("no answer within {} s", ASK_MAX.as_secs()))) {
            Ok(verifier) => return Ok(verifier),
            Err(error) => failures.push(format!("{agent}: {error}")),
        }
    }
    Err(failures.join("; "))
}

/// Those to ask, each once.
fn in_turn(view: &View, configured: &[String]) -> Vec<String> {
    let mut agents: Vec<String> = Vec::new();
    for agent in view.primary_agent.iter().chain(&view.agents).chain(configured) {
        if !agents.contains(agent) {
            agents.push(agent.clone());
        }
    }
    agents
}

async fn ask_one(caller: &Caller, agent: &str, user: &str) -> Result<Option<String>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = caller.connect(agent).await.map_err(|e| text(&e))?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    // Ended with this function.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let body = Full::new(Bytes::from(json!({ "user": user }).to_string()));
    let request =
        Request::post("/v1/verifier").header("host", agent).header("content-type", "application/json");
    let answer =
        requests.send_request(request.body(body).map_err(|e| text(&e))?).await.map_err(|e| text(&e))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.map_err(|e| text(&e))?.to_bytes();
    if !status.is_success() {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
    }
    let answer: Value = serde_json::from_slice(&body).map_err(|e| text(&e))?;
    match answer.get("verifier") {
        Some(Value::String(verifier)) => Ok(Some(verifier.clone())),
        Some(Value::Null) => Ok(None),
        _ => Err("its answer names no verifier".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primary_s_agent_is_asked_first_and_each_once() {
        let agents = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let view = View {
            agents: agents(&["a:1", "b:1", "c:1"]),
            primary_agent: Some("b:1".into()),
            ..View::default()
        };
        assert_eq!(in_turn(&view, &agents(&["a:1", "d:1"])), agents(&["b:1", "a:1", "c:1", "d:1"]));
        assert_eq!(in_turn(&View::default(), &agents(&["a:1"])), agents(&["a:1"]));
    }
}
