//! The front of the domain: what the service calls.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longshore_snapshotter::LayerId;
use tokio::sync::mpsc;

use crate::base::clock;
use crate::base::driver as owner;
use crate::base::id::{ContainerId, SandboxId};
use crate::sandbox::SandboxView;
use crate::store::{Records, StoreError, sync_dir};

use super::create::Order;
use super::driver::{self, Request};
use super::error::{ContainerError, CreateError, LookupError, StepError};
use super::model::ContainerConfig;
use super::ports::Task;
use super::recover;
use super::state::{Ask, Phase};
use super::table::{Name, Table, difference};
use super::view::{ContainerHandle, ContainerView};
use super::world::{ContainersConfig, World};

/// Requests that may wait for one container's owner.
const MAILBOX: usize = 64;
/// Exits that may wait to be made durable.
const SYNCS: usize = 1024;
/// Exits within this time are synced together.
const SYNC_EVERY: Duration = Duration::from_millis(200);
/// How long SIGKILL may take before a stop gives up waiting; killing goes on.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// The containers of the node.
#[derive(Debug, Clone)]
pub struct Containers {
    pub(super) world: Arc<World>,
}

/// The containers could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Their directory.
    #[error("open the container records")]
    Records(#[from] StoreError),
    /// Asking for the shims that live.
    #[error("list shims")]
    Shims(#[from] super::ports::RuntimeError),
}

impl Containers {
    /// Opens the records and takes over what lives.
    ///
    /// # Errors
    /// [`OpenError`]; one bad container never stops the others.
    pub async fn open(config: ContainersConfig) -> Result<Self, OpenError> {
        let records = Records::open(&config.containers, &config.boot_id)?;
        let (syncs, exits) = mpsc::channel(SYNCS);
        let world = Arc::new(World {
            stage: config.stage,
            runtime_state: config.runtime_state,
            records,
            cgroups: config.cgroups,
            host: config.host,
            runtime: config.runtime,
            images: config.images,
            snapshots: config.snapshots,
            pods: config.pods,
            tasks: config.tasks,
            table: Table::default(),
            syncs,
            left_alone: Mutex::default(),
        });
        world.tasks.spawn(sync_exits(world.clone(), exits));
        recover::run(&world).await?;
        Ok(Self { world })
    }

    /// Creates a container in a pod. A retry of the same request joins the
    /// creation or answers the finished container.
    ///
    /// # Errors
    /// [`ContainerError`]; nothing half-made stays.
    pub async fn create(
        &self,
        sandbox: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId, ContainerError> {
        let pod = self.world.pods.get(sandbox)?;
        let config = Arc::new(config);
        let mut reserved = self.reserve(&pod, &config)?;
        if let Err(existing) = &reserved
            && existing.view().failure.is_some()
        {
            // What an earlier, failed creation left is in the way.
            self.remove(existing.id.as_str()).await?;
            reserved = self.reserve(&pod, &config)?;
        }
        let handle = match reserved {
            Ok(handle) => handle,
            Err(existing) => {
                same_request(&existing, &config)?;
                existing
            }
        };
        let created = handle.owner.until(outcome).await;
        match created.map_err(|_| ended(&handle.id))? {
            None => Ok(handle.id),
            Some(failure) => Err(match &failure.cause {
                StepError::Spec(error) => ContainerError::Spec(error.clone()),
                StepError::PodNotReady(id) => ContainerError::PodNotReady { id: id.clone() },
                StepError::NoImage(image) => ContainerError::ImageNotFound {
                    image: image.clone(),
                },
                StepError::Image { .. }
                | StepError::Host { .. }
                | StepError::Cgroup(_)
                | StepError::Record(_)
                | StepError::Encode(_)
                | StepError::Snapshot(_)
                | StepError::Runtime(_)
                | StepError::Worker(_) => ContainerError::Create(failure),
            }),
        }
    }

    /// A new container's handle, whose owner is at work, or the one that has
    /// the name.
    fn reserve(
        &self,
        pod: &SandboxView,
        config: &Arc<ContainerConfig>,
    ) -> Result<Result<ContainerHandle, ContainerHandle>, ContainerError> {
        let name = Name {
            sandbox: pod.id.clone(),
            metadata: config.metadata.clone(),
        };
        let id = ContainerId::random()?;
        let created_at = clock::now_nanos();
        let directory = self.world.records.dir(id.as_str());
        let view = ContainerView::reserved(
            id.clone(),
            pod.id.clone(),
            config.clone(),
            created_at,
            directory,
        );
        let order = Order {
            id: id.clone(),
            pod: pod.id.clone(),
            config: config.clone(),
            created_at,
        };
        let reserved = self.world.table.reserve(name, || {
            let (owner, mailbox) = owner::pair(MAILBOX, view.clone());
            (ContainerHandle { id, owner }, mailbox)
        });
        Ok(reserved.map(|(handle, mailbox)| {
            let work = driver::create(self.world.clone(), mailbox, view, order);
            drop(self.world.tasks.spawn(work));
            handle
        }))
    }

    /// Runs a created container's program.
    ///
    /// # Errors
    /// `Denied` unless it is created and was never started; `Runtime` when its
    /// program can't be run, and then it is exited with the reason StartError.
    pub async fn start(&self, id: &str) -> Result<(), ContainerError> {
        let handle = self.get(id)?;
        let answer = handle.owner.ask(Request::Start).await;
        answer.map_err(|_| ended(&handle.id))?
    }

    /// Ends a container: its stop signal, SIGKILL to all of it after `grace`.
    /// Answers once it has ended. Unknown, and not running, is success.
    ///
    /// # Errors
    /// An ambiguous id; [`ContainerError::OutlivesKill`].
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), ContainerError> {
        match self.get(id) {
            Ok(handle) => stop(&handle, grace).await,
            Err(LookupError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a container, ending it first. Unknown is success.
    ///
    /// # Errors
    /// An ambiguous id; [`ContainerError::Release`] when something it holds
    /// could not be given back: it stays listed and the call may be repeated.
    pub async fn remove(&self, id: &str) -> Result<(), ContainerError> {
        let handle = match self.get(id) {
            Ok(handle) => handle,
            Err(LookupError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let job = {
            let handle = handle.clone();
            async move {
                stop(&handle, Duration::ZERO).await?;
                // No answer: another caller's remove got there first.
                handle.owner.ask(Request::Remove).await.unwrap_or(Ok(()))
            }
        };
        let done = self.world.tasks.spawn(job).await;
        done.unwrap_or_else(|_| Err(ended(&handle.id)))
    }

    /// The container of this id or unambiguous prefix.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn get(&self, id: &str) -> Result<ContainerHandle, LookupError> {
        let handle = self.world.table.get(id)?;
        // What isn't created yet has no id that anybody was told.
        match handle.view().state() {
            Some(_) => Ok(handle),
            None => Err(LookupError::NotFound(id.to_owned())),
        }
    }

    /// Every created container, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<ContainerView>> {
        let mut views: Vec<_> = self
            .world
            .table
            .all()
            .iter()
            .map(ContainerHandle::view)
            .filter(|view| view.state().is_some())
            .collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.created_at));
        views
    }

    /// Containers whose creation is under way, for `ps --jobs`.
    #[must_use]
    pub fn jobs(&self) -> Vec<Arc<ContainerView>> {
        let all = self.world.table.all();
        let views = all.iter().map(ContainerHandle::view);
        views
            .filter(|view| matches!(view.phase, Phase::Creating { .. }))
            .collect()
    }

    /// Layers that a container needs, also one that is being created and one
    /// that a newer daemon recorded.
    #[must_use]
    pub fn layers_in_use(&self) -> Vec<LayerId> {
        let all = self.world.table.all();
        let mut layers: Vec<_> = all
            .iter()
            .flat_map(|handle| handle.view().layers.clone())
            .collect();
        let left_alone = &self.world.left_alone;
        layers.extend_from_slice(&left_alone.lock().unwrap_or_else(PoisonError::into_inner));
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    /// Opens the container's log path again, after a rotation moved the file
    /// away. Makes no file unless the container runs.
    ///
    /// # Errors
    /// `Denied` unless it runs, `Runtime` when the file can't be opened.
    pub async fn reopen_log(&self, id: &str) -> Result<(), ContainerError> {
        let handle = self.get(id)?;
        let task = self.task_for(&handle, Ask::ReopenLog).await?;
        if handle.view().log_path.is_none() {
            return Ok(());
        }
        task.reopen_log()
            .await
            .map_err(|error| ContainerError::Runtime {
                operation: "reopen the log of",
                id: handle.id.clone(),
                source: Arc::new(error),
            })
    }

    /// The task of a container whose state allows `ask`.
    pub(super) async fn task_for(
        &self,
        handle: &ContainerHandle,
        ask: Ask,
    ) -> Result<Arc<dyn Task>, ContainerError> {
        let answer = handle.owner.ask(|reply| Request::Use(ask, reply)).await;
        answer.map_err(|_| ended(&handle.id))?
    }

    /// Every container of a pod, those under creation too.
    pub(super) fn of_pod(&self, pod: &SandboxId) -> Vec<ContainerHandle> {
        let mut all = self.world.table.all();
        all.retain(|handle| handle.view().sandbox_id == *pod);
        all
    }
}

/// `None` while it is being created, then what came of it.
fn outcome(view: &ContainerView) -> Option<Option<Arc<CreateError>>> {
    match &view.phase {
        Phase::Creating { .. } => None,
        Phase::Gone
        | Phase::Created
        | Phase::Running { .. }
        | Phase::Stopping { .. }
        | Phase::Exited(_) => Some(view.failure.clone()),
    }
}

fn same_request(have: &ContainerHandle, want: &ContainerConfig) -> Result<(), ContainerError> {
    let view = have.view();
    match difference(&view.config, want) {
        None => Ok(()),
        Some(difference) => Err(ContainerError::AlreadyExists {
            name: format!("{}_{}", want.metadata.name, want.metadata.attempt),
            id: have.id.clone(),
            difference,
        }),
    }
}

fn ended(id: &ContainerId) -> ContainerError {
    ContainerError::Ended { id: id.clone() }
}

/// Asks for the stop and waits for the end. The wait is bounded only where
/// SIGKILL was sent, for the grace has its own bound.
pub(super) async fn stop(handle: &ContainerHandle, grace: Duration) -> Result<(), ContainerError> {
    let asked = handle.owner.ask(|reply| Request::Stop(grace, reply)).await;
    match asked {
        Ok(answer) => answer?,
        // It was removed, or the daemon ends.
        Err(_) if handle.view().phase.is_over() => return Ok(()),
        Err(_) => return Err(ended(&handle.id)),
    }
    let over = handle
        .owner
        .until(|view| view.phase.is_over().then_some(()));
    let bound = grace.saturating_add(KILL_PATIENCE);
    match tokio::time::timeout(bound, over).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(ended(&handle.id)),
        Err(_) => Err(ContainerError::OutlivesKill {
            id: handle.id.clone(),
        }),
    }
}

/// Makes exit records durable, those that come close together in one go, off
/// every reply path.
async fn sync_exits(world: Arc<World>, mut exits: mpsc::Receiver<PathBuf>) {
    let stopping = world.tasks.stopping();
    loop {
        let first = tokio::select! {
            dir = exits.recv() => dir,
            () = stopping.cancelled() => None,
        };
        let Some(first) = first else { return };
        tokio::time::sleep(SYNC_EVERY).await;
        let mut dirs = vec![first];
        while let Ok(dir) = exits.try_recv() {
            dirs.push(dir);
        }
        let done = world.tasks.spawn_blocking(move || {
            for dir in dirs {
                sync_exit(&dir);
            }
        });
        if let Err(error) = done.await {
            tracing::error!(%error, "sync exit records");
        }
    }
}

fn sync_exit(dir: &Path) {
    for name in ["exit.json", "record.json"] {
        match File::open(dir.join(name)).and_then(|file| file.sync_data()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(path = %dir.join(name).display(), %error, "not synced");
            }
            _ => {}
        }
    }
    // Removed meanwhile: nothing to keep.
    if dir.exists()
        && let Err(error) = sync_dir(dir)
    {
        tracing::warn!(error = %crate::base::chain::Chain(&error), "not synced");
    }
}
