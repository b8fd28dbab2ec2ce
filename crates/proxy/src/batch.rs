//! A worker's thread is one of batch work for the kernel (`SCHED_BATCH`, sched(7)): when something comes for it, it does not
//! take the processor from the server or the client that runs there, but waits until that one has said all it has to say.
//! By then more has come, and a worker that deals with much at once needs less of the processor, which they share.
//!
//! This needs `unsafe`, because no safe library that we have sets the policy of a thread.
#![allow(unsafe_code)]

use std::io;

/// Makes the thread that calls this one of batch work, and threads that it starts from now on; not one to which somebody has
/// given another policy than the ordinary one.
///
/// # Errors
/// The kernel, or a filter of system calls in a container, does not permit it.
pub fn become_batch() -> io::Result<()> {
    // SAFETY: it asks about the thread itself.
    if unsafe { libc::sched_getscheduler(0) } != libc::SCHED_OTHER {
        return Ok(());
    }
    let no_priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: it is read during the call alone, and 0 is the thread itself.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const no_priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_so_for_the_thread_alone() {
        // SAFETY: it asks about the thread itself.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let before = policy();
        let of_worker = std::thread::spawn(move || {
            become_batch().expect("it is permitted");
            policy()
        });
        assert_eq!(of_worker.join().expect("no panic"), libc::SCHED_BATCH);
        assert_eq!(policy(), before);
    }
}
