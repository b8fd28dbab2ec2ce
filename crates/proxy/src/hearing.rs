//! Who hears what of a connection that listens for many clients. Pure: it is told what the server says, and says what the
//! server is to be told, and to whom a notification goes.
//!
//! A client's channels come here from a server of its own (`crate::logical`, channels.rs, says how nothing is lost by
//! that): it wants them first ([`Hearing::want`]), and hears them from the marker on that it has sent. Notifications wait
//! until the client can be told ([`Hearing::next_for`]), up to [`WAITING_MAX`]: a client with more is to be ended, for none
//! may be left out.

use crate::lend::ClientId;
use crate::logical::Channel;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::rc::Rc;

/// Most that waits for one client: a notification is 8,000 bytes at most. Bytes, each with what it takes to keep it.
pub const WAITING_MAX: usize = 1024 * 1024;

/// What a notification that waits takes beyond its bytes.
const KEPT_LEN: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Hearing {
    marker: Channel,
    /// What the server is known to listen on.
    on: HashSet<Channel>,
    /// What it was told to listen on, and has not confirmed.
    asked: Option<Vec<Channel>>,
    /// Who hears each channel, or wants to.
    by_channel: HashMap<Channel, BTreeSet<ClientId>>,
    clients: HashMap<ClientId, Hearer>,
    next_text: u64,
    /// There may be something to tell the server.
    changed: bool,
}

/// A client.
#[derive(Debug, Default)]
struct Hearer {
    hears: HashSet<Channel>,
    wanted: Option<Wanted>,
    waiting: VecDeque<(Channel, Rc<[u8]>)>,
    /// Bytes of these.
    waiting_len: usize,
    has_too_much: bool,
}

/// What a client is to hear from its marker on.
#[derive(Debug)]
struct Wanted {
    channels: Vec<Channel>,
    text: String,
}

/// What waits for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Nothing,
    /// This NotificationResponse.
    Message(Rc<[u8]>),
    /// More than is kept: something was left out.
    TooMuch,
}

impl Hearing {
    /// Of a server that listens on these channels for its client, which hears them from now on. That it listens on the
    /// marker, too, is the first thing to tell it.
    #[must_use]
    pub fn of_server(marker: &str, client: ClientId, channels: &[Channel]) -> Hearing {
        let mut hearing = Hearing {
            marker: marker.as_bytes().into(),
            on: channels.iter().cloned().collect(),
            asked: None,
            by_channel: HashMap::new(),
            clients: HashMap::new(),
            next_text: 0,
            changed: true,
        };
        for channel in channels {
            hearing.by_channel.entry(channel.clone()).or_default().insert(client);
        }
        let hearer = Hearer { hears: channels.iter().cloned().collect(), ..Hearer::default() };
        hearing.clients.insert(client, hearer);
        hearing
    }

    /// A client wants to hear these channels as well, instead of what it has wanted before and has sent no marker for.
    pub fn want(&mut self, client: ClientId, channels: &[Channel]) {
        self.want_no_more(client);
        let text = format!("{}_{}", client.0, self.next_text);
        self.next_text += 1;
        for channel in channels {
            self.by_channel.entry(channel.clone()).or_default().insert(client);
        }
        let wanted = Wanted { channels: channels.to_vec(), text };
        self.clients.entry(client).or_default().wanted = Some(wanted);
        self.changed = true;
    }

    /// The client does not want any more what it has wanted and does not hear yet.
    pub fn want_no_more(&mut self, client: ClientId) {
        let Some(hearer) = self.clients.get_mut(&client) else { return };
        let Some(Wanted { channels, .. }) = hearer.wanted.take() else { return };
        let unheard: Vec<Channel> = channels.into_iter().filter(|c| !hearer.hears.contains(c)).collect();
        unheard.iter().for_each(|channel| self.drop_from(client, channel));
    }

    /// Whether this client wants what it does not hear yet.
    #[must_use]
    pub fn wants(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(|hearer| hearer.wanted.is_some())
    }

    /// The text of the client's marker, once the server listens on all that it wants.
    #[must_use]
    pub fn marker_text(&self, client: ClientId) -> Option<&str> {
        let wanted = self.clients.get(&client)?.wanted.as_ref()?;
        let is_on = |channel: &Channel| self.on.contains(channel);
        (is_on(&self.marker) && wanted.channels.iter().all(is_on)).then_some(&*wanted.text)
    }

    /// A client does not listen on these any more. What waits of them it is not told, as by a server.
    pub fn give_up(&mut self, client: ClientId, channels: &[Channel]) {
        for channel in channels {
            let Some(hearer) = self.clients.get_mut(&client) else { return };
            hearer.hears.remove(channel);
            let len_before = hearer.waiting.len();
            hearer.waiting.retain(|(of, _)| of != channel);
            if hearer.waiting.len() < len_before {
                hearer.waiting_len = hearer.waiting.iter().map(|(_, message)| kept_len(message)).sum();
            }
            // The marker of an earlier LISTEN may be still to come.
            if let Some(wanted) = &mut hearer.wanted {
                wanted.channels.retain(|wanted| wanted != channel);
            }
            self.drop_from(client, channel);
        }
    }

    /// A client is gone, or listens no more.
    pub fn leave(&mut self, client: ClientId) {
        let Some(hearer) = self.clients.remove(&client) else { return };
        let wanted = hearer.wanted.into_iter().flat_map(|wanted| wanted.channels);
        for channel in hearer.hears.into_iter().chain(wanted) {
            self.drop_from(client, &channel);
        }
    }

    fn drop_from(&mut self, client: ClientId, channel: &Channel) {
        if let Some(clients) = self.by_channel.get_mut(channel) {
            clients.remove(&client);
            if clients.is_empty() {
                self.by_channel.remove(channel);
                self.changed = true;
            }
        }
    }

    /// Whether nobody is here.
    #[must_use]
    pub fn is_deserted(&self) -> bool {
        self.clients.is_empty()
    }

    /// What the server is to be told now, if anything; [`Hearing::answered`] says that it has confirmed it.
    pub fn next_statements(&mut self) -> Option<String> {
        if self.asked.is_some() || !std::mem::take(&mut self.changed) {
            return None;
        }
        let by_channel = &self.by_channel;
        let marker = (!self.on.contains(&self.marker)).then(|| self.marker.clone());
        let is_new = |channel: &&Channel| !self.on.contains(*channel);
        let new: Vec<Channel> = marker.into_iter().chain(by_channel.keys().filter(is_new).cloned()).collect();
        let is_needed = |channel: &Channel| *channel == self.marker || by_channel.contains_key(channel);
        let gone: Vec<Channel> = self.on.iter().filter(|channel| !is_needed(channel)).cloned().collect();
        if new.is_empty() && gone.is_empty() {
            return None;
        }
        let mut sql = String::new();
        for (command, channels) in [("LISTEN", &new), ("UNLISTEN", &gone)] {
            for channel in channels {
                sql.push_str(&format!("{command} \"{}\";", String::from_utf8_lossy(channel)));
            }
        }
        self.on.retain(|channel| !gone.contains(channel));
        self.asked = Some(new);
        Some(sql)
    }

    /// The server has done what it was told. Who has waited for that.
    pub fn answered(&mut self) -> Vec<ClientId> {
        self.on.extend(self.asked.take().unwrap_or_default());
        self.clients.iter().filter(|(_, hearer)| hearer.wanted.is_some()).map(|(id, _)| *id).collect()
    }

    /// A notification has come, in this message. Who hears it.
    pub fn heard(&mut self, channel: &[u8], payload: &[u8], message: &[u8]) -> Vec<ClientId> {
        if *self.marker == *channel {
            self.marker_came(payload);
            return Vec::new();
        }
        let Some((channel, clients)) = self.by_channel.get_key_value(channel) else { return Vec::new() };
        let message: Rc<[u8]> = message.into();
        let mut heard = Vec::new();
        for client in clients {
            let Some(hearer) = self.clients.get_mut(client).filter(|h| h.hears.contains(channel)) else {
                continue;
            };
            hearer.keep(channel, &message);
            heard.push(*client);
        }
        heard
    }

    fn marker_came(&mut self, payload: &[u8]) {
        let whose = payload.split(|byte| *byte == b'_').next().and_then(|id| std::str::from_utf8(id).ok());
        let Some(client) = whose.and_then(|id| id.parse().ok()).map(ClientId) else { return };
        let Some(hearer) = self.clients.get_mut(&client) else { return };
        if hearer.wanted.as_ref().is_some_and(|wanted| wanted.text.as_bytes() == payload) {
            let channels = hearer.wanted.take().map(|wanted| wanted.channels);
            hearer.hears.extend(channels.into_iter().flatten());
        }
    }

    /// What the client is told next.
    pub fn next_for(&mut self, client: ClientId) -> Next {
        let Some(hearer) = self.clients.get_mut(&client) else { return Next::Nothing };
        // What was kept is told all the same.
        match (hearer.waiting.pop_front(), hearer.has_too_much) {
            (Some((_, message)), _) => {
                hearer.waiting_len -= kept_len(&message);
                Next::Message(message)
            }
            (None, true) => Next::TooMuch,
            (None, false) => Next::Nothing,
        }
    }
}

impl Hearer {
    fn keep(&mut self, channel: &Channel, message: &Rc<[u8]>) {
        let len = self.waiting_len + kept_len(message);
        // Behind one that was left out, none is told.
        self.has_too_much |= len > WAITING_MAX;
        if !self.has_too_much {
            self.waiting_len = len;
            self.waiting.push_back((channel.clone(), Rc::clone(message)));
        }
    }
}

fn kept_len(message: &[u8]) -> usize {
    message.len() + KEPT_LEN
}

#[cfg(test)]
mod tests;
