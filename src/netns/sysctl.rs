//! Kernel parameters that belong to a namespace (`sysctl(8)`), by name.

use std::path::{Path, PathBuf};

/// The namespace that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// `net.*`.
    Net,
    /// `kernel.shm*`, `kernel.msg*`, `kernel.sem`, `fs.mqueue.*`.
    Ipc,
}

/// A parameter and its value, known to belong to a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    name: String,
    value: String,
    owner: Owner,
    /// Missing in the running kernel is fine.
    optional: bool,
}

/// A name that is no namespaced kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a kernel parameter of a network or IPC namespace")]
pub struct BadSysctl {
    /// The name as it came.
    pub name: String,
}

const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

impl Sysctl {
    /// Checks the name, in the form with dots or with slashes. The first
    /// separator tells which; the other one is then part of a name, as in
    /// `net/ipv4/conf/eth0.100/rp_filter`.
    ///
    /// # Errors
    /// [`BadSysctl`] when it belongs to the node, or is no name at all.
    pub fn new(name: &str, value: &str) -> Result<Self, BadSysctl> {
        let bad = || BadSysctl {
            name: name.to_owned(),
        };
        let path = match name.find(['.', '/']).and_then(|at| name.as_bytes().get(at)) {
            Some(b'.') => swap_separators(name),
            Some(_) => name.to_owned(),
            None => return Err(bad()),
        };
        if path.contains('\0') || path.split('/').any(|p| matches!(p, "" | "." | "..")) {
            return Err(bad());
        }
        let owner = if path.starts_with("net/") {
            Owner::Net
        } else if path.starts_with("fs/mqueue/") || IPC.contains(&path.as_str()) {
            Owner::Ipc
        } else {
            return Err(bad());
        };
        Ok(Self {
            name: path,
            value: value.to_owned(),
            owner,
            optional: false,
        })
    }

    /// The namespace that it belongs to.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The name in the form with slashes, relative to `/proc/sys`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn value(&self) -> &str {
        &self.value
    }

    pub(super) fn optional(&self) -> bool {
        self.optional
    }

    pub(super) fn file(&self) -> PathBuf {
        Path::new("/proc/sys").join(&self.name)
    }
}

fn swap_separators(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect()
}

/// What a pod with its own network gets unless the request says otherwise: it
/// may listen on ports below 1024 and send echo requests without capabilities,
/// as nobody else shares its ports.
#[must_use]
pub fn defaults() -> Vec<Sysctl> {
    [
        ("net/ipv4/ip_unprivileged_port_start", "0"),
        ("net/ipv4/ping_group_range", "0 2147483647"),
    ]
    .into_iter()
    .map(|(name, value)| Sysctl {
        name: name.to_owned(),
        value: value.to_owned(),
        owner: Owner::Net,
        optional: true,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_whose_a_parameter_is() {
        let owner = |name| Sysctl::new(name, "1").map(|s| (s.owner(), s.name().to_owned()));
        for (name, expected) in [
            (
                "net.ipv4.ip_forward",
                Some((Owner::Net, "net/ipv4/ip_forward")),
            ),
            (
                "net/ipv4/ip_forward",
                Some((Owner::Net, "net/ipv4/ip_forward")),
            ),
            (
                "net.ipv4.conf.eth0/100.rp_filter",
                Some((Owner::Net, "net/ipv4/conf/eth0.100/rp_filter")),
            ),
            ("kernel.shmmax", Some((Owner::Ipc, "kernel/shmmax"))),
            ("kernel.sem", Some((Owner::Ipc, "kernel/sem"))),
            ("fs.mqueue.msg_max", Some((Owner::Ipc, "fs/mqueue/msg_max"))),
            ("kernel.hostname", None),
            ("kernel.pid_max", None),
            ("vm.swappiness", None),
            ("net", None),
            ("net/../kernel/pid_max", None),
            ("net..x", None),
            ("", None),
        ] {
            let expected = expected.map(|(o, n)| (o, n.to_owned()));
            assert_eq!(owner(name).ok(), expected, "{name}");
        }
    }
}
