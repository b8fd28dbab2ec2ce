//! A client's server is lost. If nothing of its session was only there, it goes on, after at most one error.

use super::Client;
use super::exchange::Stop;
use super::pools::Lent;
use crate::logical::{AfterLoss, Broken, Goodbye, Lost};
use cluster::view::View;
use pgwire::message::put;
use pgwire::{ErrorFields, Severity, encode_error_response};
use std::future::poll_fn;
use std::task::Poll;

impl Client<'_> {
    /// Whether the client's session goes on though its exchange has stopped because of its server.
    pub(super) async fn outlives(&mut self, stop: &Stop, lent: &mut Lent) -> bool {
        let refused = match stop {
            Stop::ServerGone | Stop::EpochChanged => None,
            Stop::Broken(Broken::Begin(refused)) => Some(&**refused),
            _ => return false,
        };
        // What is seldom needed is kept apart: an idle client's task is to be small.
        Box::pin(self.goes_on(lent, refused)).await
    }

    /// Whether the client's session goes on without the server, which is lost; it has been told then what is. If the server
    /// has `refused` to begin its transaction, that is given up, and these are its words.
    async fn goes_on(&mut self, lent: &mut Lent, refused: Option<&[u8]>) -> bool {
        if self.front.has_ended {
            return false;
        }
        let view = self.worker.views.clone().latest();
        let is_replaced = view.epoch > lent.epoch || view.hold.is_some();
        match lent.holding.goodbye() {
            Goodbye::None => {}
            // A server that is replaced says it to all. Otherwise it means this client.
            Goodbye::Kept(body) if is_replaced || is_of_dead_postmaster(body) => {}
            Goodbye::Kept(_) | Goodbye::Told => return false,
        }
        let happened = happened(&self.worker.shared.settings().cluster, lent, &view);
        let words = |lost: Lost| match refused {
            Some(body) => error_of(body),
            None => words(lost, &happened),
        };
        let mut told = Vec::new();
        match self.admitted.logical.lose_server(&mut lent.holding, &words, &mut told) {
            AfterLoss::Ends => return false,
            AfterLoss::GoesOn => {}
        }
        let front = &mut self.front;
        poll_fn(|cx| Poll::Ready(front.unsent.add(&mut front.stream, &told, cx))).await.is_ok()
    }
}

/// Whether a server's last word is that its postmaster has died, and not that somebody wants this session to end: both have
/// SQLSTATE 57P01, and only the file tells them apart in every language (`secure_read`, src/backend/libpq/be-secure.c).
fn is_of_dead_postmaster(body: &[u8]) -> bool {
    body.split(|&byte| byte == 0).any(|field| field == b"Fbe-secure.c")
}

fn happened(cluster: &str, lent: &Lent, view: &View) -> String {
    let (node, epoch) = (&lent.running.server.node, lent.epoch);
    match &view.primary {
        Some(now) if view.epoch > epoch => format!(
            "the primary of cluster {cluster} changed from {node} (epoch {epoch}) to {} (epoch {})",
            now.node, view.epoch
        ),
        _ => {
            format!("the connection to the primary of cluster {cluster}, {node} (epoch {epoch}), broke")
        }
    }
}

/// The ErrorResponse with this body.
fn error_of(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(b'E', &[body], &mut out);
    out
}

fn words(lost: Lost, happened: &str) -> Vec<u8> {
    let (sqlstate, message, detail, hint) = match lost {
        Lost::Transaction => (
            "40001",
            format!("the transaction is rolled back because {happened}"),
            "Nothing of it has taken effect. The connection goes on.",
            "Run the transaction again.",
        ),
        Lost::Outcome => (
            "57P01",
            format!("whether the statement took effect is not known because {happened}"),
            "It was under way when that happened. The connection goes on.",
            "Look whether it took effect before it is run again.",
        ),
    };
    let fields = ErrorFields {
        severity: Severity::Error,
        sqlstate,
        message: &message,
        detail: Some(detail),
        hint: Some(hint),
    };
    let mut out = Vec::new();
    encode_error_response(&fields, &mut out);
    out
}
