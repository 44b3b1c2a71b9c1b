//! The loop: one thread, epoll, exits before requests.
//!
//! Nothing here waits: create runs in a worker, the log in its thread, and a
//! client that doesn't read is dropped. So a kill, an exec and an exit are
//! always handled at once.
//!
//! ```text
//!   signalfd (SIGCHLD), init's pidfd ──> reap, exit record
//!   init's exec report               ──> started, or why not
//!   stdio events                     ──> log reopened, log drained
//!   connections                      ──> requests
//! ```

mod exits;
mod life;
mod links;
mod requests;

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use longshore_proto::shim::v1::{Error as Refusal, packet, response};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::epoll;
use rustix::io::Errno;

use crate::create;
use crate::error::chain;
use crate::exit_record::RecordError;
use crate::state::Stage;
use life::{Life, Running};
use links::{Asker, FIRST_TOKEN, Links};

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const INIT: u64 = 2;
const REPORT: u64 = 3;
const STDIO: u64 = 4;

/// Until a connection is tried again that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What `serve` is given.
#[derive(Debug)]
pub struct Config {
    /// The container's id, for reports before Create.
    pub id: String,
    /// A listening SOCK_SEQPACKET socket.
    pub listener: OwnedFd,
    /// How long a shim without a container and without a connection stays.
    pub linger: Duration,
}

/// Why the loop ended early.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A call that can only fail for want of memory or by a defect.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

fn system<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> DriverError {
    move |source| DriverError::System {
        operation,
        source: source.into(),
    }
}

/// The shim's whole state.
struct Driver {
    id: String,
    epoll: OwnedFd,
    listener: OwnedFd,
    signals: SignalFd,
    links: Links,
    life: Life,
    /// The last Create that failed: of it only what the daemon made is left.
    failed: Option<create::Site>,
    execs: BTreeMap<String, Running>,
    linger: Duration,
    alone_since: Option<Instant>,
    collected: bool,
    /// The listener is not watched: accepting failed for want of resources.
    deaf: bool,
}

/// Serves until collected, or until nobody came for long.
///
/// All signals must be blocked, and the process must have one thread.
///
/// # Errors
/// A system call that never fails in good health.
pub fn serve(config: Config) -> Result<(), DriverError> {
    let mut driver = Driver::new(config)?;
    while !(driver.collected && driver.links.idle()) {
        driver.turn()?;
        if driver.abandoned() && driver.recorded() {
            for error in driver.leave_nothing() {
                complain(&error);
            }
            return Ok(());
        }
    }
    Ok(())
}

/// A failure that nobody asked about, to stderr.
fn complain(error: &(dyn std::error::Error + 'static)) {
    eprintln!("longshore-shim: {}", chain(error));
}

impl Driver {
    fn new(config: Config) -> Result<Driver, DriverError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("epoll_create"))?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(system("signalfd"))?;
        rustix::io::ioctl_fionbio(&config.listener, true).map_err(system("FIONBIO"))?;
        let driver = Driver {
            id: config.id,
            epoll,
            listener: config.listener,
            signals,
            links: Links::new(),
            life: Life::Empty,
            failed: None,
            execs: BTreeMap::new(),
            linger: config.linger,
            alone_since: Some(Instant::now()),
            collected: false,
            deaf: false,
        };
        driver.watch(&driver.listener, LISTENER)?;
        driver.watch(&driver.signals, SIGNALS)?;
        Ok(driver)
    }

    fn watch(&self, fd: impl AsFd, token: u64) -> Result<(), DriverError> {
        let data = epoll::EventData::new_u64(token);
        epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN).map_err(system("epoll_ctl"))
    }

    fn unwatch(&self, fd: impl AsFd) {
        // Not watched is as good.
        epoll::delete(&self.epoll, fd).ok();
    }

    /// Waits for something and handles all of it, exits first.
    fn turn(&mut self) -> Result<(), DriverError> {
        let mut buffer = [MaybeUninit::<epoll::Event>::uninit(); 32];
        let timeout = self.timeout();
        let tokens: Vec<u64> = match epoll::wait(&self.epoll, &mut buffer, timeout.as_ref()) {
            Ok((events, _)) => events.iter().map(|event| event.data.u64()).collect(),
            Err(Errno::INTR) => Vec::new(),
            Err(errno) => return Err(system("epoll_wait")(errno)),
        };
        while let Ok(Some(_)) = self.signals.read_signal() {}
        self.children()?;
        if tokens.contains(&REPORT) {
            self.exec_reported();
        }
        if tokens.contains(&STDIO) {
            self.stdio_events();
        }
        let called = tokens.contains(&LISTENER);
        for token in tokens.into_iter().filter(|token| *token >= FIRST_TOKEN) {
            self.requests_of(token);
        }
        if self.deaf || called {
            self.accept()?;
        }
        for token in self.links.flush(&self.epoll) {
            self.hang_up(token);
        }
        self.note_loneliness();
        Ok(())
    }

    /// Takes a connection. What is missing for it is no reason to leave the
    /// container alone: it waits, and the listener with it, for epoll would
    /// report it again at once.
    fn accept(&mut self) -> Result<(), DriverError> {
        match self.links.accept(&self.listener, &self.epoll) {
            Ok(()) => {
                self.deaf = self.deaf && self.watch(&self.listener, LISTENER).is_err();
                Ok(())
            }
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                if !self.deaf {
                    complain(&system("accept")(errno));
                    self.unwatch(&self.listener);
                    self.deaf = true;
                }
                Ok(())
            }
            Err(errno) => Err(system("accept")(errno)),
        }
    }

    fn requests_of(&mut self, token: u64) {
        loop {
            let received = match self.links.receive(token) {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(()) => return self.hang_up(token),
            };
            match received.packet.kind {
                Some(packet::Kind::Request(request)) => {
                    let asker = Asker {
                        link: token,
                        seq: request.seq,
                    };
                    self.request(asker, request.op, received.fds);
                }
                // Only a confused peer sends these to a shim.
                Some(packet::Kind::Response(_) | packet::Kind::Event(_)) | None => {
                    return self.hang_up(token);
                }
            }
        }
    }

    /// A connection is gone: what was bound to it ends.
    fn hang_up(&mut self, token: u64) {
        self.links.close(token);
        for exec in self
            .execs
            .values()
            .filter(|exec| exec.bound_to == Some(token))
        {
            // It may be dead already.
            exec.signal_group(libc::SIGKILL).ok();
        }
    }

    fn note_loneliness(&mut self) {
        let useless = matches!(self.life.stage(), Stage::Empty | Stage::Stopped);
        if !useless || !self.links.is_empty() {
            self.alone_since = None;
        } else if self.alone_since.is_none() {
            self.alone_since = Some(Instant::now());
        }
    }

    fn abandoned(&self) -> bool {
        self.alone_since
            .is_some_and(|since| since.elapsed() >= self.linger)
    }

    /// Whether the exit, if there was one, can be known without this process.
    /// A record that could not be written is tried again; until that works the
    /// shim stays, as if its container had just ended.
    fn recorded(&mut self) -> bool {
        let Life::Ended(ended) = &mut self.life else {
            return true;
        };
        let Some(record) = &ended.unwritten else {
            return true;
        };
        match record.write(&ended.kept.exit_record) {
            Ok(()) => ended.unwritten = None,
            // The directory is gone: nobody will look for it any more.
            Err(RecordError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                ended.unwritten = None;
            }
            Err(error) => {
                complain(&error);
                self.alone_since = Some(Instant::now());
            }
        }
        ended.unwritten.is_none()
    }

    fn timeout(&self) -> Option<rustix::event::Timespec> {
        let left = self
            .alone_since
            .map(|since| self.linger.saturating_sub(since.elapsed()) + Duration::from_millis(1));
        let again = self.deaf.then_some(ACCEPT_AGAIN);
        let wait = left.into_iter().chain(again).min()?;
        rustix::event::Timespec::try_from(wait).ok()
    }

    /// Takes back what is left of a container that ended or failed.
    fn leave_nothing(&self) -> Vec<create::CreateError> {
        match (&self.life, &self.failed) {
            (Life::Ended(ended), _) => create::undo(&ended.kept.site),
            (Life::Empty, Some(site)) => create::undo(site),
            (Life::Empty | Life::Creating(_) | Life::Live(_), _) => Vec::new(),
        }
    }

    fn answer(&mut self, to: Asker, result: response::Result) {
        self.links.respond(to, result, Vec::new());
    }

    fn refuse(&mut self, to: Asker, refusal: Refusal) {
        self.links
            .respond(to, response::Result::Error(refusal), Vec::new());
    }
}
