//! One message with open files, over a Unix socket (manual page unix(7), `SCM_RIGHTS`).

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Most files of one message (the kernel's `SCM_MAX_FD` is 253).
pub const FILES_MAX: usize = 250;

/// Longest message. Bytes.
const LEN_MAX: usize = 64 * 1024;

/// Of which others are refused.
const VERSION: u64 = 1;

/// What the old process has.
#[derive(Debug)]
pub struct Message {
    /// On which addresses the files listen, one for each file.
    pub listen: Vec<SocketAddr>,
    /// How it would write sessions, if it can pass them on.
    pub sessions: Option<String>,
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Sends a message and the files. It is short enough for a new line to take it as a whole.
///
/// # Errors
/// There are too many, or the other side is gone.
pub fn send(line: impl AsFd, message: &Message, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    if files.len() > FILES_MAX {
        return Err(invalid(format!(
            "{} listening sockets are more than can be given away ({FILES_MAX})",
            files.len()
        )));
    }
    let listen: Vec<String> = message.listen.iter().map(ToString::to_string).collect();
    let text = format!(
        "{}\n",
        json!({ "pgkeel_takeover": VERSION, "listen": listen, "sessions": message.sessions })
    );
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(invalid("the listening sockets do not fit into a message"));
    }
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let sent = sendmsg(&line, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL)?;
        rest = &rest[sent..];
        // They go with the first byte.
        control.clear();
    }
    Ok(())
}

/// Receives a message and its files.
///
/// # Errors
/// The other side is gone, is silent for too long, or does not say what is expected.
pub fn receive(line: &UnixStream) -> io::Result<(Message, Vec<OwnedFd>)> {
    let (mut text, mut files) = (Vec::new(), Vec::new());
    let mut chunk = [0; 4096];
    while text.last() != Some(&b'\n') {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(line, &mut [IoSliceMut::new(&mut chunk)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                files.extend(some);
            }
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(&chunk[..received.bytes]);
        if text.len() > LEN_MAX || files.len() > FILES_MAX {
            return Err(invalid("the message is too long"));
        }
    }
    Ok((parse(&text)?, files))
}

fn parse(text: &[u8]) -> io::Result<Message> {
    let value: Value = serde_json::from_slice(text)?;
    match value.get("pgkeel_takeover").and_then(Value::as_u64) {
        Some(VERSION) => {}
        Some(other) => return Err(invalid(format!("it is of another version ({other})"))),
        None => return Err(invalid("it is no pgkeel proxy")),
    }
    let listed =
        value.get("listen").and_then(Value::as_array).ok_or_else(|| invalid("it names no addresses"))?;
    let address = |text: &Value| text.as_str().and_then(|text| text.parse().ok());
    let listen: Option<Vec<SocketAddr>> = listed.iter().map(address).collect();
    // Of another kind, or not there, it is none that is known.
    let sessions = value.get("sessions").and_then(Value::as_str).map(str::to_owned);
    Ok(Message { listen: listen.ok_or_else(|| invalid("it names what is no address"))?, sessions })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn files_arrive_with_their_addresses() {
        let (here, there) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let listen: Vec<SocketAddr> = vec!["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()];
        let sent = Message { listen: listen.clone(), sessions: Some("1".to_owned()) };
        send(&here, &sent, &[file.as_fd(), file.as_fd()]).unwrap();
        let (message, files) = receive(&there).unwrap();
        assert_eq!((message.listen, message.sessions, files.len()), (listen, sent.sessions, 2));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in
            ["\n", "{}\n", "{\"pgkeel_takeover\":2}\n", "{\"pgkeel_takeover\":1,\"listen\":[7]}\n", "x"]
        {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(text.as_bytes()).unwrap();
            drop(here);
            receive(&there).unwrap_err();
        }
    }
}
