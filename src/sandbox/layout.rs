//! Where everything of a sandbox is. All names follow from the instance and the
//! id, so that they are known before anything is made.

use std::path::{Path, PathBuf};

use crate::base::id::{InstanceId, SandboxId};
use crate::cgroup::{CgroupError, CgroupPath, container_path, parent_path};

use super::model::{NamespaceMode, SandboxConfig};
use super::view::{NamespacePaths, SandboxFiles};

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) instance: InstanceId,
    /// `<root>/sandboxes`.
    pub(super) records: PathBuf,
    /// `<state>/ns`.
    pub(super) namespaces: PathBuf,
    /// `<state>/shm`.
    pub(super) shm: PathBuf,
    /// `/run/netns`.
    pub(super) netns: PathBuf,
}

impl Layout {
    /// What the names of our network namespaces begin with.
    pub(super) fn netns_prefix(&self) -> String {
        format!("longshore-{}-", self.instance)
    }

    pub(super) fn netns_pin(&self, id: &SandboxId) -> PathBuf {
        self.netns.join(format!("{}{id}", self.netns_prefix()))
    }

    pub(super) fn ns_dir(&self, id: &SandboxId) -> PathBuf {
        self.namespaces.join(id.as_str())
    }

    pub(super) fn shm_dir(&self, id: &SandboxId) -> PathBuf {
        self.shm.join(id.as_str())
    }

    /// The namespaces that a sandbox of this configuration has of its own.
    pub(super) fn namespaces(&self, id: &SandboxId, config: &SandboxConfig) -> NamespacePaths {
        let options = &config.namespaces;
        let pin = |own: bool, name: &str| own.then(|| self.ns_dir(id).join(name));
        let own_network = !config.host_network();
        NamespacePaths {
            net: own_network.then(|| self.netns_pin(id)),
            ipc: pin(options.ipc != NamespaceMode::Node, "ipc"),
            // The node's network comes with the node's host name.
            uts: pin(own_network, "uts"),
            pid: pin(options.pid == NamespaceMode::Pod, "pid"),
            user: pin(options.user.is_some(), "user"),
        }
    }

    pub(super) fn files(&self, id: &SandboxId, config: &SandboxConfig) -> SandboxFiles {
        let dir = self.records.join(id.as_str());
        SandboxFiles {
            hostname: dir.join("hostname"),
            hosts: dir.join("hosts"),
            resolv_conf: dir.join("resolv.conf"),
            shm: if config.namespaces.ipc == NamespaceMode::Node {
                Path::new("/dev/shm").to_owned()
            } else {
                self.shm_dir(id)
            },
        }
    }

    /// The group of our pods that came without one.
    fn default_cgroup(&self, id: &SandboxId) -> Result<CgroupPath, CgroupError> {
        CgroupPath::new(&format!("/longshore-{}", self.instance))?.child(id.as_str())
    }

    pub(super) fn cgroup(
        &self,
        id: &SandboxId,
        config: &SandboxConfig,
    ) -> Result<CgroupPath, CgroupError> {
        parent_path(&config.cgroup_parent, &self.default_cgroup(id)?)
    }

    /// The group of the pod's PID 1: a leaf of its own, as on cgroup v2 a group
    /// with groups below it holds no processes.
    pub(super) fn init_cgroup(
        &self,
        id: &SandboxId,
        parent: &CgroupPath,
    ) -> Result<CgroupPath, CgroupError> {
        container_path(parent, &format!("init-{id}"))
    }
}
