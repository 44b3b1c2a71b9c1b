//! Making, filling, killing and removing groups.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::CgroupError;
use super::hierarchies::{Hierarchies, Mode};
use super::path::CgroupPath;

/// How long a killed group may take to become empty. A process that is dead
/// but for its exit work is gone in milliseconds; one in uninterruptible sleep
/// stays for as long as its device does.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for the v1 freezer before signals go out regardless.
const FREEZE_PATIENCE: Duration = Duration::from_millis(200);
/// `rmdir` of a group answers EBUSY for a moment after its last task ended.
const RMDIR_PATIENCE: Duration = Duration::from_secs(1);

impl Hierarchies {
    /// Makes the group, with what is missing above it. There already is fine.
    ///
    /// On v2 each group above gets every controller it can give to its children
    /// (`cgroup.subtree_control`); on v1 an empty cpuset is filled from above,
    /// for no process may enter an empty one.
    ///
    /// # Errors
    /// [`CgroupError::Io`]; what was made until then stays, [`Self::remove`] takes it back.
    pub fn create(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        let cpuset = self
            .mount_of("cpuset")
            .filter(|_| self.mode() != Mode::Unified);
        for mount in self.mounts() {
            let mut dir = mount.to_path_buf();
            for part in path.as_str().split('/').filter(|p| !p.is_empty()) {
                if self.mode() == Mode::Unified {
                    enable_controllers(&dir)?;
                }
                let above = dir.clone();
                dir.push(part);
                match fs::create_dir(&dir) {
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                        return Err(CgroupError::io("make cgroup", &dir)(error));
                    }
                    _ => {}
                }
                if cpuset == Some(mount) {
                    inherit_cpuset(&above, &dir)?;
                }
            }
        }
        Ok(())
    }

    /// Moves a process with its threads into the group.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn attach(&self, path: &CgroupPath, pid: i32) -> Result<(), CgroupError> {
        for file in self.procs_files(path) {
            write_control(&file, &pid.to_string())
                .map_err(CgroupError::io("attach a process to", &file))?;
        }
        Ok(())
    }

    /// Every process of the group and of those below it, over all hierarchies.
    /// A group that is not there has none.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn pids(&self, path: &CgroupPath) -> Result<BTreeSet<i32>, CgroupError> {
        let mut pids = BTreeSet::new();
        for top in self.dirs(path) {
            for dir in tree(&top)? {
                collect_pids(&dir, &mut pids)?;
            }
        }
        Ok(pids)
    }

    /// Whether no process is left in the group and below it.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn is_empty(&self, path: &CgroupPath) -> Result<bool, CgroupError> {
        self.pids(path).map(|pids| pids.is_empty())
    }

    /// Sends SIGKILL to every process of the group and below, such that none
    /// can fork its way out, and waits until they have ended (up to 5 s).
    /// A group that is not there is fine.
    ///
    /// # Errors
    /// [`CgroupError::Io`], [`CgroupError::Alive`].
    pub fn kill(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        let deadline = Instant::now() + KILL_PATIENCE;
        let mut pause = Duration::from_millis(1);
        loop {
            let left = self.pids(path)?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(CgroupError::Alive {
                    path: path.clone(),
                    count: left.len(),
                });
            }
            self.kill_once(path)?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// One round of [`Self::kill`]: signals, does not wait.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn kill_once(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        if self.mode() == Mode::Unified {
            for dir in self.dirs(path) {
                let file = dir.join("cgroup.kill");
                match write_control(&file, "1") {
                    Ok(()) => return Ok(()),
                    // Before Linux 5.14, or the group is gone.
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err(CgroupError::io("kill cgroup", &file)(error)),
                }
            }
        }
        let freezer = Freezer::stop(self, path)?;
        let killed = self.pids(path).and_then(|pids| signal_all(path, &pids));
        let thawed = freezer.resume();
        killed.and(thawed)
    }

    /// Removes the group and those below it. Kills nothing; not there is fine.
    ///
    /// # Errors
    /// [`CgroupError::Io`], with EBUSY when processes are left in it. Every
    /// hierarchy is tried before the first error is returned.
    pub fn remove(&self, path: &CgroupPath) -> Result<(), CgroupError> {
        let mut first = Ok(());
        for top in self.dirs(path) {
            let result = remove_tree(&top);
            if first.is_ok() {
                first = result;
            }
        }
        first
    }
}

/// Gives the controllers of `dir` to its children, one write each: one that the
/// kernel refuses (`cpu` beside real-time tasks) does not take the others along.
fn enable_controllers(dir: &Path) -> Result<(), CgroupError> {
    let file = dir.join("cgroup.controllers");
    let has = fs::read_to_string(&file).map_err(CgroupError::io("read", &file))?;
    let control = dir.join("cgroup.subtree_control");
    let gives = fs::read_to_string(&control).map_err(CgroupError::io("read", &control))?;
    let gives: BTreeSet<&str> = gives.split_whitespace().collect();
    for name in has.split_whitespace().filter(|name| !gives.contains(name)) {
        if let Err(error) = write_control(&control, &format!("+{name}")) {
            tracing::warn!(
                cgroup = %dir.display(), controller = name, %error,
                "controller not available below this cgroup"
            );
        }
    }
    Ok(())
}

fn inherit_cpuset(above: &Path, dir: &Path) -> Result<(), CgroupError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = dir.join(name);
        let own = fs::read_to_string(&file).map_err(CgroupError::io("read", &file))?;
        if own.trim().is_empty() {
            let from = above.join(name);
            let value = fs::read_to_string(&from).map_err(CgroupError::io("read", &from))?;
            write_control(&file, value.trim()).map_err(CgroupError::io("write", &file))?;
        }
    }
    Ok(())
}

/// The processes of a group held still while they are signalled.
struct Freezer {
    file: Option<(PathBuf, &'static str)>,
}

impl Freezer {
    fn stop(host: &Hierarchies, path: &CgroupPath) -> Result<Self, CgroupError> {
        let (file, frozen, thawed) = match host.mode() {
            Mode::Unified => match host.mounts().next() {
                Some(mount) => (path.below(mount).join("cgroup.freeze"), "1", "0"),
                None => return Ok(Self { file: None }),
            },
            Mode::V1 | Mode::Hybrid => match host.mount_of("freezer") {
                Some(mount) => (path.below(mount).join("freezer.state"), "FROZEN", "THAWED"),
                None => return Ok(Self { file: None }),
            },
        };
        match write_control(&file, frozen) {
            Ok(()) => {}
            Err(error) if is_gone(&error) => return Ok(Self { file: None }),
            Err(error) => return Err(CgroupError::io("freeze", &file)(error)),
        }
        if host.mode() != Mode::Unified {
            let deadline = Instant::now() + FREEZE_PATIENCE;
            while Instant::now() < deadline
                && fs::read_to_string(&file).is_ok_and(|state| state.trim() == "FREEZING")
            {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(Self {
            file: Some((file, thawed)),
        })
    }

    fn resume(self) -> Result<(), CgroupError> {
        let Some((file, thawed)) = self.file else {
            return Ok(());
        };
        match write_control(&file, thawed) {
            Err(error) if !is_gone(&error) => Err(CgroupError::io("thaw", &file)(error)),
            _ => Ok(()),
        }
    }
}

fn signal_all(path: &CgroupPath, pids: &BTreeSet<i32>) -> Result<(), CgroupError> {
    for pid in pids {
        match kill(Pid::from_raw(*pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => {
                return Err(CgroupError::io("kill a process of", path.as_str())(
                    errno.into(),
                ));
            }
        }
    }
    Ok(())
}

/// The directory and all below it, the deepest last. Empty when it is gone.
fn tree(top: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let mut found = Vec::new();
    let mut todo = vec![top.to_path_buf()];
    while let Some(dir) = todo.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(CgroupError::io("list", &dir)(error)),
        };
        for entry in entries {
            match entry.and_then(|e| Ok((e.file_type()?.is_dir(), e.path()))) {
                Ok((true, path)) => todo.push(path),
                Ok((false, _)) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(CgroupError::io("list", &dir)(error)),
            }
        }
        found.push(dir);
    }
    Ok(found)
}

fn collect_pids(dir: &Path, pids: &mut BTreeSet<i32>) -> Result<(), CgroupError> {
    let file = dir.join("cgroup.procs");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(()),
        // A threaded v2 group lists its processes at its domain root only.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
        Err(error) => return Err(CgroupError::io("read", &file)(error)),
    };
    // 0 is a process outside of our PID namespace.
    pids.extend(
        text.lines()
            .filter_map(|l| l.parse::<i32>().ok())
            .filter(|p| *p > 0),
    );
    Ok(())
}

fn remove_tree(top: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + RMDIR_PATIENCE;
    let mut first = Ok(());
    for dir in tree(top)?.iter().rev() {
        let result = remove_one(dir, deadline);
        if first.is_ok() {
            first = result;
        }
    }
    first
}

fn remove_one(dir: &Path, deadline: Instant) -> Result<(), CgroupError> {
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY)
                    && Instant::now() < deadline
                    && fs::read_to_string(dir.join("cgroup.procs"))
                        .is_ok_and(|procs| procs.is_empty()) =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(CgroupError::io("remove cgroup", dir)(error)),
        }
    }
}

/// The group went away meanwhile: ENODEV from its open files, ENOENT by path.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Control files take one `write(2)` and are never created.
fn write_control(file: &Path, value: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .open(file)?
        .write_all(value.as_bytes())
}
