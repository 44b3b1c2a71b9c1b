//! What the domain needs of the layers below, as traits: the runtime that
//! runs containers (longshore's own shim, or a third party's behind the same
//! trait), images, snapshots and pods. Tests put fakes behind them.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use longshore_snapshotter::LayerId;

use crate::base::id::{ContainerId, ImageId, SandboxId};
use crate::sandbox::{LookupError as PodLookupError, SandboxError, SandboxView};

/// A future behind a trait object.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// Why a layer below failed.
pub type Cause = Box<dyn Error + Send + Sync>;

/// An image, as far as containers are concerned.
#[derive(Debug, Clone)]
pub struct ImageView {
    /// Its id.
    pub id: ImageId,
    /// A repository digest, else the id.
    pub reference: String,
    /// A tag that a user knows, else the reference.
    pub name: String,
    /// Layers, bottom to top.
    pub layers: Vec<LayerId>,
    /// OCI image-spec, config.md.
    pub config: Arc<oci_spec::image::ImageConfiguration>,
    /// Keeps the layers from garbage collection while it lives.
    pub hold: Arc<dyn fmt::Debug + Send + Sync>,
}

/// Looks images up.
pub trait Images: fmt::Debug + Send + Sync {
    /// The image of this name, id or id prefix, if it is here.
    ///
    /// # Errors
    /// When the store can't tell.
    fn get(&self, name: &str) -> Result<Option<ImageView>, Cause>;
}

/// The overlay that becomes a container's root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rootfs {
    /// Layer directories, top first.
    pub lower: Vec<PathBuf>,
    /// Where writes go.
    pub upper: Option<PathBuf>,
    /// The kernel's scratch directory.
    pub work: Option<PathBuf>,
    /// Options without a value.
    pub options: Vec<String>,
    /// The user namespace whose mapping the layers get.
    pub idmap_userns: Option<PathBuf>,
}

/// Makes and removes writable snapshots. Blocks.
pub trait Snapshots: fmt::Debug + Send + Sync {
    /// A snapshot named after the container. `root` owns its top
    /// directory, where the pod has a user namespace.
    ///
    /// # Errors
    /// A missing layer, a snapshot of this name, an I/O error.
    fn prepare(
        &self,
        id: &ContainerId,
        layers: &[LayerId],
        root: Option<(u32, u32)>,
    ) -> Result<Rootfs, Cause>;

    /// Removes it. None is success.
    ///
    /// # Errors
    /// An I/O error.
    fn remove(&self, id: &ContainerId) -> Result<(), Cause>;

    /// One file of the merged image, symbolic links kept inside.
    ///
    /// # Errors
    /// No regular file, one that is too large, an I/O error.
    fn read_file(&self, layers: &[LayerId], path: &str) -> Result<Option<Vec<u8>>, Cause>;
}

/// Looks pods up, stops and removes them.
pub trait Pods: fmt::Debug + Send + Sync {
    /// The pod of this id or prefix.
    ///
    /// # Errors
    /// None or more than one.
    fn get(&self, id: &str) -> Result<Arc<SandboxView>, PodLookupError>;
    /// No container is created in it any more.
    fn begin_stop<'a>(&'a self, id: &'a SandboxId) -> Work<'a, Result<(), SandboxError>>;
    /// Gives back what it holds.
    fn finish_stop<'a>(&'a self, id: &'a SandboxId) -> Work<'a, Result<(), SandboxError>>;
    /// Forgets it.
    fn remove<'a>(&'a self, id: &'a SandboxId) -> Work<'a, Result<(), SandboxError>>;
}

/// A compiled seccomp program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeccompFilter {
    /// An array of `struct sock_filter`; empty: none.
    pub program: Vec<u8>,
    /// Flags of `seccomp(2)`.
    pub flags: u32,
}

/// What a container is made of.
#[derive(Debug, Clone)]
pub struct CreateTask {
    /// OCI runtime spec.
    pub spec: Arc<oci_spec::runtime::Spec>,
    /// Root file system.
    pub rootfs: Rootfs,
    /// Where root file system and volumes are staged.
    pub stage_dir: PathBuf,
    /// libcontainer's own state.
    pub state_dir: PathBuf,
    /// Receives the exit record.
    pub exit_record: PathBuf,
    /// A terminal.
    pub tty: bool,
    /// Keep stdin open.
    pub stdin: bool,
    /// Close it after the first client.
    pub stdin_once: bool,
    /// CRI log file; `None`: no log.
    pub log_path: Option<PathBuf>,
    /// Seccomp program.
    pub seccomp: SeccompFilter,
    /// Leave `/sys/fs/cgroup` writable.
    pub cgroup_writable: bool,
    /// Kept by the shim for [`TaskState::record`].
    pub record: Vec<u8>,
}

/// How a container's init ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskExit {
    /// Exit status, or 128 + signal.
    pub code: i32,
    /// The kernel's OOM killer hit the container's cgroup.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch, 0: never started.
    pub started_at: i64,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
}

/// The end of a task as its owner hears of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEnd {
    /// Init ended.
    Exited(TaskExit),
    /// The shim died; what became of the container is not known.
    Lost,
}

/// Where a task is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskStatus {
    /// No container was created.
    Empty,
    /// Created, not started.
    Created,
    /// Running.
    Running {
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    /// Ended.
    Stopped(TaskExit),
}

/// What a shim says about its container.
#[derive(Debug, Clone)]
pub struct TaskState {
    /// Where it is.
    pub status: TaskStatus,
    /// Init's process id, 0 unless created or running.
    pub pid: i32,
    /// [`CreateTask::record`] as it came.
    pub record: Vec<u8>,
}

/// Limits of an ExecSync.
#[derive(Debug, Clone, Copy)]
pub struct ExecLimits {
    /// Longest run; `None`: no limit.
    pub timeout: Option<Duration>,
    /// Bytes kept of each stream; more is read and dropped. How long the
    /// streams may stay open once the command ended (a grandchild may hold
    /// them) is the runtime's to bound.
    pub output_bytes: usize,
}

/// What a command printed and answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit status, or 128 + signal.
    pub exit_code: i32,
}

/// The runtime did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The program can't be executed.
    #[error("{stage}: {message}")]
    NotExecutable {
        /// Where it was noticed.
        stage: String,
        /// The causes.
        message: String,
    },
    /// Its state doesn't allow it.
    #[error("{stage}: {message}")]
    BadState {
        /// Where it was noticed.
        stage: String,
        /// The causes.
        message: String,
    },
    /// The command of an exec did not end in time; it was killed.
    #[error("the command did not end within {:.1} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The shim is gone.
    #[error("the shim is gone")]
    Gone,
    /// Anything else.
    #[error("{operation}")]
    Failed {
        /// What was asked.
        operation: String,
        /// Why it failed.
        #[source]
        source: Cause,
    },
}

/// One container in its shim.
pub trait Task: fmt::Debug + Send + Sync {
    /// Creates it: everything but the execve. Answers init's process id.
    fn create(&self, create: CreateTask) -> Work<'_, Result<i32, RuntimeError>>;
    /// Runs its program. Answers when it was, nanoseconds since the epoch.
    fn start(&self) -> Work<'_, Result<i64, RuntimeError>>;
    /// Signals init.
    fn kill(&self, signal: i32) -> Work<'_, Result<(), RuntimeError>>;
    /// Runs a command to its end.
    fn exec_sync<'a>(
        &'a self,
        args: &'a [String],
        limits: ExecLimits,
    ) -> Work<'a, Result<ExecOutput, RuntimeError>>;
    /// Opens the log path again.
    fn reopen_log(&self) -> Work<'_, Result<(), RuntimeError>>;
    /// What it says about itself.
    fn state(&self) -> Work<'_, Result<TaskState, RuntimeError>>;
    /// The exit was recorded: clean up and end.
    fn collect(&self) -> Work<'_, Result<(), RuntimeError>>;
    /// Resolves when the task ends, at once if it has.
    fn ended(&self) -> Work<'static, TaskEnd>;
}

/// Runs containers.
pub trait Runtime: fmt::Debug + Send + Sync {
    /// A task without a container yet.
    fn spawn<'a>(&'a self, id: &'a ContainerId) -> Work<'a, Result<Arc<dyn Task>, RuntimeError>>;
    /// The living task of an earlier daemon; `None`: there is none.
    fn connect<'a>(
        &'a self,
        id: &'a ContainerId,
    ) -> Work<'a, Result<Option<Arc<dyn Task>>, RuntimeError>>;
    /// Ids of the tasks that seem to live, of this instance only.
    fn list(&self) -> Work<'_, Result<Vec<ContainerId>, RuntimeError>>;
    /// Ends the task, however it is, and what it left behind. None is success.
    /// The container's processes were killed before.
    fn discard<'a>(&'a self, id: &'a ContainerId) -> Work<'a, Result<(), RuntimeError>>;
    /// Compiles a profile (OCI seccomp JSON) for these capabilities.
    fn compile_seccomp<'a>(
        &'a self,
        profile: &'a Path,
        capabilities: &'a [String],
    ) -> Work<'a, Result<SeccompFilter, RuntimeError>>;
}
