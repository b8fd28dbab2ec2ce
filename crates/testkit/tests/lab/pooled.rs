//! Sessions of the pooled mode outlive the primary: no connection ends, and what is idle keeps its state.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use pgkeel::demo::session::{Address, Session, told};
use testkit::lab::faults::Fault;
use testkit::lab::{Lab, LabOptions, SETTLE_LIMIT, SHORT_LIMIT, TEST_LIMIT, run};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;

/// Half of the sessions are idle, the others write.
const SESSIONS: usize = 64;
const POOL: &str = "pool_size = 16\n";

#[test]
fn sessions_outlive_a_failover_and_a_switchover() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, outlive)
}

async fn outlive(lab: &mut Lab) -> Result<()> {
    let config = lab.cluster.options.root.join("proxy.toml");
    std::fs::write(&config, std::fs::read_to_string(&config)? + POOL)?;
    let status = lab.up().await?;
    let address = lab.cluster.proxy_address()?;
    let first = Session::open(&address).await?;
    first
        .client
        .batch_execute("create table written (session int, number int, primary key (session, number))")
        .await?;
    let idle = idle_ones(&address).await?;
    let end = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for number in 0..SESSIONS / 2 {
        writers.push(Writer::start(number, &address, Arc::clone(&end)).await?);
    }
    sleep(Duration::from_secs(1)).await;

    let old = lab.primary(&status)?;
    lab.strike(old, Fault::PostmasterKilled)?;
    let moved = |now: &cluster::status::Status| now.epoch > status.epoch && now.primary.is_some();
    lab.cluster.wait_until("the next epoch has a primary", SETTLE_LIMIT, moved).await?;
    check(&idle, "a failover").await?;
    let status = lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;

    let said = lab.pgkeel(0, &["switchover", "--yes"])?;
    ensure!(said.status.success(), "refused: {}", String::from_utf8_lossy(&said.stderr));
    lab.cluster.wait_settled(status.epoch, SETTLE_LIMIT).await?;
    check(&idle, "a switchover").await?;

    end.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut unknown, mut rolled_back) = (0, 0, 0);
    for writer in writers {
        let told = timeout(SHORT_LIMIT, writer).await.context("a writer does not end")???;
        let sql = "select count(*) from written where session = $1 and number = any ($2)";
        let found: i64 = first.client.query_one(sql, &[&told.session, &told.acknowledged]).await?.get(0);
        let missing = told.acknowledged.len() - usize::try_from(found)?;
        ensure!(missing == 0, "session {} lacks {missing} rows that were acknowledged", told.session);
        acknowledged += told.acknowledged.len();
        unknown += told.unknown;
        rolled_back += told.rolled_back;
    }
    println!(
        "{SESSIONS} connections, none broken; {acknowledged} rows acknowledged, all there; told: {rolled_back} rolled \
         back, {unknown} not known"
    );
    ensure!(acknowledged > 0 && rolled_back + unknown > 0, "nothing ran when the primary was killed");
    Ok(())
}

/// Nobody has set up a role that looks anything up: servers and proxy ask for passwords, and that is all.
#[test]
fn users_log_in_by_what_the_agents_tell() -> Result<()> {
    run(LabOptions::quorum(), TEST_LIMIT, async |lab: &mut Lab| {
        let root = lab.cluster.options.root.clone();
        let proxy = root.join("proxy.toml");
        fs::write(&proxy, fs::read_to_string(&proxy)?.replace("auth = \"trust\"\n", ""))?;
        for node in ["n1", "n2", "n3"] {
            let config = root.join(format!("{node}.toml"));
            let text = fs::read_to_string(&config)?;
            ensure!(text.contains(" trust\""), "{text}");
            fs::write(&config, text.replace(" trust\"", " scram-sha-256\""))?;
        }
        lab.cluster.start()?;
        let status = lab.cluster.wait_settled(0, SETTLE_LIMIT).await?;
        let primary = lab.primary(&status)?;
        let admin = by_socket(lab, primary).await?;
        let roles = "create role ann login password 'one'; create role bob nologin password 'one'; \
                     create role cid login; create role dan login password 'one' valid until '2001-01-01'";
        admin.client.batch_execute(roles).await?;
        let address = lab.cluster.proxy_address()?;
        enter(&address, "ann", "one").await.context("the right password")?;
        for (user, password) in
            [("ann", "two"), ("bob", "one"), ("cid", ""), ("cid", "one"), ("dan", "one"), ("eve", "one")]
        {
            let refused = enter(&address, user, password).await.err().context("it was let in")?;
            let said = refused.to_string();
            ensure!(
                said.contains(&format!("password authentication failed for user \"{user}\"")),
                "{user}: {said}"
            );
        }
        admin.client.batch_execute("alter role ann password 'two'").await?;
        sleep(BELIEVED).await;
        enter(&address, "ann", "two").await.context("the new password")?;
        ensure!(enter(&address, "ann", "one").await.is_err(), "the old password does");
        lab.cluster.kill_agent(primary)?;
        enter(&address, "ann", "two").await.context("the primary's agent is gone")?;
        let moved = |now: &cluster::status::Status| now.epoch > status.epoch && now.primary.is_some();
        lab.cluster.wait_until("the next epoch has a primary", SETTLE_LIMIT, moved).await?;
        enter(&address, "ann", "two").await.context("on the next primary")?;
        Ok(())
    })
}

/// Longer than a proxy believes what it was told.
const BELIEVED: Duration = Duration::from_secs(6);

/// As the superuser, past the proxy and every password.
async fn by_socket(lab: &Lab, node: usize) -> Result<Session> {
    let place = &lab.node(node)?.place;
    let host = place.dir.join("run").display().to_string();
    Ok(Session::open(&Address { host, port: place.postgres_port }).await?)
}

/// Logs in and asks who it is.
async fn enter(address: &Address, user: &str, password: &str) -> Result<()> {
    let mut config = tokio_postgres::Config::new();
    config.host(&address.host).port(address.port).user(user).password(password).dbname("postgres");
    let entered = async {
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        let who: String = client.query_one("select current_user::text", &[]).await?.get(0);
        connection.abort();
        Ok::<_, tokio_postgres::Error>(who)
    };
    let who =
        timeout(SHORT_LIMIT, entered).await.context("no answer")?.map_err(|e| anyhow!("{}", told(&e)))?;
    ensure!(who == user, "{user} is {who}");
    Ok(())
}

/// Sessions with a setting and a prepared statement, and nothing under way.
async fn idle_ones(address: &Address) -> Result<Vec<(usize, Session, Statement)>> {
    let mut idle = Vec::new();
    for number in 1..=SESSIONS / 2 {
        let session = Session::open(address).await?;
        session.client.batch_execute(&format!("set work_mem = '{number}MB'")).await?;
        let statement = session.client.prepare("select current_setting('work_mem') || $1::text").await?;
        idle.push((number, session, statement));
    }
    Ok(idle)
}

async fn check(idle: &[(usize, Session, Statement)], after: &str) -> Result<()> {
    for (number, session, statement) in idle {
        let row = timeout(SETTLE_LIMIT, session.client.query_one(statement, &[&"!"]));
        let row = row.await?.with_context(|| format!("idle session {number} after {after}"))?;
        let told: String = row.get(0);
        ensure!(told == format!("{number}MB!"), "idle session {number} after {after}: {told}");
    }
    Ok(())
}

/// What one writing session was told.
struct Writer {
    session: i32,
    acknowledged: Vec<i32>,
    rolled_back: usize,
    unknown: usize,
}

impl Writer {
    /// Writes in transactions and, every other time, without, until the end; always on the same connection.
    async fn start(
        number: usize,
        address: &Address,
        end: Arc<AtomicBool>,
    ) -> Result<JoinHandle<Result<Writer>>> {
        let session = Session::open(address).await?;
        let mut writer =
            Writer { session: i32::try_from(number)?, acknowledged: Vec::new(), rolled_back: 0, unknown: 0 };
        Ok(tokio::spawn(async move {
            let mut row = 0;
            while !end.load(Ordering::Relaxed) {
                row += 1;
                writer.write(&session, row).await.with_context(|| format!("writing session {number}"))?;
                sleep(Duration::from_millis(20)).await;
            }
            Ok(writer)
        }))
    }

    async fn write(&mut self, session: &Session, row: i32) -> Result<()> {
        let insert = format!("insert into written values ({}, {row})", self.session);
        let texts = match row % 2 {
            // Open for long enough that some are when the primary is killed.
            0 => vec!["begin", insert.as_str(), "select pg_sleep(0.2)", "commit"],
            _ => vec![insert.as_str()],
        };
        for text in texts {
            let Err(error) = session.client.batch_execute(text).await else { continue };
            match error.code() {
                Some(code) if *code == SqlState::T_R_SERIALIZATION_FAILURE => self.rolled_back += 1,
                Some(code) if *code == SqlState::ADMIN_SHUTDOWN => self.unknown += 1,
                _ => bail!("{text}: {error:?}"),
            }
            // Of the same connection.
            return session.client.batch_execute("rollback").await.context("rollback");
        }
        self.acknowledged.push(row);
        Ok(())
    }
}
