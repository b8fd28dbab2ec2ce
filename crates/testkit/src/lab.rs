//! The lab: a real cluster for one test, with its own ports and directory and a time limit, gone when the test ends.
//!
//! All of it runs on this host's loopback address, or each node on a host of its own ([`network`]), where power can fail
//! and cables can be pulled ([`faults`]). [`survey`] and [`witness`] watch from outside.

pub mod busy;
pub mod etcd;
pub mod faults;
pub mod loss;
pub mod network;
pub mod survey;
pub mod watch;
pub mod witness;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cluster::status::Status;
use pgkeel::demo::cluster::{ClusterOptions, LocalCluster, LocalNode, Security};
use pgkeel::demo::layout::{Mode, Placement, Proxies};
use pgkeel::demo::root::Root;
use pgkeel::demo::writer::{Record, Writer, WriterOptions, ids, make_table};

use etcd::Etcd;
use network::{Network, Offer};
use survey::{Survey, SurveyOptions};

/// Nothing here is a promise about speed: only a cluster that hangs reaches one of these.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(180);
/// For single questions, writes and ends of processes.
pub const SHORT_LIMIT: Duration = Duration::from_secs(60);
/// For a whole test.
pub const TEST_LIMIT: Duration = Duration::from_secs(900);

/// Members of the etcd beside the labs of a run with `PGKEEL_LAB_ETCD`.
const ETCD_MEMBERS: usize = 3;

/// Where the ids of the survey's client begin; the load's begin at 1.
const SURVEY_IDS: i64 = 1_000_000_000;
/// And those of the patient one.
const PATIENT_IDS: i64 = 2_000_000_000;

/// What cluster a test wants.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// How many nodes.
    pub nodes: usize,
    /// Replication.
    pub mode: Mode,
    /// Where the proxies run.
    pub proxies: Proxies,
    /// Whether each node has a host of its own.
    pub hosts: Hosts,
    /// Whether its processes speak TLS with each other.
    pub security: Security,
}

/// The hosts of a test's cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// All runs on 127.0.0.1.
    One,
    /// One for each node, and one for the proxy. A test that wants them is skipped where they are refused.
    Each,
}

impl LabOptions {
    /// Three nodes, one standby confirms each commit, one proxy.
    #[must_use]
    pub fn quorum() -> LabOptions {
        LabOptions {
            nodes: 3,
            mode: Mode::Quorum(1),
            proxies: Proxies::Separate,
            hosts: Hosts::One,
            security: Security::Tls,
        }
    }

    /// The same, with a host for each.
    #[must_use]
    pub fn quorum_on_hosts() -> LabOptions {
        LabOptions { hosts: Hosts::Each, ..LabOptions::quorum() }
    }

    /// As [`LabOptions::asynchronous`], with a bound that a few rows exceed.
    #[must_use]
    pub fn asynchronous_strict() -> LabOptions {
        LabOptions { mode: Mode::Async("1KiB".to_owned()), ..LabOptions::asynchronous() }
    }

    /// Four nodes on hosts of their own, two standbys of three confirm each commit.
    #[must_use]
    pub fn quorum_of_two_on_hosts() -> LabOptions {
        LabOptions { nodes: 4, mode: Mode::Quorum(2), ..LabOptions::quorum_on_hosts() }
    }

    /// As [`LabOptions::asynchronous`], with a host for each.
    #[must_use]
    pub fn asynchronous_on_hosts() -> LabOptions {
        LabOptions { hosts: Hosts::Each, ..LabOptions::asynchronous() }
    }

    /// Three nodes, no standby is waited for, one proxy.
    #[must_use]
    pub fn asynchronous() -> LabOptions {
        LabOptions { mode: Mode::Async("64MiB".to_owned()), ..LabOptions::quorum() }
    }
}

/// A cluster of a test.
#[derive(Debug)]
pub struct Lab {
    /// The cluster.
    pub cluster: LocalCluster,
    /// Where all tests keep their clusters' records, if `PGKEEL_LAB_ETCD` is set.
    etcd: Option<Etcd>,
    root: Option<Root>,
    /// After the cluster: it goes when nothing runs in it.
    network: Option<Network>,
}

/// Runs one test on a cluster that has been written but not started.
///
/// # Errors
/// When the scenario fails or takes longer than `limit`, with the end of every log.
pub fn run(
    options: LabOptions,
    limit: Duration,
    scenario: impl AsyncFnOnce(&mut Lab) -> Result<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut lab = match Lab::offer(options)? {
            Ok(lab) => lab,
            Err(reason) => {
                // Past the test harness, which shows nothing of a test that passes.
                let _ = writeln!(std::io::stderr(), "skipped: {reason}");
                return Ok(());
            }
        };
        let outcome = match tokio::time::timeout(limit, scenario(&mut lab)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("the test did not end within {} s", limit.as_secs())),
        };
        match outcome {
            Ok(()) => {
                lab.cluster.stop().await;
                Ok(())
            }
            Err(error) => bail!("{error:#}\n\n{}", lab.cluster.tails()),
        }
    })
}

impl Lab {
    /// Chooses ports and writes the files.
    ///
    /// # Errors
    /// When the program is not built, or this host cannot run the cluster.
    pub fn create(options: LabOptions) -> Result<Lab> {
        Lab::offer(options)?.map_err(anyhow::Error::msg)
    }

    /// The same; a text when this host refuses to make the hosts that are asked for.
    ///
    /// # Errors
    /// As [`Lab::create`].
    pub fn offer(options: LabOptions) -> Result<Result<Lab, String>> {
        let (network, placement) = match options.hosts {
            Hosts::One => (None, Placement::Loopback),
            Hosts::Each => match Network::make(&host_names(options.nodes))? {
                Offer::Refused(reason) => return Ok(Err(reason)),
                Offer::Network(network) => {
                    let nodes = (0..options.nodes).map(|node| network.host(node)).collect::<Result<_>>()?;
                    let placement = Placement::Hosts { nodes, proxy: network.host(options.nodes)? };
                    (Some(network), placement)
                }
            },
        };
        let root = Root::make(None)?;
        let cluster = LocalCluster::create(ClusterOptions {
            program: program()?,
            root: root.path().to_owned(),
            nodes: options.nodes,
            mode: options.mode,
            detect: None,
            proxies: options.proxies,
            placement,
            security: options.security,
        })?;
        let here = network.as_ref().map_or_else(|| "127.0.0.1".to_owned(), Network::here);
        let etcd = match std::env::var_os("PGKEEL_LAB_ETCD") {
            Some(_) => Some(Etcd::start_at(&here, &cluster, ETCD_MEMBERS)?),
            None => None,
        };
        let lab = Lab { cluster, etcd, root: Some(root), network };
        if matches!(lab.cluster.options.mode, Mode::Async(_)) {
            // No transactions but the clients' own: what `pgkeel lost` tells is compared with what they miss.
            (0..options.nodes)
                .try_for_each(|node| lab.configure(node, "hba", "settings = { autovacuum = \"off\" }"))?;
        }
        Ok(Ok(lab))
    }

    /// Whether the record is kept in an etcd: whoever reaches that may lead, and leases are longer.
    #[must_use]
    pub fn is_record_elsewhere(&self) -> bool {
        self.etcd.is_some()
    }

    /// Starts everything and waits until every node has its place; makes the writer's table.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn up(&mut self) -> Result<Status> {
        self.cluster.start()?;
        let status = self.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        self.make_table().await?;
        Ok(status)
    }

    /// Makes the writer's table, empty.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn make_table(&self) -> Result<()> {
        let options = self.load()?;
        make_table(&options.address, &options.table, SHORT_LIMIT).await
    }

    /// The load: 100 writes a second through the proxy.
    ///
    /// # Errors
    /// When the cluster has no proxy.
    pub fn load(&self) -> Result<WriterOptions> {
        Ok(WriterOptions::usual(self.cluster.proxy_address()?))
    }

    /// A client of the survey, which gives a connection one second.
    ///
    /// # Errors
    /// When the cluster has no proxy.
    pub fn survey(&self) -> Result<Survey> {
        let second = Duration::from_secs(1);
        Ok(Survey::start("survey", self.survey_options(SURVEY_IDS, second, second)?))
    }

    /// The same client, which gives a connection as long as the proxy takes to find it a primary.
    ///
    /// # Errors
    /// When the cluster has no proxy.
    pub fn patient(&self) -> Result<Survey> {
        let options = self.survey_options(PATIENT_IDS, Duration::from_millis(250), SHORT_LIMIT)?;
        Ok(Survey::start("patient", options))
    }

    fn survey_options(&self, first_id: i64, period: Duration, limit: Duration) -> Result<SurveyOptions> {
        let load = self.load()?;
        Ok(SurveyOptions { address: load.address, table: load.table, first_id, period, connect_limit: limit })
    }

    /// Starts the load and waits for its first writes.
    ///
    /// # Errors
    /// When they are not acknowledged.
    pub async fn writer(&self) -> Result<Writer> {
        let writer = Writer::start(self.load()?);
        writer.wait_for(50, SHORT_LIMIT).await?;
        Ok(writer)
    }

    /// Number of the node that is primary.
    ///
    /// # Errors
    /// When there is none.
    pub fn primary(&self, status: &Status) -> Result<usize> {
        self.cluster.index(status.primary.as_ref().context("there is no primary")?.as_str())
    }

    /// The numbers of all nodes but this one.
    #[must_use]
    pub fn others(&self, node: usize) -> Vec<usize> {
        (0..self.cluster.nodes.len()).filter(|other| *other != node).collect()
    }

    /// One node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&self, number: usize) -> Result<&LocalNode> {
        self.cluster.nodes.get(number).context("there is no such node")
    }

    /// Checks that every acknowledged write is in the table of the primary of this moment.
    ///
    /// # Errors
    /// When one is not: which.
    pub async fn nothing_lost(&self, record: &Record) -> Result<()> {
        let status = self.cluster.status().await?;
        let primary = self.node(self.primary(&status)?)?;
        let present = ids(&primary.place.server(), &self.load()?.table, SHORT_LIMIT).await?;
        let lost = record.lost(&present);
        // Not on standard output, which is the benchmark's for programs.
        eprintln!(
            "acknowledged {}, lost {}, longest gap {:.2} s, unknown {}, connections {}",
            record.acks.len(),
            lost.len(),
            record.longest_gap().as_secs_f64(),
            record.unknown.len(),
            record.connections
        );
        ensure!(lost.is_empty(), "acknowledged, and not in the table of {}: {lost:?}", primary.place.name);
        Ok(())
    }

    /// Changes a node's configuration file: puts `line` after the first line that begins with `after`.
    ///
    /// # Errors
    /// When there is no such line.
    pub fn configure(&self, node: usize, after: &str, line: &str) -> Result<()> {
        let path = &self.node(node)?.place.config;
        let text = fs::read_to_string(path)?;
        let at = text
            .find(&format!("\n{after}"))
            .with_context(|| format!("no line {after} in {}", path.display()))?;
        let end = text[at + 1..].find('\n').map_or(text.len(), |length| at + 1 + length);
        fs::write(path, format!("{}\n{line}{}", &text[..end], &text[end..]))?;
        Ok(())
    }

    /// Lets every node close its server's port when its lease ends. Before anything is started.
    ///
    /// # Errors
    /// When a configuration file has no `[replication]`.
    pub fn fence_by_nftables(&self) -> Result<()> {
        (0..self.cluster.nodes.len()).try_for_each(|node| {
            let last = if matches!(self.cluster.options.mode, Mode::Async(_)) {
                "max_loss"
            } else {
                "sync_standbys"
            };
            self.configure(node, last, "\n[fence]\nnftables = true")
        })
    }

    /// Runs `pgkeel ARGS... -c FILE` with the file of one node, to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn pgkeel(&self, node: usize, args: &[&str]) -> Result<Output> {
        self.pgkeel_by(&self.cluster.options.program, node, args)
    }

    /// The same with another program.
    ///
    /// # Errors
    /// As [`Lab::pgkeel`].
    pub fn pgkeel_by(&self, program: &Path, node: usize, args: &[&str]) -> Result<Output> {
        let config = &self.node(node)?.place.config;
        let mut command = Command::new(program);
        command.args(args).arg("-c").arg(config).output().context("pgkeel cannot be started")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.cluster.tails());
        }
        self.cluster.kill_everything();
        // For a person who looks for what went wrong.
        if let Some(root) = self.root.take().filter(|_| std::env::var_os("PGKEEL_LAB_KEEP").is_some()) {
            eprintln!("kept: {}", root.path().display());
            root.leave();
        }
    }
}

/// A host for each node, and the last for the proxy.
fn host_names(nodes: usize) -> Vec<String> {
    (1..=nodes).map(|number| format!("db{number}")).chain(["proxy".to_owned()]).collect()
}

/// Whether what is repeated is to be repeated more often: `make lab-long`.
#[must_use]
pub fn long() -> bool {
    std::env::var_os("PGKEEL_LAB_LONG").is_some()
}

/// The pgkeel program: PGKEEL_BIN, or the one built beside the running test or benchmark.
///
/// # Errors
/// When there is none.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PGKEEL_BIN") {
        return Path::new(&path).canonicalize().context("PGKEEL_BIN names no program");
    }
    let own = std::env::current_exe().context("this program does not find its own file")?;
    let beside = |dir: &Path| Some(dir.join("pgkeel")).filter(|path| path.is_file());
    // target/debug/deps/lab-0123 for a test, target/release/bench for the benchmark.
    own.ancestors()
        .skip(1)
        .take(2)
        .find_map(beside)
        .context("the program is not built: run cargo build -p pgkeel first, or set PGKEEL_BIN")
}
