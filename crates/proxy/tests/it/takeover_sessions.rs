//! A new proxy goes on with the clients of one that runs: they keep their connections, and all that makes their sessions.

use crate::certificates::{Authority, Files};
use crate::console::{show, with_console};
use crate::peers::{cancel, sleeper, sleeps};
use crate::pooled::{pooled, text};
use crate::postgres::Postgres;
use crate::raw_client::startup_packet;
use crate::raw_tls::{RawTls, ask};
use crate::setup::Proxy;
use crate::takeover::{path, start};
use crate::tls::tls;
use proxy::{ClientAuth, ClientLimits, ClientTlsMode, Io, Lookup, PoolSettings, Settings, Verifiers};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls, Statement};

const PATIENCE: Duration = Duration::from_secs(30);

fn taking_over(name: &str, servers_max: usize) -> Settings {
    let settings = with_console(pooled(servers_max, ClientAuth::Trust));
    Settings { takeover: Some(path(name)), workers: 2, ..settings }
}

async fn ended(proxy: Proxy) {
    timeout(PATIENCE, proxy.ended()).await.expect("it ends when nobody is there any more");
}

fn clients_of(proxy: &Proxy) -> usize {
    show(proxy, "CLIENTS").iter().filter(|row| row["database"] == "postgres").count()
}

async fn until_it_has(proxy: &Proxy, count: usize) {
    let begun = Instant::now();
    while clients_of(proxy) != count {
        assert!(begun.elapsed() < PATIENCE, "{} clients, not {count}", clients_of(proxy));
        sleep(Duration::from_millis(50)).await;
    }
}

/// A client with a setting and a statement of its own.
struct Own {
    number: i32,
    client: Client,
    statement: Statement,
}

impl Own {
    async fn of(proxy: &Proxy, number: i32) -> Own {
        let client = proxy.client().await;
        client.batch_execute(&format!("set work_mem = '{}kB'", 100 + number)).await.unwrap();
        let statement = client.prepare(&format!("select {number} + $1::int4")).await.unwrap();
        Own { number, client, statement }
    }

    async fn is_whole(&self) {
        let Own { number, client, statement } = self;
        let sum: i32 = client.query_one(statement, &[&7]).await.unwrap().get(0);
        assert_eq!(sum, number + 7);
        assert_eq!(text(client, "show work_mem").await, format!("{}kB", 100 + number));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_go_on_at_once_and_others_when_they_can() {
    let postgres = Postgres::started();
    let settings = taking_over("sessions", 12);
    let first = start(&postgres, &settings).await;
    let (mut idle, mut busy, mut pinned) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..50 {
        idle.push(Own::of(&first, number).await);
    }
    for number in 50..55 {
        let own = Own::of(&first, number).await;
        own.client.batch_execute("begin; set local work_mem = '1MB'").await.unwrap();
        busy.push(own);
    }
    for _ in 0..2 {
        let client = first.client().await;
        client.batch_execute("create temp table kept as select 7 as seven").await.unwrap();
        pinned.push(client);
    }
    let second = start(&postgres, &settings).await;
    until_it_has(&second, 50).await;
    for own in &idle {
        own.is_whole().await;
    }
    for own in &busy {
        assert_eq!(text(&own.client, "show work_mem").await, "1MB");
        own.client.batch_execute("commit").await.unwrap();
    }
    until_it_has(&second, 55).await;
    for own in busy.iter().chain(&idle) {
        own.is_whole().await;
    }
    for client in &pinned {
        assert_eq!(text(client, "select seven::text from kept").await, "7");
    }
    drop(pinned);
    ended(first).await;
    let third = start(&postgres, &settings).await;
    ended(second).await;
    for own in busy.iter().chain(&idle) {
        own.is_whole().await;
    }
    third.stop().await;
    let told = idle[0].client.batch_execute("select 1").await.unwrap_err();
    assert!(told.is_closed() || told.code().is_some_and(|code| code.code() == "57P01"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_rest_get_every_answer_through_ten_takeovers() {
    let postgres = Postgres::started();
    let settings = taking_over("restless", 4);
    let mut proxy = start(&postgres, &settings).await;
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for number in 0..6 {
        let (own, stop, answers) = (Own::of(&proxy, number).await, Arc::clone(&stop), Arc::clone(&answers));
        clients.push(tokio::spawn(async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                assert_eq!(text(&own.client, &format!("select {n}::text")).await, n.to_string());
                let sum: i32 = own.client.query_one(&own.statement, &[&n]).await.unwrap().get(0);
                assert_eq!(sum, own.number + n);
                if n % 10 == 0 {
                    own.is_whole().await;
                }
                answers.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for number in 0..10 {
        // How they read, both decide for themselves.
        let io = if number % 3 == 2 { Io::Epoll } else { settings.pool.as_ref().unwrap().io };
        let pool = settings.pool.clone().map(|pool| PoolSettings { io, ..pool });
        let next = start(&postgres, &Settings { pool, ..settings.clone() }).await;
        ended(std::mem::replace(&mut proxy, next)).await;
        let before = answers.load(Ordering::Relaxed);
        while answers.load(Ordering::Relaxed) < before + 20 {
            assert!(clients.iter().all(|client| !client.is_finished()), "a client was lost");
            sleep(Duration::from_millis(5)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    proxy.stop().await;
}

/// Takes over by hand, and is gone when it has read so much of the sessions.
fn dies_after(place: &std::path::Path, bytes: usize) {
    let mut line = UnixStream::connect(place).unwrap();
    // What it has of sockets is closed as it is read.
    let mut offer = String::new();
    BufReader::with_capacity(1, line.try_clone().unwrap()).read_line(&mut offer).unwrap();
    assert!(offer.contains("sessions"), "{offer}");
    line.write_all(b"accepts+").unwrap();
    line.read_exact(&mut [0]).unwrap();
    line.read_exact(&mut vec![0; bytes]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_dies_in_the_middle_takes_nobody_along() {
    let postgres = Postgres::started();
    for bytes in [1, 100, 1_000] {
        let settings = taking_over("dies", 4);
        let first = start(&postgres, &settings).await;
        let mut all = Vec::new();
        for number in 0..10 {
            all.push(Own::of(&first, number).await);
        }
        let place = settings.takeover.clone().unwrap();
        tokio::task::spawn_blocking(move || dies_after(&place, bytes)).await.unwrap();
        for _ in 0..3 {
            for own in &all {
                own.is_whole().await;
            }
        }
        drop(all);
        ended(first).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_says_nothing_is_given_up_and_of_another_version_gets_nobody() {
    let postgres = Postgres::started();
    let settings = taking_over("silent", 4);
    for word in [&b"accepts+"[..], b"accepts\n"] {
        let first = start(&postgres, &settings).await;
        let own = Own::of(&first, 1).await;
        let mut line = UnixStream::connect(settings.takeover.as_ref().unwrap()).unwrap();
        let mut offer = String::new();
        BufReader::with_capacity(1, line.try_clone().unwrap()).read_line(&mut offer).unwrap();
        line.write_all(word).unwrap();
        let waits = tokio::task::spawn_blocking(move || {
            let answer = line.read(&mut [0]).unwrap();
            (line, answer)
        });
        let (line, answer) = waits.await.unwrap();
        assert_eq!(answer, usize::from(word == b"accepts+"));
        sleep(Duration::from_millis(100)).await;
        timeout(PATIENCE, own.is_whole()).await.expect("an answer");
        drop((line, own));
        ended(first).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_requests_reach_who_stayed_and_who_was_handed_over() {
    let postgres = Postgres::started();
    let settings = taking_over("cancel", 4);
    let first = start(&postgres, &settings).await;
    let (mut stays, key) = sleeper(first.address).await;
    let (mut neighbour, _) = sleeper(first.address).await;
    let second = start(&postgres, &settings).await;
    assert!(sleeps(&mut stays).await);
    cancel(second.address, &key).await;
    assert!(stays.hear_until_ready().await.text().contains("57014"));
    assert!(sleeps(&mut neighbour).await, "only the one that was meant");
    // Idle now, it is handed over.
    until_it_has(&second, 1).await;
    stays.query("select pg_sleep(30)").await;
    assert!(sleeps(&mut stays).await);
    // Through both of them.
    let third = start(&postgres, &settings).await;
    cancel(third.address, &key).await;
    assert!(stays.hear_until_ready().await.text().contains("57014"));
    until_it_has(&third, 1).await;
    ended(second).await;
    stays.query("select pg_sleep(30)").await;
    assert!(sleeps(&mut stays).await);
    cancel(third.address, &key).await;
    assert!(stays.hear_until_ready().await.text().contains("57014"));
    drop((stays, neighbour));
    third.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_in_the_new_process_too() {
    let postgres = Postgres::started();
    let settings = taking_over("limits", 4);
    let first = start(&postgres, &settings).await;
    let mut all = Vec::new();
    for number in 0..5 {
        all.push(Own::of(&first, number).await);
    }
    let limits = ClientLimits { per_user_max: Some(2), ..ClientLimits::default() };
    let pool = settings.pool.clone().map(|pool| PoolSettings { limits, ..pool });
    let second = start(&postgres, &Settings { pool, ..settings }).await;
    until_it_has(&second, 2).await;
    for own in &all {
        own.is_whole().await;
    }
    assert_eq!(clients_of(&second), 2);
    drop(all);
    ended(first).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_shown_a_password_need_not_show_it_again() {
    let postgres = Postgres::started();
    let direct = crate::pooled::direct(&postgres).await;
    direct.batch_execute("create role ann login password 'pen cil'").await.unwrap();
    postgres.ask_passwords_of("ann");
    direct.batch_execute("select pg_reload_conf()").await.unwrap();
    let lookup = Lookup { user: "postgres".into(), password: None, database: "postgres".into() };
    let settings = pooled(2, ClientAuth::Scram(Verifiers::Role(lookup)));
    let settings = Settings { takeover: Some(path("password")), ..settings };
    let first = start(&postgres, &settings).await;
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(first.address.port()).dbname("postgres").user("ann").password("pen cil");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let second = start(&postgres, &settings).await;
    ended(first).await;
    assert_eq!(text(&client, "select session_user::text").await, "ann");
    second.stop().await;
}

/// Reads to the end of an answer.
fn until_ready(session: &mut RawTls) {
    loop {
        let mut header = [0; 5];
        session.read_exact(&mut header).unwrap();
        let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        session.read_exact(&mut vec![0; len - 4]).unwrap();
        if header[0] == b'Z' {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_tls_stay_to_their_end() {
    let (postgres, files, authority) = (Postgres::started(), Files::new(), Authority::new());
    let tls = Some(tls(ClientTlsMode::Allow, &files, &authority));
    let settings = Settings { tls, ..taking_over("tls", 4) };
    let first = start(&postgres, &settings).await;
    let mut sealed = block_in_place(|| {
        let mut session = ask(first.address);
        session.write_all(&startup_packet()).unwrap();
        until_ready(&mut session);
        session
    });
    let plain = Own::of(&first, 1).await;
    let second = start(&postgres, &settings).await;
    until_it_has(&second, 1).await;
    plain.is_whole().await;
    block_in_place(|| {
        sealed.write_all(b"Q\0\0\0\x0dselect 1\0").unwrap();
        until_ready(&mut sealed);
    });
    assert_eq!(clients_of(&second), 1);
    drop(sealed);
    ended(first).await;
    plain.is_whole().await;
    second.stop().await;
}
