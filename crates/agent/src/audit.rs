//! The audit list: what people have had done through this agent, and who was refused here. Each agent keeps its own, in files of its
//! state directory that are only appended to. The record that all agents share is not used for it: whoever knocks from outside
//! could fill that.
//!
//! Four shelves, each of two files and bounded, so that what one kind of guest does cannot push out what matters more:
//! - `orders`: what was done for somebody;
//! - `others`: what is done as a matter of routine, and what went wrong and may have been done;
//! - `refused`: what was refused to somebody who is known;
//! - `strangers`: what was refused to whoever is not. On all but the first, what repeats itself is counted ([`folding`]).
//!
//! A thread of its own writes: a disk that hangs holds up nobody, and what cannot be written is in the log, as an error.

mod folding;
mod shelf;
pub mod words;

use crate::clock::wall_ms;
use cluster::{NodeName, WallMs};
use folding::Folding;
use serde::{Deserialize, Serialize};
use shelf::{Lines, Shelf};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// Entries that are told at most.
pub const TOLD_MAX: usize = 1000;
/// Notes that may wait for the disk.
const QUEUE: usize = 1024;
/// How long somebody waits to be told.
const TELL_LIMIT: Duration = Duration::from_secs(5);
/// How long the thread may take to write what is still counted, when the process goes.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was done, or recorded to be done.
    Done,
    /// It was not done, and `why` says what spoke against it.
    Refused,
    /// Something went wrong; it may have been done.
    Failed,
    /// Whoever asked went away before it was known.
    Unknown,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, on the wall clock of the node.
    pub at: WallMs,
    /// Whose agent was asked.
    pub node: NodeName,
    /// Who, as far as it was shown: role and name of a certificate, an invitation, or what was missing.
    pub who: String,
    /// Who he says he is; nobody has looked whether that is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// The address he came from.
    pub from: String,
    /// What he wanted.
    pub what: String,
    /// What came of it.
    pub result: Verdict,
    /// Why, or under which name it is recorded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// How often, if it was refused several times alike.
    pub times: u64,
    /// When for the last time.
    pub last: WallMs,
}

/// How well somebody is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// He has shown a certificate of the cluster, or the cluster asks nobody for one.
    Yes,
    /// He has not.
    No,
}

/// Somebody and what he wants.
#[derive(Clone, Debug)]
pub struct Wish {
    /// See [`Entry::who`].
    pub who: String,
    /// How well he is known.
    pub known: Known,
    /// See [`Entry::says`].
    pub says: Option<String>,
    /// From where.
    pub from: IpAddr,
    /// See [`Entry::what`].
    pub what: String,
    /// It changes nothing that somebody would look for, and may come often: it is counted also when it is done.
    pub routine: bool,
}

/// The list of one agent. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Audit {
    notes: SyncSender<Note>,
}

/// What the thread is told.
enum Note {
    Ended(Box<(Wish, Verdict, String)>),
    Tell { last: usize, reply: oneshot::Sender<io::Result<Vec<Entry>>> },
    Close(oneshot::Sender<()>),
}

impl Audit {
    /// The list in `dir`, which is made when something is to be written. Never fails: the agent runs also without a list.
    #[must_use]
    pub fn open(dir: &Path, node: NodeName) -> Audit {
        let (notes, inbox) = sync_channel(QUEUE);
        let mut clerk = Clerk::at(dir, node);
        let started = std::thread::Builder::new().name("audit".to_owned()).spawn(move || clerk.serve(&inbox));
        if let Err(e) = started {
            tracing::error!("the audit list is not written, as no thread can be made for it: {e}");
        }
        Audit { notes }
    }

    /// Somebody begins something. If nobody says how it ended, the list says that it is not known.
    #[must_use]
    pub fn begin(&self, wish: Wish) -> Attempt {
        Attempt { audit: self.clone(), wish: Some(wish) }
    }

    /// What became of somebody's wish.
    pub fn ended(&self, wish: Wish, result: Verdict, why: &str) {
        // Before it waits anywhere: what comes from outside may be long.
        let wish = Wish {
            who: words::clean(&wish.who),
            says: wish.says.as_deref().map(words::clean_short).filter(|says| !says.is_empty()),
            what: words::clean(&wish.what),
            ..wish
        };
        let note = Note::Ended(Box::new((wish, result, words::clean(why))));
        let note = match self.notes.try_send(note) {
            Ok(()) => return,
            Err(TrySendError::Full(note) | TrySendError::Disconnected(note)) => note,
        };
        let Note::Ended(lost) = note else { return };
        let (wish, result, _) = *lost;
        tracing::error!(
            "the audit list is not written, look at the disk of its directory; it lacks: {} from {}: {}: {}",
            wish.who,
            wish.from,
            wish.what,
            words::verdict(result)
        );
    }

    /// The last entries, oldest first, at most [`TOLD_MAX`].
    ///
    /// # Errors
    /// When the files cannot be read, or nobody reads them.
    pub async fn tell(&self, last: usize) -> Result<Vec<Entry>, String> {
        let (reply, answer) = oneshot::channel();
        let busy = "the audit list is not read now: its disk does not keep up";
        self.notes.try_send(Note::Tell { last: last.min(TOLD_MAX), reply }).map_err(|_| busy.to_owned())?;
        let told = tokio::time::timeout(TELL_LIMIT, answer).await.map_err(|_| busy.to_owned())?;
        let told = told.map_err(|_| busy.to_owned())?;
        told.map_err(|e| format!("the audit list cannot be read: {e}"))
    }

    /// Writes down what is still being counted. Call it before the process ends.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.notes.try_send(Note::Close(reply)).is_ok() {
            let _ = tokio::time::timeout(CLOSE_LIMIT, closed).await;
        }
    }
}

/// Something that has begun.
#[derive(Debug)]
pub struct Attempt {
    audit: Audit,
    wish: Option<Wish>,
}

impl Attempt {
    /// It has ended.
    pub fn ended(mut self, result: Verdict, why: &str) {
        if let Some(wish) = self.wish.take() {
            self.audit.ended(wish, result, why);
        }
    }

    /// It changed nothing, and was not to.
    pub fn was_only_tried(mut self) {
        self.wish = None;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(wish) = self.wish.take() {
            self.audit.ended(wish, Verdict::Unknown, "the connection ended before the answer");
        }
    }
}

/// A shelf on which refusals are counted.
struct Counted {
    shelf: Shelf,
    folding: Folding,
}

/// Who keeps the list.
struct Clerk {
    node: NodeName,
    orders: Shelf,
    /// What is done as a matter of routine, and what went wrong: whoever may give no order could fill it.
    others: Counted,
    refused: Counted,
    strangers: Counted,
}

impl Clerk {
    fn at(dir: &Path, node: NodeName) -> Clerk {
        let counted = |name, known| Counted {
            shelf: Shelf::at(dir, name, Lines::Counted),
            folding: Folding::of(known),
        };
        Clerk {
            node,
            orders: Shelf::at(dir, "orders", Lines::Each),
            others: counted("others", Known::Yes),
            refused: counted("refused", Known::Yes),
            strangers: counted("strangers", Known::No),
        }
    }

    /// Ends with the last [`Audit`].
    fn serve(&mut self, inbox: &Receiver<Note>) {
        while let Ok(note) = inbox.recv() {
            match note {
                Note::Ended(ended) => {
                    let (wish, result, why) = *ended;
                    self.note(wish, result, &why, wall_ms());
                }
                // Who went away meanwhile does not keep others waiting.
                Note::Tell { reply, .. } if reply.is_closed() => {}
                Note::Tell { last, reply } => drop(reply.send(self.tell(last))),
                Note::Close(reply) => {
                    for counted in [&mut self.others, &mut self.refused, &mut self.strangers] {
                        let rest = counted.folding.close();
                        rest.iter().for_each(|entry| write(&mut counted.shelf, entry));
                    }
                    let _ = reply.send(());
                }
            }
        }
    }

    fn note(&mut self, wish: Wish, result: Verdict, why: &str, now: WallMs) {
        let entry = Entry {
            at: now,
            node: self.node.clone(),
            who: wish.who,
            says: wish.says,
            from: wish.from.to_canonical().to_string(),
            what: wish.what,
            result,
            why: why.to_owned(),
            times: 1,
            last: now,
        };
        if result == Verdict::Done && !wish.routine {
            tracing::info!("audit: {}", words::line(&entry));
            return write(&mut self.orders, &entry);
        }
        let counted = match (result, wish.known) {
            (Verdict::Done, _) | (Verdict::Failed | Verdict::Unknown, Known::Yes) => &mut self.others,
            (Verdict::Refused, Known::Yes) => &mut self.refused,
            (Verdict::Refused | Verdict::Failed | Verdict::Unknown, Known::No) => &mut self.strangers,
        };
        // One host has a whole network of addresses; who has no name is measured by that alone.
        let network = crate::http::network(wish.from);
        let whose = match wish.known {
            Known::Yes => format!("{} {network}", entry.who),
            Known::No => network.to_string(),
        };
        let lines = counted.folding.note(entry, whose, now);
        lines.iter().for_each(|line| write(&mut counted.shelf, line));
    }

    fn tell(&self, last: usize) -> io::Result<Vec<Entry>> {
        let mut all = self.orders.read(&[])?;
        all.extend(self.others.shelf.read(&self.others.folding.open())?);
        all.extend(self.refused.shelf.read(&self.refused.folding.open())?);
        all.extend(self.strangers.shelf.read(&self.strangers.folding.open())?);
        all.sort_by_key(|entry| entry.last);
        Ok(all.split_off(all.len().saturating_sub(last)))
    }
}

fn write(shelf: &mut Shelf, entry: &Entry) {
    if let Err(e) = shelf.append(entry) {
        tracing::error!("the audit list cannot be written: {e}; it lacks: {}", words::line(entry));
    }
}

#[cfg(test)]
mod tests;
