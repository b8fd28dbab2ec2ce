//! `pgkeel adopt`: a cluster around a PostgreSQL that runs already. Its standbys follow by `pgkeel join --adopt`.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent::postgres::adopt::FOUND;
use cluster::configuration::{BYTES_MAX, Content};
use cluster::membership::TokenRole;
use cluster::state::{Degrade, Replication};
use identity::{Caller, Folder};
use serde::Serialize;

use super::agents::Agents;
use super::create::{
    GOOD_FOR, MAX_LOSS_BYTES, absolute, adopts, begun, check_agent_is_free, check_files, found_authority,
    remember_joined, until_it_serves,
};
use super::invite::{self, Invited};
use super::membership_args::{AdoptArgs, ReplicationMode};
use super::text::say;
use crate::config::{Config, Shower};
use crate::setup::address::for_agent;
use crate::setup::file::{self, Before, HostFile, NodePart, PostgresPart};
use crate::setup::running::{self, Running, listen_addresses};
use crate::setup::service::Service;

/// What is printed at the end.
#[derive(Serialize)]
struct Adopted {
    cluster: String,
    node: String,
    agent: String,
    postgres: Option<String>,
    config: PathBuf,
    /// Who streamed from it.
    standbys: Vec<String>,
    invitation: Invited,
}

/// How far it went.
enum Done {
    Adopted(Adopted),
    Written(Service),
}

/// Does it. 1: something is in the way, or nobody agreed. 130: interrupted.
pub async fn run(args: AdoptArgs) -> ExitCode {
    tokio::select! {
        done = adopt(&args) => match done {
            Ok(Done::Adopted(adopted)) => {
                let text = serde_json::to_string(&adopted).unwrap_or_default() + "\n";
                say(&if args.files.json { text } else { told(&adopted) });
                ExitCode::SUCCESS
            }
            Ok(Done::Written(service)) => {
                say(&format!(
                    "everything is written, and the server runs as it did. To go on: the same command without --no-start ({})\n",
                    service.by_hand()
                ));
                ExitCode::SUCCESS
            }
            Err(said) => {
                eprintln!("pgkeel adopt: {said}");
                ExitCode::FAILURE
            }
        },
        _ = tokio::signal::ctrl_c() => {
            eprintln!("pgkeel adopt: interrupted; the same command goes on where this one was");
            ExitCode::from(130)
        }
    }
}

async fn adopt(args: &AdoptArgs) -> Result<Done, String> {
    let file = absolute(&args.files.config)?;
    let (config, standbys) = match begun(&file, &args.name, &args.node)? {
        Some(config) => (config, Vec::new()),
        None => write(&file, args)?,
    };
    let data = std::fs::canonicalize(&args.data).map_err(|e| format!("{}: {e}", args.data.display()))?;
    if adopts(&config) != Some(&data) {
        return Err(format!(
            "{} was not written to take {} over; move it away, or name another by --config",
            file.display(),
            data.display()
        ));
    }
    let Some(agent) = &config.agent else {
        return Err(format!("{}: there is no [node] in it", file.display()));
    };
    let service = Service::of(&file, &agent.dir, "agent");
    service.install()?;
    if args.files.no_start {
        return Ok(Done::Written(service));
    }
    // Not, if an earlier try has come so far that the server is pgkeel's.
    if let Ok(running) = running::look(&data, args.bin_dir.as_deref()) {
        running.detach().iter().for_each(|said| eprintln!("{said}"));
        running.checkpoint();
    }
    service.start()?;
    let credentials =
        config.credentials(Shower::Host).map_err(|trouble| format!("{}: {trouble}", file.display()))?;
    let agents = Agents { addresses: vec![agent.listen.clone()], caller: Caller::with(credentials) };
    let postgres = until_it_serves(&agents, &service).await?;
    remember_joined(&file)?;
    let _ = std::fs::remove_file(agent.dir.join(FOUND));
    let uses = u32::try_from(standbys.len()).unwrap_or(1).max(1);
    let wish = invite::Wish { role: TokenRole::Data, good_for: GOOD_FOR, uses };
    let invitation = invite::make(&agents, wish).await.map_err(|said| {
        format!(
            "the cluster serves, but no invitation was made: {said}; for one: pgkeel invite -c {}",
            file.display()
        )
    })?;
    Ok(Done::Adopted(Adopted {
        cluster: args.name.clone(),
        node: args.node.to_string(),
        agent: agent.listen.clone(),
        postgres,
        config: file,
        standbys,
        invitation,
    }))
}

fn told(adopted: &Adopted) -> String {
    let Adopted { cluster, node, postgres, standbys, invitation, .. } = adopted;
    let server = postgres.as_deref().unwrap_or("-");
    let within = humantime::format_duration(GOOD_FOR);
    let theirs = match standbys.as_slice() {
        [] => "if it has standbys, on the host of each".to_owned(),
        known => format!("its standbys ({}) stream on; on the host of each", known.join(", ")),
    };
    format!(
        "cluster {cluster} serves: {node}, PostgreSQL at {server}, with its data as they were; see pgkeel status\n\
         {theirs}, within {within}, as root:\n\n{} --adopt --data ITS-DATA-DIRECTORY\n\n\
         without --adopt and --data, the same line makes another host a standby, by copying\n",
        invitation.command
    )
}

/// Looks whether it can be taken over, asks, then writes. Who streams from it goes with the configuration.
fn write(file: &Path, args: &AdoptArgs) -> Result<(Config, Vec<String>), String> {
    let running = running::look(&args.data, args.bin_dir.as_deref())?;
    if running.answer.in_recovery {
        return Err(format!(
            "the server of {} is a standby: run this where its primary is, and here the `pgkeel join --adopt` that it will print",
            args.data.display()
        ));
    }
    let listen = for_agent(args.listen.as_deref())?;
    let folder = Folder::at(&absolute(&args.files.tls)?);
    let host = host_file(args, &running, (listen, &folder))?;
    let config = host.checked(file)?;
    let found = config.agent.as_ref().map(|agent| agent.dir.join(FOUND)).unwrap_or_default();
    // Of an earlier try that ended before its configuration file was written.
    let _ = std::fs::remove_file(&found);
    check_agent_is_free(&config)?;
    check_files(file, &folder)?;
    let content = Content { parameters: running.taken.settings.clone(), hba: running.taken.hba.clone() };
    if content.bytes() > BYTES_MAX {
        return Err(format!(
            "its parameters and rules have {} bytes, and {BYTES_MAX} can be carried over",
            content.bytes()
        ));
    }
    running.taken.left_out.iter().for_each(|said| eprintln!("{said}"));
    if !running.taken.ident.is_empty() {
        eprintln!(
            "the maps of pg_ident.conf hold on this node; a node that is copied needs them in its own file ([postgres] ident)"
        );
    }
    if !agreed(&running, &host, args.yes) {
        return Err("nothing was done".to_owned());
    }
    found_authority(&folder, &args.name, &args.node)?;
    file::write_private(&found, &serde_json::to_string(&content).map_err(|e| e.to_string())?)?;
    file::write(file, &host.text())?;
    Ok((config, running.answer.standbys))
}

fn host_file(
    args: &AdoptArgs,
    running: &Running,
    (listen, folder): (String, &Folder),
) -> Result<HostFile, String> {
    let host = listen.rsplit_once(':').map_or(listen.as_str(), |(host, _)| host);
    let waits = !running.answer.sync_names.is_empty();
    let quorum = match args.replication {
        Some(mode) => mode == ReplicationMode::Quorum,
        None => waits,
    };
    let before = Before {
        os_user: running.owner.name.clone(),
        listen_addresses: listen_addresses(&running.answer.listen_addresses, host.trim_matches(['[', ']'])),
        socket_dirs: running.taken.socket_dirs.clone(),
        hba: None,
        ident: running.taken.ident.clone(),
        settings: BTreeMap::new(),
    };
    Ok(HostFile {
        cluster: args.name.clone(),
        node: Some(NodePart {
            name: args.node.to_string(),
            dir: absolute(&args.dir)?,
            joined: false,
            replication: match quorum {
                false => Replication::Async { max_loss_bytes: MAX_LOSS_BYTES, loss_bound_bytes: None },
                true => Replication::Quorum { k: 1, degrade: Degrade::Available },
            },
            detect: args.detect.clone(),
            drift_ppm: None,
        }),
        members: BTreeMap::from([(args.node.to_string(), listen)]),
        tls: folder.dir().to_owned(),
        postgres: Some(PostgresPart {
            data_dir: running.data_dir.clone(),
            port: running.answer.port,
            bin_dir: Some(running.bin_dir.clone()),
            before: Some(before),
        }),
        proxy: None,
    })
}

fn agreed(running: &Running, host: &HostFile, sure: bool) -> bool {
    let quorum = matches!(host.node.as_ref().map(|n| n.replication), Some(Replication::Quorum { .. }));
    match (running.answer.sync_names.is_empty(), quorum) {
        (false, true) => {
            eprintln!(
                "commits waited for standbys; they do so again when the first of them has joined, and not before"
            )
        }
        (false, false) => {
            eprintln!("commits waited for standbys; with --replication async they do not any more")
        }
        (true, _) => {}
    }
    agreed_to_restart(running, sure)
}

/// Asks whether a server may be stopped and started.
pub fn agreed_to_restart(running: &Running, sure: bool) -> bool {
    if sure {
        return true;
    }
    let input = std::io::stdin();
    if !input.is_terminal() {
        eprintln!(
            "nobody can be asked whether the server may be stopped and started once; to do it without a question: --yes"
        );
        return false;
    }
    eprint!(
        "the server of {} (port {}) is stopped and started once, now: its clients are disconnected for a moment. Go on? [y/N] ",
        running.data_dir.display(),
        running.answer.port
    );
    let mut answer = String::new();
    input.lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
