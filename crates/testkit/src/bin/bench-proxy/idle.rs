//! What an idle client costs in memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::is_interrupted;
use crate::servers::Proxy;

/// So many, where the limit of open files allows it.
pub const CLIENTS: usize = 10_000;

/// Files that this program needs beside them.
const SPARE: u64 = 200;

#[derive(Debug, Serialize)]
pub struct Idle {
    pub proxy: String,
    pub clients: usize,
    pub bytes_per_client: u64,
}

/// As many files as this process may open; children inherit it.
pub fn raise_file_limit() -> u64 {
    let wanted = CLIENTS as u64 * 2 + 1_000;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let raised = Rlimit { current: Some(most.max(current.unwrap_or(most))), maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => most,
        Err(_) => current.unwrap_or(most),
    }
}

/// Connects them, lets them be, and compares the proxy's memory with that before. Each was let in and said nothing since.
pub fn look(proxy: &Proxy) -> Result<Idle> {
    let files = usize::try_from(raise_file_limit().saturating_sub(SPARE))?;
    let clients = CLIENTS.min(files / 2);
    // The first one may have a pool made.
    let _first = connect(proxy.port)?;
    let before = proxy.memory_bytes()?;
    let mut open = Vec::with_capacity(clients);
    for number in 0..clients {
        ensure!(!is_interrupted(), "interrupted");
        open.push(connect(proxy.port).with_context(|| format!("{}, client {number}", proxy.name))?);
    }
    std::thread::sleep(Duration::from_secs(1));
    let after = proxy.memory_bytes()?;
    let bytes_per_client = after.saturating_sub(before) / clients as u64;
    Ok(Idle { proxy: proxy.name.clone(), clients, bytes_per_client })
}

/// Logs in, and reads to the first ReadyForQuery.
fn connect(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut body = (3_u32 << 16).to_be_bytes().to_vec();
    body.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
    let length = u32::try_from(body.len() + 4)?;
    stream.write_all(&[&length.to_be_bytes()[..], &body].concat())?;
    let mut heard = Vec::new();
    while !heard.ends_with(b"Z\0\0\0\x05I") {
        let mut chunk = [0; 1024];
        let length = stream.read(&mut chunk)?;
        ensure!(length > 0, "refused: {}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&chunk[..length]);
    }
    Ok(stream)
}
