//! Just enough of HTTP/1.1 for a scripted server and a test's own requests.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::Node;
use crate::process::{Process, wait_until};

/// A request as it came; header names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    /// The first byte that a `Range: bytes=N-` asks for.
    #[must_use]
    pub fn range_start(&self) -> Option<usize> {
        self.headers
            .get("range")?
            .strip_prefix("bytes=")?
            .split('-')
            .next()?
            .parse()
            .ok()
    }
}

/// A response to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Headers beside `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The body; for HEAD only its length is told.
    pub body: Vec<u8>,
}

impl Response {
    /// A status with a text body.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Status line and headers, with the given length instead of the body's own.
    pub(super) fn head(&self, length: usize) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} -\r\nContent-Length: {length}\r\n", self.status);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("Connection: close\r\n\r\n");
        text.into_bytes()
    }
}

/// The first byte of a TLS record that begins a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Reads a request's head and drops its body. `None` at the end of the connection.
pub(super) fn read_request(stream: &TcpStream) -> io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream);
    // A client that tries TLS first gets a closed connection, as from any server without it.
    if reader.fill_buf()?.first() == Some(&TLS_HANDSHAKE) {
        return Ok(None);
    }
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a request line",
        ));
    };
    let (method, path) = (method.to_owned(), path.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers
        .get("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    io::copy(&mut reader.take(length), &mut io::sink())?;
    Ok(Some(Request {
        method,
        path,
        headers,
    }))
}

/// GETs a path from a server on the node's loopback, once `server` answers; hands back head and body.
///
/// # Errors
/// When the server ends or does not answer within ten seconds.
pub fn http_get(node: &Node, server: &mut Process, port: u16, path: &str) -> Result<String> {
    let address = ([127, 0, 0, 1], port).into();
    wait_until(server, Duration::from_secs(10), || {
        node.connect(address).is_ok()
    })?;
    let mut stream = node.connect(address)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    )
    .context("send a request")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read a response")?;
    if answer.is_empty() {
        bail!("an empty response");
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A loopback port of the node that nobody listens on.
pub(super) fn free_port(node: &Node) -> Result<u16> {
    let bound = node.inside(|| TcpListener::bind(("127.0.0.1", 0)))?;
    Ok(bound
        .and_then(|listener| listener.local_addr())
        .context("find a free port")?
        .port())
}
