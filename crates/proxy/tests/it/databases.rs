//! Statements that need a database on which there is nobody.

use crate::pooled::{direct, pooled, servers};
use crate::postgres::Postgres;
use crate::setup::{Proxy, view};
use proxy::{ClientAuth, Settings};
use std::net::SocketAddr;
use tokio_postgres::{Client, NoTls};

async fn client_of(proxy: SocketAddr, database: &str) -> Client {
    let config = format!("host=127.0.0.1 port={} user=postgres dbname={database}", proxy.port());
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_servers_leave_a_database_that_is_to_be_dropped_copied_or_renamed() {
    let postgres = Postgres::started();
    let settings = Settings { workers: 2, ..pooled(8, ClientAuth::Trust) };
    let proxy = Proxy::start_with(settings, view(1, 1, Some(postgres.as_node("n1")))).await;
    let client = proxy.client().await;
    client.batch_execute("create database shop").await.unwrap();
    // Its clients are connected still, on each of the workers.
    let mut others = Vec::new();
    for _ in 0..12 {
        let other = client_of(proxy.address, "shop").await;
        other.batch_execute("select 1").await.unwrap();
        others.push(other);
    }
    // A worker may just have closed what was idle, because a database was made.
    let looks = direct(&postgres).await;
    while servers(&looks).await <= 1 {
        for other in &others {
            other.batch_execute("select 1").await.unwrap();
        }
    }
    drop(looks);
    client.batch_execute("create database copy template shop").await.unwrap();
    for other in &others {
        other.batch_execute("create table if not exists t (a int)").await.unwrap();
    }
    client.batch_execute("alter database shop rename to store").await.unwrap();
    client_of(proxy.address, "store").await.batch_execute("table t").await.unwrap();
    client.batch_execute("drop database store").await.unwrap();
    client.batch_execute("drop database copy").await.unwrap();
    let error = others[0].batch_execute("select 1").await.unwrap_err();
    assert!(error.to_string().contains("does not exist") || error.as_db_error().is_some(), "{error}");
    proxy.stop().await;
}
