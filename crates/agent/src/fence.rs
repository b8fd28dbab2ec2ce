//! A second line behind the guard: the kernel closes the server's port when the lease is not renewed, although every
//! process of this host may stand still (`[fence] nftables = true`).
//!
//! A table of nftables with a set that holds the port. Of a standby it stays there; of a primary it is there until the
//! lease ends, and is renewed with it. What comes to the port or leaves it meanwhile is answered with a reset, so that an
//! answer which a server writes when it wakes up ends its connection instead of reaching the client.
//!
//! The kernel counts the time from the moment it is told. A renewal therefore replaces an entry that is still there, and
//! fails when it is not: one that was delayed for long, in a frozen process too, opens nothing that was closed.

use crate::clock::boottime_ms;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Where distributions keep it; a service's PATH may lack that directory.
const NFT: &str = "/usr/sbin/nft";
/// For one call of nft.
const NFT_LIMIT: Duration = Duration::from_secs(2);
/// A renewal waits until the lease has grown by this share of what was left: a call of nft costs milliseconds of CPU.
const SHARE: u64 = 8;

/// Why the fence does not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("the fence (nftables table {table}) cannot be {wanted}: {said}; the lease does not count without it")]
pub struct FenceError {
    table: String,
    wanted: &'static str,
    said: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Unknown,
    Open,
    Until { closes_ms: u64 },
}

/// The fence of one server.
#[derive(Debug)]
pub struct Fence {
    port: u16,
    gate: Mutex<Gate>,
}

/// The table of the fence of the server at this port.
#[must_use]
pub fn table(port: u16) -> String {
    format!("pgkeel_{port}")
}

impl Fence {
    /// Changes nothing yet.
    #[must_use]
    pub fn new(port: u16) -> Fence {
        Fence { port, gate: Mutex::new(Gate::Unknown) }
    }

    /// Lets everybody in: the server is no primary.
    ///
    /// # Errors
    /// When nft refuses.
    pub async fn open(&self) -> Result<(), FenceError> {
        let mut gate = self.gate.lock().await;
        if *gate != Gate::Open {
            *gate = Gate::Unknown;
            self.nft("opened", whole(self.port, None)).await?;
            *gate = Gate::Open;
        }
        Ok(())
    }

    /// Closes the port when CLOCK_BOOTTIME (milliseconds) passes `deadline_ms`, or a little before. When this returns
    /// `Ok`, it is in force.
    ///
    /// # Errors
    /// When the moment has passed, or nft refuses.
    pub async fn close_at(&self, deadline_ms: u64) -> Result<(), FenceError> {
        let mut gate = self.gate.lock().await;
        let left_ms = deadline_ms.saturating_sub(boottime_ms());
        if left_ms == 0 {
            return Err(self.error("renewed", "the lease has ended".to_owned()));
        }
        let batch = match *gate {
            Gate::Until { closes_ms } if deadline_ms.abs_diff(closes_ms) < left_ms / SHARE => return Ok(()),
            Gate::Until { .. } => renewal(self.port, left_ms),
            Gate::Unknown | Gate::Open => whole(self.port, Some(left_ms)),
        };
        *gate = Gate::Unknown;
        self.nft("renewed", batch).await?;
        // The latest moment at which it can close.
        *gate = Gate::Until { closes_ms: boottime_ms() + left_ms };
        Ok(())
    }

    /// Removes it: there is no server any more.
    ///
    /// # Errors
    /// When nft refuses.
    pub async fn remove(&self) -> Result<(), FenceError> {
        let mut gate = self.gate.lock().await;
        *gate = Gate::Unknown;
        self.nft("removed", removal(&table(self.port))).await
    }

    async fn nft(&self, wanted: &'static str, batch: String) -> Result<(), FenceError> {
        nft(&[&batch]).await.map_err(|said| self.error(wanted, said))
    }

    fn error(&self, wanted: &'static str, said: String) -> FenceError {
        FenceError { table: table(self.port), wanted, said }
    }
}

/// Everything, in one transaction; what is there already stays or is replaced.
fn whole(port: u16, left_ms: Option<u64>) -> String {
    let table = table(port);
    let chain = |name: &str, direction: &str| {
        format!(
            "add chain inet {table} {name} {{ type filter hook {name} priority -10; policy accept; }}; \
             flush chain inet {table} {name}; \
             add rule inet {table} {name} tcp {direction} {port} tcp flags & rst == 0 \
             tcp {direction} != @open reject with tcp reset; "
        )
    };
    format!(
        "add table inet {table}; add set inet {table} open {{ type inet_service; flags timeout; }}; {}{}\
         flush set inet {table} open; {}",
        chain("input", "dport"),
        chain("output", "sport"),
        entry(&table, port, left_ms)
    )
}

/// Fails when the entry is not there any more.
fn renewal(port: u16, left_ms: u64) -> String {
    let table = table(port);
    format!("delete element inet {table} open {{ {port} }}; {}", entry(&table, port, Some(left_ms)))
}

fn entry(table: &str, port: u16, left_ms: Option<u64>) -> String {
    let limit = left_ms.map(|ms| format!(" timeout {ms}ms")).unwrap_or_default();
    format!("add element inet {table} open {{ {port}{limit} }}")
}

/// Removing one that is not there is no failure.
fn removal(table: &str) -> String {
    format!("add table inet {table}; delete table inet {table}")
}

async fn nft(words: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program());
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    match timeout(NFT_LIMIT, command.output()).await {
        Ok(outcome) => judge(outcome),
        Err(_) => Err(format!("nft did not end within {} s", NFT_LIMIT.as_secs())),
    }
}

fn judge(outcome: std::io::Result<Output>) -> Result<(), String> {
    match outcome {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().next().unwrap_or("nft said nothing").trim().to_owned())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err("there is no program nft on this host; install the package nftables".to_owned())
        }
        Err(error) => Err(format!("nft cannot be started: {error}")),
    }
}

fn program() -> &'static str {
    if Path::new(NFT).exists() { NFT } else { "nft" }
}

/// Removes the table of a server whose last process is gone; for the guard, which has no runtime.
pub fn remove_table(table: &str) {
    let mut command = std::process::Command::new(program());
    let _ = command.arg(removal(table)).stdin(Stdio::null()).stdout(Stdio::null()).status();
}

/// Why this process cannot use nftables, if so; changes nothing.
#[must_use]
pub fn hindrance() -> Option<String> {
    let mut command = std::process::Command::new(program());
    let said = judge(command.args(["list", "tables"]).stdin(Stdio::null()).output()).err()?;
    Some(format!(
        "fence.nftables = true, but nft cannot be used: {said}; install nftables and start the agent as root or with \
         CAP_NET_ADMIN (systemd: AmbientCapabilities=CAP_NET_ADMIN), or remove [fence]"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standbys_entry_has_no_end_and_a_primarys_has() {
        assert!(whole(5432, None).ends_with("add element inet pgkeel_5432 open { 5432 }"));
        assert!(
            whole(5432, Some(1_500)).ends_with("add element inet pgkeel_5432 open { 5432 timeout 1500ms }")
        );
    }

    #[test]
    fn a_renewal_replaces_what_is_there() {
        assert_eq!(
            renewal(5432, 2_000),
            "delete element inet pgkeel_5432 open { 5432 }; \
             add element inet pgkeel_5432 open { 5432 timeout 2000ms }"
        );
    }

    #[test]
    fn the_first_line_of_nft_says_what_is_wrong() {
        let said = judge(std::process::Command::new("/nonexistent/nft").output()).unwrap_err();
        assert!(said.contains("install the package nftables"), "{said}");
    }
}
