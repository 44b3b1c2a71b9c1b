//! CreateContainer, step by step. Nothing is on disk or in the kernel before
//! the record is; after it, whatever fails is undone by id.
//!
//! ```text
//! Resolve   image, users, volumes -> spec            reads only
//! Seccomp   profile -> program                       cached by the runtime
//! Record    record.json, spec.json                   from here on: destroy(id)
//! Prepare   shim || cgroup || snapshot
//! Create    the shim makes the container
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use oci_spec::runtime::Spec;

use crate::base::id::{ContainerId, SandboxId};
use crate::cgroup::{CgroupPath, Mode, container_path};
use crate::sandbox::SandboxView;
use crate::sandbox::model::NamespaceMode;
use crate::store::{Durability, write_file};

use super::error::{CreateError, StepError};
use super::logs;
use super::model::ContainerConfig;
use super::ports::{CreateTask, ImageView, Rootfs, SeccompFilter, Task};
use super::record::ContainerRecord;
use super::spec::{self, ImageFacts, Inputs, Pod, SeccompChoice, SpecError, UserRecords};
use super::state::{Phase, Stage};
use super::stop;
use super::teardown;
use super::world::World;

/// What is to be created.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) id: ContainerId,
    pub(super) pod: SandboxId,
    pub(super) config: Arc<ContainerConfig>,
    pub(super) created_at: i64,
}

/// A created container.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) record: ContainerRecord,
    pub(super) task: Arc<dyn Task>,
    pub(super) pid: i32,
}

/// What Resolve found out.
struct Plan {
    record: ContainerRecord,
    spec: Spec,
    /// Keeps the image's layers until the published record names them.
    hold: Arc<dyn std::fmt::Debug + Send + Sync>,
}

/// Creates the container; `publish` is told each stage and, once there is one,
/// the record.
///
/// # Errors
/// The cause with its stage. What was made was removed again, but for what
/// `cleanup` names.
pub(super) async fn run(
    world: &Arc<World>,
    order: Order,
    mut publish: impl FnMut(Stage, Option<&ContainerRecord>),
) -> Result<Made, CreateError> {
    let begun = Instant::now();
    let mut stage = Stage::Resolve;
    let mut planned = None;
    let mut note = |now: Stage, record: Option<&ContainerRecord>| {
        stage = now;
        if let Some(record) = record {
            planned = Some(record.cgroup.clone());
        }
        publish(now, record);
    };
    let made = Box::pin(steps(world, &order, &mut note)).await;
    let cause = match made {
        Ok(made) => return Ok(made),
        Err(cause) => cause,
    };
    // Before the record there is nothing to undo.
    let cleanup = match planned {
        Some(cgroup) => teardown::destroy(world, &order.id, Some(&cgroup))
            .await
            .err(),
        None => None,
    };
    let metadata = &order.config.metadata;
    Err(CreateError {
        name: format!("{}_{}", metadata.name, metadata.attempt),
        stage,
        after: begun.elapsed(),
        cause,
        cleanup,
    })
}

async fn steps(
    world: &Arc<World>,
    order: &Order,
    note: &mut (impl FnMut(Stage, Option<&ContainerRecord>) + ?Sized),
) -> Result<Made, StepError> {
    note(Stage::Resolve, None);
    // The reservation is visible by now: a stop of the pod that begins after
    // this look finds the container, and one that began before is seen here.
    let pod = world
        .pods
        .get(order.pod.as_str())
        .ok()
        .filter(|pod| pod.is_ready());
    let pod = pod.ok_or_else(|| StepError::PodNotReady(order.pod.clone()))?;
    let (job, wanted, view) = (world.clone(), order.clone(), pod.clone());
    let plan = world
        .tasks
        .spawn_blocking(move || plan(&job, &wanted, &view));
    let Plan {
        mut record,
        spec,
        hold,
    } = plan.await??;
    note(Stage::Seccomp, None);
    let seccomp = seccomp(world, &order.config, &spec).await?;
    note(Stage::Record, Some(&record));
    drop(hold);
    write(world, &record, &spec)?;
    note(Stage::Prepare, None);
    let (task, rootfs) = prepare(world, &record).await?;
    note(Stage::Create, None);
    record.created = true;
    let request = request(world, &pod, &record, spec, rootfs, seccomp)?;
    let pid = task.create(request).await?;
    world
        .records
        .write(record.id.as_str(), &record, Durability::Rename)?;
    Ok(Made { record, task, pid })
}

fn image(world: &World, config: &ContainerConfig) -> Result<ImageView, StepError> {
    let image = &config.image.image;
    let found = world.images.get(image).map_err(|source| StepError::Image {
        image: image.clone(),
        source,
    })?;
    found.ok_or_else(|| StepError::NoImage(image.clone()))
}

fn plan(world: &World, order: &Order, view: &SandboxView) -> Result<Plan, StepError> {
    let config = &*order.config;
    let image = image(world, config)?;
    let facts = ImageFacts::of(image.name.clone(), &image.config);
    let file = |path| {
        let read = world.snapshots.read_file(&image.layers, path);
        read.map(Option::unwrap_or_default)
            .map_err(|source| StepError::Image {
                image: config.image.image.clone(),
                source,
            })
    };
    let users = UserRecords::parse(&file("etc/passwd")?, &file("etc/group")?);
    let user = spec::resolve(&config.security, &facts.user, &users)?;
    let parent = CgroupPath::new(&view.cgroup_parent)?;
    let cgroup = container_path(&parent, order.id.as_str())?;
    let spec = spec::build(&Inputs {
        config,
        pod: pod(view),
        image: &facts,
        host: &world.host,
        user: &user,
        cgroup: &cgroup,
        sources: &super::resolve::sources(config)?,
        devices: &super::resolve::devices(config)?,
        target_pid_ns: target(world, order)?,
    })?;
    let stop_signal = config.image_stop_signal(&image);
    let hold = image.hold;
    let record = ContainerRecord {
        id: order.id.clone(),
        sandbox_id: order.pod.clone(),
        config: config.clone(),
        image_id: image.id,
        image_ref: image.reference,
        image_name: image.name,
        layers: image.layers,
        created_at: order.created_at,
        cgroup,
        log_path: logs::path(&view.config.log_directory, &config.log_path)?,
        user,
        stop_signal,
        created: false,
        exit: None,
    };
    Ok(Plan { record, spec, hold })
}

impl ContainerConfig {
    /// The request's signal, else the image's, else SIGTERM.
    fn image_stop_signal(&self, image: &ImageView) -> i32 {
        let named = || {
            let config = image.config.config().as_ref()?;
            stop::signal_number(config.stop_signal().as_deref()?)
        };
        self.stop_signal.or_else(named).unwrap_or(libc::SIGTERM)
    }
}

fn pod(view: &SandboxView) -> Pod<'_> {
    Pod {
        id: view.id.as_str(),
        config: &view.config,
        hostname: &view.hostname,
        net: view.namespaces.net.clone(),
        ipc: view.namespaces.ipc.clone(),
        uts: view.namespaces.uts.clone(),
        pid: view.namespaces.pid.clone(),
        user: view.namespaces.user.clone(),
        hostname_file: view.files.hostname.clone(),
        hosts_file: view.files.hosts.clone(),
        resolv_conf: view.files.resolv_conf.clone(),
        shm: view.files.shm.clone(),
    }
}

/// The PID namespace of the target container, which must run in the same pod.
fn target(world: &World, order: &Order) -> Result<Option<PathBuf>, StepError> {
    let options = &order.config.security.namespaces;
    if options.pid != NamespaceMode::Target {
        return Ok(None);
    }
    let field = "config.linux.security_context.namespace_options.target_id";
    let bad = |problem: String| SpecError::invalid(field, problem);
    let handle = world
        .table
        .get(&options.target_id)
        .map_err(|error| bad(error.to_string()))?;
    let view = handle.view();
    let runs = matches!(view.phase, Phase::Running { .. }) && view.pid > 0;
    if !runs || view.sandbox_id != order.pod {
        return Err(bad(format!("{} does not run in this pod", view.id)).into());
    }
    Ok(Some(PathBuf::from(format!("/proc/{}/ns/pid", view.pid))))
}

async fn seccomp(
    world: &World,
    config: &ContainerConfig,
    spec: &Spec,
) -> Result<SeccompFilter, StepError> {
    let file = match spec::seccomp_choice(config)? {
        SeccompChoice::None => return Ok(SeccompFilter::default()),
        SeccompChoice::File(file) => file,
    };
    let capabilities = spec
        .process()
        .as_ref()
        .and_then(|process| process.capabilities().as_ref())
        .and_then(|sets| sets.bounding().as_ref())
        .map(|set| {
            set.iter()
                .map(|cap| format!("CAP_{cap}"))
                .collect::<Vec<_>>()
        })
        .unwrap_or_default();
    Ok(world.runtime.compile_seccomp(&file, &capabilities).await?)
}

fn write(world: &World, record: &ContainerRecord, spec: &Spec) -> Result<(), StepError> {
    let id = record.id.as_str();
    world.records.write(id, record, Durability::Rename)?;
    let bytes = serde_json::to_vec(spec)?;
    let path = world.records.dir(id).join("spec.json");
    write_file(&path, &bytes, Durability::Rename)?;
    Ok(())
}

/// Shim, cgroup and snapshot do not need each other. All three are waited for
/// even if one fails, so that undoing them races with none.
async fn prepare(
    world: &Arc<World>,
    record: &ContainerRecord,
) -> Result<(Arc<dyn Task>, Rootfs), StepError> {
    let (host, group) = (world.cgroups.clone(), record.cgroup.clone());
    let cgroup = world.tasks.spawn_blocking(move || host.create(&group));
    let (job, id, layers) = (world.clone(), record.id.clone(), record.layers.clone());
    let root = root_owner(record);
    let log = record.log_path.clone();
    let files = world.tasks.spawn_blocking(move || {
        make_stage(&job.stage_dir(&id))?;
        if let Some(dir) = log.as_deref().and_then(Path::parent) {
            std::fs::create_dir_all(dir).map_err(StepError::host("make log directory", dir))?;
        }
        job.snapshots
            .prepare(&id, &layers, root)
            .map_err(StepError::Snapshot)
    });
    let (task, cgroup, rootfs) = tokio::join!(world.runtime.spawn(&record.id), cgroup, files);
    let task = task?;
    cgroup??;
    Ok((task, rootfs??))
}

/// Who owns the root directory of the snapshot: root inside.
fn root_owner(record: &ContainerRecord) -> Option<(u32, u32)> {
    record
        .config
        .security
        .namespaces
        .user
        .as_ref()
        .map(|user| (user.uid.host_id, user.gid.host_id))
}

/// 0711: a mapped root passes through it, and lists nothing.
fn make_stage(dir: &Path) -> Result<(), StepError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .map_err(StepError::host("make stage directory", dir))
}

fn request(
    world: &World,
    pod: &SandboxView,
    record: &ContainerRecord,
    spec: Spec,
    mut rootfs: Rootfs,
    seccomp: SeccompFilter,
) -> Result<CreateTask, StepError> {
    rootfs.idmap_userns.clone_from(&pod.namespaces.user);
    let config = &record.config;
    let own_mount = config
        .mounts
        .iter()
        .any(|mount| Path::new(&mount.container_path).starts_with("/sys"));
    Ok(CreateTask {
        spec: Arc::new(spec),
        rootfs,
        stage_dir: world.stage_dir(&record.id),
        state_dir: world.state_dir(&record.id),
        exit_record: world.exit_record(&record.id),
        tty: config.tty,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        log_path: record.log_path.clone(),
        seccomp,
        // On v2 the spec's `ro` holds; v1 is where libcontainer loses it.
        cgroup_writable: config.security.privileged
            || (own_mount && world.cgroups.mode() != Mode::Unified),
        record: world.records.encode(record)?,
    })
}
