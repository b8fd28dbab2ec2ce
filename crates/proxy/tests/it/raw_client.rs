//! A client that speaks the protocol by hand, for what a driver would hide.

use pgwire::{FrameTracker, Notable};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct RawClient {
    pub stream: TcpStream,
}

pub fn startup_packet() -> Vec<u8> {
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let mut packet = (8 + parameters.len() as u32).to_be_bytes().to_vec();
    packet.extend_from_slice(&(3_u32 << 16).to_be_bytes());
    packet.extend_from_slice(parameters);
    packet
}

/// All that came until the end of the stream.
pub struct Heard {
    pub bytes: Vec<u8>,
    pub messages: Vec<Notable>,
    pub at_boundary: bool,
}

impl Heard {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl RawClient {
    pub async fn connect(proxy: SocketAddr) -> RawClient {
        RawClient { stream: TcpStream::connect(proxy).await.unwrap() }
    }

    /// Connects and waits for the first ReadyForQuery.
    pub async fn logged_in(proxy: SocketAddr) -> RawClient {
        let mut client = RawClient::connect(proxy).await;
        client.stream.write_all(&startup_packet()).await.unwrap();
        client.hear_until_ready().await;
        client
    }

    /// Reads up to the next ReadyForQuery.
    pub async fn hear_until_ready(&mut self) -> Heard {
        let (mut tracker, mut bytes, mut messages) = (FrameTracker::of_server(), Vec::new(), Vec::new());
        while !matches!(messages.last(), Some(Notable::Ready(_))) {
            let mut byte = [0];
            timeout(PATIENCE, self.stream.read_exact(&mut byte)).await.unwrap().unwrap();
            bytes.push(byte[0]);
            messages.extend(tracker.next(&mut &byte[..]).unwrap());
        }
        Heard { bytes, messages, at_boundary: true }
    }

    pub async fn query(&mut self, sql: &str) {
        let mut message = vec![b'Q'];
        message.extend_from_slice(&(sql.len() as u32 + 5).to_be_bytes());
        message.extend_from_slice(sql.as_bytes());
        message.push(0);
        self.stream.write_all(&message).await.unwrap();
    }

    /// Reads to the end of the stream, which must consist of messages.
    pub async fn hear_all(&mut self) -> Heard {
        let mut bytes = Vec::new();
        // A reset is an end as well.
        let _ =
            timeout(PATIENCE, self.stream.read_to_end(&mut bytes)).await.expect("the proxy did not close");
        let (mut tracker, mut rest, mut messages) = (FrameTracker::of_server(), &bytes[..], Vec::new());
        while let Some(message) = tracker.next(&mut rest).unwrap() {
            messages.push(message);
        }
        let at_boundary = tracker.at_boundary();
        Heard { bytes, messages, at_boundary }
    }
}
