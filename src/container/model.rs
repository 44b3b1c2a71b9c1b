//! What a container is asked to be, after validation.
//!
//! These types mirror the CRI messages of the same names in what the daemon
//! uses of them; `service::convert` makes them. They are part of the record,
//! so fields are only added, with `#[serde(default)]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sandbox::model::{
    IdMapping, NamespaceOptions, Resources, SecurityProfile, SelinuxOptions,
};

/// Name of a container within its sandbox (CRI `ContainerMetadata`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// Container name.
    pub name: String,
    /// Counts the attempts at this container; part of the name.
    pub attempt: u32,
}

/// CRI `ImageSpec`, as it came and as it is echoed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageSpec {
    /// Name or id of the image.
    pub image: String,
    /// Returned as they came.
    pub annotations: BTreeMap<String, String>,
    /// What the user wrote.
    pub user_specified_image: String,
    /// Runtime handler for which the image was pulled.
    pub runtime_handler: String,
    /// Reference in the runtime, where kubelet resolved one.
    #[serde(default)]
    pub image_ref: String,
}

/// CRI `MountPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Propagation {
    /// `rprivate`.
    #[default]
    Private,
    /// `rslave`.
    HostToContainer,
    /// `rshared`.
    Bidirectional,
}

/// CRI `Mount`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mount {
    /// Where in the container.
    pub container_path: String,
    /// What of the host.
    pub host_path: String,
    /// Read-only at the top.
    pub readonly: bool,
    /// Relabel for SELinux.
    pub selinux_relabel: bool,
    /// Propagation.
    pub propagation: Propagation,
    /// Idmapped mount.
    pub uid_mappings: Vec<IdMapping>,
    /// Idmapped mount.
    pub gid_mappings: Vec<IdMapping>,
    /// Read-only all the way down.
    pub recursive_read_only: bool,
    /// An image volume.
    pub image: Option<ImageSpec>,
    /// Path within the image volume.
    pub image_sub_path: String,
    /// Further mount options.
    #[serde(default)]
    pub mount_options: Vec<String>,
}

/// CRI `Device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where in the container.
    pub container_path: String,
    /// A device or a directory of devices.
    pub host_path: String,
    /// Subset of `rwm`.
    pub permissions: String,
}

/// CRI `Capability`. Names with or without `CAP_`, `ALL` is one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// Added to the default set.
    pub add: Vec<String>,
    /// Dropped from it.
    pub drop: Vec<String>,
    /// Raised in the ambient set too.
    pub add_ambient: Vec<String>,
}

/// CRI `SupplementalGroupsPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// Groups of the user in the image's /etc/group are added.
    #[default]
    Merge,
    /// Only the groups of the request.
    Strict,
}

/// CRI `LinuxContainerSecurityContext`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SecurityContext {
    /// Capabilities.
    pub capabilities: Capabilities,
    /// All rights of the daemon.
    pub privileged: bool,
    /// Namespace modes.
    pub namespaces: NamespaceOptions,
    /// SELinux label.
    pub selinux: Option<SelinuxOptions>,
    /// User id.
    pub run_as_user: Option<i64>,
    /// Group id; needs a user.
    pub run_as_group: Option<i64>,
    /// User name, resolved in the image.
    pub run_as_username: String,
    /// Read-only root file system.
    pub readonly_rootfs: bool,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// What the image's groups do.
    pub groups_policy: GroupsPolicy,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// Replaces the default list.
    pub masked_paths: Vec<String>,
    /// Replaces the default list.
    pub readonly_paths: Vec<String>,
    /// `None`: unconfined.
    pub seccomp: Option<SecurityProfile>,
    /// `None`: the default where AppArmor is on.
    pub apparmor: Option<SecurityProfile>,
}

/// CRI `ContainerConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Its name.
    pub metadata: ContainerMetadata,
    /// Its image.
    pub image: ImageSpec,
    /// Replaces the image's entrypoint (and its cmd) if not empty.
    pub command: Vec<String>,
    /// Replaces the image's cmd.
    pub args: Vec<String>,
    /// Empty: the image's, else `/`.
    pub working_dir: String,
    /// Values are bytes, not always UTF-8.
    pub envs: Vec<(String, Vec<u8>)>,
    /// Volumes.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Returned as they came.
    pub labels: BTreeMap<String, String>,
    /// Returned as they came.
    pub annotations: BTreeMap<String, String>,
    /// Below the sandbox's log directory; empty: no log.
    pub log_path: String,
    /// Keep stdin open.
    pub stdin: bool,
    /// Close it after the first attached client.
    pub stdin_once: bool,
    /// A terminal.
    pub tty: bool,
    /// Resource limits; `None`: none given.
    pub resources: Option<Resources>,
    /// Security context.
    pub security: SecurityContext,
    /// CDI device names.
    pub cdi_devices: Vec<String>,
    /// Signal number to stop with; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<i32>,
}
