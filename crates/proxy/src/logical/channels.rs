//! A client that keeps its server only because it listens for notifications lets somebody else listen: its channels are
//! moved to a connection that listens for many (`crate::hearing`), or the server itself becomes that connection.
//!
//! Nothing is lost and nothing comes twice, because PostgreSQL's queue of notifications is one order of commits, in which
//! every session reads it (src/backend/commands/async.c). Once the other connection listens on the same channels, and on
//! the marker, which is a channel that nobody else knows, the client's server is made to send a marker to itself
//! ([`Logical::mark_channels`]). Both connections read it at the same place of the order: what stands before it the client
//! hears from its own server, what stands behind it from the other one. Then its server listens no more
//! ([`Logical::stop_listening`]).
//!
//! The client's messages wait during the two round trips of this, and nothing that the other connection has heard is told
//! before both are over.

use super::expected::Expected;
use super::holding::Unnamed;
use super::{Holding, Logical};
use crate::sql::{ChannelChange, Pin, Pins, is_plain_channel};
use pgwire::message::{put_query, split_string};
use std::collections::BTreeSet;

/// A channel's name.
pub type Channel = Box<[u8]>;

/// Most channels of one client that are moved; who listens on more keeps its server.
pub(super) const MOVED_MAX: usize = 1_000;

/// With so many changes of channels in one transaction, those that later ones have taken back are forgotten: more than there
/// can be of others.
const PENDING_MAX: usize = 4 * MOVED_MAX;

/// How the examination's answer begins that tells of a channel.
pub(super) const TELLS_CHANNEL: &[u8] = b"listening:";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Channels {
    /// What somebody else listens on for this client.
    shared: BTreeSet<Channel>,
    /// What that one need not do any more; it was not told so yet.
    given_up: Vec<Channel>,
    /// Changes of the transaction that is open; whether they were made behind a savepoint.
    pending: Vec<(ChannelChange, bool)>,
    moving: Moving,
    /// The last marker was not sent.
    marker_failed: bool,
    /// The channel that only the proxy uses, once it was used here.
    marker: Channel,
}

/// Where a move is.
#[derive(Debug, Default, PartialEq, Eq)]
enum Moving {
    #[default]
    No,
    /// The client is quiet and listens on these: they could be moved.
    Offered(Vec<Channel>),
    /// The server was told to send the marker with this text.
    Marking { channels: Vec<Channel>, text: Box<[u8]>, came: bool, answered: bool },
    /// The marker has come back.
    Marked,
    /// The server was told to listen no more.
    Leaving,
}

impl Channels {
    /// Whether a change is one of what somebody else listens on.
    fn concerns(&self, change: &ChannelChange) -> bool {
        match change {
            ChannelChange::Listen(channel) | ChannelChange::Unlisten(channel) => {
                self.shared.contains(channel)
            }
            ChannelChange::UnlistenAll => !self.shared.is_empty(),
            ChannelChange::Unread | ChannelChange::Ends | ChannelChange::EndsPart => false,
        }
    }

    /// Of many changes, only the last of each channel is remembered, and of those that a savepoint may undo.
    fn add(&mut self, change: (ChannelChange, bool)) {
        if self.pending.len() >= PENDING_MAX {
            let mut behind = BTreeSet::new();
            let mut is_last = |(change, inside): &(ChannelChange, bool)| match change {
                ChannelChange::Listen(channel) | ChannelChange::Unlisten(channel) => {
                    behind.insert((Some(channel.clone()), *inside))
                }
                ChannelChange::UnlistenAll => behind.insert((None, *inside)),
                ChannelChange::Unread | ChannelChange::Ends | ChannelChange::EndsPart => false,
            };
            let kept: Vec<bool> = self.pending.iter().rev().map(&mut is_last).collect();
            let mut kept = kept.into_iter().rev();
            self.pending.retain(|_| kept.next().unwrap_or(true));
        }
        self.pending.push(change);
    }

    /// What pending changes come to.
    fn settle(&mut self) {
        let mut gone: BTreeSet<Channel> = BTreeSet::new();
        for (change, _) in self.pending.drain(..) {
            match change {
                // Where it was listened on before, that goes on without a gap.
                ChannelChange::Listen(channel) => {
                    gone.remove(&channel);
                }
                ChannelChange::Unlisten(channel) => {
                    gone.insert(channel);
                }
                ChannelChange::UnlistenAll => gone.extend(self.shared.iter().cloned()),
                ChannelChange::Unread | ChannelChange::Ends | ChannelChange::EndsPart => {}
            }
        }
        self.give_up(gone);
    }

    fn give_up(&mut self, channels: impl IntoIterator<Item = Channel>) {
        for channel in channels {
            if self.shared.remove(&channel) {
                self.given_up.push(channel);
            }
        }
    }

    /// Whether a notification of the client's own server is not for the client.
    fn takes(&mut self, channel: &[u8], payload: &[u8]) -> bool {
        if channel == &*self.marker && !channel.is_empty() {
            self.marker_came(payload);
            return true;
        }
        self.shared.contains(channel)
    }

    fn marker_came(&mut self, payload: &[u8]) {
        let Moving::Marking { channels, text, came, answered } = &mut self.moving else { return };
        if **text != *payload {
            return;
        }
        self.shared.extend(channels.drain(..));
        *came = true;
        if *answered {
            self.moving = Moving::Marked;
        }
    }

    fn marker_answered(&mut self, failed: bool) {
        match &mut self.moving {
            Moving::Marking { .. } if failed => {
                self.moving = Moving::No;
                self.marker_failed = true;
            }
            Moving::Marking { came: true, .. } => self.moving = Moving::Marked,
            Moving::Marking { answered, .. } => *answered = true,
            Moving::No | Moving::Offered(_) | Moving::Marked | Moving::Leaving => {}
        }
    }
}

impl Logical {
    /// What an examination has told of channels; `false` if they cannot be moved.
    pub(super) fn can_move(channels: &[Channel]) -> bool {
        channels.len() <= MOVED_MAX && channels.iter().all(|channel| is_plain_channel(channel))
    }

    /// Only channels keep the client on its server.
    pub(super) fn offer_channels(&mut self, mut found: Vec<Channel>) {
        let channels = self.channels.get_or_insert_default();
        // Left over from a move that was not finished.
        found.retain(|channel| *channel != channels.marker);
        channels.moving = Moving::Offered(found);
    }

    /// What could be moved now, if anything.
    #[must_use]
    pub fn offered_channels(&self) -> Option<&[Channel]> {
        match &self.channels.as_deref()?.moving {
            Moving::Offered(channels) if self.is_quiet() => Some(channels),
            _ => None,
        }
    }

    /// The client says something: what it listens on may change.
    pub(super) fn withdraw_channels(&mut self) {
        if let Some(channels) = self.channels.as_deref_mut()
            && let Moving::Offered(_) = channels.moving
        {
            channels.moving = Moving::No;
        }
    }

    /// Whether a move is under way, during which nothing of the client is taken.
    #[must_use]
    pub fn is_moving_channels(&self) -> bool {
        let moving = self.channels.as_deref().map(|channels| &channels.moving);
        matches!(moving, Some(Moving::Marking { .. } | Moving::Marked | Moving::Leaving))
    }

    /// Whether somebody else listens for the client.
    #[must_use]
    pub fn hears_by_others(&self) -> bool {
        self.shared_channels() > 0
    }

    /// On how many channels.
    pub(super) fn shared_channels(&self) -> usize {
        self.channels.as_deref().map_or(0, |channels| channels.shared.len())
    }

    /// Whether somebody else listens for the client, or is about to.
    #[must_use]
    pub fn shares_channels(&self) -> bool {
        self.channels.as_deref().is_some_and(|c| !c.shared.is_empty() || c.moving != Moving::No)
    }

    /// The server itself goes on listening, for the client and for others. The client has none any more.
    pub fn leave_channels(&mut self) {
        let Some(channels) = self.channels.as_deref_mut() else { return };
        if let Moving::Offered(offered) = std::mem::take(&mut channels.moving) {
            channels.shared.extend(offered);
            self.pins = Pins::NONE;
        }
    }

    /// Somebody else listens on what was offered, and on `marker`: the server is to send the marker, with a text that
    /// nobody else uses. Both consist of letters, digits and underscores.
    pub fn mark_channels(
        &mut self,
        marker: &str,
        text: &str,
        holding: &mut Holding,
        to_server: &mut Vec<u8>,
    ) {
        let Some(channels) = self.channels.as_deref_mut() else { return };
        let Moving::Offered(offered) = std::mem::take(&mut channels.moving) else { return };
        channels.marker = marker.as_bytes().into();
        channels.marker_failed = false;
        let text_sent = text.as_bytes().into();
        channels.moving =
            Moving::Marking { channels: offered, text: text_sent, came: false, answered: false };
        // Nobody needs it after a crash: it waits neither for a disk nor for a standby.
        let sql =
            format!("SET LOCAL synchronous_commit = off; LISTEN \"{marker}\"; NOTIFY \"{marker}\", '{text}'");
        put_query(sql.as_bytes(), to_server);
        holding.unnamed = Unnamed::Nothing;
        self.expected.push_back(Expected::Marker { failed: false });
    }

    /// Whether the marker that was to be sent last was not; it is said once.
    pub fn take_marker_failure(&mut self) -> bool {
        self.channels.as_deref_mut().is_some_and(|channels| std::mem::take(&mut channels.marker_failed))
    }

    /// Once the marker has come back: the server is to listen no more. Whether it was told so now.
    pub fn stop_listening(&mut self, to_server: &mut Vec<u8>) -> bool {
        let Some(channels) = self.channels.as_deref_mut() else { return false };
        if channels.moving != Moving::Marked {
            return false;
        }
        channels.moving = Moving::Leaving;
        put_query(b"UNLISTEN *", to_server);
        self.expected.push_back(Expected::Unlisten { failed: false });
        true
    }

    pub(super) fn marker_answered(&mut self, failed: bool) {
        if let Some(channels) = self.channels.as_deref_mut() {
            channels.marker_answered(failed);
        }
    }

    /// If it failed, the server goes on listening, and is examined again some time.
    pub(super) fn unlistened(&mut self, failed: bool) {
        if let Some(channels) = self.channels.as_deref_mut() {
            channels.moving = Moving::No;
            if !failed {
                self.pins.remove(Pin::Listening);
            }
        }
    }

    /// Whether a notification of the client's own server is not for the client: it hears it from somebody else, or it is a
    /// marker.
    pub(super) fn hears_elsewhere(&mut self, notification: &[u8]) -> bool {
        let Some(channels) = self.channels.as_deref_mut() else { return false };
        let named = notification.get(4..).and_then(split_string);
        named
            .and_then(|(channel, rest)| Some((channel, split_string(rest)?.0)))
            .is_some_and(|(channel, payload)| channels.takes(channel, payload))
    }

    /// A LISTEN or UNLISTEN has succeeded; it counts when its transaction is committed.
    pub(super) fn channel_changed(&mut self, change: Option<ChannelChange>, in_savepoint: bool) {
        if let (Some(channels), Some(change)) = (self.channels.as_deref_mut(), change)
            && channels.concerns(&change)
        {
            channels.add((change, in_savepoint));
        }
    }

    /// ROLLBACK has succeeded, of the whole transaction or of what came behind a savepoint.
    pub(super) fn channels_rolled_back(&mut self, is_part: bool) {
        if let Some(channels) = self.channels.as_deref_mut() {
            channels.pending.retain(|(_, inside)| is_part && !inside);
        }
    }

    #[cfg(test)]
    pub(super) fn pending_channels(&self) -> usize {
        self.channels.as_deref().map_or(0, |channels| channels.pending.len())
    }

    /// The transaction is committed, unless it `failed`.
    pub(super) fn settle_channels(&mut self, failed: bool) {
        if let Some(channels) = self.channels.as_deref_mut() {
            if failed {
                channels.pending.clear();
            }
            channels.settle();
        }
    }

    /// DISCARD ALL.
    pub(super) fn give_up_all_channels(&mut self) {
        if let Some(channels) = self.channels.as_deref_mut() {
            channels.pending.clear();
            let all = std::mem::take(&mut channels.shared);
            channels.given_up.extend(all);
        }
    }

    /// Channels that nobody need listen on for the client any more, since this was asked last.
    pub fn take_given_up(&mut self) -> Vec<Channel> {
        self.channels
            .as_deref_mut()
            .map(|channels| std::mem::take(&mut channels.given_up))
            .unwrap_or_default()
    }

    /// In which the client takes texts.
    #[must_use]
    pub fn client_encoding(&self) -> Option<&[u8]> {
        self.told.get(b"client_encoding")
    }
}
