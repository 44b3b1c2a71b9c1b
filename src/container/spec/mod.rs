//! From a request to the OCI runtime spec. Pure: whatever must be asked of the
//! host or of the image was asked before and is in [`Inputs`].
//!
//! ```text
//! ContainerConfig  Pod  ImageFacts  UserRecords  HostFacts  Sources
//!        \          |        |          |           |         /
//!         process  namespaces  mounts  devices  resources  security
//!                               |
//!                      oci_spec::runtime::Spec, ResolvedUser
//! ```
//!
//! The spec is what the daemon *means*; the shim works around libcontainer's
//! gaps itself. The golden files beside the tests show what comes out.

mod devices;
mod error;
mod host;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod security;
mod users;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{Linux, Mount, Process, Root, Spec};

use crate::cgroup::CgroupPath;
use crate::sandbox::model::SandboxConfig;

use super::model::ContainerConfig;

pub use error::SpecError;
pub use host::HostFacts;
pub use mounts::{Peers, Source};
pub use security::{SeccompChoice, seccomp_choice};
pub use users::{ResolvedUser, UserRecords, resolve};

/// What a spec takes of its pod.
#[derive(Debug, Clone)]
pub struct Pod<'a> {
    /// Sandbox id.
    pub id: &'a str,
    /// What the pod was asked to be.
    pub config: &'a SandboxConfig,
    /// Host name as its containers see it.
    pub hostname: &'a str,
    /// Pinned network namespace; `None`: the node's.
    pub net: Option<PathBuf>,
    /// Pinned IPC namespace; `None`: the node's.
    pub ipc: Option<PathBuf>,
    /// Pinned UTS namespace; `None`: the node's.
    pub uts: Option<PathBuf>,
    /// Shared PID namespace; `None`: the pod has none.
    pub pid: Option<PathBuf>,
    /// Pinned user namespace; `None`: the node's.
    pub user: Option<PathBuf>,
    /// Source of `/etc/hostname`.
    pub hostname_file: PathBuf,
    /// Source of `/etc/hosts`.
    pub hosts_file: PathBuf,
    /// Source of `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Source of `/dev/shm`.
    pub shm: PathBuf,
}

/// What a spec takes of the image's configuration (OCI image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// Name for the annotations.
    pub name: String,
    /// `config.Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `config.Cmd`.
    pub cmd: Vec<String>,
    /// `config.Env`.
    pub env: Vec<String>,
    /// `config.WorkingDir`.
    pub working_dir: String,
    /// `config.User`.
    pub user: String,
}

impl ImageFacts {
    /// The facts of an image's configuration.
    #[must_use]
    pub fn of(name: String, image: &oci_spec::image::ImageConfiguration) -> Self {
        let Some(config) = image.config() else {
            return Self {
                name,
                ..Self::default()
            };
        };
        Self {
            name,
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
        }
    }
}

/// A device node of the host that the container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Where in the container.
    pub path: PathBuf,
    /// A block device; else a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Subset of `rwm` for the device cgroup.
    pub access: String,
}

/// Everything a spec follows from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The request.
    pub config: &'a ContainerConfig,
    /// The pod.
    pub pod: Pod<'a>,
    /// The image.
    pub image: &'a ImageFacts,
    /// The node.
    pub host: &'a HostFacts,
    /// Who runs it, from [`resolve`].
    pub user: &'a ResolvedUser,
    /// The container's cgroup.
    pub cgroup: &'a CgroupPath,
    /// Where each of `config.mounts` comes from, in their order.
    pub sources: &'a [Source],
    /// The nodes behind `config.devices`, or all of the host's for a
    /// privileged container.
    pub devices: &'a [DeviceNode],
    /// PID namespace of the container that `namespaces.target_id` names.
    pub target_pid_ns: Option<PathBuf>,
}

/// The spec of a container.
///
/// # Errors
/// [`SpecError`] naming the field of the request that can't be fulfilled.
pub fn build(inputs: &Inputs<'_>) -> Result<Spec, SpecError> {
    security::check_privileged(inputs)?;
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"));
    root.set_readonly(Some(inputs.config.security.readonly_rootfs));
    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned());
    spec.set_root(Some(root));
    spec.set_hostname(None);
    spec.set_mounts(Some(mounts::build(inputs)?));
    spec.set_process(Some(build_process(inputs)?));
    spec.set_annotations(Some(annotations(inputs)));
    spec.set_linux(Some(build_linux(inputs, spec.mounts().as_deref())?));
    Ok(spec)
}

fn build_process(inputs: &Inputs<'_>) -> Result<Process, SpecError> {
    let config = inputs.config;
    let mut process = Process::default();
    process.set_terminal(Some(config.tty));
    process.set_user(inputs.user.to_oci());
    process.set_args(Some(process::args(config, inputs.image)?));
    process.set_env(Some(process::env(
        config,
        inputs.image,
        inputs.pod.hostname,
    )?));
    process.set_cwd(process::cwd(config, inputs.image)?);
    process.set_capabilities(Some(security::capabilities(config, inputs.host)?));
    process.set_rlimits(None);
    // Absent, not false: libcontainer loads the filter too late otherwise.
    process.set_no_new_privileges(config.security.no_new_privs.then_some(true));
    process.set_apparmor_profile(security::apparmor(config, inputs.host)?);
    process.set_selinux_label(security::selinux(config, inputs.pod.config, inputs.host)?);
    process.set_oom_score_adj(resources::oom_score_adj(config, inputs.host)?);
    Ok(process)
}

fn build_linux(inputs: &Inputs<'_>, mounts: Option<&[Mount]>) -> Result<Linux, SpecError> {
    let security = &inputs.config.security;
    let mut linux = Linux::default();
    let mut resources = resources::build(inputs.config, inputs.host)?;
    resources.set_devices(Some(devices::rules(inputs)));
    linux.set_resources(Some(resources));
    linux.set_cgroups_path(Some(PathBuf::from(inputs.cgroup.as_str())));
    linux.set_namespaces(Some(namespaces::build(inputs)?));
    linux.set_devices(devices::nodes(inputs));
    linux.set_seccomp(None);
    linux.set_rootfs_propagation(mounts::rootfs_propagation(mounts.unwrap_or_default()));
    let (masked, readonly) = if security.privileged {
        (None, None)
    } else {
        let list = |paths: &[String]| (!paths.is_empty()).then(|| paths.to_vec());
        (list(&security.masked_paths), list(&security.readonly_paths))
    };
    linux.set_masked_paths(masked);
    linux.set_readonly_paths(readonly);
    linux.set_mount_label(None);
    Ok(linux)
}

/// What kata, gVisor, device tool kits and audit tools read: the set that
/// containerd's CRI plugin writes.
fn annotations(inputs: &Inputs<'_>) -> HashMap<String, String> {
    let pod = &inputs.pod.config.metadata;
    [
        ("container-type", "container"),
        ("sandbox-id", inputs.pod.id),
        ("sandbox-name", &pod.name),
        ("sandbox-namespace", &pod.namespace),
        ("sandbox-uid", &pod.uid),
        ("container-name", &inputs.config.metadata.name),
        ("image-name", &inputs.image.name),
    ]
    .into_iter()
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()))
    .collect()
}
