//! The loop of a worker's thread: its tasks, its ring, and the runtime for what is not on the ring.

use super::Ring;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

/// How often a busy worker looks at what is not on its ring: timers, connections that are being opened, other threads. While
/// it waits for the ring alone, it is later by that.
const RUNTIME_EVERY: Duration = Duration::from_millis(1);

/// Runs `main` and all it spawns locally, with the ring of this thread.
///
/// The thread sleeps in the runtime (epoll), where the ring's eventfd wakes it; but a worker whose ring was busy a moment ago
/// waits for the ring alone at first, because going to sleep in one place and being woken in the other costs three system calls.
///
/// # Errors
/// Those of watching the eventfd, and `main` panicked.
#[allow(unsafe_code)]
pub fn block_on<T: 'static>(
    runtime: &Runtime,
    ring: &Ring,
    main: impl Future<Output = T> + 'static,
) -> io::Result<T> {
    let mut tasks = pin!(LocalSet::new());
    let mut main = tasks.spawn_local(main);
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(Arc::clone(&alarm));
    let mut alarmed = Context::from_waker(&waker);
    runtime.block_on(async {
        // SAFETY: it owns the file, and nobody closes or exchanges it meanwhile.
        let signal =
            unsafe { AsyncFd::register_with_interest(ring.signal.try_clone()?, Interest::READABLE)? };
        poll_fn(|cx| {
            alarm.wake_up(cx.waker());
            ring.signal_nothing();
            let since = Instant::now();
            loop {
                alarm.hush();
                if let Poll::Ready(ended) = Pin::new(&mut main).poll(&mut alarmed) {
                    return Poll::Ready(ended.map_err(io::Error::other));
                }
                let _ = tasks.as_mut().poll(&mut alarmed);
                let is_busy = ring.turn(!alarm.rings());
                if !is_busy && !alarm.rings() && ring.signal_what_comes() {
                    // It is never read: each signal is an edge.
                    while let Poll::Ready(ready) = signal.poll_read_ready(cx) {
                        ready?.clear_ready();
                    }
                    if alarm.fall_asleep() {
                        return Poll::Pending;
                    }
                }
                ring.signal_nothing();
                if since.elapsed() >= RUNTIME_EVERY {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        })
        .await
    })
}

/// Wakes the thread, for which nothing is to be done while it is awake.
#[derive(Default)]
struct Alarm {
    rings: AtomicBool,
    is_awake: AtomicBool,
    /// Wakes the runtime.
    sleeper: Mutex<Option<Waker>>,
}

impl Alarm {
    fn wake_up(&self, sleeper: &Waker) {
        self.is_awake.store(true, Ordering::SeqCst);
        let mut known = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_mut() {
            Some(known) => known.clone_from(sleeper),
            None => *known = Some(sleeper.clone()),
        }
    }

    fn hush(&self) {
        self.rings.store(false, Ordering::SeqCst);
    }

    fn rings(&self) -> bool {
        self.rings.load(Ordering::SeqCst)
    }

    /// Whether the thread may sleep: who rings from now on will wake it.
    fn fall_asleep(&self) -> bool {
        self.is_awake.store(false, Ordering::SeqCst);
        let may_sleep = !self.rings();
        if !may_sleep {
            self.is_awake.store(true, Ordering::SeqCst);
        }
        may_sleep
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Alarm>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Alarm>) {
        self.rings.store(true, Ordering::SeqCst);
        if self.is_awake.load(Ordering::SeqCst) {
            return;
        }
        if let Some(sleeper) = &*self.sleeper.lock().unwrap_or_else(PoisonError::into_inner) {
            sleeper.wake_by_ref();
        }
    }
}
