//! `pgkeel run`, `agent` and `proxy`: what the configuration file has sections for, until a signal comes.

use super::args::ProxyArgs;
use super::sign;
use super::succeed::{self, Myself};
use crate::config::{self, Config, LoadError, Shower};
use crate::log::{Log, LogFormat, LogOptions};
use crate::signals;
use agent::successor::{Ended, Successor};
use identity::renew;
use identity::{Caller, Credentials};
use proxy::{Reader, Reload};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

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

/// Where the settings come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A configuration file.
    File(PathBuf),
    /// The command line, as the text that a file would have.
    Text(String),
}

impl Source {
    /// Of `pgkeel proxy`.
    #[must_use]
    pub fn of_proxy(args: ProxyArgs) -> Source {
        if let Some(file) = args.config {
            return Source::File(file);
        }
        let listen = args.listen.unwrap_or_else(|| "127.0.0.1:6432".to_owned());
        // What is a string or a list of strings in JSON, is the same in TOML.
        let json = |value: serde_json::Value| value.to_string();
        let path = |file: PathBuf| {
            let whole = std::path::absolute(&file).unwrap_or(file);
            json(whole.to_string_lossy().into())
        };
        let mut text = format!(
            "cluster = \"proxy\"\n[proxy]\nlisten = {}\nservers = {}\n",
            json(listen.into()),
            json(args.servers.into())
        );
        // Without the role nobody could tell whether a client may come; servers check their sessions themselves.
        text += &match args.lookup_user {
            Some(user) => format!("lookup_user = {}\n", json(user.into())),
            None => "pool_mode = \"session\"\n".to_owned(),
        };
        if let Some(file) = args.hba_file {
            text += &format!("auth = \"hba\"\nhba_file = {}\n", path(file));
        }
        if let Some(file) = args.ident_file {
            text += &format!("ident_file = {}\n", path(file));
        }
        Source::Text(text)
    }

    fn load(&self) -> Result<Config, LoadError> {
        match self {
            Source::File(file) => config::load(file),
            Source::Text(text) => {
                let found = config::parse("--server", text, agent::settings::find_bin_dir);
                found.map_err(LoadError::Invalid)
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Source::File(file) => file.display().to_string(),
            Source::Text(_) => "--server".to_owned(),
        }
    }
}

/// Runs until SIGTERM or SIGINT. 1: something failed; 2: the settings are wrong.
pub async fn run(source: Source, log_format: Option<LogFormat>, (what, myself): (What, &Myself)) -> End {
    tokio::spawn(succeed::wait_for(succeed::inherited()));
    let loaded = source.load();
    let epoch = Arc::new(AtomicU64::new(0));
    let config = loaded.as_ref().ok();
    let agent = config.and_then(|config| config.agent.as_ref()).filter(|_| what != What::Proxy);
    let log = Log::start(LogOptions {
        format: log_format.or(config.and_then(|config| config.log_format)).unwrap_or_default(),
        node: agent.map(|agent| agent.node.clone()),
        epoch: Arc::clone(&epoch),
    });
    let end = match loaded {
        Ok(config) => run_config(config, (source, myself), what, epoch, &log).await,
        Err(e) => {
            log.last_words(&e.to_string());
            End::With(2)
        }
    };
    log.finish();
    end
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    With(u8),
    /// As another one.
    ForSuccessor {
        /// Which is to begin at this time at the latest.
        by: Instant,
    },
}

/// Why this part of the configuration is not run, if it is not.
pub(super) fn hindrance(config: &Config, what: What) -> Option<String> {
    let missing = match what {
        What::Agent if config.agent.is_none() => Some("[node]"),
        What::Proxy if config.proxy.is_none() => Some("[proxy]"),
        What::Agent | What::Proxy | What::All => None,
    };
    if let Some(section) = missing {
        return Some(format!("there is no section {section}; add it, or run something else"));
    }
    let both = config.agent.is_some() && what == What::All;
    let takes_over = config.proxy.as_ref().is_some_and(|proxy| proxy.takeover.is_some());
    (both && takes_over).then(|| {
        "proxy.takeover needs the proxy in a process of its own, which can be replaced alone: run `pgkeel agent` and `pgkeel \
         proxy` instead of `pgkeel run`"
            .to_owned()
    })
}

async fn run_config(
    config: Config,
    (source, myself): (Source, &Myself),
    what: What,
    epoch: Arc<AtomicU64>,
    log: &Log,
) -> End {
    let file = source.name();
    for warning in &config.warnings {
        tracing::warn!("{file}: {warning}");
    }
    if let Some(hindrance) = hindrance(&config, what) {
        log.last_words(&format!("{file}: {hindrance}"));
        return End::With(2);
    }
    let shower = if what == What::Proxy { Shower::Proxy } else { Shower::Host };
    let credentials = match config.credentials(shower) {
        Ok(credentials) => credentials,
        Err(trouble) => {
            log.last_words(&format!("{file}: {trouble}"));
            return End::With(2);
        }
    };
    let successor = match (&source, config.proxy.is_some() && what != What::Agent) {
        (Source::File(_), false) => myself.as_successor(),
        (Source::Text(_), _) | (_, true) => Successor::none(
            "this process runs the proxy too, whose clients would lose their connections: run `pgkeel agent` and `pgkeel \
             proxy` as two processes",
        ),
    };
    match run_parts(config, (credentials, successor), source, what, epoch).await {
        Ok(Ended::Stopped | Ended::Removed) => End::With(0),
        Ok(Ended::ForSuccessor { by }) => End::ForSuccessor { by },
        Err(e) => {
            log.last_words(&format!("pgkeel: {e:#}"));
            End::With(1)
        }
    }
}

async fn run_parts(
    config: Config,
    (credentials, successor): (Option<Credentials>, Successor),
    source: Source,
    what: What,
    epoch: Arc<AtomicU64>,
) -> anyhow::Result<Ended> {
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    // One that came before these were there.
    if signals::asked_to_end() {
        tracing::info!("told to stop before it had begun: stops in order");
        let _ = stop.send(true);
    }
    let (ask, asked) = watch::channel(0);
    let has_agent = config.agent.is_some() && what != What::Proxy;
    let caller = Caller::with(credentials.clone());
    let renewing = keep_renewed(credentials.clone(), &config, has_agent).await;
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
                let running =
                    agent::start::run(settings, (credentials.clone(), successor), epoch, stopped.clone());
                let ended = running.await?;
                // The proxy beside it ends in order then, and with it the process: nobody is to take it for one that runs its node.
                if ended == Ended::Removed {
                    let _ = stop.send(true);
                }
                anyhow::Ok(ended)
            }
            None => Ok(Ended::Stopped),
        }
    };
    let proxy = async {
        match config.proxy.filter(|_| what != What::Agent) {
            Some(settings) => {
                let epoch = Arc::clone(&epoch);
                let reload = Reload { reader: reader(source), asked };
                let running = proxy::run_reloading(settings, reload, caller.clone(), epoch, stopped.clone());
                running.await.map_err(anyhow::Error::from)
            }
            None => Ok(()),
        }
    };
    // One that fails ends the process: a service manager then starts both again.
    let outcome = tokio::select! {
        outcome = async { tokio::try_join!(agent, proxy) } => outcome.map(|(agent, ())| agent),
        () = stop_by_signal => Ok(Ended::Stopped),
        () = pass_on(hangup, ask, has_agent) => Ok(Ended::Stopped),
    };
    renewing.inspect(JoinHandle::abort);
    // When it was told to stop meanwhile, so is whoever follows (`signals::hold`), and does it in order.
    outcome
}

/// Has the certificate renewed in time, at once if need be.
async fn keep_renewed(
    credentials: Option<Credentials>,
    config: &Config,
    has_agent: bool,
) -> Option<JoinHandle<()>> {
    let credentials = credentials?;
    let renewal = sign::renewal(&credentials, agents_of(config), has_agent);
    renew::begin(&credentials, &renewal).await;
    Some(tokio::spawn(renew::keep_current(credentials, renewal)))
}

fn agents_of(config: &Config) -> Vec<String> {
    let of_node = config.agent.as_ref().map(|agent| agent.members.values().cloned().collect());
    of_node.or(config.proxy.as_ref().map(|proxy| proxy.agents.clone())).unwrap_or_default()
}

/// SIGHUP: the proxy reads its settings again.
async fn pass_on(mut hangup: Signal, ask: watch::Sender<u64>, has_agent: bool) {
    while hangup.recv().await.is_some() {
        ask.send_modify(|times| *times += 1);
        if has_agent {
            tracing::info!("SIGHUP: the agent's own settings are read at its next start");
        }
    }
    std::future::pending().await
}

/// What the proxy's settings are now, where they came from.
fn reader(source: Source) -> Reader {
    Arc::new(move || {
        let config = source.load().map_err(|e| e.to_string())?;
        let missing = || format!("{}: there is no section [proxy] any more", source.name());
        config.proxy.ok_or_else(missing)
    })
}
