//! The cgroup hierarchies of the machine, v1 and v2 alike, as directories.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a cgroup may stay busy after its last process was killed.
const GRACE: Duration = Duration::from_secs(5);

/// The mount points of all hierarchies, in the order of the mount table.
#[must_use]
pub fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    parse_hierarchies(&table)
}

fn parse_hierarchies(table: &str) -> Vec<PathBuf> {
    let mut points = Vec::new();
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let kind = right.split(' ').next().unwrap_or_default();
        if kind != "cgroup" && kind != "cgroup2" {
            continue;
        }
        if let Some(point) = left.split(' ').nth(4) {
            let point = PathBuf::from(point);
            if !points.contains(&point) {
                points.push(point);
            }
        }
    }
    points
}

/// Every directory of every hierarchy whose path satisfies `wanted`; parents before children.
pub fn find(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in hierarchies() {
        let mut queue = vec![root.clone()];
        while let Some(dir) = queue.pop() {
            let Ok(entries) = fs::read_dir(&dir) else {
                continue;
            };
            for entry in entries.filter_map(Result::ok) {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    queue.push(entry.path());
                }
            }
            let below = dir
                .strip_prefix(&root)
                .ok()
                .and_then(Path::to_str)
                .unwrap_or_default();
            if wanted(below) {
                found.push(dir);
            }
        }
    }
    found.sort();
    found
}

/// Makes the cgroup `path` (absolute within the hierarchy) in every hierarchy, ready for processes.
///
/// # Errors
/// When a directory cannot be made.
pub fn create(path: &str) -> Result<()> {
    for root in hierarchies() {
        let dir = root.join(path.trim_start_matches('/'));
        match fs::create_dir(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("create {}", dir.display())),
        }
        inherit_cpuset(&root, &dir)?;
    }
    Ok(())
}

/// A v1 cpuset is born empty, and nothing can enter an empty one.
fn inherit_cpuset(root: &Path, dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (root.join(file), dir.join(file));
        if let (Ok(value), true) = (fs::read_to_string(&from), to.exists()) {
            fs::write(&to, value.trim()).with_context(|| format!("write {}", to.display()))?;
        }
    }
    Ok(())
}

/// Removes every cgroup whose path contains `mark`, killing what still lives in it; goes on after
/// errors and returns them.
pub fn remove_matching(mark: &str) -> Vec<String> {
    let mut found = find(|path| path.contains(mark));
    found.reverse();
    found.iter().filter_map(|dir| remove(dir).err()).collect()
}

fn remove(dir: &Path) -> Result<(), String> {
    let deadline = Instant::now() + GRACE;
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(format!("remove cgroup {}: {error}", dir.display()));
            }
            Err(_busy) => {}
        }
        let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in members
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid > 1)
        {
            sigkill(pid)?;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// SIGKILL; a process that is gone already is what was wanted.
pub(crate) fn sigkill(pid: i32) -> Result<(), String> {
    match kill(Pid::from_raw(pid), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(format!("kill process {pid}: {errno}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_cgroup_mounts_only() {
        let table = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
";
        let expected = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        assert_eq!(parse_hierarchies(table), expected);
    }
}
