//! What two processes say to each other after the sockets were taken over: frames of a kind, a number and a body, over the
//! line on which that was agreed. A session has its socket with it (unix(7), `SCM_RIGHTS`).
//!
//! A reader takes no byte beyond the frame that it is in, so that a socket always belongs to the frame with which it came.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Longest body. Bytes.
pub const BODY_LEN_MAX: usize = 4 * 1024 * 1024;

/// Read at once. Bytes.
const PIECE_LEN: usize = 16 * 1024;

/// Kind, length of the body, number.
const HEADER_LEN: usize = 1 + 4 + 8;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the old process: a session, with its socket.
    Session,
    /// From the new one: the session of this number is its own from now on.
    Taken,
    /// From the new one: it does not take the session of this number; why.
    Refused,
    /// From the new one: the statement of the client with this key is to be cancelled.
    Cancel,
    /// From the old one: that was done; one byte, whether it has such a client.
    Cancelled,
}

impl Kind {
    fn letter(self) -> u8 {
        match self {
            Kind::Session => b'S',
            Kind::Taken => b'T',
            Kind::Refused => b'R',
            Kind::Cancel => b'C',
            Kind::Cancelled => b'D',
        }
    }

    fn of_letter(letter: u8) -> io::Result<Kind> {
        let all = [Kind::Session, Kind::Taken, Kind::Refused, Kind::Cancel, Kind::Cancelled];
        let found = all.into_iter().find(|kind| kind.letter() == letter);
        found.ok_or_else(|| invalid("it sent a frame of an unknown kind"))
    }
}

/// One frame.
#[derive(Debug)]
pub struct Frame {
    pub kind: Kind,
    pub number: u64,
    pub body: Vec<u8>,
    pub file: Option<OwnedFd>,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn encode(kind: Kind, number: u64, body: &[u8]) -> io::Result<Vec<u8>> {
    if body.len() > BODY_LEN_MAX {
        return Err(invalid("the frame is too long"));
    }
    let len = u32::try_from(body.len()).map_err(|_| invalid("the frame is too long"))?;
    Ok([&[kind.letter()][..], &len.to_be_bytes(), &number.to_be_bytes(), body].concat())
}

/// Sends a frame, as fast as the other side reads.
///
/// # Errors
/// The other side is gone, or the frame too long.
pub async fn send(
    line: &UnixStream,
    (kind, number): (Kind, u64),
    body: &[u8],
    file: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = encode(kind, number, body)?;
    let (mut rest, mut file) = (&bytes[..], file);
    while !rest.is_empty() {
        line.writable().await?;
        match line.try_io(Interest::WRITABLE, || send_some(line, rest, file)) {
            Ok(sent) => {
                rest = &rest[sent..];
                // It goes with the first byte.
                file = None;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says something short at once, as a whole or not at all: several may speak, if nobody on this side uses [`send`]. Where there is no room for it, the other side
/// does not listen, and the line is over for both.
///
/// # Errors
/// It was not said, and the other side will not take it for said.
pub fn say(line: &UnixStream, kind: Kind, number: u64, body: &[u8]) -> io::Result<()> {
    let bytes = encode(kind, number, body)?;
    match send_some(line, &bytes, None) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        said => {
            hang_up(line);
            Err(said.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()))
        }
    }
}

/// Nobody says anything from now on. What was said before can still be read.
pub fn hang_up(line: &UnixStream) {
    // Who is gone already has hung up as well.
    let _ = shutdown(line, Shutdown::Both);
}

fn send_some(line: &UnixStream, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(file.as_slice())) && file.is_some() {
        return Err(invalid("the socket does not fit into a message"));
    }
    if file.is_none() {
        control.clear();
    }
    Ok(sendmsg(line, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

/// What has come of the next frame.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    file: Option<OwnedFd>,
}

impl Incoming {
    /// The next frame; `None` when the other side has ended in order. Nothing is lost when this is dropped.
    ///
    /// # Errors
    /// The line is broken, or what comes is no frame.
    pub async fn next(&mut self, line: &UnixStream) -> io::Result<Option<Frame>> {
        loop {
            let Some(wanted) = self.wanted()? else { return self.take().map(Some) };
            line.readable().await?;
            match line.try_io(Interest::READABLE, || self.read(line, wanted)) {
                Ok(0) if self.bytes.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn header(&self) -> Option<(u8, usize, u64)> {
        let (kind, rest) = self.bytes.split_first()?;
        let (len, rest) = rest.split_first_chunk()?;
        let number = rest.first_chunk()?;
        Some((*kind, u32::from_be_bytes(*len) as usize, u64::from_be_bytes(*number)))
    }

    /// How many bytes the frame still lacks; `None` if it is whole.
    fn wanted(&self) -> io::Result<Option<usize>> {
        let whole = match self.header() {
            None => HEADER_LEN,
            Some((_, len, _)) if len > BODY_LEN_MAX => return Err(invalid("the frame is too long")),
            Some((_, len, _)) => HEADER_LEN + len,
        };
        Ok(Some(whole - self.bytes.len()).filter(|wanted| *wanted > 0))
    }

    fn take(&mut self) -> io::Result<Frame> {
        let (kind, _, number) = self.header().ok_or_else(|| invalid("no frame"))?;
        let body = self.bytes.split_off(HEADER_LEN);
        self.bytes = Vec::new();
        Ok(Frame { kind: Kind::of_letter(kind)?, number, body, file: self.file.take() })
    }

    fn read(&mut self, line: &UnixStream, wanted: usize) -> io::Result<usize> {
        let mut piece = [0; PIECE_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let piece_wanted = &mut piece[..wanted.min(PIECE_LEN)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let len = recvmsg(line, &mut [IoSliceMut::new(piece_wanted)], &mut control, flags)?.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.file = files.into_iter().last();
            }
        }
        self.bytes.extend_from_slice(&piece[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn frames_arrive_whole_each_with_its_own_file() {
        let (here, there) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let long = vec![7; BODY_LEN_MAX];
        let sends = async {
            say(&here, Kind::Taken, 1, b"").unwrap();
            send(&here, (Kind::Session, 2), &long, Some(file.as_fd())).await.unwrap();
            say(&here, Kind::Refused, 3, b"why").unwrap();
            send(&here, (Kind::Session, 4), b"x", Some(file.as_fd())).await.unwrap();
            hang_up(&here);
        };
        let reads = async {
            let (mut incoming, mut all) = (Incoming::default(), Vec::new());
            while let Some(frame) = incoming.next(&there).await.unwrap() {
                all.push((frame.kind, frame.number, frame.body.len(), frame.file.is_some()));
            }
            all
        };
        let ((), all) = tokio::join!(sends, reads);
        let expected = [
            (Kind::Taken, 1, 0, false),
            (Kind::Session, 2, BODY_LEN_MAX, true),
            (Kind::Refused, 3, 3, false),
            (Kind::Session, 4, 1, true),
        ];
        assert_eq!(all, expected);
    }

    #[tokio::test]
    async fn what_was_said_before_somebody_hung_up_is_heard_and_nothing_after_it() {
        let (here, there) = UnixStream::pair().unwrap();
        say(&here, Kind::Taken, 1, b"").unwrap();
        hang_up(&there);
        say(&here, Kind::Taken, 2, b"").unwrap_err();
        let mut incoming = Incoming::default();
        assert_eq!(incoming.next(&there).await.unwrap().unwrap().number, 1);
        assert!(incoming.next(&there).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn random_bytes_never_panic() {
        let mut random = pgwire::random::Random::new(37);
        for _ in pgwire::random::rounds(2_000) {
            let mut bytes = encode(Kind::Taken, 1, b"body").unwrap().repeat(3);
            for _ in 0..random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = random.bytes(1)[0];
            }
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(&bytes).await.unwrap();
            drop(here);
            let (mut incoming, mut came) = (Incoming::default(), 0);
            while let Ok(Some(frame)) = incoming.next(&there).await {
                came += HEADER_LEN + frame.body.len();
            }
            assert!(came <= bytes.len());
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        let kind = [&b"?\0\0\0\0"[..], &[0; 8]].concat();
        let long = [&b"S\xff\xff\xff\xff"[..], &[0; 8]].concat();
        for bytes in [&kind[..], &long, b"S\0"] {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(bytes).await.unwrap();
            drop(here);
            Incoming::default().next(&there).await.unwrap_err();
        }
        let (here, _there) = UnixStream::pair().unwrap();
        send(&here, (Kind::Session, 1), &vec![0; BODY_LEN_MAX + 1], None).await.unwrap_err();
    }
}
