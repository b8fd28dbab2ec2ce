//! `pgkeel run`, `agent` and `proxy`: what the configuration file has sections for, until a signal comes.

use super::args::RunArgs;
use crate::config::{self, Config};
use crate::log::{Log, LogOptions};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Which sections to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// All that the file has.
    All,
    /// The agent.
    Agent,
    /// The proxy.
    Proxy,
}

/// Runs until SIGTERM or SIGINT. 1: something failed; 2: the file is wrong.
pub async fn run(args: &RunArgs, what: What) -> ExitCode {
    let loaded = config::load(&args.config);
    let epoch = Arc::new(AtomicU64::new(0));
    let config = loaded.as_ref().ok();
    let agent = config.and_then(|config| config.agent.as_ref()).filter(|_| what != What::Proxy);
    let log = Log::start(LogOptions {
        format: args.log_format.or(config.and_then(|config| config.log_format)).unwrap_or_default(),
        node: agent.map(|agent| agent.node.clone()),
        epoch: Arc::clone(&epoch),
    });
    let code = match loaded {
        Ok(config) => run_config(config, &args.config, what, epoch, &log).await,
        Err(e) => {
            log.last_words(&e.to_string());
            ExitCode::from(2)
        }
    };
    log.finish();
    code
}

async fn run_config(config: Config, file: &Path, what: What, epoch: Arc<AtomicU64>, log: &Log) -> ExitCode {
    for warning in &config.warnings {
        tracing::warn!("{}: {warning}", file.display());
    }
    let missing = match what {
        What::Agent if config.agent.is_none() => Some("[node]"),
        What::Proxy if config.proxy.is_none() => Some("[proxy]"),
        What::Agent | What::Proxy | What::All => None,
    };
    if let Some(section) = missing {
        log.last_words(&format!(
            "{}: there is no section {section}; add it, or run something else",
            file.display()
        ));
        return ExitCode::from(2);
    }
    match run_parts(config, what, epoch).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log.last_words(&format!("pgkeel: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run_parts(config: Config, what: What, epoch: Arc<AtomicU64>) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop_by_signal = async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stops in order"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stops in order"),
        }
        let _ = stop.send(true);
        std::future::pending::<()>().await;
    };
    let agent = async {
        match config.agent.filter(|_| what != What::Proxy) {
            Some(settings) => {
                let epoch = Arc::clone(&epoch);
                agent::start::run(settings, epoch, stopped.clone()).await.map_err(anyhow::Error::from)
            }
            None => Ok(()),
        }
    };
    let proxy = async {
        match config.proxy.filter(|_| what != What::Agent) {
            Some(settings) => {
                let epoch = Arc::clone(&epoch);
                proxy::run(settings, epoch, stopped.clone()).await.map_err(anyhow::Error::from)
            }
            None => Ok(()),
        }
    };
    // One that fails ends the process: a service manager then starts both again.
    tokio::select! {
        outcome = async { tokio::try_join!(agent, proxy) } => outcome.map(|_| ()),
        () = stop_by_signal => Ok(()),
    }
}
