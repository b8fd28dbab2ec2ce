//! `pgkeel add-proxy`: a proxy on a host of its own, by an invitation. The cluster keeps no record of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cluster::NodeName;
use cluster::membership::TokenRole;
use identity::Folder;
use serde::Serialize;
use tokio::net::TcpStream;

use super::create::{absolute, check_files};
use super::join::{check_folder, invitation};
use super::membership_args::AddProxyArgs;
use super::text::say;
use crate::config::{self, Config};
use crate::setup::address::{AGENT_PORT, check_free, node_name, with_port};
use crate::setup::file::{self, HostFile};
use crate::setup::meeting;
use crate::setup::progress::Progress;
use crate::setup::service::Service;

const PORT_DEFAULT: u16 = 6432;
const START_LIMIT: Duration = Duration::from_secs(30);

/// What is printed at the end.
#[derive(Serialize)]
struct Added {
    cluster: String,
    name: NodeName,
    listen: Vec<String>,
    config: PathBuf,
}

/// Does it. 1: something is in the way. 130: interrupted.
pub async fn run(args: AddProxyArgs) -> ExitCode {
    tokio::select! {
        done = add(&args) => match done {
            Ok(text) => {
                say(&text);
                ExitCode::SUCCESS
            }
            Err(said) => {
                eprintln!("pgkeel add-proxy: {said}");
                ExitCode::FAILURE
            }
        },
        _ = tokio::signal::ctrl_c() => {
            eprintln!("pgkeel add-proxy: interrupted; the same command goes on where this one was");
            ExitCode::from(130)
        }
    }
}

async fn add(args: &AddProxyArgs) -> Result<String, String> {
    let name = args.name.clone().map_or_else(node_name, Ok)?;
    let file = absolute(&args.files.config)?;
    let config = match begun(&file)? {
        Some(config) => config,
        None => let_in(&file, &name, args).await?,
    };
    let service = Service::of(&file, &absolute(&args.dir)?, "proxy");
    service.install()?;
    if args.files.no_start {
        return Ok(format!(
            "everything is written. To go on: the same command without --no-start, or {}\n",
            service.by_hand()
        ));
    }
    service.start()?;
    let listen: Vec<String> = config.proxy.iter().flat_map(|p| &p.listen).map(ToString::to_string).collect();
    until_it_listens(&listen, &service).await?;
    let (cluster, at) = (config.cluster, listen.join(", "));
    if args.files.json {
        let added = Added { cluster, name, listen, config: file };
        return Ok(serde_json::to_string(&added).unwrap_or_default() + "\n");
    }
    Ok(format!(
        "the proxy {name} of cluster {cluster} listens on {at}\n\
         it keeps each client's connection; for pools, users of its own and TLS see docs/configuration.md, and write them into {}\n",
        file.display()
    ))
}

fn begun(file: &Path) -> Result<Option<Config>, String> {
    if !file.exists() {
        return Ok(None);
    }
    let shown = file.display();
    let config = config::load(file).map_err(|error| {
        format!("{shown} exists and cannot be used; move it away, or name another by --config:\n{error}")
    })?;
    if config.agent.is_some() {
        return Err(format!(
            "{shown}: a node runs on this host. To run a proxy in the same process, add [proxy] with `listen` to that file and \
             restart the agent; for a process of its own name other places: --config, --tls, --dir"
        ));
    }
    let own = config.tls.as_ref().map(|tls| Folder::at(&tls.dir).certificate());
    match own {
        Some(own) if config.proxy.is_some() => Ok(own.exists().then_some(config)),
        _ => Err(format!(
            "{shown} exists, and is not of such a proxy; move it away, or name another by --config"
        )),
    }
}

async fn let_in(file: &Path, name: &NodeName, args: &AddProxyArgs) -> Result<Config, String> {
    let invitation = invitation(&args.token)?;
    let listen = with_port(&args.listen, PORT_DEFAULT);
    let agent = with_port(&args.agent, AGENT_PORT);
    let met = meeting::meet(&agent, &invitation).await?;
    let folder = Folder::at(&absolute(&args.files.tls)?);
    check_folder(&folder, &met.cluster)?;
    check_files(file, &folder)?;
    let mut host = HostFile {
        cluster: met.cluster.clone(),
        node: None,
        members: [("n1".to_owned(), agent)].into(),
        tls: folder.dir().to_owned(),
        postgres: None,
        proxy: Some(listen),
    };
    let config = host.checked(file)?;
    let listens = config.proxy.iter().flat_map(|proxy| &proxy.listen);
    listens.map(ToString::to_string).try_for_each(|at| check_free(&at, "the proxy", "--listen"))?;
    let got = met.join(TokenRole::Proxy, name, None).await?;
    host.members = got.answer.agents.iter().map(|(name, at)| (name.to_string(), at.clone())).collect();
    let config = host.checked(file)?;
    file::write(file, &host.text())?;
    got.write(&folder)?;
    Ok(config)
}

/// A connection is taken: by this proxy, as the port was free before.
async fn until_it_listens(listen: &[String], service: &Service) -> Result<(), String> {
    let Some(first) = listen.first() else { return Ok(()) };
    // Who listens everywhere is reached here.
    let here = first.replacen("0.0.0.0:", "127.0.0.1:", 1).replacen("[::]:", "[::1]:", 1);
    let mut progress = Progress::begin();
    loop {
        if TcpStream::connect(&here).await.is_ok() {
            return Ok(());
        }
        if let Some(ended) = service.ended() {
            return Err(format!("{ended}\nrepair that and run the same command again"));
        }
        if progress.elapsed() > START_LIMIT {
            return Err(format!(
                "nobody listens on {first}; the proxy's log: {}; then run the same command again",
                service.log_words()
            ));
        }
        progress.wait(&format!("waits for the proxy to listen on {first}")).await;
    }
}
