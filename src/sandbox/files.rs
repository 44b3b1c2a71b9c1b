//! hostname, hosts, resolv.conf and /dev/shm of a pod.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::model::{DnsConfig, SandboxConfig};

/// A file of the pod could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct FileError {
    /// What was tried.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

fn failed<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> FileError {
    let path = path.to_owned();
    move |source| FileError {
        operation,
        path,
        source: source.into(),
    }
}

/// The node's own files that pods get copies of.
#[derive(Debug, Clone)]
pub struct HostFiles {
    /// `resolv.conf(5)`.
    pub resolv_conf: PathBuf,
    /// `hosts(5)`.
    pub hosts: PathBuf,
}

impl Default for HostFiles {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
        }
    }
}

/// The text of resolv.conf: the node's without a configuration, else the lines
/// given and no others, in the order search, nameserver, options.
pub(super) fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

/// The text of hosts for a pod with a network of its own.
pub(super) fn hosts(ips: &[IpAddr], hostname: &str) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for ip in ips {
        text.push_str(&format!("{ip}\t{hostname}\n"));
    }
    text
}

/// What is written into a pod's directory, in order of the paths' fields.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) hostname: String,
    pub(super) hosts: Vec<u8>,
    pub(super) resolv_conf: Vec<u8>,
}

impl Texts {
    /// # Errors
    /// [`FileError`] when a file of the node can't be read; a missing one is empty.
    pub(super) fn of(
        config: &SandboxConfig,
        hostname: &str,
        ips: &[IpAddr],
        host: &HostFiles,
    ) -> Result<Self, FileError> {
        Ok(Self {
            hostname: format!("{hostname}\n"),
            hosts: if config.host_network() {
                read_or_empty(&host.hosts)?
            } else {
                hosts(ips, hostname).into_bytes()
            },
            resolv_conf: match &config.dns {
                Some(dns) => resolv_conf(dns).into_bytes(),
                None => read_or_empty(&host.resolv_conf)?,
            },
        })
    }
}

fn read_or_empty(path: &Path) -> Result<Vec<u8>, FileError> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(failed("read", path)),
    }
}

/// Writes a file that every user of the pod may read. It is mounted into
/// containers, so an existing one keeps its inode.
///
/// # Errors
/// [`FileError`].
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .map_err(failed("create", path))?;
    file.write_all(bytes).map_err(failed("write", path))
}

/// Makes `dir` and all above it, mode 0711: users of pods pass, but don't look.
///
/// # Errors
/// [`FileError`].
pub(super) fn make_dir(dir: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .map_err(failed("make directory", dir))
}

/// Removes an empty directory. Not there is fine.
///
/// # Errors
/// [`FileError`].
pub(super) fn remove_dir(dir: &Path) -> Result<(), FileError> {
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(failed("remove directory", dir)(error))
        }
        _ => Ok(()),
    }
}

/// Mounts the pod's /dev/shm: 64 MiB, as other runtimes give, owned by the
/// pod's root (`uid`, `gid` on the node).
///
/// # Errors
/// [`FileError`].
pub(super) fn mount_shm(dir: &Path, uid: u32, gid: u32) -> Result<(), FileError> {
    make_dir(dir)?;
    let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = format!("mode=1777,size=65536k,uid={uid},gid={gid}");
    mount(
        Some("shm"),
        dir,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )
    .map_err(failed("mount tmpfs at", dir))
}

/// Whether the pod's /dev/shm is mounted at `dir`. The directory lies on the
/// daemon's private tmpfs, so the file system's kind alone doesn't tell.
pub(super) fn is_shm(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
    let mounted = dir.parent().and_then(device) != device(dir);
    mounted && statfs(dir).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC)
}

/// Unmounts and removes it. Not there is fine.
///
/// # Errors
/// [`FileError`].
pub(super) fn unmount_shm(dir: &Path) -> Result<(), FileError> {
    loop {
        match umount2(dir, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(errno) => return Err(failed("unmount", dir)(errno)),
        }
    }
    remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(servers: &[&str], searches: &[&str], options: &[&str]) -> DnsConfig {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        DnsConfig {
            servers: owned(servers),
            searches: owned(searches),
            options: owned(options),
        }
    }

    #[test]
    fn resolv_conf_has_the_given_lines_and_no_others() {
        for (config, expected) in [
            (
                dns(
                    &["10.0.0.10", "fd00::a"],
                    &["a.b", "c"],
                    &["ndots:5", "edns0"],
                ),
                "search a.b c\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5 edns0\n",
            ),
            (dns(&["1.1.1.1"], &[], &[]), "nameserver 1.1.1.1\n"),
            (dns(&[], &[], &[]), ""),
        ] {
            assert_eq!(resolv_conf(&config), expected);
        }
    }

    #[test]
    fn hosts_names_the_pod() {
        let text = hosts(&["10.0.0.2".parse().unwrap()], "web");
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.2\tweb\n"));
    }
}
