//! Ids, capabilities and the seccomp filter of a process about to execve.
//!
//! Runs between fork and execve: plain system calls, no allocation, and none
//! of libc's setuid(3) family, which would signal threads that this process
//! doesn't have.

#![allow(unsafe_code, reason = "raw system calls of a forked child")]

use std::io;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::enter::{Failure, check, prctl};
use super::error::Step;

/// The five capability sets as the kernel counts them: bit n is capability n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// Limits what execve can give.
    pub bounding: u64,
    /// Checked by the kernel.
    pub effective: u64,
    /// Limits the effective set.
    pub permitted: u64,
    /// Kept over execve where the file says so.
    pub inheritable: u64,
    /// Kept over execve of ordinary programs.
    pub ambient: u64,
}

impl From<&LinuxCapabilities> for CapabilitySets {
    fn from(oci: &LinuxCapabilities) -> Self {
        let bits = |set: &Option<Capabilities>| {
            set.iter()
                .flatten()
                .fold(0, |bits, capability| bits | bit(*capability))
        };
        Self {
            bounding: bits(oci.bounding()),
            effective: bits(oci.effective()),
            permitted: bits(oci.permitted()),
            inheritable: bits(oci.inheritable()),
            ambient: bits(oci.ambient()),
        }
    }
}

/// The capability's bit in a set, by linux/capability.h.
#[must_use]
pub fn bit(capability: Capability) -> u64 {
    1 << match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

const SYS_ADMIN: u64 = 1 << 21;

/// Who the process is to be.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) capabilities: CapabilitySets,
    pub(super) no_new_privileges: bool,
    /// An array of `struct sock_filter`.
    pub(super) filter: Vec<libc::sock_filter>,
    pub(super) filter_flags: u32,
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Version 3: 64-bit sets in two halves.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Root of the user namespace that was just joined: without it the host's
/// root, unmapped there, would own what this process makes.
pub(super) fn become_mapped_root() -> Result<(), Failure> {
    let step = Step::MappedRoot;
    // SAFETY: takes a count of 0 and reads nothing.
    check(step, unsafe {
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>())
    })?;
    set_ids(step, 0, 0)
}

fn set_ids(step: Step, uid: u32, gid: u32) -> Result<(), Failure> {
    // SAFETY: integers only.
    check(step, unsafe {
        libc::syscall(libc::SYS_setresgid, gid, gid, gid)
    })?;
    // SAFETY: integers only.
    check(step, unsafe {
        libc::syscall(libc::SYS_setresuid, uid, uid, uid)
    })?;
    // A change of ids sets the flag to the system's default.
    prctl(Step::Dumpable, libc::PR_SET_DUMPABLE, 0, 0)
}

impl Credentials {
    /// Takes groups and ids and keeps all permitted capabilities, though not
    /// effective ones when the user is not root.
    pub(super) fn take_ids(&self) -> Result<(), Failure> {
        let groups = &self.groups;
        // SAFETY: pointer and length are of one vector.
        check(Step::Groups, unsafe {
            libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr())
        })?;
        prctl(Step::Ids, libc::PR_SET_KEEPCAPS, 1, 0)?;
        set_ids(Step::Ids, self.uid, self.gid)?;
        prctl(Step::Ids, libc::PR_SET_KEEPCAPS, 0, 0)
    }

    /// Drops to the requested capabilities. What this process itself doesn't
    /// have can't be given and is left out, as it is for init.
    ///
    /// CAP_SYS_ADMIN stays for [`Credentials::load_filter`] where the kernel
    /// asks for it. It is not in the bounding set, so execve drops it.
    pub(super) fn drop_capabilities(&self) -> Result<(), Failure> {
        let step = Step::Capabilities;
        let held = permitted(step)?;
        set_capabilities(step, held, held, 0)?;
        let wanted = &self.capabilities;
        for capability in 0..64_u32 {
            // SAFETY: integers only.
            let set = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
            match set {
                // The first number that the kernel has no capability for.
                ..0 => break,
                0 => {}
                _ if wanted.bounding & (1 << capability) != 0 => {}
                _ => prctl(step, libc::PR_CAPBSET_DROP, capability.into(), 0)?,
            }
        }
        let extra = if self.filter_needs_privilege() {
            SYS_ADMIN
        } else {
            0
        };
        let effective = (wanted.effective | extra) & held;
        let inheritable = wanted.inheritable & held;
        set_capabilities(
            step,
            effective,
            (wanted.permitted | extra) & held,
            inheritable,
        )?;
        self.raise_ambient(wanted.permitted & inheritable)
    }

    fn raise_ambient(&self, allowed: u64) -> Result<(), Failure> {
        const CLEAR: u64 = libc::PR_CAP_AMBIENT_CLEAR_ALL as u64;
        const RAISE: u64 = libc::PR_CAP_AMBIENT_RAISE as u64;
        let step = Step::AmbientCapabilities;
        prctl(step, libc::PR_CAP_AMBIENT, CLEAR, 0)?;
        for capability in 0..64_u64 {
            if self.capabilities.ambient & allowed & (1 << capability) != 0 {
                prctl(step, libc::PR_CAP_AMBIENT, RAISE, capability)?;
            }
        }
        Ok(())
    }

    pub(super) fn set_no_new_privileges(&self) -> Result<(), Failure> {
        if self.no_new_privileges {
            prctl(Step::NoNewPrivileges, libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
        }
        Ok(())
    }

    fn filter_needs_privilege(&self) -> bool {
        !self.filter.is_empty() && !self.no_new_privileges
    }

    /// The last thing before execve: from here on the profile decides which
    /// system calls there are.
    pub(super) fn load_filter(&self) -> Result<(), Failure> {
        if self.filter.is_empty() {
            return Ok(());
        }
        let step = Step::Seccomp;
        let Ok(len) = u16::try_from(self.filter.len()) else {
            return Err(Failure {
                step,
                errno: libc::E2BIG,
            });
        };
        let program = libc::sock_fprog {
            len,
            filter: self.filter.as_ptr().cast_mut(),
        };
        // SAFETY: the kernel reads `len` instructions at `filter`, which lives
        // in `self`, and writes none.
        check(step, unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.filter_flags,
                &raw const program,
            )
        })
    }
}

fn permitted(step: Step) -> Result<u64, Failure> {
    let mut header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: version 3 has two data elements; both are ours.
    check(step, unsafe {
        libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr())
    })?;
    let [low, high] = data;
    Ok(u64::from(low.permitted) | u64::from(high.permitted) << 32)
}

fn set_capabilities(
    step: Step,
    effective: u64,
    permitted: u64,
    inheritable: u64,
) -> Result<(), Failure> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the half that is asked for"
    )]
    let half = |shift: u32| CapabilityData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let mut header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 has two data elements; both are ours.
    check(step, unsafe {
        libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr())
    })
}

/// Joins, or makes, the session keyring of that name and lets others of the
/// same user find it, so that the next process of the container joins it too.
/// A kernel without keyrings is none to keep apart.
pub(super) fn join_session_keyring(name: &std::ffi::CStr) -> Result<(), Failure> {
    const JOIN_SESSION_KEYRING: u32 = 1;
    const SETPERM: u32 = 5;
    /// What a new session keyring has (possessor: all; user: view, read,
    /// link), and search for the user.
    const PERMISSIONS: u32 = 0x3f1b_0000;
    // SAFETY: the name ends in NUL.
    let key = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    if key < 0 {
        return match io::Error::last_os_error().raw_os_error() {
            Some(libc::ENOSYS) => Ok(()),
            errno => Err(Failure {
                step: Step::Keyring,
                errno: errno.unwrap_or(0),
            }),
        };
    }
    // SAFETY: integers only.
    check(Step::Keyring, unsafe {
        libc::syscall(libc::SYS_keyctl, SETPERM, key, PERMISSIONS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_a_spec() {
        let oci: LinuxCapabilities = serde_json::from_str(
            r#"{"bounding":["CAP_CHOWN","CAP_CHECKPOINT_RESTORE"],"permitted":["CAP_SYS_ADMIN"]}"#,
        )
        .unwrap();
        let sets = CapabilitySets::from(&oci);
        assert_eq!(sets.bounding, 1 | 1 << 40);
        assert_eq!(sets.permitted, SYS_ADMIN);
        assert_eq!((sets.effective, sets.inheritable, sets.ambient), (0, 0, 0));
    }
}
