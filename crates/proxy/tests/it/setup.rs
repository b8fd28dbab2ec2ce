//! One proxy with one agent, and how tests connect through it.

use crate::agent::Agent;
use crate::postgres::free_port;
use cluster::view::{Server, View};
use proxy::{ConsoleSettings, ProxyError, Reload, ServerTls, Settings};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Connection, NoTls, Socket, tls::NoTlsStream};

pub struct Proxy {
    pub address: SocketAddr,
    pub agent: Agent,
    stop: watch::Sender<bool>,
    running: JoinHandle<Result<(), ProxyError>>,
}

pub fn view(epoch: u64, revision: u64, primary: Option<Server>) -> View {
    let waiting = primary.is_none().then(|| "Waiting for the seal of n3.".to_string());
    View { cluster: "shop".to_string(), epoch, revision, primary, waiting, ..View::default() }
}

/// A view whose primary is about to be replaced in order.
pub fn handing_over(epoch: u64, revision: u64, primary: Server) -> View {
    View { hold: Some("n1 hands over to n2.".to_string()), ..view(epoch, revision, Some(primary)) }
}

pub fn settings() -> Settings {
    Settings {
        cluster: "shop".to_string(),
        listen: vec![SocketAddr::from(([127, 0, 0, 1], free_port()))],
        unix_listen: None,
        agents: Vec::new(),
        hold: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(2),
        startup_timeout: Duration::from_secs(10),
        clients_max: 100,
        workers: 2,
        pool: None,
        tls: None,
        server_tls: ServerTls::Disable,
        console: ConsoleSettings::default(),
        servers: Vec::new(),
        ask_as: None,
        server_sockets: Default::default(),
        peers: Vec::new(),
        takeover: None,
        drain: Duration::from_secs(60),
    }
}

impl Proxy {
    pub async fn start(first: View) -> Proxy {
        Proxy::start_with(settings(), first).await
    }

    pub async fn start_with(mut settings: Settings, first: View) -> Proxy {
        let agent = Agent::start(first).await;
        // The other one never answers, which must not matter.
        settings.agents.extend([format!("127.0.0.1:{}", free_port()), agent.address.to_string()]);
        Proxy::start_beside(settings, None, agent).await
    }

    /// One whose settings are read again when that is asked for.
    pub async fn start_reloading(mut settings: Settings, reload: Reload, first: View) -> Proxy {
        let agent = Agent::start(first).await;
        settings.agents.push(agent.address.to_string());
        Proxy::start_beside(settings, Some(reload), agent).await
    }

    /// One that knows no agent; there is one nevertheless.
    pub async fn start_alone(settings: Settings) -> Proxy {
        Proxy::start_beside(settings, None, Agent::start(View::default()).await).await
    }

    async fn start_beside(settings: Settings, reload: Option<Reload>, agent: Agent) -> Proxy {
        let address = settings.listen[0];
        let (stop, stop_seen) = watch::channel(false);
        let running = match reload {
            Some(reload) => {
                let caller = identity::Caller::plain();
                tokio::spawn(proxy::run_reloading(settings, reload, caller, Default::default(), stop_seen))
            }
            None => tokio::spawn(proxy::run(settings, Default::default(), stop_seen)),
        };
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(!running.is_finished(), "the proxy did not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Proxy { address, agent, stop, running }
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) {
        self.running.await.unwrap().unwrap();
    }

    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.running.await.unwrap().unwrap();
    }

    pub async fn login(&self) -> Result<(Client, Connection<Socket, NoTlsStream>), tokio_postgres::Error> {
        let config = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.address.port());
        tokio_postgres::connect(&config, NoTls).await
    }

    /// A client whose connection runs by itself.
    pub async fn client(&self) -> Client {
        let (client, connection) = self.login().await.unwrap();
        tokio::spawn(connection);
        client
    }
}

/// The port of the server that the client has reached.
pub async fn server_port(client: &Client) -> u16 {
    let row = client.query_one("select inet_server_port()", &[]).await.unwrap();
    u16::try_from(row.get::<_, i32>(0)).unwrap()
}
