//! Start-up: what the records say against what lives.
//!
//! ```text
//! record   shim says        on disk          ->
//! exited   -                -                exited, as recorded
//! yes      CREATED/RUNNING  -                taken over
//! yes      STOPPED          -                exited, with its code
//! yes      EMPTY or none    exit.json        exited, with its code
//! created  EMPTY or none    -                cgroup killed, exited 255 Unknown
//! half     EMPTY or none    -                destroyed
//! none     kept a record    -                as with that record
//! none     keeps none       -                shim ended
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use longshore_snapshotter::LayerId;

use crate::base::chain::Chain;
use crate::base::clock;
use crate::base::driver as owner;
use crate::base::id::ContainerId;
use crate::store::{Durability, Loaded};

use super::containers::OpenError;
use super::driver::{Driver, known_exit};
use super::ports::{Task, TaskState, TaskStatus};
use super::record::ContainerRecord;
use super::state::{Exit, Phase};
use super::table::Name;
use super::teardown;
use super::view::{ContainerHandle, ContainerView};
use super::world::World;

/// How long one shim may take to answer. A hung one costs its container, not
/// the start.
const SHIM_PATIENCE: Duration = Duration::from_secs(5);
const MAILBOX: usize = 64;

/// What becomes of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// It lives: take it over.
    Adopt(Adopted),
    /// It is over, this way.
    Over(Exit),
    /// It is over and nobody knows how.
    Lost,
    /// It never was.
    Destroy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adopted {
    Created,
    Running(i64),
}

/// Decides. `exit` is what `exit.json` says.
fn fate(record: &ContainerRecord, shim: Option<&TaskStatus>, exit: Option<Exit>) -> Fate {
    if let Some(exit) = &record.exit {
        return Fate::Over(exit.clone());
    }
    match shim {
        Some(TaskStatus::Created) => Fate::Adopt(Adopted::Created),
        Some(TaskStatus::Running { started_at }) => Fate::Adopt(Adopted::Running(*started_at)),
        Some(TaskStatus::Stopped(end)) => Fate::Over(Exit::of(
            end.code,
            end.oom_killed,
            end.started_at,
            end.finished_at,
        )),
        Some(TaskStatus::Empty) | None => match (exit, record.created) {
            (Some(exit), _) => Fate::Over(exit),
            (None, true) => Fate::Lost,
            (None, false) => Fate::Destroy,
        },
    }
}

/// Takes over every container, all at the same time. What can't be is reported
/// and left.
pub(super) async fn run(world: &Arc<World>) -> Result<(), OpenError> {
    let mut shims: BTreeSet<ContainerId> = world.runtime.list().await?.into_iter().collect();
    let mut jobs = Vec::new();
    for (name, loaded) in world.records.load_all()? {
        let Ok(id) = name.parse::<ContainerId>() else {
            tracing::error!(name, "not the name of a container; left alone");
            continue;
        };
        match loaded {
            Loaded::Object { object, this_boot } if object.id == id => {
                let shim = shims.remove(&id) && this_boot;
                jobs.push(spawn(world, id, Some(object), shim));
            }
            // Acting on it would act on the other one's cgroup and shim.
            Loaded::Object { object, .. } => {
                tracing::error!(directory = %id, id = %object.id, "the record of another container; left alone");
            }
            Loaded::Newer { version } => {
                shims.remove(&id);
                tracing::error!(container = %id, version, "record of a newer daemon; left alone");
                let layers: Option<Vec<LayerId>> = world.records.peek(&name, "layers");
                let mut left_alone = world
                    .left_alone
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                left_alone.extend(layers.unwrap_or_default());
            }
            // Its shim, if it lives, still has the record.
            Loaded::Broken { error, .. } => {
                tracing::error!(container = %id, error = %Chain(&error), "record unreadable");
            }
        }
    }
    for name in world.records.orphans()? {
        let lives = name
            .parse::<ContainerId>()
            .is_ok_and(|id| shims.contains(&id));
        if !lives && let Err(error) = world.records.remove(&name) {
            tracing::error!(name, error = %Chain(&error), "left-over directory stays");
        }
    }
    jobs.extend(shims.into_iter().map(|id| spawn(world, id, None, true)));
    for job in jobs {
        if let Err(error) = job.await {
            tracing::error!(%error, "recovery of a container");
        }
    }
    Ok(())
}

fn spawn(
    world: &Arc<World>,
    id: ContainerId,
    record: Option<ContainerRecord>,
    shim: bool,
) -> tokio::task::JoinHandle<()> {
    let world = world.clone();
    world.tasks.clone().spawn(Box::pin(async move {
        one(&world, id, record, shim).await;
    }))
}

async fn one(world: &Arc<World>, id: ContainerId, record: Option<ContainerRecord>, shim: bool) {
    let living = if shim { ask(world, &id).await } else { None };
    let kept = || rebuilt(world, &id, living.as_ref().map(|(_, state)| state));
    let Some(record) = record.or_else(kept) else {
        tracing::warn!(container = %id, "ending a shim that nobody knows");
        undo(world, &id, None).await;
        return;
    };
    let exit = known_exit(world.exit_record(&id));
    let status = living.as_ref().map(|(_, state)| &state.status);
    let fate = fate(&record, status, exit);
    match (fate, living) {
        (Fate::Adopt(adopted), Some((task, state))) => {
            let record = completed(world, record);
            let phase = match adopted {
                Adopted::Created => Phase::Created,
                Adopted::Running(started_at) => Phase::Running { started_at },
            };
            own(world, record, phase, Some(task), state.pid);
        }
        (Fate::Over(exit), _) => bury(world, record, exit).await,
        (Fate::Lost | Fate::Adopt(_), _) => {
            let started_at = record.created_at;
            let message = "it ended, or its node did, while no daemon was there to see";
            let exit = Exit::unknown(started_at, clock::now_nanos(), message);
            bury(world, record, exit).await;
        }
        (Fate::Destroy, _) => {
            tracing::info!(container = %id, "removing a container that was never finished");
            if undo(world, &id, Some(&record)).await {
                return;
            }
            // Listed, so that it gets removed.
            let exit = Exit::start_error(clock::now_nanos(), "its creation was interrupted");
            own(world, record, Phase::Exited(exit), None, 0);
        }
    }
}

async fn ask(world: &World, id: &ContainerId) -> Option<(Arc<dyn Task>, TaskState)> {
    let asked = tokio::time::timeout(SHIM_PATIENCE, async {
        let Some(task) = world.runtime.connect(id).await? else {
            return Ok(None);
        };
        let state = task.state().await?;
        Ok::<_, super::ports::RuntimeError>(Some((task, state)))
    });
    match asked.await {
        Ok(Ok(living)) => living,
        Ok(Err(error)) => {
            tracing::warn!(container = %id, error = %Chain(&error), "its shim does not answer");
            None
        }
        Err(_) => {
            tracing::warn!(container = %id, "its shim does not answer in time");
            None
        }
    }
}

/// The record that a living shim keeps, written down again.
fn rebuilt(world: &World, id: &ContainerId, state: Option<&TaskState>) -> Option<ContainerRecord> {
    let bytes = &state.filter(|state| !state.record.is_empty())?.record;
    match world.records.decode(bytes) {
        Ok(Loaded::Object { object, .. }) if object.id == *id => {
            tracing::warn!(container = %id, "record rebuilt from its shim");
            write(world, &object);
            Some(object)
        }
        Ok(_) => None,
        Err(error) => {
            tracing::error!(container = %id, %error, "its shim's record is unreadable");
            None
        }
    }
}

fn write(world: &World, record: &ContainerRecord) {
    let written = world
        .records
        .write(record.id.as_str(), record, Durability::Rename);
    if let Err(error) = written {
        tracing::error!(container = %record.id, error = %Chain(&error), "record not written");
    }
}

/// The last write of a creation that the daemon didn't live to see the end of:
/// from now on the container is listed, and a later start must not take it for
/// half-made.
fn completed(world: &World, mut record: ContainerRecord) -> ContainerRecord {
    if !record.created {
        record.created = true;
        write(world, &record);
    }
    record
}

/// What is over holds no process and no shim; record and snapshot stay until
/// RemoveContainer.
async fn bury(world: &Arc<World>, mut record: ContainerRecord, exit: Exit) {
    let (host, path) = (world.cgroups.clone(), record.cgroup.clone());
    match world.tasks.spawn_blocking(move || host.kill(&path)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(container = %record.id, error = %Chain(&error), "kill the rest");
        }
        Err(error) => tracing::error!(container = %record.id, %error, "kill the rest"),
    }
    if record.exit.is_none() {
        record.exit = Some(exit.clone());
        write(world, &record);
        let dir = world.records.dir(record.id.as_str());
        if world.syncs.try_send(dir).is_err() {
            tracing::warn!(container = %record.id, "exit record left to the kernel's write-back");
        }
    }
    if let Err(error) = world.runtime.discard(&record.id).await {
        tracing::warn!(container = %record.id, error = %Chain(&error), "shim stays");
    }
    own(world, record, Phase::Exited(exit), None, 0);
}

/// Whether nothing is left.
async fn undo(world: &Arc<World>, id: &ContainerId, record: Option<&ContainerRecord>) -> bool {
    let destroyed = teardown::destroy(world, id, record.map(|record| &record.cgroup)).await;
    if let Err(failures) = &destroyed {
        tracing::error!(container = %id, error = %failures, "not all of it was removed");
    }
    destroyed.is_ok()
}

fn own(
    world: &Arc<World>,
    record: ContainerRecord,
    phase: Phase,
    task: Option<Arc<dyn Task>>,
    pid: i32,
) {
    let dir = world.records.dir(record.id.as_str());
    let mut view = ContainerView::of(&record, phase.clone(), dir);
    view.pid = pid;
    let (handle, mailbox) = owner::pair(MAILBOX, view.clone());
    let name = Name {
        sandbox: record.sandbox_id.clone(),
        metadata: record.config.metadata.clone(),
    };
    let id = record.id.clone();
    let driver = Driver::new(world.clone(), mailbox, view, record, task);
    world
        .table
        .insert(name, ContainerHandle { id, owner: handle });
    drop(world.tasks.spawn(driver.own(phase, pid)));
}

#[cfg(test)]
mod tests {
    use super::super::fake;
    use super::super::ports::TaskExit;
    use super::*;

    #[test]
    fn fates() {
        let seen = Exit::of(3, false, 1, 2);
        let end = TaskExit {
            code: 137,
            oom_killed: true,
            started_at: 4,
            finished_at: 5,
        };
        let oom = Fate::Over(Exit::of(137, true, 4, 5));
        let mut half = fake::record();
        half.created = false;
        let whole = ContainerRecord {
            created: true,
            ..half.clone()
        };
        let done = ContainerRecord {
            exit: Some(seen.clone()),
            ..whole.clone()
        };
        let over = Fate::Over(seen.clone());
        let running = TaskStatus::Running { started_at: 9 };
        let stopped = TaskStatus::Stopped(end);
        let runs = Fate::Adopt(Adopted::Running(9));
        let some = Some(seen);
        for (record, shim, exit, wanted) in [
            (&done, Some(&running), None, over.clone()),
            (&done, None, None, over.clone()),
            (&whole, Some(&running), None, runs.clone()),
            (&half, Some(&running), None, runs),
            (
                &half,
                Some(&TaskStatus::Created),
                None,
                Fate::Adopt(Adopted::Created),
            ),
            (&whole, Some(&stopped), some.clone(), oom),
            (&whole, Some(&TaskStatus::Empty), some.clone(), over.clone()),
            (&whole, None, some, over),
            (&whole, None, None, Fate::Lost),
            (&half, None, None, Fate::Destroy),
            (&half, Some(&TaskStatus::Empty), None, Fate::Destroy),
        ] {
            assert_eq!(fate(record, shim, exit), wanted, "{shim:?}");
        }
    }
}
