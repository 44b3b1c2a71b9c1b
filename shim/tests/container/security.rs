//! What the container is made of: each test fails without the countermeasure
//! that it is about.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use longshore_proto::shim::v1::error::Kind;
use serde_json::{Value, json};

use crate::harness::{Node, Shim, kind, no_mkdir, root, shell, spec};

fn status(log: &str, field: &str) -> String {
    let line = log
        .lines()
        .find(|line| line.starts_with(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("no {field} in {log}"))
        .split_once(':')
        .map(|(_, value)| value.trim().to_owned())
        .unwrap()
}

/// libcontainer loads a filter without no_new_privs too late, and compiles it
/// anew each time; ours comes compiled, and through the executor.
#[test]
fn seccomp_without_no_new_privileges() {
    if !root() {
        return;
    }
    let node = Node::new();
    let script = "cat /proc/self/status; mkdir /tmp/x || echo refused";
    for (uid, nnp) in [(0, false), (1000, false), (0, true), (1000, true)] {
        let mut shim = Shim::start(&node);
        shim.filter = no_mkdir();
        let mut spec = shell(&shim, script);
        spec["process"]["user"] = json!({"uid": uid, "gid": uid});
        spec["process"]["noNewPrivileges"] = nnp.into();
        let (exited, log) = shim.run(&spec);
        assert_eq!(exited.code, 0, "{log}");
        assert!(log.contains("refused"), "{log}");
        assert_eq!(status(&log, "Seccomp"), "2");
        assert_eq!(status(&log, "Seccomp_filters"), "1");
        assert_eq!(status(&log, "NoNewPrivs"), u8::from(nnp).to_string());
        // The fourteen, without the two that the executor needed.
        assert_eq!(status(&log, "CapBnd"), "00000000a80425fb");
        let effective = if uid == 0 {
            "00000000a80425fb"
        } else {
            "0000000000000000"
        };
        assert_eq!(status(&log, "CapEff"), effective, "uid {uid} nnp {nnp}");
        assert_eq!(status(&log, "CapPrm"), effective);
        assert_eq!(status(&log, "CapAmb"), "0000000000000000");
        shim.collect();
    }
}

#[test]
fn ambient_capabilities_reach_a_user_who_is_not_root() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    shim.filter = no_mkdir();
    let mut spec = shell(&shim, "cat /proc/self/status");
    spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    for set in [
        "bounding",
        "effective",
        "permitted",
        "inheritable",
        "ambient",
    ] {
        spec["process"]["capabilities"][set] = json!(["CAP_NET_BIND_SERVICE"]);
    }
    let (_, log) = shim.run(&spec);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(&log, set), "0000000000000400", "{set}");
    }
    shim.collect();
}

/// libcontainer leaves the hierarchies of cgroup v1 writable: a container
/// could raise its own memory limit.
#[test]
fn the_cgroup_mount_is_read_only() {
    if !root() {
        return;
    }
    let node = Node::new();
    let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do \
        mkdir $d/x 2>/dev/null && echo made $d/x; done; \
        f=/sys/fs/cgroup/memory/memory.limit_in_bytes; \
        [ -e $f ] || f=/sys/fs/cgroup/memory.max; \
        echo 536870912 > $f && echo raised; cat $f";
    let mut shim = Shim::start(&node);
    let spec = shell(&shim, script);
    let (_, log) = shim.run(&spec);
    assert!(!log.contains("raised") && !log.contains("made"), "{log}");
    assert!(log.contains("67108864"), "{log}");
    shim.collect();
    // The same script tells where it is writable, so that this test can fail.
    let mut shim = Shim::start(&node);
    shim.cgroup_writable = true;
    let spec = shell(&shim, script);
    let (_, log) = shim.run(&spec);
    assert!(log.contains("raised") && log.contains("made"), "{log}");
    shim.collect();
}

/// A Rust program ignores SIGPIPE and would hand that on; root's supplementary
/// groups would stay where the spec has none.
#[test]
fn signals_groups_and_descriptors_are_clean() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let mut spec = spec(&shim, &["cat", "/proc/self/status"]);
    spec["process"]["user"] = json!({"uid": 0, "gid": 0});
    let (_, log) = shim.run(&spec);
    assert_eq!(status(&log, "SigIgn"), "0000000000000000");
    assert_eq!(status(&log, "SigBlk"), "0000000000000000");
    assert_eq!(status(&log, "Groups"), "");
    shim.collect();
    let mut shim = Shim::start(&node);
    let spec = shell(&shim, "ls /proc/$$/fd; umask");
    let (_, log) = shim.run(&spec);
    let fds: Vec<&str> = log.lines().collect();
    assert_eq!(fds, ["0", "1", "2", "0022"], "{log}");
    shim.collect();
}

#[test]
fn a_user_who_is_not_root_opens_stdout_again() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let mut spec = shell(
        &shim,
        "echo one > /dev/stdout; echo two > /dev/stderr; echo three > /proc/self/fd/1",
    );
    spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let (exited, log) = shim.run(&spec);
    assert_eq!(exited.code, 0, "{log}");
    for text in ["one", "two", "three"] {
        assert!(log.contains(text), "{log}");
    }
    shim.collect();
}

/// Left to libcontainer, libc would look the user up in the container's own
/// file system, name service modules included, while init has more
/// capabilities than it should.
#[test]
fn home_comes_from_the_images_passwd_and_not_from_libc() {
    if !root() {
        return;
    }
    let node = Node::new();
    let base = node.path("layers/base");
    fs::write(
        base.join("etc/nsswitch.conf"),
        "passwd: longshore_probe files\n",
    )
    .unwrap();
    for (uid, home) in [(0, "/root"), (1000, "/home/u"), (4242, "/")] {
        let mut shim = Shim::start(&node);
        let mut spec = shell(&shim, "echo HOME=$HOME; pwd");
        spec["process"]["user"] = json!({"uid": uid, "gid": uid});
        spec["process"]["cwd"] = "/srv/dir".into();
        let (exited, log) = shim.run(&spec);
        assert_eq!(exited.code, 0, "{log}");
        assert_eq!(
            log,
            format!("HOME={home}\n/srv/dir\n"),
            "and the working directory is made"
        );
        shim.collect();
    }
}

#[test]
fn only_the_owner_need_be_able_to_execute_the_program() {
    if !root() {
        return;
    }
    let node = Node::new();
    let program = node.path("layers/base/bin/mine");
    fs::copy("/bin/busybox", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let mut shim = Shim::start(&node);
    let spec = spec(&shim, &["/bin/mine", "echo", "ran"]);
    let (exited, _) = shim.run(&spec);
    // busybox doesn't know the applet "mine", but it ran to say so.
    assert_eq!(exited.code, 127);
    shim.collect();
}

#[test]
fn oom_score_and_rlimits_are_the_specs() {
    if !root() {
        return;
    }
    let node = Node::new();
    let score = |adj: Option<i32>, node: &Node| {
        let mut shim = Shim::start(node);
        let mut spec = shell(&shim, "cat /proc/self/oom_score_adj; ulimit -n");
        spec["process"]["oomScoreAdj"] = adj.into();
        if adj.is_none() {
            spec["process"]
                .as_object_mut()
                .unwrap()
                .remove("oomScoreAdj");
        }
        spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 124}]);
        let (exited, log) = shim.run(&spec);
        assert_eq!(exited.code, 0, "{log}");
        shim.collect();
        log
    };
    assert_eq!(score(Some(500), &node), "500\n123\n");
    // The shim's own is not the container's.
    assert!(score(None, &node).starts_with("0\n"));
    // Less than this machine allows is clamped; it does not fail.
    let low = score(Some(-998), &node);
    let got: i32 = low.lines().next().unwrap().parse().unwrap();
    assert!((-998..=0).contains(&got), "{low}");
}

#[test]
fn bad_requests_are_refused_before_anything_is_made() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let good = shell(&shim, "exit 0");
    let change = |at: &str, value: Value| {
        let mut spec = good.clone();
        *spec.pointer_mut(at).unwrap() = value;
        spec
    };
    for spec in [
        json!({"nothing": 1}),
        change("/linux/cgroupsPath", "relative".into()),
        change("/linux/cgroupsPath", "/a/../b".into()),
        change("/process/args", json!([])),
    ] {
        assert_eq!(kind(shim.create(&spec)), Kind::Invalid, "{spec}");
        shim.assert_clean();
    }
    let mut request = shim.create_request(&good);
    request.seccomp_filter = vec![1, 2, 3];
    let op = longshore_proto::shim::v1::request::Op::Create(request);
    assert_eq!(kind(shim.ask(op)), Kind::Invalid);
    // And a good one still works.
    let (exited, _) = shim.run(&good);
    assert_eq!(exited.code, 0);
    shim.collect();
}
