//! How an agent serves: who has connected is asked who it is, by itself and with a limit, so that nobody keeps others waiting.

use super::introductions::{Introductions, Release};
use axum::Extension;
use axum::extract::ConnectInfo;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use identity::{Acceptor, Role, Stream, Who};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long the other side may take to show who it is.
const INTRODUCTION_LIMIT: Duration = Duration::from_secs(5);
/// Connections that may wait for the server to take them over, which it does at once.
const READY_MAX: usize = 64;
/// How long somebody without a certificate may stay, for one request.
const NAMELESS_LIMIT: Duration = Duration::from_secs(15);
/// So much of his request is read at once, in bytes.
const NAMELESS_BUFFER: usize = 16 * 1024;
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
            Who::Nameless | Who::User(_) => false,
        }
    }

    /// Who asks, for the record: what a person's certificate says comes before what he says. An agent speaks for whom it says.
    #[must_use]
    pub fn as_named(&self, by: String) -> String {
        match &self.who {
            Who::Known(subject) if subject.role != Role::Agent => format!("{} ({by})", subject.name),
            Who::User(subject) => format!("{} ({by})", subject.name),
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

/// Is told who was not let in, and why.
pub type Turned = Arc<dyn Fn(SocketAddr, &io::Error) + Send + Sync>;

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
    serve_and_tell(listener, acceptor, router, Arc::new(|_, _| {}), until).await
}

/// As [`serve`], and tells `turned` whom the acceptor has turned away.
///
/// # Errors
/// When the listener fails.
pub async fn serve_and_tell(
    listener: TcpListener,
    acceptor: Acceptor,
    router: axum::Router,
    turned: Turned,
    until: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let local = listener.local_addr()?;
    let (sender, ready) = mpsc::channel(READY_MAX);
    let accepting = tokio::spawn(accept(listener, (acceptor, turned), router.clone(), sender));
    let introduced = Introduced { ready, local, accepting };
    let service = router.into_make_service_with_connect_info::<Guest>();
    axum::serve(introduced, service).with_graceful_shutdown(until).await
}

async fn accept(
    listener: TcpListener,
    (acceptor, turned): (Acceptor, Turned),
    router: axum::Router,
    ready: mpsc::Sender<(Stream, Guest)>,
) {
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
        let (acceptor, router, ready) = (acceptor.clone(), router.clone(), ready.clone());
        let turned = turned.clone();
        tokio::spawn(async move {
            let release = place.release();
            match place.hold(introduce(&acceptor, (&router, release), stream, from)).await {
                // Its place went to somebody else, or it was served.
                None | Some(Ok(None)) => {}
                Some(Ok(Some(introduced))) => drop(ready.send(introduced).await),
                // Somebody only looks whether the port is open.
                Some(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    tracing::debug!("{from} went before it was let in");
                }
                Some(Err(e)) => {
                    tracing::warn!("{} is not let in: {e}", from.ip());
                    // Who went or said nothing has shown nothing to tell of.
                    if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Other) {
                        turned(from, &e);
                    }
                }
            }
        });
    }
}

/// Asks who it is; `None`: somebody without a certificate, who has had his answer.
async fn introduce(
    acceptor: &Acceptor,
    (router, release): (&axum::Router, Release),
    stream: TcpStream,
    from: SocketAddr,
) -> io::Result<Option<(Stream, Guest)>> {
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY not set on an accepted connection: {e}");
    }
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let (stream, who) = timeout(INTRODUCTION_LIMIT, acceptor.accept(stream)).await.map_err(late)??;
    let guest = Guest { from, who };
    if guest.who != Who::Nameless {
        return Ok(Some((stream, guest)));
    }
    // He keeps his place among those who are about to show who they are, unless he shows a token: nobody waits for him.
    let router = router.clone().layer(Extension(release));
    let answering = answer_nameless(&router, stream, guest);
    // He was let in: what becomes of his connection is no refusal.
    if let Err(e) = timeout(NAMELESS_LIMIT, answering).await.map_err(late).flatten() {
        tracing::debug!("the connection from {from} ended: {e}");
    }
    Ok(None)
}

/// One request, of which the routes see that it comes from nobody known, and no second one.
async fn answer_nameless(router: &axum::Router, stream: Stream, guest: Guest) -> io::Result<()> {
    let service = TowerToHyperService::new(router.clone().layer(Extension(ConnectInfo(guest))));
    let mut answering = hyper::server::conn::http1::Builder::new();
    answering.keep_alive(false).max_buf_size(NAMELESS_BUFFER);
    answering.serve_connection(TokioIo::new(stream), service).await.map_err(io::Error::other)
}
