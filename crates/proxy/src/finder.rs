//! Without a cluster's agents: finds the primary among servers that something else manages, by asking each of them over and
//! over ([`choose`], pure, says who it is).

pub mod choose;

use crate::hold::Wanted;
use crate::pooled::{Login, log_in};
use crate::reach::Identity;
use crate::route::Target;
use crate::server::{Until, begin_session};
use crate::settings::Lookup;
use crate::stream::Stream;
use crate::watch::Newest;
use crate::worker::Worker;
use choose::{Answer, Chooser};
use cluster::view::{Server, View};
use pgwire::WholeMessages;
use pgwire::message::put_query;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Pause between two questions to a server.
const EVERY: Duration = Duration::from_millis(500);

/// The same while there is no primary, and after somebody could not reach it.
const EVERY_IN_DOUBT: Duration = Duration::from_millis(50);

/// Whether it takes writes, and on which timeline: the first part of the name of a WAL file (src/include/access/xlog_internal.h,
/// `XLogFileName`).
const QUESTION: &[u8] = b"SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN '' \
    ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END";

/// What all have in common.
struct Finder {
    worker: Rc<Worker>,
    newest: Arc<Newest>,
    chooser: RefCell<Chooser>,
    login: Login,
}

/// Asks the servers of the settings until this is dropped.
pub async fn find(worker: Rc<Worker>, newest: Arc<Newest>) {
    let settings = &worker.shared.settings();
    let Some(ask_as) = &settings.ask_as else { return };
    let servers = settings.servers.clone();
    let chooser = RefCell::new(Chooser::new(&settings.cluster, servers.clone()));
    let login = Login::of(ask_as);
    let finder = Rc::new(Finder { worker: Rc::clone(&worker), newest, chooser, login });
    let mut asking = JoinSet::new();
    for (number, server) in servers.into_iter().enumerate() {
        asking.spawn_local(ask_on(Rc::clone(&finder), number, server));
    }
    while asking.join_next().await.is_some() {}
}

async fn ask_on(finder: Rc<Finder>, number: usize, server: Server) {
    let (mut connection, mut was_silent) = (None, false);
    let views = finder.worker.views.clone();
    loop {
        let doubt = finder.worker.shared.doubt.notified();
        let answer = finder.ask(&server, &mut connection).await;
        match &answer {
            Answer::Silent(why) if !was_silent => tracing::warn!("{} {why}; asking on", server.node),
            Answer::Primary { .. } | Answer::Standby if was_silent => {
                tracing::info!("{} answers again", server.node)
            }
            _ => {}
        }
        was_silent = matches!(answer, Answer::Silent(_));
        let view = finder.chooser.borrow_mut().heard(number, answer);
        if let Some(view) = view {
            finder.tell(view);
        }
        let pause = if views.clone().latest().primary.is_some() { EVERY } else { EVERY_IN_DOUBT };
        tokio::select! {
            () = sleep(pause) => {}
            () = doubt => sleep(EVERY_IN_DOUBT).await,
        }
    }
}

impl Finder {
    fn tell(&self, view: View) {
        match (&view.primary, &view.waiting) {
            (Some(primary), _) => tracing::info!("epoch {}: {} is the primary", view.epoch, primary.node),
            (None, Some(waiting)) => tracing::warn!("{waiting}"),
            (None, None) => {}
        }
        self.newest.found(view);
    }

    async fn ask(&self, server: &Server, connection: &mut Option<Stream>) -> Answer {
        let limit = self.worker.shared.settings().connect_timeout;
        let answer = match timeout(limit, self.ask_within(server, connection)).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(why)) => why,
            Err(_) => format!("does not answer in {} s", limit.as_secs_f64()),
        };
        *connection = None;
        Answer::Silent(answer)
    }

    async fn ask_within(&self, server: &Server, connection: &mut Option<Stream>) -> Result<Answer, String> {
        let stream = match connection {
            Some(stream) => stream,
            None => connection.insert(self.connect(server).await?),
        };
        let mut question = Vec::new();
        put_query(QUESTION, &mut question);
        let broken = |error: std::io::Error| format!("does not answer: {error}");
        stream.write_all(&question).await.map_err(broken)?;
        let (mut messages, mut answer) = (WholeMessages::default(), None);
        loop {
            while let Some(message) = messages.take().map_err(|error| error.to_string())? {
                match (message.kind(), message.body()) {
                    (b'D', body) => answer = read(body),
                    (b'E', body) => {
                        return Err(format!("says: {}", String::from_utf8_lossy(body).replace('\0', " ")));
                    }
                    (b'Z', _) => {
                        return answer.ok_or_else(|| "gives no answer that could be read".to_owned());
                    }
                    _ => {}
                }
            }
            let mut bytes = Vec::with_capacity(512);
            if stream.read_buf(&mut bytes).await.map_err(broken)? == 0 {
                return Err("closed the connection".to_owned());
            }
            messages.push(&bytes);
        }
    }

    async fn connect(&self, server: &Server) -> Result<Stream, String> {
        let target = Target { server: server.clone(), epoch: 0 };
        let (until, identity) = (Until::LoggedIn, Identity::Checked);
        let wanted = Wanted { startup_packet: &self.login.packet, until, identity, since: Instant::now() };
        let answered = begin_session(&target, &wanted, &self.worker).await;
        let answered = answered.map_err(|failure| failure.to_string())?;
        let (stream, _, _) =
            log_in(answered, &self.login).await.map_err(|error| format!("refuses the login: {error}"))?;
        Ok(stream)
    }
}

/// A row of one column.
fn read(row: &[u8]) -> Option<Answer> {
    let [0, 1, a, b, c, d, value @ ..] = row else { return None };
    let len = usize::try_from(i32::from_be_bytes([*a, *b, *c, *d])).ok()?;
    match value.get(..len)? {
        [] => Some(Answer::Standby),
        file => {
            let timeline = std::str::from_utf8(file.get(..8)?).ok()?;
            Some(Answer::Primary { timeline: u32::from_str_radix(timeline, 16).ok()? })
        }
    }
}

impl Login {
    /// Of the role that asks.
    fn of(ask_as: &Lookup) -> Login {
        let login = Login::new(&ask_as.packet());
        login.use_password(ask_as);
        login
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        assert_eq!(read(b"\0\x01\0\0\0\0"), Some(Answer::Standby));
        assert_eq!(read(b"\0\x01\0\0\0\x180000000A0000000000000001"), Some(Answer::Primary { timeline: 10 }));
        for broken in [
            &b""[..],
            b"\0\x02\0\0\0\0",
            b"\0\x01\0\0\0\x03abc",
            b"\0\x01\xff\xff\xff\xff",
            b"\0\x01\0\0\0\x08zzzzzzzz",
        ] {
            assert_eq!(read(broken), None, "{broken:?}");
        }
    }
}
