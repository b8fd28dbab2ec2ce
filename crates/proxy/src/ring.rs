//! Connections by io_uring: a request for each stays with the kernel, which puts what comes into buffers that all connections
//! of a worker share. So a message costs no system call of its own to be received, and an idle connection no buffer.
//!
//! Short messages are sent by it as well: what all clients of a turn of the loop have to say leaves in one system call, and
//! nobody who is woken by it takes the processor away in between. Their bytes are kept here until they are sent.
//!
//! One ring a worker, which [`block_on`] turns whenever no task of the worker can go on. Where the kernel does not permit a
//! ring (before Linux 6.1, in most containers, `kernel.io_uring_disabled`), connections are read by epoll.

mod accept;

mod buffers;

mod drive;

mod inner;

mod slot;

mod socket;

#[cfg(test)]
mod tests;

pub use accept::Acceptor;
pub use drive::block_on;
pub use slot::Ahead;
pub use socket::RingSocket;

use inner::Inner;
use io_uring::IoUring;
use rustix::event::{EventfdFlags, eventfd};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};
use std::task::Waker;
use std::time::Duration;
use tokio::time::timeout;

/// Requests that can wait to be submitted; more are submitted at once.
const REQUESTS: u32 = 256;

/// Completions that can wait to be read; beyond that the kernel keeps them.
const COMPLETIONS: u32 = 4_096;

/// What takes longer is nothing that a worker's clients all should wait for otherwise than usual.
const SOON: Duration = Duration::from_millis(20);

/// See the module.
pub struct Ring {
    inner: RefCell<Inner>,
    /// Signalled by the kernel when there is something to be read, while that was asked for.
    signal: OwnedFd,
    /// How many wait for something that is not on the ring, and would rather not wait longer.
    elsewhere: Cell<usize>,
}

/// Somebody waits for something that is not on the ring, as long as this is kept.
struct Elsewhere<'a>(&'a Ring);

impl Drop for Elsewhere<'_> {
    fn drop(&mut self) {
        self.0.elsewhere.set(self.0.elsewhere.get() - 1);
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring for the thread that calls this; nobody else may use it.
    ///
    /// # Errors
    /// The kernel does not permit it, or is too old.
    pub fn new() -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETIONS)
            .build(REQUESTS)?;
        if !uring.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        uring.submitter().register_eventfd(signal.as_raw_fd())?;
        Ok(Ring { inner: RefCell::new(Inner::new(uring)?), signal, elsewhere: Cell::new(0) })
    }

    /// The thread does not wait for the ring alone while this is kept.
    fn look_elsewhere(&self) -> Elsewhere<'_> {
        self.elsewhere.set(self.elsewhere.get() + 1);
        Elsewhere(self)
    }

    /// Does what waits for something that is not on the ring, if there is one, and is soon done, mostly: a busy ring is not
    /// waited for alone meanwhile. What takes longer may wait a little longer still.
    pub async fn beside<T>(ring: Option<&Rc<Ring>>, doing: impl Future<Output = T>) -> T {
        let Some(ring) = ring else { return doing.await };
        let mut doing = pin!(doing);
        {
            let _elsewhere = ring.look_elsewhere();
            if let Ok(done) = timeout(SOON, doing.as_mut()).await {
                return done;
            }
        }
        doing.await
    }

    /// Submits what waits, reads what is done and wakes who waited for it. Where the thread `may_wait`, a busy ring is waited
    /// for. Whether there may be more to do there soon, and it may be waited for alone.
    fn turn(&self, may_wait: bool) -> bool {
        let may_wait_alone = self.elsewhere.get() == 0;
        let mut inner = self.inner.borrow_mut();
        let waits = may_wait && may_wait_alone && inner.busy;
        inner.submit(waits);
        inner.read_completions();
        let is_busy = inner.busy && may_wait_alone;
        let mut woken = std::mem::take(&mut inner.woken);
        drop(inner);
        // Nothing is borrowed while others do what they like.
        woken.drain(..).for_each(Waker::wake);
        // Its memory is used again.
        let mut inner = self.inner.borrow_mut();
        if inner.woken.is_empty() {
            inner.woken = woken;
        }
        is_busy
    }

    /// From now on the kernel signals what comes. Whether nothing has come before that.
    fn signal_what_comes(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        inner.uring.completion().enable_eventfd();
        // What came before that was told to nobody.
        fence(Ordering::SeqCst);
        !inner.has_work()
    }

    /// Nobody sleeps who would have to be woken.
    fn signal_nothing(&self) {
        self.inner.borrow_mut().uring.completion().disable_eventfd();
    }
}
