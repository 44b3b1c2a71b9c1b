//! The cgroups that a new process joins: init's, in every hierarchy.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// One cgroup of init, as create made it.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// Second field of `/proc/<pid>/cgroup`: names the hierarchy.
    controllers: String,
    mount: Mount,
    path: String,
    procs: OwnedFd,
}

/// Where a hierarchy is mounted, and which part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    root: String,
    point: PathBuf,
}

impl Mount {
    fn locate(&self, path: &str) -> Option<PathBuf> {
        let below = Path::new(path).strip_prefix(&self.root).ok()?;
        Some(self.point.join(below))
    }
}

/// `cgroup.procs` files to write to, in the order in which they were found.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) procs: &'a OwnedFd,
    /// Where init itself has moved to, if it did. On cgroup v2 the first is
    /// then busy, for it has given its controllers to its children.
    pub(super) moved: Option<OwnedFd>,
}

/// Opens the cgroups of `pid` in which this process is not itself.
pub(super) fn capture(pid: i32) -> io::Result<Vec<Cgroup>> {
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let theirs = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")?;
    let own: Vec<_> = memberships(&own).collect();
    let mut cgroups = Vec::new();
    for (controllers, path) in memberships(&theirs) {
        if own.contains(&(controllers, path)) {
            continue;
        }
        let located =
            mount_of(&mountinfo, controllers).and_then(|m| m.locate(path).map(|dir| (m, dir)));
        let Some((mount, directory)) = located else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("cgroup hierarchy {controllers:?} is not mounted"),
            ));
        };
        cgroups.push(Cgroup {
            controllers: controllers.to_owned(),
            mount,
            path: path.to_owned(),
            procs: open_procs(&directory)?.into(),
        });
    }
    Ok(cgroups)
}

/// The files to write to now. `pid` is init.
pub(super) fn targets(cgroups: &[Cgroup], pid: i32) -> Vec<Target<'_>> {
    // Nothing to read: init has ended, which setns will say better.
    let now = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    cgroups
        .iter()
        .map(|cgroup| {
            let moved = memberships(&now)
                .find(|(controllers, _)| *controllers == cgroup.controllers)
                .filter(|(_, path)| *path != cgroup.path)
                .and_then(|(_, path)| cgroup.mount.locate(path))
                .and_then(|directory| open_procs(&directory).ok())
                .map(OwnedFd::from);
            Target {
                procs: &cgroup.procs,
                moved,
            }
        })
        .collect()
}

fn open_procs(directory: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .open(directory.join("cgroup.procs"))
}

/// (controllers, path) of each line `id:controllers:path` of proc_pid_cgroup(5).
fn memberships(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    })
}

/// Where the hierarchy with these controllers (none: v2) is mounted, by
/// proc_pid_mountinfo(5).
fn mount_of(mountinfo: &str, controllers: &str) -> Option<Mount> {
    let matches = |kind: &str, options: &str| match controllers {
        "" => kind == "cgroup2",
        // "cpu,cpuacct", "name=systemd": all are among the mount's options.
        _ => {
            kind == "cgroup"
                && controllers
                    .split(',')
                    .all(|one| options.split(',').any(|o| o == one))
        }
    };
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let kind = filesystem.next()?;
        let options = filesystem.nth(1)?;
        if !matches(kind, options) {
            return None;
        }
        let mut mount = mount.split(' ').skip(3);
        let root = unescape(mount.next()?);
        let point = unescape(mount.next()?).into();
        Some(Mount { root, point })
    })
}

/// Undoes the kernel's octal escapes of blank, tab, newline and backslash.
fn unescape(field: &str) -> String {
    field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
30 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 /docker/x /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /mnt/with\\040blank rw - cgroup cgroup rw,cpuset
";

    #[test]
    fn finds_each_hierarchy() {
        let dir = |controllers: &str, path: &str| {
            mount_of(MOUNTINFO, controllers).and_then(|m| m.locate(path))
        };
        assert_eq!(dir("", "/a"), Some("/sys/fs/cgroup/unified/a".into()));
        assert_eq!(
            dir("name=systemd", "/"),
            Some("/sys/fs/cgroup/systemd/".into())
        );
        assert_eq!(
            dir("cpu,cpuacct", "/docker/x/pod"),
            Some("/sys/fs/cgroup/cpu,cpuacct/pod".into())
        );
        assert_eq!(dir("cpu,cpuacct", "/elsewhere"), None);
        assert_eq!(dir("cpuset", "/b"), Some("/mnt/with blank/b".into()));
        assert_eq!(dir("memory", "/b"), None);
        // "cpu" alone is another hierarchy than "cpuset".
        assert_eq!(
            dir("cpu", "/docker/x"),
            Some("/sys/fs/cgroup/cpu,cpuacct/".into())
        );
    }

    #[test]
    fn reads_memberships() {
        let text = "4:memory:/kubepods/a:b\n1:name=systemd:/\n0::/x\n";
        let all: Vec<_> = memberships(text).collect();
        assert_eq!(
            all,
            [
                ("memory", "/kubepods/a:b"),
                ("name=systemd", "/"),
                ("", "/x")
            ]
        );
    }
}
