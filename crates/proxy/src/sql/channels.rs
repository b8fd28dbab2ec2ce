//! LISTEN and UNLISTEN: on which channel; and what makes them count, or undoes them.

use super::lex::{Placed, Token};

/// Longest name; src/include/pg_config_manual.h, `NAMEDATALEN` without the closing zero byte. Bytes.
const NAME_LEN_MAX: usize = 63;

/// What a statement does to channels, once its transaction is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelChange {
    /// The session listens on this channel.
    Listen(Box<[u8]>),
    /// It does not any more.
    Unlisten(Box<[u8]>),
    /// It listens on no channel any more.
    UnlistenAll,
    /// The channel's name is one that is not read here.
    Unread,
    /// COMMIT or ROLLBACK, be it with AND CHAIN: in a transaction that has failed the first one is the second.
    Ends,
    /// ROLLBACK to a savepoint.
    EndsPart,
}

/// Reads a COMMIT or ROLLBACK, or what means the same; `None` of a transaction that was prepared.
#[must_use]
pub fn end_of_transaction(statement: &[Placed<'_>]) -> Option<ChannelChange> {
    let has = |keyword: &str| statement.iter().any(|placed| placed.token.is(keyword));
    match statement.get(1) {
        Some(second) if second.token.is("prepared") => None,
        _ if has("to") => Some(ChannelChange::EndsPart),
        _ => Some(ChannelChange::Ends),
    }
}

/// Reads a LISTEN or UNLISTEN, whose tokens are `statement`.
#[must_use]
pub fn channel_change(statement: &[Placed<'_>]) -> ChannelChange {
    let [command, name] = statement else { return ChannelChange::Unread };
    let listens = command.token.is("listen");
    let channel = match name.token {
        Token::Symbol(b'*') if !listens => return ChannelChange::UnlistenAll,
        Token::Word(name) if name.is_ascii() => name.to_ascii_lowercase(),
        Token::Quoted(name) if is_plain_channel(name) => name.to_vec(),
        _ => return ChannelChange::Unread,
    };
    let channel = channel[..channel.len().min(NAME_LEN_MAX)].into();
    if listens { ChannelChange::Listen(channel) } else { ChannelChange::Unlisten(channel) }
}

/// Whether this name is the same in all encodings, and in quotes as without: whoever listens on another is not followed.
#[must_use]
pub fn is_plain_channel(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| (b' '..=b'~').contains(byte) && !matches!(byte, b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::read;

    #[test]
    fn channels_are_told_as_the_server_folds_them() {
        let listen = |name: &str| ChannelChange::Listen(name.as_bytes().into());
        let unlisten = |name: &str| ChannelChange::Unlisten(name.as_bytes().into());
        for (text, expected) in [
            ("LISTEN Jobs", vec![listen("jobs")]),
            ("listen \"Jobs\";", vec![listen("Jobs")]),
            ("unlisten a; /* x */ listen a; select 1", vec![unlisten("a"), listen("a")]),
            ("unlisten *", vec![ChannelChange::UnlistenAll]),
            ("listen *", vec![ChannelChange::Unread]),
            ("listen \"a\"\"b\"", vec![ChannelChange::Unread]),
            ("listen \u{e9}", vec![ChannelChange::Unread]),
            ("notify a", vec![]),
            ("rollback; rollback to chain", vec![ChannelChange::Ends, ChannelChange::EndsPart]),
            ("abort; end; commit prepared 'x'", vec![ChannelChange::Ends, ChannelChange::Ends]),
            ("unlisten a; ROLLBACK WORK AND CHAIN", vec![unlisten("a"), ChannelChange::Ends]),
        ] {
            assert_eq!(read(text.as_bytes()).channels, expected, "{text}");
        }
        let long = "x".repeat(80);
        assert_eq!(read(format!("listen {long}").as_bytes()).channels, [listen(&long[..63])]);
    }
}
