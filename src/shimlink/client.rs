//! The connection to one shim: requests, answers, events.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_proto::shim::v1::{self, packet, request, response};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::{Refused, ShimError};
use super::socket::Socket;
use super::wire::{self, DATAGRAM_MAX};
use crate::base::readable::Readable;
use crate::base::tasks::Tasks;

/// Requests of one connection that may be unanswered at once; more wait.
const IN_FLIGHT: usize = 64;
/// How long a shim whose connection ended may take to be seen dead.
const TIME_TO_DIE: Duration = Duration::from_secs(1);

/// How a container ended, as far as is known.
#[derive(Debug, Clone, PartialEq)]
pub enum ShimExit {
    /// The shim reported it.
    Exited(v1::Exited),
    /// The connection ended without a report: the exit record may have more,
    /// and the container may live.
    Lost {
        /// Whether the shim itself is known to be dead.
        shim_dead: bool,
    },
}

/// How an exec'd process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecStatus {
    /// Exit status, or 128 + signal.
    pub code: i32,
    /// The signal that killed it, 0: none.
    pub signal: i32,
    /// CLOCK_REALTIME in nanoseconds.
    pub finished_at: i64,
}

/// What the daemon keeps of a connection to a shim. A clone is the same
/// connection; it closes when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Shim {
    pub(super) link: Arc<Link>,
    _open: Arc<DropGuard>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: String,
    tasks: Tasks,
    socket: Socket,
    next: AtomicU64,
    slots: Semaphore,
    state: Mutex<Waiting>,
    exit: watch::Sender<Option<ShimExit>>,
    /// The shim's own; None until it is known.
    pidfd: Mutex<Option<OwnedFd>>,
}

/// Who waits for what.
#[derive(Debug, Default)]
struct Waiting {
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    execs: HashMap<String, oneshot::Sender<ExecStatus>>,
    /// Nothing will be answered any more.
    ended: bool,
}

/// A result with its descriptors.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) result: response::Result,
    pub(super) fds: Vec<OwnedFd>,
}

/// Takes its request off the table when the caller stops waiting.
struct Asked<'a> {
    link: &'a Link,
    seq: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.link.waiting().answers.remove(&self.seq);
    }
}

impl Link {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A panic while it was held can't have left it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lost(&self, operation: &'static str) -> ShimError {
        ShimError::Lost {
            id: self.id.clone(),
            operation,
        }
    }

    pub(super) fn mismatch(&self, operation: &'static str) -> ShimError {
        ShimError::Mismatch {
            id: self.id.clone(),
            operation,
        }
    }

    pub(super) fn set_pidfd(&self, pidfd: OwnedFd) {
        *self.pidfd.lock().unwrap_or_else(PoisonError::into_inner) = Some(pidfd);
    }

    /// A copy of the shim's pidfd.
    pub(super) fn pidfd(&self) -> Option<OwnedFd> {
        let pidfd = self.pidfd.lock().unwrap_or_else(PoisonError::into_inner);
        pidfd.as_ref().and_then(|fd| fd.try_clone().ok())
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(
        &self,
        operation: &'static str,
        op: request::Op,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer, ShimError> {
        let _slot = self
            .slots
            .acquire()
            .await
            .map_err(|_| self.lost(operation))?;
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.ended {
                return Err(self.lost(operation));
            }
            waiting.answers.insert(seq, sender);
        }
        let _asked = Asked { link: self, seq };
        let request = v1::Request { seq, op: Some(op) };
        let packet = v1::Packet {
            kind: Some(packet::Kind::Request(request)),
        };
        self.socket
            .write(|socket| wire::send(socket, &packet, fds))
            .await
            .map_err(|source| {
                if is_end(&source) {
                    return self.lost(operation);
                }
                ShimError::system(format!("send {operation} to shim of {}", self.id), source)
            })?;
        let answer = answer.await.map_err(|_| self.lost(operation))?;
        if let response::Result::Error(error) = answer.result {
            return Err(Refused::from(error).into());
        }
        Ok(answer)
    }

    /// As `ask`, where there is nothing to say but that it is done.
    pub(super) async fn tell(
        &self,
        operation: &'static str,
        op: request::Op,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ShimError> {
        let answer = self.ask(operation, op, fds).await?;
        let done = matches!(answer.result, response::Result::Done(_));
        if done {
            Ok(())
        } else {
            Err(self.mismatch(operation))
        }
    }

    /// To be called before the exec is asked for, so that its end can't be
    /// missed.
    pub(super) fn expect_exec(&self, exec_id: &str) -> oneshot::Receiver<ExecStatus> {
        let (sender, status) = oneshot::channel();
        let mut waiting = self.waiting();
        if !waiting.ended {
            waiting.execs.insert(exec_id.to_owned(), sender);
        }
        status
    }

    pub(super) fn forget_exec(&self, exec_id: &str) {
        self.waiting().execs.remove(exec_id);
    }

    fn take(&self, received: wire::Received) {
        match received.packet.kind {
            Some(packet::Kind::Response(v1::Response {
                seq,
                result: Some(result),
            })) => {
                if let Some(waiter) = self.waiting().answers.remove(&seq) {
                    // Fails when the caller stopped waiting just now.
                    waiter
                        .send(Answer {
                            result,
                            fds: received.fds,
                        })
                        .ok();
                }
            }
            Some(packet::Kind::Event(v1::Event { kind: Some(event) })) => self.publish(event),
            other => {
                tracing::warn!(container = self.id, ?other, "unexpected message of a shim");
            }
        }
    }

    fn publish(&self, event: v1::event::Kind) {
        match event {
            v1::event::Kind::Exited(exited) => {
                self.exit.send_replace(Some(ShimExit::Exited(exited)));
            }
            v1::event::Kind::ExecExited(exited) => {
                // None: another connection's.
                if let Some(waiter) = self.waiting().execs.remove(&exited.exec_id) {
                    let v1::ExecExited {
                        code,
                        signal,
                        finished_at,
                        ..
                    } = exited;
                    // Fails when nobody waits.
                    waiter
                        .send(ExecStatus {
                            code,
                            signal,
                            finished_at,
                        })
                        .ok();
                }
            }
        }
    }

    async fn read_all(&self) -> io::Error {
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            let received = self
                .socket
                .read(|socket| wire::receive(socket, &mut buffer))
                .await;
            match received {
                Ok(received) => self.take(received),
                Err(error) => return error,
            }
        }
    }

    async fn end(&self, error: &io::Error) {
        if !is_end(error) {
            tracing::error!(container = self.id, %error, "connection to shim failed");
        }
        {
            let mut waiting = self.waiting();
            waiting.ended = true;
            waiting.answers.clear();
            waiting.execs.clear();
        }
        self.slots.close();
        if self.exit.borrow().is_none() {
            let shim_dead = self.died().await;
            self.exit.send_if_modified(|exit| {
                let unknown = exit.is_none();
                if unknown {
                    *exit = Some(ShimExit::Lost { shim_dead });
                }
                unknown
            });
        }
    }

    /// Whether the shim is dead, or dies now.
    async fn died(&self) -> bool {
        let Some(pidfd) = self.pidfd() else {
            return false;
        };
        let Ok(pidfd) = Readable::new(pidfd) else {
            return false;
        };
        // A pidfd is readable when its process has ended.
        tokio::time::timeout(TIME_TO_DIE, pidfd.readable())
            .await
            .is_ok_and(|ready| ready.is_ok())
    }
}

/// The peer has closed its end.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

impl Shim {
    /// Takes a connected socket. Must be called within a tokio runtime; the
    /// reader runs on `tasks` until the last clone is dropped.
    pub(super) fn new(id: String, socket: OwnedFd, tasks: &Tasks) -> Result<Self, ShimError> {
        let socket = Socket::new(socket)
            .map_err(|e| ShimError::system(format!("watch shim socket of {id}"), e))?;
        let link = Arc::new(Link {
            id,
            tasks: tasks.clone(),
            socket,
            next: AtomicU64::new(1),
            slots: Semaphore::new(IN_FLIGHT),
            state: Mutex::default(),
            exit: watch::Sender::new(None),
            pidfd: Mutex::new(None),
        });
        let closed = CancellationToken::new();
        let (reader, stopping) = (Arc::clone(&link), tasks.stopping());
        let open = Arc::new(closed.clone().drop_guard());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                // The shim lives on and is asked again after a restart.
                () = stopping.cancelled() => {}
                () = closed.cancelled() => {}
                error = reader.read_all() => reader.end(&error).await,
            }
        });
        Ok(Self { link, _open: open })
    }

    /// Kills an exec for a caller who can't wait.
    pub(super) fn abandon(&self, exec_id: String) {
        let shim = self.clone();
        self.link.tasks.spawn(async move {
            // NOT_FOUND: it has ended. Lost: the shim kills it itself.
            shim.kill_exec(&exec_id, libc::SIGKILL, true).await.ok();
        });
    }

    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.link.id
    }

    /// How the container ended; None while it has not. The value stays.
    #[must_use]
    pub fn exited(&self) -> watch::Receiver<Option<ShimExit>> {
        self.link.exit.subscribe()
    }

    /// A pidfd of the shim itself, where it is known.
    #[must_use]
    pub fn pidfd(&self) -> Option<OwnedFd> {
        self.link.pidfd()
    }
}
