//! Joining a node's namespaces: from a thread, and between fork and exec.
#![allow(
    unsafe_code,
    reason = "a hook between fork and exec can only be installed unsafely"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

/// Open descriptors of a network and a mount namespace; they keep both alive.
#[derive(Debug)]
pub struct Namespaces {
    net: File,
    mnt: File,
}

impl Namespaces {
    /// Those of the calling thread.
    ///
    /// # Errors
    /// When procfs cannot be read.
    pub fn current() -> Result<Self> {
        let open = |kind: &str| {
            let path = format!("/proc/thread-self/ns/{kind}");
            File::open(&path).with_context(|| format!("open {path}"))
        };
        Ok(Self {
            net: open("net")?,
            mnt: open("mnt")?,
        })
    }

    /// The network namespace.
    #[must_use]
    pub fn net(&self) -> &File {
        &self.net
    }

    /// The mount namespace.
    #[must_use]
    pub fn mnt(&self) -> &File {
        &self.mnt
    }
}

/// Runs `work` on a new thread that has joined `namespaces`.
pub(crate) fn on_thread<T: Send>(
    namespaces: &Namespaces,
    work: impl FnOnce() -> T + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let joined = scope.spawn(move || -> nix::Result<T> {
            // A mount namespace can only be joined by a thread that shares its root and working
            // directory with no other.
            unshare(CloneFlags::CLONE_FS)?;
            setns(&namespaces.mnt, CloneFlags::CLONE_NEWNS)?;
            setns(&namespaces.net, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        match joined.join() {
            Ok(result) => result.context("join the node's namespaces"),
            Err(panic) => Err(anyhow!(
                "a thread in the node panicked: {}",
                message(&*panic)
            )),
        }
    })
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

/// Makes `command` join `namespaces` before it executes its program. The working directory becomes
/// the root of the node, for that is what joining a mount namespace does.
pub(crate) fn on_spawn(command: &mut Command, namespaces: &Namespaces) {
    let net = namespaces.net.as_raw_fd();
    let mnt = namespaces.mnt.as_raw_fd();
    // SAFETY: the hook only calls setns(2), which is async-signal-safe and allocates nothing. The
    // descriptors belong to the node, which every caller keeps alive until the child has started:
    // a closed one makes the spawn fail with EBADF, it cannot corrupt memory.
    unsafe {
        command.pre_exec(move || {
            join(mnt, libc::CLONE_NEWNS)?;
            join(net, libc::CLONE_NEWNET)
        });
    }
}

fn join(namespace: RawFd, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: takes two integers and touches no memory of ours.
    if unsafe { libc::setns(namespace, kind) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
