//! Processor load beside the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Loops that do nothing, until this is dropped.
pub struct BusyLoops {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl BusyLoops {
    /// As many as the survey had.
    pub const MANY: usize = 33;

    /// Begins `count` of them: threads of this process, so they cannot outlive it. None lasts longer than `limit`.
    #[must_use]
    pub fn start(count: usize, limit: Duration) -> BusyLoops {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Instant::now() + limit;
        let spin =
            |stop: Arc<AtomicBool>| move || while !stop.load(Ordering::Relaxed) && Instant::now() < until {};
        let threads = (0..count).map(|_| std::thread::spawn(spin(Arc::clone(&stop)))).collect();
        BusyLoops { stop, threads }
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
