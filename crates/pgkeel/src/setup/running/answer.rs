//! What a running server says of itself, in one answer.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// One row with one JSON object.
pub(super) const QUESTION: &str = "
select json_build_object(
  'superuser', current_setting('is_superuser') = 'on',
  'has_role', exists (select from pg_roles where rolname = 'postgres' and rolsuper and rolcanlogin),
  'version', current_setting('server_version_num')::int / 10000,
  'system_identifier', (select system_identifier::text from pg_control_system()),
  'in_recovery', pg_is_in_recovery(),
  'port', current_setting('port')::int,
  'listen_addresses', current_setting('listen_addresses'),
  'socket_dirs', current_setting('unix_socket_directories'),
  'wal_level', current_setting('wal_level'),
  'sync_names', current_setting('synchronous_standby_names'),
  'slot', current_setting('primary_slot_name'),
  'config_file', current_setting('config_file'),
  'hba_file', current_setting('hba_file'),
  'ident_file', current_setting('ident_file'),
  'tablespaces', (select coalesce(json_agg(spcname), '[]') from pg_tablespace where spcname !~ '^pg_'),
  'streams', exists (select from pg_stat_wal_receiver where status = 'streaming'),
  'standbys', (select coalesce(json_agg(concat_ws(' at ', application_name, host(client_addr))), '[]')
                 from pg_stat_replication where state in ('streaming', 'catchup')),
  'settings', (select coalesce(json_object_agg(name, current_setting(name)), '{}') from pg_settings
                where source in ('configuration file', 'command line', 'environment variable')
                  and coalesce(sourcefile, '') !~ 'postgresql.auto.conf$'))";

/// The answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    superuser: bool,
    has_role: bool,
    /// Its major version.
    pub version: u32,
    system_identifier: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Its port.
    pub port: u16,
    /// Where it listens.
    pub listen_addresses: String,
    /// Where its sockets are, separated by commas.
    pub socket_dirs: String,
    /// How much its WAL tells.
    pub wal_level: String,
    /// Whom its commits wait for.
    pub sync_names: String,
    /// The slot that a standby uses on its primary.
    pub slot: String,
    /// Its configuration file.
    pub config_file: String,
    /// Its rules.
    pub hba_file: String,
    /// Its maps of user names.
    pub ident_file: String,
    tablespaces: Vec<String>,
    /// A standby that streams.
    pub streams: bool,
    /// Who streams from it.
    pub standbys: Vec<String>,
    /// What its configuration files and its command line set.
    pub settings: BTreeMap<String, String>,
}

impl Answer {
    pub(super) fn read(text: &str) -> Result<Answer, serde_json::Error> {
        serde_json::from_str(text.trim())
    }

    /// The identity of its database; 0: it told none.
    #[must_use]
    pub fn system_identifier(&self) -> u64 {
        self.system_identifier.parse().unwrap_or(0)
    }

    /// What speaks against taking it over, whether it is a primary or a standby.
    pub(super) fn check(&self, data_dir: &Path) -> Result<(), String> {
        let shown = data_dir.display();
        if !self.superuser {
            return Err(format!(
                "the server of {shown} does not tell everything to this user: name a superuser by PGUSER"
            ));
        }
        if !self.has_role {
            return Err(format!(
                "the server of {shown} has no superuser called postgres, as whom pgkeel asks it (over its own socket, as the \
                 server's user): create role postgres superuser login"
            ));
        }
        if !self.tablespaces.is_empty() {
            return Err(format!(
                "the server of {shown} has tablespaces outside of it ({}), which a copy of the data directory would leave out: move \
                 their tables into pg_default first",
                self.tablespaces.join(", ")
            ));
        }
        Ok(())
    }
}
