use super::*;
use crate::faults::Bandwidth;
use std::collections::BTreeSet;
use std::time::Instant;

/// Longer than any step of these tests takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A target behind a relay, and peers before it: real sockets.
struct Bench {
    relay: Relay,
    target: UdpSocket,
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let target = socket();
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let relay = Relay::listen(listen, target.local_addr().unwrap(), 7, limits).unwrap();
        Self { relay, target }
    }

    fn peer(&self) -> UdpSocket {
        let peer = socket();
        peer.connect(self.relay.address()).unwrap();
        peer
    }

    /// The number of the next datagram at the target, and the address that it comes from.
    fn next(&self) -> (u32, SocketAddr) {
        let mut bytes = [0; 2000];
        let (_, from) = self.target.recv_from(&mut bytes).expect("a datagram at the target");
        (u32::from_le_bytes(bytes[..4].try_into().unwrap()), from)
    }
}

fn send(peer: &UdpSocket, number: u32) {
    peer.send(&number.to_le_bytes()).unwrap();
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain");
        thread::yield_now();
    }
}

#[test]
fn answers_find_their_way_back_to_each_peer() {
    let bench = Bench::new();
    let peers = [bench.peer(), bench.peer()];
    for (number, peer) in (0..).zip(&peers) {
        send(peer, number);
    }
    let mut senders = BTreeSet::new();
    for _ in 0..2 {
        let (number, from) = bench.next();
        senders.insert(from);
        bench.target.send_to(&(number + 100).to_le_bytes(), from).unwrap();
    }
    assert_eq!(senders.len(), 2, "the target tells the peers apart");
    for (number, peer) in (0..).zip(&peers) {
        let mut bytes = [0; 4];
        peer.recv(&mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), number + 100);
    }
    assert_eq!(bench.relay.peers(), 2);
}

#[test]
fn a_delay_is_felt_in_its_direction_only() {
    let bench = Bench::new();
    let peer = bench.peer();
    let delay = Duration::from_millis(300);
    bench.relay.set(Direction::Backward, Faults::delayed(delay));
    let began = Instant::now();
    send(&peer, 1);
    let (_, from) = bench.next();
    assert!(began.elapsed() < delay, "forward is not delayed");
    let answered = Instant::now();
    bench.target.send_to(b"answer", from).unwrap();
    peer.recv(&mut [0; 10]).unwrap();
    assert!(answered.elapsed() >= delay);
}

#[test]
fn lost_datagrams_are_those_of_the_seed() {
    let lost = || {
        let bench = Bench::new();
        let peer = bench.peer();
        bench.relay.set(Direction::Forward, Faults::none().with_loss(0.25));
        for number in 0..200 {
            send(&peer, number);
            // One after the other, so that none is lost elsewhere.
            wait_until(|| bench.relay.counts(Direction::Forward).received > u64::from(number));
        }
        bench.relay.set(Direction::Forward, Faults::none());
        send(&peer, 200);
        let mut arrived = BTreeSet::new();
        loop {
            match bench.next().0 {
                200 => return arrived,
                number => arrived.insert(number),
            };
        }
    };
    let arrived = lost();
    assert!((120..180).contains(&arrived.len()), "{} of 200", arrived.len());
    assert_eq!(arrived, lost());
}

#[test]
fn duplicates_arrive_twice() {
    let bench = Bench::new();
    let peer = bench.peer();
    bench
        .relay
        .set(Direction::Forward, Faults::none().with_duplication(1.0));
    send(&peer, 5);
    assert_eq!([bench.next().0, bench.next().0], [5, 5]);
}

#[test]
fn jitter_lets_later_datagrams_overtake() {
    let bench = Bench::new();
    let peer = bench.peer();
    bench.relay.set(
        Direction::Forward,
        Faults::none().with_jitter(Duration::from_millis(50)),
    );
    (0..50).for_each(|number| send(&peer, number));
    let arrived: Vec<u32> = (0..50).map(|_| bench.next().0).collect();
    assert!(!arrived.is_sorted(), "{arrived:?}");
    assert_eq!(
        arrived.into_iter().collect::<BTreeSet<_>>(),
        (0..50).collect::<BTreeSet<_>>()
    );
}

#[test]
fn a_narrow_link_takes_its_time_and_drops_the_rest() {
    let bench = Bench::new();
    let peer = bench.peer();
    let bandwidth = Some(Bandwidth {
        bytes_per_second: 100_000,
        queue: 20_000,
    });
    bench.relay.set(
        Direction::Forward,
        Faults {
            bandwidth,
            ..Faults::none()
        },
    );
    let began = Instant::now();
    for _ in 0..40 {
        peer.send(&[0; 1000]).unwrap();
    }
    wait_until(|| bench.relay.counts(Direction::Forward).received == 40);
    let sent_in = began.elapsed();
    let counts = bench.relay.counts(Direction::Forward);
    let passing = 40 - counts.overflowed;
    // While they were sent some of the line's time went by, and made room for a few more.
    let most = 20 + u64::try_from(sent_in.as_millis() / 10).unwrap() + 1;
    assert!(
        (20..=most).contains(&passing),
        "{passing} of 40 pass, {sent_in:?} to send"
    );
    (0..passing).for_each(|_| {
        bench.next();
    });
    let least = Duration::from_millis(10 * passing);
    assert!(
        began.elapsed() >= least,
        "{passing} KB took {:?} of {least:?}",
        began.elapsed()
    );
}

#[test]
fn a_black_hole_says_nothing_and_forgets_what_it_took() {
    let bench = Bench::new();
    let peer = bench.peer();
    send(&peer, 1);
    let (_, from) = bench.next();

    // One way: the target still hears the peer.
    bench.relay.set(Direction::Backward, Faults::silence());
    send(&peer, 2);
    assert_eq!(bench.next().0, 2);
    bench.target.send_to(b"unheard", from).unwrap();
    wait_until(|| bench.relay.counts(Direction::Backward).silenced == 1);

    // Silence in both directions. If the port were unreachable, this second send would fail.
    bench.relay.set_both(Faults::silence());
    send(&peer, 3);
    wait_until(|| bench.relay.counts(Direction::Forward).silenced == 1);
    send(&peer, 4);
    wait_until(|| bench.relay.counts(Direction::Forward).silenced == 2);

    bench.relay.set_both(Faults::none());
    send(&peer, 5);
    assert_eq!(bench.next().0, 5, "nothing of the silence arrives later");
    bench.target.send_to(b"heard", from).unwrap();
    let mut bytes = [0; 10];
    let length = peer.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"heard");
}

#[test]
fn a_target_that_is_gone_is_silence_too_and_may_come_back() {
    let target = socket();
    let address = target.local_addr().unwrap();
    let relay = Relay::start(address, 1).unwrap();
    let peer = socket();
    peer.connect(relay.address()).unwrap();
    drop(target);
    send(&peer, 1);
    wait_until(|| relay.counts(Direction::Forward).delivered == 1);
    let target = UdpSocket::bind(address).unwrap();
    target.set_read_timeout(Some(PATIENCE)).unwrap();
    // The kernel reports the dead port with the relay's next call, and datagram 2 must not be lost by that.
    send(&peer, 2);
    let mut bytes = [0; 4];
    target.recv(&mut bytes).unwrap();
    assert_eq!(u32::from_le_bytes(bytes), 2);
}

#[test]
fn peers_are_bounded_and_the_longest_silent_makes_room() {
    let bench = Bench::with(Limits {
        peers: 2,
        ..Limits::default()
    });
    let peers: Vec<UdpSocket> = (0..5).map(|_| bench.peer()).collect();
    for (number, peer) in (0..).zip(&peers) {
        send(peer, number);
        assert_eq!(bench.next().0, number);
    }
    wait_until(|| bench.relay.peers() == 2);
    // A forgotten peer is a new peer when it comes again.
    send(&peers[0], 9);
    let (_, from) = bench.next();
    bench.target.send_to(b"again", from).unwrap();
    assert_eq!(peers[0].recv(&mut [0; 10]).unwrap(), 5);
}

#[test]
fn idle_peers_are_forgotten() {
    let bench = Bench::with(Limits {
        idle: Duration::from_millis(50),
        ..Limits::default()
    });
    send(&bench.peer(), 1);
    bench.next();
    wait_until(|| bench.relay.peers() == 0);
}
