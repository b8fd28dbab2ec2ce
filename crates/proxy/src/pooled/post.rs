//! Where a client that waits for a server is told what becomes of it. One for each client, for as long as it is here: under
//! load every other transaction waits for a moment, and nothing is allocated for that.

use super::pools::Lent;
use crate::error::Refusal;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What a client that waits is told.
#[derive(Debug)]
pub enum Told {
    Lent(Box<Lent>),
    /// It waits for long.
    Waits,
    GivenUp(Duration),
    Refused(Box<Refusal>),
    /// The server refuses the login; its message.
    RefusedByServer(Rc<[u8]>),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Post {
    /// How it ends.
    end: RefCell<Option<Told>>,
    waits_long: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl Post {
    /// Tells the client. How its waiting ends is told once: a second end would take the place of one that was not read.
    pub fn put(&self, told: Told) {
        match told {
            Told::Waits => self.waits_long.set(true),
            end => *self.end.borrow_mut() = Some(end),
        }
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    /// What is there.
    pub fn take(&self) -> Option<Told> {
        self.waits_long.take().then_some(Told::Waits).or_else(|| self.end.take())
    }

    /// The next that comes.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Told> {
        if let Some(told) = self.take() {
            return Poll::Ready(told);
        }
        let mut reader = self.reader.borrow_mut();
        match reader.as_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *reader = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    async fn next(post: &Post) -> Told {
        poll_fn(|cx| post.poll_next(cx)).await
    }

    #[tokio::test]
    async fn a_notice_comes_before_the_end() {
        let post = Post::default();
        assert!(post.take().is_none());
        post.put(Told::Waits);
        post.put(Told::GivenUp(Duration::from_secs(1)));
        assert!(matches!(next(&post).await, Told::Waits));
        assert!(matches!(next(&post).await, Told::GivenUp(_)));
        assert!(post.take().is_none());
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let post = Rc::new(Post::default());
        let told = async {
            tokio::task::yield_now().await;
            post.put(Told::Waits)
        };
        let (read, ()) = tokio::join!(next(&post), told);
        assert!(matches!(read, Told::Waits));
    }
}
