//! The protocol at the console: simple queries are taken, of the extended protocol as much as it needs to be refused in
//! order. Pure.

use pgwire::{ErrorFields, Severity, encode_error_response};

/// What to do about a message of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    Nothing,
    /// Its body is a text with statements.
    Query,
    /// Say that the console takes simple queries only.
    Refuse,
    /// As [`Reaction::Refuse`], and then that the next query may come.
    RefuseAndReady,
    /// Say that the next query may come.
    Ready,
    /// The client says goodbye.
    End,
    /// No client says that now.
    Broken,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Talk {
    /// After an error in the extended protocol, everything up to Sync is ignored.
    skipping: bool,
}

impl Talk {
    /// A message of this type has come.
    pub fn hear(&mut self, kind: u8) -> Reaction {
        match kind {
            b'X' => Reaction::End,
            b'S' => {
                self.skipping = false;
                Reaction::Ready
            }
            b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'F' if self.skipping => Reaction::Nothing,
            b'Q' => Reaction::Query,
            b'P' | b'B' | b'D' | b'E' | b'C' => {
                self.skipping = true;
                Reaction::Refuse
            }
            b'F' => Reaction::RefuseAndReady,
            // Flush, and what is left of a COPY.
            b'H' | b'd' | b'c' | b'f' => Reaction::Nothing,
            _ => Reaction::Broken,
        }
    }
}

/// Why a statement is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub sqlstate: &'static str,
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    /// Appends the ErrorResponse.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let fields = ErrorFields {
            severity: Severity::Error,
            sqlstate: self.sqlstate,
            message: &self.message,
            detail: None,
            hint: self.hint.as_deref(),
        };
        encode_error_response(&fields, out);
    }

    /// The extended protocol was used.
    pub fn extended() -> Failure {
        Failure {
            sqlstate: "0A000",
            message: "the console takes simple queries only".to_owned(),
            hint: Some("Have the driver use the simple query protocol, without parameters.".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reactions(kinds: &[u8]) -> Vec<Reaction> {
        let mut talk = Talk::default();
        kinds.iter().map(|kind| talk.hear(*kind)).collect()
    }

    #[test]
    fn simple_queries_one_after_the_other() {
        use Reaction::{End, Query};
        assert_eq!(reactions(b"QQX"), [Query, Query, End]);
    }

    #[test]
    fn a_pipeline_is_refused_once_and_ends_with_its_sync() {
        use Reaction::{Nothing, Query, Ready, Refuse};
        assert_eq!(reactions(b"PBDESQ"), [Refuse, Nothing, Nothing, Nothing, Ready, Query]);
        assert_eq!(reactions(b"PQFHSS"), [Refuse, Nothing, Nothing, Nothing, Ready, Ready]);
    }

    #[test]
    fn what_is_out_of_place() {
        use Reaction::{Broken, End, Nothing, Refuse, RefuseAndReady};
        assert_eq!(reactions(b"FHdcf"), [RefuseAndReady, Nothing, Nothing, Nothing, Nothing]);
        assert_eq!(reactions(b"pZ"), [Broken, Broken]);
        assert_eq!(reactions(b"EX"), [Refuse, End], "goodbye is heard always");
    }
}
