//! The root file system in the worker's mount namespace only, and volumes
//! that propagate as they were asked to. libcontainer parses a mount's
//! propagation and then drops it.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::harness::{Node, Shim, root, shell, volume};

fn tmpfs_at(dir: &Path, file: &str) {
    fs::create_dir_all(dir).unwrap();
    mount(
        Some("tmpfs"),
        dir,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    fs::write(dir.join(file), "").unwrap();
}

fn with_sys_admin(spec: &mut serde_json::Value) {
    for set in ["bounding", "effective", "permitted"] {
        let caps = spec["process"]["capabilities"][set].as_array_mut().unwrap();
        caps.push("CAP_SYS_ADMIN".into());
    }
}

/// Runs a container that mounts something below each volume and then shows
/// what it sees of what the host mounts.
#[test]
fn propagation_is_the_volumes_own() {
    if !root() {
        return;
    }
    let node = Node::new();
    for (options, host_sees, container_sees) in [
        (["rbind", "rprivate"], false, false),
        (["rbind", "rslave"], false, true),
        (["rbind", "rshared"], true, true),
    ] {
        // A shared volume beside it, which makes the container's root shared.
        for beside in [false, true] {
            let source = node.shared_mount("source");
            for dir in ["inner", "outer"] {
                fs::create_dir(source.join(dir)).unwrap();
            }
            let before = node.mountinfo();
            let mut shim = Shim::start(&node);
            let mut spec = shell(
                &shim,
                "mount -t tmpfs t /vol/inner && touch /vol/inner/mine && echo mounted; \
                 i=0; while [ ! -e /tmp/go ] && [ $i -lt 1000 ]; do sleep 0.01; i=$((i+1)); done; \
                 ls /vol/outer; umount /vol/inner",
            );
            with_sys_admin(&mut spec);
            volume(&mut spec, &source, "/vol", &options);
            let other = node.shared_mount("other");
            if beside {
                volume(&mut spec, &other, "/mnt", &["rbind", "rshared"]);
            }
            let before_run = node.mountinfo();
            shim.up(&spec);
            shim.log_with("mounted");
            let what = format!("{options:?} beside a shared one: {beside}");
            assert_eq!(source.join("inner/mine").exists(), host_sees, "{what}");
            if !host_sees {
                assert_eq!(
                    node.mountinfo(),
                    before_run,
                    "nothing reached the host, {what}"
                );
            }
            tmpfs_at(&source.join("outer"), "hosts");
            shim.exec(&["touch", "/tmp/go"]);
            let exited = shim.exited();
            let log = shim.log();
            assert_eq!(exited.code, 0, "{log}");
            assert_eq!(log.contains("hosts"), container_sees, "{what}: {log}");
            shim.collect();
            umount2(&source.join("outer"), MntFlags::empty()).unwrap();
            umount2(&other, MntFlags::empty()).unwrap();
            assert_eq!(node.mountinfo(), before, "{what}");
            umount2(&source, MntFlags::empty()).unwrap();
        }
    }
}

#[test]
fn the_rootfs_is_mounted_for_the_container_alone() {
    if !root() {
        return;
    }
    let node = Node::new();
    // Even where the stage lies on a mount that is shared with others.
    let none = None::<&str>;
    mount(none, node.dir.path(), none, MsFlags::MS_SHARED, none).unwrap();
    let before = node.mountinfo();
    let mut shim = Shim::start(&node);
    let spec = shell(&shim, "echo up; cat /proc/self/mountinfo; sleep 100");
    shim.up(&spec);
    let log = shim.log_with(" /proc/sys ");
    assert!(log.contains(" / / rw") && log.contains("overlay"), "{log}");
    assert_eq!(node.mountinfo(), before);
    assert_eq!(fs::read_dir(shim.dir.join("stage")).unwrap().count(), 0);
    shim.kill(libc::SIGKILL);
    shim.exited();
    assert_eq!(node.mountinfo(), before);
    shim.collect();
}

#[test]
fn volumes_of_files_read_only_ones_and_submounts() {
    if !root() {
        return;
    }
    let node = Node::new();
    let dir = node.path("v");
    fs::create_dir_all(dir.join("sub")).unwrap();
    tmpfs_at(&dir.join("sub"), "deep");
    fs::write(node.path("file"), "content").unwrap();
    let mut shim = Shim::start(&node);
    let mut spec = shell(
        &shim,
        "cat /etc/file; ls /a/sub /b/sub; \
         touch /a/x 2>/dev/null && echo a; touch /a/sub/x 2>/dev/null && echo asub; \
         touch /c/x 2>/dev/null && echo c; touch /c/sub/x 2>/dev/null && echo csub; \
         touch /b/y && echo b; true",
    );
    volume(&mut spec, &node.path("file"), "/etc/file", &["bind", "ro"]);
    volume(&mut spec, &dir, "/a", &["rbind", "rprivate", "ro"]);
    volume(&mut spec, &dir, "/b", &["bind", "rw"]);
    volume(&mut spec, &dir, "/c", &["rbind", "rro"]);
    let (exited, log) = shim.run(&spec);
    assert_eq!(exited.code, 0);
    assert!(log.contains("content"));
    assert_eq!(
        log.matches("deep").count(),
        1,
        "a bind without rbind has no submounts: {log}"
    );
    let lines: Vec<&str> = log.lines().collect();
    assert!(
        !lines.contains(&"a") && lines.contains(&"asub"),
        "ro is of the top: {log}"
    );
    assert!(
        !lines.contains(&"c") && !lines.contains(&"csub"),
        "rro is of all: {log}"
    );
    assert!(lines.contains(&"b"), "{log}");
    shim.collect();
    umount2(&dir.join("sub"), MntFlags::empty()).unwrap();
}

#[test]
fn a_hundred_layers_and_a_read_only_view() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let spec = shell(
        &shim,
        "ls / | grep -c ^layer; touch /x 2>/dev/null || echo read-only",
    );
    let mut request = shim.create_request(&spec);
    let rootfs = request.rootfs.as_mut().unwrap();
    let base = rootfs.lower.remove(0);
    for n in 0..100 {
        // Longer than fsconfig(2) takes, one of them.
        let name = if n == 50 {
            "l".repeat(230)
        } else {
            format!("l{n}")
        };
        let dir = node.path("layers").join(name);
        fs::create_dir_all(dir.join(format!("layer{n}"))).unwrap();
        rootfs.lower.push(dir.into_os_string().into_encoded_bytes());
    }
    rootfs.lower.push(base);
    let view = request.clone();
    shim.ask(longshore_proto::shim::v1::request::Op::Create(request))
        .unwrap();
    shim.begin().unwrap();
    assert_eq!(shim.exited().code, 0);
    assert_eq!(shim.log(), "100\n");
    shim.collect();

    let mut shim = Shim::start(&node);
    let mut request = shim.create_request(&json!({}));
    let mut spec = shell(
        &shim,
        "ls / | grep -c ^layer; touch /x 2>/dev/null || echo read-only",
    );
    spec["root"]["readonly"] = true.into();
    request.spec = serde_json::to_vec(&spec).unwrap();
    let lower = view.rootfs.unwrap().lower;
    // Every mount point must be there already.
    for dir in ["dev/pts", "dev/mqueue"] {
        fs::create_dir_all(node.path("layers/base").join(dir)).unwrap();
    }
    let rootfs = request.rootfs.as_mut().unwrap();
    rootfs.lower = lower;
    rootfs.upper.clear();
    rootfs.work.clear();
    shim.ask(longshore_proto::shim::v1::request::Op::Create(request))
        .unwrap();
    shim.begin().unwrap();
    shim.exited();
    assert_eq!(shim.log(), "100\nread-only\n");
    shim.collect();
}
