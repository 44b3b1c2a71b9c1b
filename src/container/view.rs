//! What others see of a container.

use std::path::PathBuf;
use std::sync::Arc;

use longshore_snapshotter::LayerId;

use crate::base::driver::Handle;
use crate::base::id::{ContainerId, SandboxId};

use super::driver::Request;
use super::error::CreateError;
use super::model::ContainerConfig;
use super::record::ContainerRecord;
use super::spec::ResolvedUser;
use super::state::{Phase, Stage, Stop};

/// CRI `ContainerState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// `CONTAINER_CREATED`.
    Created,
    /// `CONTAINER_RUNNING`, also while it is being stopped.
    Running,
    /// `CONTAINER_EXITED`.
    Exited,
}

/// A container as it was when this was published.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// Its id.
    pub id: ContainerId,
    /// Its pod.
    pub sandbox_id: SandboxId,
    /// What it was asked to be.
    pub config: Arc<ContainerConfig>,
    /// Where in its life it is.
    pub phase: Phase,
    /// Process id of its init, 0 unless created or running.
    pub pid: i32,
    /// `sha256:<config digest>`; empty while it is being created.
    pub image_id: String,
    /// Repository digest of its image.
    pub image_ref: String,
    /// A tag of its image, for people.
    pub image_name: String,
    /// Layers of its image, bottom to top.
    pub layers: Vec<LayerId>,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Full path of its log; `None`: no log.
    pub log_path: Option<PathBuf>,
    /// Who runs it.
    pub user: ResolvedUser,
    /// Signal number that asks it to stop.
    pub stop_signal: i32,
    /// Its cgroup, empty while it is being created.
    pub cgroup: String,
    /// Its directory, with `spec.json` in it.
    pub directory: PathBuf,
    /// Its creation failed. Listed (as exited) only where something of it
    /// could not be removed.
    pub failure: Option<Arc<CreateError>>,
}

impl ContainerView {
    pub(super) fn of(record: &ContainerRecord, phase: Phase, directory: PathBuf) -> Self {
        Self {
            id: record.id.clone(),
            sandbox_id: record.sandbox_id.clone(),
            config: Arc::new(record.config.clone()),
            phase,
            pid: 0,
            image_id: record.image_id.to_string(),
            image_ref: record.image_ref.clone(),
            image_name: record.image_name.clone(),
            layers: record.layers.clone(),
            created_at: record.created_at,
            log_path: record.log_path.clone(),
            user: record.user.clone(),
            stop_signal: record.stop_signal,
            cgroup: record.cgroup.to_string(),
            directory,
            failure: None,
        }
    }

    /// The view of one that is only just reserved.
    pub(super) fn reserved(
        id: ContainerId,
        sandbox_id: SandboxId,
        config: Arc<ContainerConfig>,
        now: i64,
        directory: PathBuf,
    ) -> Self {
        Self {
            id,
            sandbox_id,
            config,
            phase: Phase::Creating {
                stage: Stage::Resolve,
                since: now,
            },
            pid: 0,
            image_id: String::new(),
            image_ref: String::new(),
            image_name: String::new(),
            layers: Vec::new(),
            created_at: now,
            log_path: None,
            user: ResolvedUser::default(),
            stop_signal: libc::SIGTERM,
            cgroup: String::new(),
            directory,
            failure: None,
        }
    }

    /// The CRI's state; `None` while it is being created and once it is gone:
    /// it is not listed then.
    #[must_use]
    pub fn state(&self) -> Option<ContainerState> {
        match &self.phase {
            Phase::Creating { .. } | Phase::Gone => None,
            Phase::Created
            | Phase::Stopping {
                started_at: ..=0, ..
            } => Some(ContainerState::Created),
            Phase::Running { .. } | Phase::Stopping { .. } => Some(ContainerState::Running),
            Phase::Exited(_) => Some(ContainerState::Exited),
        }
    }

    /// Nanoseconds since the epoch, 0 before.
    #[must_use]
    pub fn started_at(&self) -> i64 {
        self.phase.started_at()
    }

    /// Nanoseconds since the epoch, 0 before.
    #[must_use]
    pub fn finished_at(&self) -> i64 {
        match &self.phase {
            Phase::Exited(exit) => exit.finished_at,
            Phase::Creating { .. }
            | Phase::Created
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Gone => 0,
        }
    }

    /// Exit code, 0 before.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match &self.phase {
            Phase::Exited(exit) => exit.code,
            Phase::Creating { .. }
            | Phase::Created
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Gone => 0,
        }
    }

    /// `ContainerStatus.reason`, empty before the exit.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match &self.phase {
            Phase::Exited(exit) => exit.reason.as_str(),
            Phase::Creating { .. }
            | Phase::Created
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Gone => "",
        }
    }

    /// `ContainerStatus.message`.
    #[must_use]
    pub fn message(&self) -> &str {
        match &self.phase {
            Phase::Exited(exit) => &exit.message,
            Phase::Creating { .. }
            | Phase::Created
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Gone => "",
        }
    }

    /// What a verbose ContainerStatus adds under the key `info`: facts and the
    /// OCI spec. Reads a file.
    #[must_use]
    pub fn info(&self) -> serde_json::Value {
        let phase = match &self.phase {
            Phase::Creating { stage, .. } => format!("creating: {stage}"),
            Phase::Created => "created".to_owned(),
            Phase::Running { .. } => "running".to_owned(),
            Phase::Stopping { stop, .. } => match stop {
                Stop::Grace(_) => "stopping".to_owned(),
                Stop::Killing(_) => "killing".to_owned(),
            },
            Phase::Exited(_) => "exited".to_owned(),
            Phase::Gone => "gone".to_owned(),
        };
        let spec = std::fs::read(self.directory.join("spec.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        serde_json::json!({
            "sandboxID": self.sandbox_id.as_str(),
            "phase": phase,
            "pid": self.pid,
            "cgroup": self.cgroup,
            "directory": self.directory,
            "layers": self.layers,
            "config": *self.config,
            "runtimeSpec": spec,
        })
    }
}

/// The handle of one container.
#[derive(Debug, Clone)]
pub struct ContainerHandle {
    pub(super) id: ContainerId,
    pub(super) owner: Handle<Request, ContainerView>,
}

impl ContainerHandle {
    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The container as last published. Never waits.
    #[must_use]
    pub fn view(&self) -> Arc<ContainerView> {
        self.owner.state()
    }

    /// A receiver of every later view.
    #[must_use]
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<Arc<ContainerView>> {
        self.owner.subscribe()
    }
}
