//! The program of running agents is exchanged under load; no server is stopped, and no client notices.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::sleep;

/// Of the default settings: who is silent so long is seen to be.
const LONGER_THAN_DETECT: Duration = Duration::from_secs(3);

#[test]
fn agents_are_exchanged_under_load() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, exchange)
}

#[test]
fn what_must_not_be_exchanged_is_refused() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, refuse)
}

#[test]
fn told_to_end_while_it_is_exchanged() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, signal)
}

async fn exchange(lab: &mut Lab) -> Result<()> {
    let program = own_program(lab)?;
    let before = lab.up().await?;
    let writer = lab.writer().await?;
    let agents = |lab: &Lab| -> Vec<_> { lab.cluster.nodes.iter().map(|node| node.agent()).collect() };
    let postmasters =
        |lab: &Lab| -> Vec<_> { lab.cluster.nodes.iter().map(|node| node.postmaster()).collect() };
    let (pids, servers) = (agents(lab), postmasters(lab));

    replace(&program, b"#!/bin/sh\necho broken >&2\nexit 3\n")?;
    let said = refused(lab, &["agent", "upgrade", "n1"])?;
    ensure!(said.contains("refuses") && said.contains("broken"), "it says: {said}");

    replace(&program, &fs::read(testkit::lab::program()?)?)?;
    let done = lab.pgkeel(0, &["agent", "upgrade"])?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    println!("{said}");
    ensure!(said.matches("its server runs on").count() == 3, "it says: {said}");
    let primary = before.primary.as_ref().context("there is no primary")?;
    let last = said.lines().last().unwrap_or_default();
    ensure!(last.starts_with(&format!("{primary}: ")), "the primary was not the last: {said}");

    let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    ensure!((after.epoch, &after.primary) == (before.epoch, &before.primary), "the primary has changed");
    ensure!(agents(lab) == pids, "other processes, where the same ones were to run another program");
    ensure!(postmasters(lab) == servers, "servers were started anew");
    for node in 0..3 {
        let log = lab.node(node)?.log();
        ensure!(log.matches("found its server running").count() == 1, "{node} did not take its server over");
    }
    writer.wait_for(50, SHORT_LIMIT).await?;
    let record = writer.stop();
    ensure!(record.failures.is_empty(), "the writer noticed: {:?}", record.failures);
    lab.nothing_lost(&record).await
}

/// Another file under the same name, as package managers do it: the one that runs stays as it is.
fn replace(program: &Path, content: &[u8]) -> Result<()> {
    let source = program.with_extension("source");
    fs::write(&source, content)?;
    install(&source, &program.with_extension("new"))?;
    fs::rename(program.with_extension("new"), program).context("the program cannot be replaced")
}

/// By a process of its own: a program cannot be started while a child of another test has inherited the file that is written.
fn install(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("install").args(["-m", "755"]).arg(from).arg(to).status()?;
    ensure!(done.success(), "install: {done}");
    Ok(())
}

/// What must not be exchanged is not, and it is said why; what was done before is said too.
async fn refuse(lab: &mut Lab) -> Result<()> {
    let program = own_program(lab)?;
    let hold = lab.cluster.options.root.join("hold");
    fs::write(&hold, "")?;
    for node in 0..3 {
        let command = format!("while [ -e {} ]; do sleep 0.1; done", hold.display());
        let section = format!("\n[hooks]\non_role_change = '''{command}'''\ntimeout = \"300s\"");
        lab.configure(node, "sync_standbys", &section)?;
    }
    let status = lab.up().await?;
    let primary = lab.primary(&status)?;
    let name = |lab: &Lab, node: usize| lab.node(node).map(|node| node.place.name.clone());
    let (first, standby) = (name(lab, primary)?, lab.others(primary)[0]);
    let said = refused(lab, &["agent", "upgrade", &first])?;
    ensure!(said.contains("commands of hooks"), "it says: {said}");
    fs::remove_file(&hold)?;

    let config = lab.node(standby)?.place.config.clone();
    let (before, port) = (fs::read_to_string(&config)?, lab.node(standby)?.place.postgres_port);
    fs::write(&config, before.replace(&format!("\nport = {port}\n"), "\nport = 1717\n"))?;
    let said = refused(lab, &["agent", "upgrade", &name(lab, standby)?])?;
    let expected = format!("postgres.port is {port} here and would be 1717");
    ensure!(said.contains(&expected), "it says: {said}");
    fs::write(&config, before)?;

    lab.cluster.kill_agent(standby)?;
    sleep(LONGER_THAN_DETECT).await;
    let said = refused(lab, &["agent", "upgrade", "--json"])?;
    let gone = name(lab, standby)?;
    ensure!(
        said.contains("\"upgraded\":[]") && said.contains(&format!("{gone} is not well")),
        "it says: {said}"
    );
    lab.cluster.start_node(standby)?;
    lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;

    let real = testkit::lab::program()?;
    let slow_by = |seconds: u32| {
        let slow = format!("[ \"$1\" = succeed-check ] && sleep {seconds}");
        format!("#!/bin/sh\n{slow}\nexec {} \"$@\"\n", real.display())
    };
    replace(&program, slow_by(3).as_bytes())?;
    let said = refused(lab, &["agent", "upgrade", "--json"])?;
    ensure!(said.contains("\"upgraded\":[]") && said.contains("does not answer within"), "it says: {said}");
    if lab.is_record_elsewhere() {
        // Leases are so long there that a primary can wait for whatever answers in time.
        return Ok(());
    }

    // It takes so long to start that a primary cannot wait for it.
    replace(&program, slow_by(1).as_bytes())?;
    let said = refused(lab, &["agent", "upgrade", "--json"])?;
    ensure!(
        said.matches("\"before\"").count() == 2
            && said.contains(&format!("\"refused\":{{\"node\":\"{first}\"")),
        "it says: {said}"
    );
    ensure!(said.contains("left of the lease") && said.contains("pgkeel switchover"), "it says: {said}");
    let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    ensure!((after.epoch, &after.primary) == (status.epoch, &status.primary), "the primary has changed");
    Ok(())
}

/// A process that is told to end while it becomes another one ends in order, whichever of the two it is.
async fn signal(lab: &mut Lab) -> Result<()> {
    let program = own_program(lab)?;
    let real = testkit::lab::program()?;
    let status = lab.up().await?;
    let primary = lab.primary(&status)?;
    let standby = lab.others(primary)[0];
    for moment in [0, 50, 100, 150, 200, 300] {
        told_to_end(lab, standby, async |_| {
            sleep(Duration::from_millis(moment)).await;
            Ok(())
        })
        .await?;
    }
    // Between the two programs, where neither is there to hear it. Bash leaves the mask of signals alone, which others clear.
    let script =
        format!("#!/bin/bash\n[ \"$1\" = succeed-check ] || sleep 0.3\nexec {} \"$@\"\n", real.display());
    for node in [standby, primary] {
        replace(&program, script.as_bytes())?;
        told_to_end(lab, node, in_the_gap).await?;
        let log = lab.node(node)?.log();
        ensure!(log.contains("told to stop before it had begun"), "the signal came at another time");
    }
    Ok(())
}

/// Has the agent exchanged, and tells it to end at this moment.
async fn told_to_end(lab: &mut Lab, node: usize, moment: impl AsyncFn(i32) -> Result<()>) -> Result<()> {
    let place = lab.node(node)?.place.clone();
    let pid = lab.node(node)?.agent().context("the agent does not run")?;
    let ends = server_ends(lab, node)?;
    let mut asking = Command::new(testkit::lab::program()?)
        .args(["agent", "upgrade", &place.name, "-c"])
        .arg(&place.config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    moment(pid).await?;
    kill_process(Pid::from_raw(pid).context("no process number")?, Signal::TERM)?;
    let ended = lab.cluster.wait_for_exit(node, SETTLE_LIMIT).await?;
    // Nobody comes back.
    let _ = asking.kill();
    asking.wait()?;
    ensure!(ended.success(), "the agent of {} ended with {ended}", place.name);
    ensure!(lab.node(node)?.postmaster().is_none(), "the server of {} runs on", place.name);
    ensure!(server_ends(lab, node)? == ends + 1, "the server of {} was not shut down in order", place.name);
    lab.cluster.start_node(node)?;
    lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    Ok(())
}

/// How often the server has been shut down in order, by its own log.
fn server_ends(lab: &Lab, node: usize) -> Result<usize> {
    let log = fs::read(lab.node(node)?.place.dir.join("postgresql.log"))?;
    Ok(String::from_utf8_lossy(&log).matches("database system is shut down").count())
}

async fn in_the_gap(pid: i32) -> Result<()> {
    let began = Instant::now();
    while !fs::read(format!("/proc/{pid}/cmdline"))?.starts_with(b"/bin/bash\0") {
        ensure!(began.elapsed() < SHORT_LIMIT, "it does not become the other program");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// A copy of the program for this cluster alone, so that another one can lie in its place. Before anything is started.
fn own_program(lab: &mut Lab) -> Result<PathBuf> {
    let program = lab.cluster.options.root.join("pgkeel");
    install(&lab.cluster.options.program, &program)?;
    lab.cluster.options.program.clone_from(&program);
    Ok(program)
}

/// What a command says that must fail.
fn refused(lab: &Lab, args: &[&str]) -> Result<String> {
    let done = lab.pgkeel_by(&testkit::lab::program()?, 0, args)?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    ensure!(!done.status.success(), "not refused: {said}");
    Ok(said)
}
