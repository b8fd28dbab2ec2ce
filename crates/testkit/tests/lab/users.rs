//! Users who show a token instead of a certificate: they may what their role may, until they are removed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use identity::{Folder, Role, Subject};
use pgkeel::demo::cluster::AUTHORITY;
use testkit::lab::{Lab, LabOptions, SHORT_LIMIT, TEST_LIMIT, run};

const HOUR: Duration = Duration::from_secs(3600);

/// How a command shows who asks.
enum Shown<'a> {
    Certificate(&'a Folder),
    Token { file: &'a Path, authority: &'a Folder },
}

/// Runs pgkeel towards one agent.
fn pgkeel(lab: &Lab, node: usize, shown: &Shown<'_>, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(&lab.cluster.options.program);
    command.args(words).arg("--agent").arg(&lab.node(node)?.place.agent).env_remove("PGKEEL_TOKEN_FILE");
    match shown {
        Shown::Certificate(folder) => command.arg("--tls").arg(folder.dir()),
        Shown::Token { file, authority } => {
            command.arg("--tls").arg(authority.dir()).arg("--api-token-file").arg(file)
        }
    };
    Ok(command.output()?)
}

fn refused(output: &Output, said: &str) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && text.contains(said), "expected {said:?}, but {text}");
    Ok(())
}

fn content(output: Output) -> Result<String> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn users_with_tokens_may_what_their_role_may() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, come_and_go)
}

async fn come_and_go(lab: &mut Lab) -> Result<()> {
    lab.up().await?;
    let tls = lab.cluster.options.root.join("tls");
    let authority = Folder::at(&tls.join(AUTHORITY)).authority()?;
    let (carol, only_authority) = (Folder::at(&tls.join("carol")), Folder::at(&tls.join("of-users")));
    for folder in [&carol, &only_authority] {
        folder.write_authorities(authority.certificate())?;
    }
    let subject = Subject::new("demo", Role::Admin, "carol").map_err(anyhow::Error::msg)?;
    carol.write_own(&authority.issue(&subject, HOUR)?)?;
    let admin = Shown::Certificate(&carol);

    let grafana = add(lab, &admin, "grafana", "viewer")?;
    let robot = add(lab, &admin, "robot", "operator")?;
    let by = |file| Shown::Token { file, authority: &only_authority };
    refused(&pgkeel(lab, 0, &admin, &["user", "add", "robot", "--role", "admin"])?, "there is a user robot")?;
    for node in 0..3 {
        until(lab, node, &by(&grafana), |output| output.status.success()).await?;
    }
    refused(
        &pgkeel(lab, 1, &by(&grafana), &["pause"])?,
        "grafana is known as a viewer, who may not give orders",
    )?;
    refused(&pgkeel(lab, 1, &by(&grafana), &["user", "list"])?, "who may not look at")?;
    for order in ["pause", "resume"] {
        content(pgkeel(lab, 1, &by(&robot), &[order])?)?;
    }
    let output = pgkeel(lab, 1, &by(&robot), &["user", "add", "eve", "--role", "admin"])?;
    refused(&output, "robot is known as an operator, who may not add or remove users")?;
    let words = [fs::read_to_string(&grafana)?, fs::read_to_string(&robot)?];
    let mut told = content(pgkeel(lab, 1, &by(&robot), &["user", "list"])?)?;
    ensure!(told.contains("grafana  viewer ") && told.contains("robot    operator "), "{told}");
    told += &content(pgkeel(lab, 1, &admin, &["audit"])?)?;
    told += &content(pgkeel(lab, 1, &admin, &["why"])?)?;
    for line in ["add user grafana, viewer", "user robot, operator", "user grafana, viewer, added by carol"] {
        ensure!(told.contains(line), "{line:?} is not told:\n{told}");
    }
    let secret = |word: &String| word.trim().trim_start_matches("pgkeeluser1-").to_owned();
    ensure!(!words.iter().any(|word| told.contains(&secret(word))), "a token is told:\n{told}");

    content(pgkeel(lab, 0, &admin, &["user", "remove", "grafana"])?)?;
    for node in 0..3 {
        until(lab, node, &by(&grafana), |output| !output.status.success()).await?;
    }
    refused(&pgkeel(lab, 0, &by(&grafana), &["status"])?, "no token of a user of this cluster")?;
    content(pgkeel(lab, 2, &by(&robot), &["status"])?).map(drop)
}

/// Adds a user; the file with the token.
fn add(lab: &Lab, admin: &Shown<'_>, name: &str, role: &str) -> Result<PathBuf> {
    let told = content(pgkeel(lab, 0, admin, &["user", "add", name, "--role", role, "--json"])?)?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    let word = told.get("token").and_then(|it| it.as_str()).context("no token")?;
    let file = lab.cluster.options.root.join(format!("{name}.token"));
    fs::write(&file, word)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Every agent hears of a user, each in its time.
async fn until(lab: &Lab, node: usize, shown: &Shown<'_>, fits: impl Fn(&Output) -> bool) -> Result<()> {
    let began = Instant::now();
    loop {
        let output = pgkeel(lab, node, shown, &["status"])?;
        if fits(&output) {
            return Ok(());
        }
        ensure!(began.elapsed() < SHORT_LIMIT, "{}", String::from_utf8_lossy(&output.stderr));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
