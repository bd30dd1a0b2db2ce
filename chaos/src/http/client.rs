//! One request on a connection of its own.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::message::{Head, pass_body};
use super::server::Response;

/// A server that is silent for so long is taken for dead.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks a server and returns its answer, whatever its status. `Host`, `Content-Length` and `Connection` are added.
///
/// # Errors
/// There is no server, or its answer is not HTTP.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut reader = BufReader::new(stream);
    let head = Head::read(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut content = Vec::new();
    pass_body(&mut reader, head.response_framing(method)?, |piece| {
        content.extend_from_slice(piece.content);
        Ok(())
    })?;
    Ok(Response {
        status: head.status(),
        headers: head.headers().to_vec(),
        body: content,
    })
}
