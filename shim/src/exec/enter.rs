//! The child's side: from the shim's namespaces into the container's.
//!
//! Straight-line system calls, a step each. Nothing here allocates, panics or
//! returns to the shim's code; what goes wrong is written to the status pipe.

#![allow(unsafe_code, reason = "fork, raw system calls and execve")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::credentials;
use super::error::Step;
use super::plan::Plan;

/// Exit status of a child that could not execve.
const FAILED: i32 = 127;
/// What a message on the status pipe is about, if not about a failed [`Step`].
pub(super) const PROCESS_ID: u32 = 0;

/// A step that failed, in a form that fits through the status pipe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) errno: i32,
}

/// What of a system call is not an error is not needed.
pub(super) fn check(step: Step, returned: libc::c_long) -> Result<(), Failure> {
    if returned >= 0 {
        Ok(())
    } else {
        Err(last(step))
    }
}

fn last(step: Step) -> Failure {
    Failure {
        step,
        errno: errno(),
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

pub(super) fn prctl(step: Step, option: i32, second: u64, third: u64) -> Result<(), Failure> {
    // SAFETY: the options used here take integers only.
    check(
        step,
        unsafe { libc::prctl(option, second, third, 0_u64, 0_u64) }.into(),
    )
}

/// A duplicate, closed on execve, whose number is at least `lowest`.
pub(super) fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let duplicate = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

/// A pidfd of a child that has not been reaped.
pub(super) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0);
    let fd = fd.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Forks the outer child, which runs [`outer`] and never returns here.
///
/// By the system call and not by fork(3): that would take the allocator's
/// locks, which the log thread may hold for as long as it waits for the CPU.
pub(super) fn fork(plan: &Plan<'_>, status: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: without CLONE_VM the child has a copy of this thread's memory,
    // and runs nothing but this module.
    match unsafe { clone(libc::SIGCHLD) } {
        0 => outer(plan, status.as_raw_fd()),
        pid if pid > 0 => Ok(pid),
        _ => Err(io::Error::last_os_error()),
    }
}

/// # Safety
/// The child must neither allocate nor return: other threads don't exist in
/// it, but the locks they held do.
unsafe fn clone(flags: i32) -> i32 {
    // SAFETY: no pointers are passed; the caller keeps to the above.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) };
    i32::try_from(pid).unwrap_or(-1)
}

fn outer(plan: &Plan<'_>, status: RawFd) -> ! {
    let inner = prepare(plan).and_then(|()| {
        // SAFETY: as in `fork`. CLONE_PARENT: a child of the shim.
        match unsafe { clone(libc::CLONE_PARENT) } {
            0 => {
                let failure = inner(plan);
                tell(status, failure.step as u32, failure.errno);
                exit(FAILED)
            }
            pid if pid > 0 => Ok(pid),
            _ => Err(last(Step::PidNamespace)),
        }
    });
    match inner {
        Ok(pid) => {
            tell(status, PROCESS_ID, pid);
            exit(0)
        }
        Err(failure) => {
            tell(status, failure.step as u32, failure.errno);
            exit(FAILED)
        }
    }
}

fn tell(status: RawFd, what: u32, value: i32) {
    let mut message = [0; 8];
    let (head, tail) = message.split_at_mut(4);
    head.copy_from_slice(&what.to_ne_bytes());
    tail.copy_from_slice(&value.to_ne_bytes());
    // Less than PIPE_BUF: one piece. A shim that is gone needs no message.
    // SAFETY: pointer and length are of one array.
    unsafe { libc::write(status, message.as_ptr().cast(), message.len()) };
}

fn exit(code: i32) -> ! {
    // SAFETY: ends the process, without the shim's exit handlers.
    unsafe { libc::_exit(code) }
}

fn prepare(plan: &Plan<'_>) -> Result<(), Failure> {
    let context = plan.context;
    let user = &context.credentials;
    // First: nothing of the container is to look into this copy of the shim.
    prctl(Step::Dumpable, libc::PR_SET_DUMPABLE, 0, 0)?;
    reset_signals()?;
    // While /proc and the limits' privileges are still the host's.
    join_cgroups(plan)?;
    set_oom_score_adj(&context.oom_score_adj)?;
    for (resource, limit) in &context.rlimits {
        set_rlimit(*resource, limit)?;
    }
    let label = context
        .label
        .as_ref()
        .map(|label| open_label(label.files))
        .transpose()?;
    enter_namespaces(plan)?;
    set_descriptors(plan)?;
    // SAFETY: an integer only; can't fail.
    unsafe { libc::umask(context.umask) };
    // As root, for a directory above may be closed to the user; as the user
    // where root is the one who may not (NFS).
    let entered = chdir(&context.cwd);
    user.take_ids()?;
    match entered {
        Err(Failure {
            errno: libc::EACCES | libc::EPERM,
            ..
        }) => chdir(&context.cwd)?,
        entered => entered?,
    }
    verify_directory()?;
    if let (Some(fd), Some(label)) = (label, &context.label) {
        write_label(fd, &label.value)?;
    }
    if let Some(name) = &context.keyring {
        credentials::join_session_keyring(name)?;
    }
    user.drop_capabilities()?;
    user.set_no_new_privileges()
}

/// The process itself: in the container's PID namespace, and thus the first
/// that the container can see. Returns only on failure.
fn inner(plan: &Plan<'_>) -> Failure {
    let ready = new_session(plan.tty).and_then(|()| plan.context.credentials.load_filter());
    match ready {
        Ok(()) => execute(plan),
        Err(failure) => failure,
    }
}

/// Handlers and what Rust's runtime ignores (SIGPIPE) must not be inherited,
/// nor the mask that signalfd needs.
fn reset_signals() -> Result<(), Failure> {
    /// Larger than any machine's `struct sigaction` of the kernel; all zeroes
    /// is the default action.
    const DEFAULT: [u64; 8] = [0; 8];
    let empty: u64 = 0;
    for signal in 1..=64 {
        // Not by sigaction(3), which refuses the two signals that libc keeps
        // for itself and that a parent may have ignored all the same. Fails
        // for SIGKILL and SIGSTOP.
        // SAFETY: the kernel reads its struct at the first pointer, writes nothing.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: the kernel reads one set of 64 signals, writes nothing.
    check(Step::Signals, unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    })
}

fn join_cgroups(plan: &Plan<'_>) -> Result<(), Failure> {
    for target in &plan.cgroups {
        let joined = write_self(target.procs.as_raw_fd());
        match (joined, &target.moved) {
            // A group with controllers for its children takes no process; one
            // that was removed neither. Init's own is then the place.
            (Err(libc::EBUSY | libc::ENOENT | libc::ENODEV), Some(moved)) => {
                write_self(moved.as_raw_fd())
            }
            (joined, _) => joined,
        }
        .map_err(|errno| Failure {
            step: Step::Cgroup,
            errno,
        })?;
    }
    Ok(())
}

/// "0" is the writer.
fn write_self(procs: RawFd) -> Result<(), i32> {
    // SAFETY: one byte of a literal.
    let written = unsafe { libc::write(procs, c"0".as_ptr().cast(), 1) };
    if written == 1 { Ok(()) } else { Err(errno()) }
}

fn set_oom_score_adj(value: &[u8]) -> Result<(), Failure> {
    let step = Step::OomScoreAdj;
    let fd = open(c"/proc/self/oom_score_adj", libc::O_RDWR, step)?;
    let mut current = [0_u8; 8];
    // SAFETY: pointer and length are of one array.
    let read = unsafe { libc::read(fd, current.as_mut_ptr().cast(), current.len()) };
    let current = usize::try_from(read)
        .ok()
        .and_then(|read| current.get(..read));
    let result = if current == Some(value) {
        // Writing it, though the same, may need a privilege.
        Ok(())
    } else {
        // SAFETY: pointer and length are of one slice.
        check(
            step,
            unsafe { libc::pwrite(fd, value.as_ptr().cast(), value.len(), 0) } as _,
        )
    };
    close(fd);
    result
}

fn set_rlimit(resource: i32, limit: &libc::rlimit64) -> Result<(), Failure> {
    // SAFETY: reads one rlimit64, writes none.
    check(Step::Rlimit, unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::from_ref(limit),
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })
}

/// The file of the host's /proc: the container's may be another (and it is
/// `self` who must write, so the shim can't have opened it).
fn open_label(files: &[&CStr]) -> Result<RawFd, Failure> {
    let mut result = Err(Failure {
        step: Step::LsmLabel,
        errno: libc::ENOENT,
    });
    for file in files {
        result = open(file, libc::O_WRONLY, Step::LsmLabel);
        if !matches!(
            result,
            Err(Failure {
                errno: libc::ENOENT,
                ..
            })
        ) {
            break;
        }
    }
    result
}

fn write_label(fd: RawFd, value: &[u8]) -> Result<(), Failure> {
    // SAFETY: pointer and length are of one slice.
    let written = unsafe { libc::write(fd, value.as_ptr().cast(), value.len()) };
    check(Step::LsmLabel, written as _)?;
    close(fd);
    Ok(())
}

fn open(path: &CStr, flags: i32, step: Step) -> Result<RawFd, Failure> {
    // SAFETY: the path ends in NUL.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
    check(step, fd.into()).map(|()| fd)
}

fn close(fd: RawFd) {
    // SAFETY: opened by this module, used by nobody afterwards.
    unsafe { libc::close(fd) };
}

/// All at once: the kernel then checks against the new user namespace, and no
/// moment exists in which this process is in some of them only.
fn enter_namespaces(plan: &Plan<'_>) -> Result<(), Failure> {
    let context = plan.context;
    if context.namespaces == 0 {
        return Ok(());
    }
    // SAFETY: integers only.
    let joined = unsafe { libc::setns(context.pidfd.as_raw_fd(), context.namespaces) };
    check(Step::Setns, joined.into())?;
    prctl(Step::Dumpable, libc::PR_SET_DUMPABLE, 0, 0)?;
    if context.namespaces & libc::CLONE_NEWUSER != 0 {
        credentials::become_mapped_root()?;
    }
    Ok(())
}

fn set_descriptors(plan: &Plan<'_>) -> Result<(), Failure> {
    let step = Step::Descriptors;
    for (number, fd) in (0_i32..).zip(&plan.stdio) {
        // SAFETY: integers only; the target numbers are this process' own.
        check(step, unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())?;
    }
    // SAFETY: integers only.
    check(step, unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
}

fn chdir(path: &CStr) -> Result<(), Failure> {
    // SAFETY: the path ends in NUL.
    check(
        Step::WorkingDirectory,
        unsafe { libc::chdir(path.as_ptr()) }.into(),
    )
}

/// A path like /proc/self/fd/7 may have led out of the container's root. The
/// kernel then reports a directory that begins with "(unreachable)".
fn verify_directory() -> Result<(), Failure> {
    let step = Step::WorkingDirectory;
    let mut path = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: pointer and length are of one array.
    check(step, unsafe {
        libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len())
    })?;
    if path.first() == Some(&b'/') {
        Ok(())
    } else {
        Err(Failure {
            step,
            errno: libc::ENOENT,
        })
    }
}

fn new_session(tty: bool) -> Result<(), Failure> {
    // SAFETY: takes nothing.
    check(Step::Session, unsafe { libc::setsid() }.into())?;
    if tty {
        // SAFETY: takes an integer.
        let taken = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
        check(Step::ControllingTerminal, taken.into())?;
    }
    Ok(())
}

/// Tries all candidates as execvp(3) does, but runs no script without `#!`.
fn execute(plan: &Plan<'_>) -> Failure {
    let mut errno = libc::ENOENT;
    for candidate in &plan.candidates {
        // SAFETY: NUL-terminated strings in NULL-terminated arrays.
        unsafe { libc::execve(candidate.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr()) };
        match self::errno() {
            // Found but closed: said if nothing better comes.
            libc::EACCES => errno = libc::EACCES,
            libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ESTALE | libc::ETIMEDOUT => {}
            other => {
                return Failure {
                    step: Step::Execve,
                    errno: other,
                };
            }
        }
    }
    Failure {
        step: Step::Execve,
        errno,
    }
}
