//! The console runs on one worker and asks all of them: a message there, an answer back, and no lock in between.

use super::facts::{self, Client, Of, Pool, Prepared, Server};
use crate::client::cancel_here;
use crate::pooled::{self, Chosen, Staying};
use crate::roster::Order;
use crate::worker::{Worker, stopped};
use pgwire::CancelKey;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout, timeout_at};

/// How long a worker may take to answer.
pub const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Questions that may lie before a worker.
const INBOX_LEN: usize = 64;

/// What is asked, or wished.
#[derive(Clone, Debug)]
pub enum Wish {
    Pools,
    Clients,
    Servers,
    Prepared,
    /// The settings have changed.
    Settle,
    Pause(Chosen),
    Resume(Chosen),
    Reconnect(Chosen),
    /// How many servers are lent.
    Lent(Chosen),
    /// The client of this number of the worker's is ended.
    KillClient {
        worker: usize,
        number: u32,
    },
    /// All clients of this database are ended.
    KillAll(Chosen),
    /// The statement of the client with this key is cancelled; when that is done, whether there is such a client.
    Cancel(CancelKey, mpsc::Sender<bool>),
    /// Who is here yet, though another process listens.
    Staying,
}

/// The answer of one worker.
#[derive(Clone, Debug)]
pub enum Told {
    Pools(Vec<(Of, Pool)>),
    Clients(Vec<Client>),
    Servers(Vec<Server>),
    Prepared(Vec<Prepared>),
    /// To how many it was done, or how many there are.
    Count(usize),
    /// It is paused now; whether it was not before.
    Paused {
        is_news: bool,
    },
    /// No more databases can be paused by name.
    TooManyPaused,
    /// It is resumed; whether it is not still paused with all others.
    Resumed {
        lends: bool,
    },
    Staying(Staying),
}

/// A wish on its way.
#[derive(Debug)]
pub struct Ask {
    wish: Wish,
    answer: oneshot::Sender<Told>,
}

/// Where a worker finds what it is asked.
pub type Inbox = mpsc::Receiver<Ask>;

/// Where to ask each worker.
#[derive(Debug)]
pub struct Desks(Vec<mpsc::Sender<Ask>>);

/// What came back.
#[derive(Debug, Default)]
pub struct Answers {
    /// Each with the number of its worker.
    pub told: Vec<(usize, Told)>,
    /// Workers that did not answer in time.
    pub silent: Vec<usize>,
}

/// A desk for each worker.
pub fn desks(workers: usize) -> (Desks, Vec<Inbox>) {
    let (desks, inboxes) = (0..workers).map(|_| mpsc::channel(INBOX_LEN)).unzip();
    (Desks(desks), inboxes)
}

impl Desks {
    /// How many workers there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Asks all workers, and waits until all have answered, or [`ANSWER_MAX`] is over.
    pub async fn ask(&self, wish: &Wish) -> Answers {
        self.ask_within(ANSWER_MAX, wish).await
    }

    /// Asks one worker; `None` if it does not answer in time.
    pub async fn ask_one(&self, number: usize, wish: Wish) -> Option<Told> {
        let (answer, answered) = oneshot::channel();
        self.0.get(number)?.try_send(Ask { wish, answer }).ok()?;
        timeout(ANSWER_MAX, answered).await.ok()?.ok()
    }

    async fn ask_within(&self, limit: Duration, wish: &Wish) -> Answers {
        let until = Instant::now() + limit;
        let mut asked = Vec::new();
        for desk in &self.0 {
            let (answer, answered) = oneshot::channel();
            // One whose inbox is full does not answer either.
            let is_sent = desk.try_send(Ask { wish: wish.clone(), answer }).is_ok();
            asked.push(is_sent.then_some(answered));
        }
        let mut answers = Answers::default();
        for (number, answered) in asked.into_iter().enumerate() {
            let told = match answered {
                Some(answered) => timeout_at(until, answered).await.ok().and_then(Result::ok),
                None => None,
            };
            match told {
                Some(told) => answers.told.push((number, told)),
                None => answers.silent.push(number),
            }
        }
        answers
    }
}

/// A worker's part: answers until the proxy stops.
pub async fn answer(mut inbox: Inbox, worker: Rc<Worker>) {
    let mut stop = worker.stop.clone();
    loop {
        let ask = tokio::select! {
            () = stopped(&mut stop) => return,
            ask = inbox.recv() => ask,
        };
        let Some(Ask { wish, answer }) = ask else { return };
        // Who has given up must not be surprised by what is done later.
        if !answer.is_closed() {
            // It may give up in this moment.
            let _ = answer.send(fulfil(&wish, &worker));
        }
    }
}

fn fulfil(wish: &Wish, worker: &Rc<Worker>) -> Told {
    match wish {
        Wish::Pools => Told::Pools(facts::pools(worker)),
        Wish::Clients => Told::Clients(facts::clients(worker)),
        Wish::Servers => Told::Servers(facts::servers(worker)),
        Wish::Prepared => Told::Prepared(facts::prepared(worker)),
        Wish::Settle => {
            pooled::settle(worker);
            Told::Count(1)
        }
        Wish::Pause(chosen) => match pooled::pause(worker, chosen) {
            Some(is_news) => Told::Paused { is_news },
            None => Told::TooManyPaused,
        },
        Wish::Resume(chosen) => Told::Resumed { lends: pooled::resume(worker, chosen) },
        Wish::Reconnect(chosen) => Told::Count(pooled::reconnect(worker, chosen)),
        Wish::Lent(chosen) => Told::Count(worker.pools.borrow().lent_of(chosen)),
        Wish::KillClient { worker: number, number: client } => {
            let seat = worker.roster.find(*client).filter(|_| worker.number == *number);
            if let Some(seat) = &seat {
                seat.give(Order::Killed);
            }
            Told::Count(usize::from(seat.is_some()))
        }
        Wish::KillAll(chosen) => {
            let seats = worker.roster.seats();
            let meant = || seats.iter().filter(|seat| chosen.is(&seat.who.database));
            meant().for_each(|seat| seat.give(Order::Killed));
            Told::Count(meant().count())
        }
        Wish::Cancel(key, done) => {
            let (key, done, worker) = (key.clone(), done.clone(), Rc::clone(worker));
            spawn_local(async move {
                let known = cancel_here(&key, &worker).await;
                // Who has asked may not wait any more.
                let _ = done.send(known).await;
            });
            Told::Count(1)
        }
        Wish::Staying => Told::Staying(Staying::of(worker)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_does_not_answer_is_named_and_not_waited_for_long() {
        let (desks, mut inboxes) = desks(3);
        let mut third = inboxes.pop().unwrap();
        let second = inboxes.pop().unwrap();
        drop(inboxes);
        let answering = async {
            let Some(Ask { wish: Wish::Lent(Chosen::All), answer }) = third.recv().await else { panic!() };
            answer.send(Told::Count(7)).unwrap();
        };
        let limit = Duration::from_millis(50);
        let (answers, ()) = tokio::join!(desks.ask_within(limit, &Wish::Lent(Chosen::All)), answering);
        assert!(matches!(answers.told[..], [(2, Told::Count(7))]), "{answers:?}");
        assert_eq!(answers.silent, [0, 1], "one is gone, one is silent");
        let mut second = second;
        let late = second.recv().await.unwrap();
        assert!(late.answer.is_closed(), "what was given up is seen as such");
        for _ in 0..INBOX_LEN {
            let _ =
                tokio::time::timeout(Duration::from_millis(1), desks.ask_within(limit, &Wish::Pools)).await;
        }
        assert_eq!(second.len(), INBOX_LEN);
        let answers = desks.ask_within(limit, &Wish::Pools).await;
        assert_eq!(answers.silent, [0, 1, 2], "a full inbox is silent");
    }
}
