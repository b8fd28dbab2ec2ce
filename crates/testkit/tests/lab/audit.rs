//! What people have had done is in the audit list, and so is who was refused: for want of a right, of a certificate, of a good one, of
//! a good invitation.

use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent::audit::{Entry, Verdict};
use agent::http::{self, HttpError};
use agent::messages::OrderAsked;
use anyhow::{Context, Result, bail, ensure};
use cluster::decide::switchover::{Order, Ordered};
use cluster::membership::TokenRole;
use identity::invitation::fingerprint_of;
use identity::{Acceptor, Authority, Caller, Credentials, Folder, Invitation, Plain, Role, Subject};
use pgkeel::demo::cluster::AUTHORITY;
use pgkeel::setup::meeting::meet;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::net::TcpListener;

const HOUR: Duration = Duration::from_secs(3600);
const CALL_LIMIT: Duration = Duration::from_secs(10);

fn folder(lab: &Lab, name: &str) -> Folder {
    Folder::at(&lab.cluster.options.root.join("tls").join(name))
}

/// A certificate of an authority, in a directory of its own.
fn issue(lab: &Lab, authority: &Authority, role: Role, name: &str, good: Duration) -> Result<Credentials> {
    let folder = folder(lab, name);
    folder.write_authorities(authority.certificate())?;
    let subject = Subject::new("demo", role, name).map_err(anyhow::Error::msg)?;
    folder.write_own(&authority.issue(&subject, good)?)?;
    Ok(Credentials::load(folder, Plain::Refused)?)
}

/// Runs pgkeel towards one agent, as the holder of a certificate or without any.
fn pgkeel(lab: &Lab, agent: &str, whose: Option<&str>, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(&lab.cluster.options.program);
    command.args(words).args(["--agent", agent]);
    if let Some(name) = whose {
        command.arg("--tls").arg(folder(lab, name).dir());
    }
    Ok(command.output()?)
}

fn refused(output: &Output, said: &str) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && text.contains(said), "expected {said:?}, but {text}");
    Ok(())
}

/// What `pgkeel audit` tells the owner, by way of one agent.
fn listed(lab: &Lab, agent: &str) -> Result<Vec<Entry>> {
    let output = pgkeel(lab, agent, Some("carol"), &["audit", "--json", "--last", "1000"])?;
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(serde_json::from_value(told.get("entries").context("no entries")?.clone())?)
}

/// The one entry with these words, in order: who, what, and why or how it is recorded.
fn only<'a>(all: &'a [Entry], result: Verdict, who: &str, what: &str, why: &str) -> Result<&'a Entry> {
    let fits = |it: &&Entry| {
        (it.result, it.who.as_str(), it.what.as_str()) == (result, who, what) && it.why.contains(why)
    };
    let found: Vec<&Entry> = all.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok(one),
        _ => bail!("{who:?} {what:?} {why:?}: {} entries among {all:#?}", found.len()),
    }
}

#[test]
fn changes_and_refusals_are_listed() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, list_all)
}

async fn list_all(lab: &mut Lab) -> Result<()> {
    let before = lab.up().await?;
    let primary = lab.primary(&before)?;
    // Orders go by way of an agent that has to pass them on.
    let asked = lab.others(primary)[0];
    let (agent, node) = (lab.node(asked)?.place.agent.clone(), lab.node(asked)?.place.name.clone());
    let authority = folder(lab, AUTHORITY).authority()?;
    for (role, name) in [(Role::Viewer, "alice"), (Role::Operator, "bob"), (Role::Admin, "carol")] {
        issue(lab, &authority, role, name, HOUR)?;
    }
    let to = lab.node(asked)?.place.name.clone();

    // A viewer may not, and comes again and again; an operator may.
    for _ in 0..3 {
        let output = pgkeel(lab, &agent, Some("alice"), &["pause"])?;
        refused(&output, "alice is known as a viewer, who may not give orders")?;
    }
    let output = pgkeel(lab, &agent, Some("alice"), &["switchover", "--to", &to, "--yes"])?;
    refused(&output, "may not give orders")?;
    refused(
        &pgkeel(lab, &agent, Some("alice"), &["audit"])?,
        "who may not look at the audit list or at the users",
    )?;
    ensure!(lab.cluster.status().await?.epoch == before.epoch, "the viewer has changed the primary");
    let output = pgkeel(lab, &agent, Some("bob"), &["switchover", "--to", &to, "--yes"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;

    strangers(lab, asked, &authority).await?;
    let secrets = invitations(lab, asked, &authority).await?;
    let all = listed(lab, &agent)?;
    let pauses = only(&all, Verdict::Refused, "viewer alice", "pause", "may not give orders")?;
    ensure!(pauses.times == 3 && pauses.from == "127.0.0.1" && pauses.says.is_some(), "{pauses:?}");
    let change = format!("switchover to {to}");
    let its =
        |it: &Entry| it.who == "viewer alice" && it.what.ends_with(&change) && it.result == Verdict::Refused;
    ensure!(all.iter().any(its), "the viewer's switchover is not listed: {all:#?}");
    only(&all, Verdict::Refused, "viewer alice", "GET /v1/audit", "audit list")?;
    let done = only(&all, Verdict::Done, "operator bob", &change, "as ")?;
    ensure!(done.node.as_str() == node && done.from == "127.0.0.1", "{done:?}");

    let agents: Vec<&Entry> = all.iter().filter(|it| it.who.starts_with("agent")).collect();
    ensure!(agents.is_empty(), "what agents say to each other is listed: {agents:#?}");

    // On the disk is no more than what is told; and it outlives the agent.
    for file in std::fs::read_dir(lab.node(asked)?.place.dir.join("audit"))? {
        let text = std::fs::read_to_string(file?.path())?;
        ensure!(!secrets.iter().any(|secret| text.contains(secret)), "a secret is in the list:\n{text}");
    }
    lab.cluster.kill_agent(asked)?;
    let other = lab.node(primary)?.place.agent.clone();
    let output = pgkeel(lab, &other, Some("carol"), &["audit"])?;
    refused(&output, &format!("the list of {node} could not be had"))?;
    lab.cluster.start_node(asked)?;
    lab.cluster.wait_settled(before.epoch, SETTLE_LIMIT).await?;
    only(&listed(lab, &other)?, Verdict::Done, "operator bob", &change, "as ").map(drop)
}

/// Who has no certificate of this cluster, or no good one.
async fn strangers(lab: &Lab, asked: usize, authority: &Authority) -> Result<()> {
    let agent = lab.node(asked)?.place.agent.clone();
    let status = async |caller: &Caller| {
        let asked = OrderAsked { order: Order::Resume, by: "mallory".to_owned(), only_try: false };
        http::post_json::<_, Ordered>(caller, &agent, "/v1/order", &asked, CALL_LIMIT).await
    };
    refused(&pgkeel(lab, &agent, None, &["status"])?, "speaks TLS only")?;
    // TLS, and no certificate.
    let found = identity::invitation::authority_in(
        authority.certificate(),
        &fingerprint_of(&folder(lab, AUTHORITY)).map_err(|e| anyhow::anyhow!("{e}"))?,
    );
    let nameless = Caller::trusting(found.context("no authority")?)?;
    let said = status(&nameless).await;
    ensure!(matches!(&said, Err(HttpError::Status { status: 401, .. })), "{said:?}");
    // One whose time is over: as long as it was good, nobody knew him.
    let short = issue(lab, authority, Role::Admin, "late", Duration::from_secs(1))?;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let said = status(&Caller::with(Some(short))).await;
    ensure!(said.is_err(), "{said:?}");

    between(lab, &agent).await?;
    // Who trusts the agent, and shows what somebody else has signed.
    let false_pair = Authority::found("demo")?;
    let false_one = Authority::load(&false_pair.certificate, &false_pair.key)?;
    let careless = issue(lab, &false_one, Role::Admin, "mallory", HOUR)?;
    folder(lab, "mallory").write_authorities(&format!(
        "{}{}",
        authority.certificate(),
        false_one.certificate()
    ))?;
    careless.reload().map_err(|e| anyhow::anyhow!("{e}"))?;
    let said = status(&Caller::with(Some(careless))).await;
    ensure!(said.is_err(), "{said:?}");

    // Who is turned away may know it before the agent has listed it.
    let began = Instant::now();
    let all = loop {
        let all = listed(lab, &agent)?;
        let foreign = all.iter().any(|it| it.why.contains("authority has not signed"));
        if foreign || began.elapsed() > SHORT_LIMIT {
            break all;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let connect = |why: &str| only(&all, Verdict::Refused, "not known", "connect", why).map(drop);
    connect("does not speak TLS")?;
    let nameless = only(&all, Verdict::Refused, "no certificate", "resume", "show a certificate")?;
    ensure!(nameless.from == "127.0.0.1", "{nameless:?}");
    connect("time is over")?;
    connect("authority has not signed")
}

/// Somebody in between, with an authority of the same name: those who come do not talk to him, nor does he get to the agent.
async fn between(lab: &Lab, agent: &str) -> Result<()> {
    let false_pair = Authority::found("demo")?;
    let false_one = Authority::load(&false_pair.certificate, &false_pair.key)?;
    let between = issue(lab, &false_one, Role::Agent, "between", HOUR)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let his = listener.local_addr()?.to_string();
    let (caller, there) = (Caller::with(Some(between.clone())), agent.to_owned());
    let relay = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let came = Acceptor::with(Some(between)).accept(stream).await.is_ok();
        let went = http::get::<serde_json::Value>(&caller, &there, "/v1/status", CALL_LIMIT).await.is_ok();
        std::io::Result::Ok((came, went))
    });
    let output = {
        let (program, dir, his) = (lab.cluster.options.program.clone(), folder(lab, "alice"), his.clone());
        let words = ["status", "--agent", &his, "--tls"].map(str::to_owned);
        tokio::task::spawn_blocking(move || Command::new(program).args(words).arg(dir.dir()).output())
            .await??
    };
    refused(
        &output,
        "was not signed by this cluster's authority: this is another cluster, or somebody in between",
    )?;
    let (came, went) = relay.await??;
    ensure!(
        !came && !went,
        "somebody in between was talked to: by those who come {came}, by the agent {went}"
    );
    Ok(())
}

/// Of two who use one invitation, and of one who comes too late. Returns what must be nowhere.
async fn invitations(lab: &Lab, asked: usize, authority: &Authority) -> Result<Vec<String>> {
    let place = &lab.node(asked)?.place;
    let fingerprint =
        fingerprint_of(&folder(lab, AUTHORITY)).map_err(|problem| anyhow::anyhow!("{problem}"))?;
    // Without the key the agent lets nobody in.
    std::fs::copy(folder(lab, AUTHORITY).authority_key(), folder(lab, &place.name).authority_key())?;
    let admin = Caller::with(Some(issue(lab, authority, Role::Admin, "dave", HOUR)?));
    let invited = async |good_for: Duration| {
        let invitation = Invitation::make(&fingerprint)?;
        let until = (SystemTime::now() + good_for).duration_since(UNIX_EPOCH)?.as_millis() as u64;
        let (id, hash) = (invitation.id.clone(), invitation.hash());
        let order = Order::Invite { id, hash, role: TokenRole::Proxy, until, uses: 1 };
        let wish = OrderAsked { order, by: "dave@desk".to_owned(), only_try: false };
        let made: Ordered = http::post_json(&admin, &place.agent, "/v1/order", &wish, CALL_LIMIT).await?;
        ensure!(matches!(made, Ordered::Recorded { .. }), "{made:?}");
        Ok(invitation)
    };
    let joins = async |invitation: &Invitation, name: &str| -> Result<(), String> {
        let met = meet(&place.agent, invitation).await?;
        met.join(TokenRole::Proxy, &name.parse().map_err(|_| "no name")?, None).await.map(drop)
    };
    let refused = |came: Result<(), String>, why: &str| match came {
        Err(said) if said.contains(why) => Ok(()),
        other => bail!("expected {why:?}, but {other:?}"),
    };
    let once = invited(HOUR).await?;
    joins(&once, "web1").await.map_err(anyhow::Error::msg)?;
    refused(joins(&once, "web2").await, "no such invitation")?;
    refused(joins(&once, "web2").await, "no such invitation")?;
    let short = invited(Duration::from_secs(1)).await?;
    tokio::time::sleep(Duration::from_millis(1600)).await;
    refused(joins(&short, "web3").await, "has expired")?;
    // The last part of the word is another one: the authority at that address is not the one that is meant.
    let elsewhere = Invitation { authority: "0".repeat(64), ..invited(HOUR).await? };
    refused(joins(&elsewhere, "web4").await, "somebody in between")?;

    let all = listed(lab, &place.agent)?;
    let who = |invitation: &Invitation| format!("invitation {}", invitation.id);
    let made = format!("make invitation {} for a proxy, good for 1", once.id);
    only(&all, Verdict::Done, "admin dave", &made, "")?;
    only(&all, Verdict::Done, &who(&once), "join as web1, a proxy", "")?;
    let again = only(&all, Verdict::Refused, &who(&once), "join as web2, a proxy", "no such invitation")?;
    ensure!(again.times == 2, "{again:?}");
    only(&all, Verdict::Refused, &who(&short), "join as web3, a proxy", "has expired")?;
    ensure!(!all.iter().any(|it| it.what.contains("web4")), "something was said to somebody in between");
    Ok([once, short, elsewhere].into_iter().flat_map(|it| [it.hash(), it.secret]).collect())
}
