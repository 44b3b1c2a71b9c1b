//! The start: records against what lives, then the sweep of what has no record.
//!
//! | record | this boot | earlier boot |
//! |---|---|---|
//! | creating | unwound | unwound, DEL without a namespace |
//! | ready | ready if every namespace and mount is the recorded one, else not ready | not ready, released |
//! | not ready, held | as it was; whoever stopped it asks again | released |
//! | not ready, released | as it was | as it was |
//! | newer, or unreadable | left alone and reported, nothing of it is swept | the same |
//!
//! Only names with this instance's id in them, or below its own directories,
//! are looked at.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::base::chain::chain;
use crate::base::id::SandboxId;
use crate::base::readable::Readable;
use crate::base::teardown::Failures;
use crate::cgroup::CgroupPath;
use crate::netns::{Namespace, pins, unpin};
use crate::store::Loaded;

use super::driver::Start;
use super::env::Env;
use super::error::{OpenError, StepError};
use super::files::is_shm;
use super::init;
use super::record::{Recorded, SandboxRecord};
use super::state::{Phase, Reason, Resources};
use super::teardown::{rmdir, unpin_all};

/// The sandboxes to go on with, and how.
pub(super) async fn recover(env: &Arc<Env>) -> Result<Vec<(SandboxRecord, Start)>, OpenError> {
    let mut known = quarantined(env);
    let mut found = Vec::new();
    for (name, loaded) in env.records.load_all()? {
        known.insert(name.clone());
        match loaded {
            Loaded::Object { object, this_boot } if object.id.as_str() == name => {
                let start = start_of(&object, this_boot);
                tracing::info!(sandbox = name, phase = ?start.phase(), "recovered");
                found.push((object, start));
            }
            Loaded::Object { object, .. } => tracing::error!(
                directory = name, id = %object.id, "the record of another sandbox; left alone"
            ),
            Loaded::Newer { version } => tracing::error!(
                sandbox = name,
                version,
                "the record is of a newer daemon; left alone"
            ),
            Loaded::Broken { error, moved_to } => tracing::error!(
                sandbox = name, error = %chain(&error), moved_to = ?moved_to,
                "the record can't be read; what the sandbox holds is left alone"
            ),
        }
    }
    sweep(env, &known).await?;
    Ok(found)
}

/// Ids of sandboxes whose records an earlier start could not read.
fn quarantined(env: &Env) -> BTreeSet<String> {
    let dir = env.records.root().join(".quarantine");
    names(&dir)
        .into_iter()
        .filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned()))
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    match pins(dir, "") {
        Ok(names) => names,
        Err(error) => {
            tracing::error!(error = %chain(&error), "not swept");
            Vec::new()
        }
    }
}

fn start_of(record: &SandboxRecord, this_boot: bool) -> Start {
    let found = |phase| Start::Found { phase, init: None };
    match (&record.state, this_boot) {
        (Recorded::Creating, _) => Start::Unwind,
        (Recorded::Ready, true) => match alive(record) {
            Ok(init) => Start::Found {
                phase: Phase::Ready,
                init,
            },
            Err(reason) => found(Phase::NotReady {
                reason,
                resources: Resources::Held,
            }),
        },
        (Recorded::Ready, false) => Start::Release {
            reason: Reason::Rebooted,
        },
        (
            Recorded::NotReady {
                reason,
                released: false,
            },
            false,
        ) => Start::Release {
            reason: Reason::Recorded(reason.clone()),
        },
        (Recorded::NotReady { reason, released }, _) => {
            found(Recorded::not_ready(reason, *released))
        }
    }
}

/// Whether everything that the record names is still what it was. Yields the
/// init process, if the sandbox has one.
fn alive(record: &SandboxRecord) -> Result<Option<Readable>, Reason> {
    let paths = &record.namespaces;
    for (name, path) in [
        ("net", &paths.net),
        ("ipc", &paths.ipc),
        ("uts", &paths.uts),
        ("pid", &paths.pid),
        ("user", &paths.user),
    ] {
        let Some(path) = path else { continue };
        let lost = |why: String| Reason::Lost(format!("its {name} namespace {why}"));
        let now = Namespace::open(path).map_err(|e| lost(format!("is lost: {}", chain(&e))))?;
        if record.identities.get(name) != Some(&now.identity()) {
            return Err(lost(format!("at {} is another one", path.display())));
        }
    }
    if paths.ipc.is_some() && !is_shm(&record.files.shm) {
        return Err(Reason::Lost("its /dev/shm is not mounted".to_owned()));
    }
    match record.init_pid {
        None => Ok(None),
        Some(pid) => living_init(record, pid).map(Some),
    }
}

/// The process is the pod's PID 1 if it lives in the pinned PID namespace: ids
/// are given out again, namespaces aren't while they are pinned.
fn living_init(record: &SandboxRecord, pid: i32) -> Result<Readable, Reason> {
    let pidfd = init::open(pid).map_err(|_| Reason::InitExited)?;
    let own = format!("/proc/{pid}/ns/pid");
    let identity = Namespace::open(Path::new(&own)).map(|ns| ns.identity());
    let is_ours = identity.ok().as_ref() == record.identities.get("pid");
    if !is_ours || init::has_ended(&pidfd).unwrap_or(true) {
        return Err(Reason::InitExited);
    }
    Readable::new(pidfd).map_err(|e| Reason::Lost(format!("its init can't be watched: {e}")))
}

/// Removes what has this instance's name and no record.
async fn sweep(env: &Arc<Env>, known: &BTreeSet<String>) -> Result<(), OpenError> {
    let layout = &env.layout;
    let mut seen: BTreeSet<String> = BTreeSet::new();
    seen.extend(pins(&layout.netns, &layout.netns_prefix())?);
    seen.extend(pins(&layout.namespaces, "")?);
    seen.extend(pins(&layout.shm, "")?);
    seen.extend(env.records.orphans()?);
    seen.extend(own_cgroups(env));
    let intents = env.cni.pending()?;
    seen.extend(intents.iter().map(ToString::to_string));
    let orphans = seen.difference(known).filter_map(|name| name.parse().ok());
    for id in orphans.collect::<Vec<SandboxId>>() {
        let attached = intents.contains(&id);
        tracing::warn!(sandbox = %id, attached, "left behind without a record; removed");
        let orphan = id.clone();
        let swept = env
            .blocking(move |env| {
                let mut failures = Failures::none();
                unpin_all(&env.layout, &orphan, attached, &mut failures);
                sweep_cgroups(env, &orphan, &mut failures);
                failures.step("remove files", env.records.remove(orphan.as_str()));
                Ok::<_, StepError>(failures)
            })
            .await;
        report(&id, swept?.into_result());
        if attached {
            detach(env, id);
        }
    }
    Ok(())
}

fn report(id: &SandboxId, result: Result<(), Failures>) {
    if let Err(failures) = result {
        tracing::error!(sandbox = %id, %failures, "not all that was left behind is removed");
    }
}

/// DEL of a lost sandbox, as long as it takes, and then its network namespace.
fn detach(env: &Arc<Env>, id: SandboxId) {
    let env = env.clone();
    let tasks = env.tasks.clone();
    tasks.spawn(async move {
        match env.cni.del_until_done(&id).await {
            Ok(()) => {
                let mut failures = Failures::none();
                let pin = env.layout.netns_pin(&id);
                failures.step("remove network namespace", unpin(&pin));
                report(&id, failures.into_result());
            }
            Err(error) => tracing::error!(sandbox = %id, error = %chain(&error), "not detached"),
        }
    });
}

/// Ids of pods below this instance's own cgroup.
fn own_cgroups(env: &Env) -> Vec<String> {
    let Ok(own) = CgroupPath::new(&format!("/longshore-{}", env.layout.instance)) else {
        return Vec::new();
    };
    env.cgroups
        .dirs(&own)
        .iter()
        .flat_map(|dir| names(dir))
        .collect()
}

/// Ends the init of a lost pod and removes its cgroup if nothing else is in it:
/// containers are their own domain's to end.
fn sweep_cgroups(env: &Env, id: &SandboxId, failures: &mut Failures) {
    let _tree = env
        .cgroup_tree
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let own = CgroupPath::new(&format!("/longshore-{}", env.layout.instance));
    let Some(own) = failures.step("name cgroup", own) else {
        return;
    };
    let Some(pod) = failures.step("name cgroup", own.child(id.as_str())) else {
        return;
    };
    if let Some(group) = failures.step("name cgroup", env.layout.init_cgroup(id, &pod)) {
        failures.step("kill pod init", env.cgroups.kill(&group));
        failures.step("remove cgroup of pod init", env.cgroups.remove(&group));
    }
    match env.cgroups.is_empty(&pod) {
        Ok(true) => {
            failures.step("remove cgroup", env.cgroups.remove(&pod));
            for dir in env.cgroups.dirs(&own) {
                failures.step("remove our cgroup", rmdir(&dir, 1));
            }
        }
        Ok(false) => tracing::warn!(cgroup = %pod, "has processes, stays"),
        Err(error) => {
            failures.step("look into cgroup", Err::<(), _>(error));
        }
    }
}
