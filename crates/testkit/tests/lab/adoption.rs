//! A primary and a standby that somebody has made by hand become a cluster under load: one restart of each, nothing copied, nothing
//! lost, and what held for their clients holds on.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agent::settings::find_bin_dir;
use anyhow::{Context, Result, bail, ensure};
use cluster::status::NodeStatus;
use pgkeel::demo::session::{Address, Session};
use pgkeel::demo::writer::{Record, Writer, WriterOptions, ids, make_table};
use testkit::lab::SHORT_LIMIT;

use super::membership::{Site, on_site};

/// Directories of the programs of other versions, separated by colons.
const OTHERS: &str = "PGKEEL_LAB_BIN_DIRS";
const PORT: u16 = 5433;
const SLOT: &str = "by_hand";
/// As a person would have it: what initdb does not say, and what pgkeel would set otherwise.
const SETTINGS: &str = "listen_addresses = '*'\nport = 5433\nmax_connections = 123\nwork_mem = '7MB'\nmax_wal_senders = 7\n\
                        wal_keep_size = '64MB'\nrestore_command = 'false'\nfsync = off\n\
                        password_encryption = md5\nlog_statement = 'all'\nwal_level = logical\nTimeZone = 'Asia/Tokyo'\n\
                        app.tenant = 'one'\n";
const RULES: &str = "# by hand\nlocal all postgres peer\nlocal all all trust\nhost all all all trust\nhost replication all all trust\n";

/// A host's server that nobody but a person looks after.
struct ByHand<'a> {
    site: &'a Site,
    number: usize,
    bin_dir: PathBuf,
}

impl ByHand<'_> {
    fn data(&self) -> String {
        self.site.path(self.number, "-data")
    }

    fn sockets(&self) -> String {
        self.site.path(self.number, "-sockets")
    }

    fn address(&self) -> Result<Address> {
        Ok(Address { host: self.site.host(self.number)?.address, port: PORT })
    }

    /// Runs one of PostgreSQL's programs on the host, as a person would.
    fn run(&self, program: &str, words: &[&str]) -> Result<String> {
        let enter = self.site.host(self.number)?.enter;
        let own = self.bin_dir.join(program).display().to_string();
        let all = enter.into_iter().chain(["runuser", "-u", "postgres", "--", &own].map(str::to_owned));
        let all: Vec<String> = all.chain(words.iter().map(|word| (*word).to_owned())).collect();
        let (first, rest) = all.split_first().context("no words")?;
        let output = Command::new(first).args(rest).current_dir("/").output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{program}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    fn make_dir(path: &str) -> Result<()> {
        let done = Command::new("install").args(["-d", "-o", "postgres", "-m", "700", path]).status()?;
        ensure!(done.success(), "install -d {path}");
        Ok(())
    }

    fn start(&self) -> Result<()> {
        ByHand::make_dir(&self.sockets())?;
        let log = format!("{}/log", self.sockets());
        let sockets = format!("-k {}", self.sockets());
        // Its output would keep this process's pipe open.
        self.run("pg_ctl", &["start", "-w", "-D", &self.data(), "-l", &log, "-o", &sockets]).map(|_| ())
    }

    fn make_primary(&self) -> Result<()> {
        ByHand::make_dir(&self.data())?;
        self.run("initdb", &["-D", &self.data(), "-U", "postgres", "--no-sync"])?;
        let add = |file: &str, text: &str| -> Result<()> {
            let mut file =
                std::fs::OpenOptions::new().append(true).open(format!("{}/{file}", self.data()))?;
            Ok(file.write_all(text.as_bytes())?)
        };
        add("postgresql.conf", SETTINGS)?;
        std::fs::write(format!("{}/pg_hba.conf", self.data()), RULES)?;
        self.start()
    }

    /// As a person does it: by pg_basebackup, with a slot.
    fn make_standby(&self, primary: &str) -> Result<()> {
        ByHand::make_dir(&self.data())?;
        let from = format!("host={primary} port={PORT} user=postgres application_name=old_standby");
        self.run("pg_basebackup", &["-D", &self.data(), "-R", "-C", "-S", SLOT, "-d", &from])?;
        std::fs::write(format!("{}/not-copied", self.data()), "")?;
        self.start()
    }

    fn postmaster(&self) -> Result<i32> {
        let text = std::fs::read_to_string(format!("{}/postmaster.pid", self.data()))?;
        Ok(text.lines().next().context("an empty postmaster.pid")?.parse()?)
    }

    /// How often its servers came up, by their own word.
    fn starts(&self) -> usize {
        let logs = [format!("{}/log", self.sockets()), self.site.path(self.number, "/postgresql.log")];
        let text: String = logs.iter().filter_map(|log| std::fs::read_to_string(log).ok()).collect();
        text.matches("database system is ready to accept").count()
    }

    async fn ask(&self, sql: &str) -> Result<String> {
        let session = Session::open(&self.address()?).await?;
        let row = session.client.query_one(sql, &[]).await?;
        Ok(row.try_get(0)?)
    }
}

#[test]
fn a_primary_and_its_standby_are_taken_over() -> Result<()> {
    let bin_dir = find_bin_dir().map_err(|problem| anyhow::anyhow!(problem))?;
    take_over_with(&bin_dir)
}

#[test]
fn the_same_with_other_versions() -> Result<()> {
    let Some(dirs) = std::env::var_os(OTHERS) else {
        writeln!(
            std::io::stderr(),
            "skipped: {OTHERS} names no directories of programs; make lab-versions does"
        )?;
        return Ok(());
    };
    std::env::split_paths(&dirs).try_for_each(|bin_dir| take_over_with(&bin_dir))
}

fn take_over_with(bin_dir: &Path) -> Result<()> {
    let Some(site) = Site::make(&["db1", "db2"])? else { return Ok(()) };
    on_site(site, async |site| take_over(site, bin_dir).await)
}

async fn take_over(site: &Site, bin_dir: &Path) -> Result<()> {
    let server = |number| ByHand { site, number, bin_dir: bin_dir.to_owned() };
    let (primary, standby) = (server(0), server(1));
    primary.make_primary()?;
    standby.make_standby(&site.host(0)?.address)?;
    eprintln!("PostgreSQL {}", primary.ask("show server_version").await?);
    let options = WriterOptions { write_limit: SHORT_LIMIT, ..WriterOptions::usual(primary.address()?) };
    make_table(&options.address, &options.table, SHORT_LIMIT).await?;
    let writer = Writer::start(options);
    writer.wait_for(50, SHORT_LIMIT).await?;
    let before = (primary.postmaster()?, standby.postmaster()?);

    let invitation = adopt(site, &primary, &standby).await?;
    writer.wait_for(50, SHORT_LIMIT).await?;
    standby_streams_on(&primary, &standby, before.1).await?;
    join(site, &standby, &invitation).await?;
    writer.wait_for(50, SHORT_LIMIT).await?;

    ensure!(primary.postmaster()? != before.0, "its server is the one that ran before");
    ensure!((primary.starts(), standby.starts()) == (2, 2), "{} and {}", primary.starts(), standby.starts());
    ensure!(std::fs::exists(format!("{}/not-copied", standby.data()))?, "the standby was copied");
    as_before(site, &primary, &standby).await?;
    let record = writer.stop();
    go_on(site, &primary, &standby, &record).await
}

/// What must not be is refused and changes nothing; then the primary is taken over. Returns the line for its standbys.
async fn adopt(site: &Site, primary: &ByHand<'_>, standby: &ByHand<'_>) -> Result<Vec<String>> {
    let words = |number: usize, data: &str, more: &[&str]| {
        let mut words = ["adopt", "--name", "shop", "-D", data].map(str::to_owned).to_vec();
        words.extend(site.files(number));
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    };
    let refused = async |number: usize, words: Vec<String>, why: &str| {
        let (content, _, said) = site.run(number, &words).await?;
        ensure!(!content && said.contains(why), "{said}");
        ensure!(!std::fs::exists(site.path(number, ".toml"))?, "something was written");
        anyhow::Ok(())
    };
    refused(1, words(1, &standby.data(), &["--yes"]), "is a standby").await?;
    refused(0, words(0, &primary.data(), &[]), "nobody can be asked").await?;
    refused(0, words(0, &primary.sockets(), &["--yes"]), "no data directory").await?;
    let began = Instant::now();
    let said = site.pgkeel(0, &words(0, &primary.data(), &["--yes"])).await?;
    eprintln!("adopt: {:.1} s\n{said}", began.elapsed().as_secs_f64());
    ensure!(said.contains("old_standby at "), "{said}");
    let line =
        said.lines().find(|line| line.starts_with("pgkeel join ")).context("no line for the standby")?;
    let words = line.split_whitespace().skip(1).map(str::to_owned);
    Ok(words.map(|word| if word == "ITS-DATA-DIRECTORY" { standby.data() } else { word }).collect())
}

/// Nobody has told it anything: it connects again to where its primary was.
async fn standby_streams_on(primary: &ByHand<'_>, standby: &ByHand<'_>, postmaster: i32) -> Result<()> {
    let began = Instant::now();
    let sql = "select count(*)::text from pg_stat_replication where application_name = 'old_standby' and state = 'streaming'";
    while primary.ask(sql).await? != "1" {
        ensure!(began.elapsed() < SHORT_LIMIT, "the old standby does not stream any more");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(
        standby.postmaster()? == postmaster,
        "the standby was started again by the take-over of its primary"
    );
    Ok(())
}

async fn join(site: &Site, standby: &ByHand<'_>, invitation: &[String]) -> Result<()> {
    let mut words = invitation.to_vec();
    words.extend(site.files(1));
    words.extend(["--node", "n2", "--yes"].map(str::to_owned));
    let (content, out, said) = site.run(1, &words).await?;
    ensure!(content && out.contains("streaming"), "{out}{said}");
    ensure!(said.contains("drop it there") && said.contains(SLOT), "{said}");
    ensure!(said.contains("restore_command is not carried over"), "{said}");
    let text = std::fs::read_to_string(site.path(1, ".toml"))?;
    ensure!(
        !text.contains("adopt") && !text.contains("work_mem") && text.contains("joined = true"),
        "{text}"
    );
    ensure!(standby.ask("select pg_is_in_recovery()::text").await? == "true", "it is no standby");
    Ok(())
}

/// Parameters, rules and sockets are those of before, on both; the rules are in the record, for the nodes to come.
async fn as_before(site: &Site, primary: &ByHand<'_>, standby: &ByHand<'_>) -> Result<()> {
    for server in [primary, standby] {
        for (name, value) in [
            ("max_connections", "123"),
            ("work_mem", "7MB"),
            ("max_wal_senders", "7"),
            ("restore_command", ""),
            ("wal_level", "logical"),
            ("timezone", "Asia/Tokyo"),
            ("app.tenant", "one"),
            ("max_slot_wal_keep_size", "-1"),
        ] {
            let now = server.ask(&format!("select current_setting('{name}')")).await?;
            ensure!(now == value, "{name} is {now:?}");
        }
        let old = server.run("psql", &["-h", &server.sockets(), "-p", "5433", "-Atc", "show port"])?;
        ensure!(old.trim() == "5433", "not by its old socket: {old}");
    }
    ensure!(groups_of(primary.postmaster()?)? == groups_of_user()?, "its server lacks groups of its user");
    let log = std::fs::read_to_string(site.path(0, "/postgresql.log"))?;
    ensure!(!log.contains("replication password"), "a password is in the log: {log}");
    let told = site.ask(0, &["config", "show"]).await?;
    ensure!(told.contains("work_mem") && told.contains("host replication all all trust"), "{told}");
    let why = site.ask(0, &["why"]).await?;
    ensure!(why.contains("n1 brings the database"), "{why}");
    Ok(())
}

fn groups_of(pid: i32) -> Result<BTreeSet<u32>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Groups:")).context("no groups")?;
    Ok(line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

fn groups_of_user() -> Result<BTreeSet<u32>> {
    let output = Command::new("id").args(["-G", "postgres"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

/// It is a cluster like any other: the standby takes over, the old primary follows, and nothing that was acknowledged is missing.
async fn go_on(site: &Site, primary: &ByHand<'_>, standby: &ByHand<'_>, record: &Record) -> Result<()> {
    let began = Instant::now();
    // The primary makes the slot of a new standby within seconds; until then it may come and go.
    while let Err(said) = site.ask(0, &["switchover", "--to", "n2", "--yes"]).await {
        ensure!(began.elapsed() < SHORT_LIMIT, "{said}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    loop {
        let status = site.status(1).await?;
        let follows = |node: &NodeStatus| node.node.as_str() == "n1" && node.state == "streaming";
        if status.primary.as_ref().is_some_and(|it| it.as_str() == "n2") && status.nodes.iter().any(follows) {
            break;
        }
        if began.elapsed() > SHORT_LIMIT {
            bail!("n1 does not follow n2: {status:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let lost = record.lost(&ids(&standby.address()?, "pgkeel_demo", SHORT_LIMIT).await?);
    eprintln!(
        "acknowledged {}, lost {}, longest gap {:.2} s, connections {}",
        record.acks.len(),
        lost.len(),
        record.longest_gap().as_secs_f64(),
        record.connections
    );
    ensure!(lost.is_empty(), "acknowledged, and not there: {lost:?}");
    ensure!(record.connections <= 2, "more than one restart of the primary: {:?}", record.failures);
    ensure!(!std::fs::exists(format!("{}.old", primary.data()))?, "data were set aside");
    Ok(())
}
