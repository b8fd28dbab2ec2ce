//! The agent's own connection to its server, over the Unix socket.

use super::configuration::Upstream;
use super::{PgError, Place, REPLICATION_ROLE, SUPERUSER};
use std::time::Duration;
use tokio_postgres::{Client, Config, NoTls};

/// A connection to the server for the agent's own questions; its driver task ends with it.
///
/// # Errors
/// When the server refuses, is starting, or does not answer within `limit`.
pub async fn connect(place: &Place, limit: Duration) -> Result<Client, PgError> {
    let mut config = Config::new();
    config
        .host_path(place.socket_dir())
        .port(place.settings.port)
        .user(SUPERUSER)
        .dbname("postgres")
        .application_name("pgkeel agent")
        // The agent never waits for a standby, and no default of the user's may stop its questions.
        .options("-c synchronous_commit=local -c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off");
    let slow = || PgError::Slow { doing: "connecting to the server".into(), limit_s: limit.as_secs() };
    let (client, connection) =
        tokio::time::timeout(limit, config.connect(NoTls)).await.map_err(|_| slow())??;
    tokio::spawn(async move {
        // An error here also fails the query under way, which reports it.
        let _ = connection.await;
    });
    Ok(client)
}

/// A connection to another node's server, as the replication role.
///
/// # Errors
/// When the server cannot be reached within `limit`, or refuses.
pub async fn connect_to(upstream: &Upstream, limit: Duration) -> Result<Client, PgError> {
    let mut config = Config::new();
    config
        .host(&upstream.address.host)
        .port(upstream.address.port)
        .user(REPLICATION_ROLE)
        .password(&upstream.password)
        .dbname("postgres")
        .application_name("pgkeel agent");
    let slow = || PgError::Slow {
        doing: format!("connecting to the server of {}", upstream.node),
        limit_s: limit.as_secs(),
    };
    let (client, connection) =
        tokio::time::timeout(limit, config.connect(NoTls)).await.map_err(|_| slow())??;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

/// Runs a future that talks to the server, within `limit`.
///
/// # Errors
/// Its own error, or that it was too slow.
pub async fn within<T, E>(
    doing: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, PgError>
where
    PgError: From<E>,
{
    let slow = PgError::Slow { doing: doing.to_owned(), limit_s: limit.as_secs() };
    Ok(tokio::time::timeout(limit, work).await.map_err(|_| slow)??)
}
