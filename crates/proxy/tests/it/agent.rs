//! Plays an agent: answers every request with the stream of views that a real one sends.

use cluster::view::View;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Agent {
    pub address: SocketAddr,
    views: watch::Sender<View>,
    speech: watch::Sender<Speech>,
}

/// Whether the connections that are open now go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speech {
    Goes,
    /// Not a byte more, as if the host were frozen.
    Stalled,
}

impl Agent {
    pub async fn start(first: View) -> Agent {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (views, seen) = watch::channel(first);
        let speech = watch::Sender::new(Speech::Goes);
        let speech_of_all = speech.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A proxy that goes away ends its stream with an error, which is as it should be.
                tokio::spawn(send_views(stream, seen.clone(), speech_of_all.subscribe()));
            }
        });
        Agent { address, views, speech }
    }

    pub fn publish(&self, view: View) {
        self.views.send_replace(view);
    }

    /// All connections of now fall silent; later ones are served.
    pub fn stall_open_connections(&self) {
        self.speech.send_replace(Speech::Stalled);
    }
}

async fn send_views(
    mut stream: TcpStream,
    mut views: watch::Receiver<View>,
    mut speech: watch::Receiver<Speech>,
) -> std::io::Result<()> {
    speech.mark_unchanged();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    assert!(request.starts_with(b"GET /v1/view/watch HTTP/1.1\r\n"));
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    loop {
        if speech.has_changed().unwrap_or(true) {
            std::future::pending::<()>().await;
        }
        let line = serde_json::to_string(&*views.borrow_and_update()).unwrap() + "\n";
        stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await?;
        let sign_of_life = tokio::time::timeout(Duration::from_secs(1), views.changed());
        if let Ok(Err(_)) = sign_of_life.await {
            return Ok(());
        }
    }
}
