//! Messages on the wire.

use std::io::{self, BufRead, Read};

/// The longest head in bytes; no object store sends a longer one.
const LONGEST_HEAD: u64 = 256 << 10;

/// The line and the headers of a request or a response, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    wire: Vec<u8>,
    line: [String; 3],
    headers: Vec<(String, String)>,
}

/// The length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection is closed.
    UntilClose,
}

/// A piece of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The bytes on the wire.
    pub wire: &'a [u8],
    /// The part of them that belongs to the content; the rest are lengths of chunks.
    pub content: &'a [u8],
}

impl Head {
    /// Reads a head; `None` if the other side has closed the connection before its first byte.
    ///
    /// # Errors
    /// The connection broke, or its bytes are no head of HTTP/1.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut wire = Vec::new();
        let mut limited = from.take(LONGEST_HEAD);
        loop {
            let before = wire.len();
            let length = limited.read_until(b'\n', &mut wire)?;
            match wire.get(before..) {
                _ if length == 0 && before == 0 => return Ok(None),
                _ if length == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                // Empty lines before a request are ignored (RFC 9112, 2.2).
                Some(b"\r\n" | b"\n") if before == 0 => wire.clear(),
                Some(b"\r\n" | b"\n") => return Self::parse(wire).map(Some),
                _ => {}
            }
        }
    }

    fn parse(wire: Vec<u8>) -> io::Result<Self> {
        let text = String::from_utf8_lossy(&wire).into_owned();
        let mut lines = text.lines();
        let mut words = lines.next().unwrap_or_default().splitn(3, ' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let line = [word(), word(), word()];
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let head = Self { wire, line, headers };
        let version = head.version();
        if !version.starts_with("HTTP/1.") {
            let line = head.line.join(" ");
            return Err(invalid(format!("{line:?} does not begin a message of HTTP/1")));
        }
        Ok(head)
    }

    /// All bytes, the empty line at the end included.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The method of a request.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.line[0]
    }

    /// The path and query of a request, byte for byte.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.line[1]
    }

    /// The status of a response; 0 if it is not a number.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.line[1].parse().unwrap_or_default()
    }

    fn version(&self) -> &str {
        if self.line[0].starts_with("HTTP/") {
            &self.line[0]
        } else {
            &self.line[2]
        }
    }

    /// All headers, their names in lower case.
    #[must_use]
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The value of a header, its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether a header has a word in its list.
    #[must_use]
    pub fn header_has(&self, name: &str, word: &str) -> bool {
        let mut words = self.header(name).unwrap_or_default().split(',');
        words.any(|other| other.trim().eq_ignore_ascii_case(word))
    }

    /// Whether the connection takes another message after this one.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        if self.version() == "HTTP/1.0" {
            self.header_has("connection", "keep-alive")
        } else {
            !self.header_has("connection", "close")
        }
    }

    /// The length of a request's body.
    ///
    /// # Errors
    /// Its headers give the length in an unknown form.
    pub fn request_framing(&self) -> io::Result<Framing> {
        Ok(self.stated_framing()?.unwrap_or(Framing::Length(0)))
    }

    /// The length of the body in a response to a request with `method`.
    ///
    /// # Errors
    /// Its headers give the length in an unknown form.
    pub fn response_framing(&self, method: &str) -> io::Result<Framing> {
        if method == "HEAD" || matches!(self.status(), 100..200 | 204 | 304) {
            return Ok(Framing::Length(0));
        }
        Ok(self.stated_framing()?.unwrap_or(Framing::UntilClose))
    }

    fn stated_framing(&self) -> io::Result<Option<Framing>> {
        if self.header_has("transfer-encoding", "chunked") {
            return Ok(Some(Framing::Chunked));
        }
        let Some(length) = self.header("content-length") else {
            return Ok(None);
        };
        let length = length
            .parse()
            .map_err(|_| invalid(format!("{length:?} is no Content-Length")))?;
        Ok(Some(Framing::Length(length)))
    }

    /// The same with another value of a header that it has; all other bytes stay as they are.
    #[must_use]
    pub fn with_header(&self, name: &str, value: &str) -> Self {
        let is_it = |line: &&[u8]| {
            let end = line.iter().position(|byte| *byte == b':').unwrap_or_default();
            line.get(..end)
                .is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()))
        };
        let mut wire = Vec::new();
        for line in self.wire.split_inclusive(|byte| *byte == b'\n') {
            if is_it(&line) {
                wire.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            } else {
                wire.extend_from_slice(line);
            }
        }
        let mut changed = self.clone();
        changed.wire = wire;
        for (other, old) in &mut changed.headers {
            if other == name {
                value.clone_into(old);
            }
        }
        changed
    }
}

/// Hands on the pieces of a body as they come, until it ends or `take` fails.
///
/// # Errors
/// The connection broke, the body ended early, its chunks are malformed, or `take` failed.
pub fn pass_body(
    from: &mut impl BufRead,
    framing: Framing,
    mut take: impl FnMut(Piece<'_>) -> io::Result<()>,
) -> io::Result<()> {
    match framing {
        Framing::Length(length) => pass_content(from, Some(length), &mut take),
        Framing::UntilClose => pass_content(from, None, &mut take),
        Framing::Chunked => loop {
            let line = read_line(from)?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let length =
                u64::from_str_radix(digits, 16).map_err(|_| invalid(format!("{digits:?} is no length of a chunk")))?;
            take(Piece::frame(line.as_bytes()))?;
            if length == 0 {
                break pass_trailer(from, &mut take);
            }
            pass_content(from, Some(length), &mut take)?;
            take(Piece::frame(read_line(from)?.as_bytes()))?;
        },
    }
}

/// The lines behind the last chunk, up to an empty line.
fn pass_trailer(from: &mut impl BufRead, take: &mut impl FnMut(Piece<'_>) -> io::Result<()>) -> io::Result<()> {
    loop {
        let line = read_line(from)?;
        take(Piece::frame(line.as_bytes()))?;
        if line.trim().is_empty() {
            return Ok(());
        }
    }
}

fn pass_content(
    from: &mut impl BufRead,
    length: Option<u64>,
    take: &mut impl FnMut(Piece<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut left = length.unwrap_or(u64::MAX);
    while left > 0 {
        let available = from.fill_buf()?;
        if available.is_empty() {
            return match length {
                Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
                None => Ok(()),
            };
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(available.len());
        let wire = available.get(..most).unwrap_or(available);
        take(Piece { wire, content: wire })?;
        from.consume(most);
        left -= most as u64;
    }
    Ok(())
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.take(LONGEST_HEAD).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    String::from_utf8(line).map_err(|_| invalid("a line between chunks is no text".to_owned()))
}

impl<'a> Piece<'a> {
    fn frame(wire: &'a [u8]) -> Self {
        Self { wire, content: &[] }
    }
}

fn invalid(matter: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, matter)
}

#[cfg(test)]
mod tests;
