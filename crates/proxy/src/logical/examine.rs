//! Asks a server that is kept whether there is still a reason to: temporary tables are dropped, locks released, and most
//! functions leave nothing behind.

use super::channels::{MOVED_MAX, TELLS_CHANNEL};
use super::expected::{Expected, Found};
use super::holding::Unnamed;
use super::{Holding, Logical};
use crate::portable::question_sql;
use crate::sql::{Pin, Pins};
use pgwire::message::put_query;

/// Procedural languages whose functions may keep something in the session that no catalog shows, and the functions that
/// open a connection for the session.
const KEEPERS: &str = "
UNION ALL SELECT 'language' FROM pg_catalog.pg_language g
  WHERE g.lanname OPERATOR(pg_catalog.<>) ALL (ARRAY['internal', 'c', 'sql', 'plpgsql']::pg_catalog.name[])
UNION ALL SELECT 'connection' FROM pg_catalog.pg_proc k
  WHERE k.proname OPERATOR(pg_catalog.=) 'dblink_connect'";

impl Found {
    /// Takes a row of the answer, which has one column.
    pub(super) fn note(&mut self, row: &[u8]) {
        match row.get(6..).and_then(|text| text.strip_prefix(TELLS_CHANNEL)) {
            Some(channel) if self.channels.len() <= MOVED_MAX => self.channels.push(channel.into()),
            Some(_) | None => self.obstacle = true,
        }
    }
}

impl Logical {
    /// Whether it is worth asking: the client is quiet, the server can tell, and something has happened since the last
    /// time.
    #[must_use]
    pub fn can_examine(&self, holding: &Holding) -> bool {
        !self.examined && self.pins.can_be_examined() && self.is_quiet() && holding.is_clean()
    }

    /// Asks. The answer takes the reasons away, or not.
    pub fn examine(&mut self, holding: &mut Holding, to_server: &mut Vec<u8>) {
        // What is known of a setting may be older than how it was changed in passing: the server would be given back with
        // that, and the client's next one with what is known.
        let is_certain = |name: &&str| !self.pins.has(Pin::Setting) || *name == "application_name";
        let names = holding.in_place.names().filter(is_certain);
        let names: Vec<String> = names.map(|name| format!("'{}'", name.replace('\'', "''"))).collect();
        let exempt = match names.is_empty() {
            true => "false".to_owned(),
            false => format!(
                "pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.text[])",
                names.join(",")
            ),
        };
        let keepers = if self.pins.has(Pin::Function) { KEEPERS } else { "" };
        // Who listens may be asked for all its channels; one row more shows that there are too many.
        let (channel, rows) = match self.pins.has(Pin::Listening) {
            true => ("pg_catalog.concat('listening:', l)", MOVED_MAX + 1),
            false => ("'listening'", 1),
        };
        let sql = question_sql(&exempt, "NOT p.from_sql", channel) + keepers;
        put_query(format!("{sql}\nLIMIT {rows}").as_bytes(), to_server);
        holding.unnamed = Unnamed::Nothing;
        self.examined = true;
        self.expected.push_back(Expected::Examination { found: Found::default() });
    }

    /// The answer is there. A client that has sent something meanwhile goes on as before.
    pub(super) fn examination_ended(&mut self, found: Found, holding: &mut Holding) {
        let channels_max = MOVED_MAX.saturating_sub(self.shared_channels());
        let is_left = found.obstacle
            || !Logical::can_move(&found.channels)
            || !found.channels.is_empty() && found.channels.len() > channels_max;
        if !is_left && self.expected.is_empty() && !self.unsynced {
            self.pins = Pins::NONE;
            if !found.channels.is_empty() {
                self.pins.add(Pin::Listening);
                self.offer_channels(found.channels);
            }
            // It would have been found: SET SESSION AUTHORIZATION has ended it.
            self.settings.reset("role");
            holding.in_place.reset("role");
            // Those that are known may have been changed: for the next one they are set anew.
            holding.in_place.distrust();
        }
    }
}
