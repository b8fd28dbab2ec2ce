//! The cluster-wide configuration, by command: what is wrong is refused before anything is recorded, everybody has what is
//! right, and of two people who edit at once the second is told. What needs a restart gets it in the right order.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cluster::reason::Reason;
use cluster::restart::{Tale, Turn, Way};
use cluster::state::Entry;
use cluster::status::Status;
use pgkeel::demo::session::Session;
use testkit::lab::loss::Kept;
use testkit::lab::watch::{Allowed, Watch};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::{Duration, sleep, timeout};

#[test]
fn wrong_values_and_two_editors() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let status = lab.up().await?;
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        wrong_values(lab)?;
        ensure!(lab.cluster.status().await?.configuration == 0, "something wrong was recorded");
        right_values(lab).await?;
        two_editors(lab).await?;
        rules_and_rollback(lab).await?;
        let now = lab.cluster.status().await?;
        ensure!(now.epoch == status.epoch, "nothing failed, and the epoch is now {}", now.epoch);
        Ok(())
    })
}

fn wrong_values(lab: &Lab) -> Result<()> {
    let wrong = [
        ("wrk_mem=8MB", "did you mean work_mem?"),
        ("work_mem=4XB", "Valid units for this parameter are"),
        ("work_mem=1kB", "outside the valid range"),
        ("max_connections=many", "invalid value for parameter \"max_connections\""),
        ("wal_compression=sometimes", "invalid value for parameter \"wal_compression\""),
        ("max_connections=2", "does not start while 3 of them are reserved"),
        ("port=1", "is managed by pgkeel"),
        ("wal_log_hints=off", "is set by pgkeel"),
        ("block_size=4096", "cannot be changed"),
    ];
    for (pair, said) in wrong {
        refused(&lab.pgkeel(0, &["config", "set", pair])?, said).with_context(|| pair.to_owned())?;
    }
    refused(&lab.pgkeel(0, &["config", "set", "work_mem"])?, "is not NAME=VALUE")?;
    refused(&lab.pgkeel(0, &["config", "unset", "work_mem"])?, "is not set for the cluster")?;
    refused(&lab.pgkeel(0, &["config", "rollback", "7"])?, "version 7 is not kept")?;
    refused(&lab.pgkeel(0, &["restart", "--pending"])?, "no server waits for a restart")
}

async fn right_values(lab: &Lab) -> Result<()> {
    let said = done(&lab.pgkeel(1, &["config", "set", "work_mem=8MB", "max_connections=150"])?)?;
    ensure!(said.contains("version 1") && said.contains("taken on by n1, n2, n3"), "{said}");
    ensure!(said.contains("restart pending for max_connections on n1, n2, n3"), "{said}");
    for node in 0..3 {
        ensure!(shown(lab, node, "work_mem").await? == "8MB", "node {node} has not taken it on");
        ensure!(shown(lab, node, "max_connections").await? == "100", "node {node} was restarted");
    }
    let status = done(&lab.pgkeel(0, &["status"])?)?;
    ensure!(status.contains("restart pending: max_connections"), "{status}");
    let table = done(&lab.pgkeel(0, &["config", "show"])?)?;
    ensure!(table.contains("n1, n2, n3 (now 100)"), "{table}");
    println!("{table}");
    // Sets what is set already.
    let said = done(&lab.pgkeel(0, &["config", "set", "work_mem=8MB"])?)?;
    ensure!(said.contains("nothing changes"), "{said}");
    Ok(())
}

/// Somebody else is quicker than the editor; and two commands at the same moment.
async fn two_editors(lab: &Lab) -> Result<()> {
    let (program, config) = (&lab.cluster.options.program, &lab.node(0)?.place.config);
    let editor = lab.cluster.options.root.join("editor.sh");
    fs::write(
        &editor,
        format!(
            "#!/bin/sh\n'{}' config set work_mem=9MB -c '{}' || exit 1\necho 'temp_buffers = \"16MB\"' >> \"$1\"\n",
            program.display(),
            config.display()
        ),
    )?;
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755))?;
    let edited = Command::new(program)
        .args(["config", "edit", "-c"])
        .arg(config)
        .env_remove("VISUAL")
        .env("EDITOR", &editor)
        .env("TMPDIR", &lab.cluster.options.root)
        .output()?;
    refused(&edited, "has recorded version 2 meanwhile (work_mem: '8MB' -> '9MB')")?;
    refused(&edited, "your text is kept")?;

    let spawn = |value: &str| {
        Command::new(program)
            .args(["config", "set", "--from", "2", &format!("work_mem={value}"), "-c"])
            .arg(config)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
    };
    let (first, second) = (spawn("10MB")?, spawn("11MB")?);
    let both = [first.wait_with_output()?, second.wait_with_output()?];
    let taken = both.iter().filter(|output| output.status.success()).count();
    ensure!(taken == 1, "{taken} of two changes made from version 2 were taken: {both:?}");
    let told = both.iter().find(|output| !output.status.success()).context("one was refused")?;
    refused(told, "has recorded version 3 meanwhile")
}

async fn rules_and_rollback(lab: &mut Lab) -> Result<()> {
    let file = lab.cluster.options.root.join("cluster.toml");
    let text =
        |hba: &str| format!("[postgres]\nhba = [\"{hba}\"]\n[postgres.settings]\nwork_mem = \"12MB\"\n");
    let path = file.display().to_string();
    fs::write(&file, text("host all all 300.0.0.0/8 md5"))?;
    refused(&lab.pgkeel(0, &["config", "edit", "--file", &path])?, "hba: ")?;
    fs::write(&file, text("hots all all 10.0.0.0/8 md5"))?;
    refused(&lab.pgkeel(0, &["config", "edit", "--file", &path])?, "is not a line of pg_hba.conf")?;
    fs::write(&file, text("host all ada 10.9.8.0/24 reject"))?;
    done(&lab.pgkeel(2, &["config", "edit", "--file", &path])?)?;
    for node in 0..3 {
        let rules =
            "select count(*)::text from pg_hba_file_rules where address = '10.9.8.0' and error is null";
        ensure!(asked(lab, node, rules).await? == "1", "node {node} has not the rule");
        ensure!(shown(lab, node, "work_mem").await? == "12MB", "node {node} has not the parameter");
    }
    // max_connections was only in the first versions: nothing waits any more.
    let nothing = |status: &Status| status.nodes.iter().all(|node| node.pending.is_empty());
    lab.cluster.wait_until("nothing waits for a restart", SHORT_LIMIT, nothing).await?;
    let said = done(&lab.pgkeel(0, &["config", "rollback", "1"])?)?;
    ensure!(said.contains("max_connections: not set -> '150'"), "{said}");
    for node in 0..3 {
        ensure!(shown(lab, node, "work_mem").await? == "8MB", "node {node} was not taken back");
    }
    let versions = done(&lab.pgkeel(0, &["config", "history"])?)?;
    ensure!(versions.contains("back to version 1: "), "{versions}");
    println!("{versions}");
    let said = done(&lab.pgkeel(0, &["config", "diff", "--json"])?)?;
    let differences: Vec<cluster::configuration::Difference> = serde_json::from_str(&said)?;
    ensure!(differences.len() == 3, "{said}");
    let said = done(&lab.pgkeel(0, &["reload"])?)?;
    ensure!(said.lines().count() == 3, "{said}");
    Ok(())
}

#[test]
fn connections_raised_and_lowered_in_their_order() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let before = lab.up().await?;
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        let writer = lab.writer().await?;
        let primary = before.primary.clone().context("there is no primary")?;
        done(&lab.pgkeel(0, &["config", "set", "max_connections=150"])?)?;
        refused(
            &lab.pgkeel(0, &["restart", primary.as_str(), "--yes"])?,
            &format!("must restart before {primary}"),
        )?;
        let said = done(&lab.pgkeel(0, &["restart", "--pending", "--rolling", "--yes"])?)?;
        println!("raised:\n{said}");
        let raised = lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
        let order = turns(&lab.cluster.why().await?);
        ensure!(
            order.last().is_some_and(|t| t.way == Way::HandOver && t.node == primary) && order.len() == 3,
            "not the standbys first: {order:?}"
        );
        all_have(lab, "150").await?;
        let record = writer.stop();
        ensure!(record.failures.is_empty(), "the load noticed: {:?}", record.failures);
        lab.nothing_lost(&record).await?;

        // A standby cannot have less than its primary: the primary first, and it stays primary.
        lab.make_table().await?;
        let writer = lab.writer().await?;
        let primary = raised.primary.clone().context("there is no primary")?;
        done(&lab.pgkeel(0, &["config", "set", "max_connections=120"])?)?;
        let said = done(&lab.pgkeel(0, &["restart", "--pending", "--rolling", "--yes"])?)?;
        println!("lowered:\n{said}");
        let lowered = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        ensure!(lowered.epoch == raised.epoch, "the epoch is {} now", lowered.epoch);
        let order = turns(&lab.cluster.why().await?);
        ensure!(
            order.first().is_some_and(|t| t.way == Way::InPlace && t.node == primary) && order.len() == 3,
            "not the primary first: {order:?}"
        );
        all_have(lab, "120").await?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        let record = writer.stop();
        println!("longest gap {:?}, failures {:?}", record.longest_gap(), record.failures);
        // A client that gives a write two seconds may have given up by itself on a busy machine.
        let gave_up = |message: &str| message.contains("no answer within");
        ensure!(record.failures.iter().all(|f| gave_up(&f.message)), "{:?}", record.failures);
        lab.nothing_lost(&record).await
    })
}

/// A standby that was started with less than its WAL asks for keeps what it needs until the primary has less.
#[test]
fn a_standby_that_is_restarted_too_early_serves_on() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let status = lab.up().await?;
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        let primary = lab.primary(&status)?;
        let standby = *lab.others(primary).first().context("there is a standby")?;
        let name = lab.node(standby)?.place.name.clone();
        done(&lab.pgkeel(0, &["config", "set", "max_connections=50"])?)?;
        done(&lab.pgkeel(0, &["restart", &name, "--yes"])?)?;
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        ensure!(shown(lab, standby, "max_connections").await? == "100", "it has less than its primary");
        let waits = |status: &Status| {
            let own = status.nodes.iter().find(|node| node.node.as_str() == name);
            own.is_some_and(|node| node.pending.iter().any(|p| p.configured == "50"))
        };
        lab.cluster.wait_until("it still waits for a restart", SHORT_LIMIT, waits).await?;
        Ok(())
    })
}

#[test]
fn rolling_restart_under_load() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let before = lab.up().await?;
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        let watch = Watch::start(lab).await?;
        let servers: Vec<Option<i32>> = lab.cluster.nodes.iter().map(|node| node.postmaster()).collect();
        let since = watch.quiet_moment().await?.over();
        let said = done(&lab.pgkeel(0, &["restart", "--rolling"])?)?;
        println!("{said}");
        let after = lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
        ensure!(after.primary != before.primary, "the primary did not hand over");
        let now: Vec<Option<i32>> = lab.cluster.nodes.iter().map(|node| node.postmaster()).collect();
        ensure!(servers.iter().zip(&now).all(|(old, new)| old != new), "{servers:?} -> {now:?}");
        watch.all_write().await?;
        watch.go_on(Duration::from_secs(2)).await?;
        watch.seen("rolling restart", since, Allowed::Waiting)?;
        watch.judge(lab, Kept::All).await
    })
}

async fn all_have(lab: &Lab, value: &str) -> Result<()> {
    for node in 0..lab.cluster.nodes.len() {
        let found = shown(lab, node, "max_connections").await?;
        ensure!(found == value, "{} has max_connections = {found}", lab.node(node)?.place.name);
    }
    Ok(())
}

/// The turns of the last restarts, in their order.
fn turns(history: &[Entry]) -> Vec<Turn> {
    let begun = |e: &Entry| matches!(&e.reason, Reason::Restart { tale: Tale::Begun { .. } });
    let from = history.iter().rposition(begun).unwrap_or(0);
    let goes = history.iter().skip(from).filter_map(|e| match &e.reason {
        Reason::Restart { tale: Tale::Goes { turn } } => Some(turn.clone()),
        _ => None,
    });
    goes.collect()
}

async fn shown(lab: &Lab, node: usize, parameter: &str) -> Result<String> {
    asked(lab, node, &format!("select current_setting('{parameter}')")).await
}

async fn asked(lab: &Lab, node: usize, question: &str) -> Result<String> {
    let place = &lab.node(node)?.place;
    let began = Instant::now();
    loop {
        let answer = async {
            let session = timeout(SHORT_LIMIT, Session::open(&place.server())).await??;
            let row = timeout(SHORT_LIMIT, session.client.query_one(question, &[])).await??;
            Ok::<String, anyhow::Error>(row.try_get(0)?)
        };
        match answer.await {
            Ok(text) => return Ok(text),
            Err(e) if began.elapsed() > SHORT_LIMIT => return Err(e),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

fn text(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part).into_owned());
    parts.concat()
}

fn done(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}: {}", output.status, text(output));
    Ok(text(output))
}

fn refused(output: &Output, because: &str) -> Result<()> {
    let said = text(output);
    ensure!(!output.status.success() && said.contains(because), "{}: {said}", output.status);
    println!("{}", said.trim());
    Ok(())
}
