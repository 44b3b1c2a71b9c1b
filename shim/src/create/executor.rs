//! The hook that libcontainer calls in the container's init: from the
//! capabilities it was given to those it is meant to have, the seccomp filter
//! without no_new_privs, the label, and execve.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::capabilities::CapabilityExt;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use oci_spec::runtime::{Capabilities, Process, Spec};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::{CreateError, Failure};
use crate::sys::{self, MountAttr};

/// Exit status of an init that could not execute its program.
pub const EXIT_NOT_EXECUTABLE: i32 = 128;
const SYS_ADMIN: u64 = 1 << 21;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The capability sets that the program starts from, as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    fn of(process: &Process) -> Sets {
        let Some(caps) = process.capabilities() else {
            return Sets::default();
        };
        let mask = |set: &Option<Capabilities>| {
            set.iter()
                .flatten()
                .fold(0, |mask, cap| mask | cap.to_cap().bitmask())
        };
        Sets {
            bounding: mask(caps.bounding()),
            effective: mask(caps.effective()),
            permitted: mask(caps.permitted()),
            inheritable: mask(caps.inheritable()),
            ambient: mask(caps.ambient()),
        }
    }
}

/// All that init needs to become the program.
#[derive(Clone)]
pub(super) struct Launch(Rc<Plan>);

struct Plan {
    args: Vec<CString>,
    env: Vec<CString>,
    path: String,
    sets: Sets,
    no_new_privileges: bool,
    filter: Vec<libc::sock_filter>,
    filter_flags: u32,
    label: Option<String>,
    read_only: Option<PathBuf>,
    report: OwnedFd,
}

impl Launch {
    /// `process` as the container is meant to have it. `read_only`: a mount to
    /// make recursively read-only. `report`: where a failed execve is told; it
    /// is closed by the execve that succeeds.
    pub(super) fn new(
        process: &Process,
        filter: &[libc::sock_filter],
        filter_flags: u32,
        read_only: Option<PathBuf>,
        report: OwnedFd,
    ) -> Result<Launch, CreateError> {
        let strings = |list: &Option<Vec<String>>, what: &str| {
            list.iter()
                .flatten()
                .map(|text| CString::new(text.as_str()))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| CreateError::Invalid(format!("{what} with a NUL byte")))
        };
        let args = strings(process.args(), "argument")?;
        if args.is_empty() {
            return Err(CreateError::Invalid("no program to execute".into()));
        }
        let path = process
            .env()
            .iter()
            .flatten()
            .find_map(|entry| entry.strip_prefix("PATH="));
        Ok(Launch(Rc::new(Plan {
            args,
            env: strings(process.env(), "environment")?,
            path: path.unwrap_or(DEFAULT_PATH).to_owned(),
            sets: Sets::of(process),
            no_new_privileges: process.no_new_privileges() == Some(true),
            filter: filter.to_vec(),
            filter_flags,
            label: process
                .selinux_label()
                .clone()
                .filter(|label| !label.is_empty()),
            read_only,
            report,
        })))
    }
}

impl Plan {
    fn run(&self) -> Failure {
        let failed = |stage: &str, error: io::Error| Failure {
            stage: stage.to_owned(),
            message: match self.args.first() {
                Some(program) => format!("{stage} {}: {error}", program.to_string_lossy()),
                None => error.to_string(),
            },
            errno: error.raw_os_error().unwrap_or(0),
            invalid: false,
        };
        // Looked up before the filter, which may deny what the search needs.
        let program = match self.find() {
            Ok(program) => program,
            Err(errno) => return failed("execve", errno.into()),
        };
        if let Err(error) = self.set_label() {
            return failed("set SELinux label", error);
        }
        if let Err(error) = self.confine() {
            return failed("drop privileges", error);
        }
        failed("execve", sys::execve(&program, &self.args, &self.env))
    }

    /// The program's path by the container's own PATH.
    fn find(&self) -> Result<CString, Errno> {
        let name = self.args.first().ok_or(Errno::NOENT)?;
        if name.to_bytes().contains(&b'/') {
            executable(name)?;
            return Ok(name.clone());
        }
        let mut outcome = Errno::NOENT;
        for dir in self.path.split(':').filter(|dir| !dir.is_empty()) {
            let mut path = dir.as_bytes().to_vec();
            path.push(b'/');
            path.extend_from_slice(name.to_bytes());
            let Ok(path) = CString::new(path) else {
                continue;
            };
            match executable(&path) {
                Ok(()) => return Ok(path),
                Err(Errno::ACCESS) => outcome = Errno::ACCESS,
                Err(_) => {}
            }
        }
        Err(outcome)
    }

    fn set_label(&self) -> io::Result<()> {
        let Some(label) = &self.label else {
            return Ok(());
        };
        let attr = rustix::fs::open(
            "/proc/thread-self/attr/exec",
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // A container that mounted something of its own over /proc must not
        // get to see the label instead of the kernel.
        if rustix::fs::fstatfs(&attr)?.f_type != libc::PROC_SUPER_MAGIC {
            return Err(Errno::BADF.into());
        }
        std::fs::File::from(attr).write_all(label.as_bytes())
    }

    /// Down to the capabilities that were asked for, then the filter.
    /// SYS_ADMIN stays for loading it where no_new_privs is off; execve takes
    /// it away with everything else that the sets don't hold, so that a filter
    /// need not allow capset(2).
    fn confine(&self) -> io::Result<()> {
        let sets = self.sets;
        for cap in 0..64_u64 {
            if sets.bounding & (1 << cap) == 0
                && let Err(error) = sys::prctl(libc::PR_CAPBSET_DROP, cap, 0)
            {
                // The first number beyond the kernel's last capability.
                if error.raw_os_error() == Some(libc::EINVAL) {
                    break;
                }
                return Err(error);
            }
        }
        let loads = !self.filter.is_empty() && !self.no_new_privileges;
        let extra = if loads { SYS_ADMIN } else { 0 };
        sys::capset(
            sets.effective | extra,
            sets.permitted | extra,
            sets.inheritable,
        )?;
        sys::prctl(
            libc::PR_CAP_AMBIENT,
            u64::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs()),
            0,
        )?;
        for cap in (0..64_u64).filter(|cap| sets.ambient & (1 << cap) != 0) {
            sys::prctl(
                libc::PR_CAP_AMBIENT,
                u64::from(libc::PR_CAP_AMBIENT_RAISE.unsigned_abs()),
                cap,
            )?;
        }
        if self.filter.is_empty() {
            return Ok(());
        }
        sys::load_seccomp(&self.filter, self.filter_flags)
    }

    /// libcontainer leaves the hierarchies of cgroup v1 writable whatever the
    /// spec says: the container could raise its own limits.
    fn make_read_only(&self) -> io::Result<()> {
        let Some(path) = &self.read_only else {
            return Ok(());
        };
        let mount = rustix::fs::openat2(
            CWD,
            path.as_path(),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS,
        )?;
        let attr = MountAttr {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        };
        sys::mount_setattr(mount.as_fd(), true, &attr)
    }
}

/// Whether this process may execute `path`.
fn executable(path: &std::ffi::CStr) -> Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Errno::ACCESS);
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

impl Executor for Launch {
    /// Replaces the default, which refuses what only its owner may execute.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        self.0.make_read_only().map_err(|error| {
            let path = self
                .0
                .read_only
                .as_deref()
                .unwrap_or(Path::new("/"))
                .display();
            ExecutorValidationError::ArgValidationError(format!("make {path} read-only: {error}"))
        })
    }

    /// The environment goes to execve as the spec has it, in its order.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let failure = self.0.run();
        let told = serde_json::to_vec(&failure).unwrap_or_default();
        // Where the filter denies even that, the exit status still tells.
        rustix::io::write(&self.0.report, &told).ok();
        sys::exit_now(EXIT_NOT_EXECUTABLE)
    }
}

/// Where the cgroup hierarchies are mounted in the container.
pub(super) fn cgroup_mount(spec: &Spec) -> Option<PathBuf> {
    let mounts = spec.mounts().iter().flatten();
    let mut cgroups =
        mounts.filter(|mount| matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")));
    let path = cgroups.next()?.destination();
    // What may not be opened in a path can't be asked for either.
    (!path.as_os_str().as_bytes().contains(&0)).then(|| path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(process: &serde_json::Value) -> Result<Launch, CreateError> {
        let process: Process = serde_json::from_value(process.clone()).unwrap();
        let (_, report) = rustix::pipe::pipe().unwrap();
        Launch::new(&process, &[], 0, None, report)
    }

    #[test]
    fn the_program_is_looked_up_in_the_containers_path() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for path in [&a, &b] {
            std::fs::create_dir(path).unwrap();
        }
        std::fs::create_dir(a.join("prog")).unwrap();
        std::fs::copy("/bin/true", b.join("prog")).unwrap();
        std::fs::write(b.join("data"), "").unwrap();
        let find = |name: &str, path: &str| {
            launch(&serde_json::json!({
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": [name],
                "env": [format!("PATH={path}")]
            }))
            .unwrap()
            .0
            .find()
        };
        let path = format!("{}::{}", a.display(), b.display());
        let found = find("prog", &path).unwrap();
        assert_eq!(found.to_str().unwrap(), format!("{}/prog", b.display()));
        assert_eq!(find("data", &path), Err(Errno::ACCESS));
        assert_eq!(find("none", &path), Err(Errno::NOENT));
        assert_eq!(find("/none/none", &path), Err(Errno::NOENT));
        assert_eq!(
            find(b.to_str().unwrap(), &path),
            Err(Errno::ACCESS),
            "a directory"
        );
    }

    #[test]
    fn what_cannot_be_executed_at_all_is_refused_early() {
        for args in [serde_json::json!([]), serde_json::json!(["a\0b"])] {
            let made = launch(&serde_json::json!({
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": args
            }));
            assert!(matches!(made, Err(CreateError::Invalid(_))));
        }
    }

    #[test]
    fn no_capabilities_means_none() {
        let process = Process::default();
        let mut none = process.clone();
        none.set_capabilities(None);
        assert_eq!(Sets::of(&none), Sets::default());
        assert_ne!(Sets::of(&process), Sets::default());
    }
}
