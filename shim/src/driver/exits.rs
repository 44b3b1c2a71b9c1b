//! What comes from the container: the worker's end, the report of execve,
//! exits, the log.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use longshore_proto::shim::v1::{
    Created, Error as Refusal, ExecExited, Exited, Started, error::Kind, event, response,
};

use super::life::{Creating, Ended, Life, Live, Phase};
use super::links::Asker;
use super::requests::{refusal, stdio_refusal};
use super::{Driver, DriverError, INIT, REPORT, STDIO, complain, system};
use crate::create::{self, EXIT_NOT_EXECUTABLE, Failure, Made};
use crate::exec;
use crate::exit_record::{ExitRecord, Status, VERSION, now};
use crate::io::Event;
use crate::oom::OomWatch;
use crate::{reaper, sys};

/// How long the log may take for what is in the pipes when init is dead.
const DRAIN: Duration = Duration::from_secs(2);
/// How long killed processes may take to be reaped before their cgroup goes.
const SETTLE: Duration = Duration::from_millis(500);

impl Driver {
    /// Reaps everybody who is dead.
    pub(super) fn children(&mut self) -> Result<(), DriverError> {
        while let Some(dead) = reaper::next().map_err(system("waitid"))? {
            let pid = dead.pid();
            // While init is a zombie its cgroup can't be removed by anybody.
            let oom_killed = match &self.life {
                Life::Live(live) if live.pid == pid => live.oom.killed(),
                Life::Empty | Life::Creating(_) | Life::Live(_) | Life::Ended(_) => false,
            };
            let status = reaper::reap(dead).map_err(system("waitpid"))?;
            match &mut self.life {
                Life::Creating(creating) if creating.worker.pid() == pid => self.worker_ended(),
                Life::Creating(creating) => creating.reaped.push((pid, status)),
                Life::Live(live) if live.pid == pid => self.init_exited(status, oom_killed),
                Life::Empty | Life::Live(_) | Life::Ended(_) => self.exec_exited(pid, status),
            }
        }
        Ok(())
    }

    fn worker_ended(&mut self) {
        let Life::Creating(creating) = std::mem::replace(&mut self.life, Life::Empty) else {
            return;
        };
        let asker = creating.asker;
        let outcome = {
            let Creating {
                kept,
                request,
                worker,
                mut stdio,
                reaped,
                cancelled,
                ..
            } = *creating;
            let made = worker.outcome(&request).and_then(|made| {
                let died = reaped.iter().find(|(pid, _)| *pid == made.pid);
                match died {
                    _ if cancelled => Err(failure("worker", "killed on request".to_owned(), 0)),
                    Some((_, status)) => Err(failure("init", format!("died with {status:?}"), 0)),
                    None => Ok(made),
                }
            });
            match made.and_then(|made| settle_in(&kept, made, &mut stdio)) {
                Ok((pidfd, context, oom, pid, report)) => Ok(Box::new(Live {
                    kept,
                    pid,
                    pidfd,
                    context,
                    oom,
                    stdio,
                    reopening: std::collections::HashMap::new(),
                    started_at: 0,
                    phase: Phase::Created { report },
                })),
                Err(failure) => Err((kept, failure)),
            }
        };
        match outcome {
            Ok(live) => self.created(live, asker),
            Err((kept, failure)) => {
                self.take_back(kept.site);
                let kind = if failure.invalid {
                    Kind::Invalid
                } else {
                    Kind::Internal
                };
                self.refuse(asker, refusal(kind, &failure));
            }
        }
        sys::trim_heap();
        sys::trim_stack();
    }

    fn created(&mut self, live: Box<Live>, asker: Asker) {
        let watched = self
            .watch(&live.pidfd, INIT)
            .and_then(|()| self.watch(live.stdio.events(), STDIO));
        let pidfd = watched.and_then(|()| live.pidfd.try_clone().map_err(system("dup pidfd")));
        match pidfd {
            Ok(pidfd) => {
                let created = response::Result::Created(Created { pid: live.pid });
                self.life = Life::Live(live);
                self.links.respond(asker, created, vec![pidfd]);
            }
            Err(error) => {
                self.take_back(live.kept.site);
                let text = crate::error::chain(&error);
                self.refuse(asker, refusal(Kind::Internal, &failure("watch", text, 0)));
            }
        }
    }

    /// Undoes a Create that failed.
    ///
    /// Its processes are killed as our children first: libcontainer's first
    /// process makes the cgroups itself, and before it has joined one no
    /// cgroup leads to it. There is no other child as long as there is no
    /// container.
    pub(super) fn take_back(&mut self, site: create::Site) {
        let deadline = Instant::now() + SETTLE;
        loop {
            let children = reaper::children();
            for pid in &children {
                // Not reaped, so the pid is its own; dead is as good.
                sys::kill(*pid, libc::SIGKILL).ok();
            }
            if let Err(error) = self.children() {
                complain(&error);
            }
            if children.is_empty() || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        for error in create::undo_failed(&site) {
            complain(&error);
        }
        self.failed = Some(site);
    }

    /// Init's report has something to read, or has ended.
    pub(super) fn exec_reported(&mut self) {
        let Life::Live(live) = &mut self.life else {
            return;
        };
        let Phase::Starting { report, asker } = &mut live.phase else {
            return;
        };
        let Some(outcome) = report.poll() else { return };
        epoll_delete(&self.epoll, report);
        let asker = asker.take();
        let started = response::Result::Started(Started {
            started_at: live.started_at,
        });
        let answer = match outcome {
            Ok(()) => {
                live.phase = Phase::Running;
                started
            }
            // Init ends itself; its exit follows.
            Err(failure) => response::Result::Error(not_executable(&failure)),
        };
        if let Some(asker) = asker {
            self.answer(asker, answer);
        }
    }

    fn init_exited(&mut self, status: Status, oom_killed: bool) {
        // A program that ended at once: its start is answered before its end.
        self.exec_reported();
        let Life::Live(live) = &mut self.life else {
            return;
        };
        let status = match live.phase {
            // Not even the report could be made: a filter, or a kill.
            Phase::Starting { .. } if status.signal == 0 => Status {
                code: EXIT_NOT_EXECUTABLE,
                signal: 0,
            },
            Phase::Created { .. }
            | Phase::Starting { .. }
            | Phase::Running
            | Phase::Stopping { .. } => status,
        };
        let exit = Exited {
            code: status.code,
            signal: status.signal,
            oom_killed,
            started_at: live.started_at,
            // The clock may have been set back meanwhile.
            finished_at: now().max(live.started_at),
        };
        let unwatched = live.pidfd.as_fd();
        epoll_delete(&self.epoll, unwatched);
        // Without a PID namespace of its own, init's death kills nobody else.
        if let Err(error) = live.kept.site.cgroup().kill() {
            complain(&error);
        }
        let record = ExitRecord {
            version: VERSION,
            id: self.id.clone(),
            pid: live.pid,
            code: exit.code,
            signal: exit.signal,
            oom_killed,
            started_at: exit.started_at,
            finished_at: exit.finished_at,
        };
        let written = record.write(&live.kept.exit_record);
        if let Err(error) = &written {
            complain(error);
        }
        let unwritten = written.is_err().then_some(record);
        live.phase = Phase::Stopping { exit, unwritten };
        if !live.stdio.finish(DRAIN) {
            self.drained();
        }
    }

    /// Answers of the log thread.
    pub(super) fn stdio_events(&mut self) {
        let Life::Live(live) = &mut self.life else {
            return;
        };
        let mut finished = false;
        let mut answers = Vec::new();
        for event in live.stdio.take_events() {
            match event {
                Event::Finished { .. } => finished = true,
                Event::LogReopened { ticket, result } => {
                    let result = match result {
                        Ok(()) => super::requests::done(),
                        Err(error) => response::Result::Error(stdio_refusal(&error)),
                    };
                    answers.extend(live.reopening.remove(&ticket).map(|asker| (asker, result)));
                }
            }
        }
        for (asker, result) in answers {
            self.answer(asker, result);
        }
        if finished {
            self.drained();
        }
    }

    /// The log has all of it: now the exit may be known.
    fn drained(&mut self) {
        let Life::Live(live) = std::mem::replace(&mut self.life, Life::Empty) else {
            return;
        };
        self.unwatch(live.stdio.events());
        let mut live = *live;
        for asker in std::mem::take(&mut live.reopening).into_values() {
            self.refuse(asker, stdio_refusal(&crate::io::StdioError::Ended));
        }
        let Phase::Stopping { exit, unwritten } = live.phase else {
            // The log ended on its own; the container goes on.
            self.life = Life::Live(Box::new(live));
            return;
        };
        let event = event::Kind::Exited(exit);
        let (kept, started_at) = (live.kept, live.started_at);
        self.life = Life::Ended(Box::new(Ended {
            kept,
            started_at,
            exit,
            unwritten,
        }));
        self.links.broadcast(&event);
    }

    /// A child that is neither worker nor init: an exec, or an orphan.
    fn exec_exited(&mut self, pid: i32, status: Status) {
        let Some(id) = self
            .execs
            .iter()
            .find_map(|(id, exec)| (exec.pid == pid).then(|| id.clone()))
        else {
            return;
        };
        self.execs.remove(&id);
        self.links.broadcast(&event::Kind::ExecExited(ExecExited {
            exec_id: id,
            code: status.code,
            signal: status.signal,
            finished_at: now(),
        }));
    }

    /// Begins to watch for init's report.
    pub(super) fn watch_report(&self, report: &create::ExecReport) -> Result<(), DriverError> {
        self.watch(report, REPORT)
    }
}

fn epoll_delete(epoll: &OwnedFd, fd: impl AsFd) {
    // Not watched is as good.
    rustix::event::epoll::delete(epoll, fd).ok();
}

fn failure(stage: &str, message: String, errno: i32) -> Failure {
    Failure {
        stage: stage.to_owned(),
        message,
        errno,
        invalid: false,
    }
}

fn not_executable(failure: &Failure) -> Refusal {
    let kind = if failure.stage == "execve" {
        Kind::NotExecutable
    } else {
        Kind::Internal
    };
    refusal(kind, failure)
}

type Settled = (OwnedFd, exec::Context, OomWatch, i32, create::ExecReport);

/// What the shim takes hold of once there is an init.
fn settle_in(
    kept: &super::life::Kept,
    made: Made,
    stdio: &mut crate::io::Stdio,
) -> Result<Settled, Failure> {
    let system = |stage: &str| {
        let stage = stage.to_owned();
        move |error: std::io::Error| {
            failure(&stage, error.to_string(), error.raw_os_error().unwrap_or(0))
        }
    };
    let pid = rustix::process::Pid::from_raw(made.pid)
        .ok_or_else(|| failure("pidfd_open", "no process id".to_owned(), 0))?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(|errno| system("pidfd_open")(errno.into()))?;
    let context = exec::Context::capture(exec::Capture {
        pid: made.pid,
        pidfd: pidfd.try_clone().map_err(system("dup pidfd"))?,
        process: &made.process,
        seccomp_filter: &kept.filter,
        seccomp_flags: kept.filter_flags,
        keyring: made.keyring.as_deref(),
    })
    .map_err(|error| failure("capture init", crate::error::chain(&error), error.errno()))?;
    let oom = OomWatch::new(kept.site.cgroup()).map_err(system("open memory.events"))?;
    // Last: from here on the process has two threads, and no worker may be
    // forked any more.
    stdio
        .start_log_thread()
        .map_err(|error| failure("stdio", crate::error::chain(&error), error.errno()))?;
    Ok((pidfd, context, oom, made.pid, made.exec))
}
