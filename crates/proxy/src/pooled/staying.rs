//! Who is still here though another process listens, and why.

use crate::console::{Told, Wish};
use crate::roster::{Bound, Seat, Stage};
use crate::takeover::Ferry;
use crate::worker::{Shared, Worker};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// When nobody has gone for so long, those who could have.
const QUIET: Duration = Duration::from_millis(500);

/// So often at most that is waited for.
const LOOKS_MAX: usize = 20;

/// Why a client stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    InTransaction,
    Pinned,
    Busy,
    Tls,
    SessionMode,
    Listens,
    TooMuch,
    Refused,
    /// It will go, or is just coming.
    Soon,
}

/// How many stay for which reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Staying(BTreeMap<Why, usize>);

impl Staying {
    /// Of one worker.
    pub fn of(worker: &Worker) -> Staying {
        let mut staying = Staying::default();
        for seat in worker.roster.seats() {
            *staying.0.entry(why(&seat)).or_default() += 1;
        }
        staying
    }

    fn add(&mut self, others: &Staying) {
        for (why, count) in &others.0 {
            *self.0.entry(*why).or_default() += count;
        }
    }
}

fn why(seat: &Seat) -> Why {
    let doing = seat.doing();
    match (doing.stage, seat.bound()) {
        (Stage::Looking | Stage::OnItsOwn, _) => Why::SessionMode,
        (_, Some(Bound::Tls)) => Why::Tls,
        (_, Some(Bound::Listens)) => Why::Listens,
        (_, Some(Bound::TooMuch)) => Why::TooMuch,
        (_, Some(Bound::Refused)) => Why::Refused,
        (Stage::Lent(_), None) if doing.transaction_since.is_some() => Why::InTransaction,
        (Stage::Lent(_), None) if !doing.pins.is_empty() => Why::Pinned,
        (Stage::Lent(_) | Stage::Waiting, None) => Why::Busy,
        (Stage::Idle | Stage::LoggingIn, None) => Why::Soon,
    }
}

impl fmt::Display for Staying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} stay", self.0.values().sum::<usize>())?;
        for (number, (why, count)) in self.0.iter().enumerate() {
            let why = match why {
                Why::InTransaction => "in a transaction",
                Why::Pinned => "kept on their servers",
                Why::Busy => "with a statement under way",
                Why::Tls => "with TLS",
                Why::SessionMode => "with servers of their own",
                Why::Listens => "for whom another server connection listens",
                Why::TooMuch => "whose sessions cannot be handed over",
                Why::Refused => "whom the new process does not take",
                Why::Soon => "about to go",
            };
            write!(f, "{}{count} {why}", if number == 0 { ": " } else { ", " })?;
        }
        Ok(())
    }
}

/// Logs how many have gone, when those have that could go at once.
pub async fn tell_who_stays(ferry: &Ferry, shared: &Shared) {
    let mut before = 0;
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(QUIET).await;
        let taken = ferry.tally().taken();
        if std::mem::replace(&mut before, taken) == taken {
            break;
        }
    }
    let mut all = Staying::default();
    for (_, told) in shared.desks.ask(&Wish::Staying).await.told {
        if let Told::Staying(staying) = told {
            all.add(&staying);
        }
    }
    tracing::info!("{} clients were handed over, {all}", ferry.tally().taken());
    if let Some(why) = ferry.tally().why_refused() {
        tracing::warn!("the process that listens now does not take some clients: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stays_is_told_with_reasons() {
        assert_eq!(Staying::default().to_string(), "0 stay");
        let mut all = Staying([(Why::Tls, 1)].into());
        all.add(&Staying([(Why::InTransaction, 5), (Why::Tls, 1)].into()));
        assert_eq!(all.to_string(), "7 stay: 5 in a transaction, 2 with TLS");
    }
}
