//! Without agents: the primary is found among servers that something else manages.

use crate::pooled::pooled;
use crate::postgres::Postgres;
use crate::setup::{Proxy, server_port, settings};
use proxy::{ClientAuth, Lookup, Settings};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(30);

fn in_front_of(servers: &[(&str, &Postgres)], settings: Settings) -> Settings {
    let ask_as = Lookup { user: "postgres".to_owned(), password: None, database: "postgres".to_owned() };
    let servers = servers.iter().map(|(name, postgres)| postgres.as_node(name)).collect();
    Settings { servers, ask_as: Some(ask_as), ..settings }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_is_found_and_followed_and_an_old_one_is_not_believed() {
    let one = Postgres::started();
    let two = one.standby();
    let given = [("two", &two), ("one", &one)];
    let pooled_proxy = Proxy::start_alone(in_front_of(&given, pooled(3, ClientAuth::Trust))).await;
    let session_proxy = Proxy::start_alone(in_front_of(&given, settings())).await;
    let client = pooled_proxy.client().await;
    assert_eq!(server_port(&client).await, one.port);
    assert_eq!(server_port(&session_proxy.client().await).await, one.port);
    client.batch_execute("set work_mem = '7MB'").await.unwrap();

    one.stop_immediately();
    two.promote();
    // The same client goes on where writes are taken now, with its setting.
    let row = timeout(LIMIT, client.query_one("select inet_server_port(), current_setting('work_mem')", &[]));
    let row = row.await.unwrap().unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (i32::from(two.port), "7MB"));
    assert_eq!(server_port(&session_proxy.client().await).await, two.port);

    one.start();
    sleep(Duration::from_secs(2)).await;
    client.batch_execute("create table written_where (a int)").await.unwrap();
    assert_eq!(server_port(&client).await, two.port);
    assert_eq!(server_port(&session_proxy.client().await).await, two.port);
    two.stop_immediately();
    let asked = timeout(Duration::from_secs(2), client.query_one("select 1", &[])).await;
    assert!(asked.is_err(), "it waits for the primary: nothing goes to the one that was left");
    two.start();
    timeout(LIMIT, pooled_proxy.client())
        .await
        .unwrap()
        .batch_execute("drop table written_where")
        .await
        .unwrap();
    pooled_proxy.stop().await;
    session_proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_alone_needs_no_question() {
    let postgres = Postgres::started();
    let alone = Settings { servers: vec![postgres.as_node("one")], ..pooled(2, ClientAuth::Trust) };
    let proxy = Proxy::start_alone(alone).await;
    assert_eq!(server_port(&proxy.client().await).await, postgres.port);
    proxy.stop().await;
}
