//! Code in the database that runs without being named: behind triggers, views, defaults, operators, policies. If some of it
//! could leave something in a session, every statement may.
//!
//! The server itself is asked, when it is lent for the first time and then once in a while: before the client's statement,
//! and in the same breath. While the answer is not there, the worst is supposed.

use super::expected::Expected;
use super::holding::Unnamed;
use super::{Holding, Logical};
use crate::sql::{Pin, Reading};
use pgwire::message::put_query;

/// What is known of the code in a server's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Unknown,
    /// It leaves nothing behind, as far as its text shows.
    Harmless,
    Suspect,
}

/// What a client may have changed for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Functions, or sequences: what servers said of them may not hold any more.
    pub code: bool,
    /// Relations: who prepares a statement from now on must not get one that was prepared before
    /// (src/backend/utils/cache/plancache.c, RevalidateCachedQuery).
    pub relations: bool,
    /// Databases: it needs one without sessions. Told when it begins, for it waits until they are gone
    /// (src/backend/storage/ipc/procarray.c, CountOtherDBBackends: 5 s).
    pub databases: bool,
}

/// A row `code` if there is a function, beyond those of extensions, that may leave something in the session: a setting (but for
/// the transaction), a lock or a temporary table of the session, a listener, a library, a connection, a state of random
/// numbers; or one in a language that can keep variables.
///
/// It is read as text, by patterns that mean the same with standard_conforming_strings off. What is put together only when
/// it runs is not seen; nor is a body that is kept parsed (BEGIN ATOMIC), but for its calls of set_config, setseed and the
/// locks, by their numbers in src/include/catalog/pg_proc.dat.
///
/// A row `sequence` if there is a sequence: without one, `currval` and `lastval` give nothing.
const QUESTION: &[u8] = br"(SELECT 'code' FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) f.prolang
WHERE f.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid OPERATOR(pg_catalog.=) f.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
  AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass)
AND (l.lanname OPERATOR(pg_catalog.<>) ALL (ARRAY['internal', 'c', 'sql', 'plpgsql']::pg_catalog.name[])
  OR f.prosrc OPERATOR(pg_catalog.~*) E'\\mset_config\\s*\\((?!([^()]|\\([^()]*\\))*,\\s*true\\s*\\))'
  OR f.prosrc OPERATOR(pg_catalog.~*) E'(^|;|''|\\$|\\m(begin|then|else|loop|execute)\\M)\\s*(set\\s+(?!(local|transaction|constraints)\\M)|reset\\M|listen\\M|load\\M|prepare\\M)'
  OR f.prosrc OPERATOR(pg_catalog.~*) E'\\m(pg_(try_)?advisory_lock|setseed|dblink_connect)|\\mwith\\s+hold\\M|\\m(create|into)\\s+((global|local)\\s+)?temp(orary)?\\M'
  OR pg_catalog.to_jsonb(f.*) OPERATOR(pg_catalog.->>) 'prosqlbody' OPERATOR(pg_catalog.~) E':funcid (1599|2078|2880|2881|2882|2883|2884|2885|2886|2887)\\M')
LIMIT 1)
UNION ALL (SELECT 'sequence' FROM pg_catalog.pg_sequence LIMIT 1)";

/// What a server has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    suspect: bool,
    has_sequences: bool,
}

impl Answer {
    /// What is supposed if nothing is known.
    pub(super) const WORST: Answer = Answer { suspect: true, has_sequences: true };

    /// Takes a row, which has one column.
    pub(super) fn note(&mut self, row: &[u8]) {
        match row.get(6..) {
            Some(b"code") => self.suspect = true,
            Some(b"sequence") => self.has_sequences = true,
            Some(_) | None => *self = Answer::WORST,
        }
    }
}

impl Holding {
    /// Whether the database has sequences now. One that was made a moment ago, by somebody who has not said so in this
    /// `round` yet, is missed; the last values that clients may have are discarded all the same, before the first statement
    /// after that is known.
    pub(super) fn may_have_sequences(&self, round: u64) -> bool {
        self.has_sequences || self.code_round != Some(round)
    }

    /// What is known of the code is not believed any more.
    pub(super) fn distrust_code(&mut self, round: u64) {
        (self.code, self.has_sequences, self.code_round) = (Code::Unknown, true, Some(round));
    }
}

impl Logical {
    /// Asks the server, unless it was asked in this round.
    pub(super) fn ask_for_code(&mut self, holding: &mut Holding, round: u64, to_server: &mut Vec<u8>) {
        if holding.code_round == Some(round) {
            return;
        }
        holding.distrust_code(round);
        put_query(QUESTION, to_server);
        holding.unnamed = Unnamed::Nothing;
        self.expected.push_back(Expected::Code { answer: Answer::default() });
    }

    /// A statement is about to run.
    pub(super) fn heed_code(&mut self, reading: &Reading, holding: &Holding) {
        self.changes.code |= reading.defines_code;
        self.changes.relations |= reading.changes_relations;
        self.changes.databases |= reading.needs_nobody;
        if reading.pins.has(Pin::Function) {
            self.suspects = false;
        } else if reading.runs_code && holding.code != Code::Harmless && !self.pins.has(Pin::Function) {
            self.pins.add(Pin::Function);
            self.suspects = holding.code == Code::Unknown;
        }
    }

    /// The answer is there.
    pub(super) fn code_known(&mut self, answer: Answer, holding: &mut Holding) {
        holding.has_sequences = answer.has_sequences;
        holding.code = if answer.suspect { Code::Suspect } else { Code::Harmless };
        if std::mem::take(&mut self.suspects) && !answer.suspect {
            self.pins.remove(Pin::Function);
        }
    }

    /// Whether a statement begins that needs a database without sessions.
    pub fn takes_database(&mut self) -> bool {
        std::mem::take(&mut self.changes.databases)
    }

    /// What the client may have changed in the database since this was asked last.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }
}
