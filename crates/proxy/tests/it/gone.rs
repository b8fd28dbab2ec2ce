//! Clients that close their connection while a server waits for them.

use crate::pooled::{direct, pooled};
use crate::postgres::Postgres;
use crate::raw_client::RawClient;
use crate::setup::{Proxy, view};
use proxy::ClientAuth;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_in_the_middle_leaves_nothing_open() {
    let postgres = Postgres::started();
    let proxy =
        Proxy::start_with(pooled(2, ClientAuth::Trust), view(1, 1, Some(postgres.as_node("n1")))).await;
    let watcher = direct(&postgres).await;
    watcher.batch_execute("create table t (a int)").await.unwrap();
    let copy = b"Q\0\0\0\x16copy t from stdin\0";
    let copy_extended =
        b"P\0\0\0\x1a\0copy t from stdin\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0H\0\0\0\x04";
    let pipeline = b"P\0\0\0\x20\0insert into t values (3)\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0H\0\0\0\x04";
    let row = b"d\0\0\0\x061\n";
    for (name, first, then) in [
        ("nothing of a COPY", &copy[..], &b""[..]),
        ("a row of it", copy, row),
        ("half a row", copy, &row[..6]),
        ("the same by the extended protocol", copy_extended, row),
        ("a pipeline without its end", pipeline, b""),
    ] {
        let mut client = RawClient::logged_in(proxy.address).await;
        client.stream.write_all(first).await.unwrap();
        sleep(Duration::from_millis(200)).await;
        // What is unread would make the end a reset, which is noticed otherwise.
        assert!(client.stream.read(&mut [0; 1_024]).await.unwrap() > 0);
        client.stream.write_all(then).await.unwrap();
        drop(client);
        let rest = "select count(*) from pg_stat_activity where xact_start is not null and pid <> pg_backend_pid() \
                    and backend_type = 'client backend'";
        let nothing_is_left = async {
            while watcher.query_one(rest, &[]).await.unwrap().get::<_, i64>(0) > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, nothing_is_left).await.unwrap_or_else(|_| panic!("{name}: a transaction stays open"));
    }
    let rows: i64 = watcher.query_one("select count(*) from t", &[]).await.unwrap().get(0);
    assert_eq!(rows, 0, "nothing of it is committed");
    proxy.stop().await;
}
