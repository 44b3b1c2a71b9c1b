//! What the daemon asks for.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use longshore_proto::shim::v1::{
    Attach, Create, Done, Error as Refusal, Exec, ExecStarted, Kill, KillExec, Resize, StateReply,
    error::Kind, request::Op, response, state_reply,
};

use super::Driver;
use super::life::{Creating, Kept, Life, Phase, Running};
use super::links::Asker;
use crate::create::{self, CreateError, Failure};
use crate::error::chain;
use crate::exec;
use crate::exit_record::now;
use crate::io::{AttachDescriptors, Stdio, StdioError, resize_pty};
use crate::state::{Ask, Stage};
use crate::sys;

/// Descriptors that are kept free of clients. An exec needs about twenty for a
/// moment, an exit about as many.
const DESCRIPTORS_RESERVED: u64 = 48;

/// The answer to a request: what to say with which descriptors, or nothing
/// yet.
type Answer = Result<Option<(response::Result, Vec<OwnedFd>)>, Refusal>;

pub(super) fn done() -> response::Result {
    response::Result::Done(Done {})
}

fn say_done() -> Answer {
    Ok(Some((done(), Vec::new())))
}

pub(super) fn refusal(kind: Kind, failure: &Failure) -> Refusal {
    Refusal {
        kind: kind.into(),
        stage: failure.stage.clone(),
        message: failure.message.clone(),
        errno: failure.errno,
    }
}

fn refused(kind: Kind, stage: &str, message: impl Into<String>) -> Refusal {
    Refusal {
        kind: kind.into(),
        stage: stage.to_owned(),
        message: message.into(),
        errno: 0,
    }
}

fn broken(stage: &str, error: &std::io::Error) -> Refusal {
    let errno = error.raw_os_error().unwrap_or(0);
    Refusal {
        errno,
        ..refused(Kind::Internal, stage, error.to_string())
    }
}

/// Refuses what would keep descriptors for a client where few are left: the
/// container's exit needs some, to be recorded and cleaned up after.
fn spare_descriptors(any: &OwnedFd) -> Result<(), Refusal> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    // The lowest free number, so all below it are taken.
    let next = rustix::io::fcntl_dupfd_cloexec(any, 0).map(|fd| fd.as_raw_fd());
    let free = match next {
        Ok(next) => limit
            .unwrap_or(u64::MAX)
            .saturating_sub(u64::try_from(next).unwrap_or(0)),
        Err(_) => 0,
    };
    if free >= DESCRIPTORS_RESERVED {
        return Ok(());
    }
    Err(Refusal {
        errno: libc::EMFILE,
        ..refused(
            Kind::Internal,
            "descriptors",
            "too many descriptors are in use by execs and attached clients",
        )
    })
}

fn create_refusal(error: &CreateError) -> Refusal {
    let kind = if error.is_invalid() {
        Kind::Invalid
    } else {
        Kind::Internal
    };
    refusal(kind, &Failure::from(error))
}

pub(super) fn stdio_refusal(error: &StdioError) -> Refusal {
    let kind = match error {
        StdioError::Ended | StdioError::Busy => Kind::BadState,
        StdioError::NoTerminal | StdioError::TerminalSize { .. } => Kind::Invalid,
        StdioError::OpenLog { .. }
        | StdioError::LogDirectory { .. }
        | StdioError::System { .. }
        | StdioError::Console { .. }
        | StdioError::NoMaster
        | StdioError::Thread(_) => Kind::Internal,
    };
    Refusal {
        errno: error.errno(),
        ..refused(kind, "stdio", chain(error))
    }
}

/// Hands out the descriptors of a datagram in the order of the fields that
/// announce them.
fn take(
    fds: &mut std::vec::IntoIter<OwnedFd>,
    set: bool,
    name: &str,
) -> Result<Option<OwnedFd>, Refusal> {
    if !set {
        return Ok(None);
    }
    let missing = || {
        refused(
            Kind::Invalid,
            "descriptors",
            format!("no descriptor for {name}"),
        )
    };
    fds.next().map(Some).ok_or_else(missing)
}

impl Driver {
    /// Handles one request.
    pub(super) fn request(&mut self, asker: Asker, op: Option<Op>, fds: Vec<OwnedFd>) {
        let Some(op) = op else {
            let text = "this shim does not know the operation";
            return self.refuse(asker, refused(Kind::UnknownOperation, "request", text));
        };
        let ask = match &op {
            Op::Create(_) => Ask::Create,
            Op::Start(_) => Ask::Start,
            Op::Kill(_) => Ask::Kill,
            Op::Exec(_) => Ask::Exec,
            Op::KillExec(_) => Ask::KillExec,
            Op::Resize(_) => Ask::Resize,
            Op::ReopenLog(_) => Ask::ReopenLog,
            Op::Attach(_) => Ask::Attach,
            Op::State(_) => Ask::State,
            Op::Collect(_) => Ask::Collect,
        };
        if let Err(error) = self.life.stage().admit(ask) {
            return self.refuse(asker, refused(Kind::BadState, "request", error.to_string()));
        }
        let answer = match op {
            Op::Create(create) => self.create(asker, create),
            Op::Start(_) => self.start(asker),
            Op::Kill(kill) => self.kill(kill),
            Op::Exec(exec) => self.exec(asker, exec, fds),
            Op::KillExec(kill) => self.kill_exec(&kill),
            Op::Resize(resize) => self.resize(&resize),
            Op::ReopenLog(_) => self.reopen_log(asker),
            Op::Attach(attach) => self.attach(attach, fds),
            Op::State(_) => self.state(),
            Op::Collect(_) => self.collect(),
        };
        match answer {
            Ok(Some((result, fds))) => self.links.respond(asker, result, fds),
            Ok(None) => {}
            Err(refusal) => self.refuse(asker, refusal),
        }
    }

    fn create(&mut self, asker: Asker, create: Create) -> Answer {
        let request = create::Request::parse(&create).map_err(|error| create_refusal(&error))?;
        let config = create.stdio.unwrap_or_default();
        let begun = request
            .site()
            .make_dirs()
            .map_err(|error| create_refusal(&error))
            .and_then(|dir| {
                let stdio = Stdio::prepare(&config, request.stdio_owner(), &dir)
                    .map_err(|error| stdio_refusal(&error))?;
                let ends = stdio
                    .child_ends()
                    .ok_or_else(|| stdio_refusal(&StdioError::Ended))?;
                let worker =
                    create::begin(&request, &ends).map_err(|error| create_refusal(&error))?;
                Ok((worker, stdio))
            });
        let (worker, stdio) = match begun {
            Ok(begun) => begun,
            Err(refusal) => {
                self.take_back(request.site().clone());
                return Err(refusal);
            }
        };
        self.failed = None;
        self.id.clone_from(&create.id);
        let kept = Kept {
            site: request.site().clone(),
            filter: create.seccomp_filter,
            filter_flags: create.seccomp_flags,
            record: create.record,
            exit_record: PathBuf::from(create.exit_record),
        };
        self.life = Life::Creating(Box::new(Creating {
            kept,
            request,
            worker,
            stdio,
            asker,
            reaped: Vec::new(),
            cancelled: false,
        }));
        Ok(None)
    }

    fn start(&mut self, asker: Asker) -> Answer {
        let Life::Live(live) = &mut self.life else {
            return say_done();
        };
        // Before init can go on, so that no program ends before it started.
        let started_at = now();
        create::start(&live.kept.site).map_err(|error| create_refusal(&error))?;
        live.started_at = started_at;
        live.phase = match std::mem::replace(&mut live.phase, Phase::Running) {
            Phase::Created { report } => Phase::Starting {
                report,
                asker: Some(asker),
            },
            other @ (Phase::Starting { .. } | Phase::Running | Phase::Stopping { .. }) => other,
        };
        if let Life::Live(live) = &self.life
            && let Phase::Starting { report, .. } = &live.phase
        {
            self.watch_report(report)
                .map_err(|error| refused(Kind::Internal, "start", chain(&error)))?;
        }
        Ok(None)
    }

    fn kill(&mut self, kill: Kill) -> Answer {
        if !(1..=64).contains(&kill.signal) {
            let text = format!("{} is no signal number", kill.signal);
            return Err(refused(Kind::Invalid, "request", text));
        }
        let site = match &mut self.life {
            Life::Creating(creating) => {
                creating.cancelled = true;
                creating.worker.kill();
                return say_done();
            }
            Life::Live(live) if !kill.all => return signal(&live.pidfd, kill.signal),
            Life::Live(live) => &live.kept.site,
            Life::Empty | Life::Ended(_) => return say_done(),
        };
        if kill.signal == libc::SIGKILL {
            let text = |error| refused(Kind::Internal, "kill", chain(&error));
            site.cgroup().kill().map_err(text)?;
        } else {
            site.cgroup().signal(kill.signal);
        }
        say_done()
    }

    fn exec(&mut self, asker: Asker, exec: Exec, fds: Vec<OwnedFd>) -> Answer {
        let Life::Live(live) = &self.life else {
            return say_done();
        };
        if exec.exec_id.is_empty() || self.execs.contains_key(&exec.exec_id) {
            let text = format!("exec id {:?} is empty or in use", exec.exec_id);
            return Err(refused(Kind::Invalid, "request", text));
        }
        spare_descriptors(&self.epoll)?;
        let mut fds = fds.into_iter();
        let descriptors = exec::Descriptors {
            stdin: take(&mut fds, exec.stdin && !exec.tty, "stdin")?,
            stdout: take(&mut fds, exec.stdout && !exec.tty, "stdout")?,
            stderr: take(&mut fds, exec.stderr && !exec.tty, "stderr")?,
        };
        let request = exec::ExecRequest {
            args: exec.args,
            tty: exec.tty,
        };
        let spawned =
            exec::spawn(&live.context, &request, descriptors).map_err(|error| Refusal {
                errno: error.errno(),
                ..refused(error.kind(), error.step().name(), chain(&error))
            })?;
        let mut handed = Vec::new();
        if let Some(master) = &spawned.pty_master {
            handed.push(
                master
                    .try_clone()
                    .map_err(|error| broken("dup pty", &error))?,
            );
        }
        let started = response::Result::ExecStarted(ExecStarted { pid: spawned.pid });
        let running = Running {
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            master: spawned.pty_master,
            bound_to: exec.kill_on_disconnect.then_some(asker.link),
        };
        self.execs.insert(exec.exec_id, running);
        Ok(Some((started, handed)))
    }

    fn found(&self, id: &str) -> Result<&Running, Refusal> {
        let missing = || refused(Kind::NotFound, "request", format!("no exec {id:?}"));
        self.execs.get(id).ok_or_else(missing)
    }

    fn kill_exec(&mut self, kill: &KillExec) -> Answer {
        if !(1..=64).contains(&kill.signal) {
            let text = format!("{} is no signal number", kill.signal);
            return Err(refused(Kind::Invalid, "request", text));
        }
        let exec = self.found(&kill.exec_id)?;
        if kill.group {
            return sent(exec.signal_group(kill.signal));
        }
        signal(&exec.pidfd, kill.signal)
    }

    fn resize(&mut self, resize: &Resize) -> Answer {
        let (columns, rows) = (resize.columns, resize.rows);
        let resized = if resize.exec_id.is_empty() {
            let Life::Live(live) = &self.life else {
                return say_done();
            };
            live.stdio.resize(columns, rows)
        } else {
            match &self.found(&resize.exec_id)?.master {
                Some(master) => resize_pty(master.as_fd(), columns, rows),
                None => Err(StdioError::NoTerminal),
            }
        };
        resized.map_err(|error| stdio_refusal(&error))?;
        say_done()
    }

    fn reopen_log(&mut self, asker: Asker) -> Answer {
        let Life::Live(live) = &mut self.life else {
            return say_done();
        };
        let ticket = live
            .stdio
            .reopen_log()
            .map_err(|error| stdio_refusal(&error))?;
        live.reopening.insert(ticket, asker);
        Ok(None)
    }

    fn attach(&mut self, attach: Attach, fds: Vec<OwnedFd>) -> Answer {
        let Life::Live(live) = &mut self.life else {
            return say_done();
        };
        spare_descriptors(&self.epoll)?;
        let mut fds = fds.into_iter();
        let client = AttachDescriptors {
            stdin: take(&mut fds, attach.stdin, "stdin")?,
            stdout: take(&mut fds, attach.stdout, "stdout")?,
            stderr: take(&mut fds, attach.stderr, "stderr")?,
        };
        live.stdio
            .attach(client)
            .map_err(|error| stdio_refusal(&error))?;
        say_done()
    }

    fn state(&self) -> Answer {
        use state_reply::Status;
        let mut reply = StateReply {
            id: self.id.clone(),
            shim_pid: i32::try_from(std::process::id()).unwrap_or(0),
            shim_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..StateReply::default()
        };
        let mut fds = Vec::new();
        let status = match self.life.stage() {
            Stage::Empty | Stage::Creating => Status::Empty,
            Stage::Created | Stage::Starting => Status::Created,
            // Until the log is drained the exit is not yet to be known.
            Stage::Running | Stage::Stopping => Status::Running,
            Stage::Stopped => Status::Stopped,
        };
        reply.set_status(status);
        match &self.life {
            Life::Empty => {}
            Life::Creating(creating) => reply.record.clone_from(&creating.kept.record),
            Life::Live(live) => {
                reply.record.clone_from(&live.kept.record);
                reply.pid = live.pid;
                reply.started_at = live.started_at;
                fds.push(
                    live.pidfd
                        .try_clone()
                        .map_err(|error| broken("dup pidfd", &error))?,
                );
            }
            Life::Ended(ended) => {
                reply.record.clone_from(&ended.kept.record);
                reply.started_at = ended.started_at;
                reply.exit = Some(ended.exit);
            }
        }
        Ok(Some((response::Result::State(reply), fds)))
    }

    fn collect(&mut self) -> Answer {
        let errors = self.leave_nothing();
        if !errors.is_empty() {
            let text: Vec<String> = errors.iter().map(|error| chain(error)).collect();
            return Err(refused(Kind::Internal, "collect", text.join("; ")));
        }
        self.collected = true;
        say_done()
    }
}

/// Sends a signal.
fn signal(pidfd: &OwnedFd, signal: i32) -> Answer {
    sent(sys::pidfd_signal(pidfd.as_fd(), signal))
}

/// What came of a signal; a process that is gone needs none.
fn sent(outcome: std::io::Result<()>) -> Answer {
    match outcome {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(broken("signal", &error)),
        _ => say_done(),
    }
}
