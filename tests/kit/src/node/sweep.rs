//! Ending what carries a node's name: at the node's end, and for nodes whose owner was killed.
//!
//! A process belongs to a node if the node's name is in its environment, its arguments or its
//! cgroup, or if it lives in one of the node's namespaces while the node still holds them. Namespace
//! numbers of a dead node are worthless: the kernel gives them out again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};

use super::MARK;
use super::enter::Namespaces;
use super::setup::{OWNER, PREFIX, lock_file};

/// How long a killed process may take to disappear.
const GRACE: Duration = Duration::from_secs(10);

/// A process that belongs to a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Field 22 of its stat file; with the pid it names the process for ever.
    pub started: u64,
    /// Its arguments, joined by blanks, or its name in brackets.
    pub command: String,
}

/// What a node may have left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leftovers<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespaces: Option<&'a Namespaces>,
}

impl Leftovers<'_> {
    /// Kills the processes, then removes the cgroups; goes on after errors and returns them.
    pub(crate) fn destroy(self) -> Vec<String> {
        let mut errors = Vec::new();
        if let Err(error) = self.kill() {
            errors.push(error);
        }
        for mount in mounts_below(self.name) {
            if let Err(error) = umount2(mount.as_str(), MntFlags::MNT_DETACH) {
                errors.push(format!("unmount {mount}: {error}"));
            }
        }
        errors.extend(crate::cgroup::remove_matching(self.name));
        errors
    }

    fn kill(self) -> Result<(), String> {
        let deadline = Instant::now() + GRACE;
        let mut empty = 0;
        loop {
            let alive = processes(&[self.name], self.namespaces);
            // A process that executes its program this instant has neither arguments nor
            // environment yet: only the second look is believed.
            empty = if alive.is_empty() { empty + 1 } else { 0 };
            if empty == 2 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("still alive after SIGKILL: {alive:?}"));
            }
            for process in alive {
                crate::cgroup::sigkill(process.pid)?;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The living processes that carry one of `marks` or live in `namespaces`; zombies don't count.
#[must_use]
pub fn processes(marks: &[&str], namespaces: Option<&Namespaces>) -> BTreeSet<Process> {
    let inode = |file: &fs::File| file.metadata().ok().map(|meta| meta.ino());
    let net = namespaces.and_then(|namespaces| inode(namespaces.net()));
    let mnt = namespaces.and_then(|namespaces| inode(namespaces.mnt()));
    let own = std::process::id().cast_signed();
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeSet::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| {
            let proc = format!("/proc/{pid}");
            let namespace = |kind: &str| {
                fs::metadata(format!("{proc}/ns/{kind}"))
                    .ok()
                    .map(|meta| meta.ino())
            };
            let inside = (net.is_some() && namespace("net") == net)
                || (mnt.is_some() && namespace("mnt") == mnt);
            (inside || is_marked(&proc, marks))
                .then(|| describe(pid, &proc))
                .flatten()
        })
        .collect()
}

fn is_marked(proc: &str, marks: &[&str]) -> bool {
    let read = |name: &str| {
        fs::read(format!("{proc}/{name}")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let environment = read("environ").unwrap_or_default();
    let variable = |mark: &str| {
        environment.split('\0').any(|entry| {
            entry
                .split_once('=')
                .is_some_and(|(key, value)| key == MARK && value == mark)
        })
    };
    let rest = [
        read("cmdline").unwrap_or_default(),
        read("cgroup").unwrap_or_default(),
    ];
    marks
        .iter()
        .any(|mark| variable(mark) || rest.iter().any(|text| text.contains(mark)))
}

fn describe(pid: i32, proc: &str) -> Option<Process> {
    let stat = fs::read_to_string(format!("{proc}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let mut fields = tail.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let started = fields.nth(18)?.parse().ok()?;
    let arguments = fs::read(format!("{proc}/cmdline")).ok()?;
    let arguments = String::from_utf8_lossy(&arguments)
        .replace('\0', " ")
        .trim()
        .to_owned();
    let command = if arguments.is_empty() {
        format!("[{}]", head.split_once('(')?.1)
    } else {
        arguments
    };
    Some(Process {
        pid,
        started,
        command,
    })
}

/// Mount points whose path carries `name`, deepest first, of the calling process's own table.
fn mounts_below(name: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<String> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| point.contains(name))
        .map(str::to_owned)
        .collect();
    points.reverse();
    points
}

/// Destroys the nodes below `base` whose owner is dead. Called with the lock of `base` held.
pub(super) fn dead_nodes(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        let Ok(owner) = lock_file(&entry.path().join(OWNER)) else {
            continue;
        };
        if owner.try_lock().is_err() {
            continue;
        }
        eprintln!("sweep: node {name} outlived its owner");
        for error in (Leftovers {
            name,
            namespaces: None,
        })
        .destroy()
        {
            eprintln!("sweep: node {name}: {error}");
        }
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            eprintln!("sweep: remove {}: {error}", entry.path().display());
        }
    }
}
