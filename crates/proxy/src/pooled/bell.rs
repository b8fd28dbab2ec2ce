//! Wakes all clients of a worker: they look by themselves at what has happened.
//!
//! A client's task registers once, so that waiting for the rare things costs nothing on the path of a query.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// See the module.
#[derive(Debug, Default)]
pub struct Bell {
    listeners: RefCell<HashMap<u64, Waker>>,
    next: Cell<u64>,
    stopping: Cell<bool>,
}

/// A client's task; dropping it takes it out.
#[derive(Debug)]
pub struct Listener<'a> {
    bell: &'a Bell,
    number: u64,
}

impl Bell {
    /// Registers the task that calls this.
    pub async fn listen(&self) -> Listener<'_> {
        let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        let number = self.next.replace(self.next.get() + 1);
        self.listeners.borrow_mut().insert(number, waker);
        Listener { bell: self, number }
    }

    /// Wakes everybody.
    pub fn ring(&self) {
        self.listeners.borrow().values().for_each(Waker::wake_by_ref);
    }

    /// The proxy stops.
    pub fn ring_for_stop(&self) {
        self.stopping.set(true);
        self.ring();
    }

    /// Whether the proxy stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.bell.listeners.borrow_mut().remove(&self.number);
    }
}
