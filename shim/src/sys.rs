//! The few kernel calls for which neither nix nor rustix has a safe form.
//! Each is one call with typed arguments; what they are for is their callers'
//! business.
#![allow(unsafe_code, reason = "raw system calls; one block each")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, or 0: unchanged.
    pub propagation: u64,
    /// With `MOUNT_ATTR_IDMAP`: a user namespace.
    pub userns_fd: u64,
}

fn check(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// mount_setattr(2) on the mount that `mount` refers to.
///
/// # Errors
/// The system call's.
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a NUL-terminated constant and `attr` outlives the
    // call; the kernel reads exactly the size that is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// pidfd_send_signal(2) with any signal number, real-time signals too.
///
/// # Errors
/// The system call's; `ESRCH` when the process is gone.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no pointer but a null siginfo, which the call allows.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// kill(2) with any signal number.
///
/// # Errors
/// The system call's.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Forks. The child runs `child` and ends with the status that it returns;
/// it never comes back from here. The child's exit signal is SIGCHLD.
///
/// # Errors
/// fork(2)'s.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the caller's process has one thread when this is used (see
    // driver.rs), so that the child finds every lock free.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => exit_now(child()),
        pid => Ok(pid),
    }
}

/// _exit(2): ends the process without running anything of the parent's copy.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// Closes every descriptor of this process but those in `keep`. For a forked
/// child only: what still owns a closed descriptor must never be dropped.
///
/// # Errors
/// close_range(2)'s.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|fd| u32::try_from(*fd).ok())
        .collect();
    keep.sort_unstable();
    let mut first = 0;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd.max(first).saturating_add(1);
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: no pointers; see close_all_but for who owns the descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Sets every signal to its default action and unblocks all of them.
pub fn reset_signals() {
    /// `struct sigaction` of the kernel: all zero is `SIG_DFL`.
    #[repr(C)]
    struct KernelAction([u64; 4]);
    let default = KernelAction([0; 4]);
    for signal in 1..=64 {
        // Not through libc, which keeps two real-time signals for itself and
        // would leave them ignored where our parent ignored them.
        // SAFETY: SIG_DFL runs no code, and the kernel reads 32 bytes at most.
        // SIGKILL and SIGSTOP fail, which is fine.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null::<KernelAction>(),
                8,
            )
        };
    }
    // SAFETY: `set` is initialised by sigemptyset before it is read.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Joins the session keyring `name`, makes it if there is none, and lets the
/// owning user search it, so that an exec can join it by name.
///
/// # Errors
/// keyctl(2)'s; `ENOSYS` where the kernel has no keyrings.
pub fn join_session_keyring(name: &CStr) -> io::Result<()> {
    const USER_SEARCH: libc::c_long = 0x0008_0000;
    const POSSESSOR_ALL_USER_VIEW_READ: libc::c_long = 0x3f03_0000;
    // SAFETY: `name` is NUL-terminated and outlives the call.
    let ring = check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            name.as_ptr(),
        )
    })?;
    // SAFETY: no pointers.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_SETPERM,
            ring,
            POSSESSOR_ALL_USER_VIEW_READ | USER_SEARCH,
        )
    })
    .map(drop)
}

/// Loads a seccomp filter for the calling thread.
///
/// # Errors
/// seccomp(2)'s.
pub fn load_seccomp(filter: &[libc::sock_filter], flags: u32) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = libc::sock_fprog {
        len,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` and the filter it points to outlive the call, which
    // only reads them.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(&program),
        )
    })
    .map(drop)
}

/// execve(2). Comes back only with the error.
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let vector = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, envp) = (vector(args), vector(env));
    // SAFETY: both vectors end with a null pointer and all strings are
    // NUL-terminated and alive.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// capset(2) of the calling thread, as masks of capability numbers.
///
/// # Errors
/// capset(2)'s.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let word = |mask: u64, n: u32| u32::try_from((mask >> (32 * n)) & 0xffff_ffff).unwrap_or(0);
    let data = [0, 1].map(|n| Data {
        effective: word(effective, n),
        permitted: word(permitted, n),
        inheritable: word(inheritable, n),
    });
    // _LINUX_CAPABILITY_VERSION_3
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    // SAFETY: version 3 reads two data words, which `data` has.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// prctl(2) with integer arguments.
///
/// # Errors
/// prctl(2)'s.
pub fn prctl(option: i32, arg2: u64, arg3: u64) -> io::Result<i32> {
    // SAFETY: only options without pointers are passed by this crate.
    let ret = check(unsafe { libc::prctl(option, arg2, arg3, 0, 0) }.into())?;
    Ok(i32::try_from(ret).unwrap_or(0))
}

/// Sets the name that ps(1) shows for this process.
pub fn set_name(name: &CStr) {
    // SAFETY: `name` is NUL-terminated; the kernel copies at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Takes over descriptor `fd`, which the parent process left for this one.
///
/// # Errors
/// `EBADF` when it isn't open.
pub fn inherited(fd: RawFd) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: open, as fcntl just said; bootstrap calls this once for each.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
}

/// Returns freed memory to the kernel (malloc_trim(3)).
pub fn trim_heap() {
    // SAFETY: no arguments that could be wrong.
    unsafe { libc::malloc_trim(0) };
}

/// Returns the stack that deeper calls have used to the kernel.
pub fn trim_stack() {
    const PAGE: usize = 4096;
    /// Far more than this call and those that it makes need.
    const MARGIN: usize = 4 * PAGE;
    const LENGTH: usize = 256 * 1024;
    let here = 0_u8;
    let top = ((&raw const here).addr() - MARGIN) & !(PAGE - 1);
    let bottom = std::ptr::without_provenance_mut(top - LENGTH);
    // SAFETY: below the deepest live frame nothing of the stack is in use, and
    // the kernel keeps a gap of a megabyte below it free of other mappings, so
    // the unmapped part of the range (ENOMEM) is nobody's.
    unsafe { libc::madvise(bottom, LENGTH, libc::MADV_DONTNEED) };
}

/// The pid of a dead child of any exit signal, which stays a zombie. `None`:
/// none is dead, or there are no children.
///
/// # Errors
/// waitid(2)'s.
pub fn dead_child() -> io::Result<Option<i32>> {
    loop {
        // SAFETY: zeroed is a valid siginfo_t, and the call fills it in.
        let (ret, pid) = unsafe {
            let mut info = std::mem::zeroed::<libc::siginfo_t>();
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
            let ret = libc::waitid(libc::P_ALL, 0, &raw mut info, options);
            (ret, info.si_pid())
        };
        match check(ret.into()) {
            Ok(_) => return Ok((pid != 0).then_some(pid)),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Forgets the environment. To be called before there is a second thread.
///
/// # Errors
/// clearenv(3) failed.
pub fn clear_environment() -> io::Result<()> {
    // SAFETY: the process has one thread, and nothing holds a pointer into
    // the environment.
    if unsafe { libc::clearenv() } == 0 {
        Ok(())
    } else {
        Err(io::Error::other("clearenv"))
    }
}

/// dup2(2) onto one of the descriptors 0, 1 and 2, which nothing owns.
///
/// # Errors
/// dup2(2)'s.
pub fn duplicate(from: &impl AsRawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: no pointers; `to` is a standard descriptor.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) }.into()).map(drop)
}
