//! SCRAM against PostgreSQL's own: as a client, and as a server whose clients are passed on without their password.

use crate::postgres::Postgres;
use pgwire::scram::{Client, ClientChannel, ClientKey, Mechanism, Secret, Server, ServerChannel, Verifier};
use pgwire::{WholeMessage, WholeMessages};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

pub const NONCE: &str = "abcdefghijklmnopqrstuvwx";

/// A client that logs in by hand.
pub struct Raw {
    stream: TcpStream,
    messages: WholeMessages,
}

impl Raw {
    /// Sends a start-up packet for the database `postgres`.
    pub async fn begin(stream: TcpStream, user: &str) -> Raw {
        Raw::begin_with(stream, 0, &format!("user\0{user}\0database\0postgres\0")).await
    }

    /// The same with another minor version of the protocol, and these parameters.
    pub async fn begin_with(stream: TcpStream, minor: u8, parameters: &str) -> Raw {
        let mut raw = Raw { stream, messages: WholeMessages::default() };
        raw.say(None, &[&[0, 3, 0, minor], parameters.as_bytes(), b"\0"].concat()).await;
        raw
    }

    /// Chooses a mechanism, with the first message of it.
    pub async fn choose(&mut self, mechanism: &str, first: &[u8]) {
        let length = (first.len() as u32).to_be_bytes();
        self.say(Some(b'p'), &[mechanism.as_bytes(), b"\0", &length, first].concat()).await;
    }

    pub async fn hear(&mut self) -> WholeMessage {
        loop {
            if let Some(message) = self.messages.take().unwrap() {
                return message;
            }
            let mut bytes = Vec::new();
            assert!(self.stream.read_buf(&mut bytes).await.unwrap() > 0, "the server closed");
            self.messages.push(&bytes);
        }
    }

    /// The beginning of a message that says it is so long.
    pub async fn say_header(&mut self, kind: u8, len: u32) {
        self.stream.write_all(&[&[kind], &len.to_be_bytes()[..]].concat()).await.unwrap();
    }

    pub async fn say(&mut self, kind: Option<u8>, body: &[u8]) {
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        message.extend_from_slice(body);
        self.stream.write_all(&message).await.unwrap();
    }
}

/// Logs in as `ann`; the last message of the server's.
async fn log_in(port: u16, secret: Secret) -> WholeMessage {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut raw = Raw::begin(stream, "ann").await;
    assert_eq!(raw.hear().await.body(), b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    let client = Client::new(secret, ClientChannel::Open, NONCE);
    raw.choose("SCRAM-SHA-256", &client.first()).await;
    let challenge = raw.hear().await;
    assert_eq!(challenge.body()[..4], [0, 0, 0, 11]);
    let (proving, last) = client.prove(&challenge.body()[4..]).unwrap();
    raw.say(Some(b'p'), &last).await;
    let outcome = raw.hear().await;
    if outcome.kind() == b'R' {
        proving.finish(&outcome.body()[4..]).unwrap();
        return raw.hear().await;
    }
    outcome
}

/// What the proxy learns of a client that knows the password.
fn learn(password: &[u8], verifier: &Verifier) -> ClientKey {
    let client = Client::new(Secret::Password(password.to_vec()), ClientChannel::Open, NONCE);
    let begun =
        Server::begin(&client.first(), Mechanism::Plain, &ServerChannel::Open, verifier.clone(), NONCE);
    let begun = begun.unwrap();
    let (_, last) = client.prove(&begun.answer).unwrap();
    begun.server.finish(&last).unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_checked_here_is_logged_in_there_without_its_password() {
    let postgres = Postgres::started();
    let config = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", postgres.port);
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("create role ann login password 'pen cil'").await.unwrap();
    postgres.ask_passwords_of("ann");
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let row = client.query_one("select rolpassword from pg_authid where rolname = 'ann'", &[]).await.unwrap();
    let verifier = Verifier::parse(row.get(0)).unwrap();

    let welcome = log_in(postgres.port, Secret::Password(b"pen cil".to_vec())).await;
    assert_eq!((welcome.kind(), welcome.body()), (b'R', &[0, 0, 0, 0][..]));
    let refused = log_in(postgres.port, Secret::Password(b"pencil".to_vec())).await;
    assert_eq!(refused.kind(), b'E');
    let key = learn(b"pen cil", &verifier);
    let welcome = log_in(postgres.port, Secret::Key(key, verifier)).await;
    assert_eq!((welcome.kind(), welcome.body()), (b'R', &[0, 0, 0, 0][..]));
}
