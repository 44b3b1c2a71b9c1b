//! The task that owns one container.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::base::chain::{Chain, chain};
use crate::base::clock;
use crate::base::driver::Owner;
use crate::base::id::ContainerId;
use crate::store::Durability;

use super::create::{self, Order};
use super::error::ContainerError;
use super::ports::{Task, TaskEnd, Work};
use super::record::{ContainerRecord, parse_exit};
use super::state::{Ask, Denied, Exit, Phase, Verdict, accept};
use super::teardown;
use super::view::ContainerView;
use super::world::World;

/// How long a shim may take to clean up after its container.
const COLLECT_PATIENCE: Duration = Duration::from_secs(10);

type Reply<T> = oneshot::Sender<Result<T, ContainerError>>;

/// What is queued for the owner.
#[derive(Debug)]
pub(super) enum Request {
    /// Run the program.
    Start(Reply<()>),
    /// End it; answered once that is under way.
    Stop(Duration, Reply<()>),
    /// The task, for what does not change the container.
    Use(Ask, Reply<Arc<dyn Task>>),
    /// Forget it.
    Remove(Reply<()>),
}

/// The owner of one container.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) world: Arc<World>,
    pub(super) owner: Owner<Request, ContainerView>,
    pub(super) view: ContainerView,
    pub(super) record: ContainerRecord,
    pub(super) task: Option<Arc<dyn Task>>,
    ended: Option<Ending>,
    pub(super) kills: u32,
}

/// Creates the container, then owns it.
pub(super) async fn create(
    world: Arc<World>,
    owner: Owner<Request, ContainerView>,
    mut view: ContainerView,
    order: Order,
) {
    let id = view.id.clone();
    let since = view.created_at;
    let mut planned = None;
    let made = create::run(&world, order, |stage, record| {
        if let Some(record) = record {
            let phase = Phase::Creating { stage, since };
            view = ContainerView::of(record, phase, view.directory.clone());
            planned = Some(record.clone());
        }
        view.phase = Phase::Creating { stage, since };
        owner.publish(view.clone());
    });
    match Box::pin(made).await {
        Ok(made) => {
            let driver = Driver::new(world, owner, view, made.record, Some(made.task));
            driver.own(Phase::Created, made.pid).await;
        }
        Err(error) => {
            tracing::warn!(container = %id, error = %Chain(&error), "create failed");
            let left = error.cleanup.is_some();
            let exit = Exit::start_error(clock::now_nanos(), chain(&error));
            view.failure = Some(Arc::new(error));
            match planned {
                // It still holds something: listed, so that it gets removed.
                Some(record) if left => {
                    let driver = Driver::new(world, owner, view, record, None);
                    driver.own(Phase::Exited(exit), 0).await;
                }
                _ => {
                    world.table.forget(&id);
                    view.phase = Phase::Gone;
                    owner.publish(view);
                }
            }
        }
    }
}

impl Driver {
    pub(super) fn new(
        world: Arc<World>,
        owner: Owner<Request, ContainerView>,
        view: ContainerView,
        record: ContainerRecord,
        task: Option<Arc<dyn Task>>,
    ) -> Self {
        let ended = task.as_ref().map(|task| Ending(Mutex::new(task.ended())));
        Self {
            world,
            owner,
            view,
            record,
            task,
            ended,
            kills: 0,
        }
    }

    /// Publishes the phase to begin with and serves until the container is
    /// removed or the daemon stops.
    pub(super) async fn own(mut self, phase: Phase, pid: i32) {
        let failure = self.view.failure.take();
        self.view = ContainerView::of(&self.record, phase, self.view.directory);
        self.view.failure = failure;
        self.view.pid = pid;
        if self.view.phase.is_over() {
            self.ended = None;
        }
        self.owner.publish(self.view.clone());
        let stopping = self.world.tasks.stopping();
        loop {
            tokio::select! {
                biased;
                end = ended(&mut self.ended) => self.finish(end).await,
                () = at(self.view.phase.kill_at()) => self.kill().await,
                request = self.owner.next() => match request {
                    Some(request) => if self.serve(request).await { return },
                    None => return,
                },
                () = stopping.cancelled() => return,
            }
        }
    }

    pub(super) fn id(&self) -> &ContainerId {
        &self.record.id
    }

    pub(super) fn stop_signal(&self) -> i32 {
        self.record.stop_signal
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        self.view.phase = phase;
        self.owner.publish(self.view.clone());
    }

    /// Whether the container is gone.
    async fn serve(&mut self, request: Request) -> bool {
        match request {
            Request::Start(reply) => {
                let answer = self.start().await;
                answered(reply, answer);
            }
            Request::Stop(grace, reply) => {
                let verdict = self.decide(Ask::Stop { grace });
                if let Ok(verdict) = verdict {
                    self.stop(verdict).await;
                }
                answered(reply, verdict.map(|_| ()));
            }
            Request::Use(ask, reply) => {
                let task = self.decide(ask).and_then(|_| {
                    self.task.clone().ok_or(ContainerError::Ended {
                        id: self.id().clone(),
                    })
                });
                answered(reply, task);
            }
            Request::Remove(reply) => {
                let answer = self.remove().await;
                let gone = answer.is_ok();
                answered(reply, answer);
                return gone;
            }
        }
        false
    }

    fn decide(&self, ask: Ask) -> Result<Verdict, ContainerError> {
        let verdict = accept(&self.view.phase, ask, now());
        if let Verdict::Denied(reason) = verdict {
            return Err(self.denied(reason));
        }
        Ok(verdict)
    }

    fn denied(&self, reason: Denied) -> ContainerError {
        ContainerError::Denied {
            id: self.id().clone(),
            reason,
        }
    }

    async fn start(&mut self) -> Result<(), ContainerError> {
        self.decide(Ask::Start)?;
        let Some(task) = self.task.clone() else {
            return Err(self.denied(Denied::NotCreated));
        };
        match task.start().await {
            Ok(started_at) => {
                self.set_phase(Phase::Running {
                    started_at: started_at.max(1),
                });
                Ok(())
            }
            Err(error) => {
                let exit = Exit::start_error(clock::now_nanos(), chain(&error));
                self.over(exit).await;
                Err(ContainerError::Runtime {
                    operation: "start",
                    id: self.id().clone(),
                    source: Arc::new(error),
                })
            }
        }
    }

    async fn remove(&mut self) -> Result<(), ContainerError> {
        self.decide(Ask::Remove)?;
        let cgroup = self.record.cgroup.clone();
        teardown::destroy(&self.world, self.id(), Some(&cgroup))
            .await
            .map_err(|failures| ContainerError::Release {
                id: self.id().clone(),
                failures: Arc::new(failures),
            })?;
        self.world.table.forget(self.id());
        self.set_phase(Phase::Gone);
        Ok(())
    }

    async fn finish(&mut self, end: TaskEnd) {
        match end {
            TaskEnd::Exited(exit) => {
                let exit = Exit::of(
                    exit.code,
                    exit.oom_killed,
                    exit.started_at,
                    exit.finished_at,
                );
                self.over(exit).await;
            }
            TaskEnd::Lost => self.lost("its shim died").await,
        }
    }

    /// The shim is no more, or might as well not be.
    pub(super) async fn lost(&mut self, message: &str) {
        self.kill_rest().await;
        let path = self.world.exit_record(self.id());
        let exit = known_exit(path)
            .unwrap_or_else(|| Exit::unknown(self.view.started_at(), clock::now_nanos(), message));
        self.over(exit).await;
    }

    /// The container is over: once recorded and published, the shim may go.
    async fn over(&mut self, exit: Exit) {
        self.ended = None;
        // With a shared PID namespace its processes outlive init.
        self.kill_rest().await;
        self.record.exit = Some(exit.clone());
        let id = self.id().clone();
        let written = self
            .world
            .records
            .write(id.as_str(), &self.record, Durability::Rename);
        if let Err(error) = written {
            tracing::error!(container = %id, error = %Chain(&error), "exit not recorded");
        }
        self.view.pid = 0;
        self.set_phase(Phase::Exited(exit));
        if self
            .world
            .syncs
            .try_send(self.view.directory.clone())
            .is_err()
        {
            tracing::warn!(container = %id, "exit record left to the kernel's write-back");
        }
        self.collect().await;
    }

    async fn kill_rest(&self) {
        let (host, path) = (self.world.cgroups.clone(), self.record.cgroup.clone());
        match self
            .world
            .tasks
            .spawn_blocking(move || host.kill(&path))
            .await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(container = %self.id(), error = %Chain(&error), "kill the rest");
            }
            Err(error) => tracing::error!(container = %self.id(), %error, "kill the rest"),
        }
    }

    async fn collect(&mut self) {
        let Some(task) = self.task.take() else { return };
        let collected = tokio::time::timeout(COLLECT_PATIENCE, task.collect()).await;
        if !matches!(collected, Ok(Ok(())))
            && let Err(error) = self.world.runtime.discard(&self.record.id).await
        {
            // RemoveContainer tries again.
            tracing::warn!(container = %self.id(), error = %Chain(&error), "shim stays");
        }
    }
}

/// The exit that the shim wrote down before it went away.
pub(super) fn known_exit(path: PathBuf) -> Option<Exit> {
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "exit record unreadable");
            return None;
        }
    };
    match parse_exit(&text) {
        Ok(exit) => Some(Exit::of(
            exit.code,
            exit.oom_killed,
            exit.started_at,
            exit.finished_at,
        )),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "exit record unreadable");
            None
        }
    }
}

/// The caller may have hung up; then nobody reads the answer.
fn answered<T>(reply: Reply<T>, answer: Result<T, ContainerError>) {
    if reply.send(answer).is_err() {
        tracing::debug!("the caller is gone");
    }
}

/// The end of the task, once it comes.
///
/// The lock is never taken: it makes the future `Sync`, which its owner is.
struct Ending(Mutex<Work<'static, TaskEnd>>);

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ending")
    }
}

/// Dropping the future loses nothing.
async fn ended(end: &mut Option<Ending>) -> TaskEnd {
    match end {
        Some(Ending(end)) => end.get_mut().unwrap_or_else(PoisonError::into_inner).await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// The clock that tests can stop.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
