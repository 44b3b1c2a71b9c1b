use std::sync::Arc;
use std::time::Duration;

use crate::base::id::{NoRandom, SandboxId};
use crate::base::teardown::Failures;
use crate::cgroup::CgroupError;
use crate::cni::{BadBandwidth, CniError};
use crate::netns::NetnsError;
use crate::store::StoreError;

use super::files::FileError;
use super::init::InitError;
use super::state::{Denied, Stage};

/// A sandbox operation that did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SandboxError {
    /// The request itself is wrong. Nothing was done. (gRPC InvalidArgument)
    #[error("{field} of the pod sandbox: {problem}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// No such runtime handler. Nothing was done. (gRPC InvalidArgument)
    #[error("runtime handler {handler:?} is not configured")]
    UnknownRuntimeHandler {
        /// The handler asked for.
        handler: String,
    },
    /// The node can't do what the request needs. (gRPC FailedPrecondition)
    #[error("this node can't run the pod sandbox: {problem}")]
    Unsupported {
        /// What is missing.
        problem: String,
    },
    /// A sandbox of this name exists and is not what the request asks for.
    /// (gRPC AlreadyExists)
    #[error("pod sandbox {name} exists as {id}: {difference}")]
    AlreadyExists {
        /// `name_namespace_uid_attempt`.
        name: String,
        /// The existing one.
        id: SandboxId,
        /// The field that differs, or that the existing one isn't ready.
        difference: String,
    },
    /// The creation failed. (gRPC Internal)
    #[error(transparent)]
    Create(Arc<CreateError>),
    /// The sandbox is in a phase that doesn't allow it. (gRPC FailedPrecondition)
    #[error("pod sandbox {id}")]
    Denied {
        /// Which sandbox.
        id: SandboxId,
        /// Why not.
        #[source]
        reason: Denied,
    },
    /// Some of what the sandbox holds could not be given back. The rest was, and
    /// the call may be repeated. (gRPC Internal)
    #[error("release what pod sandbox {id} holds")]
    Release {
        /// Which sandbox.
        id: SandboxId,
        /// The steps that failed.
        #[source]
        failures: Arc<Failures>,
    },
    /// No id could be made. (gRPC Internal)
    #[error("make a sandbox id")]
    Id(#[from] NoRandom),
    /// The daemon is shutting down, or the owner of the sandbox died. (gRPC Unavailable)
    #[error("nobody answers for pod sandbox {id}")]
    Ended {
        /// Which sandbox.
        id: SandboxId,
    },
}

/// Why a sandbox could not be created.
#[derive(Debug, thiserror::Error)]
#[error("create pod sandbox {name}: {stage}, after {:.1} s{}", after.as_secs_f64(), Failures::note(cleanup.as_ref()))]
pub struct CreateError {
    /// `name_namespace_uid_attempt`.
    pub name: String,
    /// The step that failed.
    pub stage: Stage,
    /// How long that step had taken.
    pub after: Duration,
    /// Why it failed.
    #[source]
    pub cause: StepError,
    /// What removing the half-made sandbox could not remove. Then it stays
    /// listed as not ready, and stopping it tries again.
    pub cleanup: Option<Failures>,
}

/// The cause of a failed step.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The record.
    #[error("record of the sandbox")]
    Record(#[from] StoreError),
    /// Namespaces.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Files and mounts.
    #[error(transparent)]
    File(#[from] FileError),
    /// The network.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// The limits of the network.
    #[error(transparent)]
    Bandwidth(#[from] BadBandwidth),
    /// A port mapping.
    #[error("host_ip {host_ip:?} is no address")]
    HostIp {
        /// As it came.
        host_ip: String,
    },
    /// Nobody is there to run PID 1.
    #[error("there is no shim to run PID 1 of the pod")]
    NoInit,
    /// PID 1.
    #[error("PID 1 of the pod")]
    Init(#[source] InitError),
    /// The user namespace.
    #[error("user namespace of the pod")]
    UserNamespace(#[source] InitError),
    /// A thread of ours panicked.
    #[error("a worker thread")]
    Worker(#[source] tokio::task::JoinError),
}

/// The sandboxes can't be opened at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The records' directory.
    #[error("open the records of sandboxes")]
    Records(#[from] StoreError),
    /// The directory of the network namespaces.
    #[error("open the network namespaces")]
    Netns(#[from] NetnsError),
    /// The directories of the other namespaces and of /dev/shm.
    #[error("open the state of sandboxes")]
    Files(#[from] FileError),
    /// The network's intents.
    #[error("open the network intents")]
    Cni(#[from] CniError),
    /// The sweep.
    #[error("sweep what sandboxes left behind")]
    Sweep(#[source] Box<StepError>),
}

/// An id or prefix that names no sandbox, or no single one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// None. (gRPC NotFound)
    #[error("no pod sandbox {0:?}")]
    NotFound(String),
    /// More than one starts so. (gRPC InvalidArgument)
    #[error("{prefix:?} is the beginning of {count} pod sandbox ids")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many match.
        count: usize,
    },
    /// The empty string is no prefix of everything. (gRPC InvalidArgument)
    #[error("the pod sandbox id is empty")]
    Empty,
}
