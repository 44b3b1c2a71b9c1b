//! The sandbox on disk: the request and every name that follows from it,
//! written before the first effect.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::id::SandboxId;
use crate::cgroup::CgroupPath;
use crate::netns::Identity;
use crate::store::Record;

use super::model::{SandboxConfig, SandboxMetadata};
use super::state::{Phase, Reason, Resources};
use super::view::{NamespacePaths, SandboxFiles, SandboxView};

/// See the module's documentation. Fields are only added, with `#[serde(default)]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub(super) id: SandboxId,
    pub(super) config: SandboxConfig,
    pub(super) created_at: i64,
    pub(super) state: Recorded,
    pub(super) hostname: String,
    pub(super) ips: Vec<IpAddr>,
    pub(super) namespaces: NamespacePaths,
    /// What each pinned namespace is, by its name below `/proc/<pid>/ns`.
    pub(super) identities: BTreeMap<String, Identity>,
    pub(super) files: SandboxFiles,
    pub(super) cgroup: CgroupPath,
    /// Of the pod's PID 1.
    pub(super) init_cgroup: Option<CgroupPath>,
    /// PID 1 of the shared PID namespace, as the daemon sees it.
    pub(super) init_pid: Option<i32>,
    /// Directories of the pod's cgroup that were not there before, the deepest first.
    pub(super) made_cgroups: Vec<PathBuf>,
}

/// [`Phase`] as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Recorded {
    /// Being created, or unwound.
    Creating,
    /// Ready, unless the start finds otherwise.
    Ready,
    /// Not ready.
    NotReady {
        /// In words.
        reason: String,
        /// Whether nothing but the record and files is left.
        released: bool,
    },
}

impl Record for SandboxRecord {
    const KIND: &'static str = "sandbox";
    const VERSION: u32 = 1;
}

impl From<&Phase> for Recorded {
    fn from(phase: &Phase) -> Self {
        match phase {
            Phase::Creating { .. } | Phase::Unwinding | Phase::Gone { .. } => Self::Creating,
            Phase::Ready => Self::Ready,
            Phase::NotReady { reason, resources } => Self::NotReady {
                reason: reason.to_string(),
                released: *resources == Resources::Released,
            },
        }
    }
}

impl Recorded {
    /// The phase of a recorded sandbox that wasn't ready.
    pub(super) fn not_ready(reason: &str, released: bool) -> Phase {
        Phase::NotReady {
            reason: Reason::Recorded(reason.to_owned()),
            resources: if released {
                Resources::Released
            } else {
                Resources::Held
            },
        }
    }
}

impl SandboxRecord {
    /// The sandbox in `phase`, as others see it.
    pub(super) fn view(&self, config: &Arc<SandboxConfig>, phase: Phase) -> SandboxView {
        SandboxView {
            id: self.id.clone(),
            config: config.clone(),
            phase,
            created_at: self.created_at,
            ips: self.ips.clone(),
            hostname: self.hostname.clone(),
            namespaces: self.namespaces.clone(),
            files: self.files.clone(),
            cgroup_parent: self.cgroup.to_string(),
        }
    }
}

/// The name as messages show it.
pub(super) fn full_name(name: &SandboxMetadata) -> String {
    format!(
        "{}_{}_{}_{}",
        name.name, name.namespace, name.uid, name.attempt
    )
}
