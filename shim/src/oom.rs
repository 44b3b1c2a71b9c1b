//! Whether the kernel's OOM killer hit the container. Read when init is dead
//! and before it is reaped: afterwards anybody may remove its empty cgroup,
//! and the count with it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::cgroup::Cgroup;

/// The `oom_kill` counter of a container's cgroup.
#[derive(Debug)]
pub struct OomWatch {
    source: Option<Source>,
}

#[derive(Debug)]
enum Source {
    /// `memory.oom_control` counts for its own cgroup alone, so the cgroups
    /// that the container made below are added.
    V1 { dir: PathBuf },
    /// `memory.events` counts for the whole subtree. Where the cgroup is gone
    /// the parent's count, above what it was, tells.
    V2 {
        own: File,
        parent: Option<(File, u64)>,
    },
}

/// The value of `oom_kill` in memory.oom_control or memory.events.
fn oom_kill(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn read(file: &File) -> io::Result<u64> {
    let mut buffer = [0; 1024];
    let n = file.read_at(&mut buffer, 0)?;
    let text = String::from_utf8_lossy(buffer.get(..n).unwrap_or_default());
    Ok(oom_kill(&text).unwrap_or(0))
}

fn v1_sum(dir: &Path) -> u64 {
    let own = fs::read_to_string(dir.join("memory.oom_control")).unwrap_or_default();
    let below = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| v1_sum(&entry.path()))
        .sum::<u64>();
    oom_kill(&own).unwrap_or(0) + below
}

impl OomWatch {
    /// Watches `cgroup`, which exists. A machine without a memory controller
    /// has nothing to watch.
    ///
    /// # Errors
    /// `memory.events` that cannot be opened.
    pub fn new(cgroup: &Cgroup) -> io::Result<OomWatch> {
        let source = match cgroup.controller_dir("memory") {
            None => None,
            Some((dir, false)) => Some(Source::V1 { dir }),
            Some((dir, true)) => match File::open(dir.join("memory.events")) {
                Ok(own) => {
                    let parent = dir
                        .parent()
                        .and_then(|dir| File::open(dir.join("memory.events")).ok());
                    let parent = parent.and_then(|file| {
                        let base = read(&file).ok()?;
                        Some((file, base))
                    });
                    Some(Source::V2 { own, parent })
                }
                // The controller is not enabled for this subtree.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            },
        };
        Ok(OomWatch { source })
    }

    /// Whether a process of the container was killed for memory so far.
    #[must_use]
    pub fn killed(&self) -> bool {
        match &self.source {
            None => false,
            Some(Source::V1 { dir }) => v1_sum(dir) > 0,
            Some(Source::V2 { own, parent }) => match (read(own), parent) {
                (Ok(count), _) => count > 0,
                (Err(_), Some((file, base))) => read(file).is_ok_and(|count| count > *base),
                (Err(_), None) => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_both_files() {
        assert_eq!(
            oom_kill("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            Some(3)
        );
        let events = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(oom_kill(events), Some(1));
        assert_eq!(oom_kill("oom 4\noom_group_kill 2\n"), None);
    }
}
