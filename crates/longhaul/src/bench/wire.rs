//! A lean HTTP/1.1 connection: what a bench needs of the protocol and nothing else.
//!
//! Job: write prepared requests, read answers by length, in chunks or to the end of the connection, whole or as they
//! come. Owns: one socket and its buffer. Never: allocates per answer; retries.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::limits::{HEAD_BYTES_MAX, READ_BYTES};

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket.
    #[error("{}", .0.kind())]
    Io(#[from] io::Error),
    /// The server closed the connection in the middle.
    #[error("closed early")]
    Closed,
    /// What came is not HTTP/1.1.
    #[error("not HTTP: {0}")]
    Malformed(&'static str),
}

/// How an answer's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After so many more bytes.
    Length(u64),
    /// As chunks say.
    Chunked(Chunk),
    /// With the connection.
    Close,
}

/// Where in a chunked body the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// In the line with the size; `extension` once the digits are over.
    Size { bytes: u64, digits: u8, extension: bool },
    /// In the data.
    Data(u64),
    /// In the line end after the data.
    DataEnd,
    /// In the trailer, after so many bytes of a line.
    Trailer(usize),
    /// Behind the body.
    Done,
}

impl Framing {
    const CHUNKED: Self = Self::Chunked(Chunk::Size { bytes: 0, digits: 0, extension: false });

    /// Whether the body is over.
    pub fn is_done(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::Done))
    }

    /// Hands the body's bytes in `input` to `sink`; how many bytes of `input` belong to the body.
    ///
    /// # Errors
    /// The chunks make no sense.
    pub fn feed(&mut self, input: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<usize, WireError> {
        match self {
            Self::Close => {
                sink(input);
                Ok(input.len())
            }
            Self::Length(left) => {
                let take = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                sink(&input[..take]);
                *left -= take as u64;
                Ok(take)
            }
            Self::Chunked(chunk) => chunk.feed(input, sink),
        }
    }
}

impl Chunk {
    fn feed(&mut self, input: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<usize, WireError> {
        let mut at = 0;
        while at < input.len() && *self != Self::Done {
            if let Self::Data(left) = self {
                let take = (input.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                sink(&input[at..at + take]);
                at += take;
                *left -= take as u64;
                if *left == 0 {
                    *self = Self::DataEnd;
                }
                continue;
            }
            *self = self.after(input[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// The state after a byte that is not data.
    fn after(self, byte: u8) -> Result<Self, WireError> {
        match (self, byte) {
            (Self::Size { digits: 0, .. }, b'\n') => Err(WireError::Malformed("a chunk without a size")),
            (Self::Size { bytes: 0, .. }, b'\n') => Ok(Self::Trailer(0)),
            (Self::Size { bytes, .. }, b'\n') => Ok(Self::Data(bytes)),
            (Self::Size { bytes, digits, extension }, b'\r' | b';' | b' ' | b'\t') => {
                Ok(Self::Size { bytes, digits, extension: extension || byte != b'\r' })
            }
            (Self::Size { extension: true, .. }, _) => Ok(self),
            (Self::Size { bytes, digits, extension }, _) => {
                let digit = char::from(byte).to_digit(16).ok_or(WireError::Malformed("a chunk's size"))?;
                if digits == 15 {
                    return Err(WireError::Malformed("a chunk's size"));
                }
                Ok(Self::Size { bytes: bytes << 4 | u64::from(digit), digits: digits + 1, extension })
            }
            (Self::DataEnd, b'\r') => Ok(self),
            (Self::DataEnd, b'\n') => Ok(Self::Size { bytes: 0, digits: 0, extension: false }),
            (Self::DataEnd, _) => Err(WireError::Malformed("a chunk longer than its size")),
            (Self::Trailer(0), b'\n') => Ok(Self::Done),
            (Self::Trailer(_), b'\n') => Ok(Self::Trailer(0)),
            (Self::Trailer(_), b'\r') => Ok(self),
            (Self::Trailer(length), _) => Ok(Self::Trailer(length + 1)),
            (Self::Data(_) | Self::Done, _) => Ok(self),
        }
    }
}

/// What an answer's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// How the body ends.
    pub framing: Framing,
    /// The server closes the connection after this answer.
    pub closes: bool,
}

impl Head {
    /// Whether the status is one of success.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// The head in these bytes, without the empty line.
fn parse_head(bytes: &[u8]) -> Result<Head, WireError> {
    let line_end = bytes.iter().position(|byte| *byte == b'\r').unwrap_or(bytes.len());
    let line = &bytes[..line_end];
    if !line.starts_with(b"HTTP/1.") || line.len() < 12 {
        return Err(WireError::Malformed("no status line"));
    }
    let status = std::str::from_utf8(&line[9..12]).ok().and_then(|text| text.parse().ok());
    let status: u16 = status.ok_or(WireError::Malformed("no status"))?;
    let mut framing = Framing::Close;
    if let Some(length) = header(bytes, "content-length") {
        framing = Framing::Length(length.parse().map_err(|_| WireError::Malformed("content-length"))?);
    }
    if header(bytes, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        framing = Framing::CHUNKED;
    }
    if status == 204 || status == 304 {
        framing = Framing::Length(0);
    }
    let closes = header(bytes, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Head { status, framing, closes: closes || framing == Framing::Close })
}

/// A header's value in a head.
fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let value = line.get(name.len()..)?.strip_prefix(b":")?;
        line[..name.len()].eq_ignore_ascii_case(name.as_bytes()).then_some(())?;
        std::str::from_utf8(value).ok().map(str::trim)
    })
}

/// Where the empty line that ends a head ends, if it is there; the search begins at `from`.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3);
    bytes[from..].windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4)
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    unread: Vec<u8>,
    at: usize,
    head: Vec<u8>,
    read_bytes: usize,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// The socket's.
    pub async fn open(address: SocketAddr) -> Result<Self, WireError> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, unread: Vec::new(), at: 0, head: Vec::new(), read_bytes: READ_BYTES })
    }

    /// A header of the last answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Writes a request and reads the whole answer; `sink` gets the body.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub async fn call(&mut self, request: &[u8], mut sink: impl FnMut(&[u8])) -> Result<Head, WireError> {
        let mut head = self.begin(request).await?;
        while !head.framing.is_done() {
            if !self.body(&mut head.framing, &mut sink).await? {
                break;
            }
        }
        Ok(head)
    }

    /// Writes a request and reads the head of its answer.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub async fn begin(&mut self, request: &[u8]) -> Result<Head, WireError> {
        self.socket.write_all(request).await?;
        loop {
            let head = self.read_head().await?;
            // An interim answer is followed by the real one.
            if !(100..200).contains(&head.status) {
                return Ok(head);
            }
        }
    }

    async fn read_head(&mut self) -> Result<Head, WireError> {
        let mut seen = 0;
        loop {
            let unread = &self.unread[self.at..];
            if let Some(end) = head_end(unread, seen) {
                self.head.clear();
                self.head.extend_from_slice(&unread[..end - 4]);
                self.at += end;
                return parse_head(&self.head);
            }
            seen = unread.len();
            if seen > HEAD_BYTES_MAX {
                return Err(WireError::Malformed("a head without end"));
            }
            if !self.more().await? {
                return Err(WireError::Closed);
            }
        }
    }

    /// Gives `sink` the next bytes of the body; false if the connection, and by that the body, is over.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub async fn body(&mut self, framing: &mut Framing, sink: &mut impl FnMut(&[u8])) -> Result<bool, WireError> {
        if self.at == self.unread.len() && !self.more().await? {
            return if *framing == Framing::Close { Ok(false) } else { Err(WireError::Closed) };
        }
        self.at += framing.feed(&self.unread[self.at..], sink)?;
        Ok(true)
    }

    /// Reads once; false at the end.
    async fn more(&mut self) -> Result<bool, WireError> {
        if self.at == self.unread.len() {
            self.unread.clear();
            self.at = 0;
        }
        self.unread.reserve(self.read_bytes);
        Ok(self.socket.read_buf(&mut self.unread).await? > 0)
    }
}

/// A connection that is made when it is needed, and again when the server closed it.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    read_bytes: usize,
    connection: Option<Connection>,
}

impl Link {
    /// To this address, with answers read so many bytes at once.
    pub fn new(address: SocketAddr, read_bytes: usize) -> Self {
        Self { address, read_bytes, connection: None }
    }

    /// Whether it is there.
    pub fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// Makes sure that it is there.
    ///
    /// # Errors
    /// The socket's.
    pub async fn open(&mut self) -> Result<&mut Connection, WireError> {
        if self.connection.is_none() {
            let mut connection = Connection::open(self.address).await?;
            connection.read_bytes = self.read_bytes;
            self.connection = Some(connection);
        }
        self.connection.as_mut().ok_or(WireError::Closed)
    }

    /// Writes a request and reads the whole answer; `sink` gets the body.
    ///
    /// # Errors
    /// The connection broke; the next call makes another one.
    pub async fn call(&mut self, request: &[u8], sink: impl FnMut(&[u8])) -> Result<Head, WireError> {
        let called = self.open().await?.call(request, sink).await;
        if called.as_ref().map_or(true, |head| head.closes) {
            self.connection = None;
        }
        called
    }

    /// The same, with the answer's headers of these names.
    ///
    /// # Errors
    /// See [`Link::call`].
    pub async fn ask(
        &mut self,
        request: &[u8],
        sink: impl FnMut(&[u8]),
        names: [&str; 2],
    ) -> Result<(Head, [Option<String>; 2]), WireError> {
        let connection = self.open().await?;
        let called = connection.call(request, sink).await;
        let values = names.map(|name| connection.header(name).map(str::to_owned));
        if called.as_ref().map_or(true, |head| head.closes) {
            self.connection = None;
        }
        Ok((called?, values))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn fed(mut framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, Framing), WireError> {
        let (mut body, mut used) = (Vec::new(), 0);
        for piece in pieces {
            used += framing.feed(piece, &mut |bytes: &[u8]| body.extend_from_slice(bytes))?;
        }
        Ok((body, used, framing))
    }

    #[test]
    fn chunks_are_the_same_wherever_they_are_split() {
        let wire = b"5;x=1\r\nhello\r\n1\r\n \r\nB\r\nwide world!\r\n0\r\nTrailer: yes\r\n\r\nHTTP/1.1 200 OK";
        let length = wire.len() - b"HTTP/1.1 200 OK".len();
        for first in 0..=wire.len() {
            for second in first..=wire.len() {
                let pieces = [&wire[..first], &wire[first..second], &wire[second..]];
                let (body, used, framing) = fed(Framing::CHUNKED, &pieces).unwrap();
                assert_eq!(body, b"hello wide world!", "{first} {second}");
                assert_eq!((used, framing.is_done()), (length, true), "{first} {second}");
            }
        }
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(fed(Framing::CHUNKED, &bytes).unwrap().0, b"hello wide world!");
    }

    #[test]
    fn chunks_that_make_no_sense_are_refused() {
        for wire in [&b"\r\n"[..], b"x\r\n", b"2\r\nabc\r\n", b"1234567890abcdef0\r\n"] {
            assert!(fed(Framing::CHUNKED, &[wire]).is_err(), "{wire:?}");
        }
    }

    #[test]
    fn a_length_ends_where_it_says() {
        let (body, used, framing) = fed(Framing::Length(4), &[b"ab", b"cdHTTP"]).unwrap();
        assert_eq!((&body[..], used, framing.is_done()), (&b"abcd"[..], 4, true));
        assert!(!Framing::Close.is_done());
    }

    #[test]
    fn heads_are_read_as_they_are_meant() {
        let head = parse_head(b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 12\r\nX: y\r\n").unwrap();
        assert_eq!(head, Head { status: 200, framing: Framing::Length(12), closes: false });
        let head = parse_head(b"HTTP/1.1 204 No Content\r\nConnection: close").unwrap();
        assert_eq!(head, Head { status: 204, framing: Framing::Length(0), closes: true });
        let head = parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked").unwrap();
        assert_eq!(head.framing, Framing::CHUNKED);
        assert!(parse_head(b"HTTP/1.1 200 OK").unwrap().closes);
        assert!(parse_head(b"SSH-2.0").is_err());
    }

    #[tokio::test]
    async fn answers_in_one_packet_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut got = [0; 64];
            let _ = socket.read(&mut got).await.unwrap();
            let one = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: 1\r\n\r\nhi";
            let two = b"HTTP/1.1 409 Conflict\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno!\r\n0\r\n\r\n";
            socket.write_all(&[&one[..], &two[..]].concat()).await.unwrap();
            let _ = socket.read(&mut got).await.unwrap();
        });
        let mut connection = Connection::open(address).await.unwrap();
        let mut body = Vec::new();
        let head = connection.call(b"one", |bytes| body.extend_from_slice(bytes)).await.unwrap();
        assert_eq!((head.status, &body[..], connection.header("a")), (200, &b"hi"[..], Some("1")));
        body.clear();
        let head = connection.call(b"two", |bytes| body.extend_from_slice(bytes)).await.unwrap();
        assert_eq!((head.status, &body[..], connection.header("a")), (409, &b"no!"[..], None));
        server.await.unwrap();
        assert!(matches!(connection.call(b"three", |_| ()).await, Err(WireError::Closed | WireError::Io(_))));
    }
}
