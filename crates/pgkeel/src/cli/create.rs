//! `pgkeel create`: a cluster of one node on this host, and an invitation for the next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cluster::NodeName;
use cluster::membership::TokenRole;
use cluster::state::{Degrade, Replication};
use cluster::status::{Role as Does, Status};
use identity::authority::{GOOD_DEFAULT, cluster_of};
use identity::files::certificates;
use identity::{Authority, Caller, Folder, Role, Subject};
use serde::Serialize;

use super::agents::{Agents, first_answer};
use super::invite::{self, Invited};
use super::membership_args::{CreateArgs, PlaceArgs, ReplicationMode};
use super::text::say;
use crate::config::{self, Config, Shower};
use crate::setup::address::{check_free, for_agent};
use crate::setup::file::{self, HostFile, NodePart, PostgresPart, check_writable};
use crate::setup::progress::Progress;
use crate::setup::service::Service;

const PORT_DEFAULT: u16 = 5432;
/// What an asynchronous cluster may lose in a failover, in bytes; as the configuration's own default.
pub const MAX_LOSS_BYTES: u64 = 1 << 20;
/// For the database to be made and to serve.
const SERVE_LIMIT: Duration = Duration::from_secs(180);
/// The first invitation.
pub const GOOD_FOR: Duration = Duration::from_secs(60 * 60);

/// What is printed at the end.
#[derive(Serialize)]
struct Created {
    cluster: String,
    /// The directory of the server's socket, and its port: how a person of this host connects.
    socket: Option<(PathBuf, u16)>,
    node: String,
    agent: String,
    postgres: Option<String>,
    config: PathBuf,
    invitation: Invited,
}

/// Does it. 1: something is in the way. 130: interrupted.
pub async fn run(args: CreateArgs) -> ExitCode {
    let json = args.place.files.json;
    tokio::select! {
        done = create(&args) => match done {
            Ok(Done::Created(created)) => {
                let text = serde_json::to_string(&created).unwrap_or_default() + "\n";
                say(&if json { text } else { told(&created) });
                ExitCode::SUCCESS
            }
            Ok(Done::Written(service)) => {
                say(&format!(
                    "everything is written. To go on: the same command without --no-start, which starts it ({}) and notes in its \
                     file that the cluster exists\n",
                    service.by_hand()
                ));
                ExitCode::SUCCESS
            }
            Err(said) => {
                eprintln!("pgkeel create: {said}");
                ExitCode::FAILURE
            }
        },
        _ = tokio::signal::ctrl_c() => {
            eprintln!("pgkeel create: interrupted; the same command goes on where this one was");
            ExitCode::from(130)
        }
    }
}

/// How far it went.
enum Done {
    Created(Created),
    Written(Service),
}

async fn create(args: &CreateArgs) -> Result<Done, String> {
    let place = &args.place;
    let file = absolute(&place.files.config)?;
    let config = match begun(&file, &args.name, &args.node)? {
        Some(config) if adopts(&config).is_some() => {
            return Err(format!(
                "{}: this host takes a database over: go on with pgkeel adopt",
                file.display()
            ));
        }
        Some(config) => config,
        None => write(&file, args)?,
    };
    let (dir, address) = match &config.agent {
        Some(agent) => (agent.dir.clone(), agent.listen.clone()),
        None => return Err(format!("{}: there is no [node] in it", file.display())),
    };
    let server = config.agent.as_ref().and_then(|agent| agent.postgres.as_ref());
    let socket = server.map(|server| (dir.join("run"), server.port));
    let service = Service::of(&file, &dir, "agent");
    service.install()?;
    if place.files.no_start {
        return Ok(Done::Written(service));
    }
    service.start()?;
    let credentials =
        config.credentials(Shower::Host).map_err(|trouble| format!("{}: {trouble}", file.display()))?;
    let agents = Agents { addresses: vec![address.clone()], caller: Caller::with(credentials) };
    let postgres = until_it_serves(&agents, &service).await?;
    remember_joined(&file)?;
    let wish = invite::Wish { role: TokenRole::Data, good_for: GOOD_FOR, uses: 1 };
    let invitation = invite::make(&agents, wish).await.map_err(|said| {
        format!(
            "the cluster serves, but no invitation was made: {said}; for one: pgkeel invite -c {}",
            file.display()
        )
    })?;
    Ok(Done::Created(Created {
        cluster: args.name.clone(),
        socket,
        node: args.node.to_string(),
        agent: address,
        postgres,
        config: file,
        invitation,
    }))
}

fn told(created: &Created) -> String {
    let Created { cluster, node, postgres, config, invitation, socket, .. } = created;
    let psql = socket.as_ref().map_or_else(String::new, |(dir, port)| {
        format!("to connect here, as the server's user: psql -h {} -p {port} -U postgres\n", dir.display())
    });
    let server = postgres.as_deref().unwrap_or("-");
    let file = match config == Path::new(config::FILE_DEFAULT) {
        true => String::new(),
        false => format!(" -c {}", config.display()),
    };
    format!(
        "cluster {cluster} serves: {node}, PostgreSQL at {server}; see pgkeel status{file}\n{psql}\
         next, on another host, within {}, as root:\n\n{}\n\n\
         for more of them: pgkeel invite{file}; for a host that only votes: --witness; for one with a proxy: --proxy\n",
        humantime::format_duration(GOOD_FOR),
        invitation.command
    )
}

/// What an earlier try has written; `None`: nothing is there.
///
/// # Errors
/// When it is of another node, or of one that has been made.
pub fn begun(file: &Path, cluster: &str, node: &NodeName) -> Result<Option<Config>, String> {
    if !file.exists() {
        return Ok(None);
    }
    let shown = file.display();
    let config = config::load(file).map_err(|error| {
        format!("{shown} exists and cannot be used; move it away, or name another by --config:\n{error}")
    })?;
    match &config.agent {
        Some(agent) if config.cluster == cluster && agent.node == node.as_str() && !agent.founded => {
            Ok(Some(config))
        }
        Some(agent) if agent.founded => Err(format!(
            "{shown}: this host is {} of cluster {} already. To invite another host: pgkeel invite -c {shown}; for another \
             cluster on this host name other places: --config, --dir, --tls, --data, --listen",
            agent.node, config.cluster
        )),
        _ => Err(format!(
            "{shown} exists, and was not written for {node} of cluster {cluster}; move it away, or name another by --config"
        )),
    }
}

/// The data directory that a configuration takes over.
#[must_use]
pub fn adopts(config: &Config) -> Option<&Path> {
    let server = config.agent.as_ref().and_then(|agent| agent.postgres.as_ref())?;
    server.adopt.then_some(server.data_dir.as_path())
}

/// Looks whether all is free, then writes.
fn write(file: &Path, args: &CreateArgs) -> Result<Config, String> {
    let place = &args.place;
    let listen = for_agent(place.listen.as_deref())?;
    let folder = Folder::at(&absolute(&place.files.tls)?);
    let host = HostFile {
        cluster: args.name.clone(),
        node: Some(NodePart {
            name: args.node.to_string(),
            dir: absolute(&place.dir)?,
            joined: false,
            replication: match args.replication {
                ReplicationMode::Async => {
                    Replication::Async { max_loss_bytes: MAX_LOSS_BYTES, loss_bound_bytes: None }
                }
                // Alone it could confirm nothing.
                ReplicationMode::Quorum => Replication::Quorum { k: 1, degrade: Degrade::Available },
            },
            detect: args.detect.clone(),
            drift_ppm: None,
        }),
        members: BTreeMap::from([(args.node.to_string(), listen)]),
        tls: folder.dir().to_owned(),
        postgres: Some(server(place, &args.name, PORT_DEFAULT)?),
        proxy: args.proxy.clone(),
    };
    let config = host.checked(file)?;
    check_host_is_free(&config)?;
    check_files(file, &folder)?;
    found_authority(&folder, &args.name, &args.node)?;
    file::write(file, &host.text())?;
    Ok(config)
}

/// The server that is to be made.
///
/// # Errors
/// When a path cannot be told.
pub fn server(place: &PlaceArgs, cluster: &str, port: u16) -> Result<PostgresPart, String> {
    // Red Hat's packages have their home elsewhere than Debian's.
    let home = ["/var/lib/postgresql", "/var/lib/pgsql"].map(Path::new);
    let home = home.into_iter().find(|home| home.exists()).unwrap_or(home[0]);
    let data_dir = place.data.clone().unwrap_or_else(|| home.join(cluster));
    Ok(PostgresPart {
        data_dir: absolute(&data_dir)?,
        port: place.port.unwrap_or(port),
        bin_dir: place.bin_dir.as_deref().map(absolute).transpose()?,
        before: None,
    })
}

/// A relative path means where the command is run.
///
/// # Errors
/// When that cannot be told.
pub fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// What is written last can be written.
///
/// # Errors
/// It cannot.
pub fn check_files(file: &Path, folder: &Folder) -> Result<(), String> {
    check_writable(file, "--config")?;
    check_writable(&folder.authorities(), "--tls")
}

/// Nothing of an earlier node, and no other program, is in the way of an agent.
///
/// # Errors
/// What is, and what to do.
pub fn check_agent_is_free(config: &Config) -> Result<(), String> {
    let Some(agent) = &config.agent else { return Ok(()) };
    if !is_empty(&agent.dir) {
        return Err(format!(
            "{} is not empty: it belongs to an agent, or did. If that is of no use any more, remove it; or name another by --dir",
            agent.dir.display()
        ));
    }
    check_free(&agent.listen, "the agent", "--listen")
}

/// The same for all that this host is to run.
///
/// # Errors
/// What is in the way, and what to do.
pub fn check_host_is_free(config: &Config) -> Result<(), String> {
    check_agent_is_free(config)?;
    if let Some(postgres) = config.agent.as_ref().and_then(|agent| agent.postgres.as_ref()) {
        let data = postgres.data_dir.display();
        if postgres.data_dir.join("PG_VERSION").exists() {
            return Err(format!(
                "{data} holds a database already. To take it over, with its standbys, while its server runs: pgkeel adopt (a \
                 standby: pgkeel join --adopt); else name another directory by --data"
            ));
        }
        if !is_empty(&postgres.data_dir) {
            return Err(format!(
                "{data} is not empty; name another directory by --data, or move its content away"
            ));
        }
        let host = match postgres.host.contains(':') {
            true => format!("[{}]:{}", postgres.host, postgres.port),
            false => format!("{}:{}", postgres.host, postgres.port),
        };
        check_free(&host, "PostgreSQL", "--port")?;
    }
    let proxy = config.proxy.iter().flat_map(|proxy| &proxy.listen);
    proxy.map(ToString::to_string).try_for_each(|at| check_free(&at, "the proxy", "--proxy"))
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

/// The authority, and this host's own certificate; those of an earlier try are used again.
///
/// # Errors
/// When there are those of somebody else, or they cannot be written.
pub fn found_authority(folder: &Folder, cluster: &str, node: &NodeName) -> Result<(), String> {
    let subject = Subject::new(cluster, Role::Agent, node.as_str())?;
    let dir = folder.dir().display();
    if folder.authorities().exists() {
        let all = certificates("--tls", &folder.authorities()).map_err(|problem| problem.to_string())?;
        let of = all.first().and_then(|der| cluster_of(der));
        if of.as_deref() != Some(cluster) || !folder.has_authority_key() {
            let of = of.map_or_else(|| "somebody else".to_owned(), |cluster| format!("cluster {cluster}"));
            return Err(format!(
                "{dir} holds the authority of {of} already; name another directory by --tls, or move it away if nobody needs it"
            ));
        }
    } else {
        let pair = Authority::found(cluster).map_err(|error| error.to_string())?;
        folder.write_authority(&pair).map_err(|error| error.to_string())?;
    }
    let authority = folder.authority().map_err(|error| format!("{dir}: {error}"))?;
    let pair = authority.issue(&subject, GOOD_DEFAULT).map_err(|error| error.to_string())?;
    folder.write_own(&pair).map_err(|error| format!("{dir}: {error}"))
}

/// Until the database is there and takes writes; where it is.
///
/// # Errors
/// When the agent has ended, or it takes too long.
pub async fn until_it_serves(agents: &Agents, service: &Service) -> Result<Option<String>, String> {
    let mut progress = Progress::begin();
    loop {
        let status = first_answer::<Status>(agents, "/v1/status").await;
        let what = match &status {
            Ok(status) => {
                let primary = status.nodes.iter().find(|node| node.role == Does::Primary);
                if let (Some(node), true) = (primary, status.primary.is_some()) {
                    return Ok(node.postgres.clone());
                }
                status.why.first().cloned().unwrap_or_else(|| "waits for the primary".to_owned())
            }
            Err(_) => "waits for the agent to answer".to_owned(),
        };
        if let Some(ended) = service.ended() {
            return Err(format!("{ended}\nrepair that and run the same command again"));
        }
        if progress.elapsed() > SERVE_LIMIT {
            return Err(format!(
                "the cluster does not serve after {} s: {what}. Its log: {}; when that is repaired, the same command goes on",
                SERVE_LIMIT.as_secs(),
                service.log_words()
            ));
        }
        progress.wait(&what).await;
    }
}

/// The cluster exists from now on.
///
/// # Errors
/// When the file cannot be changed.
pub fn remember_joined(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    let joined = file::with_joined(&text)
        .ok_or_else(|| format!("{shown} has no [node] of its own line: write `joined = true` into it"))?;
    file::write(path, &file::without_adopt(&joined))
}
