//! Which of several servers is the primary, when nobody but themselves can be asked. Pure.
//!
//! Who takes writes on the highest timeline is it: a promotion opens a new one, so a primary of before that comes back is known
//! by its lower number (PostgreSQL's manual, "Timelines"). That a server does not answer does not mean that it is primary
//! no more: it stays the primary until another one takes writes on a later timeline, or it says itself that it is a standby.

use cluster::view::{Server, View};
use std::cmp::Reverse;

/// What a server said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It takes writes. Its timeline; 0 where it does not say.
    Primary {
        /// Number.
        timeline: u32,
    },
    /// It does not.
    Standby,
    /// Nothing, and why.
    Silent(String),
}

/// See the module.
#[derive(Debug)]
pub struct Chooser {
    cluster: String,
    servers: Vec<Server>,
    /// The last ones; `None`: not asked yet.
    answers: Vec<Option<Answer>>,
    current: Option<usize>,
    /// The highest of a primary so far.
    timeline: u32,
    epoch: u64,
    revision: u64,
    /// Without its revision.
    last: Option<View>,
}

impl Chooser {
    /// Nothing was asked yet.
    #[must_use]
    pub fn new(cluster: &str, servers: Vec<Server>) -> Chooser {
        let answers = vec![None; servers.len()];
        Chooser {
            cluster: cluster.to_owned(),
            servers,
            answers,
            current: None,
            timeline: 0,
            epoch: 0,
            revision: 0,
            last: None,
        }
    }

    /// Takes note of what server `number` said; the view, if it is another one now.
    pub fn heard(&mut self, number: usize, answer: Answer) -> Option<View> {
        let place = self.answers.get_mut(number)?;
        if place.as_ref() == Some(&answer) {
            return None;
        }
        *place = Some(answer);
        // One that was primary before may be the first to answer.
        if self.answers.contains(&None) {
            return None;
        }
        match self.best() {
            Some((best, timeline)) if self.replaces(best, timeline) => {
                (self.current, self.timeline) = (Some(best), timeline);
                self.epoch += 1;
            }
            _ if self.current.is_some_and(|current| self.answers[current] == Some(Answer::Standby)) => {
                self.current = None;
            }
            _ => {}
        }
        let view = self.view();
        if self.last.as_ref() == Some(&view) {
            return None;
        }
        self.last = Some(view.clone());
        self.revision += 1;
        Some(View { revision: self.revision, ..view })
    }

    /// Who takes writes on the highest timeline, if that is none of before.
    fn best(&self) -> Option<(usize, u32)> {
        let primaries = self.answers.iter().enumerate().filter_map(|(number, answer)| match answer {
            Some(Answer::Primary { timeline }) => Some((number, *timeline)),
            Some(Answer::Standby | Answer::Silent(_)) | None => None,
        });
        let best = primaries
            .max_by_key(|(number, timeline)| (*timeline, self.current == Some(*number), Reverse(*number)));
        best.filter(|(_, timeline)| *timeline >= self.timeline)
    }

    /// Whether `best` takes the place of the present one.
    fn replaces(&self, best: usize, timeline: u32) -> bool {
        let Some(current) = self.current else { return true };
        if timeline > self.timeline {
            return true;
        }
        // On one timeline two servers take writes only if they have the same storage, or if somebody has copied one.
        best != current && (timeline == 0 || self.answers[current] == Some(Answer::Standby))
    }

    /// Without its revision.
    fn view(&self) -> View {
        let standbys = self.servers.iter().zip(&self.answers).filter(|(_, a)| **a == Some(Answer::Standby));
        View {
            cluster: self.cluster.clone(),
            epoch: self.epoch,
            revision: 0,
            primary: self.current.and_then(|current| self.servers.get(current)).cloned(),
            readers: standbys.map(|(server, _)| server.clone()).collect(),
            waiting: self.current.is_none().then(|| self.nobody()),
            hold: None,
            agents: Vec::new(),
            primary_agent: None,
        }
    }

    /// Why there is none.
    fn nobody(&self) -> String {
        let of = |(server, answer): (&Server, &Option<Answer>)| match answer {
            Some(Answer::Standby) => format!("{} is a standby", server.node),
            Some(Answer::Silent(why)) => format!("{} {why}", server.node),
            Some(Answer::Primary { timeline }) => {
                format!(
                    "{} takes writes on timeline {timeline}, which an earlier primary has left",
                    server.node
                )
            }
            None => format!("{} was not asked yet", server.node),
        };
        let all: Vec<String> = self.servers.iter().zip(&self.answers).map(of).collect();
        format!("No server takes writes: {}.", all.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: usize = 0;
    const B: usize = 1;

    fn chooser() -> Chooser {
        let server = |node: &str| Server { node: node.to_owned(), host: node.to_owned(), port: 5432 };
        Chooser::new("c", vec![server("a"), server("b")])
    }

    fn primary(timeline: u32) -> Answer {
        Answer::Primary { timeline }
    }

    fn silent() -> Answer {
        Answer::Silent("cannot be reached".to_owned())
    }

    fn name(view: &View) -> Option<&str> {
        view.primary.as_ref().map(|server| server.node.as_str())
    }

    #[test]
    fn all_are_heard_before_one_is_chosen() {
        let mut chooser = chooser();
        assert_eq!(chooser.heard(A, primary(3)), None, "b may be on a later timeline");
        let view = chooser.heard(B, primary(4)).expect("a view");
        assert_eq!((name(&view), view.epoch), (Some("b"), 1));
        assert_eq!(chooser.heard(A, primary(3)), None);
    }

    #[test]
    fn a_promotion_is_a_new_epoch_and_the_old_primary_is_not_believed() {
        let mut chooser = chooser();
        chooser.heard(A, primary(1));
        let first = chooser.heard(B, Answer::Standby).expect("a view");
        assert_eq!((name(&first), first.readers.len()), (Some("a"), 1));
        assert_eq!(chooser.heard(A, silent()), None, "it may come back");
        let second = chooser.heard(B, primary(2)).expect("a view");
        assert_eq!((name(&second), second.epoch), (Some("b"), 2));
        assert!(second.is_newer_than(&first));
        assert_eq!(chooser.heard(A, primary(1)), None, "it was left");
        assert_eq!(chooser.heard(B, silent()), None);
        assert_eq!(chooser.heard(A, silent()), None);
        assert_eq!(chooser.heard(A, primary(1)), None, "even when it is the only one");
    }

    #[test]
    fn a_switchover_passes_a_moment_without_a_primary() {
        let mut chooser = chooser();
        chooser.heard(A, primary(1));
        chooser.heard(B, Answer::Standby);
        let none = chooser.heard(A, Answer::Standby).expect("a view");
        assert_eq!(name(&none), None);
        assert_eq!(none.waiting.as_deref(), Some("No server takes writes: a is a standby; b is a standby."));
        let next = chooser.heard(B, primary(2)).expect("a view");
        assert_eq!((name(&next), next.epoch), (Some("b"), 2));
        let standby = chooser.heard(A, silent()).expect("another reader less");
        assert_eq!((standby.epoch, standby.readers.len()), (2, 0));
    }

    #[test]
    fn of_two_on_one_timeline_the_present_one_stays() {
        let mut chooser = chooser();
        chooser.heard(A, primary(5));
        chooser.heard(B, Answer::Standby);
        let still = chooser.heard(B, primary(5)).expect("a reader less");
        assert_eq!((name(&still), still.epoch), (Some("a"), 1));
        assert_eq!(chooser.heard(A, silent()), None, "a copy is not followed");
    }

    #[test]
    fn servers_that_do_not_tell_a_timeline_are_followed_as_they_say() {
        let mut chooser = chooser();
        chooser.heard(A, primary(0));
        chooser.heard(B, Answer::Standby);
        chooser.heard(A, silent());
        let next = chooser.heard(B, primary(0)).expect("a view");
        assert_eq!((name(&next), next.epoch), (Some("b"), 2));
    }
}
