use std::process::Child;

use super::*;
use crate::process::output;

/// Makes a node, notes it, leaves something, and hands back what the audit says.
fn leave<T>(make: impl FnOnce(&Node) -> T) -> (Vec<Item>, T) {
    let node = Node::new().unwrap();
    let audit = Audit::before(&node).unwrap().settle(Duration::ZERO);
    assert_eq!(audit.after().unwrap(), [], "a node at rest is clean");
    let left = make(&node);
    (audit.after().unwrap(), left)
}

fn run(node: &Node, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    output(node.command(words[0]).args(&words[1..])).unwrap();
}

/// Exactly one finding of this kind, which contains `part`.
fn assert_one(items: &[Item], kind: Kind, part: &str) {
    let found: Vec<&Item> = items.iter().filter(|item| item.kind == kind).collect();
    assert_eq!(found.len(), 1, "{}", lines(items));
    assert!(found[0].what.contains(part), "{}", found[0]);
}

#[test]
fn a_pinned_netns_is_found_with_its_mount() {
    let (items, ()) = leave(|node| run(node, "ip netns add left"));
    assert_one(&items, Kind::Netns, "/run/netns/left");
    assert!(
        items
            .iter()
            .any(|item| item.kind == Kind::Mount && item.what.contains("nsfs"))
    );
}

#[test]
fn a_mount_is_found() {
    let (items, ()) = leave(|node| run(node, "mount -t tmpfs left /mnt"));
    assert_one(&items, Kind::Mount, "/mnt tmpfs left");
    assert_eq!(items.len(), 1, "{}", lines(&items));
}

#[test]
fn a_cgroup_is_found_in_each_hierarchy_alone() {
    for hierarchy in crate::cgroup::hierarchies() {
        let (items, ()) = leave(|node| {
            std::fs::create_dir(hierarchy.join(format!("{}-left", node.name()))).unwrap();
        });
        assert_one(&items, Kind::Cgroup, &hierarchy.to_string_lossy());
    }
}

#[test]
fn a_link_is_found() {
    let (items, ()) = leave(|node| run(node, "ip link add left type bridge"));
    assert_one(&items, Kind::Link, "left");
}

#[test]
fn an_address_is_found_and_bookkeeping_is_not() {
    let (items, ()) = leave(|node| {
        node.inside(|| {
            let dir = Path::new("/var/lib/cni/networks/pods");
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join("10.88.0.7"), "abcdef\r\neth0").unwrap();
            fs::write(dir.join("last_reserved_ip.0"), "10.88.0.7").unwrap();
            fs::write(dir.join("lock"), "").unwrap();
        })
        .unwrap();
    });
    assert_one(&items, Kind::Address, "10.88.0.7 of abcdef");
    assert_eq!(items.len(), 1, "{}", lines(&items));
}

#[test]
fn an_address_of_the_fallback_network_is_found_and_its_books_are_not() {
    let (items, ()) = leave(|node| {
        let dir = node.dir().join("d/root/network/leases/longshore-bridge");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("lock"), "").unwrap();
        fs::write(dir.join("10.88.0.9"), "abcdef\r\neth0").unwrap();
    });
    assert_one(&items, Kind::Address, "10.88.0.9 of abcdef");
    let unexpected = |item: &&Item| item.what.contains("leases") && item.kind == Kind::File;
    assert_eq!(
        items.iter().filter(unexpected).count(),
        0,
        "{}",
        lines(&items)
    );
}

#[test]
fn a_rule_is_found_and_a_permanent_one_is_not() {
    let (items, ()) = leave(|node| {
        run(node, "iptables -t nat -N CNI-HOSTPORT-DNAT");
        run(
            node,
            "iptables -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
        );
        run(
            node,
            "iptables -t nat -A POSTROUTING -s 10.88.0.7 -j MASQUERADE",
        );
    });
    assert_one(&items, Kind::Rule, "10.88.0.7");
}

/// The child has executed its program once its arguments say so.
fn started(mut command: std::process::Command, word: &str) -> Child {
    let child = command.spawn().unwrap();
    let path = format!("/proc/{}/cmdline", child.id());
    while !fs::read_to_string(&path).unwrap().starts_with(word) {
        thread::sleep(Duration::from_millis(1));
    }
    child
}

#[test]
fn a_process_is_found_by_mark_namespace_and_cgroup() {
    for case in ["mark", "namespace", "cgroup"] {
        let (items, mut child) = leave(|node| {
            let mut command = match case {
                "namespace" => node.command("sleep"),
                _ => std::process::Command::new("sleep"),
            };
            command.arg("1000").env_remove(crate::node::MARK);
            if case == "mark" {
                command.env(crate::node::MARK, node.name());
            }
            let child = started(command, "sleep");
            if case == "cgroup" {
                let name = node.name();
                node.cgroup_parent().unwrap();
                for cgroup in crate::cgroup::find(|path| path == name) {
                    fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
                }
            }
            child
        });
        assert_one(&items, Kind::Process, "sleep 1000");
        // The end of the node has killed it.
        assert!(!child.wait().unwrap().success(), "{case}");
    }
}

#[test]
fn files_of_pods_are_found_and_images_are_not() {
    let (items, ()) = leave(|node| {
        for path in [
            "d/root/sandboxes/abc",
            "d/root/containers/def",
            "d/root/network/abc.json",
            "d/root/staging/pull-1",
            "d/root/images/sha256",
            "d/root/layers/sha256/x",
            "d/state/shims/def.sock",
            "d/state/stage/def",
            "tmp/left",
        ] {
            fs::create_dir_all(node.dir().join(path)).unwrap();
        }
    });
    let text = lines(&items);
    for expected in [
        "abc",
        "def",
        "abc.json",
        "pull-1",
        "def.sock",
        "stage/def",
        "tmp/left",
    ] {
        assert!(
            text.lines().any(|line| line.ends_with(expected)),
            "{expected} is not in\n{text}"
        );
    }
    assert!(!text.contains("/x"), "{text}");
}

#[test]
fn what_was_there_before_is_no_leak_and_what_ends_in_time_neither() {
    let node = Node::new().unwrap();
    run(&node, "ip link add before type bridge");
    let audit = Audit::before(&node).unwrap().allow("link: allowed");
    run(&node, "ip link add allowed type bridge");
    let mut ending = node.command("sleep").arg("0.5").spawn().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| ending.wait().unwrap());
        assert_eq!(audit.after().unwrap(), []);
    });
    audit.assert_clean();
}

#[test]
fn a_leak_fails_the_test_that_asserts() {
    let node = Node::new().unwrap();
    let audit = Audit::before(&node).unwrap();
    run(&node, "ip link add left type bridge");
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| audit.assert_clean()));
    let message = *panic.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(message, "1 left behind:\nlink: left");
}

#[test]
fn an_audit_survives_its_process() {
    let node = Node::new().unwrap();
    let path = node.dir().join("logs/audit.json");
    Audit::before(&node).unwrap().save(&path).unwrap();
    run(&node, "ip link add left type bridge");
    let mut later = Audit::before(&node).unwrap();
    assert_eq!(later.after().unwrap(), []);
    later.load(&path).unwrap();
    assert_one(&later.after().unwrap(), Kind::Link, "left");
}
