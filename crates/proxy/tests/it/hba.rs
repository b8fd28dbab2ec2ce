//! Rules in the form of pg_hba.conf: who may come from where, and how.

use crate::certificates::{Authority, Files, Signed};
use crate::pooled::pooled;
use crate::postgres::Postgres;
use crate::setup::{Proxy, settings, view};
use crate::tls::{fail, run, target, tls};
use crate::tls_login::postgres_of_ann;
use proxy::{ClientAuth, ClientTlsMode, Lookup, ProxyError, RuleFiles, Settings, Verifiers};
use std::time::{Duration, Instant};
use tokio::task::block_in_place;

const RULES: &str = "
# TYPE    DATABASE  USER      ADDRESS        METHOD
local     all       all                      trust
host      all       ann       127.0.0.1/32   scram-sha-256
hostssl   all       bob,dan   127.0.0.1/32   cert  map=staff
hostssl   all       carl      127.0.0.1/32   trust  clientcert=verify-ca
host      template1 carl      127.0.0.0  255.0.0.0  trust
host      all       eve       all            reject
host      all       postgres  127.0.0.1/32   trust
";

const NAMES: &str = "staff  \"Robert B.\"  bob  # only he\n";

fn by_rules(files: &Files, hba: &str) -> Settings {
    let lookup = Lookup { user: "postgres".into(), password: None, database: "postgres".into() };
    let rules =
        RuleFiles { hba: files.write("pg_hba.conf", hba), ident: Some(files.write("pg_ident.conf", NAMES)) };
    pooled(2, ClientAuth::Rules(rules, Verifiers::Role(lookup)))
}

fn make_roles(postgres: &Postgres) {
    let direct = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", postgres.port);
    run(
        &direct,
        "create role bob login; create role carl login; create role dan login; create role eve login",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_is_let_in_as_the_first_rule_that_fits_says() {
    let (postgres, files) = (postgres_of_ann(None), Files::new());
    make_roles(&postgres);
    let (authority, other) = (Authority::new(), Authority::new());
    let ca = Some(files.write("ca.crt", &authority.pem));
    let tls = proxy::ClientTls { ca, ..tls(ClientTlsMode::Allow, &files, &authority) };
    let settings = Settings { tls: Some(tls), ..by_rules(&files, RULES) };
    let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
    let user =
        |name: &str, rest: &str| target(&proxy, rest).replace("user=postgres", &format!("user={name}"));
    let with = |signed: &Signed| {
        let (cert, key) = (files.write("client.crt", &signed.cert), files.write("client.key", &signed.key));
        format!("sslmode=require sslcert={} sslkey={}", cert.display(), key.display())
    };
    let (plain, none) = ("sslmode=disable", "sslmode=require sslcert=/none");
    let who = "select session_user";

    assert_eq!(run(&user("ann", &format!("{plain} password='pen cil'")), who), "ann\n");
    assert!(
        fail(&user("ann", &format!("{plain} password=pencil")), who)
            .contains("password authentication failed")
    );

    let robert = with(&authority.sign_for("Robert B.", &["bob"]));
    assert_eq!(run(&user("bob", &robert), who), "bob\n");
    let told = fail(&user("dan", &robert), who);
    assert!(told.contains("certificate authentication failed for user \"dan\""), "{told}");
    assert!(
        fail(&user("bob", &with(&authority.sign_for("bob", &["bob"]))), who).contains("certificate auth")
    );
    assert!(fail(&user("bob", none), who).contains("connection requires a valid client certificate"));
    let told = fail(&user("bob", plain), who);
    assert!(
        told.contains(
            "has no entry for host \"127.0.0.1\", user \"bob\", database \"postgres\", no encryption"
        ),
        "{told}"
    );

    assert_eq!(run(&user("carl", &with(&authority.sign(&["x"]))), who), "carl\n");
    assert!(fail(&user("carl", none), who).contains("connection requires a valid client certificate"));
    let foreign = fail(&user("carl", &with(&other.sign_for("carl", &["carl"]))), who);
    assert!(foreign.contains("unknown ca") || foreign.contains("server closed the connection"), "{foreign}");
    let elsewhere = user("carl", plain).replace("dbname=postgres", "dbname=template1");
    assert_eq!(run(&elsewhere, who), "carl\n");

    let told = fail(&user("eve", plain), who);
    assert!(told.contains("rejects connections for host \"127.0.0.1\", user \"eve\""), "{told}");
    let told = fail(&user("postgres", &format!("{plain} replication=true")), "identify_system");
    assert!(told.contains("has no entry for replication connection from host"), "{told}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rules_hold_without_a_restart_and_broken_ones_never() {
    let (postgres, files) = (Postgres::started(), Files::new());
    make_roles(&postgres);
    let settings = by_rules(&files, "host all bob all trust\n");
    let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
    let user =
        |name: &str| target(&proxy, "sslmode=disable").replace("user=postgres", &format!("user={name}"));
    assert_eq!(run(&user("bob"), "select 1"), "1\n");
    assert!(fail(&user("carl"), "select 1").contains("has no entry"));

    files.write("pg_hba.conf", "host all carl all trust\n");
    let since = Instant::now();
    while !block_in_place(|| crate::postgres::psql(&user("carl"), "select 1")).0 {
        assert!(since.elapsed() < Duration::from_secs(60), "the new rules do not hold");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(fail(&user("bob"), "select 1").contains("has no entry"));

    files.write("pg_hba.conf", "host all all all trust\nhost all +staff all trust\n");
    // Two looks and more.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(run(&user("carl"), "select 1"), "1\n");
    assert!(fail(&user("bob"), "select 1").contains("has no entry"), "half of a broken file holds");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_does_not_start_with_rules_that_it_cannot_keep() {
    let files = Files::new();
    let broken =
        by_rules(&files, "host all all all trust\nhost all +staff samenet trust\nhost all all all ldap\n");
    let told = proxy::check_files(&broken).join("\n");
    for word in ["proxy.hba_file", "line 2 +staff", "line 3 \"ldap\" is not a method here"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let (_stop, stop_seen) = tokio::sync::watch::channel(false);
    let agents = settings().agents.into_iter().chain(["127.0.0.1:1".to_owned()]).collect();
    let ended = proxy::run(Settings { agents, ..broken }, Default::default(), stop_seen).await;
    assert!(matches!(ended, Err(ProxyError::Hba(_))), "{ended:?}");
    let absent = RuleFiles { hba: "/nowhere/pg_hba.conf".into(), ident: None };
    let lookup = Lookup { user: "postgres".into(), password: None, database: "postgres".into() };
    let told = proxy::check_files(&pooled(1, ClientAuth::Rules(absent, Verifiers::Role(lookup)))).join("\n");
    assert!(told.contains("\"/nowhere/pg_hba.conf\": cannot be read"), "{told}");
}
