//! Nothing is left behind, whenever it ends.

use std::fs;
use std::time::Duration;

use longshore_proto::shim::v1::{self as proto, Kill, error::Kind, request::Op};

use crate::harness::{Node, Shim, kind, root, shell, spec, volume, wait_for};

#[test]
fn a_failed_create_says_why_and_leaves_nothing() {
    if !root() {
        return;
    }
    let node = Node::new();
    let before = node.mountinfo();
    let mut shim = Shim::start(&node);
    let mut bad = spec(&shim, &["true"]);
    volume(
        &mut bad,
        std::path::Path::new("/none/none"),
        "/vol",
        &["rbind"],
    );
    let error = shim.create(&bad).unwrap_err();
    assert_eq!(
        (error.kind(), error.errno),
        (Kind::Internal, libc::ENOENT),
        "{error:?}"
    );
    assert!(error.message.contains("/none/none"), "{error:?}");
    shim.assert_clean();

    // Inside libcontainer's own processes: the causes come through too.
    let mut bad = spec(&shim, &["true"]);
    bad["mounts"][0]["type"] = "nosuchfs".into();
    let error = shim.create(&bad).unwrap_err();
    assert!(
        error.message.contains("nosuchfs") || error.message.contains("ENODEV"),
        "{error:?}"
    );
    shim.assert_clean();

    let mut bad = spec(&shim, &["true"]);
    bad["process"]["cwd"] = "/etc/passwd".into();
    let error = shim.create(&bad).unwrap_err();
    assert!(error.message.contains("ENOTDIR"), "{error:?}");
    shim.assert_clean();
    assert_eq!(node.mountinfo(), before);

    let good = shell(&shim, "exit 4");
    assert_eq!(shim.run(&good).0.code, 4);
    shim.collect();
}

/// Kills the worker at many moments of its life.
#[test]
fn a_create_killed_midway_leaves_nothing() {
    if !root() {
        return;
    }
    let node = Node::new();
    let before = node.mountinfo();
    let mut killed = 0;
    for step in 0..24 {
        let mut shim = Shim::start(&node);
        let spec = spec(&shim, &["sleep", "100"]);
        let request = shim.create_request(&spec);
        let create = shim.send(Op::Create(request), &[]);
        std::thread::sleep(Duration::from_micros(700 * step));
        let all = shim.send(
            Op::Kill(Kill {
                signal: libc::SIGKILL,
                all: true,
            }),
            &[],
        );
        // The answers come in the order in which things end.
        let outcomes = [shim.any_answer(), shim.any_answer()];
        let created = outcomes.iter().find(|(seq, _)| *seq == create).unwrap();
        assert!(
            outcomes
                .iter()
                .any(|(seq, answer)| *seq == all && answer.is_ok())
        );
        if created.1.is_ok() {
            // Too late: then it is the created container that was killed.
            assert_eq!(shim.exited().code, 137);
        } else {
            killed += 1;
        }
        shim.collect();
    }
    assert_eq!(node.mountinfo(), before);
    assert!(killed >= 3, "the worker was hit only {killed} times");
}

#[test]
fn nested_cgroups_of_the_container_are_removed() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    shim.cgroup_writable = true;
    let spec = shell(
        &shim,
        "cd /sys/fs/cgroup; [ -d pids ] && cd pids; mkdir -p a/b && echo 0 > a/b/cgroup.procs && echo made; sleep 100",
    );
    shim.up(&spec);
    shim.log_with("made");
    shim.kill(libc::SIGKILL);
    shim.exited();
    shim.collect();
}

#[test]
fn a_shim_that_nobody_wants_any_more_ends_itself() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start_with(&node, &["--linger", "1"]);
    let spec = shell(&shim, "sleep 1.5; exit 6");
    shim.up(&spec);
    shim.hang_up();
    let status = wait_for("its end", || shim.process.try_wait().unwrap());
    assert!(status.success());
    let record = fs::read_to_string(shim.dir.join("exit.json")).unwrap();
    assert!(record.contains("\"code\":6"), "{record}");
    shim.assert_clean();
}

#[test]
fn a_shim_stays_until_the_exit_is_recorded() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start_with(&node, &["--linger", "1"]);
    // Its temporary file can't be made.
    let obstacle = shim.dir.join("exit.json.tmp");
    fs::create_dir(&obstacle).unwrap();
    let spec = shell(&shim, "exit 6");
    shim.up(&spec);
    assert_eq!(shim.exited().code, 6);
    shim.hang_up();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert!(shim.process.try_wait().unwrap().is_none(), "it left");
    fs::remove_dir(&obstacle).unwrap();
    let status = wait_for("its end", || shim.process.try_wait().unwrap());
    assert!(status.success());
    let record = fs::read_to_string(shim.dir.join("exit.json")).unwrap();
    assert!(record.contains("\"code\":6"), "{record}");
    shim.assert_clean();
}

#[test]
fn what_does_not_fit_the_stage_is_refused() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    assert_eq!(kind(shim.begin()), Kind::BadState);
    let unknown = shim.send_raw(None);
    assert_eq!(kind(shim.answer(unknown)), Kind::UnknownOperation);
    let spec = spec(&shim, &["sleep", "100"]);
    shim.up(&spec);
    assert_eq!(kind(shim.create(&spec)), Kind::BadState);
    assert_eq!(
        kind(shim.ask(Op::Collect(proto::Collect {}))),
        Kind::BadState
    );
    assert_eq!(
        kind(shim.ask(Op::Kill(Kill {
            signal: 99,
            all: false
        }))),
        Kind::Invalid
    );
    shim.kill(libc::SIGKILL);
    shim.exited();
    shim.collect();
}
