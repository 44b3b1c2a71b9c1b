//! The cgroupfs driver against the kernel's own hierarchies. Needs root.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use longshore::cgroup::{CgroupError, CgroupPath, Hierarchies, Mode};

/// A group of its own for a test, removed with what is in it when dropped.
struct Group {
    host: Hierarchies,
    path: CgroupPath,
}

impl Group {
    fn new(name: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: making cgroups needs root");
            return None;
        }
        let host = Hierarchies::detect().unwrap();
        let path =
            CgroupPath::new(&format!("/longshore-test-{}-{name}", std::process::id())).unwrap();
        host.create(&path).unwrap();
        Some(Self { host, path })
    }

    fn run(&self, path: &CgroupPath, script: &str) -> Child {
        let child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        self.host
            .attach(path, i32::try_from(child.id()).unwrap())
            .unwrap();
        child
    }

    fn wait_for(&self, processes: usize) {
        let start = Instant::now();
        while self.host.pids(&self.path).unwrap().len() < processes {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let ended = self.host.kill(&self.path);
        let removed = self.host.remove(&self.path);
        if !std::thread::panicking() {
            ended.unwrap();
            removed.unwrap();
        }
    }
}

fn go(child: &mut Child) {
    use std::io::Write;
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
}

#[test]
fn makes_the_group_in_every_hierarchy_and_removes_nested_ones() {
    let Some(group) = Group::new("make") else {
        return;
    };
    group.host.create(&group.path).unwrap();
    let nested = group.path.child("a").unwrap().child("b").unwrap();
    group.host.create(&nested).unwrap();
    for dir in group.host.dirs(&nested) {
        assert!(dir.is_dir(), "{}", dir.display());
    }
    if group.host.mode() != Mode::Unified {
        let cpus = nested.below(group.host.mount_of("cpuset").unwrap());
        let cpus = std::fs::read_to_string(cpus.join("cpuset.cpus")).unwrap();
        assert_ne!(cpus.trim(), "");
    }
    group.host.remove(&group.path).unwrap();
    group.host.remove(&group.path).unwrap();
    for dir in group.host.dirs(&group.path) {
        assert!(!dir.exists(), "{}", dir.display());
    }
    assert!(group.host.is_empty(&group.path).unwrap());
    group.host.kill(&group.path).unwrap();
}

#[test]
fn remove_kills_nothing_and_says_busy() {
    let Some(group) = Group::new("busy") else {
        return;
    };
    let mut child = group.run(&group.path, "sleep 60");
    match group.host.remove(&group.path) {
        Err(CgroupError::Io { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(libc::EBUSY));
        }
        other => panic!("{other:?}"),
    }
    assert!(child.try_wait().unwrap().is_none());
    group.host.kill(&group.path).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn kill_reaches_those_that_ignore_signals_fork_and_hide_below() {
    let Some(group) = Group::new("kill") else {
        return;
    };
    let nested = group.path.child("inner").unwrap();
    group.host.create(&nested).unwrap();
    let forks = "trap '' TERM INT HUP; while :; do (sleep 0.01; sleep 60) & sleep 0.02; done";
    let mut top = group.run(&group.path, forks);
    let mut inner = group.run(&nested, "trap '' TERM; sleep 60 & sleep 60");
    go(&mut top);
    go(&mut inner);
    group.wait_for(12);
    group.host.kill(&group.path).unwrap();
    assert!(group.host.is_empty(&group.path).unwrap());
    assert_eq!(top.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!(inner.wait().unwrap().signal(), Some(libc::SIGKILL));
}
