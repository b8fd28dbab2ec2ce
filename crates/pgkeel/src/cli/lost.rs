//! `pgkeel lost`: what nodes had and the cluster lost in a failover.

use std::fmt::Write as _;
use std::process::ExitCode;

use agent::postgres::lost::Record;
use cluster::NodeName;

use super::agents::Agents;
use super::each_node::{Answers, ask_each};
use super::status::Format;
use super::text::{columns, local_times, say};

/// What `pgkeel lost` was told.
#[derive(Clone, Debug)]
pub struct LostOptions {
    /// The agents to ask, "host:port", in this order.
    pub agents: Agents,
    /// How to print.
    pub format: Format,
    /// Only this node, with each transaction.
    pub node: Option<NodeName>,
}

/// Asks and prints. Ends with 1 when a node did not answer.
pub async fn run(options: &LostOptions) -> ExitCode {
    let path = if options.node.is_some() { "/v1/lost?transactions=1" } else { "/v1/lost" };
    let answers: Answers<Vec<Record>> = match ask_each(&options.agents, options.node.as_ref(), path).await {
        Ok(answers) => answers,
        Err(error) => {
            eprintln!("pgkeel lost: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut ending = ExitCode::SUCCESS;
    for (node, answer) in &answers {
        if let Err(error) = answer {
            eprintln!("pgkeel lost: {node}: {error}");
            ending = ExitCode::FAILURE;
        }
    }
    let told: Vec<(&NodeName, &Record)> = answers
        .iter()
        .filter_map(|(node, answer)| answer.as_ref().ok().map(|records| (node, records)))
        .flat_map(|(node, records)| records.iter().map(move |record| (node, record)))
        .collect();
    match options.format {
        Format::Json => match json(&told) {
            Ok(text) => say(&text),
            Err(error) => eprintln!("pgkeel lost: {error}"),
        },
        Format::Table if told.is_empty() && ending == ExitCode::SUCCESS => say("nothing was lost\n"),
        Format::Table if options.node.is_some() => say(&(table(&told) + &transactions(&told))),
        Format::Table => say(&table(&told)),
    }
    ending
}

#[derive(serde::Serialize)]
struct Told<'a> {
    node: &'a NodeName,
    bytes: u64,
    #[serde(flatten)]
    record: &'a Record,
}

fn json(told: &[(&NodeName, &Record)]) -> Result<String, String> {
    let told: Vec<Told<'_>> = told
        .iter()
        .map(|(node, record)| Told { node, bytes: record.to.bytes_after(record.from), record })
        .collect();
    serde_json::to_string(&told).map(|json| json + "\n").map_err(|error| error.to_string())
}

fn when(moments: &[u64]) -> Vec<String> {
    local_times(moments).into_iter().map(|clock| format!("{} {}", clock.date, clock.time)).collect()
}

/// One line for each loss.
#[must_use]
pub fn table(told: &[(&NodeName, &Record)]) -> String {
    let head = ["node", "epoch", "found", "transactions", "bytes", "from", "to", "note"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    let moments: Vec<u64> = told.iter().map(|(_, record)| record.kept_at).collect();
    for ((node, record), found) in told.iter().zip(when(&moments)) {
        let lost = record.summary();
        let pending = record.findings.is_none().then(|| "not examined yet".to_owned());
        rows.push(vec![
            node.to_string(),
            record.epoch.to_string(),
            found,
            lost.transactions.map_or_else(|| "?".to_owned(), |count| count.to_string()),
            lost.bytes.to_string(),
            lost.from_lsn.to_string(),
            lost.to_lsn.to_string(),
            lost.problem.or(pending).unwrap_or_default(),
        ]);
    }
    columns(&rows).join("\n") + "\n"
}

/// Each transaction and each relation of every loss.
#[must_use]
pub fn transactions(told: &[(&NodeName, &Record)]) -> String {
    let mut text = String::new();
    for (node, record) in told {
        let Some(found) = &record.findings else { continue };
        let _ = writeln!(text, "\n{node}, epoch {}, {} to {}:", record.epoch, record.from, record.to);
        let head = ["transaction", "committed", "bytes"].map(|cell| format!("  {cell}"));
        let mut rows = vec![head.to_vec()];
        let moments: Vec<u64> = found.listed.iter().map(|one| one.committed_at).collect();
        for (one, at) in found.listed.iter().zip(when(&moments)) {
            rows.push(
                [one.xid.to_string(), at, one.bytes.to_string()].map(|cell| format!("  {cell}")).to_vec(),
            );
        }
        text += &(columns(&rows).join("\n") + "\n");
        let more = found.transactions.saturating_sub(found.listed.len() as u64);
        if more > 0 {
            let _ = writeln!(text, "  and {more} more; the WAL itself is kept: pgkeel aside list");
        }
        if !found.relations.is_empty() {
            let files: Vec<&str> = found.relations.iter().map(|relation| relation.file.as_str()).collect();
            let _ = writeln!(text, "  relations (tablespace/database/filenode): {}", files.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent::postgres::lost::{Findings, Piece, Relation, Transaction};
    use cluster::Lsn;

    #[test]
    fn a_loss_is_one_line_and_its_transactions_follow() {
        let node: NodeName = "n1".parse().unwrap();
        let findings = Findings {
            transactions: 3,
            first_commit: Some(1000),
            last_commit: Some(3000),
            listed: vec![Transaction { xid: 735, committed_at: 1000, bytes: 184 }],
            relations: vec![Relation { file: "1663/5/16384".to_owned(), records: 3 }],
            problem: None,
        };
        let (from, to) = (Lsn(0x300_0060), Lsn(0x300_0DE0));
        let record = Record {
            epoch: 4,
            kept_at: 5000,
            from,
            to,
            pieces: vec![Piece { timeline: 1, from, to }],
            problem: None,
            findings: Some(findings),
        };
        let text = table(&[(&node, &record)]);
        let line = text.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(line[..2], ["n1", "4"]);
        assert_eq!(line[4..], ["3", "3456", "0/3000060", "0/3000DE0"]);
        let text = transactions(&[(&node, &record)]);
        assert!(
            text.contains("  735 ") && text.contains("and 2 more") && text.contains("1663/5/16384"),
            "{text}"
        );
        let unread = Record { findings: None, ..record };
        assert!(table(&[(&node, &unread)]).contains("not examined yet"));
    }
}
