//! Mode `init`: PID 1 of a pod whose containers share a PID namespace. It
//! reaps orphans until it is told to end by SIGTERM. No image, no program of
//! anybody's: this binary from its sealed memfd.
//!
//! The process that the daemon starts joins the pod's namespaces and cgroups,
//! clones PID 1, and ends when that is ready. What the daemon then gets on
//! descriptor 3, a SOCK_SEQPACKET socket, is one datagram: the pid of PID 1
//! in the daemon's own PID namespace as a native i32, with a pidfd of it by
//! SCM_RIGHTS. A failure is the byte `E`, followed by errno as a native i32
//! and the name of the step in UTF-8.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, UnmountFlags,
    fsconfig_create, fsmount, fsopen,
};

use crate::bootstrap::{self, BootstrapError, SOCKET, system};
use crate::{link, reaper, sys};

/// The arguments of `init`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitOptions {
    /// Namespaces to join by path, with their kinds.
    pub net: Option<PathBuf>,
    /// IPC namespace.
    pub ipc: Option<PathBuf>,
    /// UTS namespace.
    pub uts: Option<PathBuf>,
    /// User namespace.
    pub user: Option<PathBuf>,
    /// `cgroup.procs` files to join.
    pub cgroups: Vec<PathBuf>,
}

/// The mode. Returns in the starting process once PID 1 is ready, and in PID 1
/// when it was told to end.
///
/// # Errors
/// The step that failed; the daemon was told.
pub fn run(options: &InitOptions) -> Result<(), BootstrapError> {
    sys::clear_environment().map_err(system("clear environment"))?;
    let socket = sys::inherited(SOCKET).map_err(system("take over descriptor 3"))?;
    let outcome = start(options, &socket);
    if let Err(BootstrapError::System { operation, source }) = &outcome {
        let mut message = vec![crate::pin::FAILED];
        message.extend(source.raw_os_error().unwrap_or(0).to_ne_bytes());
        message.extend(operation.as_bytes());
        link::send_bytes(socket.as_fd(), &message, &[]).ok();
    }
    outcome
}

fn start(options: &InitOptions, socket: &OwnedFd) -> Result<(), BootstrapError> {
    sys::close_all_but(&[0, 1, 2, SOCKET]).map_err(system("close descriptors"))?;
    sys::set_name(c"longshore-init");
    bootstrap::join(&options.cgroups)?;
    let spaces = open_namespaces(options)?;
    nix::unistd::setgroups(&[]).map_err(system("setgroups"))?;
    for (fd, kind) in spaces {
        setns(fd, kind).map_err(system("setns"))?;
    }
    if options.user.is_some() {
        nix::unistd::setresgid(0.into(), 0.into(), 0.into()).map_err(system("setresgid"))?;
        nix::unistd::setresuid(0.into(), 0.into(), 0.into()).map_err(system("setresuid"))?;
    }
    // Set before the clone: PID 1 ignores what it has no handler for, and
    // reads the rest from a signalfd.
    let mut mask = SigSet::all();
    mask.remove(Signal::SIGSEGV);
    mask.thread_block().map_err(system("block signals"))?;
    let (ready, told) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(system("pipe"))?;
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)
        .map_err(system("unshare PID namespace"))?;
    let mut told = Some(told);
    let pid = sys::fork(|| match told.take().map_or(Ok(()), pid_1) {
        Ok(()) => 0,
        Err(_) => 1,
    })
    .map_err(system("fork"))?;
    drop(told);
    hand_over(pid, socket, ready)
}

fn open_namespaces(options: &InitOptions) -> Result<Vec<(OwnedFd, CloneFlags)>, BootstrapError> {
    let wanted = [
        // First: it gives the right to join those that it owns.
        (&options.user, CloneFlags::CLONE_NEWUSER),
        (&options.net, CloneFlags::CLONE_NEWNET),
        (&options.ipc, CloneFlags::CLONE_NEWIPC),
        (&options.uts, CloneFlags::CLONE_NEWUTS),
    ];
    let mut open = Vec::new();
    for (path, kind) in wanted {
        if let Some(path) = path {
            let file = std::fs::File::open(path)
                .map_err(system(format!("open namespace {}", path.display())))?;
            open.push((OwnedFd::from(file), kind));
        }
    }
    Ok(open)
}

/// Waits until PID 1 is ready and gives it to the daemon.
fn hand_over(pid: i32, socket: &OwnedFd, ready: OwnedFd) -> Result<(), BootstrapError> {
    let mut word = String::new();
    std::fs::File::from(ready)
        .read_to_string(&mut word)
        .map_err(system("read from PID 1"))?;
    if word != "ready" {
        let text = if word.is_empty() {
            "PID 1 died"
        } else {
            word.as_str()
        };
        return Err(system("start PID 1")(std::io::Error::other(
            text.to_owned(),
        )));
    }
    let child = rustix::process::Pid::from_raw(pid)
        .ok_or_else(|| system("fork")(std::io::Error::from_raw_os_error(libc::ESRCH)))?;
    let pidfd = rustix::process::pidfd_open(child, rustix::process::PidfdFlags::empty())
        .map_err(system("pidfd_open"))?;
    link::send_bytes(socket.as_fd(), &pid.to_ne_bytes(), &[pidfd.as_fd()])
        .map_err(|error| system("send pidfd")(std::io::Error::other(error)))
}

/// PID 1: an empty root, no capabilities, then reaping.
fn pid_1(told: OwnedFd) -> Result<(), BootstrapError> {
    let prepared = become_init().and_then(|signals| {
        // The daemon's socket too: it must see its end when the starter ends.
        sys::close_all_but(&[0, 1, 2, told.as_raw_fd(), signals.as_raw_fd()])
            .map_err(system("close descriptors"))?;
        Ok(signals)
    });
    let word = match &prepared {
        Ok(_) => "ready".to_owned(),
        Err(error) => crate::error::chain(error),
    };
    rustix::io::write(&told, word.as_bytes()).map_err(system("write"))?;
    drop(told);
    let signals = prepared?;
    sys::trim_heap();
    loop {
        while let Some(dead) = reaper::next().map_err(system("waitid"))? {
            reaper::reap(dead).map_err(system("waitpid"))?;
        }
        match signals.read_signal() {
            Ok(Some(info)) if i32::try_from(info.ssi_signo) == Ok(libc::SIGTERM) => return Ok(()),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(system("read signal")(errno)),
        }
    }
}

/// From the host's mounts to an empty, read-only root. A container of the pod
/// that has CAP_SYS_PTRACE gets at /proc/1/root whatever PID 1 does to prevent
/// it: there must be nothing.
fn leave_host_files() -> Result<(), BootstrapError> {
    let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", propagation).map_err(system("make mounts slaves"))?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(system("fsopen tmpfs"))?;
    fsconfig_create(&context).map_err(system("create tmpfs"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(system("fsmount tmpfs"))?;
    // Only a mount that has a place can become the root; any directory does.
    let place = std::path::Path::new("/proc");
    crate::rootfs::attach(&root, place).map_err(|error| system("mount tmpfs")(error.source))?;
    rustix::process::fchdir(&root).map_err(system("enter tmpfs"))?;
    // With both the same directory the old root ends up on top of the new one.
    rustix::process::pivot_root(".", ".").map_err(system("pivot_root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(system("unmount the host's root"))?;
    rustix::process::chdir("/").map_err(system("chdir /"))
}

fn become_init() -> Result<SignalFd, BootstrapError> {
    leave_host_files()?;
    rustix::process::setsid().map_err(system("setsid"))?;
    let mut wanted = SigSet::empty();
    wanted.add(Signal::SIGCHLD);
    wanted.add(Signal::SIGTERM);
    let signals = SignalFd::new(&wanted).map_err(system("signalfd"))?;
    for cap in 0..64 {
        match sys::prctl(libc::PR_CAPBSET_DROP, cap, 0) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(system("PR_CAPBSET_DROP")(error)),
        }
    }
    sys::capset(0, 0, 0).map_err(system("capset"))?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(system("PR_SET_NO_NEW_PRIVS"))?;
    // Its siblings in the pod may be the same user: they get no hold of it.
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).map_err(system("PR_SET_DUMPABLE"))?;
    Ok(signals)
}
