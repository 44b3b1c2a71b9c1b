//! Where the hierarchies are mounted. The parser takes text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::CgroupError;
use super::path::CgroupPath;

/// How the host mounts its hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// v1 controllers only.
    V1,
    /// v1 controllers and a v2 tree beside them.
    Hybrid,
    /// v2 only.
    Unified,
}

/// One v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    controllers: Vec<String>,
}

/// The cgroup hierarchies of the host that hold controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    mode: Mode,
    v1: Vec<Hierarchy>,
    unified: Option<PathBuf>,
    controllers: BTreeSet<String>,
}

/// Every v1 controller the kernel has (`cgroups(7)`); other super block options
/// (`rw`, `xattr`, `name=...`, `clone_children`) are none.
const V1_CONTROLLERS: [&str; 15] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "dmem",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

impl Hierarchies {
    /// Reads the mounts of the calling process, and on v2 the root's controllers.
    ///
    /// # Errors
    /// [`CgroupError::Io`] for an unreadable file, [`CgroupError::NoHierarchy`].
    pub fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(path).map_err(CgroupError::io("read", path))?;
        let mut found = Self::parse(&text)?;
        if let (Mode::Unified, Some(mount)) = (found.mode, &found.unified) {
            let file = mount.join("cgroup.controllers");
            let text = std::fs::read_to_string(&file).map_err(CgroupError::io("read", &file))?;
            found.controllers = text.split_whitespace().map(str::to_owned).collect();
        }
        Ok(found)
    }

    /// Reads mountinfo text (`proc_pid_mountinfo(5)`). A hierarchy that is
    /// mounted twice counts once, where it was mounted first. On v2 the
    /// controllers are not in mountinfo; see [`Self::detect`].
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`] when neither v2 nor a v1 controller is mounted.
    pub fn parse(mountinfo: &str) -> Result<Self, CgroupError> {
        let mut v1: Vec<Hierarchy> = Vec::new();
        let mut unified = None;
        let mut controllers = BTreeSet::new();
        for line in mountinfo.lines() {
            let Some(entry) = parse_line(line) else {
                continue;
            };
            match entry.fs_type {
                "cgroup2" if unified.is_none() => unified = Some(unescape(entry.mount)),
                "cgroup" => {
                    let mine: Vec<String> = entry
                        .super_options
                        .split(',')
                        .filter(|o| V1_CONTROLLERS.contains(o))
                        .map(str::to_owned)
                        .collect();
                    if !mine.is_empty() && mine.iter().all(|c| !controllers.contains(c)) {
                        controllers.extend(mine.iter().cloned());
                        v1.push(Hierarchy {
                            mount: unescape(entry.mount),
                            controllers: mine,
                        });
                    }
                }
                _ => {}
            }
        }
        let mode = match (v1.is_empty(), &unified) {
            (true, None) => return Err(CgroupError::NoHierarchy),
            (true, Some(_)) => Mode::Unified,
            (false, None) => Mode::V1,
            (false, Some(_)) => Mode::Hybrid,
        };
        Ok(Self {
            mode,
            v1,
            unified,
            controllers,
        })
    }

    /// How the host mounts its hierarchies.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the controller (`memory`, `hugetlb`, ...) is there.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.contains(controller)
    }

    /// Whether memory and swap can be limited together: `memory.memsw.*` on v1,
    /// `memory.swap.max` on v2. Both files exist only where swap accounting is on.
    #[must_use]
    pub fn accounts_swap(&self) -> bool {
        match (self.mode, self.mount_of("memory"), &self.unified) {
            (Mode::V1 | Mode::Hybrid, Some(mount), _) => {
                mount.join("memory.memsw.limit_in_bytes").exists()
            }
            (Mode::V1 | Mode::Hybrid, None, _) | (Mode::Unified, _, None) => false,
            (Mode::Unified, _, Some(mount)) => self.has("memory") && swap_file_below(mount),
        }
    }

    /// Mount points that a group has a directory below: one a v1 hierarchy, or the v2 one.
    pub fn mounts(&self) -> impl Iterator<Item = &Path> {
        let unified = match self.mode {
            Mode::Unified => self.unified.as_deref(),
            Mode::V1 | Mode::Hybrid => None,
        };
        self.v1.iter().map(|h| h.mount.as_path()).chain(unified)
    }

    /// Mount point of the hierarchy that has `controller`.
    #[must_use]
    pub fn mount_of(&self, controller: &str) -> Option<&Path> {
        match self.mode {
            Mode::Unified => self
                .unified
                .as_deref()
                .filter(|_| self.controllers.contains(controller)),
            Mode::V1 | Mode::Hybrid => self
                .v1
                .iter()
                .find(|h| h.controllers.iter().any(|c| c == controller))
                .map(|h| h.mount.as_path()),
        }
    }

    /// The directories of a group, one a hierarchy.
    #[must_use]
    pub fn dirs(&self, path: &CgroupPath) -> Vec<PathBuf> {
        self.mounts().map(|mount| path.below(mount)).collect()
    }

    /// The `cgroup.procs` files of a group: writing a pid (or `0`, the writer
    /// itself) to each moves the process into it.
    #[must_use]
    pub fn procs_files(&self, path: &CgroupPath) -> Vec<PathBuf> {
        self.mounts()
            .map(|mount| path.below(mount).join("cgroup.procs"))
            .collect()
    }

    /// The file with the group's OOM counts, see [`super::parse_memory_events`].
    #[must_use]
    pub fn memory_events_file(&self, path: &CgroupPath) -> Option<PathBuf> {
        let dir = path.below(self.mount_of("memory")?);
        Some(match self.mode {
            Mode::Unified => dir.join("memory.events"),
            Mode::V1 | Mode::Hybrid => dir.join("memory.oom_control"),
        })
    }
}

/// The root group has no `memory.swap.max`; any child of it has or hasn't.
fn swap_file_below(mount: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(mount) else {
        return false;
    };
    entries
        .filter_map(Result::ok)
        .any(|entry| entry.path().join("memory.swap.max").exists())
}

struct Entry<'a> {
    mount: &'a str,
    fs_type: &'a str,
    super_options: &'a str,
}

/// `id parent major:minor root mount options [tags] - type source super-options`
fn parse_line(line: &str) -> Option<Entry<'_>> {
    let (front, back) = line.split_once(" - ")?;
    let mount = front.split(' ').nth(4)?;
    let mut back = back.split(' ');
    let fs_type = back.next()?;
    let super_options = back.nth(1)?;
    Some(Entry {
        mount,
        fs_type,
        super_options,
    })
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> PathBuf {
    let mut out = text.to_owned();
    for (escape, plain) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        out = out.replace(escape, plain);
    }
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 24 0:28 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /mnt/with\\040space rw - cgroup cgroup rw,freezer
37 31 0:32 / /other/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid() {
        let found = Hierarchies::parse(HYBRID).unwrap();
        assert_eq!(found.mode(), Mode::Hybrid);
        assert!(found.has("cpuacct") && found.has("memory") && !found.has("pids"));
        let path = CgroupPath::new("/p/c").unwrap();
        assert_eq!(
            found.procs_files(&path),
            [
                "/sys/fs/cgroup/cpu,cpuacct/p/c/cgroup.procs",
                "/sys/fs/cgroup/memory/p/c/cgroup.procs",
                "/mnt/with space/p/c/cgroup.procs",
            ]
            .map(PathBuf::from)
        );
        assert_eq!(
            found.memory_events_file(&path).unwrap(),
            Path::new("/sys/fs/cgroup/memory/p/c/memory.oom_control")
        );
    }

    #[test]
    fn v1_and_unified() {
        let v1 = HYBRID.lines().take(3).collect::<Vec<_>>().join("\n");
        assert_eq!(Hierarchies::parse(&v1).unwrap().mode(), Mode::V1);
        let v2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchies::parse(v2).unwrap();
        assert_eq!(found.mode(), Mode::Unified);
        assert_eq!(
            found.mounts().collect::<Vec<_>>(),
            [Path::new("/sys/fs/cgroup")]
        );
    }

    #[test]
    fn nothing_mounted_and_odd_lines() {
        for text in [
            "",
            "garbage",
            "1 2 3 - cgroup",
            "a b c d e - cgroup cgroup rw,name=x",
        ] {
            assert!(matches!(
                Hierarchies::parse(text),
                Err(CgroupError::NoHierarchy)
            ));
        }
    }
}
