//! A client's connection to a server or a proxy, and what it is told when something fails.

use std::fmt;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name, an address, or the absolute path of the directory of a Unix socket.
    pub host: String,
    /// The port; of a Unix socket the number in its name.
    pub port: u16,
}

impl Address {
    /// This host's loopback address.
    #[must_use]
    pub fn loopback(port: u16) -> Address {
        Address { host: "127.0.0.1".to_owned(), port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.host, self.port)
    }
}

/// What it says when it is asked for a password, which the demo's servers do not do.
pub const PASSWORD: &str = "demo";

/// A connection, which ends when this is dropped.
#[derive(Debug)]
pub struct Session {
    /// Sends statements.
    pub client: Client,
    connection: JoinHandle<()>,
}

impl Session {
    /// Connects as the superuser.
    ///
    /// # Errors
    /// When there is no connection, or it is refused.
    pub async fn open(address: &Address) -> Result<Session, tokio_postgres::Error> {
        Session::open_with(address, "").await
    }

    /// The same with settings for the session, written as on a server's command line ("-c name=value").
    ///
    /// # Errors
    /// When there is no connection, or it is refused.
    pub async fn open_with(address: &Address, settings: &str) -> Result<Session, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&address.host)
            .port(address.port)
            .user("postgres")
            .password(PASSWORD)
            .dbname("postgres")
            .application_name("pgkeel demo");
        if !settings.is_empty() {
            config.options(settings);
        }
        let (client, connection) = config.connect(NoTls).await?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Session { client, connection })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The whole chain of an error: tokio-postgres hides the server's words in the source.
#[must_use]
pub fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{}: {} ({})", error.severity(), error.message(), error.code().code()),
        None => {
            let source =
                std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
            format!("{error}{source}")
        }
    }
}
