//! HTTP/1.1 between agents: a small client with bounded bodies and a deadline for every call. How an agent is reached, with
//! TLS or without, is the [`Caller`]'s matter; [`listen`] is the other side.
//!
//! The client can use TLS ([`tls`]), show a token and read an answer that does not end: etcd is asked so.
//! This module does not know what is said over it.

mod introductions;
mod listen;
pub mod tls;

pub(crate) use introductions::{Release, network};
pub use listen::{Guest, NAMELESS, Turned, serve, serve_and_tell};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use identity::Caller;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tls::TlsFiles;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Largest body of an ordinary request or response, in bytes.
pub const BODY_MAX: usize = 4 * 1024 * 1024;

/// Bytes of an error response that are quoted.
const QUOTE_MAX: usize = 300;

/// Why a call to another agent failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection could be made: nothing of the request was sent.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// `host:port` that was called.
        address: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// No complete answer within the deadline. The other side may have acted on the request.
    #[error("{address} did not answer {path} within {} ms", after.as_millis())]
    Timeout {
        /// `host:port` that was called.
        address: String,
        /// The path of the request.
        path: String,
        /// The deadline.
        after: Duration,
    },
    /// The connection broke before the answer was complete. The other side may have acted on the request.
    #[error("the connection to {address} broke during {path}: {what}")]
    Broken {
        /// `host:port` that was called.
        address: String,
        /// The path of the request.
        path: String,
        /// What was seen.
        what: String,
    },
    /// The other side refused.
    #[error("{address} refused {path} with status {status}: {body}")]
    Status {
        /// `host:port` that was called.
        address: String,
        /// The path of the request.
        path: String,
        /// The status code.
        status: u16,
        /// The beginning of what it said.
        body: String,
    },
    /// The request or the answer is no valid JSON of the expected form, or larger than the limit.
    #[error("the message to or from {address} for {path} is not usable: {what}")]
    Malformed {
        /// `host:port` that was called.
        address: String,
        /// The path of the request.
        path: String,
        /// What is wrong.
        what: String,
    },
}

/// Asks `address` (`host:port`) for `path` over a connection of its own.
///
/// # Errors
/// [`HttpError`]; also when the answer is larger than [`BODY_MAX`] or not complete within `timeout`.
pub async fn get<R: DeserializeOwned>(
    caller: &Caller,
    address: &str,
    path: &str,
    timeout: Duration,
) -> Result<R, HttpError> {
    Connection::new(caller, address, BODY_MAX).get(path, timeout).await
}

/// Sends `body` as JSON to `path` of `address` (`host:port`) over a connection of its own.
///
/// # Errors
/// [`HttpError`]; also when request or answer are larger than [`BODY_MAX`] or not complete within `timeout`.
pub async fn post_json<B: Serialize + Sync, R: DeserializeOwned>(
    caller: &Caller,
    address: &str,
    path: &str,
    body: &B,
    timeout: Duration,
) -> Result<R, HttpError> {
    Connection::new(caller, address, BODY_MAX).post_json(path, body, timeout).await
}

/// A keep-alive connection to one agent, opened when first needed. One request at a time; whatever goes wrong, a
/// deadline and a call that its caller gave up included, closes it, and the next call opens a new one.
#[derive(Debug)]
pub struct Connection {
    whom: Whom,
    address: String,
    body_max: usize,
    token: Option<Token>,
    wire: Option<Wire>,
}

/// What tells the other side who asks; in no log.
struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Who is at the other end.
#[derive(Debug)]
enum Whom {
    Agent(Caller),
    Etcd(Option<TlsFiles>),
}

/// An open connection and the task that drives it.
#[derive(Debug)]
struct Wire {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// A connection to `address` (`host:port`), not yet opened; bodies are limited to `body_max` bytes.
    #[must_use]
    pub fn new(caller: &Caller, address: &str, body_max: usize) -> Self {
        let mut connection = Self::to(Whom::Agent(caller.clone()), address, body_max);
        connection.show(caller.authorization());
        connection
    }

    /// The same to a member of etcd, with TLS if these files are given. They are read whenever it is opened.
    #[must_use]
    pub fn to_etcd(tls: Option<TlsFiles>, address: &str, body_max: usize) -> Self {
        Self::to(Whom::Etcd(tls), address, body_max)
    }

    fn to(whom: Whom, address: &str, body_max: usize) -> Self {
        Connection { whom, address: address.to_owned(), body_max, token: None, wire: None }
    }

    /// Shows this token with every request from now on (`Authorization`).
    pub fn show(&mut self, token: Option<String>) {
        self.token = token.map(Token);
    }

    /// Opens it, unless it is open.
    ///
    /// # Errors
    /// [`HttpError::Unreachable`]
    pub async fn keep_open(&mut self, timeout: Duration) -> Result<(), HttpError> {
        self.wire = Some(self.opened_by(tokio::time::Instant::now() + timeout).await?);
        Ok(())
    }

    /// Asks for `path`.
    ///
    /// # Errors
    /// [`HttpError`]; also when the answer is too large or not complete within `timeout`.
    pub async fn get<R: DeserializeOwned>(&mut self, path: &str, timeout: Duration) -> Result<R, HttpError> {
        let request = self.request(Method::GET, path, Bytes::new())?;
        self.call(path, request, timeout).await
    }

    /// Sends `body` as JSON to `path`.
    ///
    /// # Errors
    /// [`HttpError`]; also when request or answer are too large or the answer is not complete within `timeout`.
    pub async fn post_json<B: Serialize + Sync, R: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
        timeout: Duration,
    ) -> Result<R, HttpError> {
        let body = serde_json::to_vec(body).map_err(|e| self.malformed(path, e.to_string()))?;
        if body.len() > self.body_max {
            let what = format!("the request has {} bytes, {} are allowed", body.len(), self.body_max);
            return Err(self.malformed(path, what));
        }
        let request = self.request(Method::POST, path, body.into())?;
        self.call(path, request, timeout).await
    }

    /// Sends `body` as JSON to `path` over a connection of its own; returns when the answer begins. It is read piece by
    /// piece, for as long as it lasts.
    ///
    /// # Errors
    /// [`HttpError`]; also when the answer does not begin within `timeout`.
    pub async fn post_for_stream<B: Serialize + Sync>(
        self,
        path: &str,
        body: &B,
        timeout: Duration,
    ) -> Result<Pieces, HttpError> {
        let body = serde_json::to_vec(body).map_err(|e| self.malformed(path, e.to_string()))?;
        let request = self.request(Method::POST, path, body.into())?;
        let begin = async {
            let mut wire = self.connect().await?;
            let response = wire.sender.send_request(request).await.map_err(|e| self.broken(path, &e))?;
            if !response.status().is_success() {
                let status = response.status();
                let body = self.read(path, response).await?;
                return Err(self.refused(path, status, &body));
            }
            Ok((wire, response.into_body()))
        };
        let begun = tokio::time::timeout(timeout, begin).await;
        let (wire, body) = begun.unwrap_or_else(|_| {
            Err(HttpError::Timeout { address: self.address.clone(), path: path.to_owned(), after: timeout })
        })?;
        Ok(Pieces { connection: self, path: path.to_owned(), body, _wire: wire })
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, HttpError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.address)
            .header(CONTENT_TYPE, "application/json");
        if let Some(Token(token)) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        request.body(Full::new(body)).map_err(|e| self.malformed(path, e.to_string()))
    }

    fn refused(&self, path: &str, status: StatusCode, body: &[u8]) -> HttpError {
        let body = String::from_utf8_lossy(&body[..body.len().min(QUOTE_MAX)]).into_owned();
        let (address, path) = (self.address.clone(), path.to_owned());
        HttpError::Status { address, path, status: status.as_u16(), body }
    }

    async fn call<R: DeserializeOwned>(
        &mut self,
        path: &str,
        request: Request<Full<Bytes>>,
        timeout: Duration,
    ) -> Result<R, HttpError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let wire = self.opened_by(deadline).await?;
        let answered = tokio::time::timeout_at(deadline, self.exchange(wire, path, request)).await;
        let (status, body) = answered.unwrap_or_else(|_| {
            Err(HttpError::Timeout { address: self.address.clone(), path: path.to_owned(), after: timeout })
        })?;
        if !status.is_success() {
            return Err(self.refused(path, status, &body));
        }
        serde_json::from_slice(&body).map_err(|e| self.malformed(path, e.to_string()))
    }

    /// A host that is gone answers nothing at all: then nothing was sent either, and the caller may ask another one.
    async fn opened_by(&mut self, deadline: tokio::time::Instant) -> Result<Wire, HttpError> {
        tokio::time::timeout_at(deadline, self.open()).await.unwrap_or_else(|_| {
            let source = std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time");
            Err(HttpError::Unreachable { address: self.address.clone(), source })
        })
    }

    async fn open(&mut self) -> Result<Wire, HttpError> {
        match self.reusable().await {
            Some(wire) => Ok(wire),
            None => self.connect().await,
        }
    }

    /// Sends and reads everything. The wire is taken out meanwhile: if this future is dropped, so is the wire, and no
    /// late answer can be mistaken for that of the next request.
    async fn exchange(
        &mut self,
        mut wire: Wire,
        path: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let response = wire.sender.send_request(request).await.map_err(|e| self.broken(path, &e))?;
        let status = response.status();
        let body = self.read(path, response).await?;
        self.wire = Some(wire);
        Ok((status, body))
    }

    /// The open connection, unless the other side has closed it meanwhile.
    async fn reusable(&mut self) -> Option<Wire> {
        let mut wire = self.wire.take()?;
        wire.sender.ready().await.ok().map(|()| wire)
    }

    async fn read(&self, path: &str, response: Response<hyper::body::Incoming>) -> Result<Bytes, HttpError> {
        let limited = Limited::new(response.into_body(), self.body_max);
        match limited.collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(e) if e.is::<LengthLimitError>() => {
                Err(self.malformed(path, format!("the answer has more than {} bytes", self.body_max)))
            }
            Err(e) => Err(self.broken(path, &e)),
        }
    }

    async fn connect(&self) -> Result<Wire, HttpError> {
        let unreachable = |source| HttpError::Unreachable { address: self.address.clone(), source };
        let wire = match &self.whom {
            Whom::Agent(caller) => start(caller.connect(&self.address).await.map_err(unreachable)?).await,
            Whom::Etcd(tls) => {
                let stream = open_stream(&self.address).await.map_err(unreachable)?;
                match tls {
                    None => start(stream).await,
                    Some(tls) => start(tls.wrap(&self.address, stream).await.map_err(unreachable)?).await,
                }
            }
        };
        wire.map_err(unreachable)
    }

    fn broken(&self, path: &str, what: &dyn std::fmt::Display) -> HttpError {
        HttpError::Broken { address: self.address.clone(), path: path.to_owned(), what: what.to_string() }
    }

    fn malformed(&self, path: &str, what: String) -> HttpError {
        HttpError::Malformed { address: self.address.clone(), path: path.to_owned(), what }
    }
}

/// Speaks HTTP on an open stream.
async fn start<S>(stream: S) -> std::io::Result<Wire>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    // An error of the connection reaches the caller through the request that it fails.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Wire { sender, driver })
}

/// An answer that is read piece by piece.
#[derive(Debug)]
pub struct Pieces {
    connection: Connection,
    path: String,
    body: hyper::body::Incoming,
    _wire: Wire,
}

impl Pieces {
    /// The next piece; `None` when the answer has ended.
    ///
    /// # Errors
    /// [`HttpError`] when the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|e| self.connection.broken(&self.path, &e))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

async fn open_stream(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::Json;
    use axum::routing::{get as on_get, post};
    use identity::Acceptor;
    use tokio::net::TcpListener;

    async fn server(router: axum::Router) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(serve(listener, Acceptor::with(None), router, std::future::pending()));
        address
    }

    fn router() -> axum::Router {
        axum::Router::new()
            .route("/echo", post(|Json(n): Json<u64>| async move { Json(n + 1) }))
            .route("/no", on_get(|| async { (axum::http::StatusCode::CONFLICT, "not here") }))
            .route("/big", on_get(|| async { "9".repeat(2000) }))
            .route("/slow", on_get(|| async { tokio::time::sleep(Duration::from_secs(5)).await }))
    }

    #[tokio::test]
    async fn one_connection_survives_errors_of_all_kinds() {
        let mut connection = Connection::new(&Caller::plain(), &server(router()).await, 1000);
        let t = Duration::from_millis(300);
        assert_eq!(connection.post_json::<_, u64>("/echo", &1u64, t).await.unwrap(), 2);
        let refused = connection.get::<u64>("/no", t).await.unwrap_err().to_string();
        assert!(refused.contains("409") && refused.contains("not here"), "{refused}");
        let big = connection.get::<u64>("/big", t).await.unwrap_err().to_string();
        assert!(big.contains("more than 1000 bytes"), "{big}");
        assert!(matches!(connection.get::<u64>("/slow", t).await, Err(HttpError::Timeout { .. })));
        let huge = "x".repeat(2000);
        assert!(matches!(
            connection.post_json::<_, u64>("/echo", &huge, t).await,
            Err(HttpError::Malformed { .. })
        ));
        assert_eq!(connection.post_json::<_, u64>("/echo", &5u64, t).await.unwrap(), 6);
    }

    #[tokio::test]
    async fn nobody_there_is_said_so() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let gone = get::<u64>(&Caller::plain(), &free, "/", Duration::from_secs(1)).await;
        assert!(matches!(gone, Err(HttpError::Unreachable { .. })), "{gone:?}");
    }
}
