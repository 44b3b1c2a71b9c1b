use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::base::id::{ContainerId, NoRandom, SandboxId};
use crate::base::teardown::Failures;
use crate::cgroup::CgroupError;
use crate::sandbox;
use crate::store::StoreError;

use super::ports::{Cause, RuntimeError};
use super::spec::SpecError;
use super::state::{Denied, Stage};

/// A container operation that did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ContainerError {
    /// The request can't be fulfilled. Nothing was done. (gRPC InvalidArgument
    /// for `Invalid`, FailedPrecondition for `Unsupported`)
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// No such container. (gRPC NotFound, InvalidArgument)
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// No such pod. (gRPC NotFound, InvalidArgument)
    #[error(transparent)]
    PodLookup(#[from] sandbox::LookupError),
    /// The image isn't here. (gRPC NotFound)
    #[error("image {image:?} is not on this node")]
    ImageNotFound {
        /// As asked for.
        image: String,
    },
    /// The pod takes no containers. (gRPC FailedPrecondition)
    #[error("pod sandbox {id} is not ready")]
    PodNotReady {
        /// Which pod.
        id: SandboxId,
    },
    /// A container of this name exists and is not what the request asks for.
    /// (gRPC AlreadyExists)
    #[error("container {name} exists as {id} with another {difference}")]
    AlreadyExists {
        /// `name_attempt`.
        name: String,
        /// The existing one.
        id: ContainerId,
        /// The first field that differs.
        difference: &'static str,
    },
    /// Its state doesn't allow it. (gRPC FailedPrecondition)
    #[error("container {id}")]
    Denied {
        /// Which container.
        id: ContainerId,
        /// Why not.
        #[source]
        reason: Denied,
    },
    /// The creation failed; nothing half-made stays. (gRPC Internal)
    #[error(transparent)]
    Create(Arc<CreateError>),
    /// The shim failed. (gRPC Internal)
    #[error("{operation} container {id}")]
    Runtime {
        /// start, exec in, ...
        operation: &'static str,
        /// Which container.
        id: ContainerId,
        /// Why.
        #[source]
        source: Arc<RuntimeError>,
    },
    /// The command of an ExecSync did not end in time and was killed; the
    /// container is untouched. (gRPC DeadlineExceeded)
    #[error("the command in container {id} did not end within {:.1} s", timeout.as_secs_f64())]
    DeadlineExceeded {
        /// Which container.
        id: ContainerId,
        /// What the request allowed.
        timeout: Duration,
    },
    /// SIGKILL had no effect so far (uninterruptible sleep); the kill goes on.
    /// (gRPC Internal)
    #[error("container {id} outlives SIGKILL; killing it goes on")]
    OutlivesKill {
        /// Which container.
        id: ContainerId,
    },
    /// Some of what it holds could not be given back. The rest was, and the
    /// call may be repeated. (gRPC Internal)
    #[error("remove what container {id} holds")]
    Release {
        /// Which container.
        id: ContainerId,
        /// The steps that failed.
        #[source]
        failures: Arc<Failures>,
    },
    /// Some containers of a pod could not be stopped or removed. (gRPC Internal)
    #[error("end the containers of pod sandbox {id}")]
    Pod {
        /// Which pod.
        id: SandboxId,
        /// One a container.
        #[source]
        failures: Arc<Failures>,
    },
    /// The pod itself. (gRPC code as for the pod's error)
    #[error(transparent)]
    Sandbox(#[from] sandbox::SandboxError),
    /// No id could be made. (gRPC Internal)
    #[error("make a container id")]
    Id(#[from] NoRandom),
    /// The daemon is shutting down, or the owner died. (gRPC Unavailable)
    #[error("nobody answers for container {id}")]
    Ended {
        /// Which container.
        id: ContainerId,
    },
}

/// An id or prefix that names no container, or no single one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// None. (gRPC NotFound)
    #[error("no container {0:?}")]
    NotFound(String),
    /// More than one starts so. (gRPC InvalidArgument)
    #[error("{prefix:?} is the beginning of {count} container ids")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many match.
        count: usize,
    },
    /// The empty string is no prefix of everything. (gRPC InvalidArgument)
    #[error("the container id is empty")]
    Empty,
}

/// Why a container could not be created.
#[derive(Debug, thiserror::Error)]
#[error("create container {name}: {stage}, after {:.1} s{}", after.as_secs_f64(), Failures::note(cleanup.as_ref()))]
pub struct CreateError {
    /// `name_attempt`.
    pub name: String,
    /// The step that failed.
    pub stage: Stage,
    /// How long the whole had taken.
    pub after: Duration,
    /// Why it failed.
    #[source]
    pub cause: StepError,
    /// What removing the half-made container could not remove.
    pub cleanup: Option<Failures>,
}

/// The cause of a failed step of the creation.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The request.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The pod is being stopped, or never was ready.
    #[error("pod sandbox {0} is not ready")]
    PodNotReady(SandboxId),
    /// The image isn't here.
    #[error("image {0:?} is not on this node")]
    NoImage(String),
    /// Looking the image up, or reading its users.
    #[error("read image {image:?}")]
    Image {
        /// As asked for.
        image: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A volume's or device's place on the host.
    #[error("{operation} {}", path.display())]
    Host {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The container's cgroup.
    #[error("cgroup of the container")]
    Cgroup(#[from] CgroupError),
    /// The record.
    #[error("record of the container")]
    Record(#[from] StoreError),
    /// A JSON document.
    #[error("encode the spec")]
    Encode(#[from] serde_json::Error),
    /// The snapshot.
    #[error("prepare snapshot")]
    Snapshot(#[source] Cause),
    /// The shim.
    #[error("shim")]
    Runtime(#[from] RuntimeError),
    /// A worker thread panicked.
    #[error("a worker thread ended early")]
    Worker(#[from] tokio::task::JoinError),
}

impl StepError {
    pub(super) fn host(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Host {
            operation,
            path,
            source,
        }
    }
}
