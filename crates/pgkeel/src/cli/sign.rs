//! A running process has its certificate renewed by whichever agent has the authority's key.

use std::sync::Arc;
use std::time::Duration;

use agent::messages::{CertificateAsked, CertificateSigned};
use identity::renew::{Renewal, Sign, Signer};
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
    Renewal::Here(agents.into_iter().map(|agent| signer(&caller, agent)).collect())
}

fn signer(caller: &Caller, agent: String) -> Signer {
    let (caller, name) = (caller.clone(), agent.clone());
    let sign: Sign = Arc::new(move |request| {
        let (caller, agent) = (caller.clone(), agent.clone());
        Box::pin(async move {
            let asked = CertificateAsked { request };
            let signed =
                tell::<_, CertificateSigned>(&caller, &agent, "/v1/certificate", &asked, LIMIT).await;
            signed.map(|signed| signed.certificate).map_err(|error| error.to_string())
        })
    });
    Signer { name, sign }
}
