//! The main thread's side of a container's stdio.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use longshore_proto::shim::v1;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::error::StdioError;
use super::log::{LogFile, Stream};
use super::pipe::{ChildPipes, Pipes, set_nonblocking, system};
use super::pty::{self, Console};
use super::thread::{self, Command, Link, Streams};
use super::{AttachDescriptors, ChildEnds, Event, Ticket};

/// Commands that the log thread has not come to yet.
const QUEUE: usize = 64;
/// Where the configuration names no limit of a log line's piece.
const LINE_BYTES: u32 = 16 << 10;
/// How much later than the log thread the main one gives up.
const GRACE: Duration = Duration::from_millis(200);

/// A container's stdio, from before create to after exit.
#[derive(Debug)]
pub struct Stdio {
    phase: Phase,
    owner: (u32, u32),
    stdin: bool,
    stdin_once: bool,
    line_limit: usize,
    queue: Queue,
    /// The log thread's ends, until it has them.
    link: Option<Link>,
    next_ticket: u64,
}

#[derive(Debug)]
enum Phase {
    Pipes {
        pipes: Pipes,
        log: Option<LogFile>,
    },
    Console {
        console: Console,
        log: Option<LogFile>,
    },
    /// The log thread has the streams.
    Running {
        master: Option<OwnedFd>,
    },
    /// The log thread has been told that the container has ended.
    Finishing,
    Finished,
}

/// Both ways between the threads.
#[derive(Debug)]
struct Queue {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
    events: Receiver<Event>,
    notify: Arc<EventFd>,
    /// Runs from `finish` on, for a log thread that hangs in a write.
    timer: TimerFd,
    /// Readable when `notify` or `timer` is.
    epoll: Epoll,
}

impl Queue {
    fn new() -> Result<(Self, Link), StdioError> {
        let event = || {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            EventFd::from_value_and_flags(0, flags)
                .map(Arc::new)
                .map_err(|e| system("eventfd", e))
        };
        let (wake, notify) = (event()?, event()?);
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)
            .map_err(|e| system("timerfd_create", e))?;
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| system("epoll_create1", e))?;
        for fd in [notify.as_fd(), timer.as_fd()] {
            epoll
                .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))
                .map_err(|e| system("epoll_ctl", e))?;
        }
        let (commands, from_main) = sync_channel(QUEUE);
        // One answer a command, and one for the end.
        let (to_main, events) = sync_channel(2 * QUEUE + 1);
        let link = Link {
            commands: from_main,
            wake: Arc::clone(&wake),
            events: to_main,
            notify: Arc::clone(&notify),
        };
        Ok((
            Self {
                commands,
                wake,
                events,
                notify,
                timer,
                epoll,
            },
            link,
        ))
    }

    fn send(&self, command: Command) -> Result<(), StdioError> {
        self.commands
            .try_send(command)
            .map_err(|error| match error {
                TrySendError::Full(_) => StdioError::Busy,
                TrySendError::Disconnected(_) => StdioError::Ended,
            })?;
        self.wake.write(1).map_err(|e| system("write eventfd", e))?;
        Ok(())
    }
}

impl Stdio {
    /// Opens the log and makes pipes, or a console socket in `console_dir`
    /// (a directory on a tmpfs, of the container's own).
    ///
    /// `owner`: user and group of the container's process, as the host sees
    /// them (mapped, with a user namespace). They own the pipes or the pty, so
    /// that a process that is not root can open /dev/stdout again.
    ///
    /// # Errors
    /// The file, or the call.
    pub fn prepare(
        config: &v1::Stdio,
        owner: (u32, u32),
        console_dir: &Path,
    ) -> Result<Self, StdioError> {
        let log = match config.log_path.as_str() {
            "" => None,
            path => Some(LogFile::open(Path::new(path))?),
        };
        let phase = if config.tty {
            Phase::Console {
                console: Console::listen(console_dir)?,
                log,
            }
        } else {
            Phase::Pipes {
                pipes: Pipes::new(config.stdin, owner)?,
                log,
            }
        };
        let line_limit = match config.log_line_bytes {
            0 => LINE_BYTES,
            bytes => bytes,
        };
        let (queue, link) = Queue::new()?;
        Ok(Self {
            phase,
            owner,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            line_limit: usize::try_from(line_limit).unwrap_or(usize::MAX),
            queue,
            link: Some(link),
            next_ticket: 0,
        })
    }

    /// The container's ends, for the worker. None once the log thread runs.
    #[must_use]
    pub fn child_ends(&self) -> Option<ChildEnds<'_>> {
        match &self.phase {
            Phase::Pipes {
                pipes: Pipes { child, .. },
                ..
            } => {
                let ChildPipes {
                    stdin,
                    stdout,
                    stderr,
                } = child;
                let (stdin, stdout, stderr) = (stdin.as_fd(), stdout.as_fd(), stderr.as_fd());
                Some(ChildEnds::Pipes {
                    stdin,
                    stdout,
                    stderr,
                })
            }
            Phase::Console { console, .. } => Some(ChildEnds::Console(console.path())),
            Phase::Running { .. } | Phase::Finishing | Phase::Finished => None,
        }
    }

    /// To be called once the worker is done: closes the child's ends, takes
    /// the pty master from the console socket, chowns the pty, and starts the
    /// thread that owns the container's output from then on.
    ///
    /// # Errors
    /// No master came, or the thread could not be started.
    pub fn start_log_thread(&mut self) -> Result<(), StdioError> {
        let Some(link) = self.link.take() else {
            return Err(StdioError::Ended);
        };
        let phase = std::mem::replace(&mut self.phase, Phase::Finished);
        let (streams, master) = match phase {
            Phase::Pipes { pipes, log } => (self.of_pipes(pipes, log), None),
            Phase::Console { console, log } => {
                let (streams, master) = self.of_terminal(console, log)?;
                (streams, Some(master))
            }
            Phase::Running { .. } | Phase::Finishing | Phase::Finished => {
                return Err(StdioError::Ended);
            }
        };
        thread::start(link, streams)?;
        self.phase = Phase::Running { master };
        Ok(())
    }

    fn of_pipes(&self, pipes: Pipes, log: Option<LogFile>) -> Streams {
        Streams {
            outputs: vec![
                (Stream::Stdout, pipes.stdout),
                (Stream::Stderr, pipes.stderr),
            ],
            stdin: pipes.stdin,
            stdin_once: self.stdin_once,
            slave: None,
            log,
            line_limit: self.line_limit,
        }
    }

    fn of_terminal(
        &self,
        console: Console,
        log: Option<LogFile>,
    ) -> Result<(Streams, OwnedFd), StdioError> {
        let terminal = console.take(self.owner.0)?;
        set_nonblocking(&terminal.master)?;
        let duplicate = |fd: &OwnedFd| {
            fd.try_clone()
                .map_err(|e| system("fcntl F_DUPFD_CLOEXEC", e))
        };
        let stdin = self
            .stdin
            .then(|| duplicate(&terminal.master))
            .transpose()?;
        let streams = Streams {
            outputs: vec![(Stream::Stdout, duplicate(&terminal.master)?)],
            stdin,
            stdin_once: self.stdin_once,
            slave: Some(terminal.slave),
            log,
            line_limit: self.line_limit,
        };
        Ok((streams, terminal.master))
    }

    /// Readable (level-triggered) when [`Stdio::take_events`] has something.
    #[must_use]
    pub fn events(&self) -> BorrowedFd<'_> {
        self.queue.epoll.0.as_fd()
    }

    /// What has happened since the last call. Never blocks.
    pub fn take_events(&mut self) -> Vec<Event> {
        // Fails when there is nothing: then the queue is empty too.
        self.queue.notify.read().ok();
        let mut events: Vec<Event> = self.queue.events.try_iter().collect();
        if self.timer_expired() {
            events.push(Event::Finished { complete: false });
        }
        let end = events
            .iter()
            .position(|event| matches!(event, Event::Finished { .. }));
        if let Some(end) = end {
            events.truncate(end + 1);
            let again = matches!(
                std::mem::replace(&mut self.phase, Phase::Finished),
                Phase::Finished
            );
            // Already told: the log thread came round after the time was up.
            if again {
                events.truncate(end);
            }
            // What was not, stays readable until it is disarmed.
            self.queue.timer.unset().ok();
        }
        events
    }

    fn timer_expired(&self) -> bool {
        self.queue.timer.wait().is_ok()
    }

    /// Asks for the log to be opened again. The answer is an
    /// [`Event::LogReopened`] with this ticket: the new file exists by then
    /// and no byte goes to the old one any more.
    ///
    /// # Errors
    /// [`StdioError::Ended`] before start and after finish,
    /// [`StdioError::Busy`] with too many queued.
    pub fn reopen_log(&mut self) -> Result<Ticket, StdioError> {
        let ticket = Ticket(self.next_ticket);
        self.running()?.send(Command::Reopen(ticket))?;
        self.next_ticket += 1;
        Ok(ticket)
    }

    /// Connects a client. It gets what the container writes from now on.
    ///
    /// # Errors
    /// [`StdioError::Ended`] before start and after finish,
    /// [`StdioError::Busy`] with too many queued.
    pub fn attach(&mut self, client: AttachDescriptors) -> Result<(), StdioError> {
        self.running()?.send(Command::Attach(client))
    }

    fn running(&self) -> Result<&Queue, StdioError> {
        match self.phase {
            Phase::Running { .. } => Ok(&self.queue),
            Phase::Pipes { .. } | Phase::Console { .. } | Phase::Finishing | Phase::Finished => {
                Err(StdioError::Ended)
            }
        }
    }

    /// Sets the terminal's size.
    ///
    /// # Errors
    /// No terminal, a size of 0 or above 65535, or the ioctl.
    pub fn resize(&self, columns: u32, rows: u32) -> Result<(), StdioError> {
        let Phase::Running {
            master: Some(master),
        } = &self.phase
        else {
            return Err(StdioError::NoTerminal);
        };
        pty::resize(master.as_fd(), columns, rows)
    }

    /// To be called when init has ended: takes what is still in the pipes,
    /// ends the log and the clients. The answer is [`Event::Finished`], at
    /// the latest after `deadline`, however stalled the log's disk is.
    /// Without a log thread there is nothing to wait for and it comes at once.
    ///
    /// False: it has come already, for the log thread ended by itself.
    #[must_use = "without an event to come, nobody else tells the exit"]
    pub fn finish(&mut self, deadline: Duration) -> bool {
        let was_running = matches!(self.phase, Phase::Running { .. });
        match self.phase {
            Phase::Finishing => return true,
            Phase::Finished => return false,
            Phase::Pipes { .. } | Phase::Console { .. } | Phase::Running { .. } => {}
        }
        self.phase = Phase::Finishing;
        let sent = was_running
            && self
                .queue
                .send(Command::Finish(Instant::now() + deadline))
                .is_ok();
        // The smallest time that arms the timer.
        let limit = if sent {
            deadline + GRACE
        } else {
            Duration::from_nanos(1)
        };
        let expiration = Expiration::OneShot(TimeSpec::from_duration(limit));
        // Fails for a time out of range only.
        self.queue
            .timer
            .set(expiration, TimerSetTimeFlags::empty())
            .ok();
        true
    }
}

#[cfg(test)]
mod tests;
