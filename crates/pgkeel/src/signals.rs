//! Signals around the moment at which this process becomes another program: none that asks it to end is lost.
//!
//! Handlers end with the old program, and a signal that comes before the new one has its own would end the process at once:
//! its server would be left to its guard, which kills it at the end of the lease. So the thread that becomes the other
//! program holds signals back ([`hold`]): a mask, and what waits behind it, are kept. The new program first says that it wants
//! them ([`catch`]), then lets them come.
//!
//! Other threads still take signals until they are gone. From [`hold`] on they pass them on to the one that waits.
//!
//! This needs `unsafe`: the mask of a thread is in no safe library that we
//! have, and a handler may do only what is allowed in one. Ours reads and writes atomics, and calls tgkill(2).
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

/// What asks a process to end.
const ENDING: [i32; 2] = [libc::SIGTERM, libc::SIGINT];
/// The last of [`ENDING`] that has come, or 0.
static CAME: AtomicI32 = AtomicI32::new(0);
/// The thread that holds signals back, or 0.
static HOLDER: AtomicI32 = AtomicI32::new(0);

/// Wants the signals from now on: the first thing that a process does. What has come can be asked by [`asked_to_end`].
///
/// # Errors
/// When the system refuses.
pub fn catch() -> io::Result<()> {
    for signal in ENDING {
        let came = move || {
            CAME.store(signal, Ordering::SeqCst);
            pass_on(signal);
        };
        // SAFETY: the handler touches atomics and calls tgkill(2), which signal-safety(7) allows.
        unsafe { signal_hook_registry::register(signal, came) }?;
    }
    // For an agent it means nothing, but without a handler it would end it.
    // SAFETY: the handler does nothing.
    unsafe { signal_hook_registry::register(libc::SIGHUP, || ()) }?;
    mask(libc::SIG_UNBLOCK)
}

/// Whether a signal that asks this process to end has come since [`catch`].
#[must_use]
pub fn asked_to_end() -> bool {
    CAME.load(Ordering::SeqCst) != 0
}

/// Holds signals back for the program that this process is about to become: to be called by the thread that will do that. A
/// signal that has come already, and that nobody has followed, is held back like one that comes now.
///
/// # Errors
/// When the system refuses.
pub fn hold() -> io::Result<()> {
    mask(libc::SIG_BLOCK)?;
    // SAFETY: gettid(2) always succeeds and touches nothing.
    HOLDER.store(unsafe { libc::gettid() }, Ordering::SeqCst);
    // Another thread's handler notes the signal first and looks for the holder then: one of us sees the other.
    match CAME.load(Ordering::SeqCst) {
        0 => {}
        signal => pass_on(signal),
    }
    Ok(())
}

/// To the thread that holds signals back, if there is one.
fn pass_on(signal: i32) {
    let holder = HOLDER.load(Ordering::SeqCst);
    if holder != 0 {
        // SAFETY: two numbers and a signal; errno, which a handler must keep, is changed only by a failure, and the thread is
        // one of ours that lives.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), holder, signal) };
    }
}

fn mask(how: i32) -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) fills the whole set before the others use it, and it outlives the calls.
    let failed = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in ENDING.into_iter().chain([libc::SIGHUP]) {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut())
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(failed)) }
}
