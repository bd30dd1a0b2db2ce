use super::*;
use std::net::UdpSocket;
use std::time::Instant;

/// Three processes that listen and a fourth that only dials.
struct Bench {
    network: Network,
    sockets: BTreeMap<String, UdpSocket>,
}

const NODES: [&str; 3] = ["alpha", "beta", "gamma"];

impl Bench {
    fn new() -> Self {
        let mut network = Network::new(1);
        network.add_client("host").unwrap();
        let mut sockets = BTreeMap::new();
        for name in NODES {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            network.add(name, socket.local_addr().unwrap()).unwrap();
            sockets.insert(name.to_owned(), socket);
        }
        Self { network, sockets }
    }

    /// Whether a datagram from one process reaches the other, and whether the answer comes back. The relay's counts
    /// tell it, so that the test need not wait for datagrams that do not come.
    fn asks(&self, from: &str, to: &str) -> (bool, bool) {
        let relay = self.network.relay(from, to);
        let counts = |direction| {
            let counts = relay.counts(direction);
            (counts.delivered, counts.silenced)
        };
        let wait = |direction, before| {
            let began = Instant::now();
            while counts(direction) == before {
                assert!(began.elapsed() < Duration::from_secs(10));
                std::thread::yield_now();
            }
            counts(direction).0 > before.0
        };
        let dialler = UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = counts(Direction::Forward);
        dialler.send_to(b"question", relay.address()).unwrap();
        if !wait(Direction::Forward, before) {
            return (false, false);
        }
        let listener = &self.sockets[to];
        let (_, asker) = listener.recv_from(&mut [0; 20]).unwrap();
        let before = counts(Direction::Backward);
        listener.send_to(b"answer", asker).unwrap();
        (true, wait(Direction::Backward, before))
    }

    fn talk(&self, from: &str, to: &str) -> bool {
        self.asks(from, to) == (true, true)
    }
}

#[test]
fn everyone_has_a_route_to_everyone_who_listens() {
    let bench = Bench::new();
    for from in ["alpha", "beta", "gamma", "host"] {
        let routes = bench.network.routes(from);
        let names: Vec<&str> = routes.iter().map(|(name, _)| name.as_str()).collect();
        let expected: Vec<&str> = NODES.into_iter().filter(|name| *name != from).collect();
        assert_eq!(names, expected);
        assert!(names.iter().all(|to| bench.talk(from, to)));
    }
}

#[test]
fn a_partition_is_complete_and_heals() {
    let mut bench = Bench::new();
    bench.network.partition(&["alpha", "host"], &["beta", "gamma"]);
    for (from, to, talk) in [
        ("alpha", "beta", false),
        ("beta", "alpha", false),
        ("host", "gamma", false),
        ("host", "alpha", true),
        ("gamma", "beta", true),
    ] {
        assert_eq!(bench.talk(from, to), talk, "{from} to {to}");
    }
    bench.network.heal();
    assert!(bench.talk("alpha", "beta") && bench.talk("host", "gamma"));
}

#[test]
fn an_isolated_process_reaches_nobody_and_the_others_do() {
    let mut bench = Bench::new();
    bench.network.isolate("beta");
    assert!(!bench.talk("beta", "alpha") && !bench.talk("gamma", "beta") && !bench.talk("host", "beta"));
    assert!(bench.talk("host", "alpha") && bench.talk("alpha", "gamma"));
}

#[test]
fn one_way_silences_questions_and_answers_of_one_side() {
    let mut bench = Bench::new();
    bench.network.one_way("alpha", "beta");
    assert_eq!(bench.asks("alpha", "beta"), (false, false));
    assert_eq!(bench.asks("beta", "alpha"), (true, false), "the answer is alpha's");
}

#[test]
fn healing_leaves_slow_links_slow_and_clearing_does_not() {
    let mut bench = Bench::new();
    let rtt = Duration::from_millis(300);
    bench.network.slow("host", "alpha", rtt);
    bench.network.isolate("alpha");
    bench.network.heal();
    let took = |bench: &Bench| {
        let began = Instant::now();
        assert!(bench.talk("host", "alpha"));
        began.elapsed()
    };
    assert!(took(&bench) >= rtt);
    bench.network.clear();
    assert_eq!(
        bench.network.relay("host", "alpha").faults(Direction::Forward),
        Faults::none()
    );
    assert!(bench.network.delivered_bytes("host", "alpha") > 0);
    assert!(took(&bench) < rtt);
}

#[test]
#[should_panic(expected = "no delta in the network")]
fn a_name_that_is_not_there_is_told() {
    Bench::new().network.isolate("delta");
}
