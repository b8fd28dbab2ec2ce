//! A primary is killed, and the commands in `[hooks]` are told of it: once, with the right names.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};

#[test]
fn hooks_tell_a_failover() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, kill_the_primary)
}

/// One line for each command that ran: who, what, which epoch, about whom, whose role, from whom, to whom.
const COMMAND: &str = "echo \"$PGKEEL_RUN_BY $PGKEEL_EVENT $PGKEEL_EPOCH %d $PGKEEL_NODE $PGKEEL_NODE_PORT \
                       $PGKEEL_NODE_DATA_DIR ${PGKEEL_ROLE:-none} ${PGKEEL_OLD_PRIMARY:-none} \
                       ${PGKEEL_NEW_PRIMARY:-none} %H %r\"";

async fn kill_the_primary(lab: &mut Lab) -> Result<()> {
    let file = lab.cluster.options.root.join("hooks-told");
    for node in 0..3 {
        let command = format!("{COMMAND} >> {}", file.display());
        let section = format!(
            "\n[hooks]\non_role_change = '''{command}'''\non_failover = '''{command}'''\ntimeout = \"60s\""
        );
        lab.configure(node, "sync_standbys", &section)?;
    }
    let before = lab.up().await?;
    let old = lab.primary(&before)?;
    lab.cluster.kill_server(old)?;
    let after = lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
    let new = lab.primary(&after)?;
    let place = |node: usize| lab.node(node).map(|node| node.place.clone());
    let (old, new) = (place(old)?, place(new)?);
    // The settled cluster is ahead of its commands.
    let expected = |event: &str, about: &str, primary: &str| -> bool {
        let told = fs::read_to_string(&file).unwrap_or_default();
        told.lines().any(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            words.get(1) == Some(&event) && words.get(4) == Some(&about) && words.get(7) == Some(&primary)
        })
    };
    let logged = || {
        let mut nodes = (0..3).filter_map(|node| lab.node(node).ok());
        nodes.any(|node| node.log().contains("hook on_failover was run"))
    };
    let done = || match new.name == old.name {
        // In rare cases the killed server is up again before two others have sealed, and is the best candidate.
        true => expected("role_change", &old.name, "primary"),
        false => {
            expected("failover", &old.name, "none")
                && expected("role_change", &new.name, "primary")
                && expected("role_change", &old.name, "standby")
                && logged()
        }
    };
    let began = Instant::now();
    while !done() {
        ensure!(began.elapsed() < SHORT_LIMIT, "not told: {}", fs::read_to_string(&file).unwrap_or_default());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let told = fs::read_to_string(&file)?;
    println!("{told}");
    if new.name == old.name {
        return Ok(());
    }
    let failovers: Vec<&str> = told.lines().filter(|line| line.contains(" failover ")).collect();
    ensure!(failovers.len() == 1, "told {} times: {failovers:?}", failovers.len());
    let words: Vec<&str> = failovers.first().context("one")?.split(' ').skip(2).collect();
    let id = old.name.trim_start_matches('n').parse::<usize>()? - 1;
    let (epoch, old_port, new_port) =
        (after.epoch.to_string(), old.postgres_port.to_string(), new.postgres_port.to_string());
    let id = id.to_string();
    let data = data_dir(&old.config)?;
    let wanted =
        [&epoch, &id, &old.name, &old_port, &data, "none", &old.name, &new.name, "127.0.0.1", &new_port];
    ensure!(words == wanted, "told {words:?}, should be {wanted:?}");
    Ok(())
}

/// What the configuration file says.
fn data_dir(config: &Path) -> Result<String> {
    let text = fs::read_to_string(config)?;
    let line = text.lines().find_map(|line| line.strip_prefix("data_dir = ")).context("no data_dir")?;
    Ok(line.trim_matches('"').to_owned())
}
