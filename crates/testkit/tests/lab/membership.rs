//! A cluster grows and shrinks by command alone, from one host to four and a proxy, and back, under a writer that sees no error.
//! Each host is a network namespace, and every command is run there as a person would.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::status::{NodeStatus, Status};
use pgkeel::demo::layout::Host;
use pgkeel::demo::root::Root;
use pgkeel::demo::session::{Address, PASSWORD, Session};
use pgkeel::demo::writer::{Writer, WriterOptions, ids, make_table};
use testkit::lab::network::{Network, Offer};
use testkit::lab::survey::{Survey, SurveyOptions};
use testkit::lab::{SHORT_LIMIT, TEST_LIMIT, program};

/// For one command: what takes longer hangs.
const COMMAND_LIMIT_S: &str = "180";
/// The ids of the second client begin here; the writer's begin at 1.
const SURVEY_IDS: i64 = 1_000_000_000;
/// As the survey has it, with room for a busy host and a switchover: no error is to be seen.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const PROXY_PORT: u16 = 6432;
const SERVER_PORT: u16 = 5432;

/// Hosts without anything on them. The order matters at the end: what runs there goes with the network, then the files.
pub(super) struct Site {
    network: Network,
    pub(super) root: Root,
    program: PathBuf,
}

impl Site {
    pub(super) fn make(hosts: &[&str]) -> Result<Option<Site>> {
        let names: Vec<String> = hosts.iter().map(|name| (*name).to_owned()).collect();
        match Network::make(&names)? {
            Offer::Refused(reason) => {
                let _ = writeln!(std::io::stderr(), "skipped: {reason}");
                Ok(None)
            }
            Offer::Network(network) => {
                Ok(Some(Site { network, root: Root::make(None)?, program: program()? }))
            }
        }
    }

    pub(super) fn host(&self, number: usize) -> Result<Host> {
        self.network.host(number)
    }

    pub(super) fn path(&self, number: usize, what: &str) -> String {
        self.root.path().join(format!("h{number}{what}")).display().to_string()
    }

    /// Where the files of a host are, for commands that write them.
    pub(super) fn files(&self, number: usize) -> Vec<String> {
        ["--config", "--tls", "--dir"]
            .into_iter()
            .zip([".toml", "-tls", ""])
            .flat_map(|(option, what)| [option.to_owned(), self.path(number, what)])
            .collect()
    }

    /// Runs `pgkeel` on a host to its end: what it printed, and whether it was content.
    pub(super) async fn run(&self, number: usize, words: &[String]) -> Result<(bool, String, String)> {
        let host = self.host(number)?;
        let all = ["timeout".to_owned(), COMMAND_LIMIT_S.to_owned()].into_iter().chain(host.enter);
        let all: Vec<String> = all.chain([self.program.display().to_string()]).collect();
        let words = words.to_vec();
        let output = tokio::task::spawn_blocking(move || {
            let (first, rest) = all.split_first().context("no words")?;
            Command::new(first).args(rest).args(&words).output().context("the command cannot be started")
        })
        .await??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
    }

    pub(super) async fn pgkeel(&self, number: usize, words: &[String]) -> Result<String> {
        let began = Instant::now();
        let (content, out, err) = self.run(number, words).await?;
        let verb = words.first().cloned().unwrap_or_default();
        eprintln!("{verb} on host {number}: {:.1} s", began.elapsed().as_secs_f64());
        ensure!(content, "{verb} on host {number}: {err}{out}");
        Ok(out)
    }

    pub(super) async fn ask(&self, number: usize, words: &[&str]) -> Result<String> {
        let config = self.path(number, ".toml");
        let words: Vec<String> =
            words.iter().chain(&["-c", config.as_str()]).map(|word| (*word).to_owned()).collect();
        self.pgkeel(number, &words).await
    }

    /// The words after `pgkeel` that an invitation asks to be run.
    async fn invitation(&self, asked: usize, kind: &[&str]) -> Result<Vec<String>> {
        let words: Vec<&str> = ["invite", "--json"].iter().chain(kind).copied().collect();
        let told: serde_json::Value = serde_json::from_str(&self.ask(asked, &words).await?)?;
        let command = told.get("command").and_then(|it| it.as_str()).context("no command")?;
        Ok(command.split_whitespace().skip(1).map(str::to_owned).collect())
    }

    async fn join(&self, number: usize, kind: &[&str]) -> Result<()> {
        let words = self.invitation(0, kind).await?;
        self.pgkeel(number, &self.joining(number, kind, words)).await.map(|_| ())
    }

    /// The whole command, by an invitation.
    fn joining(&self, number: usize, kind: &[&str], invitation: Vec<String>) -> Vec<String> {
        let mut words = invitation;
        words.extend(self.files(number));
        words.extend(["--node".to_owned(), format!("n{}", number + 1)]);
        if kind.is_empty() {
            words.extend(["--data".to_owned(), self.path(number, "-data")]);
        }
        words
    }

    pub(super) async fn status(&self, asked: usize) -> Result<Status> {
        Ok(serde_json::from_str(&self.ask(asked, &["status", "--json"]).await?)?)
    }

    pub(super) fn logs(&self) -> String {
        (0..5)
            .flat_map(|number| ["/agent.log", "/proxy.log"].map(|file| self.path(number, file)))
            .filter_map(|file| {
                let text = std::fs::read_to_string(&file).ok()?;
                let lines: Vec<&str> = text.lines().collect();
                Some(format!("{file}:\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n")))
            })
            .collect()
    }
}

#[test]
fn a_cluster_grows_and_shrinks_by_command() -> Result<()> {
    let Some(site) = Site::make(&["db1", "db2", "db3", "voter", "web"])? else { return Ok(()) };
    on_site(site, grow_and_shrink)
}

/// Runs a test on hosts, within its limit, with the logs when it fails; what runs there ends with it.
pub(super) fn on_site(site: Site, test: impl AsyncFnOnce(&Site) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        match tokio::time::timeout(TEST_LIMIT, test(&site)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("the test did not end in time")),
        }
    });
    let logs = if outcome.is_err() { site.logs() } else { String::new() };
    let Site { network, root, .. } = site;
    drop(network);
    drop(root);
    outcome.map_err(|error| anyhow::anyhow!("{error:#}\n\n{logs}"))
}

async fn grow_and_shrink(site: &Site) -> Result<()> {
    create(site).await?;
    let (writer, survey) = with_a_proxy(site).await?;

    invitations(site).await?;
    site.join(2, &[]).await?;
    site.join(3, &["--witness"]).await?;
    let status = site.status(1).await?;
    let told: Vec<(&str, &str)> =
        status.nodes.iter().map(|node| (node.node.as_str(), node.state.as_str())).collect();
    let wanted = [("n1", "running"), ("n2", "streaming"), ("n3", "streaming"), ("n4", "voting")];
    ensure!(told == wanted, "{told:?}");
    refusals(site).await?;
    writer.wait_for(50, SHORT_LIMIT).await?;

    // A standby goes, struck out from elsewhere; then the host on which all began, by its own word.
    site.ask(0, &["remove", "n3", "--yes"]).await?;
    struck_out(site, 2).await?;
    site.ask(0, &["switchover", "--to", "n2", "--yes"]).await?;
    until_it_follows(site, "n2", "n1").await?;
    let said = site.ask(0, &["leave", "--yes", "--insist"]).await?;
    ensure!(said.contains("n1 has left cluster shop"), "{said}");
    let status = site.status(1).await?;
    let left: Vec<&str> = status.nodes.iter().map(|node| node.node.as_str()).collect();
    ensure!(left == ["n2", "n4"], "{left:?}");
    ensure!(std::fs::exists(site.path(0, "-data/PG_VERSION"))?, "the data of n1 are gone");

    // The other comes back as a new one, and takes over: the proxy has heard of its agent, as of all but n1's, by the view.
    emptied(site, 2).await?;
    let mut words = site.invitation(1, &[]).await?;
    words.extend(site.files(2));
    words.extend(["--data".to_owned(), site.path(2, "-data"), "--node".to_owned()]);
    let named = |name: &str| [&words[..], &[name.to_owned()]].concat();
    // By another name: PostgreSQL could not tell it from a copy of the first one that still runs somewhere.
    let (content, _, said) = site.run(2, &named("n3")).await?;
    ensure!(!content && said.contains("n3 was removed"), "{said}");
    site.pgkeel(2, &named("n5")).await?;
    site.ask(1, &["switchover", "--to", "n5", "--yes"]).await?;
    until_it_follows(site, "n5", "n2").await?;
    writer.wait_for(50, SHORT_LIMIT).await?;
    survey.lines(3).await?;
    judge(site, writer, survey).await
}

/// The certificate of a node that was struck out opens nothing any more, once the store has let go of it as well.
async fn struck_out(site: &Site, number: usize) -> Result<()> {
    let (name, first) = (format!("n{}", number + 1), format!("{}:7400", site.host(0)?.address));
    let tls = site.path(number, "-tls");
    let said =
        format!("{name} was removed from the cluster, and the certificate of its agent is not accepted");
    for words in [["status"].as_slice(), &["resume"]] {
        let words: Vec<String> = words
            .iter()
            .chain(&["--agent", first.as_str(), "--tls", tls.as_str()])
            .map(|word| (*word).to_owned())
            .collect();
        let (content, out, err) = site.run(number, &words).await?;
        ensure!(!content && err.contains(&said), "{out}{err}");
    }
    let told = site.ask(0, &["audit"]).await?;
    let line = told.lines().find(|line| line.contains(&format!("agent {name} ")) && line.contains("resume"));
    ensure!(line.is_some_and(|line| line.contains(&said)), "not listed:\n{told}");
    Ok(())
}

/// Waits until the agent of a node that was struck out has ended by itself, then removes all it had.
async fn emptied(site: &Site, number: usize) -> Result<()> {
    let began = Instant::now();
    while std::fs::exists(site.path(number, "/agent.pid"))? {
        ensure!(began.elapsed() < SHORT_LIMIT, "the agent on host {number} does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for what in ["", "-tls", "-data"] {
        std::fs::remove_dir_all(site.path(number, what))?;
    }
    Ok(std::fs::remove_file(site.path(number, ".toml"))?)
}

async fn create(site: &Site) -> Result<()> {
    let mut words: Vec<String> =
        ["create", "--name", "shop", "--replication", "quorum"].map(str::to_owned).to_vec();
    words.extend(site.files(0));
    words.extend(["--data".to_owned(), site.path(0, "-data")]);
    let said = site.pgkeel(0, &words).await?;
    let line = format!("pgkeel join {}:7400 --token pgkeel1-", site.host(0)?.address);
    ensure!(said.lines().any(|it| it.starts_with(&line)), "{said}");
    // All that somebody has to do who wants to come by the network, through a proxy or past it.
    let socket = Address { host: site.path(0, "/run"), port: SERVER_PORT };
    let change = format!("ALTER ROLE postgres PASSWORD '{PASSWORD}'");
    Ok(Session::open(&socket).await?.client.batch_execute(&change).await?)
}

async fn with_a_proxy(site: &Site) -> Result<(Writer, Survey)> {
    let mut words = site.invitation(0, &["--proxy"]).await?;
    words.extend(site.files(4));
    words.extend(["--name".to_owned(), "web".to_owned()]);
    site.pgkeel(4, &words).await?;
    let options = WriterOptions {
        // No error is to be seen, however busy this host is.
        write_limit: SHORT_LIMIT,
        ..WriterOptions::usual(Address { host: site.host(4)?.address, port: PROXY_PORT })
    };
    make_table(&options.address, &options.table, SHORT_LIMIT).await?;
    let table = options.table.clone();
    let writer = Writer::start(options);
    writer.wait_for(50, SHORT_LIMIT).await?;
    let survey = Survey::start(
        "survey",
        SurveyOptions {
            address: Address { host: site.host(4)?.address, port: PROXY_PORT },
            table,
            first_id: SURVEY_IDS,
            period: Duration::from_secs(1),
            connect_limit: CONNECT_LIMIT,
        },
    );
    Ok((writer, survey))
}

/// One host joins; its invitation serves no second one, nor does one that has expired, and one of another cluster is not even
/// shown to this one. All of it is remembered.
async fn invitations(site: &Site) -> Result<()> {
    let good = site.invitation(0, &[]).await?;
    site.pgkeel(1, &site.joining(1, &[], good.clone())).await?;
    let refused = async |invitation: Vec<String>, why: &str| {
        let (content, _, said) = site.run(2, &site.joining(2, &[], invitation)).await?;
        ensure!(!content && said.contains(why), "{said}");
        ensure!(!std::fs::exists(site.path(2, ".toml"))?, "something was written");
        anyhow::Ok(())
    };
    refused(good.clone(), "no such invitation").await?;
    let told = site.ask(0, &["why"]).await?;
    ensure!(told.contains("invitation") && told.contains("n3"), "{told}");
    let short = site.invitation(0, &["--for", "1s"]).await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    refused(short, "has expired").await?;
    // Its last part is the fingerprint of the authority: somebody in between has another one.
    let elsewhere = |word: &String| match word.strip_prefix("pgkeel1-") {
        Some(token) => {
            let turned: String = token.chars().rev().take(64).collect();
            format!("pgkeel1-{}{turned}", &token[..token.len() - 64])
        }
        None => word.clone(),
    };
    refused(site.invitation(0, &[]).await?.iter().map(elsewhere).collect(), "somebody").await?;
    let told = site.ask(0, &["audit"]).await?;
    for line in ["make invitation ", "join as n2, a node with data ", "no such invitation", "has expired"] {
        ensure!(told.contains(line), "{line:?} is not listed:\n{told}");
    }
    Ok(())
}

/// What is wrong is said, and changes nothing.
async fn refusals(site: &Site) -> Result<()> {
    let mut again = site.invitation(0, &[]).await?;
    again.extend(site.files(1));
    again.extend(["--node", "n2", "--data"].map(str::to_owned));
    again.push(site.path(1, "-data"));
    let said = site.pgkeel(1, &again).await?;
    ensure!(said.contains("n2 at ") && said.contains("streaming"), "repeated: {said}");
    let primary = ["remove", "n1", "--yes", "-c", &site.path(1, ".toml")].map(str::to_owned);
    let (content, _, said) = site.run(1, &primary).await?;
    ensure!(!content && said.contains("n1 is primary"), "{said}");
    let key = |number: usize| std::fs::exists(site.path(number, "-tls/ca.key"));
    ensure!(
        key(1)? && key(2)? && !key(3)? && !key(4)?,
        "the authority's key is where it should not be, or not where it should"
    );
    Ok(())
}

/// After a switchover commits wait for the old primary, as long as it is the only one that could confirm them.
async fn until_it_follows(site: &Site, primary: &str, old: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        let status = site.status(1).await?;
        let follows = |node: &NodeStatus| node.node.as_str() == old && node.state == "streaming" && node.sync;
        if status.primary.as_ref().is_some_and(|it| it.as_str() == primary)
            && status.nodes.iter().any(follows)
        {
            return Ok(());
        }
        if began.elapsed() > SHORT_LIMIT {
            bail!("{old} does not follow {primary}: {status:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn judge(site: &Site, writer: Writer, survey: Survey) -> Result<()> {
    let hushed = survey.hush().await?;
    let lines = survey.so_far().all;
    drop((hushed, survey));
    let record = writer.stop();
    let server = Address { host: site.host(2)?.address, port: SERVER_PORT };
    let lost = record.lost(&ids(&server, "pgkeel_demo", SHORT_LIMIT).await?);
    eprintln!(
        "acknowledged {}, lost {}, longest gap {:.2} s, errors {}, connections {}",
        record.acks.len(),
        lost.len(),
        record.longest_gap().as_secs_f64(),
        record.failures.len(),
        record.connections
    );
    let errors: Vec<_> = lines.iter().filter_map(|line| line.error.as_ref()).collect();
    let slowest = lines.iter().map(|line| line.ended - line.began).max().unwrap_or_default();
    eprintln!(
        "the survey's client: {} lines, {} errors, the slowest took {:.2} s",
        lines.len(),
        errors.len(),
        slowest.as_secs_f64()
    );
    ensure!(errors.is_empty(), "{errors:?}");
    ensure!(lost.is_empty(), "acknowledged, and not there: {lost:?}");
    // One may have been under way when the writer was stopped.
    ensure!(record.failures.is_empty() && record.unknown.len() <= 1, "{:?}", record.failures);
    Ok(())
}
