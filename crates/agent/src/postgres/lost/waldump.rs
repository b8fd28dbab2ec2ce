//! What is in a stretch of WAL: transactions that committed and relations that changed, as pg_waldump prints them.
//!
//! Its output may be long: it is read line by line, long lines are cut, and what is remembered is bounded.

use super::{Findings, Piece, Relation, Transaction};
use crate::postgres::{PgError, Place};
use cluster::WallMs;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};

/// For all pieces of one loss.
const LIMIT: Duration = Duration::from_secs(120);
/// Longer lines are cut: only a commit of very many subtransactions has one.
const LINE_BYTES_MAX: usize = 256 * 1024;
/// Transactions that are listed one by one.
const LISTED_MAX: usize = 5_000;
/// Transactions whose bytes are counted at the same time.
const OPEN_MAX: usize = 1_000_000;
/// Relations that are listed.
const RELATIONS_MAX: usize = 1_000;
/// Bytes of the program's complaint that are quoted.
const WORDS_MAX: u64 = 500;

/// Runs pg_waldump over all `pieces` in `dir`.
pub async fn examine(place: &Place, dir: &Path, pieces: &[Piece]) -> Findings {
    let mut reading = Reading::default();
    let work = async {
        for piece in pieces {
            read_piece(place, dir, piece, &mut reading).await?;
        }
        Ok::<(), PgError>(())
    };
    let problem = match tokio::time::timeout(LIMIT, work).await {
        Ok(Ok(())) => None,
        Ok(Err(e)) => Some(e.to_string()),
        Err(_) => Some(format!("pg_waldump took longer than {} s", LIMIT.as_secs())),
    };
    reading.end(problem)
}

async fn read_piece(place: &Place, dir: &Path, piece: &Piece, reading: &mut Reading) -> Result<(), PgError> {
    let failed = |said: String| PgError::Program { program: "pg_waldump".to_owned(), said };
    let mut command = place.command("pg_waldump");
    // It prints commit times in the time zone of its environment.
    command.env("TZ", "UTC").arg("--path").arg(dir).arg(format!("--timeline={}", piece.timeline));
    command.arg(format!("--start={}", piece.from)).arg(format!("--end={}", piece.to));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(failed("no output".to_owned()));
    };
    let complaint = async {
        let (mut said, mut err) = (Vec::new(), err);
        let _ = (&mut err).take(WORDS_MAX).read_to_end(&mut said).await;
        let _ = tokio::io::copy(&mut err, &mut tokio::io::sink()).await;
        String::from_utf8_lossy(&said).trim().to_owned()
    };
    let lines = async {
        let mut out = BufReader::new(out);
        let mut line = Vec::new();
        while next_line(&mut out, &mut line).await? {
            reading.see(&String::from_utf8_lossy(&line));
        }
        Ok::<(), std::io::Error>(())
    };
    let (read, said) = tokio::join!(lines, complaint);
    read.map_err(|e| failed(e.to_string()))?;
    let status = child.wait().await.map_err(|e| failed(e.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(format!("{status}: {said}"))) }
}

/// The next line, cut; false at the end.
async fn next_line(input: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let bytes = input.fill_buf().await?;
        if bytes.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = bytes.iter().position(|b| *b == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        line.extend_from_slice(&part[..part.len().min(LINE_BYTES_MAX - line.len())]);
        let used = end.map_or(bytes.len(), |at| at + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    findings: Findings,
    open: HashMap<u32, u64>,
    relations: BTreeMap<String, u64>,
    overflow: bool,
}

/// One record, as XLogDumpDisplayRecord (src/bin/pg_waldump/pg_waldump.c) prints it.
#[derive(Debug, PartialEq, Eq)]
struct WalRecord<'a> {
    manager: &'a str,
    bytes: u64,
    xid: u32,
    what: &'a str,
}

fn parse(line: &str) -> Option<WalRecord<'_>> {
    let (manager, rest) = line.strip_prefix("rmgr: ")?.split_once(" len (rec/tot):")?;
    let (lengths, rest) = rest.split_once(", tx:")?;
    let (_, total) = lengths.split_once('/')?;
    let (xid, rest) = rest.split_once(", lsn:")?;
    let (_, what) = rest.split_once(", desc: ")?;
    Some(WalRecord {
        manager: manager.trim(),
        bytes: total.trim().parse().ok()?,
        xid: xid.trim().parse().ok()?,
        what,
    })
}

/// A commit, as xact_desc_commit (src/backend/access/rmgrdesc/xactdesc.c) prints it.
struct Commit {
    xid: u32,
    at: WallMs,
    subtransactions: Vec<u32>,
}

fn commit(record: &WalRecord<'_>) -> Option<Commit> {
    if record.manager != "Transaction" {
        return None;
    }
    let (kind, said) = record.what.split_once(' ')?;
    let prepared = match kind {
        "COMMIT" => None,
        "COMMIT_PREPARED" => Some(()),
        _ => return None,
    };
    let mut parts = said.split(';').map(str::trim);
    let first = parts.next()?;
    let (xid, at) = match prepared.and_then(|()| first.split_once(": ")) {
        Some((xid, at)) => (xid.trim().parse().ok()?, at),
        None => (record.xid, first),
    };
    let subtransactions = parts.find_map(|part| part.strip_prefix("subxacts:")).unwrap_or_default();
    let subtransactions = subtransactions.split_whitespace().filter_map(|xid| xid.parse().ok()).collect();
    Some(Commit { xid, at: parse_time(at)?, subtransactions })
}

/// "2026-11-21 14:00:00.123456 UTC" in milliseconds since 1970.
fn parse_time(text: &str) -> Option<WallMs> {
    let (date, rest) = text.trim().split_once(' ')?;
    let time = rest.split(' ').next()?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let millis: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years from March, so that the leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

impl Reading {
    fn see(&mut self, line: &str) {
        let Some(record) = parse(line) else { return };
        if record.xid != 0 {
            self.note_relations(record.what);
            if self.open.len() < OPEN_MAX || self.open.contains_key(&record.xid) {
                *self.open.entry(record.xid).or_default() += record.bytes;
            } else {
                self.overflow = true;
            }
        }
        if let Some(commit) = commit(&record) {
            self.note_commit(&commit);
        } else if record.manager == "Transaction" && record.what.starts_with("ABORT ") {
            self.open.remove(&record.xid);
        }
    }

    fn note_commit(&mut self, commit: &Commit) {
        let all = std::iter::once(&commit.xid).chain(&commit.subtransactions);
        let bytes = all.filter_map(|xid| self.open.remove(xid)).sum();
        let found = &mut self.findings;
        found.transactions += 1;
        found.first_commit = Some(found.first_commit.map_or(commit.at, |at| at.min(commit.at)));
        found.last_commit = Some(found.last_commit.map_or(commit.at, |at| at.max(commit.at)));
        if found.listed.len() < LISTED_MAX {
            found.listed.push(Transaction { xid: commit.xid, committed_at: commit.at, bytes });
        }
    }

    /// Block references read "blkref #0: rel 1663/5/16384 blk 0", or "rel 1663/5/16384 fork vm blk 0".
    fn note_relations(&mut self, what: &str) {
        for part in what.split("blkref #").skip(1) {
            let Some((_, rest)) = part.split_once("rel ") else { continue };
            let file = rest.split([' ', ',', ';']).next().unwrap_or_default();
            if let Some(count) = self.relations.get_mut(file) {
                *count += 1;
            } else if self.relations.len() < RELATIONS_MAX && file.len() < 40 {
                self.relations.insert(file.to_owned(), 1);
            }
        }
    }

    fn end(self, problem: Option<String>) -> Findings {
        let mut findings = self.findings;
        findings.relations =
            self.relations.into_iter().map(|(file, records)| Relation { file, records }).collect();
        let overflow =
            self.overflow.then(|| "too many transactions at once to count the bytes of each".to_owned());
        findings.problem = problem.or(overflow);
        findings
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HEAP: &str = "rmgr: Heap        len (rec/tot):     54/   150, tx:        735, lsn: 0/014E6F80, prev 0/014E6F48, \
                        desc: INSERT off 2 flags 0x00, blkref #0: rel 1663/5/16384 blk 0 FPW";
    const COMMIT: &str = "rmgr: Transaction len (rec/tot):     34/    34, tx:        735, lsn: 0/014E7018, prev 0/014E6F80, \
                          desc: COMMIT 2026-11-21 14:00:00.123456 UTC; subxacts: 736 737";

    #[test]
    fn a_commit_counts_its_subtransactions() {
        let mut reading = Reading::default();
        for line in [HEAP, &HEAP.replace("735", "736"), &HEAP.replace("735", "800"), COMMIT, "garbage"] {
            reading.see(line);
        }
        let found = reading.end(None);
        let at = 1_795_269_600_123;
        assert_eq!(found.listed, [Transaction { xid: 735, committed_at: at, bytes: 334 }]);
        assert_eq!((found.transactions, found.first_commit, found.last_commit), (1, Some(at), Some(at)));
        assert_eq!(found.relations, [Relation { file: "1663/5/16384".to_owned(), records: 3 }]);
    }

    #[test]
    fn the_second_half_of_a_prepared_transaction_names_the_first() {
        let line = COMMIT.replace("COMMIT 2026", "COMMIT_PREPARED 740: 2026").replace("735", "0");
        assert_eq!(commit(&parse(&line).unwrap()).unwrap().xid, 740);
        let aborted = COMMIT.replace("COMMIT", "ABORT");
        assert!(commit(&parse(&aborted).unwrap()).is_none());
    }

    #[test]
    fn times_are_read() {
        assert_eq!(parse_time("1970-01-01 00:00:00 UTC"), Some(0));
        assert_eq!(parse_time("2024-02-29 12:00:00.5 UTC"), Some(1_709_208_000_500));
        assert_eq!(parse_time("yesterday"), None);
        assert_eq!(parse_time("2024-13-29 12:00:00 UTC"), None);
    }

    #[tokio::test]
    async fn lines_are_cut() {
        let text = format!("{}\nshort\nlast", "x".repeat(LINE_BYTES_MAX + 10));
        let mut input = BufReader::new(text.as_bytes());
        let mut line = Vec::new();
        let mut lengths = Vec::new();
        while next_line(&mut input, &mut line).await.unwrap() {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [LINE_BYTES_MAX, 5, 4]);
    }
}
