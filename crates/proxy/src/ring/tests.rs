use super::buffers::{self, Buffers, COUNT};
use super::slot::{Receiving, SPARE, STAYING_MAX, Slot, UNREAD_MAX, Unread};
use super::*;
use crate::source::Peer;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

/// Runs a test with a ring, or not at all where the kernel permits none.
fn with_ring<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rc<Ring>) -> F) {
    let ring = match Ring::new() {
        Ok(ring) => Rc::new(ring),
        Err(error) => return println!("no io_uring here: {error}"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let testing = test(Rc::clone(&ring));
    let tested = block_on(&runtime, &ring, async { timeout(LIMIT, testing).await });
    tested.expect("a ring that is driven").expect("it takes too long");
}

/// One end on the ring, and the other.
fn pair(ring: &Rc<Ring>) -> (RingSocket, TcpStream) {
    pair_with(Ahead::More, ring)
}

fn pair_with(ahead: Ahead, ring: &Rc<Ring>) -> (RingSocket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let there = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (here, _) = listener.accept().expect("a connection");
    (RingSocket::new(here, ahead, ring), there)
}

async fn read(socket: &mut RingSocket, most: usize) -> io::Result<Vec<u8>> {
    let mut chunk = vec![0; most];
    let len = poll_fn(|cx| socket.poll_read(&mut chunk, cx)).await?;
    chunk.truncate(len);
    Ok(chunk)
}

async fn read_all(socket: &mut RingSocket, most: usize) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        match read(socket, most).await?.as_slice() {
            [] => return Ok(all),
            some => all.extend_from_slice(some),
        }
    }
}

fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()[0]).collect()
}

#[test]
fn what_is_sent_comes_in_pieces_as_small_as_wanted_and_then_the_end() {
    with_ring(async |ring| {
        for ahead in [Ahead::One, Ahead::More] {
            let (mut here, mut there) = pair_with(ahead, &ring);
            assert_eq!(here.try_read(&mut [0; 8]).map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock));
            there.write_all(b"select 1").expect("room");
            assert_eq!(read(&mut here, 3).await.expect("bytes"), b"sel");
            assert!(here.has_unread());
            assert_eq!(read(&mut here, 100).await.expect("bytes"), b"ect 1");
            assert!(!here.has_unread());
            drop(there);
            assert_eq!(read(&mut here, 100).await.expect("the end"), b"");
            assert_eq!(read(&mut here, 100).await.expect("still"), b"");
            poll_fn(|cx| here.poll_gone(cx)).await;
        }
    });
}

#[test]
fn much_goes_both_ways() {
    for ahead in [Ahead::One, Ahead::More] {
        with_ring(move |ring| async move { much(&ring, ahead).await });
    }
}

async fn much(ring: &Rc<Ring>, ahead: Ahead) {
    let (mut here, mut there) = pair_with(ahead, ring);
    let sent = noise(3_000_000);
    let echo = std::thread::spawn(move || {
        let mut all = Vec::new();
        there.read_to_end(&mut all).expect("bytes");
        there.write_all(&all).expect("room");
    });
    let mut at = 0;
    while at < sent.len() {
        at += poll_fn(|cx| here.poll_write(&sent[at..], cx)).await.expect("room");
    }
    poll_fn(|cx| here.poll_shutdown(cx)).await.expect("open");
    assert_eq!(read_all(&mut here, 5_000).await.expect("bytes"), sent);
    echo.join().expect("no panic");
}

#[test]
fn short_messages_wait_for_room_and_all_arrive() {
    with_ring(async |ring| {
        let (mut here, mut there) = pair(&ring);
        let message = noise(500);
        let mut sent = 0;
        // Until the kernel has no room for more; the peer does not read.
        loop {
            let writing = poll_fn(|cx| here.poll_write(&message, cx));
            match timeout(Duration::from_millis(300), writing).await {
                Ok(written) => sent += written.expect("an open connection"),
                Err(_) => break,
            }
        }
        assert!(sent > 10_000, "{sent} bytes");
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            there.read_to_end(&mut all).map(|_| all)
        });
        poll_fn(|cx| here.poll_shutdown(cx)).await.expect("an open connection");
        while !reader.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let all = reader.join().expect("no panic").expect("bytes");
        assert!(all.len() == sent && all.chunks(500).all(|came| *came == message), "{sent} bytes");
    });
}

#[test]
fn who_does_not_read_holds_nobody_up() {
    with_ring(async |ring| {
        let ahead = |number| if number % 2 == 0 { Ahead::One } else { Ahead::More };
        let mut lazy: Vec<_> = (0..300).map(|number| pair_with(ahead(number), &ring)).collect();
        let much = noise(1_000_000);
        for (here, there) in &mut lazy {
            there.set_nonblocking(true).expect("a socket");
            assert!(here.try_read(&mut [0; 1]).is_err(), "it begins to receive");
            let _ = there.write(&much);
        }
        // Who only looks whether its peer is still there does not collect what that says.
        let looking = async {
            let mut gone: Vec<_> = lazy.iter_mut().map(|(here, _)| here).collect();
            poll_fn(|cx| -> Poll<()> {
                gone.iter_mut().for_each(|here| assert!(here.poll_gone(cx).is_pending()));
                Poll::Pending
            })
            .await;
        };
        let _ = timeout(Duration::from_millis(200), looking).await;
        let (mut here, mut there) = pair(&ring);
        for round in 0..200_u32 {
            there.write_all(&round.to_be_bytes()).expect("room");
            assert_eq!(read(&mut here, 4).await.expect("bytes"), round.to_be_bytes());
        }
        collected_in_bounds(&ring);
        for (here, there) in &mut lazy {
            there.shutdown(std::net::Shutdown::Write).expect("open");
            let came = read_all(here, 10_000).await.expect("bytes");
            assert!(!came.is_empty() && much.starts_with(&came), "{} bytes", came.len());
        }
    });
}

#[test]
fn a_client_that_stays_is_received_from_within_bounds() {
    with_ring(async |ring| {
        let (mut here, mut there) = pair_with(Ahead::One, &ring);
        for round in 0..100_u32 {
            there.write_all(&round.to_be_bytes()).expect("room");
            assert_eq!(read(&mut here, 4).await.expect("bytes"), round.to_be_bytes());
        }
        assert_eq!(receiving(&ring), [Receiving::Staying]);
        let much = noise(4_000_000);
        there.set_nonblocking(true).expect("a socket");
        let mut sent = 0;
        // Nobody reads: what comes is taken while it is little, and then no more.
        for _ in 0..100 {
            sent += there.write(&much[sent..]).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(receiving(&ring), [Receiving::No]);
        {
            let inner = ring.inner.borrow();
            let unread = inner.slots.iter().flatten().map(|slot| slot.unread.len()).max();
            assert!(
                unread > Some(0) && unread <= Some((usize::from(COUNT) + 1) * buffers::LEN),
                "{unread:?}"
            );
        }
        there.shutdown(std::net::Shutdown::Write).expect("open");
        let came = read_all(&mut here, 10_000).await.expect("bytes");
        assert!(came.len() == sent && much.starts_with(&came), "{} of {sent} bytes", came.len());
    });
}

#[test]
fn of_many_clients_one_message_at_a_time_is_received() {
    with_ring(async |ring| {
        let mut all: Vec<_> = (0..=STAYING_MAX).map(|_| pair_with(Ahead::One, &ring)).collect();
        let (here, there) = &mut all[0];
        for round in 0..100_u32 {
            there.write_all(&round.to_be_bytes()).expect("room");
            assert_eq!(read(here, 4).await.expect("bytes"), round.to_be_bytes());
        }
        assert!(!receiving(&ring).contains(&Receiving::Staying));
    });
}

fn receiving(ring: &Ring) -> Vec<Receiving> {
    ring.inner.borrow().slots.iter().flatten().map(|slot| slot.receiving).collect()
}

/// Nobody has collected more than is allowed.
fn collected_in_bounds(ring: &Ring) {
    let inner = ring.inner.borrow();
    let unread = |slot: &Slot| match &slot.unread {
        Unread::Own(own, _) => own.len(),
        Unread::Nothing | Unread::InBuffer(..) => 0,
    };
    let of_clients = inner.slots.iter().flatten().filter(|slot| slot.ahead == Ahead::One);
    assert!(of_clients.map(unread).max() <= Some(buffers::LEN));
    let most = inner.slots.iter().flatten().map(unread).max();
    // What was under way when it was told to stop still came.
    assert!(most <= Some(UNREAD_MAX + usize::from(COUNT) * buffers::LEN), "{most:?}");
    let there = inner.buffers.as_ref().map(Buffers::there);
    assert!(there >= Some(SPARE - 1), "{there:?} buffers are left");
}

#[test]
fn who_is_dropped_is_closed_and_its_place_used_again() {
    with_ring(async |ring| {
        for round in 0..100_u32 {
            let (mut here, mut there) = pair(&ring);
            there.write_all(b"hello").expect("room");
            if round % 2 == 0 {
                assert_eq!(read(&mut here, 100).await.expect("bytes"), b"hello");
            } else {
                let _ = here.try_read(&mut [0; 1]);
            }
            drop(here);
            tokio::task::yield_now().await;
            there.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
            while matches!(there.read(&mut [0; 8]), Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let inner = ring.inner.borrow();
        assert!(inner.slots.len() <= 3, "{} places", inner.slots.len());
        assert_eq!(inner.buffers.as_ref().map(Buffers::there), Some(COUNT));
    });
}

#[test]
fn clients_come_in_until_the_door_is_closed() {
    with_ring(async |ring| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let acceptor = Acceptor::new(listener, &ring).expect("a socket");
        for _ in 0..3 {
            let coming: Vec<_> =
                (0..20).map(|_| TcpStream::connect(address).expect("a connection")).collect();
            for there in &coming {
                let (here, peer) = acceptor.accept().await.expect("a client");
                assert_eq!(Peer::Tcp(here.peer_addr().expect("an address")), peer);
                assert_eq!(there.peer_addr().expect("an address"), address);
            }
        }
        drop(acceptor);
        while TcpStream::connect(address).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn clients_of_a_shared_door_come_in_by_whoever_looks_first() {
    with_ring(async |ring| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let theirs = listener.try_clone().expect("a socket");
        let acceptor = Acceptor::of_shared(listener, &ring).expect("a socket");
        for _ in 0..3 {
            let coming: Vec<_> =
                (0..20).map(|_| TcpStream::connect(address).expect("a connection")).collect();
            for there in &coming[..10] {
                let (here, peer) = acceptor.accept().await.expect("a client");
                assert_eq!(Peer::Tcp(here.peer_addr().expect("an address")), peer);
                assert_eq!(there.local_addr().expect("an address"), here.peer_addr().expect("an address"));
            }
            for _ in 10..15 {
                acceptor.accept_now().expect("a client");
            }
            // Somebody else has it too, and was quicker.
            (15..20).for_each(|_| drop(theirs.accept().expect("a client")));
            assert!(acceptor.accept_now().is_none());
            let nobody = timeout(Duration::from_millis(20), acceptor.accept()).await;
            assert!(nobody.is_err());
        }
        drop(acceptor);
        let _waits = TcpStream::connect(address).expect("the socket is still theirs");
        assert!(theirs.accept().is_ok());
        drop(theirs);
        while TcpStream::connect(address).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn who_breaks_its_connection_at_the_door_is_nobody_s_trouble() {
    with_ring(async |ring| {
        for shared in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address");
            let open = if shared { Acceptor::of_shared } else { Acceptor::new };
            let acceptor = open(listener, &ring).expect("a socket");
            for _ in 0..3 {
                let there = TcpStream::connect(address).expect("a connection");
                socket2::SockRef::from(&there).set_linger(Some(Duration::ZERO)).expect("a socket");
            }
            let there = TcpStream::connect(address).expect("a connection");
            let (_, peer) = acceptor.accept().await.expect("the one who stays");
            assert_eq!(peer, Peer::Tcp(there.local_addr().expect("an address")));
        }
    });
}

#[test]
fn the_ring_alone_is_not_waited_for_while_somebody_waits_elsewhere() {
    with_ring(async |ring| {
        let (mut here, mut there) = pair(&ring);
        there.write_all(b"x").expect("room");
        assert_eq!(read(&mut here, 1).await.expect("a byte"), b"x");
        let is_busy = || ring.inner.borrow().busy;
        assert!(is_busy());
        let one = ring.look_elsewhere();
        drop(ring.look_elsewhere());
        assert!(!ring.turn(true) && is_busy());
        drop(one);
        assert!(ring.turn(false));
        let of_doing = Ring::beside(Some(&ring), async { ring.elsewhere.get() });
        assert_eq!((of_doing.await, ring.elsewhere.get()), (1, 0));
        let long = async {
            while ring.elsewhere.get() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        Ring::beside(Some(&ring), long).await;
        assert!(
            timeout(Duration::ZERO, Ring::beside(Some(&ring), std::future::pending::<()>())).await.is_err()
        );
        assert_eq!(ring.elsewhere.get(), 0, "who gives up does not wait");
    });
}

#[test]
fn a_busy_ring_leaves_time_for_timers_and_epoll() {
    with_ring(async |ring| {
        let (mut here, mut there) = pair(&ring);
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = other.local_addr().expect("an address");
        let echo = std::thread::spawn(move || {
            let mut byte = [0];
            while there.read(&mut byte).is_ok_and(|len| len > 0) && there.write_all(&byte).is_ok() {}
        });
        let coming = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            TcpStream::connect(address)
        });
        let busy = spawn_local(async move {
            loop {
                let written = poll_fn(|cx| here.poll_write(b"x", cx)).await.expect("room");
                assert_eq!((written, read(&mut here, 1).await.expect("a byte").len()), (1, 1));
            }
        });
        // It never rests meanwhile.
        other.accept().await.expect("a client");
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        busy.abort();
        assert!(busy.await.is_err_and(|error| error.is_cancelled()));
        coming.join().expect("no panic").expect("a connection");
        // The connection is closed when the ring has been turned.
        while !echo.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        echo.join().expect("no panic");
    });
}

#[test]
fn a_ring_ends_with_requests_under_way() {
    with_ring(async |ring| {
        let mut pairs: Vec<_> = (0..10).map(|_| pair(&ring)).collect();
        for (here, there) in &mut pairs {
            let pending =
                poll_fn(|cx: &mut Context<'_>| Poll::Ready(here.poll_read(&mut [0; 8], cx).is_pending()));
            assert!(pending.await);
            there.write_all(b"too late").expect("room");
        }
        drop(ring);
        drop(pairs);
    });
}
