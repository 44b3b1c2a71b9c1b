//! Mounts: the kernel's file systems, the pod's files, the request's volumes.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};

use crate::sandbox::model::{IdMapping, NamespaceMode};

use super::super::model::{self, Propagation};
use super::Inputs;
use super::error::SpecError;

/// Peer groups of the mount that a volume's source lies on
/// (`mount_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    /// Shared.
    Shared,
    /// A slave of another group.
    Slave,
    /// Neither.
    Private,
}

/// Where a volume comes from, as found on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The host path with its symbolic links resolved.
    pub path: PathBuf,
    /// What the mount below it shares.
    pub peers: Peers,
}

pub(super) fn build(inputs: &Inputs<'_>) -> Result<Vec<Mount>, SpecError> {
    let wanted: Vec<PathBuf> = inputs
        .config
        .mounts
        .iter()
        .map(|mount| clean(&mount.container_path))
        .collect::<Result<_, _>>()?;
    let mut mounts: Vec<Mount> = kernel(inputs)
        .into_iter()
        .filter(|mount| {
            // A request that takes over /dev or /sys takes what is below too.
            !wanted
                .iter()
                .any(|dest| dest != Path::new("/") && mount.destination().starts_with(dest))
        })
        .collect();
    mounts.extend(
        pod(inputs)
            .into_iter()
            .filter(|mount| !wanted.contains(mount.destination())),
    );
    if wanted.len() != inputs.sources.len() {
        return Err(SpecError::invalid(
            "config.mounts",
            "a mount has no source on the host",
        ));
    }
    for ((mount, dest), source) in inputs.config.mounts.iter().zip(wanted).zip(inputs.sources) {
        mounts.push(volume(mount, dest, source)?);
    }
    // Stable: of two with one destination, the request's later one wins.
    mounts.sort_by_key(|mount| mount.destination().components().count());
    Ok(mounts)
}

/// `shared` iff a volume is: without it libcontainer keeps everything private,
/// and the volumes' own propagation comes with their staged clones.
pub(super) fn rootfs_propagation(mounts: &[Mount]) -> Option<String> {
    mounts
        .iter()
        .filter_map(|mount| mount.options().as_ref())
        .any(|options| options.iter().any(|option| option == "rshared"))
        .then(|| "shared".to_owned())
}

/// An absolute path without `.`, `..` and doubled slashes; `..` is refused, so
/// that what is compared is what is mounted.
fn clean(path: &str) -> Result<PathBuf, SpecError> {
    let bad = |problem: &str| {
        SpecError::invalid(
            "config.mounts.container_path",
            format!("{path:?} {problem}"),
        )
    };
    if !path.starts_with('/') {
        return Err(bad("is not absolute"));
    }
    if path.contains('\0') {
        return Err(bad("holds a NUL"));
    }
    let parts = Path::new(path).components();
    if parts.clone().any(|part| part == Component::ParentDir) {
        return Err(bad("holds .."));
    }
    let path: PathBuf = parts.collect();
    if path == Path::new("/") {
        return Err(SpecError::invalid(
            "config.mounts.container_path",
            "the root of the container can't be mounted over",
        ));
    }
    Ok(path)
}

fn mount(destination: &str, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(PathBuf::from(destination));
    mount.set_typ(Some(kind.to_owned()));
    mount.set_source(Some(source.into()));
    mount.set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

fn kernel(inputs: &Inputs<'_>) -> Vec<Mount> {
    let access = if inputs.config.security.privileged {
        "rw"
    } else {
        "ro"
    };
    // sysfs shows the network namespace of whoever mounts it, and only its
    // owner may: the root of a user namespace doesn't own the node's.
    let sys = if inputs.pod.user.is_some()
        && inputs.pod.config.namespaces.network == NamespaceMode::Node
    {
        mount(
            "/sys",
            "bind",
            "/sys",
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"],
        )
    } else {
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        )
    };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        sys,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ]
}

fn pod(inputs: &Inputs<'_>) -> Vec<Mount> {
    let access = if inputs.config.security.readonly_rootfs {
        "ro"
    } else {
        "rw"
    };
    let file = |dest: &str, source: &PathBuf| {
        mount(dest, "bind", source.clone(), &["rbind", "rprivate", access])
    };
    vec![
        file("/etc/hostname", &inputs.pod.hostname_file),
        file("/etc/hosts", &inputs.pod.hosts_file),
        file("/etc/resolv.conf", &inputs.pod.resolv_conf),
        mount(
            "/dev/shm",
            "bind",
            inputs.pod.shm.clone(),
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"],
        ),
    ]
}

fn volume(wanted: &model::Mount, dest: PathBuf, source: &Source) -> Result<Mount, SpecError> {
    let propagation = propagation(wanted, source)?;
    let access = match (wanted.readonly, wanted.recursive_read_only) {
        (_, true) if !wanted.readonly || wanted.propagation != Propagation::Private => {
            return Err(SpecError::invalid(
                "config.mounts.recursive_read_only",
                "RROUnsupported: it needs readonly and private propagation",
            ));
        }
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let mut options = vec![
        "rbind".to_owned(),
        propagation.to_owned(),
        access.to_owned(),
    ];
    for option in &wanted.mount_options {
        if !EXTRA_OPTIONS.contains(&option.as_str()) {
            return Err(SpecError::invalid(
                "config.mounts.mount_options",
                format!("{option:?} is not one of {}", EXTRA_OPTIONS.join(", ")),
            ));
        }
        options.push(option.clone());
    }
    let mut mount = Mount::default();
    mount.set_destination(dest);
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some(source.path.clone()));
    mount.set_options(Some(options));
    mount.set_uid_mappings(mappings(&wanted.uid_mappings)?);
    mount.set_gid_mappings(mappings(&wanted.gid_mappings)?);
    Ok(mount)
}

/// What may be asked of a volume beyond its own fields (`mount(8)`).
const EXTRA_OPTIONS: [&str; 10] = [
    "noexec",
    "exec",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
];

fn propagation(wanted: &model::Mount, source: &Source) -> Result<&'static str, SpecError> {
    let refuse = |problem: &str| {
        Err(SpecError::unsupported(
            "config.mounts.propagation",
            format!("{} {problem}", wanted.host_path),
        ))
    };
    match (wanted.propagation, source.peers) {
        (Propagation::Private, _) => Ok("rprivate"),
        (Propagation::HostToContainer, Peers::Shared | Peers::Slave) => Ok("rslave"),
        (Propagation::HostToContainer, Peers::Private) => {
            refuse("is on a private mount; HostToContainer needs a shared or slave one")
        }
        (Propagation::Bidirectional, Peers::Shared) => Ok("rshared"),
        (Propagation::Bidirectional, Peers::Slave | Peers::Private) => {
            refuse("is not on a shared mount, which Bidirectional needs")
        }
    }
}

fn mappings(list: &[IdMapping]) -> Result<Option<Vec<LinuxIdMapping>>, SpecError> {
    if list.is_empty() {
        return Ok(None);
    }
    list.iter()
        .map(|mapping| {
            LinuxIdMappingBuilder::default()
                .host_id(mapping.host_id)
                .container_id(mapping.container_id)
                .size(mapping.length)
                .build()
                .map_err(|error| SpecError::invalid("config.mounts.uidMappings", error.to_string()))
        })
        .collect::<Result<_, _>>()
        .map(Some)
}
