//! How containers start and end, and what is told about it.

use std::fs;
use std::os::fd::AsFd;

use longshore_proto::shim::v1::{
    self as proto, Exec, Kill, error::Kind, event, request::Op, response, state_reply::Status,
};
use longshore_shim::exit_record::ExitRecord;
use serde_json::json;

use crate::harness::{Node, Shim, kind, root, shell, spec, wait_for};

#[test]
fn a_container_prints_exits_and_is_collected() {
    if !root() {
        return;
    }
    let node = Node::new();
    let before = node.mountinfo();
    let mut shim = Shim::start(&node);
    assert_eq!(shim.state().status(), Status::Empty);
    let spec = shell(&shim, "echo out; echo err >&2; exit 7");
    let (created, fds) = shim.create(&spec).unwrap();
    assert!(matches!(created, response::Result::Created(c) if c.pid > 1));
    assert_eq!(fds.len(), 1, "a pidfd");
    let state = shim.state();
    assert_eq!((state.status(), state.started_at), (Status::Created, 0));
    assert_eq!(state.record, b"the daemon's record");
    shim.begin().unwrap();
    let exited = shim.exited();
    assert_eq!(
        (exited.code, exited.signal, exited.oom_killed),
        (7, 0, false)
    );
    assert!(0 < exited.started_at && exited.started_at <= exited.finished_at);
    // All that was printed is in the log when the exit is told.
    let log = shim.log();
    assert!(log.contains("out\n") && log.contains("err\n"), "{log}");
    let record = fs::read(shim.dir.join("exit.json")).unwrap();
    let record: ExitRecord = serde_json::from_slice(&record).unwrap();
    assert_eq!((record.code, record.finished_at), (7, exited.finished_at));
    assert_eq!(record.id, shim.id);
    let state = shim.state();
    assert_eq!(
        (state.status(), state.exit),
        (Status::Stopped, Some(exited))
    );
    assert_eq!(kind(shim.begin()), Kind::BadState);
    assert_eq!(
        node.mountinfo(),
        before,
        "the host's mounts are as they were"
    );
    shim.collect();
}

#[test]
fn signals_are_told_as_such() {
    if !root() {
        return;
    }
    let node = Node::new();
    for (signal, code) in [(libc::SIGKILL, 137), (libc::SIGTERM, 143), (36, 164)] {
        let mut shim = Shim::start(&node);
        // PID 1 gets no signal that it doesn't handle but SIGKILL.
        let mut spec = spec(&shim, &["sleep", "100"]);
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        shim.up(&spec);
        shim.kill(signal);
        let exited = shim.exited();
        assert_eq!((exited.signal, exited.code), (signal, code));
        shim.collect();
    }
}

#[test]
fn a_killed_container_takes_its_whole_cgroup_along() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let mut spec = shell(&shim, "sleep 100 & sleep 100 & echo up; wait");
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    shim.up(&spec);
    shim.log_with("up");
    shim.ask(Op::Kill(Kill {
        signal: libc::SIGKILL,
        all: true,
    }))
    .unwrap();
    assert_eq!(shim.exited().code, 137);
    shim.collect();
}

#[test]
fn orphans_of_a_dead_init_are_killed_with_it() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let mut spec = shell(&shim, "sleep 100 & exit 3");
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    let (exited, _) = shim.run(&spec);
    assert_eq!(exited.code, 3);
    shim.collect();
}

#[test]
fn a_program_that_cannot_be_executed_is_told_at_start() {
    if !root() {
        return;
    }
    let node = Node::new();
    for (program, errno) in [
        ("/none", libc::ENOENT),
        ("none", libc::ENOENT),
        ("/etc/passwd", libc::EACCES),
        ("/bin", libc::EACCES),
    ] {
        let mut shim = Shim::start(&node);
        let spec = spec(&shim, &[program]);
        shim.create(&spec).unwrap();
        let error = shim.begin().unwrap_err();
        assert_eq!(
            (error.kind(), error.errno),
            (Kind::NotExecutable, errno),
            "{error:?}"
        );
        assert!(error.message.contains(program), "{error:?}");
        let exited = shim.exited();
        assert_eq!((exited.code, exited.signal), (128, 0));
        assert!(exited.started_at <= exited.finished_at);
        shim.collect();
    }
}

#[test]
fn the_oom_killer_is_told() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let mut spec = spec(&shim, &["tail", "/dev/zero"]);
    spec["linux"]["resources"] = json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}});
    let (exited, _) = shim.run(&spec);
    assert_eq!((exited.code, exited.oom_killed), (137, true));
    shim.collect();
    // A plain SIGKILL is no OOM kill.
    let mut shim = Shim::start(&node);
    let spec = crate::harness::spec(&shim, &["sleep", "100"]);
    shim.up(&spec);
    shim.kill(libc::SIGKILL);
    let exited = shim.exited();
    assert_eq!((exited.code, exited.oom_killed), (137, false));
    shim.collect();
}

/// PID 1 can't finish exiting while an exec'd process of its namespace is an
/// unreaped child of the shim.
#[test]
fn init_exits_though_execs_are_still_to_be_reaped() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let spec = spec(&shim, &["sleep", "100"]);
    shim.up(&spec);
    for n in 0..3 {
        let exec = Exec {
            exec_id: format!("x{n}"),
            args: vec![b"sleep".to_vec(), b"100".to_vec()],
            ..Default::default()
        };
        shim.ask(Op::Exec(exec)).unwrap();
    }
    shim.kill(libc::SIGKILL);
    let mut execs = 0;
    loop {
        match shim.event() {
            event::Kind::Exited(exited) => {
                assert_eq!(exited.code, 137);
                break;
            }
            event::Kind::ExecExited(exited) => {
                assert_eq!(exited.code, 137);
                execs += 1;
            }
        }
    }
    assert_eq!(execs, 3, "their exits come before init's");
    shim.collect();
}

#[test]
fn execs_run_and_die_with_the_connection_that_asked() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let spec = spec(&shim, &["sleep", "100"]);
    shim.up(&spec);
    assert_eq!(
        shim.exec(&["sh", "-c", "echo hi; exit 5"]),
        (5, "hi\n".to_owned())
    );
    let exec = |id: &str, bound| Exec {
        exec_id: id.to_owned(),
        args: ["sh", "-c", "sleep 77 & wait"]
            .map(|arg| arg.as_bytes().to_vec())
            .to_vec(),
        kill_on_disconnect: bound,
        ..Default::default()
    };
    shim.ask(Op::Exec(exec("a", true))).unwrap();
    shim.ask(Op::Exec(exec("b", false))).unwrap();
    assert_eq!(kind(shim.ask(Op::Exec(exec("b", false)))), Kind::Invalid);
    shim.reconnect();
    wait_for("the bound exec's death", || {
        let (_, ps) = shim.exec(&["ps", "-o", "args"]);
        // Its shell and the child of that.
        (ps.matches("sleep 77").count() == 2).then_some(())
    });
    let kill = proto::KillExec {
        exec_id: "b".into(),
        signal: libc::SIGKILL,
        group: true,
    };
    shim.ask(Op::KillExec(kill.clone())).unwrap();
    loop {
        if let event::Kind::ExecExited(exited) = shim.event()
            && exited.exec_id == "b"
        {
            assert_eq!(exited.code, 137);
            break;
        }
    }
    assert_eq!(kind(shim.ask(Op::KillExec(kill))), Kind::NotFound);
    let (_, ps) = shim.exec(&["ps", "-o", "args"]);
    assert_eq!(
        ps.matches("sleep 77").count(),
        0,
        "its group went with it: {ps}"
    );
    shim.kill(libc::SIGKILL);
    shim.exited();
    shim.collect();
}

#[test]
fn clients_cannot_use_up_the_descriptors() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let spec = spec(&shim, &["sleep", "100"]);
    shim.up(&spec);
    let process = i32::try_from(shim.process.id()).ok();
    let process = process.and_then(rustix::process::Pid::from_raw);
    let limit = Some(128);
    let limit = rustix::process::Rlimit {
        current: limit,
        maximum: limit,
    };
    rustix::process::prlimit(process, rustix::process::Resource::Nofile, limit).unwrap();

    let mut clients = Vec::new();
    let refused = wait_for("a refusal", || {
        let (near, far) = rustix::pipe::pipe().unwrap();
        clients.push(near);
        let attach = proto::Attach {
            stdout: true,
            ..Default::default()
        };
        shim.ask_with(Op::Attach(attach), &[far.as_fd()]).err()
    });
    assert_eq!(refused.errno, libc::EMFILE, "{refused:?}");
    let exec = Exec {
        exec_id: "e".into(),
        args: vec![b"true".to_vec()],
        stdout: true,
        ..Default::default()
    };
    let (_near, far) = rustix::pipe::pipe().unwrap();
    let refused = shim.ask_with(Op::Exec(exec), &[far.as_fd()]).unwrap_err();
    assert_eq!(refused.errno, libc::EMFILE, "{refused:?}");

    // All else goes on: another connection, the kill, the exit and its record.
    shim.reconnect();
    shim.kill(libc::SIGKILL);
    assert_eq!(shim.exited().code, 137);
    drop(clients);
    shim.collect();
}

#[test]
fn a_shim_without_descriptors_keeps_its_container() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let spec = spec(&shim, &["sleep", "100"]);
    shim.up(&spec);
    let process = i32::try_from(shim.process.id()).ok();
    let process = process.and_then(rustix::process::Pid::from_raw);
    let nofile = |current| {
        let limit = rustix::process::Rlimit {
            current: Some(current),
            maximum: Some(1024),
        };
        rustix::process::prlimit(process, rustix::process::Resource::Nofile, limit).unwrap();
    };
    nofile(3);
    shim.reconnect();
    // It is asked, and has no descriptor for who asks.
    std::thread::sleep(std::time::Duration::from_millis(300));
    nofile(1024);
    assert_eq!(shim.state().status(), proto::state_reply::Status::Running);
    shim.kill(libc::SIGKILL);
    assert_eq!(shim.exited().code, 137);
    shim.collect();
}

#[test]
fn a_daemon_that_was_away_learns_all_of_it() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    let spec = shell(&shim, "sleep 0.3; exit 9");
    shim.up(&spec);
    let pid = shim.state().pid;
    shim.reconnect();
    let state = shim.state();
    assert_eq!((state.status(), state.pid), (Status::Running, pid));
    assert_eq!(state.record, b"the daemon's record");
    assert_eq!(shim.exited().code, 9);
    shim.reconnect();
    assert_eq!(shim.state().exit.unwrap().code, 9);
    shim.collect();
}

#[test]
fn a_terminal_is_the_containers_own() {
    if !root() {
        return;
    }
    let node = Node::new();
    let mut shim = Shim::start(&node);
    shim.stdio.tty = true;
    let mut spec = shell(
        &shim,
        "[ -t 0 ] && [ -t 1 ] && echo a terminal; echo x > /dev/tty; echo y > /dev/stdout",
    );
    spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    shim.create(&spec).unwrap();
    shim.ask(Op::Resize(proto::Resize {
        columns: 90,
        rows: 30,
        ..Default::default()
    }))
    .unwrap();
    shim.begin().unwrap();
    let exited = shim.exited();
    let log = shim.log();
    assert_eq!(exited.code, 0, "{log}");
    for text in ["a terminal", "x", "y"] {
        assert!(log.contains(text), "{log}");
    }
    shim.collect();
}
