//! The task that owns an agent's connection to the guard, from the greeting to the last word.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::client::GuardEvent;
use super::protocol::{Command, LineBuffer, Report};

/// Commands sent and not answered yet. A guard that is this far behind is stopped; further commands wait and time out.
const UNANSWERED_MAX: usize = 64;

/// A command on its way to the guard.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: Command,
    /// Hears `None` when the command is in force, or the reason why not. Dropped if the connection ends first.
    pub(super) reply: oneshot::Sender<Option<String>>,
}

/// Carries commands and answers until the guard is gone, then sends the one event.
pub(super) async fn converse(
    stream: UnixStream,
    mut heard: LineBuffer,
    mut requests: mpsc::Receiver<Request>,
    events: mpsc::Sender<GuardEvent>,
) {
    let (mut reader, mut writer) = stream.into_split();
    let mut unanswered = VecDeque::new();
    let mut has_handles = true;
    let mut bytes = [0; 512];
    let event = loop {
        tokio::select! {
            read = reader.read(&mut bytes) => {
                let count = read.unwrap_or(0);
                let lines = if count == 0 { None } else { heard.push(bytes.get(..count).unwrap_or_default()).ok() };
                let Some(lines) = lines else { break GuardEvent::Lost };
                if let ControlFlow::Break(event) = hear(&lines, &mut unanswered) {
                    break event;
                }
            }
            request = requests.recv(), if has_handles && unanswered.len() < UNANSWERED_MAX => {
                let Some(request) = request else {
                    has_handles = false;
                    continue;
                };
                let line = format!("{}\n", request.command);
                // After a failed write the guard's last words are still to be read, so this is not the end.
                if writer.write_all(line.as_bytes()).await.is_ok() {
                    unanswered.push_back(request.reply);
                }
            }
            // Nobody is interested any more.
            () = events.closed(), if !has_handles => return,
        }
    };
    // Before the event: whoever hears it must not find this connection still taking commands.
    requests.close();
    drop(unanswered);
    let _ = events.send(event).await;
}

/// Answers come in the order of the commands; `running` is only told to whoever asks for it by `status`, which this
/// side does not.
fn hear(
    lines: &[String],
    unanswered: &mut VecDeque<oneshot::Sender<Option<String>>>,
) -> ControlFlow<GuardEvent> {
    for line in lines {
        let answer = match Report::parse(line) {
            Ok(Report::Ok) => None,
            Ok(Report::Error(reason)) => Some(reason),
            Ok(Report::Running { .. }) => continue,
            Ok(Report::Ended { code, fenced }) => {
                return ControlFlow::Break(GuardEvent::Ended { code, fenced });
            }
            Err(_) => return ControlFlow::Break(GuardEvent::Lost),
        };
        // Without a taker it is an answer to a command that was given up, or one that nobody asked for.
        if let Some(reply) = unanswered.pop_front() {
            let _ = reply.send(answer);
        }
    }
    ControlFlow::Continue(())
}
