//! What every owner task of a container shares.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use longshore_snapshotter::LayerId;
use tokio::sync::mpsc;

use crate::base::id::ContainerId;
use crate::base::tasks::Tasks;
use crate::cgroup::Hierarchies;
use crate::store::Records;

use super::ports::{Images, Pods, Runtime, Snapshots};
use super::record::ContainerRecord;
use super::spec::HostFacts;
use super::table::Table;

/// What the containers of a daemon are built on.
#[derive(Debug)]
pub struct ContainersConfig {
    /// Records, exit records, upper and work directories.
    pub containers: PathBuf,
    /// Where shims stage root file systems; on the private tmpfs.
    pub stage: PathBuf,
    /// libcontainer's own state; on the private tmpfs.
    pub runtime_state: PathBuf,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The host's cgroups.
    pub cgroups: Arc<Hierarchies>,
    /// What the node can do.
    pub host: HostFacts,
    /// Runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// Looks images up.
    pub images: Arc<dyn Images>,
    /// Makes snapshots.
    pub snapshots: Arc<dyn Snapshots>,
    /// Looks pods up, stops and removes them.
    pub pods: Arc<dyn Pods>,
    /// Owns every task.
    pub tasks: Tasks,
}

/// The same, opened.
#[derive(Debug)]
pub(super) struct World {
    pub(super) stage: PathBuf,
    pub(super) runtime_state: PathBuf,
    pub(super) records: Records<ContainerRecord>,
    pub(super) cgroups: Arc<Hierarchies>,
    pub(super) host: HostFacts,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) images: Arc<dyn Images>,
    pub(super) snapshots: Arc<dyn Snapshots>,
    pub(super) pods: Arc<dyn Pods>,
    pub(super) tasks: Tasks,
    pub(super) table: Table,
    /// Directories whose exit.json and record are to be made durable.
    pub(super) syncs: mpsc::Sender<PathBuf>,
    /// Layers of containers that a newer daemon recorded: nobody owns them here,
    /// and they may run.
    pub(super) left_alone: Mutex<Vec<LayerId>>,
}

impl World {
    pub(super) fn stage_dir(&self, id: &ContainerId) -> PathBuf {
        self.stage.join(id.as_str())
    }

    pub(super) fn state_dir(&self, id: &ContainerId) -> PathBuf {
        self.runtime_state.join(id.as_str())
    }

    pub(super) fn exit_record(&self, id: &ContainerId) -> PathBuf {
        self.records.dir(id.as_str()).join("exit.json")
    }
}
