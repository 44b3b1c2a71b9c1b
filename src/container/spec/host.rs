//! What the node can do. Asked once, at start-up.

use std::path::Path;

use oci_spec::runtime::Capability;

use crate::cgroup::{Hierarchies, Mode};

/// What the node can do.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// How cgroups are mounted.
    pub cgroup_mode: Mode,
    /// Memory and swap can be limited together.
    pub swap: bool,
    /// There is a hugetlb controller.
    pub hugetlb: bool,
    /// The kernel has AppArmor enabled.
    pub apparmor: bool,
    /// AppArmor profiles that are loaded, when it is enabled.
    pub apparmor_profiles: Vec<String>,
    /// The kernel has SELinux enabled.
    pub selinux: bool,
    /// The lowest `oom_score_adj` that a child of the daemon may get.
    pub oom_score_adj_floor: i32,
    /// Capabilities of the daemon itself (`ALL` and privileged containers get these).
    pub capabilities: Vec<Capability>,
}

/// Bit numbers of `capability.h` in order (`capabilities(7)`).
const CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

impl HostFacts {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When `/proc/self` can't be read.
    pub fn probe(cgroups: &Hierarchies) -> std::io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let capabilities = parse_capabilities(&status);
        let oom_score_adj_floor = if capabilities.contains(&Capability::SysResource) {
            -1000
        } else {
            std::fs::read_to_string("/proc/self/oom_score_adj")?
                .trim()
                .parse()
                .unwrap_or(0)
        };
        let apparmor = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.trim() == "Y");
        let profiles = if apparmor {
            std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default()
        } else {
            String::new()
        };
        Ok(Self {
            cgroup_mode: cgroups.mode(),
            swap: cgroups.accounts_swap(),
            hugetlb: cgroups.has("hugetlb"),
            apparmor,
            apparmor_profiles: parse_profiles(&profiles),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            oom_score_adj_floor,
            capabilities,
        })
    }
}

/// The permitted set from `/proc/<pid>/status`.
fn parse_capabilities(status: &str) -> Vec<Capability> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(bit, _)| mask >> bit & 1 == 1)
        .map(|(_, capability)| *capability)
        .collect()
}

/// Lines of `name (mode)`.
fn parse_profiles(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.rsplit_once(" (").map(|(name, _)| name.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_texts() {
        let caps = parse_capabilities("Name:\tx\nCapInh:\t0\nCapPrm:\t0000010000000401\n");
        assert_eq!(
            caps,
            [
                Capability::Chown,
                Capability::NetBindService,
                Capability::CheckpointRestore
            ]
        );
        assert!(parse_capabilities("").is_empty());
        assert_eq!(
            parse_profiles("docker-default (enforce)\n/usr/bin/man (x) (complain)\n"),
            ["docker-default", "/usr/bin/man (x)"]
        );
    }
}
