//! Roles whose password is an old one of MD5, where the configuration lets them in.

use crate::certificates::Files;
use crate::pooled::pooled;
use crate::postgres::Postgres;
use crate::setup::{Proxy, view};
use crate::tls::{fail, run};
use proxy::{ClientAuth, Lookup, RuleFiles, Verifiers};
use std::time::Duration;
use tokio::task::block_in_place;

/// Ann has a password of MD5, bob one of SCRAM, and the server asks both.
fn postgres() -> Postgres {
    let postgres = Postgres::started();
    let direct = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", postgres.port);
    run(&direct, "set password_encryption = 'md5'; create role ann login password 'pen cil'");
    run(&direct, "create role bob login password 'pen cil'");
    for user in ["ann", "bob"] {
        postgres.first_rule(&format!("host all {user} 127.0.0.1/32 md5"));
    }
    run(&direct, "select pg_reload_conf()");
    // The postmaster takes it up a moment later.
    block_in_place(|| std::thread::sleep(Duration::from_millis(300)));
    postgres
}

#[tokio::test(flavor = "multi_thread")]
async fn they_come_in_where_that_is_wanted_and_nowhere_else() {
    let (postgres, files) = (postgres(), Files::new());
    let lookup = || Lookup { user: "postgres".into(), password: None, database: "postgres".into() };
    let rules = |text: &str| {
        let hba = files.write(&format!("{}.conf", text.len()), text);
        ClientAuth::Rules(RuleFiles { hba, ident: None }, Verifiers::Role(lookup()))
    };
    let of_md5 = [ClientAuth::Md5(Verifiers::Role(lookup())), rules("host all all all md5\n")];
    let of_scram = [ClientAuth::Scram(Verifiers::Role(lookup())), rules("host all all all scram-sha-256\n")];
    for (auth, md5) in of_md5.map(|auth| (auth, true)).into_iter().chain(of_scram.map(|auth| (auth, false))) {
        let proxy =
            Proxy::start_with(pooled(2, auth.clone()), view(1, 1, Some(postgres.as_node("n1")))).await;
        let user = |name: &str, password: &str| {
            let port = proxy.address.port();
            format!("host=127.0.0.1 port={port} dbname=postgres user={name} password='{password}'")
        };
        let who = "select session_user";
        let wrong = |name: &str| {
            let told = fail(&user(name, "pencil"), who);
            let expected = format!("password authentication failed for user \"{name}\"");
            assert!(told.contains(&expected), "{auth:?}: {told}");
        };
        if md5 {
            for _ in 0..2 {
                assert_eq!(run(&user("ann", "pen cil"), who), "ann\n");
            }
        } else {
            let told = fail(&user("ann", "pen cil"), who);
            assert!(told.contains("password authentication failed for user \"ann\""), "{auth:?}: {told}");
        }
        assert_eq!(run(&user("bob", "pen cil"), who), "bob\n");
        wrong("ann");
        wrong("bob");
        wrong("nobody");
        if md5 {
            assert_eq!(run(&user("ann", "pen cil"), who), "ann\n");
        }
        proxy.stop().await;
    }
}
