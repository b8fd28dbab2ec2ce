//! The rules that hold now: read at the start, and again when a file has changed.

use super::{Caller, File, Rules, Way};
use crate::error::Refusal;
use crate::settings::RuleFiles;
use crate::source::Peer;
use crate::stream::Stream;
use crate::tls::TlsStream;
use crate::worker::Shared;
use identity::file_changes::{FileChanges, LOOK_EVERY, Stamp};
use pgwire::StartupMessage;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use thiserror::Error;

/// Longer files are refused. Bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Users of this host, for `peer`.
const USERS: &str = "/etc/passwd";

/// Most wrong lines that are told at once.
const WRONG_MAX: usize = 20;

/// What is wrong with a file of rules.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct HbaProblem {
    key: &'static str,
    path: PathBuf,
    /// With the number of its line; 0 is the whole file.
    lines: Vec<(usize, String)>,
}

impl fmt::Display for HbaProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?}: ", self.key, self.path)?;
        for (at, (line, why)) in self.lines.iter().take(WRONG_MAX).enumerate() {
            f.write_str(if at > 0 { "; " } else { "" })?;
            match line {
                0 => f.write_str(why)?,
                line => write!(f, "line {line} {why}")?,
            }
        }
        match self.lines.len().saturating_sub(WRONG_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Hba {
    files: RuleFiles,
    current: RwLock<Arc<Rules>>,
    stamp: Stamp,
}

impl Hba {
    /// Reads the files.
    ///
    /// # Errors
    /// [`HbaProblem`]
    pub fn load(files: &RuleFiles) -> Result<Hba, HbaProblem> {
        let stamp = Stamp::of(&paths(files));
        Ok(Hba { files: files.clone(), current: RwLock::new(Arc::new(read(files)?)), stamp })
    }

    /// Whether a client may log in that has sent this start-up message, and how.
    ///
    /// # Errors
    /// What it is told.
    pub fn admit(&self, client: &Stream, message: &StartupMessage<'_>) -> Result<Way, Refusal> {
        let peer = client.peer().map_err(|error| Refusal::ClientBroke { why: error.to_string() })?;
        self.admit_from(peer, client.tls(), message)
    }

    /// The same for a client that comes from there, with that TLS.
    ///
    /// # Errors
    /// What it is told.
    pub fn admit_from(
        &self,
        peer: Peer,
        tls: Option<&TlsStream>,
        message: &StartupMessage<'_>,
    ) -> Result<Way, Refusal> {
        let user = message.get("user").filter(|user| !user.is_empty()).ok_or(Refusal::NoUser)?;
        let common_name = tls.and_then(TlsStream::peer_common_name);
        // It is replaced as a whole, so a panic elsewhere spoils nothing.
        let rules = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let system_user = match peer {
            Peer::Unix { uid } if rules.ask_for_system_user() => system_user(uid),
            Peer::Unix { .. } | Peer::Tcp(_) => None,
        };
        rules.decide(&Caller {
            source: peer.source(),
            system_user: system_user.as_deref(),
            tls: tls.is_some(),
            user,
            database: message.get("database").filter(|name| !name.is_empty()).unwrap_or(user),
            replicates: replicates(message),
            common_name: common_name.as_deref(),
        })
    }

    fn renew(&self) -> Result<(), HbaProblem> {
        let rules = read(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        Ok(())
    }
}

/// The name of a user of this host, of those that /etc/passwd has.
fn system_user(uid: u32) -> Option<String> {
    let users = std::fs::read(USERS).ok()?;
    let mut lines = users.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Whether it asks for the whole WAL; with `database` it asks for one database, like any client
/// (src/backend/postmaster/postmaster.c, `ProcessStartupPacket`).
fn replicates(message: &StartupMessage<'_>) -> bool {
    let asked = message.get("replication").unwrap_or_default().to_ascii_lowercase();
    !matches!(asked.as_slice(), b"" | b"database" | b"false" | b"f" | b"no" | b"n" | b"off" | b"0")
}

/// Keeps the rules as their files say. Never returns if there are some.
pub async fn keep_current(shared: Arc<Shared>) {
    let Some(hba) = &shared.hba else { return };
    let paths = paths(&hba.files);
    let mut changes = FileChanges::since(&hba.stamp);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if changes.are_due(Stamp::of(&paths)) {
            match hba.renew() {
                Ok(()) => {
                    changes.succeeded();
                    tracing::info!("the new rules of {:?} hold for clients that come from now on", paths)
                }
                Err(problem) => {
                    if changes.failed(&problem.to_string()) {
                        tracing::error!("the old rules stay in use, because of the new ones: {problem}");
                    }
                }
            }
        }
    }
}

fn paths(files: &RuleFiles) -> Vec<PathBuf> {
    [&files.hba].into_iter().chain(&files.ident).cloned().collect()
}

fn read(files: &RuleFiles) -> Result<Rules, HbaProblem> {
    let problem = |file, lines| {
        let (key, path) = match (file, &files.ident) {
            (File::Ident, Some(ident)) => ("proxy.ident_file", ident),
            _ => ("proxy.hba_file", &files.hba),
        };
        HbaProblem { key, path: path.clone(), lines }
    };
    let text = |file, path: &Path| read_text(path).map_err(|why| problem(file, vec![(0, why)]));
    let ident = files.ident.as_ref().map(|path| text(File::Ident, path)).transpose()?;
    let rules = Rules::parse(&text(File::Hba, &files.hba)?, &ident.unwrap_or_default());
    rules.map_err(|(file, wrong)| problem(file, wrong))
}

fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("is longer than 1 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| format!("is not UTF-8: {error}"))
}
