//! Undoing a container: the one function for a failed create, for
//! RemoveContainer and for recovery.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::base::id::ContainerId;
use crate::base::teardown::Failures;
use crate::cgroup::CgroupPath;

use super::world::World;

/// Kills what is left of the container and gives back everything it holds, by
/// its id. Every step is tried; each may find its work done already. The
/// record goes last, and only if all else went: what is left stays known.
pub(super) async fn destroy(
    world: &Arc<World>,
    id: &ContainerId,
    cgroup: Option<&CgroupPath>,
) -> Result<(), Failures> {
    let mut failures = Failures::none();
    if let Some(path) = cgroup {
        let (host, path) = (world.cgroups.clone(), path.clone());
        let killed = world.tasks.spawn_blocking(move || host.kill(&path)).await;
        flatten(&mut failures, "kill cgroup", killed);
    }
    failures.step("end shim", world.runtime.discard(id).await);
    let job = world.clone();
    let (own, group) = (id.clone(), cgroup.cloned());
    let rest = world
        .tasks
        .spawn_blocking(move || remove_files(&job, &own, group.as_ref()))
        .await;
    if let Some(rest) = failures.step("remove files", rest) {
        failures.merge(rest);
    }
    if failures.is_empty() {
        failures.step("remove record", world.records.remove(id.as_str()));
    }
    failures.into_result()
}

fn flatten<T, E>(
    failures: &mut Failures,
    step: &str,
    result: Result<Result<T, E>, tokio::task::JoinError>,
) where
    E: std::error::Error + Send + Sync + 'static,
{
    if let Some(result) = failures.step(step, result) {
        failures.step(step, result);
    }
}

fn remove_files(world: &World, id: &ContainerId, cgroup: Option<&CgroupPath>) -> Failures {
    let mut failures = Failures::none();
    failures.step("remove snapshot", world.snapshots.remove(id));
    failures.step("remove stage directory", remove_dir(&world.stage_dir(id)));
    failures.step("remove state directory", remove_dir(&world.state_dir(id)));
    if let Some(path) = cgroup {
        failures.step("remove cgroup", world.cgroups.remove(path));
    }
    failures
}

fn remove_dir(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
