//! Layers below, for tests of this one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore_snapshotter::LayerId;
use tokio::sync::watch;

use super::model::{ContainerConfig, ContainerMetadata, ImageSpec, SecurityContext};
use super::ports::*;
use super::record::ContainerRecord;
use super::spec::{HostFacts, ResolvedUser};
use super::world::ContainersConfig;
use super::{Containers, OpenError};
use crate::base::id::{ContainerId, SandboxId};
use crate::base::tasks::Tasks;
use crate::cgroup::{CgroupPath, Hierarchies};
use crate::sandbox::model::{NamespaceMode, NamespaceOptions, SandboxConfig, SandboxMetadata};
use crate::sandbox::{
    LookupError as PodLookupError, NamespacePaths, Phase as PodPhase, Reason, Resources,
    SandboxError, SandboxFiles, SandboxView,
};

pub(super) fn sandbox_id() -> SandboxId {
    "5a".repeat(32).parse().unwrap()
}

pub(super) fn config(name: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata {
            name: name.into(),
            attempt: 0,
        },
        image: ImageSpec {
            image: "busybox".into(),
            ..ImageSpec::default()
        },
        command: vec!["sleep".into()],
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        log_path: "c.log".into(),
        stdin: false,
        stdin_once: false,
        tty: false,
        resources: None,
        security: SecurityContext {
            namespaces: NamespaceOptions {
                pid: NamespaceMode::Container,
                ..NamespaceOptions::default()
            },
            ..SecurityContext::default()
        },
        cdi_devices: Vec::new(),
        stop_signal: None,
    }
}

pub(super) fn record() -> ContainerRecord {
    ContainerRecord {
        id: "c0".repeat(32).parse().unwrap(),
        sandbox_id: sandbox_id(),
        config: config("c"),
        image_id: format!("sha256:{}", "1".repeat(64)).parse().unwrap(),
        image_ref: "busybox@sha256:1".into(),
        image_name: "busybox:latest".into(),
        layers: vec!["11".repeat(32).parse().unwrap()],
        created_at: 5,
        cgroup: CgroupPath::new("/longshore-unit/none").unwrap(),
        log_path: None,
        user: ResolvedUser::default(),
        stop_signal: libc::SIGTERM,
        created: true,
        exit: None,
    }
}

/// What the fakes are told and what they saw.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// The step of the name fails: `spawn`, `prepare`, `create`, `start`, `remove snapshot`.
    pub(super) fail: Option<&'static str>,
    /// A signal that ends the program; SIGKILL always does.
    pub(super) heeds: Option<i32>,
    /// How long `create` takes.
    pub(super) create_takes: Duration,
    /// What was done, in order.
    pub(super) log: Vec<String>,
}

type Shared = Arc<Mutex<Script>>;

/// A shim in memory: survives the `Containers` that made it.
#[derive(Debug)]
pub(super) struct FakeTask {
    script: Shared,
    state: Mutex<TaskState>,
    end: watch::Sender<Option<TaskEnd>>,
}

impl FakeTask {
    fn note(&self, what: impl Into<String>) {
        self.script.lock().unwrap().log.push(what.into());
    }

    fn fails(&self, step: &str) -> Result<(), RuntimeError> {
        fails(&self.script, step)
    }

    pub(super) fn exit(&self, code: i32, oom_killed: bool) {
        let exit = TaskExit {
            code,
            oom_killed,
            started_at: 10,
            finished_at: 20,
        };
        let mut state = self.state.lock().unwrap();
        state.status = TaskStatus::Stopped(exit.clone());
        self.end.send_replace(Some(TaskEnd::Exited(exit)));
    }

    pub(super) fn die(&self) {
        self.end.send_replace(Some(TaskEnd::Lost));
    }
}

fn fails(script: &Shared, step: &str) -> Result<(), RuntimeError> {
    let mut script = script.lock().unwrap();
    script.log.push(step.to_owned());
    if script.fail == Some(leak(step)) {
        return Err(RuntimeError::NotExecutable {
            stage: step.to_owned(),
            message: "scripted".into(),
        });
    }
    Ok(())
}

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

impl Task for FakeTask {
    fn create(&self, create: CreateTask) -> Work<'_, Result<i32, RuntimeError>> {
        Box::pin(async move {
            let takes = self.script.lock().unwrap().create_takes;
            tokio::time::sleep(takes).await;
            self.fails("create")?;
            let mut state = self.state.lock().unwrap();
            state.status = TaskStatus::Created;
            state.pid = 77;
            state.record = create.record;
            Ok(77)
        })
    }

    fn start(&self) -> Work<'_, Result<i64, RuntimeError>> {
        Box::pin(async move {
            self.fails("start")?;
            self.state.lock().unwrap().status = TaskStatus::Running { started_at: 10 };
            Ok(10)
        })
    }

    fn kill(&self, signal: i32) -> Work<'_, Result<(), RuntimeError>> {
        Box::pin(async move {
            self.note(format!("signal {signal}"));
            let heeds = self.script.lock().unwrap().heeds;
            if signal == libc::SIGKILL || heeds == Some(signal) {
                self.exit(128 + signal, false);
            }
            Ok(())
        })
    }

    fn exec_sync<'a>(
        &'a self,
        args: &'a [String],
        limits: ExecLimits,
    ) -> Work<'a, Result<ExecOutput, RuntimeError>> {
        Box::pin(async move {
            if args == ["hang"] {
                return Err(RuntimeError::TimedOut(limits.timeout.unwrap()));
            }
            Ok(ExecOutput {
                exit_code: 3,
                ..ExecOutput::default()
            })
        })
    }

    fn reopen_log(&self) -> Work<'_, Result<(), RuntimeError>> {
        Box::pin(async move { self.fails("reopen") })
    }

    fn state(&self) -> Work<'_, Result<TaskState, RuntimeError>> {
        Box::pin(async move { Ok(self.state.lock().unwrap().clone()) })
    }

    fn collect(&self) -> Work<'_, Result<(), RuntimeError>> {
        Box::pin(async move { self.fails("collect") })
    }

    fn ended(&self) -> Work<'static, TaskEnd> {
        let mut end = self.end.subscribe();
        Box::pin(async move {
            let end = end.wait_for(Option::is_some).await;
            end.ok()
                .and_then(|end| end.clone())
                .unwrap_or(TaskEnd::Lost)
        })
    }
}

/// Everything below the domain.
#[derive(Debug, Clone)]
pub(super) struct Below {
    pub(super) script: Shared,
    pub(super) shims: Arc<Mutex<BTreeMap<ContainerId, Arc<FakeTask>>>>,
    pub(super) snapshots: Arc<Mutex<Vec<ContainerId>>>,
    pub(super) pod: Arc<Mutex<Option<PodPhase>>>,
    pub(super) root: PathBuf,
    pub(super) tasks: Tasks,
}

impl Below {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            script: Shared::default(),
            shims: Arc::default(),
            snapshots: Arc::default(),
            pod: Arc::new(Mutex::new(Some(PodPhase::Ready))),
            root: root.to_owned(),
            tasks: Tasks::new(),
        }
    }

    /// The domain on these layers; again after a "restart".
    pub(super) async fn open(&self) -> Result<Containers, OpenError> {
        let cgroups = Hierarchies::parse(&format!(
            "1 0 0:1 / {} rw - cgroup2 cgroup2 rw\n",
            self.cgroup_root().display()
        ));
        Containers::open(ContainersConfig {
            containers: self.root.join("containers"),
            stage: self.root.join("stage"),
            runtime_state: self.root.join("state"),
            boot_id: "boot".into(),
            cgroups: Arc::new(cgroups.unwrap()),
            host: HostFacts {
                cgroup_mode: crate::cgroup::Mode::Unified,
                swap: false,
                hugetlb: false,
                apparmor: false,
                apparmor_profiles: Vec::new(),
                selinux: false,
                oom_score_adj_floor: 0,
                capabilities: Vec::new(),
            },
            runtime: Arc::new(self.clone()),
            images: Arc::new(self.clone()),
            snapshots: Arc::new(self.clone()),
            pods: Arc::new(self.clone()),
            tasks: self.tasks.clone(),
        })
        .await
    }

    /// A plain directory with the files that making a group reads.
    fn cgroup_root(&self) -> PathBuf {
        let root = self.root.join("cgroup");
        for dir in [root.clone(), root.join("longshore")] {
            std::fs::create_dir_all(&dir).unwrap();
            for file in ["cgroup.controllers", "cgroup.subtree_control"] {
                std::fs::write(dir.join(file), "").unwrap();
            }
        }
        root
    }

    pub(super) fn shim(&self, id: &ContainerId) -> Arc<FakeTask> {
        self.shims.lock().unwrap()[id].clone()
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.script.lock().unwrap().log.clone()
    }

    pub(super) fn script(&self, edit: impl FnOnce(&mut Script)) {
        edit(&mut self.script.lock().unwrap());
    }

    /// What is left of containers on disk and in the layers below.
    pub(super) fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for dir in ["containers", "stage", "state", "cgroup/longshore"] {
            for entry in std::fs::read_dir(self.root.join(dir)).into_iter().flatten() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if !name.starts_with("cgroup.") {
                    left.push(format!("{dir}/{name}"));
                }
            }
        }
        left.extend(
            self.shims
                .lock()
                .unwrap()
                .keys()
                .map(|id| format!("shim {id}")),
        );
        left.extend(
            self.snapshots
                .lock()
                .unwrap()
                .iter()
                .map(|id| format!("snapshot {id}")),
        );
        left
    }
}

impl Runtime for Below {
    fn spawn<'a>(&'a self, id: &'a ContainerId) -> Work<'a, Result<Arc<dyn Task>, RuntimeError>> {
        Box::pin(async move {
            fails(&self.script, "spawn")?;
            let task = Arc::new(FakeTask {
                script: self.script.clone(),
                state: Mutex::new(TaskState {
                    status: TaskStatus::Empty,
                    pid: 0,
                    record: Vec::new(),
                }),
                end: watch::channel(None).0,
            });
            self.shims.lock().unwrap().insert(id.clone(), task.clone());
            Ok(task as Arc<dyn Task>)
        })
    }

    fn connect<'a>(
        &'a self,
        id: &'a ContainerId,
    ) -> Work<'a, Result<Option<Arc<dyn Task>>, RuntimeError>> {
        let task = self.shims.lock().unwrap().get(id).cloned();
        Box::pin(async move { Ok(task.map(|task| task as Arc<dyn Task>)) })
    }

    fn list(&self) -> Work<'_, Result<Vec<ContainerId>, RuntimeError>> {
        let ids = self.shims.lock().unwrap().keys().cloned().collect();
        Box::pin(async move { Ok(ids) })
    }

    fn discard<'a>(&'a self, id: &'a ContainerId) -> Work<'a, Result<(), RuntimeError>> {
        self.shims.lock().unwrap().remove(id);
        Box::pin(async move { Ok(()) })
    }

    fn compile_seccomp<'a>(
        &'a self,
        _: &'a Path,
        _: &'a [String],
    ) -> Work<'a, Result<SeccompFilter, RuntimeError>> {
        Box::pin(async move { Ok(SeccompFilter::default()) })
    }
}

impl Images for Below {
    fn get(&self, name: &str) -> Result<Option<ImageView>, Cause> {
        if name != "busybox" {
            return Ok(None);
        }
        let record = record();
        Ok(Some(ImageView {
            id: record.image_id,
            reference: record.image_ref,
            name: record.image_name,
            layers: record.layers,
            config: Arc::default(),
            hold: Arc::new(()),
        }))
    }
}

impl Snapshots for Below {
    fn prepare(
        &self,
        id: &ContainerId,
        _: &[LayerId],
        _: Option<(u32, u32)>,
    ) -> Result<Rootfs, Cause> {
        fails(&self.script, "prepare")?;
        self.snapshots.lock().unwrap().push(id.clone());
        Ok(Rootfs::default())
    }

    fn remove(&self, id: &ContainerId) -> Result<(), Cause> {
        fails(&self.script, "remove snapshot")?;
        self.snapshots.lock().unwrap().retain(|have| have != id);
        Ok(())
    }

    fn read_file(&self, _: &[LayerId], _: &str) -> Result<Option<Vec<u8>>, Cause> {
        Ok(None)
    }
}

impl Pods for Below {
    fn get(&self, id: &str) -> Result<Arc<SandboxView>, PodLookupError> {
        let phase = self.pod.lock().unwrap().clone();
        let phase = phase.filter(|_| sandbox_id().as_str().starts_with(id));
        let phase = phase.ok_or_else(|| PodLookupError::NotFound(id.to_owned()))?;
        Ok(Arc::new(view(phase, &self.root)))
    }

    fn begin_stop<'a>(&'a self, _: &'a SandboxId) -> Work<'a, Result<(), SandboxError>> {
        self.script(|script| script.log.push("pod begin_stop".into()));
        let phase = PodPhase::NotReady {
            reason: Reason::Stopped,
            resources: Resources::Held,
        };
        *self.pod.lock().unwrap() = Some(phase);
        Box::pin(async { Ok(()) })
    }

    fn finish_stop<'a>(&'a self, _: &'a SandboxId) -> Work<'a, Result<(), SandboxError>> {
        self.script(|script| script.log.push("pod finish_stop".into()));
        Box::pin(async { Ok(()) })
    }

    fn remove<'a>(&'a self, _: &'a SandboxId) -> Work<'a, Result<(), SandboxError>> {
        *self.pod.lock().unwrap() = None;
        Box::pin(async { Ok(()) })
    }
}

fn view(phase: PodPhase, root: &Path) -> SandboxView {
    SandboxView {
        id: sandbox_id(),
        config: Arc::new(SandboxConfig {
            metadata: SandboxMetadata {
                name: "pod".into(),
                uid: "u".into(),
                namespace: "ns".into(),
                attempt: 0,
            },
            hostname: "pod".into(),
            log_directory: root.join("logs").display().to_string(),
            dns: None,
            port_mappings: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            cgroup_parent: String::new(),
            namespaces: NamespaceOptions::default(),
            sysctls: BTreeMap::new(),
            privileged: false,
            selinux: None,
            seccomp: None,
            overhead: None,
            resources: None,
            runtime_handler: String::new(),
        }),
        phase,
        created_at: 1,
        ips: Vec::new(),
        hostname: "pod".into(),
        namespaces: NamespacePaths::default(),
        files: SandboxFiles {
            hostname: root.join("hostname"),
            hosts: root.join("hosts"),
            resolv_conf: root.join("resolv.conf"),
            shm: root.join("shm"),
        },
        cgroup_parent: "/longshore".into(),
    }
}
