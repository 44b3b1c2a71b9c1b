//! The mechanisms that every sandbox works with.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::base::id::SandboxId;
use crate::base::tasks::Tasks;
use crate::cgroup::{CgroupError, CgroupPath, Hierarchies};
use crate::cni::Cni;
use crate::store::Records;

use super::error::StepError;
use super::files::HostFiles;
use super::init::PodInits;
use super::layout::Layout;
use super::model::SandboxConfig;
use super::record::{Recorded, SandboxRecord};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Env {
    pub(super) layout: Layout,
    pub(super) records: Records<SandboxRecord>,
    pub(super) cni: Cni,
    pub(super) cgroups: Hierarchies,
    /// Held while pods' cgroups are made or removed: the last pod of a parent
    /// takes it along, and another one must not be making its own in it.
    pub(super) cgroup_tree: Mutex<()>,
    pub(super) host: HostFiles,
    pub(super) inits: Option<Arc<dyn PodInits>>,
    pub(super) tasks: Tasks,
}

impl Env {
    /// Runs `work` on a thread that may block.
    pub(super) async fn blocking<T, E>(
        self: &Arc<Self>,
        work: impl FnOnce(&Env) -> Result<T, E> + Send + 'static,
    ) -> Result<T, StepError>
    where
        T: Send + 'static,
        E: Into<StepError> + Send + 'static,
    {
        let env = self.clone();
        match self.tasks.spawn_blocking(move || work(&env)).await {
            Ok(result) => result.map_err(Into::into),
            Err(panicked) => Err(StepError::Worker(panicked)),
        }
    }

    /// The record of a sandbox that doesn't exist yet: every name that it will have.
    pub(super) fn plan(
        &self,
        id: SandboxId,
        created_at: i64,
        config: SandboxConfig,
        node_name: &str,
    ) -> Result<SandboxRecord, CgroupError> {
        let cgroup = self.layout.cgroup(&id, &config)?;
        let namespaces = self.layout.namespaces(&id, &config);
        let init_cgroup = namespaces
            .pid
            .is_some()
            .then(|| self.layout.init_cgroup(&id, &cgroup));
        let hostname = match config.hostname.as_str() {
            "" if config.host_network() => node_name.to_owned(),
            "" => id.as_str().chars().take(12).collect(),
            given => given.to_owned(),
        };
        Ok(SandboxRecord {
            files: self.layout.files(&id, &config),
            state: Recorded::Creating,
            ips: Vec::new(),
            identities: Default::default(),
            init_cgroup: init_cgroup.transpose()?,
            init_pid: None,
            made_cgroups: self.missing(&cgroup),
            hostname,
            namespaces,
            cgroup,
            id,
            config,
            created_at,
        })
    }

    /// Directories of the group that are not there, the deepest first.
    fn missing(&self, path: &CgroupPath) -> Vec<PathBuf> {
        let depth = path.as_str().matches('/').count();
        let dirs = self.cgroups.dirs(path);
        let missing = dirs.iter().flat_map(|dir| {
            let below_mount = dir.ancestors().take(depth);
            below_mount.filter(|dir| !dir.exists())
        });
        missing.map(ToOwned::to_owned).collect()
    }
}
