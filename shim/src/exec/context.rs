//! What init is made of.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use oci_spec::runtime::{PosixRlimitType, Process};

use super::credentials::{CapabilitySets, Credentials};
use super::error::{ExecError, Step};
use super::{Capture, cgroups, home};

/// Namespaces by their file in `/proc/<pid>/ns` and their flag.
const NAMESPACES: [(&str, i32); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("mnt", libc::CLONE_NEWNS),
    ("pid", libc::CLONE_NEWPID),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("time", libc::CLONE_NEWTIME),
];

/// What init is made of, kept to make others like it.
#[derive(Debug)]
pub struct Context {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    /// Flags of the namespaces in which init and the shim differ.
    pub(super) namespaces: i32,
    pub(super) cgroups: Vec<cgroups::Cgroup>,
    /// As written to `/proc/<pid>/oom_score_adj`.
    pub(super) oom_score_adj: Vec<u8>,
    pub(super) rlimits: Vec<(i32, libc::rlimit64)>,
    pub(super) umask: u32,
    pub(super) cwd: CString,
    pub(super) environment: Vec<CString>,
    pub(super) credentials: Credentials,
    pub(super) label: Option<Label>,
    pub(super) keyring: Option<CString>,
    /// The user and group as the host sees them: owners of pipes.
    pub(super) owner: (u32, u32),
}

/// What execve is to change the process' LSM label to.
#[derive(Debug)]
pub(super) struct Label {
    /// Files of /proc to write to, the first that exists.
    pub(super) files: &'static [&'static std::ffi::CStr],
    pub(super) value: Vec<u8>,
}

impl Context {
    /// Captures init. To be called when create is done and before start: init
    /// is then still ours and cannot have changed itself.
    ///
    /// # Errors
    /// What of init could not be read, by the step that needs it.
    pub fn capture(capture: Capture<'_>) -> Result<Self, ExecError> {
        let Capture {
            pid,
            pidfd,
            process,
            ..
        } = capture;
        let fail = |step| move |source: io::Error| ExecError::new(step, source);
        let root = open_root(pid).map_err(fail(Step::Setns))?;
        let user = process.user();
        let capabilities = process.capabilities().as_ref().map(CapabilitySets::from);
        let owner = host_ids(pid, user.uid(), user.gid()).map_err(fail(Step::Ids))?;
        Ok(Self {
            pid,
            pidfd,
            namespaces: differing_namespaces(pid).map_err(fail(Step::Setns))?,
            cgroups: cgroups::capture(pid).map_err(fail(Step::Cgroup))?,
            oom_score_adj: std::fs::read(format!("/proc/{pid}/oom_score_adj"))
                .map_err(fail(Step::OomScoreAdj))?,
            rlimits: rlimits(process),
            umask: user
                .umask()
                .map_or_else(|| umask_of(pid), Ok)
                .map_err(fail(Step::Dumpable))?,
            cwd: c_string(process.cwd().as_os_str().as_bytes())?,
            environment: environment(process, &root)?,
            credentials: Credentials {
                uid: user.uid(),
                gid: user.gid(),
                groups: user.additional_gids().clone().unwrap_or_default(),
                capabilities: capabilities.unwrap_or_default(),
                no_new_privileges: process.no_new_privileges().unwrap_or(false),
                filter: instructions(capture.seccomp_filter)?,
                filter_flags: capture.seccomp_flags,
            },
            label: label(process),
            keyring: capture
                .keyring
                .map(|name| c_string(name.as_bytes()))
                .transpose()?,
            owner,
        })
    }

    /// The container's user and group as the host sees them.
    #[must_use]
    pub fn owner(&self) -> (u32, u32) {
        self.owner
    }
}

/// The root directory of init, whatever is mounted there.
pub(super) fn open_root(pid: i32) -> io::Result<OwnedFd> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(format!("/proc/{pid}/root"))
        .map(OwnedFd::from)
}

pub(super) fn c_string(bytes: &[u8]) -> Result<CString, ExecError> {
    CString::new(bytes).map_err(|_| ExecError::from_errno(Step::Arguments, libc::EINVAL))
}

fn differing_namespaces(pid: i32) -> io::Result<i32> {
    let mut flags = 0;
    for (name, flag) in NAMESPACES {
        let own = match File::open(format!("/proc/self/ns/{name}")) {
            // A kernel without that kind of namespace.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            own => own?.metadata()?,
        };
        let theirs = File::open(format!("/proc/{pid}/ns/{name}"))?.metadata()?;
        if (own.dev(), own.ino()) != (theirs.dev(), theirs.ino()) {
            flags |= flag;
        }
    }
    Ok(flags)
}

/// A field of `/proc/<pid>/status`: init has its umask from whoever made it.
fn umask_of(pid: i32) -> io::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))
        .and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn host_ids(pid: i32, uid: u32, gid: u32) -> io::Result<(u32, u32)> {
    let map = |file, id| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
        // Unmapped: the container has no such user, and the ids step says so.
        Ok::<_, io::Error>(to_host(&text, id).unwrap_or(id))
    };
    Ok((map("uid_map", uid)?, map("gid_map", gid)?))
}

/// Translates an id by lines `inside outside length` (user_namespaces(7)).
fn to_host(map: &str, id: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let (inside, outside, length) = (next()?, next()?, next()?);
        let offset = id.checked_sub(inside).filter(|offset| *offset < length)?;
        outside.checked_add(offset)
    })
}

fn environment(process: &Process, root: &OwnedFd) -> Result<Vec<CString>, ExecError> {
    use std::os::fd::AsFd;
    let given = process.env().as_deref().unwrap_or_default();
    let mut all = given
        .iter()
        .map(|entry| c_string(entry.as_bytes()))
        .collect::<Result<Vec<_>, _>>()?;
    let has_home = given
        .iter()
        .any(|e| e.strip_prefix("HOME=").is_some_and(|h| !h.is_empty()));
    if !has_home {
        all.retain(|entry| !entry.as_bytes().starts_with(b"HOME="));
        let home = home::of(root.as_fd(), process.user().uid());
        all.push(c_string(format!("HOME={home}").as_bytes())?);
    }
    Ok(all)
}

fn rlimits(process: &Process) -> Vec<(i32, libc::rlimit64)> {
    let limits = process.rlimits().as_deref().unwrap_or_default();
    limits
        .iter()
        .map(|limit| {
            let values = libc::rlimit64 {
                rlim_cur: limit.soft(),
                rlim_max: limit.hard(),
            };
            (resource(limit.typ()), values)
        })
        .collect()
}

#[expect(clippy::cast_possible_wrap, reason = "small constants")]
fn resource(kind: PosixRlimitType) -> i32 {
    let resource = match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    resource as i32
}

fn label(process: &Process) -> Option<Label> {
    let given = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
    if let Some(profile) = given(process.apparmor_profile()) {
        let files = &[c"/proc/self/attr/apparmor/exec", c"/proc/self/attr/exec"];
        return Some(Label {
            files,
            value: format!("exec {profile}").into_bytes(),
        });
    }
    let label = given(process.selinux_label())?;
    Some(Label {
        files: &[c"/proc/self/attr/exec"],
        value: label.into_bytes(),
    })
}

/// Decodes an array of `struct sock_filter`: u16, u8, u8, u32, native order.
fn instructions(program: &[u8]) -> Result<Vec<libc::sock_filter>, ExecError> {
    let (chunks, rest) = program.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(ExecError::from_errno(Step::Seccomp, libc::EINVAL));
    }
    Ok(chunks
        .iter()
        .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| libc::sock_filter {
            code: u16::from_ne_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translates_ids() {
        let map = "         0     100000      65536\n     70000     300000          1\n";
        assert_eq!(to_host(map, 0), Some(100_000));
        assert_eq!(to_host(map, 65_535), Some(165_535));
        assert_eq!(to_host(map, 65_536), None);
        assert_eq!(to_host(map, 70_000), Some(300_000));
        assert_eq!(to_host("0 0 4294967295\n", 1000), Some(1000));
    }

    #[test]
    fn decodes_instructions() {
        // ret ALLOW
        let program = instructions(&[6, 0, 0, 0, 0, 0, 0xff, 0x7f]).unwrap();
        assert_eq!(program.len(), 1);
        assert_eq!((program[0].code, program[0].k), (6, 0x7fff_0000));
        assert!(instructions(&[6, 0, 0]).is_err());
    }
}
