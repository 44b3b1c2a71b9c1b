//! The container, stage by stage, with what each stage owns.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use longshore_proto::shim::v1::Exited;

use super::links::Asker;
use crate::create::{ExecReport, Request, Site, Worker};
use crate::exec;
use crate::exit_record::{ExitRecord, Status};
use crate::io::{Stdio, Ticket};
use crate::oom::OomWatch;
use crate::state::Stage;

/// What outlives every stage but the empty one.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) site: Site,
    pub(super) filter: Vec<u8>,
    pub(super) filter_flags: u32,
    pub(super) record: Vec<u8>,
    pub(super) exit_record: PathBuf,
}

/// While the worker is at it.
#[derive(Debug)]
pub(super) struct Creating {
    pub(super) kept: Kept,
    pub(super) request: Request,
    pub(super) worker: Worker,
    pub(super) stdio: Stdio,
    pub(super) asker: Asker,
    /// Children that were reaped meanwhile: init may be among them.
    pub(super) reaped: Vec<(i32, Status)>,
    /// A kill came meanwhile: even a worker that was done with it fails.
    pub(super) cancelled: bool,
}

/// From created until the log is drained.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) kept: Kept,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) context: exec::Context,
    pub(super) oom: OomWatch,
    pub(super) stdio: Stdio,
    pub(super) reopening: HashMap<Ticket, Asker>,
    /// CLOCK_REALTIME in nanoseconds; 0: not started.
    pub(super) started_at: i64,
    pub(super) phase: Phase,
}

#[derive(Debug)]
pub(super) enum Phase {
    Created {
        report: ExecReport,
    },
    /// `asker` is `None` once it was told that execve failed.
    Starting {
        report: ExecReport,
        asker: Option<Asker>,
    },
    Running,
    Stopping {
        exit: Exited,
        unwritten: Option<ExitRecord>,
    },
}

/// Dead and reported.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) kept: Kept,
    pub(super) started_at: i64,
    pub(super) exit: Exited,
    /// The record, where it could not be written: this process alone knows.
    pub(super) unwritten: Option<ExitRecord>,
}

#[derive(Debug)]
pub(super) enum Life {
    Empty,
    Creating(Box<Creating>),
    Live(Box<Live>),
    Ended(Box<Ended>),
}

impl Life {
    pub(super) fn stage(&self) -> Stage {
        match self {
            Life::Empty => Stage::Empty,
            Life::Creating(_) => Stage::Creating,
            Life::Live(live) => match live.phase {
                Phase::Created { .. } => Stage::Created,
                Phase::Starting { .. } => Stage::Starting,
                Phase::Running => Stage::Running,
                Phase::Stopping { .. } => Stage::Stopping,
            },
            Life::Ended(_) => Stage::Stopped,
        }
    }
}

/// A process that Exec started.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) master: Option<OwnedFd>,
    /// The connection whose end ends it.
    pub(super) bound_to: Option<u64>,
}

impl Running {
    /// Signals its process group. It leads one, and as long as it is in the
    /// driver's table it is not reaped, so the number is its own.
    pub(super) fn signal_group(&self, signal: i32) -> std::io::Result<()> {
        crate::sys::kill(-self.pid, signal)
    }
}
