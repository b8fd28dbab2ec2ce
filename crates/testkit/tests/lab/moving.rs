//! The cluster's record moves from the agents to an etcd and back, while clients write.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use super::etcd::led_elsewhere;
use agent::http;
use agent::messages::{Keeping, OrderAsked};
use agent::store::{HomeAsked, HomeJudged};
use anyhow::{Context, Result, ensure};
use cluster::decide::switchover::{Order, Ordered};
use cluster::membership::Seat;
use cluster::moving::{Access, Home};
use cluster::reason::Reason;
use cluster::status::Status;
use identity::Caller;
use pgkeel::config::{self, Shower};
use pgkeel::demo::processes;
use pgkeel::demo::stamp::Stamp;
use pgkeel::demo::writer::Writer;
use rustix::process::Signal;
use testkit::lab::etcd::{Etcd, is_installed};
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::time::sleep;

/// Of the default settings: what would have ended with it has ended.
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(4);

fn beside_etcd(
    options: LabOptions,
    scenario: impl AsyncFnOnce(&mut Lab, &mut Etcd) -> Result<()>,
) -> Result<()> {
    if !is_installed() {
        let said = "skipped: there is no program etcd; script/bootstrap installs it";
        let _ = writeln!(std::io::stderr(), "{said}");
        return Ok(());
    }
    run(options, TEST_LIMIT, async |lab: &mut Lab| {
        let mut etcd = Etcd::start_beside("127.0.0.1", &lab.cluster, 3)?;
        scenario(lab, &mut etcd).await
    })
}

fn to_etcd(etcd: &Etcd) -> Vec<String> {
    let urls = etcd.urls().into_iter().flat_map(|url| ["--endpoint".to_owned(), url]);
    ["store", "migrate", "--to", "etcd", "--yes"].map(str::to_owned).into_iter().chain(urls).collect()
}

/// Runs the command; what it printed.
fn done(lab: &Lab, args: &[String]) -> Result<String> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = lab.pgkeel(0, &args)?;
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "{args:?}: {out}{err}");
    Ok(out.into_owned())
}

fn refused(lab: &Lab, args: &[String], why: &str) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = lab.pgkeel(0, &args)?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    ensure!(!done.status.success() && said.contains(why), "not refused because of {why:?}: {said}");
    Ok(())
}

/// In this etcd.
fn elsewhere(etcd: &Etcd) -> Home {
    let none = || None;
    let (endpoints, prefix) = (etcd.urls(), "/elsewhere/".to_owned());
    let (ca, cert, key, user) = (none(), none(), none(), none());
    Home::Etcd { access: Access { endpoints, prefix, ca, cert, key, user, password_file: None } }
}

fn postmasters(lab: &Lab) -> Vec<Option<i32>> {
    lab.cluster.nodes.iter().map(|node| node.postmaster()).collect()
}

/// Moves the record; nobody may notice.
async fn moves(lab: &mut Lab, writer: &Writer, args: &[String]) -> Result<Status> {
    let before = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    let arguments: Vec<&str> = args.iter().map(String::as_str).collect();
    let (servers, failures) = (postmasters(lab), writer.so_far().failures.len());
    let (took, said) = loop {
        let began = Instant::now();
        let done = lab.pgkeel(0, &arguments)?;
        let said =
            [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        // The set of synchronous standbys may be changing yet.
        if !said.contains("try again when that is over") {
            ensure!(done.status.success(), "{said}");
            break (began.elapsed(), said);
        }
        sleep(Duration::from_millis(200)).await;
    };
    println!("{} ms: {said}", took.as_millis());
    ensure!(said.contains("the primary served on"), "{said}");
    sleep(LONGER_THAN_A_LEASE).await;
    let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
    ensure!(
        (after.epoch, &after.primary) == (before.epoch, &before.primary),
        "the primary changed: {after:?}"
    );
    ensure!(
        after.revision > before.revision,
        "the record went back: {} after {}",
        after.revision,
        before.revision
    );
    ensure!(postmasters(lab) == servers, "servers were started anew: {servers:?}, {:?}", postmasters(lab));
    writer.wait_for(50, SHORT_LIMIT).await?;
    let record = writer.so_far();
    ensure!(record.failures.len() == failures, "clients noticed: {:?}", record.failures);
    Ok(after)
}

fn shown(lab: &Lab) -> Result<String> {
    done(lab, &["store", "show"].map(str::to_owned))
}

#[test]
fn there_and_back_under_load() -> Result<()> {
    beside_etcd(LabOptions::quorum(), async |lab: &mut Lab, etcd: &mut Etcd| {
        lab.up().await?;
        let writer = lab.writer().await?;
        ensure!(shown(lab)?.matches("in the agents").count() == 3, "{}", shown(lab)?);
        moves(lab, &writer, &to_etcd(etcd)).await?;
        let said = shown(lab)?;
        ensure!(
            said.matches("1      in etcd at").count() == 3 && said.contains("write [store] etcd = ["),
            "{said}"
        );
        refused(lab, &to_etcd(etcd), "already")?;
        // etcd decides now: without it nobody is told of a switchover, and with it one works.
        done(lab, &["switchover", "--yes"].map(str::to_owned))?;
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        let back = ["store", "migrate", "--to", "embedded", "--yes"].map(str::to_owned);
        let status = moves(lab, &writer, &back).await?;
        ensure!(shown(lab)?.matches("2      in the agents").count() == 3, "{}", shown(lab)?);
        // What was left behind says nothing any more.
        (0..3).try_for_each(|i| etcd.kill(i))?;
        sleep(LONGER_THAN_A_LEASE).await;
        let primary = lab.primary(&status)?;
        lab.cluster.kill_host(primary)?;
        let moved = |s: &Status| s.epoch > status.epoch && s.primary.is_some() && s.primary != status.primary;
        lab.cluster.wait_until("another node is primary", SETTLE_LIMIT, moved).await?;
        lab.cluster.start_node(primary)?;
        lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
        ensure!(shown(lab)?.matches("2      in the agents").count() == 3, "{}", shown(lab)?);
        writer.wait_for(50, SHORT_LIMIT).await?;
        lab.nothing_lost(&writer.stop()).await
    })
}

/// Without synchronous standbys the lease is all that keeps two primaries apart, and it is kept through the moves.
#[test]
fn there_and_back_asynchronous() -> Result<()> {
    beside_etcd(LabOptions::asynchronous(), async |lab: &mut Lab, etcd: &mut Etcd| {
        lab.up().await?;
        let writer = lab.writer().await?;
        moves(lab, &writer, &to_etcd(etcd)).await?;
        let status = led_elsewhere(lab).await?;
        let primary = lab.primary(&status)?;
        lab.cluster.kill_server(primary)?;
        lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        let back = ["store", "migrate", "--to", "embedded", "--yes"].map(str::to_owned);
        moves(lab, &writer, &back).await?;
        ensure!(!writer.stop().acks.is_empty(), "nothing was written");
        Ok(())
    })
}

/// As the agent of this node asks others.
fn caller(lab: &Lab, node: usize) -> Result<Caller> {
    let config = config::load(&lab.node(node)?.place.config)?;
    Ok(Caller::with(config.credentials(Shower::Host).map_err(|trouble| anyhow::anyhow!("{trouble}"))?))
}

/// The order as an agent passes it on that has asked the others, so that one can be away the moment after.
async fn ordered(lab: &Lab, leader: usize, to: Home) -> Result<()> {
    let asked = OrderAsked { order: Order::MoveStore { to }, by: "the test".to_owned(), only_try: false };
    let address = &lab.node(leader)?.place.agent;
    let answer: Ordered =
        http::post_json(&caller(lab, leader)?, address, "/v1/order?local=1", &asked, SHORT_LIMIT).await?;
    ensure!(matches!(answer, Ordered::Recorded { .. }), "{answer:?}");
    Ok(())
}

/// Waits until the record could move.
async fn movable(lab: &Lab, to: &[String]) -> Result<()> {
    let began = Instant::now();
    // Without --yes nobody can be asked: nothing is done.
    let arguments: Vec<&str> = to.iter().map(String::as_str).filter(|arg| *arg != "--yes").collect();
    loop {
        let said = String::from_utf8_lossy(&lab.pgkeel(0, &arguments)?.stderr).into_owned();
        if said.contains("nobody can be asked") {
            return Ok(());
        }
        ensure!(began.elapsed() < SETTLE_LIMIT, "{said}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// In the agents, which are asked under which numbers they vote after this move.
async fn in_agents(lab: &Lab, number: u64) -> Result<Home> {
    let mut voters = BTreeMap::new();
    for node in 0..3 {
        let place = &lab.node(node)?.place;
        let to = Home::Embedded { voters: BTreeMap::new() };
        let asked = HomeAsked { number, to, mark: None };
        let path = "/v1/store/judge";
        let judged: HomeJudged =
            http::post_json(&caller(lab, node)?, &place.agent, path, &asked, SHORT_LIMIT).await?;
        voters.insert(place.name.parse()?, Seat { address: place.agent.clone(), raft_id: judged.raft_id });
    }
    Ok(Home::Embedded { voters })
}

/// A node that is neither primary nor leads, its number, and the leader's.
async fn third(lab: &mut Lab) -> Result<(usize, usize)> {
    let status = led_elsewhere(lab).await?;
    let leader = lab.cluster.index(status.leader.as_ref().context("there is no leader")?.as_str())?;
    let primary = lab.primary(&status)?;
    let third = (0..3).find(|node| *node != leader && *node != primary).context("a third node")?;
    Ok((third, leader))
}

async fn keeps(lab: &Lab, node: usize, number: u64) -> Result<()> {
    let address = lab.node(node)?.place.agent.clone();
    let began = Instant::now();
    loop {
        let answer = http::get::<Keeping>(&caller(lab, node)?, &address, "/v1/store", SHORT_LIMIT).await;
        match answer {
            Ok(keeping) if keeping.number == number && keeping.leader.is_some() => return Ok(()),
            _ => ensure!(began.elapsed() < SETTLE_LIMIT, "node {node} is not there: {answer:?}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// An agent stands still while the record moves, and is killed; it comes back when the old store says nothing any more.
#[test]
fn one_that_was_away_finds_its_way() -> Result<()> {
    beside_etcd(LabOptions::quorum(), async |lab: &mut Lab, etcd: &mut Etcd| {
        lab.up().await?;
        let writer = lab.writer().await?;
        movable(lab, &to_etcd(etcd)).await?;
        let (away, leader) = third(lab).await?;
        processes::send(lab.node(away)?.agent().context("an agent")?, Signal::STOP);
        ordered(lab, leader, elsewhere(etcd)).await?;
        lab.cluster.kill_agent(away)?;
        for node in lab.others(away) {
            keeps(lab, node, 1).await?;
        }
        lab.cluster.start_node(away)?;
        keeps(lab, away, 1).await?;
        ensure!(lab.node(away)?.log().contains("has moved meanwhile (move 1)"), "it was not told by others");
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;

        movable(lab, &["store", "migrate", "--to", "embedded"].map(str::to_owned)).await?;
        let (away, leader) = third(lab).await?;
        let agents = in_agents(lab, 2).await?;
        processes::send(lab.node(away)?.agent().context("an agent")?, Signal::STOP);
        ordered(lab, leader, agents).await?;
        lab.cluster.kill_agent(away)?;
        for node in lab.others(away) {
            keeps(lab, node, 2).await?;
        }
        (0..3).try_for_each(|i| etcd.kill(i))?;
        lab.cluster.start_node(away)?;
        keeps(lab, away, 2).await?;
        ensure!(lab.node(away)?.log().contains("has moved meanwhile (move 2)"), "it was not told by others");
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        let record = writer.stop();
        ensure!(record.failures.is_empty(), "clients noticed: {:?}", record.failures);
        lab.nothing_lost(&record).await
    })
}

/// Who has sealed the record may be gone before anybody else knows that it is sealed.
#[test]
fn the_leader_is_killed_as_it_seals() -> Result<()> {
    beside_etcd(LabOptions::quorum(), async |lab: &mut Lab, etcd: &mut Etcd| {
        lab.up().await?;
        let writer = lab.writer().await?;
        movable(lab, &to_etcd(etcd)).await?;
        let (_, leader) = third(lab).await?;
        let agent = lab.node(leader)?.agent().context("an agent")?;
        ordered(lab, leader, elsewhere(etcd)).await?;
        processes::send(agent, Signal::KILL);
        for node in lab.others(leader) {
            keeps(lab, node, 1).await?;
        }
        lab.cluster.kill_agent(leader)?;
        lab.cluster.start_node(leader)?;
        keeps(lab, leader, 1).await?;
        lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        lab.nothing_lost(&writer.stop()).await
    })
}

/// Who has sealed the record may stand still before it goes on itself, until the old store is long over.
#[test]
fn the_leader_stands_still_as_the_record_moves() -> Result<()> {
    beside_etcd(LabOptions::quorum(), async |lab: &mut Lab, etcd: &mut Etcd| {
        lab.up().await?;
        let writer = lab.writer().await?;
        movable(lab, &to_etcd(etcd)).await?;
        let (_, leader) = third(lab).await?;
        stands_still(lab, leader, elsewhere(etcd), 1).await?;
        movable(lab, &["store", "migrate", "--to", "embedded"].map(str::to_owned)).await?;
        let (_, leader) = third(lab).await?;
        let agents = in_agents(lab, 2).await?;
        stands_still(lab, leader, agents, 2).await?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        let record = writer.stop();
        // Whether another one leads before the primary's lease is over depends on the host; if not, its server ends with it.
        eprintln!(
            "longest gap {:.2} s, errors {}",
            record.longest_gap().as_secs_f64(),
            record.failures.len()
        );
        lab.nothing_lost(&record).await
    })
}

/// The leader's agent is stopped as soon as the record is sealed, and goes on when the others have moved.
async fn stands_still(lab: &mut Lab, leader: usize, to: Home, number: u64) -> Result<()> {
    let agent = lab.node(leader)?.agent().context("an agent")?;
    ordered(lab, leader, to).await?;
    processes::send(agent, Signal::STOP);
    for node in lab.others(leader) {
        keeps(lab, node, number).await?;
    }
    sleep(LONGER_THAN_A_LEASE).await;
    processes::send(agent, Signal::CONT);
    keeps(lab, leader, number).await?;
    lab.cluster.wait_settled(0, SETTLE_LIMIT).await.map(|_| ())
}

/// Nobody renews the last lease, which the leader of the old store gave: the server ends with it, and nobody is appointed before.
/// Without synchronous standbys the others wait for the node, as no leader of the new store has heard how far it was.
#[test]
fn the_primary_s_agent_dies_as_the_record_moves_async() -> Result<()> {
    beside_etcd(LabOptions::asynchronous(), async |lab: &mut Lab, etcd: &mut Etcd| {
        lab.up().await?;
        let writer = lab.writer().await?;
        movable(lab, &to_etcd(etcd)).await?;
        dies_as_it_moves(lab, elsewhere(etcd)).await?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        movable(lab, &["store", "migrate", "--to", "embedded"].map(str::to_owned)).await?;
        let agents = in_agents(lab, 2).await?;
        dies_as_it_moves(lab, agents).await?;
        writer.wait_for(50, SHORT_LIMIT).await?;
        ensure!(!writer.stop().acks.is_empty(), "nothing was written");
        Ok(())
    })
}

/// Kills the primary's agent as soon as the record is sealed.
async fn dies_as_it_moves(lab: &mut Lab, to: Home) -> Result<()> {
    let (_, leader) = third(lab).await?;
    let status = lab.cluster.status().await?;
    let primary = lab.primary(&status)?;
    let postmaster = lab.node(primary)?.postmaster().context("the primary's server does not run")?;
    ordered(lab, leader, to).await?;
    let killed = lab.cluster.kill_agent(primary)?;
    while processes::find(postmaster).is_some() {
        ensure!(killed.instant.elapsed() < SHORT_LIMIT, "the server still runs, its agent is long dead");
        sleep(Duration::from_millis(2)).await;
    }
    let gone = Stamp::now();
    println!("the guard ended the server {} ms after the end of its agent", gone.wall_ms - killed.wall_ms);
    let opened = |s: &Status| s.epoch > status.epoch;
    lab.cluster.wait_until("its epoch is over", SETTLE_LIMIT, opened).await?;
    lab.cluster.start_node(primary)?;
    lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
    let history = lab.cluster.why().await?;
    let appointed = history.iter().find_map(|entry| match &entry.reason {
        Reason::Appointed { .. } if entry.epoch > status.epoch => Some(entry.at),
        _ => None,
    });
    let appointed = appointed.context("the history does not say who was appointed")?;
    ensure!(gone.wall_ms <= appointed, "appointed at {appointed}, the old server ended at {}", gone.wall_ms);
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() -> Result<()> {
    beside_etcd(LabOptions::quorum(), async |lab: &mut Lab, etcd: &mut Etcd| {
        let before = lab.up().await?;
        movable(lab, &to_etcd(etcd)).await?;
        let text = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        let migrate = |more: &[&str]| text(&[&["store", "migrate", "--yes"], more].concat());
        refused(lab, &migrate(&["--to", "embedded"]), "already")?;
        refused(lab, &migrate(&["--to", "etcd"]), "which etcd?")?;
        refused(lab, &migrate(&["--to", "etcd", "--endpoint", "h:1"]), "begins neither with http://")?;
        refused(lab, &migrate(&["--to", "etcd", "--endpoint", "https://h:1"]), "needs --ca")?;
        let nobody = ["--to", "etcd", "--endpoint", "http://127.0.0.1:1"];
        refused(lab, &migrate(&nobody), "cannot be reached")?;
        let sure = to_etcd(etcd).into_iter().filter(|arg| arg != "--yes").collect::<Vec<_>>();
        refused(lab, &sure, "nobody can be asked")?;
        // The key is /mine/state, the value is nothing.
        let put = serde_json::json!({"key": "L21pbmUvc3RhdGU=", "value": ""});
        let address = etcd.urls().first().context("a member")?.trim_start_matches("http://").to_owned();
        let _: serde_json::Value =
            http::post_json(&Caller::plain(), &address, "/v3/kv/put", &put, SHORT_LIMIT).await?;
        let mut used = to_etcd(etcd);
        used.extend(["--prefix", "/mine/"].map(str::to_owned));
        refused(lab, &used, "there is something below /mine/ already (/mine/state)")?;
        // One whose agent does not answer would be left behind.
        let standby = lab.others(lab.primary(&before)?)[0];
        lab.cluster.kill_agent(standby)?;
        refused(lab, &to_etcd(etcd), &lab.node(standby)?.place.name.clone())?;
        lab.cluster.start_node(standby)?;
        let after = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        ensure!((after.epoch, &after.primary) == (before.epoch, &before.primary), "{after:?}");
        let said = shown(lab)?;
        ensure!(said.matches("0      in the agents").count() == 3, "{said}");
        // It is all the same possible.
        let writer = lab.writer().await?;
        moves(lab, &writer, &to_etcd(etcd)).await.map(|_| ())
    })
}
