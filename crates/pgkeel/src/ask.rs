//! One question to one agent over HTTP, bounded in time and size.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use identity::Caller;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A longer answer is not read to its end: no agent sends one.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// So much of an error is shown.
const ERROR_BYTES_MAX: usize = 600;

/// Why an agent gave no answer that could be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskError {
    /// No connection, or it broke.
    Unreachable(String),
    /// Nothing within so long.
    Late(Duration),
    /// It answered with this status and text instead.
    Refused(u16, String),
    /// It answered something else than what was asked for.
    NotUnderstood(String),
}

impl fmt::Display for AskError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::Unreachable(problem) => out.write_str(problem),
            AskError::Late(limit) => write!(out, "no answer within {:.1} s", limit.as_secs_f64()),
            AskError::Refused(status, text) => write!(out, "HTTP status {status}: {text}"),
            AskError::NotUnderstood(problem) => {
                write!(out, "its answer is not understood ({problem}); is it an agent of this version?")
            }
        }
    }
}

/// Fetches `path` from `agent` ("host:port") and reads the JSON of the answer, all within `limit`.
///
/// # Errors
/// [`AskError`], for every way in which no usable answer came.
pub async fn ask<T: DeserializeOwned>(
    caller: &Caller,
    agent: &str,
    path: &str,
    limit: Duration,
) -> Result<T, AskError> {
    exchange((caller, agent), Method::GET, path, Bytes::new(), limit).await
}

/// Sends `body` as JSON to `path` of `agent` and reads the JSON of the answer, all within `limit`. After an error other
/// than [`AskError::Refused`] it is not known whether the agent did what it was told.
///
/// # Errors
/// [`AskError`], for every way in which no usable answer came.
pub async fn tell<B: Serialize + Sync, T: DeserializeOwned>(
    caller: &Caller,
    agent: &str,
    path: &str,
    body: &B,
    limit: Duration,
) -> Result<T, AskError> {
    let body = serde_json::to_vec(body).map_err(|error| AskError::NotUnderstood(error.to_string()))?;
    exchange((caller, agent), Method::POST, path, Bytes::from(body), limit).await
}

async fn exchange<T: DeserializeOwned>(
    whom: (&Caller, &str),
    method: Method,
    path: &str,
    body: Bytes,
    limit: Duration,
) -> Result<T, AskError> {
    let body = match tokio::time::timeout(limit, send(whom, method, path, body)).await {
        Ok(answer) => answer?,
        Err(_) => return Err(AskError::Late(limit)),
    };
    serde_json::from_slice(&body).map_err(|error| AskError::NotUnderstood(error.to_string()))
}

async fn send(
    (caller, agent): (&Caller, &str),
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, AskError> {
    let unreachable = |error: &dyn fmt::Display| AskError::Unreachable(error.to_string());
    let stream = caller.connect(agent).await.map_err(|error| unreachable(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(&error))?;
    let connection = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, agent)
        .header(CONTENT_TYPE, "application/json");
    if let Some(token) = caller.authorization() {
        request = request.header(AUTHORIZATION, token);
    }
    let request =
        request.body(Full::new(body)).map_err(|error| AskError::NotUnderstood(error.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| AskError::NotUnderstood(error.to_string()))?.to_bytes();
        if status == StatusCode::OK {
            Ok(body)
        } else {
            Err(AskError::Refused(status.as_u16(), first_words(&body)))
        }
    }
    .await;
    connection.abort();
    answer
}

/// What of an unexpected answer can be shown in one line.
fn first_words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(ERROR_BYTES_MAX)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        });
        address
    }

    #[tokio::test]
    async fn answers_are_read_and_bad_ones_named() {
        let limit = Duration::from_secs(5);
        let good = server(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n[1,2,3]").await;
        assert_eq!(ask::<Vec<u32>>(&Caller::plain(), &good, "/v1/x", limit).await, Ok(vec![1, 2, 3]));

        let refusing = server(b"HTTP/1.1 503 No\r\ncontent-length: 9\r\n\r\nno leader").await;
        let refused = Err(AskError::Refused(503, "no leader".to_owned()));
        assert_eq!(ask::<Vec<u32>>(&Caller::plain(), &refusing, "/v1/x", limit).await, refused);

        let other = server(b"220 mail.example ESMTP\r\n").await;
        assert!(matches!(
            ask::<Vec<u32>>(&Caller::plain(), &other, "/v1/x", limit).await,
            Err(AskError::Unreachable(_))
        ));

        let not_json = server(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
        assert!(matches!(
            ask::<Vec<u32>>(&Caller::plain(), &not_json, "/v1/x", limit).await,
            Err(AskError::NotUnderstood(_))
        ));
    }

    #[tokio::test]
    async fn a_silent_agent_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let limit = Duration::from_millis(100);
        assert_eq!(
            ask::<Vec<u32>>(&Caller::plain(), &address, "/v1/x", limit).await,
            Err(AskError::Late(limit))
        );
        drop(listener);
        assert!(matches!(
            ask::<Vec<u32>>(&Caller::plain(), &address, "/v1/x", limit).await,
            Err(AskError::Unreachable(_))
        ));
    }
}
