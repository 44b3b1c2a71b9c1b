//! The log thread: owns what the container writes, from create to exit.

#![allow(unsafe_code, reason = "mallopt(3)")]

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::SigSet;
use nix::unistd::read;

use super::error::StdioError;
use super::fanout::{FIRST_TOKEN, Fanout, STDIN_TOKEN};
use super::log::{Formatter, LogFile, Stream, Timestamp};
use super::pipe::system;
use super::{AttachDescriptors, Event, Ticket};

/// Enough for one write of log lines; everything large is on the heap.
const STACK_BYTES: usize = 64 << 10;
/// Read at once from one stream.
const READ_BYTES: usize = 16 << 10;
/// A terminal that says nothing for that long after the exit has said all.
const TERMINAL_QUIET: Duration = Duration::from_millis(100);

const COMMANDS_TOKEN: u64 = 0;

/// What the main thread asks for.
#[derive(Debug)]
pub(super) enum Command {
    Reopen(Ticket),
    Attach(AttachDescriptors),
    Finish(Instant),
}

/// The thread's ends of the two queues.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) commands: Receiver<Command>,
    pub(super) wake: Arc<EventFd>,
    pub(super) events: SyncSender<Event>,
    pub(super) notify: Arc<EventFd>,
}

/// What the container writes to and reads from.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) outputs: Vec<(Stream, OwnedFd)>,
    /// Non-blocking.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdin_once: bool,
    /// With a terminal: the slave, held open until the exit.
    pub(super) slave: Option<OwnedFd>,
    pub(super) log: Option<LogFile>,
    pub(super) line_limit: usize,
}

pub(super) fn start(link: Link, streams: Streams) -> Result<(), StdioError> {
    #[cfg(target_env = "gnu")]
    // An arena of its own would be 100 kB for a thread that hardly allocates.
    // SAFETY: takes integers only.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
    std::thread::Builder::new()
        .name("log".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            // Signals are the main thread's. Fails for a wrong argument only.
            SigSet::all().thread_block().ok();
            let events = link.events.clone();
            let notify = Arc::clone(&link.notify);
            let complete = Worker::new(link, streams).is_ok_and(Worker::run);
            send(&events, &notify, Event::Finished { complete });
        })
        .map(|_detached| ())
        .map_err(StdioError::Thread)
}

fn send(events: &SyncSender<Event>, notify: &EventFd, event: Event) {
    // As many fit as there are commands; a main thread that is gone asks for none.
    drop(events.try_send(event));
    notify.write(1).ok();
}

#[derive(Debug)]
struct Output {
    stream: Stream,
    token: u64,
    fd: OwnedFd,
    formatter: Formatter,
}

#[derive(Debug)]
struct Worker {
    epoll: Rc<Epoll>,
    link: Link,
    outputs: Vec<Output>,
    slave: Option<OwnedFd>,
    log: Option<LogFile>,
    clients: Fanout,
    buffer: Vec<u8>,
    lines: Vec<u8>,
    /// Set by [`Command::Finish`].
    deadline: Option<Instant>,
}

/// What became of an attempt to read a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Some,
    Nothing,
    Ended,
}

impl Worker {
    fn new(link: Link, streams: Streams) -> Result<Self, StdioError> {
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| system("epoll_create1", e))?;
        let epoll = Rc::new(epoll);
        let watch = |fd: &dyn AsFd, token| {
            epoll
                .add(fd.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, token))
                .map_err(|e| system("epoll_ctl", e))
        };
        watch(&link.wake, COMMANDS_TOKEN)?;
        let mut outputs = Vec::new();
        for (token, (stream, fd)) in (1..).zip(streams.outputs) {
            watch(&fd, token)?;
            let formatter = Formatter::new(stream, streams.line_limit);
            outputs.push(Output {
                stream,
                token,
                fd,
                formatter,
            });
        }
        let clients = Fanout::new(Rc::clone(&epoll), streams.stdin, streams.stdin_once);
        Ok(Self {
            epoll,
            link,
            outputs,
            slave: streams.slave,
            log: streams.log,
            clients,
            buffer: vec![0; READ_BYTES],
            lines: Vec::new(),
            deadline: None,
        })
    }

    /// Until the container has ended and was heard to the end. Whether it was
    /// in time.
    fn run(mut self) -> bool {
        let mut ready = [EpollEvent::empty(); 16];
        while self.deadline.is_none() {
            let count = match self.epoll.wait(&mut ready, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(_) => return false,
            };
            let tokens: VecDeque<u64> = ready.iter().take(count).map(EpollEvent::data).collect();
            for token in tokens {
                self.dispatch(token);
            }
        }
        let complete = self.drain();
        self.end();
        complete
    }

    fn dispatch(&mut self, token: u64) {
        match token {
            COMMANDS_TOKEN => self.obey(),
            STDIN_TOKEN => self.clients.stdin_ready(),
            FIRST_TOKEN.. => self.clients.ready(token, &mut self.buffer),
            token => {
                if let Some(at) = self.outputs.iter().position(|o| o.token == token)
                    && self.take(at) == Taken::Ended
                {
                    self.end_output(at);
                }
            }
        }
    }

    fn obey(&mut self) {
        // Fails when there is nothing: then the queue is empty too.
        self.link.wake.read().ok();
        loop {
            match self.link.commands.try_recv() {
                Ok(Command::Reopen(ticket)) => {
                    let result = self.log.as_mut().map_or(Ok(()), LogFile::reopen);
                    let event = Event::LogReopened { ticket, result };
                    send(&self.link.events, &self.link.notify, event);
                }
                Ok(Command::Attach(client)) => self.clients.attach(client),
                Ok(Command::Finish(deadline)) => self.deadline = Some(deadline),
                Err(TryRecvError::Empty) => return,
                // The shim has dropped the container's stdio.
                Err(TryRecvError::Disconnected) => {
                    self.deadline.get_or_insert_with(Instant::now);
                    return;
                }
            }
        }
    }

    /// Takes one buffer of a stream: to the log, and to the clients.
    fn take(&mut self, at: usize) -> Taken {
        let Some(output) = self.outputs.get_mut(at) else {
            return Taken::Ended;
        };
        let count = match read(&output.fd, &mut self.buffer) {
            Ok(0) => return Taken::Ended,
            Ok(count) => count,
            Err(Errno::EAGAIN) => return Taken::Nothing,
            Err(Errno::EINTR) => return Taken::Some,
            // EIO: the last slave of a pty was closed.
            Err(_) => return Taken::Ended,
        };
        let bytes = self.buffer.get(..count).unwrap_or_default();
        self.clients.output(output.stream, bytes);
        if let Some(log) = &mut self.log {
            self.lines.clear();
            output
                .formatter
                .push(bytes, &Timestamp::now(), &mut self.lines);
            log.write(&self.lines);
        }
        Taken::Some
    }

    fn end_output(&mut self, at: usize) {
        let mut output = self.outputs.remove(at);
        // Watched since the beginning.
        self.epoll.delete(&output.fd).ok();
        if let Some(log) = &mut self.log {
            self.lines.clear();
            output.formatter.finish(&Timestamp::now(), &mut self.lines);
            log.write(&self.lines);
        }
        if !self
            .outputs
            .iter()
            .any(|other| other.stream == output.stream)
        {
            self.clients.end_output(output.stream);
        }
    }

    /// Takes what was written before the exit. A pipe has it all by now. A
    /// terminal delivers a moment later, and hangs up when it is done.
    fn drain(&mut self) -> bool {
        let terminal = self.slave.take().is_some();
        let deadline = self.deadline.unwrap_or_else(Instant::now);
        loop {
            let mut some = false;
            let mut at = 0;
            while at < self.outputs.len() {
                let taken = self.take(at);
                some |= taken == Taken::Some;
                if taken == Taken::Ended {
                    self.end_output(at);
                } else {
                    at += 1;
                }
            }
            if self.outputs.is_empty() || !(some || terminal && self.wait(deadline)) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }

    /// Whether the terminal has more to say.
    fn wait(&self, deadline: Instant) -> bool {
        let left = deadline
            .saturating_duration_since(Instant::now())
            .min(TERMINAL_QUIET);
        let mut fds: Vec<_> = self
            .outputs
            .iter()
            .map(|o| nix::poll::PollFd::new(o.fd.as_fd(), nix::poll::PollFlags::POLLIN))
            .collect();
        let timeout =
            nix::poll::PollTimeout::try_from(left).unwrap_or(nix::poll::PollTimeout::ZERO);
        nix::poll::poll(&mut fds, timeout).is_ok_and(|count| count > 0)
    }

    fn end(&mut self) {
        while !self.outputs.is_empty() {
            self.end_output(0);
        }
        if let Some(log) = &self.log
            && log.lost_bytes() > 0
        {
            tracing::warn!(bytes = log.lost_bytes(), "log lines could not be written");
        }
    }
}
