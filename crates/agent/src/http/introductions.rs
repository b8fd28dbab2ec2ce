//! Who has connected and has not yet shown who he is. There are only so many places, in all and for each network: a newcomer
//! takes the place of whoever has been silent there the longest. So nobody who says nothing keeps out a member, which needs its
//! place for one handshake only.

use std::collections::VecDeque;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Places in all.
const PLACES: usize = 256;
/// Of them for one network.
const PLACES_OF_ONE: usize = 64;

/// Those who are about to show who they are. Cloning is cheap.
#[derive(Clone, Default)]
pub(super) struct Introductions(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    next: u64,
    /// In the order in which they came.
    waiting: VecDeque<Introduction>,
}

struct Introduction {
    number: u64,
    of: IpAddr,
    /// Dropped with this, and so tells that the place is gone; used, that none is needed any more.
    keeps: oneshot::Sender<()>,
}

/// A place, until it is dropped.
pub(super) struct Place {
    all: Introductions,
    number: u64,
    kept: oneshot::Receiver<()>,
}

/// Gives a place back before its holder has gone: he has shown who he is.
#[derive(Clone)]
pub(crate) struct Release {
    all: Introductions,
    number: u64,
}

impl Release {
    /// Does so.
    pub(crate) fn now(&self) {
        let mut queue = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = queue.waiting.iter().position(|it| it.number == self.number);
        if let Some(introduction) = at.and_then(|at| queue.waiting.remove(at)) {
            let _ = introduction.keeps.send(());
        }
    }
}

/// One host has a whole network of IPv6 addresses.
pub(crate) fn network(of: IpAddr) -> IpAddr {
    match of.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Introductions {
    /// A place for somebody from there, and the network of whoever had to go for it.
    pub(super) fn enter(&self, from: IpAddr) -> (Place, Option<IpAddr>) {
        let of = network(from);
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = queue.waiting.iter().filter(|it| it.of == of).count();
        let oldest = if of_one >= PLACES_OF_ONE {
            queue.waiting.iter().position(|it| it.of == of)
        } else {
            (queue.waiting.len() >= PLACES).then_some(0)
        };
        let gone = oldest.and_then(|at| queue.waiting.remove(at));
        let number = queue.next;
        queue.next += 1;
        let (keeps, kept) = oneshot::channel();
        queue.waiting.push_back(Introduction { number, of, keeps });
        (Place { all: self.clone(), number, kept }, gone.map(|it| it.of))
    }
}

impl Place {
    /// Gives it back later.
    pub(super) fn release(&self) -> Release {
        Release { all: self.all.clone(), number: self.number }
    }

    /// What comes of the introduction, unless somebody else takes the place meanwhile.
    pub(super) async fn hold<T>(mut self, introduction: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(introduction);
        tokio::select! {
            introduced = &mut introduction => Some(introduced),
            kept = &mut self.kept => match kept {
                Ok(()) => Some(introduction.await),
                Err(_) => None,
            },
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.waiting.retain(|it| it.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(all: &Introductions) -> usize {
        all.0.lock().unwrap_or_else(PoisonError::into_inner).waiting.len()
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_oldest_of_its_network() {
        let all = Introductions::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let (_first, gone) = all.enter(other);
        assert_eq!(gone, None);
        let mut held: Vec<Place> = (0..PLACES_OF_ONE).map(|_| all.enter(one).0).collect();
        assert_eq!(waiting(&all), PLACES_OF_ONE + 1);
        assert_eq!(all.enter(one).1, Some(one), "not the one of the other network, which came first");
        assert_eq!(all.enter(other).1, None);
        held.clear();
        assert_eq!(waiting(&all), 1);
    }

    #[tokio::test]
    async fn who_was_recognised_is_not_sent_away_for_a_newcomer() {
        let all = Introductions::default();
        let from = IpAddr::from([10, 0, 0, 1]);
        let ((known, _), (unknown, _)) = (all.enter(from), all.enter(from));
        known.release().now();
        let held: Vec<Place> = (0..PLACES_OF_ONE).map(|_| all.enter(from).0).collect();
        let slow = || async { tokio::time::sleep(std::time::Duration::from_millis(20)).await };
        assert_eq!(known.hold(slow()).await, Some(()));
        assert_eq!(unknown.hold(slow()).await, None);
        drop(held);
        assert_eq!(waiting(&all), 0);
    }

    #[test]
    fn all_networks_together_have_so_many_places() {
        let all = Introductions::default();
        let from = |n: usize| IpAddr::from([10, 0, (n / 256) as u8, (n % 256) as u8]);
        let _held: Vec<Place> = (0..PLACES).map(|n| all.enter(from(n)).0).collect();
        assert_eq!(all.enter(from(PLACES)).1, Some(from(0)));
        assert_eq!(waiting(&all), PLACES - 1, "the last one has left again");
    }

    #[test]
    fn a_whole_network_of_ipv6_is_one_and_ipv4_in_ipv6_is_ipv4() {
        let ip = |text: &str| text.parse::<IpAddr>().map(network).ok();
        assert_eq!(ip("2001:db8::1"), ip("2001:db8::2"));
        assert_ne!(ip("2001:db8::1"), ip("2001:db8:0:1::1"));
        assert_ne!(ip("::ffff:10.0.0.1"), ip("::ffff:10.0.0.2"));
    }

    #[tokio::test]
    async fn who_has_lost_its_place_is_ended() {
        let all = Introductions::default();
        let from = IpAddr::from([10, 0, 0, 1]);
        let (place, _) = all.enter(from);
        let task = tokio::spawn(place.hold(std::future::pending::<()>()));
        let _others: Vec<Place> = (0..PLACES_OF_ONE).map(|_| all.enter(from).0).collect();
        assert!(task.await.is_ok_and(|introduced| introduced.is_none()));
    }
}
