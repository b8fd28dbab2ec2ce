//! How an agent serves: who has connected is asked who it is, by itself and with a limit, so that nobody keeps others waiting.

use super::introductions::Introductions;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use identity::{Acceptor, Role, Stream, Who};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long the other side may take to show who it is.
const INTRODUCTION_LIMIT: Duration = Duration::from_secs(5);
/// Connections that may wait for the server to take them over, which it does at once.
const READY_MAX: usize = 64;
/// So much of the request of somebody who is not let in is read, in bytes.
const HEAD_MAX: usize = 8192;
/// What somebody without a certificate is told.
pub const NAMELESS: &str = "show a certificate that this cluster's authority has signed: `pgkeel cert issue` makes one, --tls DIR uses it\n";
/// Pause after the system could not accept a connection, usually for lack of file descriptors.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// Who sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// From where.
    pub from: SocketAddr,
    /// Who it is.
    pub who: Who,
}

impl Guest {
    /// Whether it is one of the cluster's agents, or nobody is asked who he is.
    #[must_use]
    pub fn is_agent(&self) -> bool {
        match &self.who {
            Who::Known(subject) => subject.role == Role::Agent,
            Who::Unasked => true,
            Who::Nameless => false,
        }
    }

    /// Who asks, for the record: what a person's certificate says comes before what he says. An agent speaks for whom it says.
    #[must_use]
    pub fn as_named(&self, by: String) -> String {
        match &self.who {
            Who::Known(subject) if subject.role != Role::Agent => format!("{} ({by})", subject.name),
            Who::Known(_) | Who::Unasked | Who::Nameless => by,
        }
    }
}

/// Connections whose other side has shown who it is.
struct Introduced {
    ready: mpsc::Receiver<(Stream, Guest)>,
    local: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Introduced {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Listener for Introduced {
    type Io = Stream;
    type Addr = Guest;

    async fn accept(&mut self) -> (Stream, Guest) {
        match self.ready.recv().await {
            Some(next) => next,
            // The task that accepts never ends before this does.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Guest> {
        Ok(Guest { from: self.local, who: Who::Unasked })
    }
}

impl Connected<IncomingStream<'_, Introduced>> for Guest {
    fn connect_info(stream: IncomingStream<'_, Introduced>) -> Guest {
        stream.remote_addr().clone()
    }
}

/// Serves `router` on `listener` until `until` resolves; requests then under way are finished. Handlers find the [`Guest`] by
/// axum's `ConnectInfo`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    acceptor: Acceptor,
    router: axum::Router,
    until: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let local = listener.local_addr()?;
    let (sender, ready) = mpsc::channel(READY_MAX);
    let accepting = tokio::spawn(accept(listener, acceptor, sender));
    let introduced = Introduced { ready, local, accepting };
    let service = router.into_make_service_with_connect_info::<Guest>();
    axum::serve(introduced, service).with_graceful_shutdown(until).await
}

async fn accept(listener: TcpListener, acceptor: Acceptor, ready: mpsc::Sender<(Stream, Guest)>) {
    let introductions = Introductions::default();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::debug!("a connection could not be accepted: {e}");
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        let (place, gone) = introductions.enter(from.ip());
        if let Some(of) = gone {
            tracing::debug!("a connection from {of} that said nothing made room for one from {}", from.ip());
        }
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            let introducing = timeout(INTRODUCTION_LIMIT, introduce(&acceptor, stream));
            let Some(introduced) = place.hold(introducing).await else { return };
            match introduced.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))) {
                Ok((stream, who)) => drop(ready.send((stream, Guest { from, who })).await),
                // Somebody only looks whether the port is open.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    tracing::debug!("{from} went before it was let in");
                }
                Err(e) => tracing::warn!("{} is not let in: {e}", from.ip()),
            }
        });
    }
}

async fn introduce(acceptor: &Acceptor, stream: TcpStream) -> io::Result<(Stream, Who)> {
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY not set on an accepted connection: {e}");
    }
    let (mut stream, who) = acceptor.accept(stream).await?;
    if who != Who::Nameless {
        return Ok((stream, who));
    }
    // There is nothing for him here, and no place in which he could wait.
    let mut head = vec![0; HEAD_MAX];
    let _ = stream.read(&mut head).await?;
    let answer = format!(
        "HTTP/1.1 401 Unauthorized\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{NAMELESS}",
        NAMELESS.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    Err(io::Error::other("shows no certificate"))
}
