//! Reading every table that the audit compares.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Item, Kind, Scope};
use crate::node::{on_thread, sweep};

/// Where host-local keeps its leases unless its configuration says otherwise.
const HOST_LOCAL: &str = "/var/lib/cni/networks";
/// Where network namespaces are pinned.
const PINS: &str = "/run/netns";
/// Where a daemon's fallback network has its leases, below the root.
const BOOKS: &str = "network/leases";
/// What a daemon's root keeps when no pod is left.
const KEPT: [&str; 3] = ["images", "layers", "content"];
/// Directories of a daemon's root whose content belongs to pods and jobs.
const OWNED_BY_PODS: [&str; 5] = [
    "sandboxes",
    "containers",
    "network",
    "staging",
    "quarantine",
];

pub(super) fn everything(scope: &Scope<'_>) -> Result<BTreeSet<Item>> {
    let mut items = BTreeSet::new();
    outside(scope, &mut items);
    on_thread(scope.namespaces, || inside(scope, &mut items))??;
    Ok(items)
}

/// What is seen from the machine: processes and cgroups know no mount namespace.
fn outside(scope: &Scope<'_>, items: &mut BTreeSet<Item>) {
    let marks: Vec<&str> = scope.marks.iter().map(String::as_str).collect();
    let marked = |text: &str| marks.iter().any(|mark| text.contains(mark));
    for cgroup in crate::cgroup::find(marked) {
        add(items, Kind::Cgroup, cgroup.display());
    }
    for process in sweep::processes(&marks, Some(scope.namespaces)) {
        // The start time tells a new process with a recycled id.
        let what = format!(
            "{} {} (started {})",
            process.pid, process.command, process.started
        );
        add(items, Kind::Process, what);
    }
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for mount in table
        .lines()
        .map(describe_mount)
        .filter(|mount| marked(mount))
    {
        add(items, Kind::Mount, format!("{mount} (on the machine)"));
    }
    for pin in list(Path::new(PINS)).into_iter().filter(|pin| marked(pin)) {
        add(items, Kind::Netns, format!("{pin} (on the machine)"));
    }
}

/// What is seen from within the node's namespaces.
fn inside(scope: &Scope<'_>, items: &mut BTreeSet<Item>) -> Result<()> {
    for pin in list(Path::new(PINS)) {
        add(items, Kind::Netns, pin);
    }
    let table = fs::read_to_string("/proc/thread-self/mountinfo").context("read mountinfo")?;
    for mount in table.lines() {
        add(items, Kind::Mount, describe_mount(mount));
    }
    let links = fs::read_to_string("/proc/thread-self/net/dev").context("read net/dev")?;
    for link in parse_links(&links) {
        add(items, Kind::Link, link);
    }
    leases(Path::new(HOST_LOCAL), items);
    rules(items);
    files(&scope.dir, items);
    Ok(())
}

fn add(items: &mut BTreeSet<Item>, kind: Kind, what: impl std::fmt::Display) {
    items.insert(Item {
        kind,
        what: what.to_string(),
    });
}

/// Paths of a directory's entries; none if there is no directory.
fn list(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path().to_string_lossy().into_owned()))
        .collect()
}

/// Mount point, type and source of a line of mountinfo (proc(5)), without ids that change.
fn describe_mount(line: &str) -> String {
    let (left, right) = line.split_once(" - ").unwrap_or((line, ""));
    let mut fields = left.split(' ');
    let (root, point) = (
        fields.nth(3).unwrap_or_default(),
        fields.next().unwrap_or_default(),
    );
    let mut fields = right.split(' ');
    let (kind, source) = (
        fields.next().unwrap_or_default(),
        fields.next().unwrap_or_default(),
    );
    format!("{point} {kind} {source} {root}")
}

fn parse_links(table: &str) -> Vec<&str> {
    // Two lines of headings, then `name: counters`.
    table
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim()))
        .collect()
}

/// host-local names a file after each address that is given out.
fn leases(dir: &Path, items: &mut BTreeSet<Item>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            leases(&path, items);
        } else if entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<IpAddr>().is_ok())
        {
            let owner = fs::read_to_string(&path).unwrap_or_default();
            let owner = owner.lines().next().unwrap_or_default().trim().to_owned();
            add(
                items,
                Kind::Address,
                format!("{} of {owner}", path.display()),
            );
        }
    }
}

/// A machine without iptables has no rules of it. The first line of each table's dump names it.
fn rules(items: &mut BTreeSet<Item>) {
    for program in ["iptables-save", "ip6tables-save"] {
        let Ok(output) = Command::new(program).output() else {
            continue;
        };
        for rule in parse_rules(&String::from_utf8_lossy(&output.stdout)) {
            add(items, Kind::Rule, rule);
        }
    }
}

fn parse_rules(dump: &str) -> Vec<String> {
    let mut table = "";
    let mut rules = Vec::new();
    for line in dump.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if line.starts_with("-A ") {
            rules.push(format!("{table} {line}"));
        }
    }
    rules
}

/// Daemons' directories are `d*` of the node's; with a daemon's own state directory whole.
fn files(node: &Path, items: &mut BTreeSet<Item>) {
    walk(&node.join("tmp"), 1, items);
    for daemon in list(node).iter().map(Path::new) {
        let (root, state) = (daemon.join("root"), daemon.join("state"));
        for owned in OWNED_BY_PODS {
            walk(&root.join(owned), 2, items);
        }
        // The fallback network's own host-local keeps its books among the intents.
        let books = root.join(BOOKS);
        leases(&books, items);
        let kept = |item: &Item| item.kind != Kind::File || !is_below(&item.what, &books);
        items.retain(kept);
        // Half-written records, staged files: whatever is beside the directories it keeps.
        for path in list(&root) {
            if !KEPT.iter().any(|kept| Path::new(&path) == root.join(kept)) {
                add(items, Kind::File, path);
            }
        }
        walk(&state, 3, items);
    }
}

fn is_below(path: &str, dir: &Path) -> bool {
    Path::new(path).starts_with(dir)
}

fn walk(dir: &Path, depth: u32, items: &mut BTreeSet<Item>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        add(items, Kind::File, path.display());
        // A mount point below is listed as a mount; its content is not ours to walk.
        let same = |path: &Path| path.symlink_metadata().map(|meta| meta.dev()).ok();
        if depth > 1
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && same(&path) == same(dir)
        {
            walk(&path, depth - 1, items);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_described_without_its_ids() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(describe_mount(line), "/mnt2 ext3 /dev/root /mnt1");
    }

    #[test]
    fn links_are_the_names_of_net_dev() {
        let table = "Inter-|   Receive\n face |bytes\n    lo: 0 0\nveth1234: 5 0\n";
        assert_eq!(parse_links(table), ["lo", "veth1234"]);
    }

    #[test]
    fn rules_carry_their_table() {
        let dump =
            "# x\n*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j X\nCOMMIT\n*filter\n-A Y\n";
        assert_eq!(parse_rules(dump), ["nat -A PREROUTING -j X", "filter -A Y"]);
    }
}
