//! Copies: asked for, cut short, without room, and with a source that dies.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agent::settings::find_bin_dir;
use anyhow::{Context, Result, bail, ensure};
use cluster::copy::{CloneCause, CopyProgress};
use cluster::observe::RejoinWay;
use cluster::status::NodeStatus;
use pgkeel::demo::processes;
use testkit::lab::faults::Fault;
use testkit::lab::loss::Kept;
use testkit::lab::watch::{Allowed, Watch};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::sleep;

use super::rejoin::{a_standby, returned, wall_ms};

const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[test]
fn asked_for() -> Result<()> {
    run(LabOptions::quorum_on_hosts(), TEST_LIMIT, async |lab: &mut Lab| {
        slow_copies(lab, 1)?;
        slow_copies(lab, 2)?;
        let before = lab.up().await?;
        let primary = lab.primary(&before)?;
        let node = a_standby(lab, primary)?;
        first_copy(lab, node).await?;
        let name = lab.node(node)?.place.name.clone();
        let watch = Watch::start(lab).await?;
        let since = watch.quiet_moment().await?.over();
        let asked_at = wall_ms();
        clone(lab, node, &[])?;
        let progress = midway(lab, node).await?;
        println!("in the middle: {progress}");
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        let rejoined = returned(lab, node, asked_at).await?;
        ensure!(matches!(rejoined.cause, Some(CloneCause::Ordered { .. })), "{rejoined:?}");
        let after = lab.cluster.status().await?;
        ensure!((after.epoch, &after.primary) == (before.epoch, &before.primary), "{} was copied", name);
        watch.go_on(Duration::from_secs(2)).await?;
        watch.seen("B5", since, Allowed::Nothing)?;
        let refused = lab.pgkeel(node, &["clone", lab.node(primary)?.place.name.as_str(), "--yes"])?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains("is the primary"), "{said}");
        watch.judge(lab, Kept::All).await
    })
}

#[test]
fn copy_cut_short() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        slow_copies(lab, 1)?;
        slow_copies(lab, 2)?;
        let status = lab.up().await?;
        let node = a_standby(lab, lab.primary(&status)?)?;
        first_copy(lab, node).await?;
        let writer = lab.writer().await?;
        let dir = lab.node(node)?.place.dir.clone();
        let asked_at = wall_ms();
        clone(lab, node, &[])?;
        midway(lab, node).await?;
        lab.cluster.kill_agent(node)?;
        // Nobody is left to look after what it had begun: that must not write into the next copy.
        let left = programs(&dir);
        lab.cluster.start_node(node)?;
        let still: Vec<i32> =
            next_programs(&dir, &left).await?.into_iter().filter(|pid| left.contains(pid)).collect();
        ensure!(
            still.is_empty(),
            "a pg_basebackup of the killed agent still runs beside the next: {still:?}"
        );
        lab.cluster.kill_agent(node)?;
        processes::kill_all(&programs(&dir));
        lab.cluster.start_node(node)?;
        let rejoined = returned(lab, node, asked_at).await?;
        ensure!(rejoined.way == RejoinWay::Clone, "{rejoined:?}");
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        lab.nothing_lost(&writer.stop()).await
    })
}

#[test]
fn source_dies() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        slow_copies(lab, 1)?;
        slow_copies(lab, 2)?;
        let status = lab.up().await?;
        let node = a_standby(lab, lab.primary(&status)?)?;
        first_copy(lab, node).await?;
        let writer = lab.writer().await?;
        let asked_at = wall_ms();
        clone(lab, node, &[])?;
        let progress = midway(lab, node).await?;
        let source = lab.cluster.index(progress.from.as_str())?;
        ensure!(source != lab.primary(&status)?, "it is copied from the primary");
        lab.strike(source, Fault::PostmasterKilled)?;
        let rejoined = returned(lab, node, asked_at).await?;
        ensure!(rejoined.way == RejoinWay::Clone, "{rejoined:?}");
        let log = lab.node(node)?.log();
        ensure!(log.contains("another node is asked"), "the log says nothing of a second source:\n{log}");
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        lab.nothing_lost(&writer.stop()).await
    })
}

#[test]
fn no_room() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can make a small disk");
        return Ok(());
    }
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let disk = Disk::mount(&lab.node(2)?.place.dir, "400m")?;
        store_elsewhere(lab, 2)?;
        slow_copies(lab, 2)?;
        let status = lab.up().await?;
        let node = 2;
        ensure!(lab.primary(&status)? != node, "the first node by name makes the database");
        first_copy(lab, node).await?;
        let writer = lab.writer().await?;
        disk.leave_free(30 << 20)?;
        let asked_at = wall_ms();
        clone(lab, node, &[])?;
        let told = why(lab, node, "there is no room for a copy").await?;
        println!("before: {}", told.why);
        ensure!(told.state == "streaming", "it was stopped for nothing: {told:?}");
        ensure!(told.why.contains("bytes) free"), "{}", told.why);
        disk.leave_free(150 << 20)?;
        midway(lab, node).await?;
        disk.leave_free(0)?;
        let began = Instant::now();
        while !lab.node(node)?.log().contains("the disk was full") {
            ensure!(began.elapsed() < SHORT_LIMIT, "it does not say that the disk was full");
            sleep(LOOK_AGAIN).await;
        }
        println!(
            "in the middle: {:?}",
            lab.node(node)?.log().lines().find(|l| l.contains("the disk was full"))
        );
        ensure!(lab.node(node)?.place.data_dir.join("PG_VERSION").is_file(), "the old directory is gone");
        disk.empty()?;
        let rejoined = returned(lab, node, asked_at).await?;
        ensure!(rejoined.way == RejoinWay::Clone, "{rejoined:?}");
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        lab.nothing_lost(&writer.stop()).await?;
        lab.cluster.stop().await;
        drop(disk);
        Ok(())
    })
}

/// The record goes to a disk that does not run full: an agent that cannot write it ends, to be started again by whoever keeps it
/// running, and here nobody does.
fn store_elsewhere(lab: &Lab, node: usize) -> Result<()> {
    let place = &lab.node(node)?.place;
    let elsewhere = lab.cluster.options.root.join(format!("{}-store", place.name));
    std::fs::create_dir(&elsewhere)?;
    Ok(std::os::unix::fs::symlink(elsewhere, place.dir.join("store"))?)
}

/// Waits until the copy that the cluster began with is recorded, which may be after all nodes have their places: what comes
/// after it is another one.
async fn first_copy(lab: &Lab, node: usize) -> Result<()> {
    returned(lab, node, 0).await?;
    Ok(())
}

/// Orders it, without waiting.
fn clone(lab: &Lab, node: usize, more: &[&str]) -> Result<()> {
    let name = lab.node(node)?.place.name.clone();
    let args = [&["clone", name.as_str(), "--yes", "--no-wait"], more].concat();
    let output = lab.pgkeel(node, &args)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The node's line in the status.
async fn line(lab: &Lab, node: usize) -> Option<NodeStatus> {
    let name = lab.node(node).ok()?.place.name.clone();
    let status = lab.cluster.status().await.ok()?;
    status.nodes.into_iter().find(|n| n.node.as_str() == name)
}

/// Waits until a copy has begun to come in; how far it is.
async fn midway(lab: &Lab, node: usize) -> Result<CopyProgress> {
    let began = Instant::now();
    loop {
        let copying = line(lab, node).await.and_then(|line| line.copying);
        if let Some(progress) = copying.filter(|c| (5..90).contains(&c.percent())) {
            return Ok(progress);
        }
        ensure!(began.elapsed() < SHORT_LIMIT, "no copy is under way: {:?}", line(lab, node).await);
        sleep(LOOK_AGAIN).await;
    }
}

/// Waits until the status says `words` of the node.
async fn why(lab: &Lab, node: usize, words: &str) -> Result<NodeStatus> {
    let began = Instant::now();
    loop {
        let now = line(lab, node).await;
        if let Some(line) = now.clone().filter(|line| line.why.contains(words)) {
            return Ok(line);
        }
        ensure!(began.elapsed() < SHORT_LIMIT, "the status does not say that {words}: {now:?}");
        sleep(LOOK_AGAIN).await;
    }
}

/// The processes of pg_basebackup that write there.
fn programs(dir: &Path) -> Vec<i32> {
    let runs = |p: &&processes::Process| {
        p.args.first().is_some_and(|arg| arg.ends_with("pg_basebackup")) && processes::mentions(p, dir)
    };
    processes::all().iter().filter(runs).map(|p| p.pid).collect()
}

/// As [`programs`], once one runs that is not among `before`. What the status says of a copy may still be what was heard of
/// the one before.
async fn next_programs(dir: &Path, before: &[i32]) -> Result<Vec<i32>> {
    let began = Instant::now();
    loop {
        let now = programs(dir);
        if now.iter().any(|pid| !before.contains(pid)) {
            return Ok(now);
        }
        ensure!(began.elapsed() < SHORT_LIMIT, "no other pg_basebackup is begun; there are {now:?}");
        sleep(LOOK_AGAIN).await;
    }
}

/// Lets the node copy no more than 4 MB in a second, so that a copy has a middle.
fn slow_copies(lab: &Lab, node: usize) -> Result<()> {
    replace_program(lab, node, "pg_basebackup", "exec REAL --max-rate=4M \"$@\"")
}

/// Puts a script in the place of one of PostgreSQL's programs; REAL in it is the program.
pub fn replace_program(lab: &Lab, node: usize, program: &str, script: &str) -> Result<()> {
    let real = find_bin_dir().map_err(anyhow::Error::msg)?;
    let config = lab.node(node)?.place.config.clone();
    let bin = config.with_file_name(format!("bin{node}"));
    fs::create_dir(&bin)?;
    for entry in fs::read_dir(&real)? {
        let name = entry?.file_name();
        if name != program {
            symlink(real.join(&name), bin.join(&name))?;
        }
    }
    let path = bin.join(program);
    let script = script.replace("REAL", &real.join(program).display().to_string());
    fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
    for path in [&bin, &path] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    lab.configure(node, "[postgres]", &format!("bin_dir = \"{}\"", bin.display()))
}

/// A small disk; gone when dropped.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn mount(at: &Path, size: &str) -> Result<Disk> {
        fs::create_dir_all(at)?;
        let options = format!("size={size},mode=755");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status()?;
        ensure!(status.success(), "a small disk cannot be mounted at {}", at.display());
        Ok(Disk { at: at.to_owned() })
    }

    fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.at)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Fills the disk up to so many bytes.
    fn leave_free(&self, bytes: u64) -> Result<()> {
        self.empty()?;
        let mut file = File::create(self.at.join("filler"))?;
        let block = vec![7; 1 << 18];
        while self.free()? > bytes {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => bail!(error),
            }
        }
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        match fs::remove_file(self.at.join("filler")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("the disk is not emptied")
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}
