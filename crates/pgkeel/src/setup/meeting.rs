//! What a host without a certificate says to an agent of the cluster: who is your authority, and let me in.

use std::time::Duration;

use agent::messages::{AuthorityAnswer, JoinAnswer, JoinAsked};
use cluster::NodeName;
use cluster::membership::TokenRole;
use identity::authority::{self, cluster_of};
use identity::certificate;
use identity::invitation::authority_in;
use identity::{Authority, Caller, Folder, Invitation, Role, Subject};

use crate::ask::{AskError, ask, tell};

const AUTHORITY_LIMIT: Duration = Duration::from_secs(5);
/// The agent that is asked may have to pass it on, and it is recorded by a majority.
const JOIN_LIMIT: Duration = Duration::from_secs(20);

/// An agent that has shown to be of the cluster which the invitation means.
#[derive(Clone, Debug)]
pub struct Met {
    /// `host:port` of the agent.
    pub address: String,
    /// Name of the cluster.
    pub cluster: String,
    invitation: Invitation,
    caller: Caller,
}

/// Meets the agent at `address`.
///
/// # Errors
/// When nobody answers, or not who is meant.
pub async fn meet(address: &str, invitation: &Invitation) -> Result<Met, String> {
    let cannot = |error: std::io::Error| format!("no call can be made: {error}");
    let anybody = Caller::unverified().map_err(cannot)?;
    let answer: Result<AuthorityAnswer, AskError> =
        ask(&anybody, address, "/v1/authority", AUTHORITY_LIMIT).await;
    let authorities = answer.map_err(|error| unanswered(address, &error))?.authorities;
    let Some(found) = authority_in(&authorities, &invitation.authority) else {
        return Err(format!(
            "the authority at {address} is not the one of the invitation: somebody in between, or another cluster; nothing \
             was said to it"
        ));
    };
    let cluster = cluster_of(&found);
    let cluster = cluster.ok_or_else(|| format!("the authority at {address} is no cluster's of pgkeel"))?;
    let caller = Caller::trusting(found).map_err(cannot)?;
    Ok(Met { address: address.to_owned(), cluster, invitation: invitation.clone(), caller })
}

fn unanswered(address: &str, error: &AskError) -> String {
    match error {
        AskError::Unreachable(_) | AskError::Late(_) => format!(
            "the agent at {address} cannot be reached: {error}; is it the address that `pgkeel invite` has printed, and may this \
             host connect to it?"
        ),
        AskError::Refused(404, _) => {
            format!("the agent at {address} is of a version that lets nobody join; upgrade it first")
        }
        AskError::Refused(..) | AskError::NotUnderstood(_) => {
            format!("what answers at {address} is no agent that can be joined: {error}")
        }
    }
}

/// What was got for an invitation: checked, and written nowhere yet.
pub struct Got {
    /// What the cluster said.
    pub answer: JoinAnswer,
    key: String,
}

impl Met {
    /// Uses the invitation; `system_identifier` is that of a database that the node brings along.
    ///
    /// # Errors
    /// Why the cluster refuses, or what is wrong with its answer.
    pub async fn join(
        &self,
        role: TokenRole,
        node: &NodeName,
        system_identifier: Option<u64>,
    ) -> Result<Got, String> {
        let made = authority::request();
        let (key, request) = made.map_err(|error| format!("no key can be made: {error}"))?;
        let Invitation { id, secret, .. } = self.invitation.clone();
        let asked = JoinAsked { id, secret, role, node: node.clone(), request, system_identifier };
        let answer: Result<JoinAnswer, AskError> =
            tell(&self.caller, &self.address, "/v1/join", &asked, JOIN_LIMIT).await;
        let answer = answer.map_err(|error| match error {
            AskError::Refused(_, why) => format!("{} refuses: {why}", self.address),
            AskError::Unreachable(_) => unanswered(&self.address, &error),
            AskError::Late(_) | AskError::NotUnderstood(_) => format!(
                "{}: {error}. The invitation may be used up: if it is refused next time, ask for another one",
                self.address
            ),
        })?;
        self.check(&answer, role, node)?;
        Ok(Got { answer, key })
    }

    fn check(&self, answer: &JoinAnswer, role: TokenRole, node: &NodeName) -> Result<(), String> {
        let wrong = |what: &str| format!("the answer of {} is not used: {what}", self.address);
        if answer.cluster != self.cluster {
            return Err(wrong(&format!("it is of cluster {}, not of {}", answer.cluster, self.cluster)));
        }
        if authority_in(&answer.authorities, &self.invitation.authority).is_none() {
            return Err(wrong("the authority of the invitation is not among those that it trusts"));
        }
        let role = match role {
            TokenRole::Data | TokenRole::Witness => Role::Agent,
            TokenRole::Proxy => Role::Proxy,
        };
        let wanted = Subject::new(&self.cluster, role, node.as_str())?;
        match certificate::subject_of_text(&answer.certificate) {
            Some(found) if found == wanted => {}
            Some(found) => return Err(wrong(&format!("its certificate is for {found}, not for {wanted}"))),
            None => return Err(wrong("its certificate says not for whom it is")),
        }
        if let Some(key) = &answer.authority_key {
            Authority::load(&answer.authorities, key).map_err(|error| wrong(&error.to_string()))?;
        }
        Ok(())
    }
}

impl Got {
    /// Writes certificates and keys, once they were found good.
    ///
    /// # Errors
    /// What the system, or a certificate, has against it.
    pub fn write(&self, folder: &Folder) -> Result<(), String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", folder.dir().display());
        folder.write_authorities(&self.answer.authorities).map_err(|error| named(&error))?;
        if let Some(key) = &self.answer.authority_key {
            folder.write_authority_key(key).map_err(|error| named(&error))?;
        }
        let pair =
            identity::authority::Pair { certificate: self.answer.certificate.clone(), key: self.key.clone() };
        folder.write_own(&pair).map_err(|error| named(&error))
    }
}
