//! The console: the database `pgkeel`, which the proxy serves itself. People look there at clients, pools and servers, and
//! pause what they want to pause.
//!
//! It runs on the worker that has accepted its client, as one more task, and asks all workers ([`ask`]) for plain facts
//! ([`facts`]), of which it makes tables. Whatever is read ([`read`], [`talk`]) or shown ([`table`], `show_*`) is pure.
//! Nothing that clients do is slower for it: no lock is shared with them.

mod ask;

mod facts;

mod keys;

mod let_in;

mod orders;

mod read;

mod show_pools;

mod show_proxy;

mod show_sessions;

mod stamp;

mod table;

mod talk;

pub use ask::{Answers, Desks, Inbox, Told, Wish, answer, desks};
pub use keys::{Consoles, keep_keys};
pub use orders::silence;

use crate::cancel::Entry;
use crate::client::{farewell, farewell_with};
use crate::error::Refusal;
use crate::pooled::NotAdmitted;
use crate::stream::Stream;
use crate::worker::{Worker, stopped};

use let_in::Role;
use orders::{Quit, Stopped};
use pgwire::cancel::KEY_LEN_MIN;
use pgwire::message::put;
use pgwire::{ErrorFields, Severity, StartupMessage, WholeMessage, WholeMessages, encode_notice_response};
use read::{Show, Statement};
use show_pools::Pools;
use show_sessions::Texts;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;
use table::Table;
use talk::{Failure, Reaction, Talk};
use tokio::time::timeout;

/// The name of its database.
pub const DATABASE: &[u8] = b"pgkeel";

/// How long a client may take to accept an answer.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// Whether this start-up message is for the console.
pub fn is_meant(message: &StartupMessage<'_>) -> bool {
    let get = |name| message.get(name).filter(|value| !value.is_empty());
    get("database").or_else(|| get("user")) == Some(DATABASE) && get("replication").is_none()
}

/// Serves a client whose start-up message has come, to its end.
pub async fn serve(mut stream: Stream, message: &StartupMessage<'_>, worker: &Rc<Worker>) {
    let role = match let_in::check(&mut stream, message, worker).await {
        Ok(role) => role,
        Err(NotAdmitted::Gone) => return,
        Err(NotAdmitted::Refused(refusal)) => return farewell(&mut stream, &refusal).await,
        Err(NotAdmitted::RefusedByServer(message)) => return farewell_with(&mut stream, &message).await,
    };
    let Some(_counted) = worker.shared.consoles.open() else {
        return farewell(&mut stream, &keys::too_many()).await;
    };
    let Some(entry) = worker.shared.cancels.enter(KEY_LEN_MIN) else { return };
    let mut out = Vec::new();
    let_in::greet(entry.key(), &mut out);
    let mut console = Console { stream, role, entry, worker };
    let Err(quit) = console.live(out).await;
    let refusal = match quit {
        Quit::Gone => return,
        Quit::Stopping => Refusal::Stopping,
        Quit::Broken(why) => Refusal::ClientBroke { why },
    };
    farewell(&mut console.stream, &refusal).await;
}

/// One client of the console.
struct Console<'a> {
    stream: Stream,
    role: Role,
    entry: Entry<'a>,
    worker: &'a Rc<Worker>,
}

impl Console<'_> {
    async fn live(&mut self, mut out: Vec<u8>) -> Result<Infallible, Quit> {
        let (mut messages, mut talk) = (WholeMessages::default(), Talk::default());
        loop {
            self.flush(&mut out).await?;
            let message = self.next_message(&mut messages).await?;
            match talk.hear(message.kind()) {
                Reaction::Nothing => {}
                Reaction::Query => self.query(message.body(), &mut out).await?,
                Reaction::Refuse => Failure::extended().encode(&mut out),
                Reaction::RefuseAndReady => {
                    Failure::extended().encode(&mut out);
                    put(b'Z', &[b"I"], &mut out);
                }
                Reaction::Ready => put(b'Z', &[b"I"], &mut out),
                Reaction::End => return Err(Quit::Gone),
                Reaction::Broken => {
                    let kind = char::from(message.kind());
                    return Err(Quit::Broken(format!("a message of type {kind:?} is out of place here")));
                }
            }
        }
    }

    async fn next_message(&mut self, messages: &mut WholeMessages) -> Result<WholeMessage, Quit> {
        let mut stop = self.worker.stop.clone();
        loop {
            if let Some(message) = messages.take().map_err(|error| Quit::Broken(error.to_string()))? {
                return Ok(message);
            }
            let mut bytes = Vec::with_capacity(1_024);
            tokio::select! {
                () = stopped(&mut stop) => return Err(Quit::Stopping),
                read = self.stream.read_buf(&mut bytes) => match read {
                    Ok(0) | Err(_) => return Err(Quit::Gone),
                    Ok(_) => messages.push(&bytes),
                },
            }
        }
    }

    /// Sends what is ready: no more than one table is held at a time.
    async fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), Quit> {
        let sent = timeout(WRITE_MAX, self.stream.write_all(out)).await;
        *out = Vec::new();
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Quit::Gone),
        }
    }

    async fn query(&mut self, text: &[u8], out: &mut Vec<u8>) -> Result<(), Quit> {
        match read::read(text) {
            Ok(statements) if statements.is_empty() => put(b'I', &[], out),
            Ok(statements) => {
                for statement in statements {
                    self.flush(out).await?;
                    match self.statement(&statement, out).await {
                        Ok(tag) => put(b'C', &[tag.as_bytes(), b"\0"], out),
                        Err(Stopped::Failed(failure)) => {
                            failure.encode(out);
                            break;
                        }
                        Err(Stopped::Quit(quit)) => return Err(quit),
                    }
                }
            }
            Err(wrong) => {
                let hint = Some("SHOW HELP lists the commands.".to_owned());
                Failure { sqlstate: "42601", message: wrong, hint }.encode(out);
            }
        }
        put(b'Z', &[b"I"], out);
        Ok(())
    }

    /// Does one statement; its command tag.
    async fn statement(&mut self, statement: &Statement, out: &mut Vec<u8>) -> Result<&'static str, Stopped> {
        match statement {
            Statement::Show(show) => {
                let table = self.show(*show, out).await;
                table.encode(out);
                Ok("SHOW")
            }
            Statement::ShowParameter(name, value) => {
                show_proxy::parameter(name, value).encode(out);
                Ok("SHOW")
            }
            Statement::SetIgnored => {
                notice(Severity::Notice, "this setting has no effect at the console", out);
                Ok("SET")
            }
            order => match self.role {
                Role::All => self.order(order, out).await,
                Role::View => Err(Stopped::Failed(Failure {
                    sqlstate: "42501",
                    message: "this role may only look".to_owned(),
                    hint: Some("Orders are for those whom `[proxy] console_users` names.".to_owned()),
                })),
            },
        }
    }

    async fn show(&self, show: Show, out: &mut Vec<u8>) -> Table {
        let shared = &self.worker.shared;
        let settings = &shared.settings();
        let view = self.worker.views.clone().latest();
        match show {
            Show::Help => show_proxy::help(),
            Show::Version => show_proxy::version(),
            Show::Config => show_proxy::config(settings),
            Show::Hold => show_proxy::hold(&view, shared.stats.snapshot().held),
            Show::Pools => show_pools::pools(&self.pools(out).await),
            Show::Stats => show_pools::stats(&self.pools(out).await),
            Show::StatsTotals => show_pools::stats_totals(&self.pools(out).await),
            Show::Databases => show_pools::databases(&self.pools(out).await, settings, &view),
            Show::Users => show_pools::users(&self.pools(out).await, settings),
            Show::Lists => {
                show_pools::lists(&self.pools(out).await, shared.desks.count(), shared.consoles.count())
            }
            Show::Clients => {
                let mut clients = Vec::new();
                for (_, told) in self.ask(&Wish::Clients, out).await {
                    if let Told::Clients(some) = told {
                        clients.extend(some);
                    }
                }
                clients.sort_by_key(|client| client.id);
                show_sessions::clients(&clients, show_proxy::held_because(&view).as_deref())
            }
            Show::Servers => {
                let mut servers = Vec::new();
                for (_, told) in self.ask(&Wish::Servers, out).await {
                    if let Told::Servers(some) = told {
                        servers.extend(some);
                    }
                }
                servers.sort_by_key(|server| server.id);
                show_sessions::servers(&servers)
            }
            Show::Prepared => {
                let told = self.ask(&Wish::Prepared, out).await;
                let lists = told.into_iter().filter_map(|(worker, told)| match told {
                    Told::Prepared(list) => Some((worker, list)),
                    _ => None,
                });
                let texts = if self.role == Role::All { Texts::Shown } else { Texts::Hidden };
                show_sessions::prepared(&lists.collect::<Vec<_>>(), texts)
            }
        }
    }

    async fn pools(&self, out: &mut Vec<u8>) -> Pools {
        let mut pools = Pools::new();
        for (_, told) in self.ask(&Wish::Pools, out).await {
            if let Told::Pools(some) = told {
                some.into_iter().for_each(|(of, pool)| pools.entry(of).or_default().add(&pool));
            }
        }
        pools
    }

    /// Asks all workers; a warning names those that do not answer.
    async fn ask(&self, wish: &Wish, out: &mut Vec<u8>) -> Vec<(usize, Told)> {
        let answers = self.worker.shared.desks.ask(wish).await;
        if !answers.silent.is_empty() {
            notice(Severity::Warning, &orders::silence(&answers.silent, "what it has is missing here"), out);
        }
        answers.told
    }
}

fn notice(severity: Severity, message: &str, out: &mut Vec<u8>) {
    let sqlstate = if severity == Severity::Warning { "01000" } else { "00000" };
    encode_notice_response(&ErrorFields { severity, sqlstate, message, detail: None, hint: None }, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_is_its_database_and_nothing_else() {
        let is_meant = |given: &[(&str, &str)]| {
            let parameters = given.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            is_meant(&StartupMessage { minor: 0, parameters })
        };
        assert!(is_meant(&[("user", "ann"), ("database", "pgkeel")]));
        assert!(is_meant(&[("user", "pgkeel")]), "as for PostgreSQL, the user's name is the default");
        assert!(!is_meant(&[("user", "pgkeel"), ("database", "shop")]));
        assert!(!is_meant(&[("user", "ann"), ("database", "pgkeel2")]));
        assert!(!is_meant(&[("user", "ann"), ("database", "pgkeel"), ("replication", "database")]));
        assert!(!is_meant(&[]));
    }
}
