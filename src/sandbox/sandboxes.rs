//! The handle of all sandboxes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::base::driver::pair;
use crate::base::id::{InstanceId, SandboxId};
use crate::base::tasks::Tasks;
use crate::cgroup::Hierarchies;
use crate::cni::Cni;
use crate::netns::prepare_dir;
use crate::store::Records;

use super::driver::{Driver, Request, Start};
use super::env::Env;
use super::error::{LookupError, OpenError, SandboxError, StepError};
use super::files::{self, HostFiles};
use super::init::PodInits;
use super::layout::Layout;
use super::model::SandboxConfig;
use super::record::{SandboxRecord, full_name};
use super::recover;
use super::state::{Ask, Phase, Reason};
use super::table::{Reserved, Table};
use super::validate::{difference, validate};
use super::view::{SandboxHandle, SandboxView};

/// Requests that may wait for one sandbox.
const MAILBOX: usize = 16;

/// What [`Sandboxes`] works with.
#[derive(Debug)]
pub struct SandboxesConfig {
    /// Part of every name that is visible on the host.
    pub instance: InstanceId,
    /// `base::boot::boot_id()`; tests pass another one for a reboot.
    pub boot_id: String,
    /// `<root>/sandboxes`.
    pub records: PathBuf,
    /// `<state>/ns`, on the private tmpfs.
    pub namespaces: PathBuf,
    /// `<state>/shm`, on the private tmpfs.
    pub shm: PathBuf,
    /// `/run/netns`.
    pub netns: PathBuf,
    /// The pod network.
    pub cni: Cni,
    /// The cgroup file systems.
    pub cgroups: Hierarchies,
    /// Runtime handlers besides the empty name.
    pub handlers: BTreeSet<String>,
    /// Starts PID 1 of a shared PID namespace; `None`: such pods are refused.
    pub inits: Option<Arc<dyn PodInits>>,
    /// The node's files that pods get copies of.
    pub host: HostFiles,
    /// Runs the owners.
    pub tasks: Tasks,
}

/// All sandboxes of this daemon. Cloned freely.
#[derive(Debug, Clone)]
pub struct Sandboxes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    env: Arc<Env>,
    table: Arc<Table>,
    handlers: BTreeSet<String>,
}

impl Sandboxes {
    /// Opens the records, compares them with what lives, and sweeps what an
    /// earlier run of this instance left without a record.
    ///
    /// # Errors
    /// [`OpenError`] when a directory can't be made or listed. One bad sandbox
    /// never is one.
    pub async fn open(config: SandboxesConfig) -> Result<Self, OpenError> {
        let layout = Layout {
            instance: config.instance,
            records: config.records,
            namespaces: config.namespaces,
            shm: config.shm,
            netns: config.netns,
        };
        prepare_dir(&layout.netns)?;
        files::make_dir(&layout.namespaces)?;
        files::make_dir(&layout.shm)?;
        let records = Records::open(&layout.records, config.boot_id)?;
        let env = Arc::new(Env {
            layout,
            records,
            cni: config.cni,
            cgroups: config.cgroups,
            cgroup_tree: Mutex::new(()),
            host: config.host,
            inits: config.inits,
            tasks: config.tasks,
        });
        let sandboxes = Self(Arc::new(Inner {
            env: env.clone(),
            table: Arc::default(),
            handlers: config.handlers,
        }));
        for (record, start) in recover::recover(&env).await? {
            let (name, created_at) = (record.config.metadata.clone(), record.created_at);
            let (handle, run) = sandboxes.own(record, start);
            sandboxes.0.table.insert(name, created_at, handle);
            run();
        }
        Ok(sandboxes)
    }

    /// Creates a sandbox and returns once it is ready and has its address. A
    /// request equal to one that is at work joins it; one equal to a ready
    /// sandbox gets its id. Dropping the future ends nothing.
    ///
    /// # Errors
    /// [`SandboxError`]. After all but [`SandboxError::Create`] with a
    /// [`CreateError::cleanup`](super::CreateError::cleanup) nothing is left.
    pub async fn run(&self, config: SandboxConfig) -> Result<SandboxId, SandboxError> {
        validate(&config)?;
        self.supported(&config)?;
        loop {
            match self.reserve(&config)? {
                Reserved::New(handle) => return created(&handle).await,
                Reserved::Taken(handle) => {
                    if matches!(handle.view().phase, Phase::Unwinding) {
                        settled(&handle).await?;
                        continue;
                    }
                    if matches!(handle.view().phase, Phase::Gone { .. }) {
                        continue;
                    }
                    same(&handle, &config)?;
                    return created(&handle).await;
                }
            }
        }
    }

    /// The sandbox with this id, or the only one whose id begins so.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn get(&self, id_or_prefix: &str) -> Result<SandboxHandle, LookupError> {
        self.0.table.get(id_or_prefix)
    }

    /// Every sandbox, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<SandboxView>> {
        self.0.table.list()
    }

    /// Publishes that the sandbox is not ready, so that no container is
    /// admitted any more. Idempotent; unknown is fine. Waits for a creation
    /// that is at work.
    ///
    /// # Errors
    /// [`SandboxError::Ended`] while the daemon shuts down.
    pub async fn begin_stop(&self, id: &SandboxId) -> Result<(), SandboxError> {
        self.ask(id, Ask::BeginStop).await
    }

    /// Gives back the sandbox's network, namespaces and mounts. Idempotent;
    /// unknown is fine. The containers have ended.
    ///
    /// # Errors
    /// [`SandboxError::Release`] with every step that failed.
    pub async fn finish_stop(&self, id: &SandboxId) -> Result<(), SandboxError> {
        self.ask(id, Ask::FinishStop).await
    }

    /// Removes a stopped sandbox with its record and files; its containers are
    /// removed. Idempotent; unknown is fine.
    ///
    /// # Errors
    /// [`SandboxError::Denied`] for a ready one, [`SandboxError::Release`].
    pub async fn remove(&self, id: &SandboxId) -> Result<(), SandboxError> {
        self.ask(id, Ask::Remove).await
    }

    async fn ask(&self, id: &SandboxId, ask: Ask) -> Result<(), SandboxError> {
        let Ok(handle) = self.get(id.as_str()) else {
            return Ok(());
        };
        match handle.owner.ask(|reply| Request { ask, reply }).await {
            Ok(result) => result,
            // It was removed, or its creation failed, while the request waited.
            Err(_) if matches!(handle.view().phase, Phase::Gone { .. }) => Ok(()),
            Err(_) => Err(SandboxError::Ended { id: id.clone() }),
        }
    }

    /// Refuses what this node can't do.
    fn supported(&self, config: &SandboxConfig) -> Result<(), SandboxError> {
        let handler = &config.runtime_handler;
        if !handler.is_empty() && !self.0.handlers.contains(handler) {
            return Err(SandboxError::UnknownRuntimeHandler {
                handler: handler.clone(),
            });
        }
        let refuse = |problem: &str| {
            Err(SandboxError::Unsupported {
                problem: problem.to_owned(),
            })
        };
        let inits = self.0.env.inits.as_ref();
        let has_user_namespaces = inits.is_some_and(|inits| inits.has_user_namespaces());
        if config.namespaces.user.is_some() && !has_user_namespaces {
            return refuse("there is no shim to make user namespaces");
        }
        let shares_pids = config.namespaces.pid == super::model::NamespaceMode::Pod;
        if shares_pids && inits.is_none() {
            return refuse("there is no shim to run PID 1 of a shared PID namespace");
        }
        Ok(())
    }

    fn reserve(&self, config: &SandboxConfig) -> Result<Reserved, SandboxError> {
        let id = SandboxId::random()?;
        let node_name = node_name();
        // Planned before the name is taken, as planning can fail.
        let plan = self.0.env.plan(id, 0, config.clone(), &node_name);
        let mut plan = plan.map_err(|error| SandboxError::Invalid {
            field: "linux.cgroup_parent",
            problem: crate::base::chain::chain(&error),
        })?;
        let mut start: Option<Box<dyn FnOnce() + Send>> = None;
        let reserved = self.0.table.reserve(&config.metadata, |created_at| {
            plan.created_at = created_at;
            let (handle, run) = self.own(plan, Start::Create);
            start = Some(Box::new(run));
            handle
        });
        if let Some(run) = start {
            run();
        }
        Ok(reserved)
    }

    /// Makes the owner of a sandbox and its handle; the owner begins with the
    /// call of the returned function, once the handle is in the table.
    fn own(&self, record: SandboxRecord, start: Start) -> (SandboxHandle, impl FnOnce() + use<>) {
        let config = Arc::new(record.config.clone());
        let phase = start.phase();
        let (handle, owner) = pair(MAILBOX, record.view(&config, phase.clone()));
        let id = record.id.clone();
        let driver = Driver {
            env: self.0.env.clone(),
            table: self.0.table.clone(),
            owner,
            config,
            record,
            phase,
            init: None,
        };
        let tasks = self.0.env.tasks.clone();
        let run = move || drop(tasks.spawn(driver.run(start)));
        (SandboxHandle { id, owner: handle }, run)
    }
}

fn node_name() -> String {
    nix::unistd::gethostname().map_or_else(
        |_| "localhost".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Whether a request is the one that made the sandbox.
fn same(handle: &SandboxHandle, config: &SandboxConfig) -> Result<(), SandboxError> {
    match difference(&handle.view().config, config) {
        None => Ok(()),
        Some(field) => Err(exists(handle, format!("{field} differs"))),
    }
}

fn exists(handle: &SandboxHandle, difference: String) -> SandboxError {
    SandboxError::AlreadyExists {
        name: full_name(&handle.view().config.metadata),
        id: handle.id().clone(),
        difference,
    }
}

/// Waits for the end of a creation.
async fn created(handle: &SandboxHandle) -> Result<SandboxId, SandboxError> {
    let outcome = |view: &SandboxView| match &view.phase {
        Phase::Creating { .. } | Phase::Unwinding => None,
        Phase::Ready => Some(Ok(view.id.clone())),
        Phase::NotReady {
            reason: Reason::CreateFailed(error),
            ..
        } => Some(Err(SandboxError::Create(error.clone()))),
        Phase::NotReady { reason, .. } => {
            Some(Err(exists(handle, format!("it is not ready ({reason})"))))
        }
        Phase::Gone {
            failure: Some(error),
        } => Some(Err(SandboxError::Create(error.clone()))),
        Phase::Gone { failure: None } => Some(Err(SandboxError::Ended {
            id: view.id.clone(),
        })),
    };
    let ended = |_| SandboxError::Ended {
        id: handle.id().clone(),
    };
    handle.owner.until(outcome).await.map_err(ended)?
}

/// Waits until a sandbox is no longer being unwound.
async fn settled(handle: &SandboxHandle) -> Result<(), SandboxError> {
    let settled = |view: &SandboxView| (!matches!(view.phase, Phase::Unwinding)).then_some(());
    let ended = |_| SandboxError::Ended {
        id: handle.id().clone(),
    };
    handle.owner.until(settled).await.map_err(ended)
}

impl From<StepError> for OpenError {
    fn from(error: StepError) -> Self {
        Self::Sweep(Box::new(error))
    }
}
