//! A small HTTP server.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

use super::message::{Head, pass_body};
use super::sockets::{Acceptor, HeldPort, Open};

/// A larger body is refused.
const LARGEST_BODY: usize = 1 << 30;

/// A request with all of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its line and headers.
    pub head: Head,
    /// Its content.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its headers. `Content-Length` is added if it is missing.
    pub headers: Vec<(String, String)>,
    /// Its content; not sent in the answer to a `HEAD`.
    pub body: Vec<u8>,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct HttpServer {
    port: HeldPort,
    open: Arc<Open>,
    _acceptor: Acceptor,
}

impl Response {
    /// A response without headers.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The bytes of the response to a request with `method`.
    fn wire(&self, method: &str) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let has = |name: &str| self.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        if !has("content-length") && self.status != 204 {
            text += &format!("Content-Length: {}\r\n", self.body.len());
        }
        text += "\r\n";
        let mut wire = text.into_bytes();
        if method != "HEAD" {
            wire.extend_from_slice(&self.body);
        }
        wire
    }
}

impl HttpServer {
    /// Listens on a free port of 127.0.0.1 and answers each request with the result of `answer`, which several threads
    /// may call at once.
    ///
    /// # Errors
    /// The system has no port or no thread left.
    pub fn start(answer: impl Fn(Request) -> Response + Send + Sync + 'static) -> io::Result<Self> {
        let port = HeldPort::new()?;
        let open = Arc::new(Open::default());
        let answer = Arc::new(answer);
        let all = Arc::clone(&open);
        let acceptor = Acceptor::start(port.listen()?, move |stream| {
            let Ok(tracked) = all.track(&stream) else { return };
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                // A client that went away is not the server's concern.
                serve(&stream, &*answer).ok();
                drop(tracked);
            });
        })?;
        Ok(Self {
            port,
            open,
            _acceptor: acceptor,
        })
    }

    /// The address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.open.shut_down();
    }
}

fn serve(stream: &TcpStream, answer: &(impl Fn(Request) -> Response + Sync)) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(1 << 17, stream);
    let mut writer = stream;
    while let Some(head) = Head::read(&mut reader)? {
        if head.header_has("expect", "100-continue") {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = Vec::new();
        pass_body(&mut reader, head.request_framing()?, |piece| {
            if body.len() + piece.content.len() > LARGEST_BODY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            body.extend_from_slice(piece.content);
            Ok(())
        })?;
        let keeps_alive = head.keeps_alive();
        let method = head.method().to_owned();
        let response = answer(Request { head, body });
        writer.write_all(&response.wire(&method))?;
        if !keeps_alive {
            break;
        }
    }
    Ok(())
}

/// The words behind a status; clients do not read them.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        416 => "Requested Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
