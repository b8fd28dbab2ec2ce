//! Logins by MD5, where the configuration asks for it.

use super::login::{NotAdmitted, check_with, hear, say};
use super::pools::Secret;
use super::secrets::{Stored, find_stored};
use crate::error::Refusal;
use crate::guesses::{Standing, until_beat};
use crate::stream::Stream;
use crate::worker::Worker;
use aws_lc_rs::rand;
use pgwire::WholeMessages;
use pgwire::md5::Salt;
use std::rc::Rc;
use std::time::Instant;
use tokio::time::sleep;

/// Checks a client by the kind of password that its role has, as `md5` of pg_hba.conf does (src/backend/libpq/auth.c,
/// `CheckPWChallengeAuth`). An unknown user is asked as one that was made on this server now would be.
pub async fn check(stream: &mut Stream, user: &[u8], worker: &Rc<Worker>) -> Result<Secret, NotAdmitted> {
    let (source, since) = (stream.peer()?.source(), Instant::now());
    let standing = worker.shared.guesses.standing(source, since);
    let found = find_stored(user, worker).await?;
    if standing == Standing::Suspect {
        sleep(until_beat(since.elapsed())).await;
    }
    let verifier = match found {
        Stored::Scram(verifier) => return check_with(stream, user, verifier, worker).await,
        Stored::Md5(verifier) => verifier,
    };
    let mut salt: Salt = [0; 4];
    let no_random = |_| Refusal::ClientBroke { why: "no random bytes".to_owned() };
    rand::fill(&mut salt).map_err(no_random)?;
    say(stream, 5, &salt).await?;
    let answer = hear(stream, &mut WholeMessages::default()).await?;
    let shown = answer.strip_suffix(b"\0").unwrap_or(&answer);
    let guesses = &worker.shared.guesses;
    // As with SCRAM: where nothing comes between this question and its consequence.
    if guesses.standing(source, Instant::now()) == Standing::Shut {
        return Err(Refusal::TooManyFailures { source }.into());
    }
    if verifier.is_shown_by(shown, salt) {
        return Ok(Secret::Md5(verifier));
    }
    // The password may have been changed: the next attempt looks again.
    worker.secrets.borrow_mut().forget(user);
    let failure = guesses.failed(source, Instant::now());
    sleep(failure.pause).await;
    Err(Refusal::WrongPassword { user: String::from_utf8_lossy(user).into_owned() }.into())
}
