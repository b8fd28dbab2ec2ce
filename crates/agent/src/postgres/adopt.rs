//! Data that were there before the cluster: what held for their clients, their configuration files, and whether a standby's WAL is
//! the primary's.

use super::configuration::{INCLUDES, Upstream};
use super::connection::{connect_to, within};
use super::history::segment_name;
use super::{PgError, Place, files};
use cluster::configuration::Content;
use cluster::{Lsn, Timeline};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `pgkeel adopt` leaves for the agent, in its directory.
pub const FOUND: &str = "adopt.json";
/// Ending of a configuration file that was set aside.
const BEFORE: &str = "before-pgkeel";
/// As many bytes of WAL are compared at once.
const PIECE_BYTES: u64 = 4 * 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(10);

/// Parameters and rules that `pgkeel adopt` has found in force; none when a person has written the configuration file.
///
/// # Errors
/// When the file makes no sense.
pub fn found(dir: &Path) -> Result<Content, PgError> {
    let path = dir.join(FOUND);
    match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Content::default()),
        Err(e) => Err(PgError::file("read", &path)(e)),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| PgError::Unexpected(format!("{} is damaged: {e}", path.display()))),
    }
}

/// Sets the configuration files aside that somebody else wrote: what they said is in the record, or in the node's own file.
///
/// # Errors
/// When one cannot be moved.
pub fn set_configuration_aside(place: &Place) -> Result<(), PgError> {
    if is_ours(place) {
        return Ok(());
    }
    let main = place.data().join("postgresql.conf");
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        let path = place.data().join(name);
        if path.exists() {
            let aside = free_name(place.data(), name);
            tracing::info!("{} is set aside as {}", path.display(), aside.display());
            files::rename(&path, &aside)?;
        }
    }
    let text = "# Parameters are set by pgkeel config set, or by [postgres.settings] in this node's configuration file.\n";
    files::replace(&main, text, place.owner())
}

fn free_name(data: &Path, name: &str) -> PathBuf {
    let plain = data.join(format!("{name}.{BEFORE}"));
    let numbered = (2..).map(|number| data.join(format!("{name}.{BEFORE}-{number}")));
    std::iter::once(plain).chain(numbered).find(|path| !path.exists()).unwrap_or_else(|| data.join(name))
}

/// Whether its configuration was written by pgkeel.
#[must_use]
pub fn is_ours(place: &Place) -> bool {
    let main = place.data().join("postgresql.conf");
    std::fs::read(&main).is_ok_and(|text| text.ends_with(INCLUDES.as_bytes()))
}

/// A stretch of WAL.
#[derive(Clone, Copy, Debug)]
pub struct Wal {
    /// Its timeline.
    pub timeline: Timeline,
    /// Where it begins: at the record of a checkpoint.
    pub from: Lsn,
    /// Where it ends.
    pub to: Lsn,
    /// Length of a segment, in bytes.
    pub segment_bytes: u64,
}

/// How a standby's WAL compares with the primary's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// It is the same, byte by byte.
    Same,
    /// The primary has something else there, or nothing yet.
    Other,
    /// The primary has removed it.
    Removed,
}

/// Compares what this standby holds since its last checkpoint with what the primary has there.
///
/// That is enough. The record of the checkpoint has its time and the next transaction: two servers that wrote for themselves have not
/// made the same one. Before it, each record's position and checksum is in the one that follows. After it, all is looked at: the end
/// alone may be nothing but zeros, where a segment was left early.
///
/// # Errors
/// When one of them cannot be read.
pub async fn compare(place: &Place, primary: &Upstream, wal: &Wal) -> Result<Compared, PgError> {
    let client = connect_to(primary, LIMIT).await?;
    // Up to there the primary has flushed it: later bytes of a segment may be of an older use of the file.
    let flushed = "select not pg_is_in_recovery() and pg_current_wal_flush_lsn() >= $1::text::pg_lsn";
    let to = wal.to.to_string();
    let asked = async { client.query_one(flushed, &[&to]).await };
    if !within("asking the primary how far it is", LIMIT, asked).await?.try_get::<_, bool>(0)? {
        return Ok(Compared::Other);
    }
    let mut at = wal.from.0;
    while at < wal.to.0 {
        let name =
            format!("pg_wal/{}", segment_name(wal.timeline, at / wal.segment_bytes, wal.segment_bytes));
        let offset = at % wal.segment_bytes;
        let length = PIECE_BYTES.min(wal.to.0 - at).min(wal.segment_bytes - offset);
        let own = read_piece(&place.data().join(&name), offset, length)?;
        let query = "select pg_read_binary_file($1, $2, $3, true)";
        let (start, count) = (i64::try_from(offset).unwrap_or(0), i64::try_from(length).unwrap_or(0));
        let asked = async { client.query_one(query, &[&name, &start, &count]).await };
        let row = within("reading the primary's WAL", LIMIT, asked).await?;
        match row.try_get::<_, Option<Vec<u8>>>(0)? {
            None => return Ok(Compared::Removed),
            Some(theirs) if theirs != own => return Ok(Compared::Other),
            Some(_) => at += length,
        }
    }
    Ok(Compared::Same)
}

fn read_piece(path: &Path, offset: u64, length: u64) -> Result<Vec<u8>, PgError> {
    let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
    let read = std::fs::File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut piece)
    });
    read.map_err(PgError::file("read", path))?;
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_wrote_is_kept_and_what_is_ours_stays() {
        let root = std::env::temp_dir().join(format!("pgkeel-adopt-{}", std::process::id()));
        let place = Place::under(&root);
        let file = |name: &str| place.data().join(name);
        std::fs::create_dir_all(place.data()).unwrap();
        std::fs::write(file("postgresql.conf"), "port = 1\n").unwrap();
        std::fs::write(file("pg_hba.conf"), "local all all trust\n").unwrap();
        std::fs::write(file("pg_hba.conf.before-pgkeel"), "older").unwrap();
        set_configuration_aside(&place).unwrap();
        let read = |name: &str| std::fs::read_to_string(file(name)).unwrap_or_default();
        assert_eq!(read("postgresql.conf.before-pgkeel"), "port = 1\n");
        assert_eq!(read("pg_hba.conf.before-pgkeel"), "older");
        assert_eq!(read("pg_hba.conf.before-pgkeel-2"), "local all all trust\n");
        assert!(read("postgresql.conf").starts_with('#') && !file("pg_hba.conf").exists());
        std::fs::write(file("postgresql.conf"), format!("# ours\n{INCLUDES}")).unwrap();
        set_configuration_aside(&place).unwrap();
        assert!(!file("postgresql.conf.before-pgkeel-2").exists());
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn what_was_found_is_read_and_nothing_is_nothing() {
        let dir = std::env::temp_dir().join(format!("pgkeel-found-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(found(&dir).unwrap(), Content::default());
        std::fs::write(dir.join(FOUND), r#"{"parameters":{"work_mem":"8MB"},"hba":[]}"#).unwrap();
        assert_eq!(found(&dir).unwrap().parameters["work_mem"], "8MB");
        std::fs::write(dir.join(FOUND), "{").unwrap();
        assert!(found(&dir).unwrap_err().to_string().contains(FOUND));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
