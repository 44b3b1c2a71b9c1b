//! Why a process could not be started in the container.

use std::fmt;
use std::io;

use longshore_proto::shim::v1::error::Kind;

/// The step that failed, in the order in which they happen.
///
/// The child reports a step as a number over a pipe, for it must not allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(
    missing_docs,
    reason = "each is named after the call or file it stands for"
)]
pub enum Step {
    Arguments = 1,
    Pty,
    Stdio,
    Fork,
    Dumpable,
    Signals,
    Cgroup,
    OomScoreAdj,
    Rlimit,
    LsmLabel,
    Setns,
    MappedRoot,
    Descriptors,
    TtyOwner,
    WorkingDirectory,
    Groups,
    Ids,
    Capabilities,
    AmbientCapabilities,
    NoNewPrivileges,
    Keyring,
    PidNamespace,
    Session,
    ControllingTerminal,
    Seccomp,
    Execve,
    /// The child ended before it could say why.
    Died,
    /// The child said nothing in the time it had.
    TimedOut,
}

impl Step {
    const ALL: [Self; 28] = [
        Self::Arguments,
        Self::Pty,
        Self::Stdio,
        Self::Fork,
        Self::Dumpable,
        Self::Signals,
        Self::Cgroup,
        Self::OomScoreAdj,
        Self::Rlimit,
        Self::LsmLabel,
        Self::Setns,
        Self::MappedRoot,
        Self::Descriptors,
        Self::TtyOwner,
        Self::WorkingDirectory,
        Self::Groups,
        Self::Ids,
        Self::Capabilities,
        Self::AmbientCapabilities,
        Self::NoNewPrivileges,
        Self::Keyring,
        Self::PidNamespace,
        Self::Session,
        Self::ControllingTerminal,
        Self::Seccomp,
        Self::Execve,
        Self::Died,
        Self::TimedOut,
    ];

    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u32 == number)
    }

    /// The name used in `Error.stage` of the protocol.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Arguments => "arguments",
            Self::Pty => "allocate pty",
            Self::Stdio => "prepare stdio",
            Self::Fork => "fork",
            Self::Dumpable => "prctl PR_SET_DUMPABLE",
            Self::Signals => "reset signals",
            Self::Cgroup => "join cgroup",
            Self::OomScoreAdj => "write oom_score_adj",
            Self::Rlimit => "prlimit",
            Self::LsmLabel => "set LSM label",
            Self::Setns => "setns",
            Self::MappedRoot => "become root of the user namespace",
            Self::Descriptors => "set up descriptors",
            Self::TtyOwner => "chown pty",
            Self::WorkingDirectory => "enter working directory",
            Self::Groups => "setgroups",
            Self::Ids => "setresuid",
            Self::Capabilities => "set capabilities",
            Self::AmbientCapabilities => "set ambient capabilities",
            Self::NoNewPrivileges => "prctl PR_SET_NO_NEW_PRIVS",
            Self::Keyring => "join session keyring",
            Self::PidNamespace => "enter PID namespace",
            Self::Session => "setsid",
            Self::ControllingTerminal => "set controlling terminal",
            Self::Seccomp => "load seccomp filter",
            Self::Execve => "execve",
            Self::Died => "wait for the child",
            Self::TimedOut => "wait for execve",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A failed exec: the step and the errno it failed with.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct ExecError {
    step: Step,
    #[source]
    source: io::Error,
}

impl ExecError {
    pub(super) fn new(step: Step, source: impl Into<io::Error>) -> Self {
        Self {
            step,
            source: source.into(),
        }
    }

    pub(super) fn from_errno(step: Step, errno: i32) -> Self {
        Self {
            step,
            source: io::Error::from_raw_os_error(errno),
        }
    }

    /// Where it failed.
    #[must_use]
    pub fn step(&self) -> Step {
        self.step
    }

    /// errno(3) of the failing call, 0 where there is none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    /// What the daemon is told: a program that can't be executed and a
    /// container that is no longer there are the caller's to hear, all else
    /// is internal.
    #[must_use]
    pub fn kind(&self) -> Kind {
        const NOT_A_PROGRAM: [i32; 7] = [
            libc::ENOENT,
            libc::EACCES,
            libc::ENOEXEC,
            libc::ENOTDIR,
            libc::EISDIR,
            libc::ELOOP,
            libc::ENAMETOOLONG,
        ];
        match (self.step, self.errno()) {
            (Step::Arguments, _) => Kind::Invalid,
            (Step::Execve | Step::WorkingDirectory, errno) if NOT_A_PROGRAM.contains(&errno) => {
                Kind::NotExecutable
            }
            // pidfds of a process that is gone, a PID namespace without its init.
            (Step::Setns | Step::Pty, libc::ESRCH) | (Step::PidNamespace, libc::ENOMEM) => {
                Kind::BadState
            }
            _ => Kind::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_pipe() {
        for step in Step::ALL {
            assert_eq!(Step::from_number(step as u32), Some(step));
        }
        assert_eq!(Step::from_number(0), None);
        assert_eq!(Step::from_number(Step::TimedOut as u32 + 1), None);
    }

    #[test]
    fn kinds() {
        let kind = |step, errno| ExecError::from_errno(step, errno).kind();
        assert_eq!(kind(Step::Execve, libc::ENOENT), Kind::NotExecutable);
        assert_eq!(kind(Step::Execve, libc::ENOEXEC), Kind::NotExecutable);
        assert_eq!(
            kind(Step::WorkingDirectory, libc::ENOENT),
            Kind::NotExecutable
        );
        assert_eq!(kind(Step::Execve, libc::ENOMEM), Kind::Internal);
        assert_eq!(kind(Step::Seccomp, libc::EACCES), Kind::Internal);
        assert_eq!(kind(Step::Setns, libc::ESRCH), Kind::BadState);
    }
}
