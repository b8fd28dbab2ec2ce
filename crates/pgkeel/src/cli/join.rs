//! `pgkeel join`: makes this host a node of a cluster that exists, by an invitation.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agent::messages::JoinAnswer;
use cluster::NodeName;
use cluster::decide::switchover::{Order, Ordered};
use cluster::membership::{Seat, TokenRole};
use cluster::state::Replication;
use cluster::status::Status;
use identity::{Caller, Folder, Invitation};
use serde::{Deserialize, Serialize};

use super::adopt::agreed_to_restart;
use super::agents::{Agents, first_answer};
use super::create;
use super::create::{absolute, check_agent_is_free, check_files, check_host_is_free, server};
use super::membership_args::JoinArgs;
use super::order;
use super::text::say;
use crate::ask::ask;
use crate::config::{self, Config, Shower};
use crate::setup::address::{AGENT_PORT, check_reachable, for_agent, node_name, with_port};
use crate::setup::file::{self, Before, HostFile, NodePart, PostgresPart};
use crate::setup::meeting::{self, Got};
use crate::setup::progress::Progress;
use crate::setup::running::{self, Running, listen_addresses};
use crate::setup::service::Service;

const PORT_DEFAULT: u16 = 5432;
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// For this host's own agent to answer.
const START_LIMIT: Duration = Duration::from_secs(60);
/// For a cluster that has no leader at the moment.
const ORDER_LIMIT: Duration = Duration::from_secs(30);
/// Longest invitation that is read from standard input, in bytes.
const TOKEN_MAX: u64 = 1024;

/// What is printed at the end.
#[derive(Serialize)]
struct Joined {
    cluster: String,
    node: NodeName,
    agent: String,
    state: String,
    config: PathBuf,
}

/// How far it went.
enum Done {
    Joined(Joined),
    Written(Service),
}

/// Does it. 1: something is in the way. 130: interrupted.
pub async fn run(args: JoinArgs) -> ExitCode {
    let json = args.place.files.json;
    tokio::select! {
        done = join(&args) => match done {
            Ok(Done::Joined(joined)) => {
                let text = serde_json::to_string(&joined).unwrap_or_default() + "\n";
                let Joined { cluster, node, state, agent, .. } = &joined;
                say(&if json { text } else { format!("{node} at {agent} belongs to cluster {cluster}: {state}\n") });
                ExitCode::SUCCESS
            }
            Ok(Done::Written(service)) => {
                say(&format!(
                    "everything is written. To go on: the same command without --no-start; started by hand ({}), the agent waits \
                     until that lets it in\n",
                    service.by_hand()
                ));
                ExitCode::SUCCESS
            }
            Err(said) => {
                eprintln!("pgkeel join: {said}");
                ExitCode::FAILURE
            }
        },
        _ = tokio::signal::ctrl_c() => {
            eprintln!(
                "pgkeel join: interrupted; an agent that was started goes on, and the same command goes on where this one was"
            );
            ExitCode::from(130)
        }
    }
}

async fn join(args: &JoinArgs) -> Result<Done, String> {
    let node = args.node.clone().map_or_else(node_name, Ok)?;
    let file = absolute(&args.place.files.config)?;
    let config = match begun(&file, &node)? {
        Some(config) => config,
        None => let_in(&file, &node, args).await?,
    };
    let Some(agent) = &config.agent else {
        return Err(format!("{}: there is no [node] in it", file.display()));
    };
    let service = Service::of(&file, &agent.dir, "agent");
    service.install()?;
    if args.place.files.no_start {
        return Ok(Done::Written(service));
    }
    match (create::adopts(&config), args.adopt) {
        (Some(_), false) => {
            return Err(format!("{}: this host takes a standby over: say --adopt", file.display()));
        }
        // Not, if an earlier try has come so far that the server is pgkeel's.
        (Some(data), true) => {
            if let Ok(running) = running::look(data, args.place.bin_dir.as_deref()) {
                told_before(&running);
            }
        }
        (None, _) => {}
    }
    service.start()?;
    let credentials =
        config.credentials(Shower::Host).map_err(|trouble| format!("{}: {trouble}", file.display()))?;
    let caller = Caller::with(credentials);
    let own = agent.listen.clone();
    let raft_id = raft_id(&caller, &own, &service).await?;
    let others = agent.members.iter().filter(|(name, _)| *name != node.as_str());
    let cluster = Agents { addresses: others.map(|(_, at)| at.clone()).collect(), caller };
    admit(&cluster, &node, Seat { address: own.clone(), raft_id }).await?;
    let state = until_member(&cluster, &node, &service).await?;
    if args.adopt {
        forget_adoption(&file)?;
    }
    Ok(Done::Joined(Joined { cluster: config.cluster.clone(), node, agent: own, state, config: file }))
}

/// What an earlier try has written, with certificates that are good; `None`: nothing is there, or it ended between the two.
fn begun(file: &Path, node: &NodeName) -> Result<Option<Config>, String> {
    if !file.exists() {
        return Ok(None);
    }
    let shown = file.display();
    let config = config::load(file).map_err(|error| {
        format!("{shown} exists and cannot be used; move it away, or name another by --config:\n{error}")
    })?;
    let ours = config.agent.as_ref().is_some_and(|agent| agent.node == node.as_str() && agent.founded);
    if !ours {
        return Err(format!(
            "{shown} exists, and was not written for a node {node} that joins a cluster; move it away, or name another by \
             --config (and other places by --dir, --tls, --data, --listen)"
        ));
    }
    let own = config.tls.as_ref().map(|tls| Folder::at(&tls.dir).certificate());
    Ok(own.is_some_and(|own| own.exists()).then_some(config))
}

/// The invitation that was given.
///
/// # Errors
/// Why it is none.
pub fn invitation(given: &str) -> Result<Invitation, String> {
    let text = match given {
        "-" => {
            let mut text = String::new();
            let read = std::io::stdin().take(TOKEN_MAX).read_to_string(&mut text);
            read.map_err(|error| format!("standard input: {error}"))?;
            text
        }
        given => given.to_owned(),
    };
    text.parse::<Invitation>().map_err(|error| format!("--token: {error}"))
}

/// There are no certificates of another cluster where those of this one are to be.
///
/// # Errors
/// There are.
pub fn check_folder(folder: &Folder, cluster: &str) -> Result<(), String> {
    if !folder.authorities().exists() {
        return Ok(());
    }
    let all = identity::files::certificates("--tls", &folder.authorities());
    let all = all.map_err(|problem| problem.to_string())?;
    match all.first().and_then(|der| identity::authority::cluster_of(der)) {
        Some(of) if of == cluster => Ok(()),
        _ => Err(format!(
            "{} holds certificates of another cluster than {cluster}; name another directory by --tls, or move it away",
            folder.dir().display()
        )),
    }
}

/// Looks whether all is free here, uses the invitation, and writes what came of it.
async fn let_in(file: &Path, node: &NodeName, args: &JoinArgs) -> Result<Config, String> {
    let place = &args.place;
    let invitation = invitation(&args.token)?;
    let listen = for_agent(place.listen.as_deref())?;
    let asked = with_port(&args.agent, AGENT_PORT);
    check_reachable(&listen, &asked)?;
    let running = standby(args)?;
    let met = meeting::meet(&asked, &invitation).await?;
    let folder = Folder::at(&absolute(&place.files.tls)?);
    check_folder(&folder, &met.cluster)?;
    check_files(file, &folder)?;
    let own = (node.to_string(), listen.clone());
    // What the cluster will say is not known yet; what can be wrong on this host is.
    let mut host = HostFile {
        cluster: met.cluster.clone(),
        node: Some(NodePart {
            name: node.to_string(),
            dir: absolute(&place.dir)?,
            joined: true,
            replication: Replication::Async { max_loss_bytes: 0, loss_bound_bytes: None },
            detect: None,
            drift_ppm: None,
        }),
        members: BTreeMap::from([own.clone()]),
        tls: folder.dir().to_owned(),
        postgres: match (args.witness, &running) {
            (true, _) => None,
            (false, Some(running)) => Some(as_before(running, &listen)),
            (false, None) => Some(server(place, &met.cluster, PORT_DEFAULT)?),
        },
        proxy: None,
    };
    let checked = host.checked(file)?;
    match &running {
        Some(running) => {
            check_agent_is_free(&checked)?;
            if !agreed_to_restart(running, args.yes) {
                return Err("nothing was done".to_owned());
            }
        }
        None => check_host_is_free(&checked)?,
    }
    let role = if args.witness { TokenRole::Witness } else { TokenRole::Data };
    let brought = running.as_ref().map(|running| running.answer.system_identifier());
    let got = met.join(role, node, brought).await?;
    repeat(&mut host, &got, own, place.port);
    let config = host.checked(file).map_err(|said| used_up(&said))?;
    let write = if running.is_some() { file::write_private } else { file::write };
    write(file, &host.text()).map_err(|said| used_up(&said))?;
    got.write(&folder).map_err(|said| used_up(&said))?;
    Ok(config)
}

/// The standby that is to be taken over, if one is.
fn standby(args: &JoinArgs) -> Result<Option<Running>, String> {
    let Some(data) = args.place.data.as_deref().filter(|_| args.adopt) else { return Ok(None) };
    let running = running::look(data, args.place.bin_dir.as_deref())?;
    let shown = data.display();
    match (running.answer.in_recovery, running.answer.streams) {
        (true, true) => Ok(Some(running)),
        (false, _) => Err(format!(
            "the server of {shown} is no standby. To begin with a copy, name an empty directory by --data and leave out --adopt"
        )),
        (true, false) => Err(format!(
            "the standby of {shown} does not stream at the moment, so it is not known whose data it has: see to that first"
        )),
    }
}

fn as_before(running: &Running, listen: &str) -> PostgresPart {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host).trim_matches(['[', ']']);
    PostgresPart {
        data_dir: running.data_dir.clone(),
        port: running.answer.port,
        bin_dir: Some(running.bin_dir.clone()),
        before: Some(Before {
            os_user: running.owner.name.clone(),
            listen_addresses: listen_addresses(&running.answer.listen_addresses, host),
            socket_dirs: running.taken.socket_dirs.clone(),
            hba: Some(running.taken.hba.clone()),
            ident: running.taken.ident.clone(),
            settings: running.taken.settings.clone(),
        }),
    }
}

/// What a person should know of it before it ends.
fn told_before(running: &Running) {
    running.taken.left_out.iter().for_each(|said| eprintln!("{said}"));
    running.detach().iter().for_each(|said| eprintln!("{said}"));
    if !running.taken.hba.is_empty() {
        eprintln!(
            "rules that this standby has otherwise than the cluster come first on it, then the cluster's"
        );
    }
    if !running.answer.slot.is_empty() {
        eprintln!(
            "the slot {0} that it has used keeps WAL on its primary. When it streams again, drop it there: \
             select pg_drop_replication_slot('{0}')",
            running.answer.slot
        );
    }
}

fn forget_adoption(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    file::write_private(path, &file::without_adopt(&text))
}

fn used_up(said: &str) -> String {
    format!("{said}\nthe invitation has been used for this; when that is repaired, ask for another one")
}

/// Takes over what the cluster has recorded.
fn repeat(host: &mut HostFile, got: &Got, own: (String, String), port: Option<u16>) {
    let JoinAnswer { agents, settings, postgres_port, configuration, .. } = &got.answer;
    host.members = agents.iter().map(|(name, at)| (name.to_string(), at.clone())).collect();
    host.members.insert(own.0, own.1);
    if let Some(node) = &mut host.node {
        node.replication = settings.replication;
        node.detect = Some(format!("{}ms", settings.detect_ms));
        node.drift_ppm = Some(settings.drift_ppm);
    }
    match &mut host.postgres {
        // Of its own it keeps what the cluster does not have so for all nodes.
        Some(PostgresPart { before: Some(before), .. }) => {
            before.settings.retain(|name, value| configuration.parameters.get(name) != Some(value));
            before.hba.take_if(|hba| *hba == configuration.hba);
        }
        Some(postgres) => postgres.port = port.or(*postgres_port).unwrap_or(PORT_DEFAULT),
        None => {}
    }
}

/// `GET /v1/raft/identity`.
#[derive(Deserialize)]
struct Identity {
    id: u64,
}

/// What the store of this host's agent calls itself, as soon as the agent answers.
async fn raft_id(caller: &Caller, own: &str, service: &Service) -> Result<u64, String> {
    let mut progress = Progress::begin();
    loop {
        let error = match ask::<Identity>(caller, own, "/v1/raft/identity", ANSWER_LIMIT).await {
            Ok(identity) => return Ok(identity.id),
            Err(error) => error,
        };
        if let Some(ended) = service.ended() {
            return Err(format!("{ended}\nrepair that and run the same command again"));
        }
        if progress.elapsed() > START_LIMIT {
            return Err(format!(
                "the agent of this host does not answer at {own}: {error}. Its log: {}; then run the same command again",
                service.log_words()
            ));
        }
        progress.wait("waits for this host's agent to answer").await;
    }
}

/// Has the cluster record the node. Repeated for one that is recorded so, nothing changes.
async fn admit(cluster: &Agents, node: &NodeName, seat: Seat) -> Result<(), String> {
    let asked = Order::Admit { node: node.clone(), seat };
    let mut progress = Progress::begin();
    loop {
        match order::send(cluster, &asked, false).await {
            Ok(Ordered::Refused { because }) => {
                let all: Vec<String> = because.iter().map(ToString::to_string).collect();
                return Err(format!(
                    "the cluster does not let {node} in: {}. When that is cured, the same command goes on; its certificate \
                     is kept",
                    all.join("; ")
                ));
            }
            Ok(_) => return Ok(()),
            Err(said) if progress.elapsed() > ORDER_LIMIT => {
                return Err(format!("{said}\nthen run the same command again"));
            }
            Err(_) => progress.wait("waits for an agent of the cluster to take the order").await,
        }
    }
}

/// Until the cluster shows it as what it is to be; in which state it is then.
async fn until_member(cluster: &Agents, node: &NodeName, service: &Service) -> Result<String, String> {
    let mut progress = Progress::begin();
    loop {
        let what = match first_answer::<Status>(cluster, "/v1/status").await {
            Err(_) => "no agent of the cluster answers at the moment; asks again".to_owned(),
            Ok(status) => match status.nodes.iter().find(|n| n.node == *node) {
                None => format!("waits until the cluster records {node}"),
                Some(there) if matches!(there.state.as_str(), "streaming" | "voting") => {
                    return Ok(there.state.clone());
                }
                Some(there) => format!("{node}: {}", there.why),
            },
        };
        if let Some(ended) = service.ended() {
            return Err(format!("{ended}\nrepair that and run the same command again"));
        }
        progress.wait(&what).await;
    }
}
