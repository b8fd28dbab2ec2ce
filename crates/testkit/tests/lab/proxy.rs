//! What is sent to the proxy by mistake or in malice hurts nobody else.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::lab::{Lab, LabOptions, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Clients of each kind.
const CLIENTS: usize = 20;

#[test]
fn garbage_and_slow_clients() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, bother_the_proxy)
}

async fn bother_the_proxy(lab: &mut Lab) -> Result<()> {
    lab.up().await?;
    let writer = lab.writer().await?;
    let port = lab.cluster.proxy_port()?;
    let log = lab.cluster.options.root.join("proxy.log");
    let lines = || std::fs::read_to_string(&log).map(|text| text.lines().count()).unwrap_or(0);
    let before = lines();
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: db\r\n\r\n",
        &[0xff; 64],
        &[0, 0, 0, 4, 0, 3, 0, 0],
        &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0, 0],
    ];
    for client in 0..CLIENTS {
        let bytes = garbage[client % garbage.len()];
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(bytes).await?;
        closed(&mut stream).await.with_context(|| format!("garbage {bytes:?} was sent"))?;
    }
    let after = lines();
    ensure!(
        after <= before + garbage.len() + 1,
        "{CLIENTS} such clients filled {} lines of the log",
        after - before
    );

    let mut slow = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        // The first half of a start-up packet's length, and nothing more.
        stream.write_all(&[0, 0]).await?;
        slow.push(stream);
    }
    writer.wait_for(100, SHORT_LIMIT).await.context("while slow clients are connected")?;
    for stream in &mut slow {
        closed(stream).await.context("half a start-up packet was sent")?;
    }
    let record = writer.stop();
    ensure!(record.failures.is_empty(), "other clients noticed: {:?}", record.failures);
    lab.nothing_lost(&record).await
}

/// Reads until the proxy closes the connection; an error message before that is bounded.
async fn closed(stream: &mut TcpStream) -> Result<()> {
    let mut answer = Vec::new();
    let mut bounded = stream.take(10_000);
    let read = timeout(Duration::from_secs(120), bounded.read_to_end(&mut answer)).await;
    let read = read.context("the proxy keeps the connection open")?;
    // Reset or end of stream: both are closed.
    ensure!(read.is_err() || answer.len() < 10_000, "the proxy answers without end");
    Ok(())
}
