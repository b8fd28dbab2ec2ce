//! Settings are read again while clients are connected: by RELOAD at the console, and when the process is told to.

use crate::console::{named, say, show, until, with_console};
use crate::pooled::pooled;
use crate::postgres::{Postgres, psql_as};
use crate::setup::{Proxy, view};
use proxy::{ClientAuth, Reload, Settings};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// What the proxy finds when it reads its settings again.
#[derive(Clone)]
struct File(Arc<Mutex<Result<Settings, String>>>);

impl File {
    fn change(&self, change: impl FnOnce(&mut Settings)) {
        let mut file = self.0.lock().unwrap();
        change(file.as_mut().unwrap());
    }
}

async fn start(postgres: &Postgres, settings: Settings) -> (Proxy, File, watch::Sender<u64>) {
    let settings = with_console(settings);
    let file = File(Arc::new(Mutex::new(Ok(settings.clone()))));
    let (ask, asked) = watch::channel(0);
    let read = file.clone();
    let reload = Reload { reader: Arc::new(move || read.0.lock().unwrap().clone()), asked };
    let first = view(1, 1, Some(postgres.as_node("n1")));
    (Proxy::start_reloading(settings, reload, first).await, file, ask)
}

fn setting(proxy: &Proxy, key: &str) -> String {
    let table = show(proxy, "CONFIG");
    table.iter().find(|row| row["key"] == key).unwrap()["value"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larger_pool_serves_who_waits_and_a_smaller_one_ends_nobody() {
    let postgres = Postgres::started();
    let (proxy, file, _ask) = start(&postgres, pooled(1, ClientAuth::Trust)).await;
    let (first, second) = (named(&proxy, "first").await, named(&proxy, "second").await);
    first.batch_execute("begin; create temp table kept as select 7 as seven").await.unwrap();
    let waits = tokio::spawn(async move {
        second.batch_execute("begin; select 1").await.unwrap();
        second
    });
    until(&proxy, "CLIENTS", |row| row["application_name"] == "second" && row["state"] == "waiting").await;
    file.change(|settings| settings.pool.as_mut().unwrap().servers_max = 2);
    say(&proxy, "RELOAD").unwrap();
    assert_eq!(setting(&proxy, "pool_size"), "2");
    let second = waits.await.unwrap();
    file.change(|settings| settings.pool.as_mut().unwrap().servers_max = 1);
    say(&proxy, "RELOAD").unwrap();
    let kept = first.query_one("select seven from kept", &[]).await.unwrap();
    assert_eq!(kept.get::<_, i32>(0), 7);
    second.batch_execute("commit").await.unwrap();
    first.batch_execute("commit").await.unwrap();
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_changes_nothing_and_is_told() {
    let postgres = Postgres::started();
    let (proxy, file, ask) = start(&postgres, pooled(1, ClientAuth::Trust)).await;
    let look = |user: &str| psql_as(proxy.address.port(), (user, ""), "pgkeel", "show version");
    assert!(look("ann").unwrap_err().contains("ann"), "she may not look");
    file.change(|settings| settings.console.viewers.push("ann".to_owned()));
    ask.send_modify(|times| *times += 1);
    until(&proxy, "CONFIG", |row| row["value"].ends_with(", ann")).await;
    look("ann").unwrap();
    *file.0.lock().unwrap() = Err("line 3: hold: \"soon\" is no time".to_owned());
    let told = say(&proxy, "RELOAD").unwrap_err();
    assert!(told.contains("line 3: hold") && told.contains("pgkeel config check"), "{told}");
    ask.send_modify(|times| *times += 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    look("ann").unwrap();
    proxy.stop().await;
}
