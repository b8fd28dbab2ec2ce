//! Asks etcd's members, one after the other until one answers, each within a deadline.
//!
//! This file does not know what is asked. A call may be carried out more than once: what it writes must say under which
//! condition.

use super::super::options::{EtcdOptions, EtcdUser};
use super::wire::{LOGIN, LoginAnswer};
use crate::clock::boottime_ms;
use crate::http::{BODY_MAX, Connection, HttpError, Pieces};
use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Largest file with a password, in bytes.
const PASSWORD_MAX: u64 = 4096;

/// Why there is no answer that could be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EtcdError {
    /// No member gave one. What was to be written may be written yet.
    #[error("{0}")]
    Unanswered(String),
    /// The answer is no. Nothing was written.
    #[error("etcd refuses: {0}")]
    Refused(String),
}

impl EtcdError {
    /// Whether the lease that was named is over.
    pub(super) fn lease_is_over(&self) -> bool {
        matches!(self, EtcdError::Refused(said) if said.contains("lease not found"))
    }
}

/// What hinders a member.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// There is no way to it, or nobody there.
    Unreachable(String),
    /// It is there, and does not answer, or not what was asked.
    Mute(String),
}

/// All members, as those who ask have found them.
pub(super) struct Members {
    options: EtcdOptions,
    /// What etcd gave for the password.
    token: Mutex<Option<String>>,
    /// By endpoint: why its last call had no answer.
    troubles: Mutex<Vec<Option<Trouble>>>,
}

impl Members {
    pub(super) fn new(options: EtcdOptions) -> Arc<Members> {
        let troubles = Mutex::new(vec![None; options.endpoints.len()]);
        Arc::new(Members { options, token: Mutex::new(None), troubles })
    }

    fn token(&self) -> Option<String> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_token(&self, token: Option<String>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn note(&self, at: usize, now: Option<Trouble>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(was), Some(endpoint)) = (troubles.get_mut(at), self.options.endpoints.get(at)) else {
            return;
        };
        match (&*was, &now) {
            (None, Some(Trouble::Unreachable(said) | Trouble::Mute(said))) => {
                tracing::warn!("a member of etcd does not answer, another one is asked: {said}");
            }
            (Some(_), None) => tracing::info!("the member of etcd at {} answers again", endpoint.address),
            (None, None) | (Some(_), Some(_)) => {}
        }
        *was = now;
    }

    /// Says why nobody answers.
    fn explain(&self) -> String {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        explain(&troubles)
    }
}

fn explain(troubles: &[Option<Trouble>]) -> String {
    let (mut unreachable, mut mute) = (Vec::new(), Vec::new());
    for trouble in troubles.iter().flatten() {
        match trouble {
            Trouble::Unreachable(said) => unreachable.push(said.as_str()),
            Trouble::Mute(said) => mute.push(said.as_str()),
        }
    }
    let (all, lost) = (troubles.len(), unreachable.len());
    match (unreachable.is_empty(), mute.is_empty()) {
        (false, false) => format!(
            "{lost} of {all} etcd members cannot be reached, and the rest confirms nothing without them: {}; {}",
            unreachable.join("; "),
            mute.join("; ")
        ),
        (false, true) => {
            format!("{lost} of {all} etcd members cannot be reached: {}", unreachable.join("; "))
        }
        (true, _) => format!("etcd confirms nothing: {}", mute.join("; ")),
    }
}

/// Asks for one purpose: one call at a time, over a connection that is kept.
pub(super) struct Caller {
    members: Arc<Members>,
    /// The endpoint that answered last.
    at: usize,
    connection: Option<Connection>,
    /// For one try.
    limit: Duration,
    /// When the last try began.
    sent_ms: u64,
}

impl Caller {
    pub(super) fn new(members: &Arc<Members>, limit: Duration) -> Caller {
        Caller { members: members.clone(), at: 0, connection: None, limit, sent_ms: 0 }
    }

    /// Asks until a member answers, each once.
    pub(super) async fn call<R: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &Value,
    ) -> Result<R, EtcdError> {
        let all = self.members.options.endpoints.len();
        let mut is_sent = false;
        for _ in 0..all {
            match self.ask_here(path, body).await {
                Ok(answer) => {
                    self.members.note(self.at, None);
                    return Ok(answer);
                }
                Err(e) => match judge(&e) {
                    // A member before may carry it out yet.
                    Judged::No(said) if is_sent => return Err(EtcdError::Unanswered(said)),
                    Judged::No(said) => return Err(EtcdError::Refused(said)),
                    Judged::Elsewhere(trouble) => {
                        is_sent |= matches!(trouble, Trouble::Mute(_));
                        self.members.note(self.at, Some(trouble));
                        self.move_on();
                    }
                },
            }
        }
        Err(EtcdError::Unanswered(self.members.explain()))
    }

    /// When the request was sent, at the earliest, that had the last answer (CLOCK_BOOTTIME).
    pub(super) fn sent_ms(&self) -> u64 {
        self.sent_ms
    }

    /// Begins an answer that does not end. The next call asks another member.
    pub(super) async fn open(&mut self, path: &str, body: &Value) -> Result<Pieces, EtcdError> {
        self.move_on();
        let mut connection = self.connect();
        let opened = match self.log_in(&mut connection).await {
            Ok(()) => connection.post_for_stream(path, body, self.limit).await,
            Err(e) => Err(e),
        };
        opened.map_err(|e| {
            if is_about_login(&e) {
                self.members.set_token(None);
            }
            EtcdError::Unanswered(e.to_string())
        })
    }

    fn move_on(&mut self) {
        self.at = (self.at + 1) % self.members.options.endpoints.len().max(1);
        self.connection = None;
    }

    fn connect(&self) -> Connection {
        let options = &self.members.options;
        let endpoint = options.endpoints.get(self.at);
        let tls = options.tls.clone().filter(|_| endpoint.is_some_and(|e| e.secure));
        Connection::to_etcd(tls, endpoint.map_or("", |e| &e.address), BODY_MAX)
    }

    async fn ask_here<R: DeserializeOwned>(&mut self, path: &str, body: &Value) -> Result<R, HttpError> {
        // Every try is a request of its own: what was sent before it does not make its answer older.
        self.sent_ms = boottime_ms();
        let mut connection = self.connection.take().unwrap_or_else(|| self.connect());
        let mut answer = self.ask(&mut connection, path, body).await;
        if answer.as_ref().is_err_and(is_about_login) && self.members.options.user.is_some() {
            // The token is good for some minutes without use, and not after a change of users or roles.
            self.members.set_token(None);
            answer = self.ask(&mut connection, path, body).await;
        }
        self.connection = Some(connection);
        answer
    }

    async fn ask<R: DeserializeOwned>(
        &self,
        connection: &mut Connection,
        path: &str,
        body: &Value,
    ) -> Result<R, HttpError> {
        self.log_in(connection).await?;
        connection.post_json(path, body, self.limit).await
    }

    /// Makes the connection show a token, if etcd wants to know who asks.
    async fn log_in(&self, connection: &mut Connection) -> Result<(), HttpError> {
        let Some(user) = &self.members.options.user else { return Ok(()) };
        if self.members.token().is_none() {
            connection.show(None);
            let login = json!({"name": user.name, "password": password(user).await?});
            let answer: LoginAnswer = connection.post_json(LOGIN, &login, self.limit).await?;
            self.members.set_token(Some(answer.token));
        }
        connection.show(self.members.token());
        Ok(())
    }
}

async fn password(user: &EtcdUser) -> Result<String, HttpError> {
    let path = user.password_file.clone();
    let read = tokio::task::spawn_blocking(move || read_small(&path)).await;
    match read.unwrap_or_else(|e| Err(io::Error::other(e))) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(source) => Err(HttpError::Unreachable {
            address: format!("the password in {}", user.password_file.display()),
            source,
        }),
    }
}

/// Which file that is may have been said by somebody else: it may be of any kind and size.
fn read_small(path: &Path) -> io::Result<String> {
    let without_waiting = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let file = File::options().read(true).custom_flags(without_waiting).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.len() > PASSWORD_MAX {
        let what = format!("it is no plain file of at most {PASSWORD_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut text = String::new();
    file.take(PASSWORD_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// What a failed call means for the next one.
enum Judged {
    /// Any member would say so.
    No(String),
    /// Another member may answer.
    Elsewhere(Trouble),
}

fn judge(error: &HttpError) -> Judged {
    let said = error.to_string();
    match error {
        HttpError::Unreachable { .. } => Judged::Elsewhere(Trouble::Unreachable(said)),
        HttpError::Timeout { .. } | HttpError::Broken { .. } | HttpError::Malformed { .. } => {
            Judged::Elsewhere(Trouble::Mute(said))
        }
        // 408 and 499: it gave up waiting, and may carry it out yet.
        HttpError::Status { status, .. } if *status >= 500 || [408, 499].contains(status) => {
            Judged::Elsewhere(Trouble::Mute(said))
        }
        HttpError::Status { status: 404, body, .. } if !body.contains("etcdserver") => Judged::No(format!(
            "{said}; pgkeel needs etcd 3.4 or later with its JSON gateway (--enable-grpc-gateway, on by default)"
        )),
        HttpError::Status { .. } => Judged::No(said),
    }
}

/// Whether etcd wants to know anew who asks.
fn is_about_login(error: &HttpError) -> bool {
    match error {
        HttpError::Status { status, body, .. } => {
            *status == 401 || body.contains("auth token") || body.contains("auth store is old")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_who_is_missing() {
        let gone = |n: u8| Some(Trouble::Unreachable(format!("h{n}:2379 cannot be reached: refused")));
        let mute = Some(Trouble::Mute("h3:2379 did not answer".to_owned()));
        assert_eq!(
            explain(&[gone(1), gone(2), mute.clone()]),
            "2 of 3 etcd members cannot be reached, and the rest confirms nothing without them: h1:2379 cannot be reached: \
             refused; h2:2379 cannot be reached: refused; h3:2379 did not answer"
        );
        assert_eq!(
            explain(&[gone(1), None, None]),
            "1 of 3 etcd members cannot be reached: h1:2379 cannot be reached: refused"
        );
        assert_eq!(explain(&[None, mute]), "etcd confirms nothing: h3:2379 did not answer");
    }

    #[test]
    fn a_password_is_in_a_small_plain_file() {
        let path = std::env::temp_dir().join(format!("pgkeel-password-{}", std::process::id()));
        assert!(std::fs::write(&path, "secret\n").is_ok());
        assert_eq!(read_small(&path).ok().as_deref(), Some("secret\n"));
        assert!(std::fs::write(&path, "x".repeat(4097)).is_ok());
        assert!(read_small(&path).is_err_and(|e| e.to_string().contains("no plain file")));
        assert!(std::fs::remove_file(&path).is_ok());
        for other in ["/dev/zero", "/tmp"] {
            assert!(read_small(Path::new(other)).is_err(), "{other}");
        }
    }

    #[test]
    fn only_a_plain_no_means_that_nothing_was_written() {
        let status = |status: u16| HttpError::Status {
            address: String::new(),
            path: String::new(),
            status,
            body: String::new(),
        };
        for no in [400, 403, 404, 429] {
            assert!(matches!(judge(&status(no)), Judged::No(_)), "{no}");
        }
        for unsure in [408, 499, 500, 503, 504] {
            assert!(matches!(judge(&status(unsure)), Judged::Elsewhere(Trouble::Mute(_))), "{unsure}");
        }
    }
}
