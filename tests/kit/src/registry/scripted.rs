//! A registry that serves OCI layouts and misbehaves as told.
//!
//! Each request is matched against the rules, first come first served; a rule that matches and has
//! not run out decides, otherwise the layout is served truthfully, ranges included.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::http::{Request, Response, read_request};
use crate::Node;
use crate::image::layout::{blob_path, root_descriptor};
use crate::image::{Descriptor, Image};

/// How often a waiting thread looks whether the registry ends.
const TICK: Duration = Duration::from_millis(10);

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This response instead of the true one: a 404, a 429 with Retry-After, a redirect, a token.
    Answer(Response),
    /// The true response with the last byte of the body changed: a lie about the digest.
    Corrupt,
    /// The true body under another `Docker-Content-Digest`.
    WrongDigestHeader(String),
    /// The true body, but `Content-Length` is off by this many bytes (and the connection ends).
    WrongLength(isize),
    /// The connection ends after this many bytes of the body.
    Truncate(usize),
    /// The body in pieces of `piece` bytes, each after a pause.
    Slow {
        /// Bytes.
        piece: usize,
        /// Before each piece.
        pause: Duration,
    },
    /// The head and this many bytes of the body, then silence until the registry ends.
    Stall(usize),
    /// Ranges are ignored: the whole body with 200.
    IgnoreRange,
    /// The connection ends before any answer.
    Close,
}

/// When which fault happens.
#[derive(Debug, Clone)]
pub struct Rule {
    method: Option<String>,
    path: String,
    unless: Option<(String, String)>,
    skip: usize,
    times: usize,
    fault: Fault,
}

impl Rule {
    /// For every request whose path contains `path`.
    #[must_use]
    pub fn new(path: &str, fault: Fault) -> Self {
        let path = path.to_owned();
        Self {
            method: None,
            path,
            unless: None,
            skip: 0,
            times: usize::MAX,
            fault,
        }
    }

    /// Only for this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Not where the request has this header (such as the right `authorization`).
    #[must_use]
    pub fn unless_header(mut self, name: &str, value: &str) -> Self {
        self.unless = Some((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// Not for the first `count` matches.
    #[must_use]
    pub fn after(mut self, count: usize) -> Self {
        self.skip = count;
        self
    }

    /// At most `count` times.
    #[must_use]
    pub fn times(mut self, count: usize) -> Self {
        self.times = count;
        self
    }

    /// Whether it decides this request; counts it.
    fn takes(&mut self, request: &Request) -> bool {
        let method = self
            .method
            .as_ref()
            .is_none_or(|method| *method == request.method);
        let spared = self
            .unless
            .as_ref()
            .is_some_and(|(name, value)| request.headers.get(name) == Some(value));
        if !method || spared || !request.path.contains(&self.path) || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

#[derive(Debug, Default)]
struct State {
    /// Repository -> its layout and the descriptor of every tag.
    repositories: BTreeMap<String, (PathBuf, BTreeMap<String, Descriptor>)>,
    rules: Vec<Rule>,
    requests: Vec<Request>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ending: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }
}

/// The registry; its threads end when it is dropped.
#[derive(Debug)]
pub struct ScriptedRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl ScriptedRegistry {
    /// Starts one on a free loopback port of the node.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(node: &Node) -> Result<Self> {
        let listener = node
            .inside(|| TcpListener::bind(("127.0.0.1", 0)))?
            .context("bind")?;
        let address = listener.local_addr().context("get the bound address")?;
        listener
            .set_nonblocking(true)
            .context("make a listener non-blocking")?;
        let shared = Arc::new(Shared::default());
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Ok(Self {
            address,
            shared,
            acceptor: Some(acceptor),
        })
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Serves an image as `NAME:TAG` and hands back its full reference.
    ///
    /// # Errors
    /// When the layout cannot be read.
    pub fn serve(&self, image: &Image, name: &str, tag: &str) -> Result<String> {
        self.serve_layout(image.layout(), name, tag)
    }

    /// As [`Self::serve`], for a layout that a test made.
    ///
    /// # Errors
    /// When the layout cannot be read.
    pub fn serve_layout(&self, layout: &Path, name: &str, tag: &str) -> Result<String> {
        let descriptor = root_descriptor(layout)?;
        let mut state = self.shared.state();
        let repository = state
            .repositories
            .entry(name.to_owned())
            .or_insert_with(|| (layout.to_path_buf(), BTreeMap::new()));
        repository.0 = layout.to_path_buf();
        repository.1.insert(tag.to_owned(), descriptor);
        Ok(format!("{}/{name}:{tag}", self.address))
    }

    /// Adds a rule.
    pub fn rule(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    /// Forgets all rules.
    pub fn clear_rules(&self) {
        self.shared.state().rules.clear();
    }

    /// Every request so far, in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }
}

impl Drop for ScriptedRegistry {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        if let Some(acceptor) = self.acceptor.take()
            && acceptor.join().is_err()
        {
            eprintln!("scripted registry: a thread panicked");
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while !shared.ending() {
        match listener.accept() {
            Ok((stream, _peer)) => {
                let shared = Arc::clone(shared);
                connections.push(thread::spawn(move || {
                    // A client that hangs up is part of many tests.
                    drop(serve(&stream, &shared));
                    drop(stream.shutdown(Shutdown::Both));
                }));
            }
            Err(_nothing_yet) => thread::sleep(TICK),
        }
    }
    for connection in connections {
        drop(connection.join());
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let Some(request) = read_request(stream)? else {
        return Ok(());
    };
    let (fault, mut response) = {
        let mut state = shared.state();
        state.requests.push(request.clone());
        let fault = state
            .rules
            .iter_mut()
            .find_map(|rule| rule.takes(&request).then(|| rule.fault.clone()));
        (fault, truth(&state, &request))
    };
    if fault != Some(Fault::IgnoreRange) {
        apply_range(&request, &mut response);
    }
    send(stream, shared, &request, response, fault)
}

/// What an honest registry says (distribution-spec, "Pulling manifests" and "Pulling blobs").
fn truth(state: &State, request: &Request) -> Response {
    let path = request.path.split('?').next().unwrap_or_default();
    if path == "/v2/" || path == "/v2" {
        return Response::new(200, "{}");
    }
    find(state, path).unwrap_or_else(|| {
        let body = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"not found"}]}"#;
        Response::new(404, body).header("Content-Type", "application/json")
    })
}

fn find(state: &State, path: &str) -> Option<Response> {
    let path = path.strip_prefix("/v2/")?;
    let (name, kind, reference) = ["manifests", "blobs"].into_iter().find_map(|kind| {
        let (name, reference) = path.split_once(&format!("/{kind}/"))?;
        Some((name, kind, reference))
    })?;
    let (layout, tags) = state.repositories.get(name)?;
    let digest = match tags.get(reference) {
        Some(descriptor) => &descriptor.digest,
        None => reference,
    };
    let body = fs::read(blob_path(layout, digest).ok()?).ok()?;
    let media_type = if kind == "manifests" {
        let parsed: serde_json::Value = serde_json::from_slice(&body).ok()?;
        parsed.get("mediaType")?.as_str()?.to_owned()
    } else {
        "application/octet-stream".to_owned()
    };
    let response = Response::new(200, body);
    Some(
        response
            .header("Content-Type", &media_type)
            .header("Docker-Content-Digest", digest),
    )
}

fn apply_range(request: &Request, response: &mut Response) {
    let Some(start) = request.range_start().filter(|_| response.status == 200) else {
        return;
    };
    let total = response.body.len();
    if start >= total {
        *response = Response::new(416, "").header("Content-Range", &format!("bytes */{total}"));
        return;
    }
    response.status = 206;
    response.body.drain(..start);
    let range = format!("bytes {start}-{}/{total}", total - 1);
    response.headers.push(("Content-Range".to_owned(), range));
}

fn send(
    mut stream: &TcpStream,
    shared: &Shared,
    request: &Request,
    mut response: Response,
    fault: Option<Fault>,
) -> io::Result<()> {
    let mut length = response.body.len();
    let mut end = usize::MAX;
    let mut pace = None;
    let mut stall = false;
    match fault {
        Some(Fault::Close) => return Ok(()),
        Some(Fault::Answer(answer)) => {
            length = answer.body.len();
            response = answer;
        }
        Some(Fault::Corrupt) => {
            if let Some(last) = response.body.last_mut() {
                *last ^= 1;
            }
        }
        Some(Fault::WrongDigestHeader(digest)) => {
            response
                .headers
                .retain(|(name, _)| name != "Docker-Content-Digest");
            response = response.header("Docker-Content-Digest", &digest);
        }
        Some(Fault::WrongLength(by)) => length = length.saturating_add_signed(by),
        Some(Fault::Truncate(after)) => end = after,
        Some(Fault::Stall(after)) => (end, stall) = (after, true),
        Some(Fault::Slow { piece, pause }) => pace = Some((piece.max(1), pause)),
        Some(Fault::IgnoreRange) | None => {}
    }
    stream.write_all(&response.head(length))?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let body = response
        .body
        .get(..end.min(response.body.len()))
        .unwrap_or_default();
    let (piece, pause) = pace.unwrap_or((body.len().max(1), Duration::ZERO));
    for chunk in body.chunks(piece) {
        if shared.ending() {
            return Ok(());
        }
        thread::sleep(pause);
        stream.write_all(chunk)?;
    }
    while stall && !shared.ending() {
        thread::sleep(TICK);
    }
    Ok(())
}
