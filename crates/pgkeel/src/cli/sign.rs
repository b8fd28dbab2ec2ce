//! A running process has its certificate renewed by whichever agent has the authority's key.

use std::sync::Arc;
use std::time::Duration;

use agent::messages::{CertificateAsked, CertificateSigned};
use identity::renew::{Renewal, Sign};
use identity::{Caller, Credentials, Role};

use crate::ask::tell;

const LIMIT: Duration = Duration::from_secs(5);

/// Who renews the certificate of this process: a proxy that shows its host's agent's leaves it to that.
#[must_use]
pub fn renewal(credentials: &Credentials, agents: Vec<String>, has_agent: bool) -> Renewal {
    if !has_agent && credentials.current().subject.role == Role::Agent {
        return Renewal::Elsewhere;
    }
    let caller = Caller::with(Some(credentials.clone()));
    let sign: Sign = Arc::new(move |request| {
        let (caller, agents) = (caller.clone(), agents.clone());
        Box::pin(async move { first_to_sign(&caller, &agents, request).await })
    });
    Renewal::Here(sign)
}

async fn first_to_sign(caller: &Caller, agents: &[String], request: String) -> Result<String, String> {
    let asked = CertificateAsked { request };
    let mut refused = Vec::new();
    for agent in agents {
        match tell::<_, CertificateSigned>(caller, agent, "/v1/certificate", &asked, LIMIT).await {
            Ok(signed) => return Ok(signed.certificate),
            Err(error) => refused.push(format!("{agent}: {error}")),
        }
    }
    Err(format!("no agent has signed one ({})", refused.join("; ")))
}
