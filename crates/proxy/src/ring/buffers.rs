//! Memory that the kernel puts received bytes into, by its own choice among buffers that it was given
//! (`io_uring_register_buf_ring(3)`).
//!
//! Unsafe, because the kernel writes there: a buffer is either the kernel's or ours, and which, it says in each completion.
#![allow(unsafe_code)]

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU16, Ordering};

/// Their number, a power of two.
pub const COUNT: u16 = 128;

/// Length of each. Bytes.
pub const LEN: usize = 8 * 1024;

/// The only group.
pub const GROUP: u16 = 0;

const ENTRIES_LEN: usize = COUNT as usize * size_of::<BufRingEntry>();
const PAGE_LEN: usize = 4 * 1024;
const HEAD_LEN: usize = ENTRIES_LEN.next_multiple_of(PAGE_LEN);
const ALL_LEN: usize = HEAD_LEN + COUNT as usize * LEN;

/// A buffer that the kernel has filled and that is ours until it is given back. Neither copied nor cloned.
#[derive(Debug, PartialEq, Eq)]
pub struct Filled {
    number: u16,
    len: usize,
}

impl Filled {
    /// How much is in it. Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// See the module.
#[derive(Debug)]
pub struct Buffers {
    /// The list of the kernel's buffers, and behind it the buffers.
    memory: NonNull<u8>,
    /// How many were ever put on the list.
    given: u16,
    /// How many are the kernel's.
    there: u16,
}

impl Buffers {
    /// Gives the kernel all of them.
    ///
    /// # Errors
    /// There is no memory, or the kernel does not know such lists (before Linux 5.19).
    pub fn register(submitter: &Submitter<'_>) -> io::Result<Buffers> {
        // SAFETY: a new mapping, where the kernel chooses.
        let memory = unsafe {
            mmap_anonymous(null_mut(), ALL_LEN, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
        };
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut buffers = Buffers { memory, given: 0, there: 0 };
        // SAFETY: the list is page-aligned, of this length, and stays until `Buffers::unregister`.
        unsafe { submitter.register_buf_ring_with_flags(memory.as_ptr() as u64, COUNT, GROUP, 0)? };
        for number in 0..COUNT {
            buffers.put(number);
        }
        Ok(buffers)
    }

    /// A buffer that a completion names. Only to be called once for each completion.
    pub fn taken(&mut self, number: u16, len: usize) -> Filled {
        self.there = self.there.saturating_sub(1);
        Filled { number: number % COUNT, len: len.min(LEN) }
    }

    /// What is in it.
    pub fn bytes(&self, filled: &Filled) -> &[u8] {
        // SAFETY: within the mapping, written by the kernel, which does not touch it before it is given back; that takes
        // the `Filled` away.
        unsafe { std::slice::from_raw_parts(self.start_of(filled.number), filled.len) }
    }

    /// Gives one back.
    pub fn give_back(&mut self, filled: Filled) {
        self.put(filled.number);
    }

    /// How many the kernel has.
    pub fn there(&self) -> u16 {
        self.there
    }

    fn start_of(&self, number: u16) -> *mut u8 {
        // SAFETY: within the mapping, for numbers are less than COUNT.
        unsafe { self.memory.as_ptr().add(HEAD_LEN + usize::from(number) * LEN) }
    }

    fn put(&mut self, number: u16) {
        let start = self.start_of(number);
        let entries: *mut BufRingEntry = self.memory.as_ptr().cast();
        // SAFETY: within the list; this entry is not the kernel's, for it has fewer than COUNT. The end of the list is an
        // u16 inside the first entry that nothing else uses, and the kernel reads it as an atomic.
        unsafe {
            let entry = &mut *entries.add(usize::from(self.given % COUNT));
            entry.set_addr(start as u64);
            #[allow(clippy::cast_possible_truncation, reason = "a constant, which fits")]
            entry.set_len(LEN as u32);
            entry.set_bid(number);
            self.given = self.given.wrapping_add(1);
            let end = BufRingEntry::tail(entries).cast::<AtomicU16>();
            (*end).store(self.given, Ordering::Release);
        }
        self.there += 1;
    }

    /// Frees them. No request may be under way that could use one.
    pub fn free(self) {
        // SAFETY: the mapping of `register`; nobody has it any more.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), ALL_LEN) };
    }
}
