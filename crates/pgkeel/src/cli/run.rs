//! `pgkeel run`, `agent` and `proxy`: what the configuration file has sections for, until a signal comes.

use crate::config::{self, Config};
use std::path::Path;
use std::process::ExitCode;
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
pub async fn run(file: &Path, what: What) -> ExitCode {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::from(2);
        }
    };
    for warning in &config.warnings {
        tracing::warn!("{}: {warning}", file.display());
    }
    let missing = match what {
        What::Agent if config.agent.is_none() => Some("[node]"),
        What::Proxy if config.proxy.is_none() => Some("[proxy]"),
        What::Agent | What::Proxy | What::All => None,
    };
    if let Some(section) = missing {
        eprintln!("{}: there is no section {section}; add it, or run something else", file.display());
        return ExitCode::from(2);
    }
    match run_parts(config, what).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pgkeel: {e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run_parts(config: Config, what: What) -> anyhow::Result<()> {
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
            Some(settings) => agent::start::run(settings, stopped.clone()).await.map_err(anyhow::Error::from),
            None => Ok(()),
        }
    };
    let proxy = async {
        match config.proxy.filter(|_| what != What::Agent) {
            Some(settings) => proxy::run(settings, stopped.clone()).await.map_err(anyhow::Error::from),
            None => Ok(()),
        }
    };
    // One that fails ends the process: a service manager then starts both again.
    tokio::select! {
        outcome = async { tokio::try_join!(agent, proxy) } => outcome.map(|_| ()),
        () = stop_by_signal => Ok(()),
    }
}
