//! `destroy(record)`: gives back what a sandbox holds, whatever of it there is.
//!
//! Idempotent, and the same for a failed creation, StopPodSandbox, and the
//! recovery. A step that fails keeps none of the others from running. One
//! order matters: DEL comes first and needs the network namespace, so the
//! namespace stays while DEL is due.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::base::id::SandboxId;
use crate::base::teardown::Failures;
use crate::cgroup::Hierarchies;
use crate::netns::unpin;

use super::env::Env;
use super::error::StepError;
use super::files;
use super::layout::Layout;
use super::record::SandboxRecord;

/// rmdir of a cgroup answers EBUSY for a moment after its last task ended.
const RMDIR_TRIES: u32 = 20;
const RMDIR_PAUSE: Duration = Duration::from_millis(5);

/// Gives back network, namespaces, mounts and cgroups. The record and the files
/// stay.
///
/// # Errors
/// Every step that failed.
pub(super) async fn destroy(env: &Arc<Env>, record: &SandboxRecord) -> Result<(), Failures> {
    let mut failures = Failures::none();
    let detached = failures.step("detach network", env.cni.del(&record.id).await);
    let keep_netns = detached.is_none();
    let copy = record.clone();
    let rest = env
        .blocking(move |env| {
            let mut failures = Failures::none();
            kill_init(env, &copy, &mut failures);
            unpin_all(&env.layout, &copy.id, keep_netns, &mut failures);
            remove_cgroups(env, &copy, &mut failures);
            Ok::<_, StepError>(failures)
        })
        .await;
    if let Some(rest) = failures.step("release what is local", rest) {
        failures.merge(rest);
    }
    failures.into_result()
}

/// Removes the pins and mounts of a sandbox by its id alone.
pub(super) fn unpin_all(
    layout: &Layout,
    id: &SandboxId,
    keep_netns: bool,
    failures: &mut Failures,
) {
    if !keep_netns {
        failures.step("remove network namespace", unpin(&layout.netns_pin(id)));
    }
    let dir = layout.ns_dir(id);
    for name in ["ipc", "uts", "pid", "user"] {
        failures.step(format!("remove {name} namespace"), unpin(&dir.join(name)));
    }
    failures.step("remove pins", files::remove_dir(&dir));
    failures.step("unmount shm", files::unmount_shm(&layout.shm_dir(id)));
}

/// By its cgroup, which it may have been put into without any record of its id.
fn kill_init(env: &Env, record: &SandboxRecord, failures: &mut Failures) {
    if let Some(group) = &record.init_cgroup {
        failures.step("kill pod init", env.cgroups.kill(group));
        failures.step("remove cgroup of pod init", env.cgroups.remove(group));
    }
}

/// Removes what we made of the pod's cgroup and is empty. What kubelet made
/// is kubelet's to remove, and so is a group that others are still in.
fn remove_cgroups(env: &Env, record: &SandboxRecord, failures: &mut Failures) {
    let _tree = env
        .cgroup_tree
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let pod: Vec<PathBuf> = env.cgroups.dirs(&record.cgroup);
    for dir in with_instance(&env.cgroups, env, record) {
        let tries = if pod.contains(&dir) { RMDIR_TRIES } else { 1 };
        if let Err(source) = rmdir(&dir, tries) {
            failures.step(
                format!("remove cgroup {}", dir.display()),
                Err::<(), _>(source),
            );
        }
    }
}

/// The recorded directories, and for a pod below our own group that one too,
/// whoever made it: the last pod takes it along.
fn with_instance(cgroups: &Hierarchies, env: &Env, record: &SandboxRecord) -> Vec<PathBuf> {
    let mut dirs = record.made_cgroups.clone();
    if record.config.cgroup_parent.is_empty() {
        let own = env.layout.cgroup(&record.id, &record.config);
        for dir in own.iter().flat_map(|path| cgroups.dirs(path)) {
            let parent = dir.parent().map(Path::to_owned);
            dirs.extend(parent.filter(|parent| !dirs.contains(parent)));
        }
    }
    dirs
}

/// Removes an empty cgroup; one that is in use after `tries` stays.
pub(super) fn rmdir(dir: &Path, tries: u32) -> std::io::Result<()> {
    let mut left = tries;
    loop {
        left = left.saturating_sub(1);
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty
                ) =>
            {
                if left == 0 {
                    tracing::debug!(cgroup = %dir.display(), "in use, stays");
                    return Ok(());
                }
                std::thread::sleep(RMDIR_PAUSE);
            }
            other => return other,
        }
    }
}
