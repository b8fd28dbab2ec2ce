//! The primary is lost under clients of the pooled mode: their connections go on, and each is told once what it lost.

use crate::pooled::{pooled, text};
use crate::postgres::Postgres;
use crate::raw_client::RawClient;
use crate::setup::{Proxy, handing_over, view};
use proxy::ClientAuth;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

const UNKNOWN: &SqlState = &SqlState::ADMIN_SHUTDOWN;
const ROLLED_BACK: &SqlState = &SqlState::T_R_SERIALIZATION_FAILURE;

struct Pair {
    old: Postgres,
    new: Postgres,
    proxy: Proxy,
}

/// Two servers that stand for a primary and its replica: both have the table, which is empty.
async fn pair() -> Pair {
    let (old, new) = (Postgres::started(), Postgres::started());
    let settings = pooled(8, ClientAuth::Trust);
    for postgres in [&new, &old] {
        let proxy =
            Proxy::start_with(pooled(1, ClientAuth::Trust), view(1, 1, Some(postgres.as_node("n1")))).await;
        proxy.client().await.batch_execute("create table t (a int)").await.unwrap();
        proxy.stop().await;
    }
    let proxy = Proxy::start_with(settings, view(1, 1, Some(old.as_node("n1")))).await;
    Pair { old, new, proxy }
}

impl Pair {
    fn fail_over(&self) {
        self.old.stop_immediately();
        self.proxy.agent.publish(view(2, 2, None));
        self.proxy.agent.publish(view(2, 3, Some(self.new.as_node("n2"))));
    }

    /// As a switchover whose patience with open transactions has ended.
    fn hand_over(&self) {
        self.proxy.agent.publish(handing_over(1, 2, self.old.as_node("n1")));
        std::thread::sleep(Duration::from_millis(200));
        self.old.stop_in_order();
        self.proxy.agent.publish(view(2, 3, Some(self.new.as_node("n2"))));
    }
}

fn code(error: &Error) -> Option<&SqlState> {
    error.code()
}

async fn rows(client: &Client) -> String {
    text(client, "select count(*)::text from t").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_transaction_is_one_error_and_the_connection_goes_on() {
    for in_order in [false, true] {
        let pair = pair().await;
        let client = pair.proxy.client().await;
        client.batch_execute("set work_mem = '3MB'; ").await.unwrap();
        client.batch_execute("begin; insert into t values (1)").await.unwrap();
        match in_order {
            true => pair.hand_over(),
            false => pair.fail_over(),
        }
        let error = client.batch_execute("commit").await.unwrap_err();
        assert_eq!(code(&error), Some(ROLLED_BACK), "{error:?}");
        // A script that does not look at errors writes nothing outside of its transaction.
        let error = client.batch_execute("insert into t values (2)").await.unwrap_err();
        assert_eq!(code(&error), Some(&SqlState::IN_FAILED_SQL_TRANSACTION), "{error:?}");
        client.batch_execute("rollback").await.unwrap();
        client.batch_execute("begin; insert into t values (3); commit").await.unwrap();
        assert_eq!(
            (rows(&client).await.as_str(), text(&client, "show work_mem").await.as_str()),
            ("1", "3MB")
        );
        pair.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_told_while_it_runs() {
    let pair = pair().await;
    let (alone, inside, statement) =
        (pair.proxy.client().await, pair.proxy.client().await, pair.proxy.client().await);
    let prepared = statement.prepare("select count(*)::text from t, pg_sleep($1)").await.unwrap();
    inside.batch_execute("begin").await.unwrap();
    let tasks = [
        tokio::spawn(async move { (alone.batch_execute("select pg_sleep(20)").await.unwrap_err(), alone) }),
        tokio::spawn(async move { (inside.batch_execute("select pg_sleep(20)").await.unwrap_err(), inside) }),
        tokio::spawn(async move { (statement.query(&prepared, &[&20.0]).await.unwrap_err(), statement) }),
    ];
    tokio::time::sleep(Duration::from_millis(300)).await;
    pair.fail_over();
    for (task, expected) in tasks.into_iter().zip([UNKNOWN, ROLLED_BACK, UNKNOWN]) {
        let (error, client) = task.await.unwrap();
        assert_eq!(code(&error), Some(expected), "{error:?}");
        client.batch_execute("rollback").await.unwrap();
        assert_eq!(rows(&client).await, "0");
    }
    pair.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_only_on_that_server_ends_the_session() {
    let pair = pair().await;
    let mut client = RawClient::logged_in(pair.proxy.address).await;
    client.query("create temp table mine (a int)").await;
    client.hear_until_ready().await;
    pair.fail_over();
    let heard = client.hear_all().await;
    assert!(heard.text().contains("FATAL") && heard.text().contains("57P01"), "{}", heard.text());
    pair.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_terminated_by_hand_ends() {
    let pair = pair().await;
    let (victim, other) = (pair.proxy.client().await, pair.proxy.client().await);
    victim.batch_execute("begin").await.unwrap();
    let pid = text(&victim, "select pg_backend_pid()::text").await;
    other.batch_execute(&format!("select pg_terminate_backend({pid})")).await.unwrap();
    let error = victim.batch_execute("select 1").await.unwrap_err();
    let is_end = error.is_closed() || error.code() == Some(&SqlState::ADMIN_SHUTDOWN);
    assert!(is_end, "{error:?}");
    assert!(victim.batch_execute("select 1").await.is_err(), "its connection has ended");
    pair.proxy.stop().await;
}
