//! The connections of a ring: what each has received and not read, and what it is sending.

use super::buffers::{COUNT, Filled, GROUP, LEN};
use super::inner::{CANCELLED, Inner, RECEIVED, SENT, WRITABLE};
use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::task::Waker;

/// A server that has sent so much that its reader has not taken is not received from. Bytes.
pub(super) const UNREAD_MAX: usize = 64 * 1024;

/// A client that has been received from so often, a message at a time, is one that stays: from then on its request stays
/// with the kernel as a server's does. Others say goodbye before that, and taking such a request back costs another one.
const STAYS_FROM: u8 = 16;

/// With more connections than this on the ring every client is received from one message at a time. What a request that
/// stays brings before it can be told to stop is limited by the kernel alone: to 32 buffers since Linux 6.8
/// (`MULTISHOT_MAX_RETRY`, io_uring/net.c), to all of them before.
pub(super) const STAYING_MAX: usize = 128;

/// So many buffers are not left lying with connections: the kernel needs some, and others wait for them.
pub(super) const SPARE: u16 = COUNT / 2;

/// Buffers for such that are kept to be used again.
const KEPT_SPARE_MAX: usize = 128;

/// All of it, and no signal if the peer is gone (`send(2)`).
const SEND_FLAGS: i32 = (SendFlags::NOSIGNAL.bits() | RecvFlags::WAITALL.bits()).cast_signed();

/// Nothing will be there yet, mostly: that is not tried (`IORING_RECVSEND_POLL_FIRST`, io_uring_enter(2)).
const POLL_FIRST: u16 = 1;

/// How much of a connection is received ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// One buffer, and the next when that was read: of clients, which could fill the memory otherwise. Of those that stay,
    /// while they are few, somewhat more.
    One,
    /// What comes, up to some limit: of servers, which are few.
    More,
}

/// A connection. It stays until the kernel has nothing to do with it any more: its number could be another one's by then.
pub(super) struct Slot {
    pub(super) socket: TcpStream,
    pub(super) unread: Unread,
    pub(super) end: Option<End>,
    pub(super) ahead: Ahead,
    pub(super) receiving: Receiving,
    /// How often it was asked for a message alone, up to [`STAYS_FROM`].
    heard: u8,
    /// Whether the kernel was asked to say when there is room to send.
    pub(super) awaits_room: bool,
    /// What the kernel is sending, and how much of it was sent before.
    pub(super) sending: Option<(Vec<u8>, usize)>,
    /// Why nothing more can be sent.
    pub(super) unsendable: Option<Errno>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Its owner is gone.
    pub(super) dropped: bool,
}

/// What has come and was not read.
#[derive(Debug, Default)]
pub(super) enum Unread {
    #[default]
    Nothing,
    /// From this byte on.
    InBuffer(Filled, usize),
    /// From this byte on.
    Own(Vec<u8>, usize),
}

impl Unread {
    pub(super) fn len(&self) -> usize {
        match self {
            Unread::Nothing => 0,
            Unread::InBuffer(filled, from) => filled.len() - from,
            Unread::Own(own, from) => own.len() - from,
        }
    }
}

/// Why nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Broken(Errno),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    No,
    /// Until something has come.
    Once,
    /// Until it is told to stop.
    Staying,
    /// The kernel was told to stop.
    Stopping,
}

impl Slot {
    /// Whether nothing more is received before its reader has taken some.
    fn has_enough(&self) -> bool {
        let limit = match (self.ahead, self.receiving) {
            (Ahead::More, _) => UNREAD_MAX,
            (Ahead::One, Receiving::Staying) => LEN + 1,
            (Ahead::One, Receiving::No | Receiving::Once | Receiving::Stopping) => 1,
        };
        self.unread.len() >= limit
    }
}

impl Inner {
    pub(super) fn slot(&mut self, number: u32) -> Option<&mut Slot> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn enter(&mut self, socket: TcpStream, ahead: Ahead) -> u32 {
        let slot = Slot {
            socket,
            unread: Unread::Nothing,
            end: None,
            ahead,
            receiving: Receiving::No,
            heard: 0,
            awaits_room: false,
            sending: None,
            unsendable: None,
            reader: None,
            writer: None,
            dropped: false,
        };
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        self.slots[number as usize] = Some(slot);
        number
    }

    /// The kernel shall receive for this connection, if there is room and more can come.
    pub(super) fn receive(&mut self, number: u32) {
        let are_few = self.slots.len() - self.free.len() <= STAYING_MAX;
        let Some(slot) = self.slot(number) else { return };
        if slot.receiving != Receiving::No || slot.end.is_some() || slot.dropped || slot.has_enough() {
            return;
        }
        let stays = slot.ahead == Ahead::More || are_few && slot.heard >= STAYS_FROM;
        slot.receiving = if stays { Receiving::Staying } else { Receiving::Once };
        slot.heard = slot.heard.saturating_add(1).min(STAYS_FROM);
        let fd = Fd(slot.socket.as_raw_fd());
        let entry = if stays {
            opcode::RecvMulti::new(fd, GROUP).build()
        } else {
            opcode::Recv::new(fd, null_mut(), 0)
                .buf_group(GROUP)
                .ioprio(POLL_FIRST)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        };
        if !self.request(entry, number, RECEIVED)
            && let Some(slot) = self.slot(number)
        {
            (slot.receiving, slot.end) = (Receiving::No, Some(End::Broken(Errno::BUSY)));
        }
    }

    pub(super) fn stop_receiving(&mut self, number: u32) {
        let Some(slot) = self.slot(number) else { return };
        if matches!(slot.receiving, Receiving::Once | Receiving::Staying) {
            let entry = opcode::AsyncCancel::new(RECEIVED << 32 | u64::from(number)).build();
            // If not, what comes next has it tried again.
            if self.request(entry, number, CANCELLED)
                && let Some(slot) = self.slot(number)
            {
                slot.receiving = Receiving::Stopping;
            }
        }
    }

    pub(super) fn received(&mut self, number: u32, completion: &cqueue::Entry) {
        let filled = cqueue::buffer_select(completion.flags()).and_then(|buffer| {
            let len = usize::try_from(completion.result()).unwrap_or(0);
            Some(self.buffers.as_mut()?.taken(buffer, len))
        });
        let Some(slot) = self.slots.get_mut(number as usize).and_then(Option::as_mut) else {
            return self.give_back(filled);
        };
        if !cqueue::more(completion.flags()) {
            slot.receiving = Receiving::No;
        }
        match (completion.result(), Errno::from_raw_os_error(-completion.result().min(-1))) {
            (1.., _) => {}
            (0, _) => slot.end = Some(End::Closed),
            // It was told to stop, or there was no buffer for the moment: the reader asks again.
            (_, Errno::CANCELED | Errno::NOBUFS | Errno::INTR | Errno::AGAIN) => {}
            (_, error) => slot.end = Some(End::Broken(error)),
        }
        self.woken.extend(slot.reader.take());
        if slot.dropped {
            self.give_back(filled);
            self.stop_receiving(number);
            return self.leave(number);
        }
        match filled {
            Some(filled) if !filled.is_empty() => self.keep(number, filled),
            empty => self.give_back(empty),
        }
    }

    /// What has come is left in its buffer if there are enough, or else is copied.
    pub(super) fn keep(&mut self, number: u32, filled: Filled) {
        let Some(buffers) = &mut self.buffers else { return };
        let Some(slot) = self.slots.get_mut(number as usize).and_then(Option::as_mut) else { return };
        slot.unread = match std::mem::take(&mut slot.unread) {
            Unread::Nothing if buffers.there() >= SPARE => Unread::InBuffer(filled, 0),
            before => {
                let mut own = match before {
                    Unread::Nothing => Vec::new(),
                    Unread::InBuffer(first, from) => {
                        let own = buffers.bytes(&first)[from..].to_vec();
                        buffers.give_back(first);
                        own
                    }
                    Unread::Own(mut own, from) => {
                        own.drain(..from);
                        own
                    }
                };
                own.extend_from_slice(buffers.bytes(&filled));
                buffers.give_back(filled);
                Unread::Own(own, 0)
            }
        };
        if slot.has_enough() {
            self.stop_receiving(number);
        }
    }

    pub(super) fn give_back(&mut self, filled: Option<Filled>) {
        if let (Some(filled), Some(buffers)) = (filled, &mut self.buffers) {
            buffers.give_back(filled);
        }
    }

    pub(super) fn writable(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(number as usize).and_then(Option::as_mut) else { return };
        slot.awaits_room = false;
        self.woken.extend(slot.writer.take());
        if slot.dropped {
            self.leave(number);
        }
    }

    /// Has the kernel send what is left to be sent. It waits for room by itself.
    pub(super) fn send(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(number as usize).and_then(Option::as_mut) else { return };
        let Some((bytes, from)) = &slot.sending else { return };
        let rest = &bytes[*from..];
        let (start, len) = (rest.as_ptr(), u32::try_from(rest.len()).unwrap_or(u32::MAX));
        let entry = opcode::Send::new(Fd(slot.socket.as_raw_fd()), start, len).flags(SEND_FLAGS).build();
        if !self.request(entry, number, SENT)
            && let Some(slot) = self.slot(number)
        {
            (slot.sending, slot.unsendable) = (None, Some(Errno::BUSY));
        }
    }

    pub(super) fn sent(&mut self, number: u32, result: i32) {
        let Some(slot) = self.slots.get_mut(number as usize).and_then(Option::as_mut) else { return };
        let Some((bytes, from)) = &mut slot.sending else { return };
        match usize::try_from(result) {
            Ok(len) => *from += len,
            Err(_) => slot.unsendable = Some(Errno::from_raw_os_error(-result)),
        }
        if slot.unsendable.is_none() && result > 0 && *from < bytes.len() && !slot.dropped {
            return self.send(number);
        }
        let kept = slot.sending.take().map(|(bytes, _)| bytes);
        self.woken.extend(slot.writer.take());
        let is_dropped = slot.dropped;
        if self.spare.len() < KEPT_SPARE_MAX {
            self.spare.extend(kept);
        }
        if is_dropped {
            self.leave(number);
        }
    }

    /// The owner of a connection is gone: it is closed as soon as the kernel has nothing to do with it.
    pub(super) fn leave(&mut self, number: u32) {
        let Some(slot) = self.slot(number) else { return };
        let (awaits_room, sends) = (slot.awaits_room, slot.sending.is_some());
        if !std::mem::replace(&mut slot.dropped, true) {
            (slot.reader, slot.writer) = (None, None);
            if let Unread::InBuffer(filled, _) = std::mem::take(&mut slot.unread) {
                self.give_back(Some(filled));
            }
            self.stop_receiving(number);
            // What is to be sent is tried once before that: what there is room for still leaves.
            for what in [(sends, SENT), (awaits_room, WRITABLE)]
                .into_iter()
                .filter_map(|(is, what)| is.then_some(what))
            {
                self.request(
                    opcode::AsyncCancel::new(what << 32 | u64::from(number)).build(),
                    number,
                    CANCELLED,
                );
            }
        }
        let is_idle = self.slot(number).is_some_and(|slot| slot.receiving == Receiving::No);
        if is_idle && !awaits_room && !sends {
            self.slots[number as usize] = None;
            self.free.push(number);
        }
    }
}
