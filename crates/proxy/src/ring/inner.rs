//! What a ring consists of, and the talk with the kernel.

use super::accept::Door;
use super::buffers::{Buffers, GROUP};
use super::slot::Slot;
use io_uring::types::{CancelBuilder, Timespec};
use io_uring::{EnterFlags, IoUring, opcode, squeue};
use rustix::io::Errno;
use std::io;
use std::task::Waker;

/// A worker that has just been busy waits so long for the ring alone, at most: what is not on the ring (timers, other threads)
/// is late by that.
///
/// One request with this limit serves many waits: a limit for each would be a timer for each, and starting a timer is dear,
/// in virtual machines most of all; so is one that ends while somebody works. Nanoseconds.
static RING_ALONE: Timespec = Timespec::new().nsec(4_000_000);

/// The longest that is waited for requests to end when a ring does. Seconds.
const END_MAX_S: u64 = 1;

/// What a completion is about: the connection's number, and one of these in the upper half.
pub(super) const RECEIVED: u64 = 0;
pub(super) const WRITABLE: u64 = 1;
pub(super) const SENT: u64 = 2;
pub(super) const CANCELLED: u64 = 3;
pub(super) const ACCEPTED: u64 = 4;
pub(super) const KNOCKED: u64 = 5;
const TIME_UP: u64 = 6;

/// See the module.
pub(super) struct Inner {
    pub(super) uring: IoUring,
    /// `None` once they are gone.
    pub(super) buffers: Option<Buffers>,
    pub(super) slots: Vec<Option<Slot>>,
    pub(super) free: Vec<u32>,
    /// For what is to be sent.
    pub(super) spare: Vec<Vec<u8>>,
    /// Who is to be woken when nothing is borrowed any more.
    pub(super) woken: Vec<Waker>,
    /// Where clients come in.
    pub(super) doors: Vec<Door>,
    /// Something was done a moment ago, and more will come soon.
    pub(super) busy: bool,
    /// Requests that wait to be submitted and are done at once, mostly.
    pub(super) at_once: u32,
    /// Somebody waits for one of these.
    pub(super) awaits_sent: bool,
    /// The limit of waiting is with the kernel.
    limited: bool,
    /// Something was done since that was given to it.
    done: bool,
}

impl Inner {
    /// With nothing on it.
    pub(super) fn new(uring: IoUring) -> io::Result<Inner> {
        let buffers = Some(Buffers::register(&uring.submitter())?);
        let (slots, free, spare, woken) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (doors, busy, at_once, awaits_sent) = (Vec::new(), false, 0, false);
        let (limited, done) = (false, false);
        Ok(Inner {
            uring,
            buffers,
            slots,
            free,
            spare,
            woken,
            doors,
            busy,
            at_once,
            awaits_sent,
            limited,
            done,
        })
    }

    /// Whether the kernel has something to be told, or to tell.
    pub(super) fn has_work(&mut self) -> bool {
        let queue = self.uring.submission();
        let waits = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        waits || !self.uring.completion().is_empty()
    }

    /// Submits what waits and has the kernel do what it has put off; where it is wanted, waits for a moment until something is
    /// done. Nothing can be lost: what cannot be submitted now is at the next turn.
    #[allow(unsafe_code)]
    pub(super) fn submit(&mut self, waits: bool) {
        if waits && !self.limited {
            self.limited = self.request(opcode::Timeout::new(&raw const RING_ALONE).build(), 0, TIME_UP);
        }
        // Those that are done at once are nothing to wait for, unless somebody does.
        let at_once = std::mem::take(&mut self.at_once) as usize;
        let wanted = if std::mem::take(&mut self.awaits_sent) { 1 } else { at_once + 1 };
        let submitted = if waits && self.limited {
            self.uring.submit_and_wait(wanted)
        } else if self.has_work() {
            let count = u32::try_from(self.uring.submission().len()).unwrap_or(u32::MAX);
            let flags = EnterFlags::GETEVENTS.bits();
            // SAFETY: no argument is given, and the requests keep what they name (see `request`).
            unsafe { self.uring.submitter().enter::<()>(count, 0, flags, None) }
        } else {
            return;
        };
        let harmless = [Errno::TIME, Errno::INTR, Errno::BUSY, Errno::AGAIN];
        if let Err(error) = submitted
            && !error.raw_os_error().is_some_and(|code| harmless.contains(&Errno::from_raw_os_error(code)))
        {
            tracing::error!("io_uring_enter: {error}");
        }
    }

    /// A request about `number`; whether the kernel will hear of it.
    #[allow(unsafe_code)]
    pub(super) fn request(&mut self, entry: squeue::Entry, number: u32, what: u64) -> bool {
        let entry = entry.user_data(what << 32 | u64::from(number));
        self.at_once += u32::from(matches!(what, SENT | CANCELLED));
        // SAFETY: the memory that requests name is that of the buffers, which outlive the ring, and what a slot sends; a slot
        // keeps that, and the socket, until the completion.
        if unsafe { self.uring.submission().push(&entry) }.is_ok() {
            return true;
        }
        let _ = self.uring.submit();
        // SAFETY: as above.
        unsafe { self.uring.submission().push(&entry) }.is_ok()
    }

    /// Deals with what is done.
    pub(super) fn read_completions(&mut self) {
        let mut time_is_up = false;
        loop {
            let Some(completion) = self.uring.completion().next() else { break };
            let user_data = completion.user_data();
            #[allow(clippy::cast_possible_truncation, reason = "the lower half")]
            let number = user_data as u32;
            match user_data >> 32 {
                RECEIVED => self.received(number, &completion),
                WRITABLE => self.writable(number),
                SENT => self.sent(number, completion.result()),
                ACCEPTED => self.accepted(number, &completion),
                KNOCKED => self.knocked(number),
                TIME_UP => {
                    time_is_up = true;
                    continue;
                }
                _ => {}
            }
            self.done = true;
        }
        if time_is_up {
            self.limited = false;
            self.busy = std::mem::take(&mut self.done);
        } else {
            self.busy |= self.done;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // No request may put anything into memory that is somebody else's by then.
        let limit = Timespec::new().sec(END_MAX_S);
        let ended = self.uring.submitter().register_sync_cancel(Some(limit), CancelBuilder::any());
        let nothing_left = match ended {
            Ok(()) => true,
            Err(error) => error.raw_os_error() == Some(Errno::NOENT.raw_os_error()),
        };
        if !nothing_left {
            // The kernel may still read it.
            let sending = self.slots.iter_mut().flatten().filter_map(|slot| slot.sending.take());
            sending.for_each(std::mem::forget);
        }
        if let Some(buffers) = self.buffers.take()
            && nothing_left
            && self.uring.submitter().unregister_buf_ring(GROUP).is_ok()
        {
            buffers.free();
        }
    }
}
