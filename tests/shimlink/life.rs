//! From spawn to collect.

use std::time::Duration;

use longshore::shimlink::{
    EXEC_SYNC_CAP, ExecOutput, ExecSpec, ExecSyncError, RefusedKind, Shim, ShimError, ShimExit,
    StateStatus, Stdio, exec_sync,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::container::{Node, process};

const PATIENCE: Duration = Duration::from_secs(20);

async fn exit(shim: &Shim) -> ShimExit {
    let mut exited = shim.exited();
    let exit = tokio::time::timeout(PATIENCE, exited.wait_for(Option::is_some)).await;
    exit.unwrap().unwrap().clone().unwrap()
}

async fn code(shim: &Shim) -> i32 {
    match exit(shim).await {
        ShimExit::Exited(exited) => exited.code,
        lost @ ShimExit::Lost { .. } => panic!("{lost:?}"),
    }
}

fn args(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[tokio::test]
async fn a_container_from_spawn_to_collect() {
    let Some(node) = Node::new() else { return };
    let shims = node.shims();
    let shim = node
        .run(&shims, "one", "echo out; echo err >&2; exit 7")
        .await;
    assert_eq!(code(&shim).await, 7);
    let mut log: Vec<_> = node.log("one").lines().map(str::to_owned).collect();
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out"]);
    let state = shim.state().await.unwrap().reply;
    assert_eq!(state.status(), StateStatus::Stopped);
    assert_eq!(state.record, b"kept");
    assert_eq!(shims.list().unwrap(), ["one"]);
    shim.collect().await.unwrap();
    drop(shim);
    shims.remove("one").unwrap();
    assert!(shims.list().unwrap().is_empty());
    assert!(shims.connect("one").await.unwrap().is_none());
}

#[tokio::test]
async fn a_restarted_daemon_finds_its_containers() {
    let Some(node) = Node::new() else { return };
    let shims = node.shims();
    let shim = node
        .run(
            &shims,
            "lives",
            "while ! [ -e /go ]; do sleep 0.01; done; exit 3",
        )
        .await;
    let shim_pidfd = shim.pidfd().unwrap();
    assert!(matches!(
        shims.spawn("lives").await,
        Err(ShimError::Exists(_))
    ));
    drop((shim, shims));
    let shims = node.shims();
    let shim = shims.connect("lives").await.unwrap().unwrap();
    assert_eq!(
        shim.state().await.unwrap().reply.status(),
        StateStatus::Running
    );
    assert!(shim.pidfd().is_some());
    let ran = exec_sync(&shim, "e".into(), args(&["sh", "-c", ": > /go"]), None, 10).await;
    assert_eq!(ran.unwrap().code, 0);
    assert_eq!(code(&shim).await, 3);
    shim.collect().await.unwrap();
    longshore::base::readable::Readable::new(shim_pidfd)
        .unwrap()
        .readable()
        .await
        .unwrap();
    // Its socket is stale, or gone.
    assert!(shims.connect("lives").await.unwrap().is_none());
    assert!(shims.list().unwrap().is_empty());
}

#[tokio::test]
async fn a_killed_shim_is_a_loss_and_no_zombie() {
    let Some(node) = Node::new() else { return };
    let shims = node.shims();
    let shim = node.run(&shims, "killed", "sleep 600").await;
    let state = shim.state().await.unwrap();
    let pid = state.reply.shim_pid;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
    assert_eq!(exit(&shim).await, ShimExit::Lost { shim_dead: true });
    let reaped = async {
        while std::fs::exists(format!("/proc/{pid}")).unwrap() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reaped).await.unwrap();
    // What is left of the container is the daemon's to kill, by its cgroup.
    let init = state.reply.pid;
    let pidfd = longshore::base::readable::Readable::new(state.pidfd.unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::SIGKILL).ok();
    pidfd.readable().await.unwrap();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
        let pods = hierarchy.unwrap().path();
        for pod in std::fs::read_dir(&pods).into_iter().flatten().flatten() {
            let group = pod.path().join("killed");
            if group.exists() {
                std::fs::remove_dir(group).unwrap();
            }
        }
    }
    assert!(shims.connect("killed").await.unwrap().is_none());
}

async fn sync(
    shim: &Shim,
    id: &str,
    script: &str,
    timeout: Option<Duration>,
    cap: usize,
) -> Result<ExecOutput, ExecSyncError> {
    exec_sync(
        shim,
        id.to_owned(),
        args(&["sh", "-c", script]),
        timeout,
        cap,
    )
    .await
}

async fn end(shim: &Shim) {
    shim.kill(libc::SIGKILL, true).await.unwrap();
    assert_eq!(code(shim).await, 137);
}

#[tokio::test]
async fn exec_sync_collects_output_and_code() {
    let Some(node) = Node::new() else { return };
    let shims = node.shims();
    let shim = node.run(&shims, "execs", "sleep 600").await;
    let script = "echo out; echo err >&2; exit 5";
    let output = sync(&shim, "a", script, None, EXEC_SYNC_CAP).await.unwrap();
    let expected = ExecOutput {
        stdout: b"out\n".to_vec(),
        stderr: b"err\n".to_vec(),
        code: 5,
    };
    assert_eq!(output, expected);
    let script = "dd if=/dev/zero bs=1M count=3 2>/dev/null; exit 1";
    let output = sync(&shim, "b", script, None, 1000).await.unwrap();
    assert_eq!((output.stdout.len(), output.code), (1000, 1));

    let absent = exec_sync(&shim, "c".into(), args(&["absent"]), None, 10).await;
    let Err(ExecSyncError::Shim(error)) = absent else {
        panic!("{absent:?}")
    };
    assert_eq!(error.refusal(), Some(RefusedKind::NotExecutable));

    let many = (0..30).map(|n| {
        let (shim, script) = (shim.clone(), format!("echo {n}; exit {n}"));
        async move {
            (
                n,
                sync(&shim, &format!("m{n}"), &script, None, 10)
                    .await
                    .unwrap(),
            )
        }
    });
    for (n, output) in futures_util::future::join_all(many).await {
        assert_eq!(
            (output.code, output.stdout),
            (n, format!("{n}\n").into_bytes())
        );
    }
    end(&shim).await;
    let late = exec_sync(&shim, "z".into(), args(&["true"]), None, 10).await;
    let Err(ExecSyncError::Shim(error)) = late else {
        panic!("{late:?}")
    };
    assert_eq!(error.refusal(), Some(RefusedKind::BadState));
    shim.collect().await.unwrap();
}

#[tokio::test]
async fn exec_sync_ends_in_time() {
    let Some(node) = Node::new() else { return };
    let shims = node.shims();
    let shim = node.run(&shims, "slow", "sleep 600").await;
    let before = std::time::Instant::now();
    let limit = Some(Duration::from_millis(300));
    let slow = sync(&shim, "a", "echo begun; sleep 600 | sleep 600", limit, 100).await;
    let Err(ExecSyncError::Timeout { output, .. }) = slow else {
        panic!("{slow:?}")
    };
    assert_eq!(output.stdout, b"begun\n");
    // The whole process group is gone: nobody holds the pipes.
    assert!(
        before.elapsed() < Duration::from_secs(2),
        "{:?}",
        before.elapsed()
    );

    let before = std::time::Instant::now();
    let limit = Some(Duration::from_secs(60));
    let output = sync(&shim, "b", "sleep 600 & echo said", limit, 100)
        .await
        .unwrap();
    assert_eq!((output.stdout.as_slice(), output.code), (&b"said\n"[..], 0));
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "{:?}",
        before.elapsed()
    );
    end(&shim).await;
    shim.collect().await.unwrap();
}

#[tokio::test]
async fn an_exec_with_a_terminal() {
    let Some(node) = Node::new() else { return };
    let shims = node.shims();
    let shim = node.run(&shims, "tty", "sleep 600").await;
    let script = "tty; read x; busybox stty size; exit 4";
    let spec = ExecSpec {
        exec_id: "t".into(),
        args: args(&["sh", "-c", script]),
        tty: true,
        ..ExecSpec::default()
    };
    let exec = shim.exec(spec).await.unwrap();
    let mut master = tokio::fs::File::from_std(std::fs::File::from(exec.master.unwrap()));
    shim.resize(Some("t"), 101, 33).await.unwrap();
    master.write_all(b"word\n").await.unwrap();
    master.flush().await.unwrap();
    let mut text = Vec::new();
    let mut buffer = [0; 512];
    while let Ok(count @ 1..) = master.read(&mut buffer).await {
        text.extend_from_slice(&buffer[..count]);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("/dev/pts/0") && text.contains("33 101"),
        "{text}"
    );
    assert_eq!(exec.exit.await.unwrap().code, 4);
    end(&shim).await;
    shim.collect().await.unwrap();
}

#[tokio::test]
async fn attach_and_reopen_the_log() {
    let Some(node) = Node::new() else { return };
    let shims = node.shims();
    let stdio = Stdio {
        stdin: true,
        stdin_once: true,
        ..Stdio::default()
    };
    let shim = node
        .run_as(&shims, "attached", &process("cat; echo bye"), stdio)
        .await;
    let mut streams = shim.attach(true, true, false).await.unwrap();
    let mut stdin = streams.stdin.take().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    let mut stdout = streams.stdout.take().unwrap();
    let mut echo = [0; 6];
    stdout.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello\n");
    let log = node.directory.path().join("c-attached/log");
    std::fs::rename(&log, log.with_extension("old")).unwrap();
    shim.reopen_log().await.unwrap();
    assert!(log.exists());
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "bye\n");
    assert_eq!(code(&shim).await, 0);
    assert_eq!(node.log("attached"), "stdout F bye\n");
    shim.collect().await.unwrap();
}

#[tokio::test]
async fn ids_that_name_no_shim() {
    let Some(node) = Node::new() else { return };
    let shims = node.shims();
    for id in ["", "..", ".x", "a/b", "a\0b", &"x".repeat(65)] {
        assert!(
            matches!(shims.spawn(id).await, Err(ShimError::BadId(_))),
            "{id:?}"
        );
        assert!(
            matches!(shims.remove(id), Err(ShimError::BadId(_))),
            "{id:?}"
        );
    }
    assert!(shims.connect("absent").await.unwrap().is_none());
    shims.remove("absent").unwrap();
}
