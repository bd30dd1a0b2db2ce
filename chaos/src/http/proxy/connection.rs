//! One connection of a client, and the connection to the server for it.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Shared, UnderWay};
use crate::http::fault::{Answer, Effects, Fault};
use crate::http::message::{Framing, Head, Piece, pass_body};
use crate::http::server::reason;
use crate::http::sockets::{Tracked, lock, reset_on_close, wait_for_end};

const BUFFER: usize = 1 << 17;

/// Servers end connections that are idle for some seconds (Node after 5). The proxy does not reuse a connection that
/// was idle for longer than this, so that no request meets the end of its connection.
const IDLE: Duration = Duration::from_secs(1);

/// How long the server may take to invite the body of a request with `Expect: 100-continue`; then the body is sent
/// uninvited.
const CONTINUE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// The bytes that are passed between two looks at the clock if bandwidth is narrow.
const PACE: usize = 16 << 10;

pub(super) struct Connection {
    client: BufReader<TcpStream>,
    server: Option<Server>,
    shared: Arc<Shared>,
    _tracked: Tracked,
}

struct Server {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
    last_used: Instant,
    _tracked: Tracked,
}

/// Whether the connection takes another request.
#[derive(PartialEq)]
enum After {
    Next,
    Close,
}

impl Connection {
    pub(super) fn new(client: TcpStream, shared: Arc<Shared>) -> io::Result<Self> {
        client.set_nodelay(true)?;
        let tracked = shared.open.track(&client)?;
        Ok(Self {
            client: BufReader::with_capacity(BUFFER, client),
            server: None,
            shared,
            _tracked: tracked,
        })
    }

    pub(super) fn serve(mut self) -> io::Result<()> {
        while let Some(head) = Head::read(&mut self.client)? {
            let (under_way, effects) = self.shared.begin(&head);
            if self.pass(&head, &under_way, &effects)? == After::Close {
                break;
            }
        }
        Ok(())
    }

    fn pass(&mut self, head: &Head, under_way: &UnderWay, effects: &Effects) -> io::Result<After> {
        thread::sleep(effects.request_delay);
        match &effects.fault {
            Some(Fault::Answer(answer)) => return self.answer(head, under_way, effects, answer),
            Some(Fault::Reset) => return Ok(self.reset()),
            Some(Fault::BlackHole) => return Ok(self.fall_silent()),
            _ => {}
        }
        let mut server = self.connect()?;
        server.write(head.wire())?;
        let mut answer = None;
        if head.header_has("expect", "100-continue") && server.speaks_within(CONTINUE) {
            let interim = server.read_head()?;
            if interim.status() == 100 {
                self.client.get_mut().write_all(interim.wire())?;
            } else {
                answer = Some(interim);
            }
        }
        let uninvited = answer.is_some();
        // The server may answer and close before it has read all of the body: then the client gets this answer.
        let mut complete = !uninvited;
        if !uninvited {
            match self.pass_request_body(head, &mut server, under_way, effects) {
                Ok(()) => {}
                Err(Broken::Cut) => return Ok(self.reset()),
                Err(Broken::Client(error)) => return Err(error),
                Err(Broken::Server) => complete = false,
            }
        }
        let answer = match answer {
            Some(answer) => answer,
            None => server.read_final_head()?,
        };
        thread::sleep(effects.response_delay);
        under_way.note(|record| record.status = Some(answer.status()));
        let framing = answer.response_framing(head.method())?;
        let after = self.pass_answer(&answer, framing, &mut server, under_way, effects)?;
        let reusable = complete && answer.keeps_alive() && framing != Framing::UntilClose;
        if after == After::Close || !reusable || !head.keeps_alive() {
            return Ok(After::Close);
        }
        server.last_used = Instant::now();
        self.server = Some(server);
        Ok(After::Next)
    }

    fn connect(&mut self) -> io::Result<Server> {
        let address = *lock(&self.shared.upstream);
        if let Some(server) = self.server.take()
            && server.address == address
            && server.last_used.elapsed() < IDLE
        {
            return Ok(server);
        }
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let tracked = self.shared.open.track(&stream)?;
        Ok(Server {
            stream: BufReader::with_capacity(BUFFER, stream),
            address,
            last_used: Instant::now(),
            _tracked: tracked,
        })
    }

    fn pass_request_body(
        &mut self,
        head: &Head,
        server: &mut Server,
        under_way: &UnderWay,
        effects: &Effects,
    ) -> Result<(), Broken> {
        let mut left = match effects.fault {
            Some(Fault::CutRequest(after)) => Some(after),
            _ => None,
        };
        if left == Some(0) {
            return Err(Broken::Cut);
        }
        let framing = head.request_framing().map_err(Broken::Client)?;
        let mut pace = Pace::new(effects.bytes_per_second);
        let mut broken = None;
        let passed = pass_body(&mut self.client, framing, |piece| {
            let wire = shorten(piece.wire, left);
            under_way.note(|record| record.request_bytes += piece.content.len() as u64);
            if let Err(error) = pace.write(wire, |part| server.write(part)) {
                broken = Some(Broken::Server);
                return Err(error);
            }
            if let Some(left) = &mut left {
                *left -= wire.len() as u64;
                if *left == 0 {
                    broken = Some(Broken::Cut);
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            Ok(())
        });
        match (passed, broken) {
            (Ok(()), _) if left.is_some() => Err(Broken::Cut),
            (Ok(()), _) => Ok(()),
            (Err(_), Some(broken)) => Err(broken),
            (Err(error), None) => Err(Broken::Client(error)),
        }
    }

    fn pass_answer(
        &mut self,
        answer: &Head,
        framing: Framing,
        server: &mut Server,
        under_way: &UnderWay,
        effects: &Effects,
    ) -> io::Result<After> {
        if effects.fault == Some(Fault::CutAnswer) {
            pass_body(&mut server.stream, framing, |_| Ok(()))?;
            return Ok(self.reset());
        }
        let client = self.client.get_mut();
        match (
            &effects.fault,
            answer.header("content-length").and_then(|length| length.parse().ok()),
        ) {
            (Some(Fault::WrongLength(difference)), Some(length)) => {
                let wrong = u64::saturating_add_signed(length, *difference).to_string();
                client.write_all(answer.with_header("content-length", &wrong).wire())?;
            }
            _ => client.write_all(answer.wire())?,
        }
        let mut left = match effects.fault {
            Some(Fault::Truncate(after) | Fault::Stall(after)) => Some(after),
            _ => None,
        };
        let mut flips = effects.fault == Some(Fault::FlipBit);
        let mut pace = Pace::new(effects.bytes_per_second);
        let at_once = left == Some(0);
        let mut ended = at_once;
        let mut take = |piece: Piece<'_>| {
            let wire = shorten(piece.wire, left);
            under_way.note(|record| record.response_bytes += piece.content.len().min(wire.len()) as u64);
            if flips && !piece.content.is_empty() {
                flips = false;
                let mut flipped = wire.to_vec();
                let middle = flipped.len() / 2;
                if let Some(byte) = flipped.get_mut(middle) {
                    *byte ^= 0x10;
                }
                return pace.write(&flipped, |part| client.write_all(part));
            }
            pace.write(wire, |part| client.write_all(part))?;
            if let Some(left) = &mut left {
                *left -= wire.len() as u64;
                if *left == 0 {
                    ended = true;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            Ok(())
        };
        let passed = if at_once {
            Ok(())
        } else {
            pass_body(&mut server.stream, framing, &mut take)
        };
        if ended {
            if matches!(effects.fault, Some(Fault::Stall(_))) {
                return Ok(self.fall_silent());
            }
            return Ok(After::Close);
        }
        passed?;
        let wrong = matches!(effects.fault, Some(Fault::WrongLength(_)));
        Ok(if wrong { After::Close } else { After::Next })
    }

    /// Answers instead of the server, after the whole request has come. If a client still sends when the connection
    /// ends, the end is a reset, and an earlier answer could be lost by it.
    fn answer(&mut self, head: &Head, under_way: &UnderWay, effects: &Effects, answer: &Answer) -> io::Result<After> {
        let waits = head.header_has("expect", "100-continue");
        if !waits {
            pass_body(&mut self.client, head.request_framing()?, |piece| {
                under_way.note(|record| record.request_bytes += piece.content.len() as u64);
                Ok(())
            })?;
        }
        thread::sleep(effects.response_delay);
        under_way.note(|record| record.status = Some(answer.status));
        let mut text = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
        for (name, value) in &answer.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("Content-Length: {}\r\n\r\n", answer.body.len());
        if head.method() != "HEAD" {
            text += &answer.body;
        }
        self.client.get_mut().write_all(text.as_bytes())?;
        let closes = waits || !head.keeps_alive();
        Ok(if closes { After::Close } else { After::Next })
    }

    fn reset(&self) -> After {
        reset_on_close(self.client.get_ref());
        After::Close
    }

    fn fall_silent(&mut self) -> After {
        self.server = None;
        wait_for_end(self.client.get_ref());
        After::Close
    }
}

/// The reason for which a request's body did not reach the server.
enum Broken {
    /// The fault cut it.
    Cut,
    /// The client's connection broke.
    Client(io::Error),
    /// The server's connection broke.
    Server,
}

impl Server {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    fn read_head(&mut self) -> io::Result<Head> {
        Head::read(&mut self.stream)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn read_final_head(&mut self) -> io::Result<Head> {
        loop {
            let head = self.read_head()?;
            if head.status() >= 200 {
                return Ok(head);
            }
        }
    }

    /// Whether the server sends a byte within the limit.
    fn speaks_within(&self, limit: Timespec) -> bool {
        let mut polled = [PollFd::from_borrowed_fd(self.stream.get_ref().as_fd(), PollFlags::IN)];
        poll(&mut polled, Some(&limit)).is_ok_and(|ready| ready > 0)
    }
}

/// At most `left` bytes of it.
fn shorten(wire: &[u8], left: Option<u64>) -> &[u8] {
    let most = left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
    wire.get(..most).unwrap_or(wire)
}

/// Writes no faster than `bytes_per_second`.
struct Pace {
    bytes_per_second: Option<u64>,
    due: Instant,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second,
            due: Instant::now(),
        }
    }

    fn write(&mut self, bytes: &[u8], mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let Some(rate) = self.bytes_per_second else {
            return write(bytes);
        };
        for part in bytes.chunks(PACE) {
            self.due += Duration::from_secs_f64(part.len() as f64 / rate.max(1) as f64);
            thread::sleep(self.due.saturating_duration_since(Instant::now()));
            write(part)?;
        }
        Ok(())
    }
}
