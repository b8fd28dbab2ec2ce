//! Where the cluster's record is kept. `GET /v1/store`: what this node says, or the one that is named. For agents alone are
//! `GET /v1/store/opening`, which tells one that was away where to go, and `POST /v1/store/judge`: whether a node could keep it
//! elsewhere. An order to move it ([`super::order`]) is judged by every node, before the leader hears of it.

use super::elsewhere::Whom;
use super::{Shared, Unanswered};
use crate::http;
use crate::messages::Keeping;
use crate::store::{HomeAsked, HomeJudged, StoreKind, Whereabouts};
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use cluster::NodeName;
use cluster::membership::Seat;
use cluster::moving::{Access, Bar, Home, unfit};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a node may take to judge: it asks each member of an etcd.
const JUDGE_LIMIT: Duration = Duration::from_secs(6);

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/store", get(keeping))
        .route("/v1/store/opening", get(opening))
        .route("/v1/store/judge", post(judge))
}

async fn keeping(
    State(shared): State<Shared>,
    Query(whom): Query<Whom>,
) -> Result<Json<Keeping>, Unanswered> {
    if let Some(agent) = shared.elsewhere(&whom)? {
        return agent.get("/v1/store?").await.map(Json);
    }
    let (store, state) = (&shared.store, shared.store.state());
    let standing = store.standing().borrow().clone();
    Ok(Json(Keeping {
        node: shared.files.me.clone(),
        number: store.number(),
        home: shared.follows.home.clone(),
        in_etcd: store.is_elsewhere(),
        file: shared.follows.file_differs.clone(),
        moves_to: state.moved.as_ref().map(|moved| moved.to.to_string()),
        leader: standing.leader,
        problem: standing.problem,
        detect_ms: state.settings.as_ref().map_or(0, |settings| settings.detect_ms),
    }))
}

async fn opening(State(shared): State<Shared>) -> Json<Whereabouts> {
    Json(shared.store.whereabouts())
}

async fn judge(State(shared): State<Shared>, Json(asked): Json<HomeAsked>) -> Json<HomeJudged> {
    if let Some(why) = shared.reads_nothing_for(&asked.to) {
        return Json(HomeJudged { fault: Some(why), ..HomeJudged::default() });
    }
    Json(shared.store.judge(&asked).await)
}

/// A file that this agent would read to use the etcd, and that its configuration file does not name under `[store]`.
fn unnamed<'a>(access: &'a Access, configured: &StoreKind) -> Option<&'a String> {
    let (own, password) = match configured {
        StoreKind::Etcd(etcd) => {
            let own = etcd.tls.as_ref().and_then(|tls| tls.own.as_ref());
            (own, etcd.user.as_ref().map(|user| &user.password_file))
        }
        StoreKind::Embedded => (None, None),
    };
    let asked = [
        (&access.cert, own.map(|own| &own.0)),
        (&access.key, own.map(|own| &own.1)),
        (&access.password_file, password),
    ];
    let is_named =
        |path: &String, named: Option<&PathBuf>| named.is_some_and(|named| named == Path::new(path));
    asked.into_iter().find_map(|(path, named)| path.as_ref().filter(|path| !is_named(path, named)))
}

impl Shared {
    /// Why this agent does not use files to reach that place. Without TLS nobody has shown who asks for it.
    pub(super) fn reads_nothing_for(&self, to: &Home) -> Option<String> {
        let Home::Etcd { access } = to else { return None };
        if self.caller.credentials().is_some() {
            return None;
        }
        unnamed(access, &self.follows.configured).map(|path| {
            format!(
                "without [tls] anybody can ask an agent, so it reads {path} for nobody unless [store] in its own configuration file \
                 names that: set up [tls] first"
            )
        })
    }

    /// The place to which the record may move, with all that is to be known of it, or what any node has against it.
    pub(super) async fn fit_home(&self, to: Home) -> Result<Home, Vec<Bar>> {
        let state = self.store.state();
        let bad = |why: String| Err(vec![Bar::BadHome { why }]);
        if state.moved.is_none() && self.store.is_elsewhere() == matches!(to, Home::Etcd { .. }) {
            return Err(vec![Bar::Same { home: self.follows.home.clone() }]);
        }
        // Of the agents it is not known yet under which numbers they vote.
        if let (Home::Etcd { .. }, Some(bar)) = (&to, unfit(&state, &to)) {
            return Err(vec![bar]);
        }
        let mark = matches!(to, Home::Etcd { .. }).then(|| uuid::Uuid::new_v4().to_string());
        if let Some(text) = &mark
            && let Err(why) = self.store.leave_mark(&to, text).await
        {
            return bad(format!("{} cannot use it: {why}", self.files.me));
        }
        let asked = HomeAsked { number: self.store.number() + 1, to: to.clone(), mark };
        let judged = self.judge_all(&asked).await;
        self.store.take_mark(&to).await;
        let mut bars = Vec::new();
        let mut voters = BTreeMap::new();
        for (node, address, answer) in judged {
            match answer {
                Err(why) | Ok(HomeJudged { fault: Some(why), .. }) => bars.push(Bar::Unfit { node, why }),
                Ok(HomeJudged { differs: true, .. }) => bars.push(Bar::Differs { node }),
                Ok(HomeJudged { raft_id, .. }) => drop(voters.insert(node, Seat { address, raft_id })),
            }
        }
        match (bars.is_empty(), to) {
            (false, _) => Err(bars),
            (true, Home::Embedded { .. }) => Ok(Home::Embedded { voters }),
            (true, to @ Home::Etcd { .. }) => Ok(to),
        }
    }

    /// What each node of the cluster, this one included, says to it, with the address of its agent.
    async fn judge_all(&self, asked: &HomeAsked) -> Vec<(NodeName, String, Result<HomeJudged, String>)> {
        let state = self.store.state();
        let seated: Vec<NodeName> = state.seated().cloned().collect();
        let judging = seated.into_iter().map(|node| {
            let of_member = state.members.get(&node).map(|member| member.agent.clone());
            let of_seat = || state.admitted.get(&node).map(|seat| seat.address.clone());
            let address = of_member.or_else(of_seat).unwrap_or_default();
            async move {
                let answer = if node == self.files.me {
                    Ok(self.store.judge(asked).await)
                } else {
                    let path = "/v1/store/judge";
                    let answer = http::post_json(&self.caller, &address, path, asked, JUDGE_LIMIT).await;
                    answer.map_err(|e| e.to_string())
                };
                (node, address, answer)
            }
        });
        futures::future::join_all(judging).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::tls::TlsFiles;
    use crate::store::{EtcdOptions, EtcdUser};

    #[test]
    fn only_files_that_are_configured_are_read_for_anybody() {
        let path = |text: &str| Some(text.to_owned());
        let access = Access {
            endpoints: vec!["http://h:1".into()],
            prefix: "/p/".into(),
            ca: path("/ca"),
            cert: path("/cert"),
            key: path("/key"),
            user: path("u"),
            password_file: path("/password"),
        };
        let none = Access { cert: None, key: None, password_file: None, ..access.clone() };
        let own =
            |cert: &str| Some(TlsFiles { ca: "/other".into(), own: Some((cert.into(), "/key".into())) });
        let user = |file: &str| Some(EtcdUser { name: "v".into(), password_file: file.into() });
        let named = |cert: &str, file: &str| {
            let (tls, user) = (own(cert), user(file));
            StoreKind::Etcd(EtcdOptions { endpoints: Vec::new(), prefix: "/q/".into(), tls, user })
        };
        assert_eq!(unnamed(&none, &StoreKind::Embedded), None);
        assert_eq!(unnamed(&access, &StoreKind::Embedded).unwrap(), "/cert");
        assert_eq!(unnamed(&access, &named("/cert", "/password")), None);
        assert_eq!(unnamed(&access, &named("/else", "/password")).unwrap(), "/cert");
        assert_eq!(unnamed(&access, &named("/cert", "/etc/shadow")).unwrap(), "/password");
    }
}
