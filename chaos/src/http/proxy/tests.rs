use super::*;
use crate::http::{Answer, Framing, HttpServer, Request, Response, pass_body};
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longer than any step of these tests takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Shorter than any time for which these tests wait.
const SILENCE: Duration = Duration::from_millis(200);

/// A server that knows one object, and a proxy before it.
struct Bench {
    proxy: HttpProxy,
    heard: Arc<Mutex<Vec<Request>>>,
    _server: HttpServer,
}

const OBJECT: &str = "what is stored here, and a few bytes more";

impl Bench {
    fn new() -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        let server = HttpServer::start(move |request| {
            lock(&all).push(request.clone());
            match request.head.method() {
                "GET" | "HEAD" => Response::new(200, OBJECT),
                _ => Response::new(200, request.body),
            }
        })
        .unwrap();
        Self {
            proxy: HttpProxy::start(server.address()).unwrap(),
            heard,
            _server: server,
        }
    }

    fn client(&self) -> Client {
        Client::new(self.proxy.address())
    }

    fn heard(&self) -> usize {
        lock(&self.heard).len()
    }
}

struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    fn send(&mut self, text: &str) -> &mut Self {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
        self
    }

    fn get(&mut self) -> io::Result<(u16, String)> {
        self.send("GET /object HTTP/1.1\r\nHost: a\r\n\r\n").answer("GET")
    }

    fn put(&mut self, content: &str) -> io::Result<(u16, String)> {
        let text = format!(
            "PUT /new?x=1 HTTP/1.1\r\nContent-Length: {}\r\n\r\n{content}",
            content.len()
        );
        self.send(&text).answer("PUT")
    }

    fn answer(&mut self, method: &str) -> io::Result<(u16, String)> {
        let head = Head::read(&mut self.stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut content = Vec::new();
        pass_body(&mut self.stream, head.response_framing(method)?, |piece| {
            content.extend_from_slice(piece.content);
            Ok(())
        })?;
        Ok((head.status(), String::from_utf8_lossy(&content).into_owned()))
    }

    fn is_silent(&mut self) -> bool {
        self.stream.get_ref().set_read_timeout(Some(SILENCE)).unwrap();
        let silent = self
            .stream
            .read(&mut [0])
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }
}

fn whole() -> (u16, String) {
    (200, OBJECT.to_owned())
}

#[test]
fn requests_pass_unchanged_on_one_connection_and_are_counted() {
    let bench = Bench::new();
    let mut client = bench.client();
    let odd = "PUT /a%2Fb?k=v HTTP/1.1\r\nHOST: bucket.example:80\r\nX-Odd:   two  spaces\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = client.send(odd).send("5\r\nhello\r\n0\r\n\r\n").answer("PUT").unwrap();
    assert_eq!(answer, (200, "hello".to_owned()));
    assert_eq!(client.get().unwrap(), whole());
    let head = "HEAD /object HTTP/1.1\r\n\r\n";
    assert_eq!(client.send(head).answer("HEAD").unwrap(), (200, String::new()));
    assert_eq!(lock(&bench.heard)[0].head.wire(), odd.as_bytes());
    let requests = bench.proxy.requests();
    let lengths: Vec<_> = requests
        .iter()
        .map(|one| (one.request_bytes, one.response_bytes))
        .collect();
    assert_eq!(lengths, [(5, 5), (0, OBJECT.len() as u64), (0, 0)]);
    assert_eq!((requests[0].path(), requests[0].query()), ("/a%2Fb", "k=v"));
    assert!(
        requests
            .iter()
            .all(|one| one.succeeded() && !one.faulted && !one.is_list())
    );
    assert_eq!(bench.proxy.count(|one| one.method == "GET"), 1);
    assert_eq!(bench.proxy.most_in_flight(), 1);
    bench.proxy.clear();
    assert!(bench.proxy.requests().is_empty());
    client.get().unwrap();
    assert_eq!(bench.proxy.requests().len(), 1);
}

#[test]
fn a_body_that_waits_for_an_invitation_gets_it() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.send("PUT /new HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(Head::read(&mut client.stream).unwrap().unwrap().status(), 100);
    assert_eq!(client.send("ab").answer("PUT").unwrap(), (200, "ab".to_owned()));
    assert_eq!(client.get().unwrap(), whole());
}

#[test]
fn refused_connections_are_accepted_again_at_the_same_address() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.get().unwrap();
    bench.proxy.refuse();
    assert!(client.get().is_err(), "open connections break");
    let refused = TcpStream::connect(bench.proxy.address()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    bench.proxy.heal().unwrap();
    assert_eq!(bench.client().get().unwrap(), whole());
}

#[test]
fn answers_of_the_proxy_come_as_often_as_told_to_whom_they_are_for() {
    let bench = Bench::new();
    bench.proxy.add(Rule::new(Fault::slow_down()).on("PUT").times(2));
    let mut client = bench.client();
    assert_eq!(client.get().unwrap(), whole());
    for _ in 0..2 {
        let (status, body) = client.put("lost").unwrap();
        assert!(
            status == 503 && body.contains("<Code>SlowDown</Code>"),
            "{status} {body}"
        );
    }
    assert_eq!(client.put("kept").unwrap(), (200, "kept".to_owned()));
    assert_eq!(bench.heard(), 2, "the server hears only what passed");
    assert_eq!(bench.proxy.count(|one| one.faulted && one.status == Some(503)), 2);

    let later = Fault::too_many_requests(Duration::from_secs(3));
    assert!(
        matches!(&later, Fault::Answer(Answer { headers, .. }) if headers.contains(&("Retry-After".into(), "3".into())))
    );
    bench.proxy.set(later);
    assert_eq!(client.get().unwrap().0, 429);
    bench.proxy.set(Fault::forbidden("RequestTimeTooSkewed"));
    let head = "HEAD / HTTP/1.1\r\n\r\n";
    assert_eq!(client.send(head).answer("HEAD").unwrap(), (403, String::new()));
    bench.proxy.set(Fault::internal_error());
    assert_eq!(client.get().unwrap().0, 500);
    bench.proxy.heal().unwrap();
    assert_eq!(client.get().unwrap(), whole());
}

#[test]
fn a_delay_holds_up_nobody_else() {
    let bench = Bench::new();
    let delay = Duration::from_millis(100);
    bench.proxy.set(Fault::delay_each_way(delay));
    let began = Instant::now();
    let mut clients: Vec<Client> = (0..8).map(|_| bench.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.answer("GET").unwrap(), whole());
    }
    let took = began.elapsed();
    assert!(took >= 2 * delay && took < 8 * delay, "{took:?}");
    assert_eq!(bench.proxy.most_in_flight(), 8);
}

#[test]
fn a_black_hole_and_a_stall_say_nothing_more() {
    let bench = Bench::new();
    bench.proxy.set(Fault::BlackHole);
    let mut client = bench.client();
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert!(client.is_silent());
    assert_eq!(bench.heard(), 0);
    assert_eq!(bench.proxy.requests()[0].status, None);

    bench.proxy.set(Fault::Stall(4));
    let mut client = bench.client();
    client.send("GET / HTTP/1.1\r\n\r\n");
    let head = Head::read(&mut client.stream).unwrap().unwrap();
    assert_eq!(
        head.response_framing("GET").unwrap(),
        Framing::Length(OBJECT.len() as u64)
    );
    let mut begin = [0; 4];
    client.stream.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"what");
    assert!(client.is_silent());
    bench.proxy.refuse();
    assert!(!client.is_silent(), "both end with the proxy");
}

#[test]
fn answers_are_cut_lengthened_and_shortened() {
    let bench = Bench::new();
    for cut in [Fault::Truncate(0), Fault::Truncate(7), Fault::WrongLength(1)] {
        bench.proxy.set(cut.clone());
        let error = bench.client().get().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut:?}");
    }
    bench.proxy.set(Fault::WrongLength(-5));
    let (status, content) = bench.client().get().unwrap();
    assert_eq!((status, content.len()), (200, OBJECT.len() - 5));
    bench.proxy.set(Fault::FlipBit);
    let (_, content) = bench.client().get().unwrap();
    assert!(content.len() == OBJECT.len() && content != OBJECT);
}

#[test]
fn an_upload_is_cut_before_or_after_the_server_has_it() {
    let bench = Bench::new();
    bench.proxy.add(Rule::new(Fault::CutRequest(3)).times(1));
    assert!(bench.client().put("interrupted").is_err());
    assert_eq!(bench.heard(), 0, "the server got no whole request");
    bench.proxy.add(Rule::new(Fault::CutAnswer).times(1));
    assert!(bench.client().put("ambiguous").is_err());
    assert_eq!(lock(&bench.heard)[0].body, b"ambiguous");
    bench.proxy.add(Rule::new(Fault::Reset).times(1));
    assert!(bench.client().put("reset").is_err());
    assert_eq!(bench.heard(), 1);
    assert_eq!(bench.client().put("again").unwrap().0, 200);
    let statuses: Vec<_> = bench.proxy.requests().iter().map(|one| one.status).collect();
    assert_eq!(statuses, [None, Some(200), None, Some(200)]);
}

#[test]
fn a_narrow_link_takes_its_time() {
    let bench = Bench::new();
    bench.proxy.set(Fault::Bandwidth(400_000));
    let content = "x".repeat(100_000);
    let began = Instant::now();
    assert_eq!(bench.client().put(&content).unwrap(), (200, content));
    assert!(
        began.elapsed() >= Duration::from_millis(500),
        "a quarter of a second each way"
    );
}

#[test]
fn a_server_that_is_gone_breaks_connections_and_may_be_elsewhere_later() {
    let bench = Bench::new();
    let gone = Bench::new();
    let proxy = HttpProxy::start(gone.proxy.address()).unwrap();
    gone.proxy.refuse();
    assert!(Client::new(proxy.address()).get().is_err());
    proxy.set_upstream(bench.proxy.address());
    assert_eq!(Client::new(proxy.address()).get().unwrap(), whole());
}
