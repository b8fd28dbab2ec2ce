//! What a failover lost: found by comparing what clients were told with what is in the tables, and told by `pgkeel lost`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use agent::postgres::lost::Record;
use anyhow::{Context, Result, ensure};
use pgkeel::demo::layout::Mode;
use pgkeel::demo::session::{Address, Session};
use pgkeel::demo::writer::ids;
use tokio::time::{sleep, timeout};

use super::{Lab, SHORT_LIMIT};

/// What one client wrote; each row in a transaction of its own.
#[derive(Clone, Debug)]
pub struct Claims {
    /// Which client.
    pub name: &'static str,
    /// Where.
    pub table: String,
    /// Rows that were acknowledged.
    pub acknowledged: BTreeSet<i64>,
    /// Rows that may be there or not.
    pub unknown: BTreeSet<i64>,
}

/// Which acknowledged rows must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Every one.
    All,
    /// `pgkeel lost` tells of each one that is not.
    OrTold,
    /// The same; and a primary that stood still may have acknowledged some when it woke up, before it was ended.
    OrToldLate,
}

impl Kept {
    /// What the mode of the test's cluster promises.
    #[must_use]
    pub fn by_mode(lab: &Lab) -> Kept {
        match lab.cluster.options.mode {
            Mode::Quorum(_) => Kept::All,
            Mode::Async(_) => Kept::OrTold,
        }
    }
}

/// Checks it against the tables of the primary of this moment.
///
/// # Errors
/// With the rows that are missing, or the two numbers that do not agree.
pub async fn judge(lab: &Lab, all: &[Claims], kept: Kept) -> Result<()> {
    let status = lab.cluster.status().await?;
    let primary = lab.node(lab.primary(&status)?)?;
    let mut present: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    let (mut missing, mut perhaps) = (0, 0);
    for claims in all {
        if !present.contains_key(claims.table.as_str()) {
            let rows = ids(&primary.place.server(), &claims.table, SHORT_LIMIT).await?;
            present.insert(&claims.table, rows);
        }
        let present = present.get(claims.table.as_str()).context("the table was read")?;
        let lost: BTreeSet<i64> = claims.acknowledged.difference(present).copied().collect();
        perhaps += claims.unknown.difference(present).count();
        missing += lost.len();
        let (name, acknowledged) = (claims.name, claims.acknowledged.len());
        println!("{name}: {acknowledged} rows acknowledged, {} lost", lost.len());
        ensure!(
            kept != Kept::All || lost.is_empty(),
            "acknowledged to {name}, and not in the table of {}: {lost:?}",
            primary.place.name
        );
    }
    if kept != Kept::All {
        let told = told_of_all(lab).await?;
        println!(
            "pgkeel lost tells of {told} transactions; {missing} acknowledged rows are missing, and {perhaps} of which \
             nobody was told"
        );
        let agree = missing as u64 <= told && told <= (missing + perhaps) as u64;
        ensure!(
            agree,
            "pgkeel lost tells of {told} transactions, {missing} (+ at most {perhaps}) are missing"
        );
    }
    Ok(())
}

/// How many transactions `pgkeel lost` tells of, over all nodes.
async fn told_of_all(lab: &Lab) -> Result<u64> {
    let mut transactions = 0;
    for node in 0..lab.cluster.nodes.len() {
        for record in told(lab, node).await? {
            transactions += record.findings.map_or(0, |found| found.transactions);
        }
    }
    Ok(transactions)
}

/// What `pgkeel lost NODE` tells, once all of it has been looked at.
///
/// # Errors
/// When it cannot be asked, or something hindered that all is known.
pub async fn told(lab: &Lab, node: usize) -> Result<Vec<Record>> {
    let name = lab.node(node)?.place.name.clone();
    let began = Instant::now();
    loop {
        let output = lab.pgkeel(node, &["lost", &name, "--json"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pgkeel lost {name}: {said}");
        let records: Vec<Record> = serde_json::from_slice(&output.stdout)?;
        if records.iter().all(|record| record.findings.is_some()) {
            for record in &records {
                let problem = record.findings.as_ref().and_then(|found| found.problem.as_ref());
                ensure!((&record.problem, problem) == (&None, None), "{:?}, {problem:?}", record.problem);
            }
            return Ok(records);
        }
        ensure!(began.elapsed() < SHORT_LIMIT, "the lost WAL of {name} is not looked at: {records:?}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// The transaction that wrote each row of a table.
///
/// # Errors
/// When the server does not answer.
pub async fn writers(server: &Address, table: &str) -> Result<BTreeMap<i64, u32>> {
    let session = timeout(SHORT_LIMIT, Session::open(server)).await??;
    let select = format!("SELECT id, xmin::text FROM {table}");
    let rows = timeout(SHORT_LIMIT, session.client.query(&select, &[])).await??;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get::<_, &str>(1)?.parse()?))).collect()
}
