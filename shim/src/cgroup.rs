//! The container's cgroup in every hierarchy that has one: who is in it, kill
//! them, remove it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::sys;

const ROOT: &str = "/sys/fs/cgroup";
/// How long [`Cgroup::kill`] and [`Cgroup::remove`] may take at most.
const PATIENCE: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(2);

/// Why a cgroup could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file of cgroupfs or procfs failed.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Processes are still there after the time was up.
    #[error("{count} processes survive in cgroup {}", path.display())]
    Survivors {
        /// The cgroup.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// The path isn't absolute, or leaves the hierarchy.
    #[error("cgroup path {0:?} is not absolute and plain")]
    Path(String),
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    unified: bool,
}

/// A cgroup by its path below each hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchies: Vec<Hierarchy>,
    path: PathBuf,
}

/// The cgroup hierarchies below /sys/fs/cgroup, from the text of mountinfo.
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount) = left.split(' ').nth(4) else {
            continue;
        };
        let unified = match right.split(' ').next() {
            Some("cgroup") => false,
            Some("cgroup2") => true,
            _ => continue,
        };
        let hierarchy = Hierarchy {
            mount: PathBuf::from(mount),
            unified,
        };
        if hierarchy.mount.starts_with(ROOT) && !found.contains(&hierarchy) {
            found.push(hierarchy);
        }
    }
    found
}

impl Cgroup {
    /// The cgroup at `path`, absolute below each hierarchy. It need not exist.
    ///
    /// # Errors
    /// A path that isn't absolute and plain, or an unreadable mount table.
    pub fn new(path: &Path) -> Result<Cgroup, CgroupError> {
        use std::path::Component;
        let mut parts = path.components();
        let plain = parts.next() == Some(Component::RootDir)
            && parts.all(|part| matches!(part, Component::Normal(_)));
        let relative = path
            .strip_prefix("/")
            .ok()
            .filter(|rest| !rest.as_os_str().is_empty());
        let Some(relative) = relative.filter(|_| plain) else {
            return Err(CgroupError::Path(path.display().to_string()));
        };
        let table = "/proc/self/mountinfo";
        let text = fs::read_to_string(table).map_err(|source| CgroupError::File {
            operation: "read",
            path: table.into(),
            source,
        })?;
        Ok(Cgroup {
            hierarchies: hierarchies(&text),
            path: relative.to_owned(),
        })
    }

    fn dirs(&self) -> impl Iterator<Item = (PathBuf, &Hierarchy)> {
        self.hierarchies
            .iter()
            .map(|hierarchy| (hierarchy.mount.join(&self.path), hierarchy))
            .filter(|(dir, _)| dir.is_dir())
    }

    /// Its directory in the hierarchy of a v1 controller, or in the unified one
    /// where that is the only hierarchy. `None`: it doesn't exist.
    #[must_use]
    pub fn controller_dir(&self, controller: &str) -> Option<(PathBuf, bool)> {
        self.dirs()
            .find(|(_, hierarchy)| {
                let name = hierarchy.mount.file_name().and_then(|name| name.to_str());
                if hierarchy.unified {
                    hierarchy.mount == Path::new(ROOT)
                } else {
                    name.is_some_and(|name| name.split(',').any(|part| part == controller))
                }
            })
            .map(|(dir, hierarchy)| (dir, hierarchy.unified))
    }

    /// The `cgroup.procs` files through which a process joins it.
    #[must_use]
    pub fn procs_files(&self) -> Vec<PathBuf> {
        self.dirs()
            .map(|(dir, _)| dir.join("cgroup.procs"))
            .collect()
    }

    /// The processes in it and below it.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for (dir, _) in self.dirs() {
            for dir in tree(&dir) {
                // A nested cgroup may vanish while we look.
                let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                // 0 is a process outside our PID namespace.
                pids.extend(
                    text.lines()
                        .filter_map(|line| line.parse::<i32>().ok())
                        .filter(|p| *p > 0),
                );
            }
        }
        pids
    }

    /// Sends `signal` to every process in it, once.
    pub fn signal(&self, signal: i32) {
        for pid in self.processes() {
            // A pid read a moment ago may be gone: that is what is wanted.
            drop(sys::kill(pid, signal));
        }
    }

    /// Kills every process in it, those that it forks meanwhile too. Zombies
    /// are gone from it only once they are reaped, so it doesn't wait.
    ///
    /// # Errors
    /// A cgroup file that cannot be written.
    pub fn kill(&self) -> Result<(), CgroupError> {
        for (dir, hierarchy) in self.dirs().filter(|(_, hierarchy)| hierarchy.unified) {
            if hierarchy.mount == Path::new(ROOT) {
                let file = dir.join("cgroup.kill");
                return fs::write(&file, "1").map_err(|source| CgroupError::File {
                    operation: "write",
                    path: file,
                    source,
                });
            }
        }
        let freezer = self.controller_dir("freezer").map(|(dir, _)| dir);
        let deadline = Instant::now() + PATIENCE;
        while !self.processes().is_empty() {
            if let Some(dir) = &freezer {
                freeze(dir);
            }
            self.signal(libc::SIGKILL);
            if let Some(dir) = &freezer {
                thaw(dir);
            }
            if self.only_zombies() || Instant::now() > deadline {
                break;
            }
            sleep(TICK);
        }
        Ok(())
    }

    fn only_zombies(&self) -> bool {
        self.processes().into_iter().all(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat
                .rsplit_once(')')
                .map(|(_, rest)| rest.trim_start().chars().next());
            matches!(state, None | Some(None | Some('Z' | 'X')))
        })
    }

    /// Removes it and what the container made below it. What is not there is
    /// no error.
    ///
    /// # Errors
    /// The first directory that could not be removed; the others are.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut first = Ok(());
        let deadline = Instant::now() + PATIENCE;
        for (dir, _) in self.dirs() {
            let removed = remove_tree(&dir, deadline);
            if first.is_ok() {
                first = removed;
            }
        }
        first
    }

    /// Its path below each hierarchy.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// `dir` and the cgroups below it, parents first.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(dir) = all.get(next).cloned() {
        next += 1;
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                all.push(entry.path());
            }
        }
    }
    all
}

fn freeze(dir: &Path) {
    // A hint only: what escapes it is found by the caller's next round.
    if fs::write(dir.join("freezer.state"), "FROZEN").is_err() {
        return;
    }
    for _ in 0..10 {
        match fs::read_to_string(dir.join("freezer.state")) {
            Ok(state) if state.trim() == "FREEZING" => sleep(Duration::from_millis(1)),
            _ => return,
        }
    }
}

fn thaw(dir: &Path) {
    // The container may have frozen cgroups of its own below; a frozen task
    // does not die.
    for dir in tree(dir) {
        drop(fs::write(dir.join("freezer.state"), "THAWED"));
    }
}

fn remove_tree(dir: &Path, deadline: Instant) -> Result<(), CgroupError> {
    for dir in tree(dir).into_iter().rev() {
        loop {
            match fs::remove_dir(&dir) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                // Tasks that are dead but not yet off the cgroup's list.
                Err(error)
                    if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
                {
                    sleep(TICK);
                }
                Err(source) => {
                    return Err(CgroupError::File {
                        operation: "rmdir",
                        path: dir,
                        source,
                    });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_a_hybrid_and_of_a_pure_machine() {
        let hybrid = "\
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
33 24 0:27 / /elsewhere rw shared:1 - cgroup cgroup rw,cpu\n";
        let found = hierarchies(hybrid);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert!(found[1].unified);
        let pure = hierarchies("30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n");
        assert_eq!(
            pure,
            [Hierarchy {
                mount: ROOT.into(),
                unified: true
            }]
        );
    }

    #[test]
    fn only_absolute_plain_paths() {
        for path in ["", "/", "a", "/a/../b", "/./../x"] {
            assert!(
                matches!(Cgroup::new(Path::new(path)), Err(CgroupError::Path(_))),
                "{path}"
            );
        }
        assert_eq!(
            Cgroup::new(Path::new("/a/b")).unwrap().path(),
            Path::new("a/b")
        );
    }
}
