use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use nix::unistd::pipe2;

use super::*;
use crate::exec::open_slave;

const LONG: Duration = Duration::from_secs(5);

/// A container's stdio, with the container's side played by the test.
struct Played {
    directory: tempfile::TempDir,
    stdio: Stdio,
    stdin: File,
    stdout: File,
    stderr: File,
}

impl Played {
    fn pipes(config: v1::Stdio) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log_path = directory
            .path()
            .join("pod/0.log")
            .to_str()
            .unwrap()
            .to_owned();
        let config = v1::Stdio { log_path, ..config };
        let mut stdio = Stdio::prepare(&config, (0, 0), directory.path()).unwrap();
        let Some(ChildEnds::Pipes {
            stdin,
            stdout,
            stderr,
        }) = stdio.child_ends()
        else {
            panic!("no pipes")
        };
        let own = |fd: BorrowedFd<'_>| File::from(fd.try_clone_to_owned().unwrap());
        let (stdin, stdout, stderr) = (own(stdin), own(stdout), own(stderr));
        stdio.start_log_thread().unwrap();
        assert!(stdio.child_ends().is_none());
        Self {
            directory,
            stdio,
            stdin,
            stdout,
            stderr,
        }
    }

    /// The log without its times.
    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.directory.path().join("pod/0.log")).unwrap();
        text.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n")
            .collect()
    }

    fn event(&mut self) -> Event {
        next_event(&mut self.stdio)
    }

    fn finish(&mut self) -> bool {
        assert!(self.stdio.finish(Duration::from_secs(2)));
        matches!(self.event(), Event::Finished { complete: true })
    }
}

fn next_event(stdio: &mut Stdio) -> Event {
    for _ in 0..100 {
        let mut fds = [PollFd::new(stdio.events(), PollFlags::POLLIN)];
        assert_eq!(
            poll(&mut fds, PollTimeout::try_from(LONG).unwrap()),
            Ok(1),
            "no event"
        );
        let mut events = stdio.take_events();
        assert!(events.len() < 2, "{events:?}");
        if let Some(event) = events.pop() {
            return event;
        }
    }
    panic!("events() is readable, and there are none");
}

fn pair() -> (File, OwnedFd) {
    let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    (read.into(), write)
}

fn read_up_to(file: &mut File, count: usize) -> String {
    let mut text = vec![0; count];
    file.read_exact(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn ended(file: &mut File) -> bool {
    file.read(&mut [0; 1]).unwrap() == 0
}

#[test]
fn everything_written_before_the_exit_is_logged() {
    let mut played = Played::pipes(v1::Stdio::default());
    played.stdout.write_all(b"one\ntwo").unwrap();
    played.stderr.write_all(b"error\n").unwrap();
    let many = "x\n".repeat(20_000);
    played.stderr.write_all(many.as_bytes()).unwrap();
    // Both ends are still open: a process that outlived init may hold them.
    assert!(played.finish());
    let log = played.log();
    assert!(
        log.starts_with("stdout F one\n") || log.starts_with("stderr F error\n"),
        "{log:.100}"
    );
    assert_eq!(log.matches("stderr F x\n").count(), 20_000);
    assert!(
        log.ends_with("stdout P two\n"),
        "an unfinished line ends the log"
    );
    assert!(matches!(played.stdio.reopen_log(), Err(StdioError::Ended)));
    assert!(played.stdio.take_events().is_empty(), "finished comes once");
}

#[test]
fn a_writer_that_never_stops_does_not_delay_the_end() {
    let mut played = Played::pipes(v1::Stdio::default());
    let mut stdout = played.stdout.try_clone().unwrap();
    let writer = std::thread::spawn(move || while stdout.write_all(&[b'y'; 4096]).is_ok() {});
    let before = Instant::now();
    assert!(played.stdio.finish(Duration::from_millis(300)));
    let Event::Finished { .. } = played.event() else {
        panic!("no end")
    };
    assert!(
        before.elapsed() < Duration::from_secs(2),
        "{:?}",
        before.elapsed()
    );
    // The shim's end is closed: the writer gets EPIPE.
    writer.join().unwrap();
}

#[test]
fn finish_without_a_container() {
    let directory = tempfile::tempdir().unwrap();
    let mut stdio = Stdio::prepare(&v1::Stdio::default(), (0, 0), directory.path()).unwrap();
    assert!(stdio.finish(LONG));
    assert!(matches!(
        next_event(&mut stdio),
        Event::Finished { complete: false }
    ));
}

#[test]
fn after_reopen_nothing_goes_to_the_old_file() {
    let mut played = Played::pipes(v1::Stdio::default());
    let path = played.directory.path().join("pod/0.log");
    let old = played.directory.path().join("pod/0.log.old");
    for round in 0..20 {
        played
            .stdout
            .write_all(format!("before {round}\n").as_bytes())
            .unwrap();
        std::fs::rename(&path, &old).unwrap();
        let ticket = played.stdio.reopen_log().unwrap();
        let Event::LogReopened {
            ticket: answered,
            result,
        } = played.event()
        else {
            panic!("no answer")
        };
        assert_eq!(answered, ticket);
        result.unwrap();
        let old_size = old.metadata().unwrap().len();
        assert!(path.exists());
        played
            .stdout
            .write_all(format!("after {round}\n").as_bytes())
            .unwrap();
        while !std::fs::read_to_string(&path)
            .unwrap()
            .contains(&format!("after {round}\n"))
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(old.metadata().unwrap().len(), old_size);
    }
}

#[test]
fn a_log_that_cannot_be_reopened_goes_on() {
    let mut played = Played::pipes(v1::Stdio::default());
    let path = played.directory.path().join("pod/0.log");
    let old = played.directory.path().join("pod/0.log.old");
    std::fs::rename(&path, &old).unwrap();
    std::fs::create_dir(&path).unwrap();
    played.stdio.reopen_log().unwrap();
    let Event::LogReopened { result, .. } = played.event() else {
        panic!("no answer")
    };
    assert_eq!(result.unwrap_err().errno(), libc::EISDIR);
    played.stdout.write_all(b"still here\n").unwrap();
    assert!(played.finish());
    assert!(
        std::fs::read_to_string(&old)
            .unwrap()
            .ends_with(" stdout F still here\n")
    );
}

#[test]
fn clients_get_new_output_only_and_each_its_own_copy() {
    let mut played = Played::pipes(v1::Stdio::default());
    played.stdout.write_all(b"old\n").unwrap();
    while !played.log().contains("old") {
        std::thread::sleep(Duration::from_millis(1));
    }
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let ((out, stdout), (err, stderr)) = (pair(), pair());
            let (stdout, stderr) = (Some(stdout), Some(stderr));
            played
                .stdio
                .attach(AttachDescriptors {
                    stdin: None,
                    stdout,
                    stderr,
                })
                .unwrap();
            (out, err)
        })
        .collect();
    // Commands and output come to the thread on different ways.
    played.stdio.reopen_log().unwrap();
    played.event();
    played.stdout.write_all(b"new\n").unwrap();
    played.stderr.write_all(b"bad\n").unwrap();
    assert!(played.finish());
    for (mut out, mut err) in clients {
        assert_eq!(read_up_to(&mut out, 4), "new\n");
        assert_eq!(read_up_to(&mut err, 4), "bad\n");
        assert!(ended(&mut out) && ended(&mut err), "the end is passed on");
    }
}

#[test]
fn a_client_that_does_not_read_stops_nobody() {
    let mut played = Played::pipes(v1::Stdio::default());
    let (slow, stdout) = pair();
    let attached = AttachDescriptors {
        stdout: Some(stdout),
        ..AttachDescriptors::default()
    };
    played.stdio.attach(attached).unwrap();
    let total = 8 << 20;
    played
        .stdout
        .write_all("z\n".repeat(total / 2).as_bytes())
        .unwrap();
    drop(slow);
    played.stdout.write_all(b"end\n").unwrap();
    assert!(played.finish());
    let log = played.log();
    assert_eq!(log.matches("stdout F z\n").count(), total / 2);
    assert!(log.ends_with("stdout F end\n"));
}

#[test]
fn stdin_goes_to_the_container_and_stays_open() {
    let mut played = Played::pipes(v1::Stdio {
        stdin: true,
        ..v1::Stdio::default()
    });
    for word in ["first", "other"] {
        let (stdin, mut typed) = {
            let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
            (read, File::from(write))
        };
        let client = AttachDescriptors {
            stdin: Some(stdin),
            ..AttachDescriptors::default()
        };
        played.stdio.attach(client).unwrap();
        typed.write_all(word.as_bytes()).unwrap();
        drop(typed);
        assert_eq!(read_up_to(&mut played.stdin, 5), word);
    }
    let mut fds = [PollFd::new(played.stdin.as_fd(), PollFlags::POLLIN)];
    assert_eq!(
        poll(&mut fds, PollTimeout::from(100_u8)),
        Ok(0),
        "stdin has ended"
    );
}

#[test]
fn stdin_once_ends_with_the_client_after_all_was_taken() {
    let config = v1::Stdio {
        stdin: true,
        stdin_once: true,
        ..v1::Stdio::default()
    };
    let mut played = Played::pipes(config);
    let (stdin, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let client = AttachDescriptors {
        stdin: Some(stdin),
        ..AttachDescriptors::default()
    };
    played.stdio.attach(client).unwrap();
    let size = 1 << 20;
    let typing = std::thread::spawn(move || File::from(write).write_all(&vec![b'q'; size]));
    std::thread::sleep(Duration::from_millis(50));
    let mut all = Vec::new();
    played.stdin.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), size);
    typing.join().unwrap().unwrap();
}

#[test]
fn without_stdin_it_is_null() {
    let mut played = Played::pipes(v1::Stdio::default());
    assert!(ended(&mut played.stdin));
}

#[test]
fn pipes_are_the_users() {
    let directory = tempfile::tempdir().unwrap();
    let config = v1::Stdio {
        stdin: true,
        ..v1::Stdio::default()
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can give pipes away");
        return;
    }
    let stdio = Stdio::prepare(&config, (1000, 2000), directory.path()).unwrap();
    let Some(ChildEnds::Pipes {
        stdin,
        stdout,
        stderr,
    }) = stdio.child_ends()
    else {
        panic!("no pipes")
    };
    for fd in [stdin, stdout, stderr] {
        let metadata = File::from(fd.try_clone_to_owned().unwrap())
            .metadata()
            .unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (1000, 2000));
        assert_eq!(metadata.mode() & 0o777, 0o600);
    }
}

/// Plays libcontainer: sends a new pty's master to the console socket.
fn send_master(path: &Path) -> OwnedFd {
    use std::os::fd::AsRawFd;
    let pty = nix::pty::openpty(None, None).unwrap();
    let connection = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    let directory = File::open(path.parent().unwrap()).unwrap();
    let short = format!("/proc/self/fd/{}/console.sock", directory.as_raw_fd());
    connect(
        connection.as_raw_fd(),
        &UnixAddr::new(short.as_str()).unwrap(),
    )
    .unwrap();
    let fds = [pty.master.as_raw_fd()];
    let name = [std::io::IoSlice::new(b"/dev/ptmx")];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<UnixAddr>(
        connection.as_raw_fd(),
        &name,
        &rights,
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    pty.slave
}

#[test]
fn a_terminal_from_a_long_path() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("d".repeat(200));
    std::fs::create_dir(&deep).unwrap();
    let log = directory.path().join("tty.log");
    let config = v1::Stdio {
        tty: true,
        stdin: true,
        log_path: log.to_str().unwrap().to_owned(),
        ..v1::Stdio::default()
    };
    let mut stdio = Stdio::prepare(&config, (0, 0), &deep).unwrap();
    let Some(ChildEnds::Console(path)) = stdio.child_ends() else {
        panic!("no console")
    };
    let path = path.to_owned();
    let slave = send_master(&path);
    stdio.start_log_thread().unwrap();
    assert!(!path.exists(), "the socket is removed");
    stdio.resize(132, 43).unwrap();
    assert!(matches!(
        stdio.resize(0, 43),
        Err(StdioError::TerminalSize { .. })
    ));
    assert!(matches!(
        stdio.resize(70_000, 43),
        Err(StdioError::TerminalSize { .. })
    ));

    let (stdin, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let client = AttachDescriptors {
        stdin: Some(stdin),
        ..AttachDescriptors::default()
    };
    stdio.attach(client).unwrap();
    File::from(write).write_all(b"typed\n").unwrap();
    let mut slave = File::from(slave);
    assert_eq!(read_up_to(&mut slave, 6), "typed\n");

    // The container closes its terminal for a while: that is no end.
    slave.write_all(b"before\n").unwrap();
    drop(slave);
    let Phase::Running {
        master: Some(master),
    } = &stdio.phase
    else {
        panic!("no master")
    };
    let mut again = File::from(open_slave(master.as_fd()).unwrap());
    again.write_all(b"after").unwrap();
    drop(again);
    let before = Instant::now();
    assert!(stdio.finish(Duration::from_secs(2)));
    assert!(matches!(
        next_event(&mut stdio),
        Event::Finished { complete: true }
    ));
    assert!(before.elapsed() < Duration::from_secs(1));
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains(" stdout F before\n"), "{text}");
    assert!(text.ends_with(" stdout P after\n"), "{text}");
}

#[test]
fn a_worker_that_sent_no_master() {
    let directory = tempfile::tempdir().unwrap();
    let config = v1::Stdio {
        tty: true,
        ..v1::Stdio::default()
    };
    let mut stdio = Stdio::prepare(&config, (0, 0), directory.path()).unwrap();
    assert!(matches!(
        stdio.start_log_thread(),
        Err(StdioError::NoMaster)
    ));
}

#[test]
fn a_log_thread_that_ended_by_itself_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut stdio = Stdio::prepare(&v1::Stdio::default(), (0, 0), directory.path()).unwrap();
    let Phase::Pipes { pipes, .. } = &mut stdio.phase else {
        panic!("no pipes")
    };
    // epoll refuses a regular file, so the thread ends before it begins.
    pipes.stdout = File::create(directory.path().join("file")).unwrap().into();
    stdio.start_log_thread().unwrap();
    let event = next_event(&mut stdio);
    assert!(
        matches!(event, Event::Finished { complete: false }),
        "{event:?}"
    );
    assert!(!stdio.finish(LONG), "there is no second event");
}
