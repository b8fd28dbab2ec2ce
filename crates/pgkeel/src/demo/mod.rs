//! `pgkeel demo`: a cluster on this host, a kill, and the story of what happened.
//!
//! The story is in [`story`]; the rest is a local cluster to tell it with ([`cluster`], [`observe`], [`harm`]), and a
//! client that knows what it was promised ([`writer`]). The lab and the benchmark use the same.

pub mod cluster;
pub mod failover;
pub mod harm;
pub mod layout;
pub mod observe;
pub mod ports;
pub mod processes;
pub mod root;
pub mod session;
pub mod stamp;
mod story;
mod teller;
pub mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::cluster::{ClusterOptions, LocalCluster, Security};
use self::layout::{Mode, Placement, Proxies};
use self::root::Root;
use self::story::Ending;
use self::teller::Teller;

/// Fewest nodes of a demonstration: without a standby there is nothing to show.
pub const NODES_MIN: usize = 2;
/// Most nodes: they share one host.
pub const NODES_MAX: usize = 7;
/// Nodes when nobody says.
pub const NODES_DEFAULT: usize = 3;

/// Exit status of a program ended by Ctrl-C, as shells have it (128 + SIGINT).
const INTERRUPTED: u8 = 130;

/// What `pgkeel demo` was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// [`NODES_MIN`] to [`NODES_MAX`].
    pub nodes: usize,
    /// Directory for everything; `None`: a new one for temporary files.
    pub dir: Option<PathBuf>,
    /// What becomes of the cluster after the story.
    pub afterwards: Afterwards,
    /// Whether to use colours.
    pub colour: Colour,
}

/// What becomes of the cluster after the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It is stopped and removed.
    Remove,
    /// It runs until Ctrl-C.
    Keep,
}

/// Whether to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set (no-color.org).
    Auto,
    /// Never.
    Never,
}

/// The signals that end a demonstration; caught from before the first process is started.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn catch() -> Result<Interrupts> {
        let catch = |kind| signal(kind).context("signals cannot be caught");
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [first, second, third] = kinds.map(catch);
        Ok(Interrupts([first?, second?, third?]))
    }

    async fn next(&mut self) {
        let [first, second, third] = &mut self.0;
        tokio::select! {
            _ = first.recv() => {}
            _ = second.recv() => {}
            _ = third.recv() => {}
        }
    }
}

/// Tells the story. 0: every acknowledged row is there; 1: one is not, or a step failed; 130: interrupted before the end.
pub async fn run(options: &DemoOptions) -> ExitCode {
    match attempt(options).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pgkeel demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn attempt(options: &DemoOptions) -> Result<ExitCode> {
    anyhow::ensure!(
        (NODES_MIN..=NODES_MAX).contains(&options.nodes),
        "--nodes {} is out of range; from {NODES_MIN} to {NODES_MAX}",
        options.nodes
    );
    let mut interrupts = Interrupts::catch()?;
    let root = Root::make(options.dir.as_deref())?;
    let mut cluster = LocalCluster::create(ClusterOptions {
        program: std::env::current_exe().context("this program does not find its own file")?,
        root: root.path().to_owned(),
        nodes: options.nodes,
        mode: Mode::Quorum(1),
        detect: None::<Duration>,
        proxies: Proxies::Separate,
        placement: Placement::Loopback,
        security: Security::Tls,
    })?;
    let mut teller = Teller::new(options.colour);
    let ending = tokio::select! {
        ending = story::tell(&mut cluster, &mut teller) => Some(ending),
        () = interrupts.next() => None,
    };
    let code = match &ending {
        Some(Ok(ending)) if ending.lost == 0 => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::from(INTERRUPTED),
    };
    if let (Some(Ok(ending)), Afterwards::Keep) = (&ending, options.afterwards) {
        keep(&cluster, &teller, ending)?;
        interrupts.next().await;
    }
    if let Some(Err(error)) = &ending {
        eprintln!("\npgkeel demo: {error:#}\n\n{}", story::evidence(&cluster, &format!("{error:#}")));
    }
    take_down(cluster, root, &mut interrupts, &teller).await?;
    if let (Some(Ok(ending)), Afterwards::Remove) = (&ending, options.afterwards) {
        teller.last_line(ending);
    }
    Ok(code)
}

/// Says how to look at the cluster and how to end it. The summary's last line stays the last one.
fn keep(cluster: &LocalCluster, teller: &Teller, ending: &Ending) -> Result<()> {
    let first = cluster.nodes.first().context("a cluster has nodes")?;
    teller.keep(cluster.proxy_port()?, &first.place.config, &cluster.options.program);
    teller.last_line(ending);
    Ok(())
}

/// Stops everything in order; a second signal makes it quick.
async fn take_down(
    mut cluster: LocalCluster,
    root: Root,
    interrupts: &mut Interrupts,
    teller: &Teller,
) -> Result<()> {
    teller.aside("stopping everything");
    tokio::select! {
        () = cluster.stop() => {}
        () = interrupts.next() => {}
    }
    cluster.kill_everything();
    drop(cluster);
    root.remove()
}
