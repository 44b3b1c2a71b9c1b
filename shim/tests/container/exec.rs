//! An exec'd process equals the init that our own create made.

use longshore_proto::shim::v1::{Exec, KillExec, event, request::Op, response};
use serde_json::{Value, json};

use crate::description::{describe, equal, wait_for_sleep};
use crate::harness::{Node, Shim, no_mkdir, root, spec, wait_for};

fn start_sleeping(shim: &mut Shim, exec_id: &str) -> i32 {
    let exec = Exec {
        exec_id: exec_id.to_owned(),
        args: vec![b"sleep".to_vec(), b"600".to_vec()],
        ..Exec::default()
    };
    let (response::Result::ExecStarted(started), _) = shim.ask(Op::Exec(exec)).unwrap() else {
        panic!("not started")
    };
    wait_for_sleep(started.pid);
    started.pid
}

fn assert_equal(adjust: impl Fn(&mut Value), filter: Vec<u8>) {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let filtered = !filter.is_empty();
    shim.filter = filter;
    let mut spec = spec(&shim, &["sleep", "600"]);
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 600}]);
    adjust(&mut spec["process"]);
    shim.up(&spec);
    let init = shim.state().pid;
    wait_for_sleep(init);
    let exec = start_sleeping(&mut shim, "e");
    let facts = equal(&describe(init), exec);
    assert_eq!(
        facts["status Seccomp_filters"],
        u8::from(filtered).to_string()
    );
    assert!(
        facts["cgroup"].contains(&shim.cgroup),
        "{}",
        facts["cgroup"]
    );
    shim.kill(9);
    assert_eq!(shim.exited().code, 137);
    shim.collect();
}

#[test]
fn root_equals_init() {
    assert_equal(|_| {}, Vec::new());
    assert_equal(|_| {}, no_mkdir());
}

#[test]
fn a_user_equals_init() {
    for filter in [Vec::new(), no_mkdir()] {
        assert_equal(
            |process| {
                process["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
                process["noNewPrivileges"] = true.into();
            },
            filter,
        );
    }
}

#[test]
fn ambient_capabilities_equal_inits() {
    for filter in [Vec::new(), no_mkdir()] {
        assert_equal(
            |process| {
                process["user"] = json!({"uid": 1000, "gid": 1000});
                let raised = json!(["CAP_NET_BIND_SERVICE"]);
                process["capabilities"]["inheritable"] = raised.clone();
                process["capabilities"]["ambient"] = raised;
            },
            filter,
        );
    }
}

/// Its children hold pipes as it does: a kill of a slow command reaches them.
#[test]
fn a_kill_of_the_group_reaches_the_children() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let spec = spec(&shim, &["sleep", "600"]);
    shim.up(&spec);
    let args = ["sh", "-c", "sleep 601 | sleep 602"];
    let exec = Exec {
        exec_id: "e".to_owned(),
        args: args.map(|arg| arg.as_bytes().to_vec()).to_vec(),
        ..Exec::default()
    };
    shim.ask(Op::Exec(exec)).unwrap();
    let children = |shim: &mut Shim| {
        let (_, list) = shim.exec(&["ps", "-o", "args"]);
        list.lines()
            .filter(|line| *line == "sleep 601" || *line == "sleep 602")
            .count()
    };
    wait_for("both children", || (children(&mut shim) == 2).then_some(()));
    let kill = KillExec {
        exec_id: "e".to_owned(),
        signal: 9,
        group: true,
    };
    shim.ask(Op::KillExec(kill)).unwrap();
    while !matches!(shim.event(), event::Kind::ExecExited(e) if e.exec_id == "e" && e.signal == 9) {
    }
    wait_for("the children's end", || {
        (children(&mut shim) == 0).then_some(())
    });
    shim.kill(9);
    shim.exited();
    shim.collect();
}
