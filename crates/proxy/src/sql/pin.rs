//! Why a client keeps a server for itself.

use std::fmt;

/// One reason. An open transaction and a COPY are none of these: they are seen in the protocol, and pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Pin {
    /// A temporary table, view, type or function.
    Temporary = 1,
    /// A cursor that outlives its transaction.
    Cursor = 1 << 1,
    /// An advisory lock of the session.
    Lock = 1 << 2,
    /// `LISTEN`.
    Listening = 1 << 3,
    /// `LOAD`, or an extension that may have loaded a library.
    Library = 1 << 4,
    /// A setting was changed in a way that cannot be repeated elsewhere for sure.
    Setting = 1 << 5,
    /// SQL's `PREPARE`.
    Prepared = 1 << 6,
    /// A function was called that may have left something behind, or a block of code.
    Function = 1 << 7,
    /// A statement that cannot be read for sure.
    Unreadable = 1 << 8,
    /// What the server is doing cannot be told for sure any more.
    Astray = 1 << 9,
    /// It used the session's last sequence values.
    Sequence = 1 << 10,
    /// A setting may have been changed that no catalog shows: one whose name has a dot.
    UnseenSetting = 1 << 11,
    /// The seed of random numbers was set; nothing takes that back.
    Seed = 1 << 12,
    /// The configuration says that it keeps one.
    Configured = 1 << 13,
}

/// Every reason, in the order in which they are told.
const ALL: [Pin; 14] = [
    Pin::Temporary,
    Pin::Cursor,
    Pin::Lock,
    Pin::Listening,
    Pin::Library,
    Pin::Setting,
    Pin::Prepared,
    Pin::Function,
    Pin::Unreadable,
    Pin::Astray,
    Pin::Sequence,
    Pin::UnseenSetting,
    Pin::Seed,
    Pin::Configured,
];

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pin::Temporary => "it may have temporary objects",
            Pin::Cursor => "it may have a cursor WITH HOLD",
            Pin::Lock => "it may have advisory locks",
            Pin::Listening => "it listens for notifications",
            Pin::Library => "it may have loaded a library",
            Pin::Setting => "it may have settings that cannot be repeated",
            Pin::Prepared => "it has prepared a statement by SQL",
            Pin::Function => "it called a function that may have left something behind",
            Pin::Unreadable => "it sent a statement that cannot be read for sure",
            Pin::Astray => "what its server is doing is not known for sure",
            Pin::UnseenSetting => "it may have settings that no catalog shows",
            Pin::Seed => "it has set the seed of random numbers",
            Pin::Configured => "its user or database is among session_users or session_databases",
            Pin::Sequence => "it uses the last values of sequences",
        })
    }
}

/// A set of reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u16);

impl Pins {
    /// None.
    pub const NONE: Pins = Pins(0);

    /// Whether there is no reason.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn has(self, pin: Pin) -> bool {
        self.0 & pin as u16 != 0
    }

    /// Adds one.
    pub fn add(&mut self, pin: Pin) {
        self.0 |= pin as u16;
    }

    /// Takes one away.
    pub fn remove(&mut self, pin: Pin) {
        self.0 &= !(pin as u16);
    }

    /// Adds others.
    pub fn add_all(&mut self, others: Pins) {
        self.0 |= others.0;
    }

    /// What `DISCARD ALL` leaves of them: it unloads no library, leaves the seed of random numbers, does not find what was lost
    /// sight of, and changes no configuration.
    #[must_use]
    pub fn after_discard_all(self) -> Pins {
        let left = [Pin::Library, Pin::Seed, Pin::Astray, Pin::Unreadable, Pin::Configured];
        Pins(self.0 & left.iter().fold(0, |all, pin| all | *pin as u16))
    }

    /// Whether the server itself can say if the reasons are gone.
    #[must_use]
    pub fn can_be_examined(self) -> bool {
        let examined = [
            Pin::Temporary,
            Pin::Cursor,
            Pin::Lock,
            Pin::Listening,
            Pin::Setting,
            Pin::Prepared,
            Pin::Function,
        ];
        !self.is_empty() && self.iter().all(|pin| examined.contains(&pin))
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Pin> {
        ALL.into_iter().filter(move |pin| self.has(*pin))
    }
}

impl From<Pin> for Pins {
    fn from(pin: Pin) -> Pins {
        Pins(pin as u16)
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, pin) in self.iter().enumerate() {
            let between = if number == 0 { "" } else { "; " };
            write!(f, "{between}{pin}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_tells_each_reason_once() {
        let mut pins = Pins::NONE;
        assert!(pins.is_empty());
        ALL.into_iter().chain([Pin::Lock]).for_each(|pin| pins.add(pin));
        assert_eq!(pins.iter().collect::<Vec<_>>(), ALL);
        assert_eq!(pins.after_discard_all().iter().count(), 5);
        let mut two = Pins::from(Pin::Lock);
        two.add_all(Pin::Cursor.into());
        assert_eq!(two.to_string(), "it may have a cursor WITH HOLD; it may have advisory locks");
    }
}
