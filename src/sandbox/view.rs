//! What others see of a sandbox.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::driver::Handle;
use crate::base::id::SandboxId;

use super::driver::Request;
use super::model::SandboxConfig;
use super::state::{Phase, Resources};

/// Where the sandbox's own namespaces are pinned; `None`: it has the node's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NamespacePaths {
    /// Network.
    pub net: Option<PathBuf>,
    /// System V IPC and POSIX message queues.
    pub ipc: Option<PathBuf>,
    /// Host name.
    pub uts: Option<PathBuf>,
    /// Process ids, shared by the containers of the pod.
    pub pid: Option<PathBuf>,
    /// User and group ids.
    pub user: Option<PathBuf>,
}

/// Files that the containers of a sandbox get mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxFiles {
    /// For `/etc/hostname`.
    pub hostname: PathBuf,
    /// For `/etc/hosts`, unless the request mounts its own there.
    pub hosts: PathBuf,
    /// For `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// For `/dev/shm`: the pod's tmpfs, or the node's with the node's IPC namespace.
    pub shm: PathBuf,
}

/// A sandbox as it was when this was published.
#[derive(Debug, Clone)]
pub struct SandboxView {
    /// Its id.
    pub id: SandboxId,
    /// What it was asked to be.
    pub config: Arc<SandboxConfig>,
    /// Where in its life it is.
    pub phase: Phase,
    /// Nanoseconds since the epoch; unique, so that the newest sorts first.
    pub created_at: i64,
    /// Addresses, the primary one first; empty with the node's network.
    pub ips: Vec<IpAddr>,
    /// Host name as the containers see it.
    pub hostname: String,
    /// Its namespaces.
    pub namespaces: NamespacePaths,
    /// Its files.
    pub files: SandboxFiles,
    /// Parent of the containers' cgroups: what the request says, else a default.
    pub cgroup_parent: String,
}

impl SandboxView {
    /// The pinned network namespace; `None` with the node's network.
    #[must_use]
    pub fn netns(&self) -> Option<&Path> {
        self.namespaces.net.as_deref()
    }

    /// Whether containers may be created in it (CRI `SANDBOX_READY`).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase.is_ready()
    }

    /// What a verbose PodSandboxStatus adds under the key `info`.
    #[must_use]
    pub fn info(&self) -> serde_json::Value {
        let phase = match &self.phase {
            Phase::Creating { stage, .. } => format!("creating: {stage}"),
            Phase::Unwinding => "unwinding".to_owned(),
            Phase::Ready => "ready".to_owned(),
            Phase::NotReady { reason, resources } => match resources {
                Resources::Held => format!("not ready, resources held: {reason}"),
                Resources::Released => format!("not ready: {reason}"),
            },
            Phase::Gone { .. } => "gone".to_owned(),
        };
        serde_json::json!({
            "sandboxID": self.id.as_str(),
            "phase": phase,
            "hostname": self.hostname,
            "ips": self.ips,
            "namespaces": self.namespaces,
            "files": self.files,
            "cgroupParent": self.cgroup_parent,
            "config": *self.config,
        })
    }
}

/// The read handle of one sandbox.
#[derive(Debug, Clone)]
pub struct SandboxHandle {
    pub(super) id: SandboxId,
    pub(super) owner: Handle<Request, SandboxView>,
}

impl SandboxHandle {
    /// The sandbox's id.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// The sandbox as last published. Never waits.
    #[must_use]
    pub fn view(&self) -> Arc<SandboxView> {
        self.owner.state()
    }

    /// A receiver of every later view.
    #[must_use]
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<Arc<SandboxView>> {
        self.owner.subscribe()
    }
}
