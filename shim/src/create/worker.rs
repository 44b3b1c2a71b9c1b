//! The forked process in which libcontainer runs. It mounts, calls the crate,
//! reports and ends; what it does to itself (working directory, namespaces,
//! oom_score_adj, dumpable flag) never touches the shim.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::{Mount, Spec};
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::span;

use super::Request;
use super::error::{CreateError, Failure};
use super::executor::{self, Launch};
use super::normalise::{self, Facts};
use super::stage;
use crate::io::ChildEnds;
use crate::{link, rootfs, sys};

/// The worker's ends of what connects it with the shim.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) reply: OwnedFd,
    pub(super) log: OwnedFd,
    pub(super) exec: OwnedFd,
}

/// What the worker says before it ends.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Made {
        pid: i32,
        home: String,
        keyring: Option<String>,
    },
    Failed(Failure),
}

/// The worker. Its return value is its exit status.
pub(super) fn run(request: &Request, stdio: &ChildEnds<'_>, ends: Ends) -> i32 {
    let prepared = prepare(stdio, &ends);
    let Ends {
        reply: socket,
        log,
        exec,
    } = ends;
    let reply = match prepared.and_then(|()| make(request, stdio, log, exec)) {
        Ok(reply) => reply,
        Err(error) => Reply::Failed(Failure::from(&error)),
    };
    let bytes = serde_json::to_vec(&reply).unwrap_or_default();
    let sent = link::send_bytes(socket.as_fd(), &bytes, &[]);
    i32::from(sent.is_err() || matches!(reply, Reply::Failed(_)))
}

/// Sheds what the shim is and the container must not be: signal dispositions
/// (a Rust program ignores SIGPIPE), supplementary groups, umask, descriptors.
fn prepare(stdio: &ChildEnds<'_>, ends: &Ends) -> Result<(), CreateError> {
    sys::reset_signals();
    // What a shim that dies leaves is then at most what has joined the cgroup.
    sys::prctl(
        libc::PR_SET_PDEATHSIG,
        libc::SIGKILL.unsigned_abs().into(),
        0,
    )
    .map_err(|error| CreateError::system("PR_SET_PDEATHSIG", error))?;
    let mut keep = vec![0, 1, 2];
    keep.extend([&ends.reply, &ends.log, &ends.exec].map(AsRawFd::as_raw_fd));
    if let ChildEnds::Pipes {
        stdin,
        stdout,
        stderr,
    } = stdio
    {
        keep.extend([stdin, stdout, stderr].map(AsRawFd::as_raw_fd));
    }
    sys::close_all_but(&keep).map_err(|error| CreateError::system("close descriptors", error))?;
    nix::unistd::setgroups(&[]).map_err(|errno| CreateError::system("setgroups", errno))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    rustix::process::chdir("/").map_err(|errno| CreateError::system("chdir /", errno))
}

fn make(
    request: &Request,
    stdio: &ChildEnds<'_>,
    log: OwnedFd,
    exec: OwnedFd,
) -> Result<Reply, CreateError> {
    // Written to until the process ends.
    let log: &'static OwnedFd = Box::leak(Box::new(log));
    tracing::subscriber::set_global_default(Errors { log: log.as_fd() })
        .map_err(|error| CreateError::system("install subscriber", io::Error::other(error)))?;
    let keyring = join_keyring(&request.site.id)?;
    set_oom_score_adj(&request.spec)?;
    let (spec, home) = stage_spec(request, stdio)?;
    let mut process = request.spec.process().clone().unwrap_or_default();
    normalise::with_home(&mut process, &home);
    let read_only = executor::cgroup_mount(&request.spec).filter(|_| !request.cgroup_writable);
    let launch = Launch::new(
        &process,
        &request.filter,
        request.filter_flags,
        read_only,
        exec,
    )?;
    let bundle = request.site.stage_dir.join("bundle");
    rootfs::passable_dir(&bundle).map_err(CreateError::Mount)?;
    let config = serde_json::to_vec(&spec).map_err(CreateError::Spec)?;
    fs::write(bundle.join("config.json"), config)
        .map_err(|source| CreateError::system("write config.json", source))?;
    let pid = build(request, stdio, launch, bundle)?;
    Ok(Reply::Made { pid, home, keyring })
}

/// Mounts root file system and volumes, and returns the spec for the crate
/// together with the home directory of the container's user.
fn stage_spec(request: &Request, stdio: &ChildEnds<'_>) -> Result<(Spec, String), CreateError> {
    let (spec, stage) = (&request.spec, &request.site.stage_dir);
    rootfs::enter_namespace(stage).map_err(CreateError::Mount)?;
    let root = stage.join("rootfs");
    rootfs::passable_dir(&root).map_err(CreateError::Mount)?;
    stage::own_upper(spec, Path::new(&upper(request)))?;
    rootfs::mount(&request.rootfs, stage, &root).map_err(CreateError::Mount)?;
    let staged: Vec<Mount> = stage::volumes(spec, stage)?;
    stage::working_directory(spec, &staged, &root)?;
    let uid = spec
        .process()
        .as_ref()
        .map_or(0, |process| process.user().uid());
    let home = stage::home(&root, uid);
    let tty = matches!(stdio, ChildEnds::Console(_));
    let mut spec = normalise::normalise(spec, staged, &root, tty, Facts::of_this_machine())?;
    if let Some(process) = spec.process_mut() {
        normalise::with_home(process, &home);
    }
    Ok((spec, home))
}

fn upper(request: &Request) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(request.rootfs.upper.clone())
}

fn build(
    request: &Request,
    stdio: &ChildEnds<'_>,
    launch: Launch,
    bundle: PathBuf,
) -> Result<i32, CreateError> {
    let crate_error = |error| CreateError::Libcontainer(Box::new(error));
    let own = |fd: &BorrowedFd<'_>| {
        fd.try_clone_to_owned()
            .map_err(|error| CreateError::system("dup stdio", error))
    };
    let mut builder = ContainerBuilder::new(request.site.id.clone(), SyscallType::default())
        .with_root_path(&request.site.state_dir)
        .map_err(crate_error)?
        .with_executor(launch);
    builder = match stdio {
        ChildEnds::Console(path) => builder.with_console_socket(Some(path)),
        ChildEnds::Pipes {
            stdin,
            stdout,
            stderr,
        } => builder
            .with_stdin(own(stdin)?)
            .with_stdout(own(stdout)?)
            .with_stderr(own(stderr)?),
    };
    let container = builder
        .validate_id()
        .map_err(crate_error)?
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(crate_error)?;
    container
        .pid()
        .map(|pid| pid.as_raw())
        .ok_or_else(|| CreateError::system("find init", io::Error::from_raw_os_error(libc::ESRCH)))
}

/// A session keyring of the container's own. `None` where the kernel has none
/// to give, or where a runtime above us forbids them.
fn join_keyring(id: &str) -> Result<Option<String>, CreateError> {
    let name = format!("_ses.{id}");
    let text = CString::new(name.as_str())
        .map_err(|_| CreateError::Invalid("container id with a NUL byte".into()))?;
    match sys::join_session_keyring(&text) {
        Ok(()) => Ok(Some(name)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(None),
        Err(error) => Err(CreateError::system("join session keyring", error)),
    }
}

/// A spec that says nothing means 0, and not what the shim has. What may not
/// be had without CAP_SYS_RESOURCE is left as it is.
fn set_oom_score_adj(spec: &Spec) -> Result<(), CreateError> {
    let process = spec.process().as_ref();
    let wanted = process
        .and_then(|process| process.oom_score_adj())
        .unwrap_or(0);
    match fs::write("/proc/self/oom_score_adj", wanted.to_string()) {
        Err(error) if error.raw_os_error() != Some(libc::EACCES) => {
            Err(CreateError::system("write oom_score_adj", error))
        }
        _ => Ok(()),
    }
}

/// Writes libcontainer's errors to a pipe, one a line: what it returns has
/// lost the causes, for it passes errors between its processes as text.
struct Errors {
    log: BorrowedFd<'static>,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.0, "{value:?} ")
        } else {
            write!(self.0, "{}={value:?} ", field.name())
        };
        debug_assert!(written.is_ok(), "a String takes all");
    }
}

impl tracing::Subscriber for Errors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        line.0.truncate(line.0.trim_end().len());
        line.0.push('\n');
        // The pipe doesn't block; what doesn't fit is lost.
        rustix::io::write(self.log, line.0.as_bytes()).ok();
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
