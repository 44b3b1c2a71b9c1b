//! The daemon's side against a shim that the test plays.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use longshore_proto::shim::v1::{self, event, request::Op, response};

use super::testing::{Played, pair};
use super::*;
use crate::base::tasks::Tasks;

fn connected() -> (Shim, Played, Tasks) {
    let (ours, theirs) = pair();
    let tasks = Tasks::new();
    let shim = Shim::new("c1".to_owned(), ours, &tasks).unwrap();
    (shim, Played::new(theirs), tasks)
}

fn exit(code: i32) -> v1::Exited {
    v1::Exited {
        code,
        ..v1::Exited::default()
    }
}

fn exec_exit(exec_id: &str, code: i32) -> event::Kind {
    let exec_id = exec_id.to_owned();
    event::Kind::ExecExited(v1::ExecExited {
        exec_id,
        code,
        ..v1::ExecExited::default()
    })
}

const DONE: response::Result = response::Result::Done(v1::Done {});

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

#[tokio::test]
async fn answers_go_to_who_asked_in_any_order() {
    let (shim, played, _tasks) = connected();
    let ask = |signal| {
        let shim = shim.clone();
        async move { shim.kill(signal, false).await }
    };
    let (first, second, ()) = tokio::join!(ask(10), ask(12), async {
        let mut asked = Vec::new();
        for _ in 0..2 {
            let (seq, Op::Kill(kill), _) = played.next().await.unwrap() else {
                panic!("no kill")
            };
            asked.push((seq, kill.signal));
        }
        for (seq, signal) in asked.into_iter().rev() {
            if signal == 10 {
                played.answer(seq, DONE, &[]);
            } else {
                let error = v1::Error {
                    kind: v1::error::Kind::BadState.into(),
                    stage: "kill".to_owned(),
                    message: "not running".to_owned(),
                    errno: 3,
                };
                played.answer(seq, response::Result::Error(error), &[]);
            }
        }
    });
    first.unwrap();
    let error = second.unwrap_err();
    assert_eq!(error.refusal(), Some(v1::error::Kind::BadState));
    assert_eq!(error.to_string(), "kill: not running");
}

#[tokio::test]
async fn created_brings_a_pidfd() {
    let (shim, played, _tasks) = connected();
    let create = v1::Create {
        spec: vec![b'x'; 1 << 20],
        ..v1::Create::default()
    };
    let (created, ()) = tokio::join!(shim.create(create), async {
        let (seq, Op::Create(create), _) = played.next().await.unwrap() else {
            panic!("?")
        };
        assert_eq!(create.spec.len(), 1 << 20, "by memfd");
        let result = response::Result::Created(v1::Created { pid: 42 });
        played.answer(seq, result, &[null().as_fd()]);
    });
    assert_eq!(created.unwrap().pid, 42);
    // Without its descriptor it is no answer.
    let (created, ()) = tokio::join!(shim.create(v1::Create::default()), async {
        let (seq, _, _) = played.next().await.unwrap();
        played.answer(seq, response::Result::Created(v1::Created { pid: 42 }), &[]);
    });
    assert!(matches!(
        created,
        Err(ShimError::Mismatch {
            operation: "create",
            ..
        })
    ));
}

#[tokio::test]
async fn the_exit_is_seen_by_who_looks_later() {
    let (shim, played, _tasks) = connected();
    assert_eq!(*shim.exited().borrow(), None);
    played.event(event::Kind::Exited(exit(137)));
    let mut exited = shim.exited();
    let seen = exited.wait_for(Option::is_some).await.unwrap().clone();
    assert_eq!(seen, Some(ShimExit::Exited(exit(137))));
    // The shim ends itself afterwards: that is no loss.
    drop(played);
    let lost = shim.start().await.unwrap_err();
    assert!(
        matches!(
            lost,
            ShimError::Lost {
                operation: "start",
                ..
            }
        ),
        "{lost:?}"
    );
    assert_eq!(*shim.exited().borrow(), Some(ShimExit::Exited(exit(137))));
}

#[tokio::test]
async fn a_shim_that_goes_away_leaves_nobody_waiting() {
    let (shim, played, _tasks) = connected();
    let mut exited = shim.exited();
    let spec = ExecSpec {
        exec_id: "e".to_owned(),
        ..ExecSpec::default()
    };
    let (exec, ()) = tokio::join!(shim.exec(spec), async {
        let (seq, _, _) = played.next().await.unwrap();
        let started = v1::ExecStarted { pid: 7 };
        played.answer(seq, response::Result::ExecStarted(started), &[]);
    });
    let (kill, ()) = tokio::join!(shim.kill(9, true), async {
        played.next().await.unwrap();
        drop(played);
    });
    assert!(matches!(
        kill,
        Err(ShimError::Lost {
            operation: "kill",
            ..
        })
    ));
    assert!(matches!(
        exec.unwrap().exit.await,
        Err(ShimError::Lost { .. })
    ));
    let lost = exited.wait_for(Option::is_some).await.unwrap().clone();
    // No pidfd was known: nothing is claimed.
    assert_eq!(lost, Some(ShimExit::Lost { shim_dead: false }));
    assert!(matches!(shim.state().await, Err(ShimError::Lost { .. })));
}

#[tokio::test]
async fn a_dead_shim_is_told_from_a_closed_connection() {
    let (shim, played, _tasks) = connected();
    let mut child = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let flags = rustix::process::PidfdFlags::empty();
    shim.link
        .set_pidfd(rustix::process::pidfd_open(pid, flags).unwrap());
    drop(played);
    child.kill().unwrap();
    let mut exited = shim.exited();
    let lost = exited.wait_for(Option::is_some).await.unwrap().clone();
    assert_eq!(lost, Some(ShimExit::Lost { shim_dead: true }));
    child.wait().unwrap();
}

#[tokio::test]
async fn the_connection_closes_with_the_last_clone() {
    let (shim, played, tasks) = connected();
    let clone = shim.clone();
    drop(shim);
    let (kill, ()) = tokio::join!(clone.kill(1, false), async {
        let (seq, _, _) = played.next().await.unwrap();
        played.answer(seq, DONE, &[]);
    });
    kill.unwrap();
    drop(clone);
    assert!(played.next().await.is_none());
    tasks.shut_down().await;
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_the_connection_usable() {
    let (shim, played, _tasks) = connected();
    let soon = Duration::from_millis(20);
    assert!(tokio::time::timeout(soon, shim.start()).await.is_err());
    let (late, _, _) = played.next().await.unwrap();
    played.answer(late, DONE, &[]);
    let (kill, ()) = tokio::join!(shim.kill(1, false), async {
        let (seq, _, _) = played.next().await.unwrap();
        assert_ne!(seq, late);
        played.answer(seq, DONE, &[]);
    });
    kill.unwrap();
}

/// Plays an exec: gives the command's ends of stdout and stderr to `command`.
async fn play_exec(played: &Played) -> (String, File, File) {
    let (seq, Op::Exec(exec), fds) = played.next().await.unwrap() else {
        panic!("no exec")
    };
    assert!(exec.stdout && exec.stderr && !exec.stdin && exec.kill_on_disconnect);
    let mut fds = fds.into_iter().map(File::from);
    let (stdout, stderr) = (fds.next().unwrap(), fds.next().unwrap());
    played.answer(
        seq,
        response::Result::ExecStarted(v1::ExecStarted { pid: 7 }),
        &[],
    );
    (exec.exec_id, stdout, stderr)
}

fn command() -> Vec<Vec<u8>> {
    vec![b"true".to_vec()]
}

#[tokio::test]
async fn output_is_collected_up_to_the_cap() {
    let (shim, played, _tasks) = connected();
    let run = exec_sync(&shim, "e".to_owned(), command(), None, 100_000);
    let (output, ()) = tokio::join!(run, async {
        let (id, mut stdout, mut stderr) = play_exec(&played).await;
        // More than a pipe holds: someone must read all the while.
        tokio::task::spawn_blocking(move || {
            stdout.write_all(&vec![b'o'; 1 << 20]).unwrap();
            stderr.write_all(b"\xff\0e").unwrap();
        })
        .await
        .unwrap();
        played.event(exec_exit(&id, 3));
    });
    let output = output.unwrap();
    assert_eq!(output.code, 3);
    assert_eq!(output.stdout, vec![b'o'; 100_000]);
    assert_eq!(output.stderr, b"\xff\0e");
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipes_is_not_waited_for() {
    let (shim, played, _tasks) = connected();
    let before = std::time::Instant::now();
    let run = exec_sync(&shim, "e".to_owned(), command(), None, EXEC_SYNC_CAP);
    let (output, held) = tokio::join!(run, async {
        let (id, mut stdout, stderr) = play_exec(&played).await;
        stdout.write_all(b"said").unwrap();
        played.event(exec_exit(&id, 0));
        (stdout, stderr)
    });
    assert_eq!(output.unwrap().stdout, b"said");
    let took = before.elapsed();
    assert!(
        Duration::from_secs(1) < took && took < Duration::from_secs(4),
        "{took:?}"
    );
    drop(held);
}

#[tokio::test]
async fn a_slow_command_is_killed_and_its_output_kept() {
    let (shim, played, _tasks) = connected();
    let limit = Some(Duration::from_millis(100));
    let run = exec_sync(&shim, "e".to_owned(), command(), limit, EXEC_SYNC_CAP);
    let (output, ()) = tokio::join!(run, async {
        let (id, mut stdout, _stderr) = play_exec(&played).await;
        stdout.write_all(b"partial").unwrap();
        let (seq, Op::KillExec(kill), _) = played.next().await.unwrap() else {
            panic!("no kill")
        };
        assert_eq!((kill.signal, kill.group, &kill.exec_id), (9, true, &id));
        played.answer(seq, DONE, &[]);
        played.event(exec_exit(&id, 137));
    });
    let Err(ExecSyncError::Timeout { output, .. }) = output else {
        panic!("{output:?}")
    };
    assert_eq!(
        (output.stdout.as_slice(), output.code),
        (&b"partial"[..], 137)
    );
}

#[tokio::test]
async fn a_command_whose_caller_goes_away_is_killed() {
    let (shim, played, _tasks) = connected();
    let run = exec_sync(&shim, "e".to_owned(), command(), None, EXEC_SYNC_CAP);
    let limit = tokio::time::timeout(Duration::from_millis(100), run);
    let (gone, _ends) = tokio::join!(limit, play_exec(&played));
    assert!(gone.is_err());
    let (_, Op::KillExec(kill), _) = played.next().await.unwrap() else {
        panic!("no kill")
    };
    assert_eq!((kill.signal, kill.group), (9, true));
}

#[tokio::test]
async fn a_command_whose_caller_goes_away_before_it_started_is_killed() {
    let (shim, played, _tasks) = connected();
    let run = exec_sync(&shim, "e".to_owned(), command(), None, EXEC_SYNC_CAP);
    // The request is out, its answer never comes in the caller's time.
    let gone = tokio::time::timeout(Duration::from_millis(50), run).await;
    assert!(gone.is_err());
    let (_, Op::Exec(_), _ends) = played.next().await.unwrap() else {
        panic!("no exec")
    };
    let next = tokio::time::timeout(Duration::from_secs(5), played.next());
    let (_, Op::KillExec(kill), _) = next.await.unwrap().unwrap() else {
        panic!("no kill")
    };
    assert_eq!((kill.signal, kill.group), (9, true));
}

#[tokio::test]
async fn a_program_that_is_none_is_told_apart() {
    let (shim, played, _tasks) = connected();
    let run = exec_sync(&shim, "e".to_owned(), command(), None, EXEC_SYNC_CAP);
    let (output, ()) = tokio::join!(run, async {
        let (seq, _, _) = played.next().await.unwrap();
        let kind = v1::error::Kind::NotExecutable.into();
        let error = v1::Error {
            kind,
            stage: "execve".to_owned(),
            ..v1::Error::default()
        };
        played.answer(seq, response::Result::Error(error), &[]);
    });
    let Err(ExecSyncError::Shim(error)) = output else {
        panic!("{output:?}")
    };
    assert_eq!(error.refusal(), Some(v1::error::Kind::NotExecutable));
}

#[tokio::test]
async fn an_attached_client_has_the_other_ends() {
    let (shim, played, _tasks) = connected();
    let (streams, ends) = tokio::join!(shim.attach(true, true, false), async {
        let (seq, Op::Attach(attach), fds) = played.next().await.unwrap() else {
            panic!("?")
        };
        assert_eq!(
            (attach.stdin, attach.stdout, attach.stderr),
            (true, true, false)
        );
        played.answer(seq, DONE, &[]);
        fds
    });
    let mut streams = streams.unwrap();
    assert!(streams.stderr.is_none());
    let mut ends = ends.into_iter().map(File::from);
    let (mut stdin, mut stdout) = (ends.next().unwrap(), ends.next().unwrap());
    assert!(ends.next().is_none());
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    streams
        .stdin
        .take()
        .unwrap()
        .write_all(b"typed")
        .await
        .unwrap();
    let mut typed = String::new();
    stdin.read_to_string(&mut typed).unwrap();
    assert_eq!(typed, "typed");
    stdout.write_all(b"shown").unwrap();
    drop(stdout);
    let mut shown = String::new();
    streams
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut shown)
        .await
        .unwrap();
    assert_eq!(shown, "shown");
}
