//! Wrong inputs that need processes: each is refused with a message that names what is wrong, and harms nothing.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent::os_user;
use agent::settings::{OS_USER_DEFAULT, find_bin_dir};
use anyhow::{Context, Result, ensure};
use pgkeel::demo::cluster::Security;
use pgkeel::demo::ports::occupy;
use testkit::lab::loss::Kept;
use testkit::lab::watch::{Allowed, Watch};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};

#[test]
fn no_such_bin_dir() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        lab.configure(0, "[postgres]", "bin_dir = \"/nonexistent/bin\"")?;
        refuses_to_run(lab, 0, &["bin_dir", "/nonexistent/bin"]).await
    })
}

#[test]
fn no_such_os_user() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can run the server as another user");
        return Ok(());
    }
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        lab.configure(0, "[postgres]", "os_user = \"no_such_user_here\"")?;
        refuses_to_run(lab, 0, &["no_such_user_here", "useradd"]).await
    })
}

#[test]
fn agent_port_taken() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let address = lab.node(0)?.place.agent.clone();
        let _taken = occupy(port_of(&address)?)?;
        refuses_to_run(lab, 0, &[&address]).await
    })
}

#[test]
fn postgres_port_taken() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let port = lab.node(0)?.place.postgres_port;
        let taken = occupy(port)?;
        refuses_to_run(lab, 0, &[&port.to_string()]).await?;
        drop(taken);
        lab.up().await.context("once the port is free")?;
        Ok(())
    })
}

#[test]
fn two_nodes_with_one_name() -> Result<()> {
    // A certificate would name the third node, which then says so itself.
    let options = LabOptions { security: Security::Plain, ..LabOptions::quorum() };
    run(options, TEST_LIMIT, async |lab: &mut Lab| {
        lab.up().await?;
        lab.cluster.stop_node(2).await?;
        let (config, second) = (lab.node(2)?.place.config.clone(), lab.node(1)?.place.clone());
        let text = fs::read_to_string(&config)?;
        fs::write(&config, text.replace("name = \"n3\"", "name = \"n2\""))?;
        refuses_to_run(lab, 2, &["n2", &second.agent]).await?;
        let writer = lab.writer().await.context("the others serve")?;
        lab.nothing_lost(&writer.stop()).await
    })
}

#[test]
fn data_of_another_system() -> Result<()> {
    run(LabOptions::quorum_on_hosts(), TEST_LIMIT, refuse_foreign_data)
}

async fn refuse_foreign_data(lab: &mut Lab) -> Result<()> {
    let status = lab.up().await?;
    let primary = lab.primary(&status)?;
    let node = *lab.others(primary).first().context("there is a standby")?;
    let watch = Watch::start(lab).await?;
    let since = watch.quiet_moment().await?.over();
    lab.cluster.stop_node(node).await?;
    let place = lab.node(node)?.place.clone();
    fs::rename(&place.data_dir, place.dir.join("own-data"))?;
    init_foreign(&place.data_dir)?;
    let control = fs::read(place.data_dir.join("global/pg_control"))?;
    let identifiers = [identifier(&lab.node(primary)?.place.data_dir)?, identifier(&place.data_dir)?]
        .map(|id| id.to_string());
    lab.cluster.start_node(node)?;
    let what = format!("status says that the data of {} belongs to {identifiers:?}", place.name);
    let said = |status: &cluster::status::Status| {
        let own =
            status.nodes.iter().filter(|other| other.node.as_str() == place.name).map(|other| &other.why);
        own.chain(&status.why).any(|why| identifiers.iter().all(|identifier| why.contains(identifier)))
    };
    let status = lab.cluster.wait_until(&what, SETTLE_LIMIT, said).await?;
    println!("{}", pgkeel::demo::observe::in_short(&status));
    watch.go_on(Duration::from_secs(2)).await?;
    watch.seen("E3", since, Allowed::Nothing)?;
    watch.judge(lab, Kept::All).await?;
    ensure!(fs::read(place.data_dir.join("global/pg_control"))? == control, "the foreign data was changed");
    Ok(())
}

/// The system identifier is what pg_control begins with (ControlFileData, pg_control.h).
fn identifier(data_dir: &Path) -> Result<u64> {
    let control = fs::read(data_dir.join("global/pg_control"))?;
    let bytes = control.first_chunk().context("pg_control is shorter than 8 bytes")?;
    Ok(u64::from_ne_bytes(*bytes))
}

/// Starts one node alone: its agent ends by itself, not with success, and its log has every one of `words`.
async fn refuses_to_run(lab: &mut Lab, node: usize, words: &[&str]) -> Result<()> {
    let before = lab.node(node)?.log().len();
    lab.cluster.start_node(node)?;
    let status = lab.cluster.wait_for_exit(node, SHORT_LIMIT).await?;
    ensure!(!status.success(), "the agent ended with {status}, as if all were well");
    let log = lab.node(node)?.log();
    let said = log.get(before..).unwrap_or_default();
    println!("{said}");
    for word in words {
        ensure!(said.contains(word), "the agent ended without a word of {word}; it said:\n{said}");
    }
    Ok(())
}

fn port_of(address: &str) -> Result<u16> {
    let (_, port) = address.rsplit_once(':').context("an address has a port")?;
    Ok(port.parse()?)
}

/// Makes a database of its own in `dir`, as the user that runs the servers.
fn init_foreign(dir: &Path) -> Result<()> {
    fs::create_dir(dir)?;
    let initdb = find_bin_dir().map_err(anyhow::Error::msg)?.join("initdb");
    let mut command = Command::new(initdb);
    command.arg("-D").arg(dir).args(["-U", "postgres", "-A", "trust", "--no-sync"]).current_dir("/");
    if rustix::process::geteuid().is_root() {
        let user = os_user::find(OS_USER_DEFAULT)?.context("there is no user postgres")?;
        std::os::unix::fs::chown(dir, Some(user.uid), Some(user.gid))?;
        command.uid(user.uid).gid(user.gid);
    }
    let output = command.output()?;
    ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
