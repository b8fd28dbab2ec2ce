//! What a running server says of itself, in one answer.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// One row with one JSON object. What files set is asked of the files: what holds for a session may be the role's, or the database's.
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
  'watchers', (select coalesce(json_agg(distinct application_name), '[]') from pg_stat_activity
                where application_name ~* '^(patroni|repmgr|stolon|pgautofailover|pg_auto_failover)'),
  'slots', (select count(*) from pg_replication_slots),
  'kept_for_slots', current_setting('max_slot_wal_keep_size'),
  'apply_delay', current_setting('recovery_min_apply_delay'),
  'settings', (select coalesce(json_object_agg(name, value), '{}') from (
    select lower(name) as name, current_setting(name) as value from pg_settings
     where source in ('command line', 'environment variable')
    union all
    select name, value from (
      select distinct on (lower(name)) lower(name) as name,
             case when error is null then setting else current_setting(name, true) end as value
        from pg_file_settings
       where name is not null and sourcefile !~ 'postgresql.auto.conf$'
       order by lower(name), seqno desc) as of_files
     where name not in (select lower(name) from pg_settings where source in ('command line', 'environment variable'))
    ) as given where value is not null))";

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
    watchers: Vec<String>,
    slots: u64,
    kept_for_slots: String,
    apply_delay: String,
    /// What its configuration files and its command line set, by names in small letters.
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

    /// How much WAL its slots may keep, if it has some: they could lose what they need by another bound.
    pub(super) fn kept_for_slots(&self) -> Option<&str> {
        (self.slots > 0).then_some(self.kept_for_slots.as_str())
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
        if let Some(watcher) = self.watchers.first() {
            return Err(format!(
                "{watcher:?} is connected to the server of {shown}: what watches it would promote a standby when it is stopped. End \
                 that on all hosts first, so that its servers run by themselves"
            ));
        }
        if self.in_recovery && self.apply_delay != "0" {
            return Err(format!(
                "the standby of {shown} replays later than it receives (recovery_min_apply_delay = {}): every failover would wait for \
                 it. Set that to 0, reload, and run this again",
                self.apply_delay
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
