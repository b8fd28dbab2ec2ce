//! A proxy in front of one server, for trying it out and for measuring:
//! `front LISTEN SERVER_PORT POOL_SIZE WORKERS [LOOKUP_USER]`. A pool of size 0 is the session mode. In the environment,
//! `FRONT_CERT` and `FRONT_KEY` name files with which clients are offered TLS; with `FRONT_SERVER_TLS` the server must have it,
//! with `FRONT_EPOLL` io_uring is not used.

use cluster::view::Server;
use mimalloc::MiMalloc;
use proxy::{
    ClientAuth, ClientLimits, ClientTls, ClientTlsMode, ConsoleSettings, Io, Lookup, PoolSettings, ServerTls,
    Settings, Verifiers, WholeSessions,
};
use std::sync::Arc;
use std::time::Duration;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, port, size, workers, rest @ ..] = arguments.as_slice() else {
        return eprintln!("usage: front LISTEN SERVER_PORT POOL_SIZE WORKERS [LOOKUP_USER]");
    };
    let (Ok(listen), Ok(port), Ok(size), Ok(workers)) =
        (listen.parse(), port.parse(), size.parse(), workers.parse())
    else {
        return eprintln!("not an address, or not a number");
    };
    let lookup = rest.first().map(|user| Lookup {
        user: user.clone(),
        password: None,
        database: "postgres".to_owned(),
    });
    let auth = lookup.clone().map_or(ClientAuth::Trust, |lookup| ClientAuth::Scram(Verifiers::Role(lookup)));
    let console = ConsoleSettings {
        users: vec!["postgres".to_owned()],
        viewers: Vec::new(),
        verifiers: lookup.map(Verifiers::Role),
    };
    let pool = pool(size, auth);
    let file = |name: &str| std::env::var_os(name).map(std::path::PathBuf::from);
    let pair = file("FRONT_CERT").zip(file("FRONT_KEY"));
    let tls = pair.map(|(cert, key)| ClientTls { mode: ClientTlsMode::Allow, cert, key, ca: None });
    let server_tls = file("FRONT_SERVER_TLS").map_or(ServerTls::Disable, |_| ServerTls::Require);
    // A directory is that of its Unix socket.
    let host = std::env::var("FRONT_SERVER_HOST").unwrap_or_else(|_| "127.0.0.1".to_owned());
    let settings = Settings {
        cluster: "front".to_owned(),
        listen: vec![listen],
        unix_listen: None,
        agents: Vec::new(),
        servers: vec![Server { node: "server".to_owned(), host, port }],
        ask_as: None,
        server_sockets: Default::default(),
        peers: Vec::new(),
        takeover: None,
        drain: Duration::from_secs(60),
        hold: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(2),
        startup_timeout: Duration::from_secs(10),
        clients_max: 10_000,
        workers,
        pool: (size > 0).then_some(pool),
        tls,
        server_tls,
        console,
    };
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map(|runtime| runtime.block_on(proxy::run(settings, Arc::default(), stopped))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("{error}"),
        Err(error) => eprintln!("{error}"),
    }
}

fn pool(size: usize, auth: ClientAuth) -> PoolSettings {
    PoolSettings {
        servers_max: size,
        reserve: 0,
        reserve_after: Duration::from_secs(5),
        servers_min: 0,
        open_max: size + 2,
        query_wait: Duration::from_secs(120),
        notice_after: Duration::from_secs(600),
        idle_max: Duration::from_secs(600),
        age_max: Duration::from_secs(3_600),
        auth,
        limits: ClientLimits::default(),
        whole_sessions: WholeSessions::default(),
        io: if std::env::var_os("FRONT_EPOLL").is_some() { Io::Epoll } else { Io::Auto },
    }
}
