//! An exec'd process equals init. Init is made by another runtime (runc), so
//! that a mistake that create and exec share can't hide.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod description;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use description::wait_for_sleep;
use longshore_proto::shim::v1::error::Kind;
use longshore_shim::exec::{
    Capture, Context, Descriptors, ExecError, ExecRequest, Spawned, Step, spawn,
};
use longshore_shim::seccomp;
use oci_spec::runtime::Process;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use serde_json::{Value, json};

const FIRST_HOST_ID: u32 = 100_000;
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// None, with the reason printed, where these tests can't run.
fn able() -> Option<()> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: making containers needs root");
        return None;
    }
    if Command::new("runc").arg("--version").output().is_err() {
        eprintln!("skipped: runc is not installed; it makes the init to compare with");
        return None;
    }
    Some(())
}

/// What a container is like.
#[derive(Clone, Debug)]
struct Case {
    uid: u32,
    ambient: bool,
    no_new_privileges: bool,
    seccomp: bool,
    userns: bool,
    devpts: bool,
    cwd: &'static str,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            uid: 0,
            ambient: false,
            no_new_privileges: false,
            seccomp: true,
            userns: false,
            devpts: true,
            cwd: "/work",
        }
    }
}

impl Case {
    fn process(&self) -> Value {
        let all = json!(DEFAULT_CAPABILITIES);
        let raised: &[&str] = if self.ambient {
            &["CAP_NET_BIND_SERVICE"]
        } else {
            &[]
        };
        json!({
            "terminal": false,
            "user": {"uid": self.uid, "gid": self.uid, "additionalGids": [7, 2000], "umask": 23},
            "args": ["sleep", "600"],
            "env": ["PATH=/usr/bin:/bin", "COLOUR=blue"],
            "cwd": self.cwd,
            "capabilities": {"bounding": all, "effective": all, "permitted": all,
                "inheritable": raised, "ambient": raised},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 600},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
            "noNewPrivileges": self.no_new_privileges,
            "oomScoreAdj": 555
        })
    }

    fn profile() -> Value {
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["swapon", "reboot"], "action": "SCMP_ACT_ERRNO"}]})
    }

    fn spec(&self, cgroup: &str) -> Value {
        let mut namespaces = vec!["pid", "mount", "ipc", "uts", "network", "cgroup"];
        if self.userns {
            namespaces.push("user");
        }
        let namespaces: Vec<_> = namespaces
            .iter()
            .map(|kind| json!({"type": kind}))
            .collect();
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "mode=755"]}),
        ];
        if self.devpts {
            mounts.push(
                json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
            );
        }
        let mut linux = json!({"namespaces": namespaces, "cgroupsPath": cgroup,
            "resources": {"memory": {"limit": 268_435_456}, "pids": {"limit": 50}}});
        if self.seccomp {
            linux["seccomp"] = Self::profile();
        }
        if self.userns {
            let map = json!([{"containerID": 0, "hostID": FIRST_HOST_ID, "size": 65536}]);
            linux["uidMappings"] = map.clone();
            linux["gidMappings"] = map;
        }
        json!({"ociVersion": "1.0.2", "process": self.process(), "hostname": "test",
            "root": {"path": "rootfs", "readonly": false}, "mounts": mounts, "linux": linux})
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A running container of runc's, and the context captured before its start.
struct Container {
    directory: tempfile::TempDir,
    id: String,
    pid: i32,
    context: Context,
}

impl Container {
    fn new(case: &Case) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("longshore-exec-{}-{number}", std::process::id());
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let rootfs = directory.path().join("rootfs");
        make_rootfs(&rootfs, if case.userns { FIRST_HOST_ID } else { 0 });
        let spec = case.spec(&format!("/{id}"));
        fs::write(directory.path().join("config.json"), spec.to_string()).unwrap();
        let state = directory.path().join("state");
        let pid_file = directory.path().join("pid");
        let runc = |args: &[&str]| {
            let log = File::create(directory.path().join("runc.log")).unwrap();
            let status = Command::new("runc")
                .arg("--root")
                .arg(&state)
                .args(args)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .status()
                .unwrap();
            let log = fs::read_to_string(directory.path().join("runc.log")).unwrap();
            assert!(status.success(), "runc {args:?}: {log}");
        };
        let bundle = directory.path().to_str().unwrap();
        runc(&[
            "create",
            "--bundle",
            bundle,
            "--pid-file",
            pid_file.to_str().unwrap(),
            &id,
        ]);
        let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
        let filter = if case.seccomp {
            let request = json!({"profile": Case::profile()});
            seccomp::compile(&serde_json::from_value(request).unwrap()).unwrap()
        } else {
            Vec::new()
        };
        let process: Process = serde_json::from_value(case.process()).unwrap();
        let context = Context::capture(Capture {
            pid,
            pidfd: pidfd(pid),
            process: &process,
            seccomp_filter: &filter,
            seccomp_flags: 0,
            keyring: None,
        })
        .unwrap();
        runc(&["start", &id]);
        let container = Self {
            directory,
            id,
            pid,
            context,
        };
        wait_for_sleep(container.pid);
        container
    }

    fn exec(&self, args: &[&str]) -> Result<Exec, ExecError> {
        self.exec_with(args, false, Descriptors::default())
    }

    fn exec_with(
        &self,
        args: &[&str],
        tty: bool,
        descriptors: Descriptors,
    ) -> Result<Exec, ExecError> {
        let args = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        spawn(&self.context, &ExecRequest { args, tty }, descriptors).map(Exec)
    }

    /// Runs a program and gives its exit code and output.
    fn output(&self, args: &[&str]) -> (i32, String) {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let stderr = Some(write.try_clone().unwrap());
        let descriptors = Descriptors {
            stdin: None,
            stdout: Some(write),
            stderr,
        };
        let exec = self.exec_with(args, false, descriptors).unwrap();
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        (exec.wait(), text)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let state = self.directory.path().join("state");
        let args = ["delete", "--force", &self.id];
        let done = Command::new("runc")
            .arg("--root")
            .arg(state)
            .args(args)
            .output();
        if !std::thread::panicking() {
            let done = done.unwrap();
            assert!(
                done.status.success(),
                "{}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
    }
}

/// An exec'd process; killed and reaped at the end.
#[derive(Debug)]
struct Exec(Spawned);

impl Exec {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.pid).unwrap()
    }

    fn wait(self) -> i32 {
        let (_, status) = rustix::process::waitpid(Some(self.pid()), WaitOptions::empty())
            .unwrap()
            .unwrap();
        std::mem::forget(self);
        status
            .exit_status()
            .unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        rustix::process::kill_process(self.pid(), Signal::KILL).unwrap();
        rustix::process::waitpid(Some(self.pid()), WaitOptions::empty()).unwrap();
    }
}

fn pidfd(pid: i32) -> OwnedFd {
    rustix::process::pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap()
}

/// Busybox and its libraries.
fn make_rootfs(root: &Path, owner: u32) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"];
    let busybox = busybox
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap();
    for directory in [
        "bin", "usr/bin", "dev", "proc", "etc", "lib", "lib64", "tmp", "work",
    ] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(root.join(directory))
            .unwrap();
    }
    fs::set_permissions(root, PermissionsExt::from_mode(0o755)).unwrap();
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "sleep", "echo", "id", "tty", "stat", "pwd", "true",
    ] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let libraries = Command::new("ldd").arg(busybox).output().unwrap().stdout;
    for word in String::from_utf8(libraries).unwrap().split_whitespace() {
        if word.starts_with('/') {
            let to = root.join(word.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(word, to).unwrap();
        }
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:\n",
    )
    .unwrap();
    fs::write(root.join("bin/closed"), "#!/bin/sh\n").unwrap();
    fs::write(root.join("bin/noise"), "not a program").unwrap();
    fs::set_permissions(root.join("bin/noise"), PermissionsExt::from_mode(0o755)).unwrap();
    let chown = Command::new("chown")
        .args(["-Rh", &format!("{owner}:{owner}")])
        .arg(root)
        .status();
    assert!(chown.unwrap().success());
}

fn assert_equal(case: &Case) {
    if able().is_none() {
        return;
    }
    let container = Container::new(case);
    let exec = container.exec(&["sleep", "600"]).unwrap();
    wait_for_sleep(exec.0.pid);
    let mut init = description::describe(container.pid);
    let ignored = init.get_mut("status SigIgn").unwrap();
    // runc hands on what its caller ignores of the two signals that libc keeps
    // for itself. We don't.
    *ignored = format!(
        "{:016x}",
        u64::from_str_radix(ignored, 16).unwrap() & !(3 << 31)
    );
    let other = description::equal(&init, exec.0.pid);
    // What is equal is also what was asked for.
    let uid = if case.userns { FIRST_HOST_ID } else { 0 } + case.uid;
    assert_eq!(other["status Uid"], format!("{uid}\t{uid}\t{uid}\t{uid}"));
    assert_eq!(
        other["status NoNewPrivs"],
        u8::from(case.no_new_privileges).to_string()
    );
    assert_eq!(
        other["status Seccomp_filters"],
        u8::from(case.seccomp).to_string()
    );
    assert_eq!(other["oom_score_adj"], "555\n");
    assert!(other["cgroup"].contains(&format!(":/{}", container.id)));
}

#[test]
fn root_with_the_default_capabilities() {
    assert_equal(&Case {
        seccomp: false,
        ..Case::default()
    });
}

/// libcontainer's exec loses the filter.
#[test]
fn the_seccomp_filter_is_kept() {
    assert_equal(&Case::default());
}

#[test]
fn a_user_without_new_privileges() {
    assert_equal(&Case {
        uid: 1000,
        no_new_privileges: true,
        ..Case::default()
    });
    assert_equal(&Case {
        uid: 1000,
        no_new_privileges: true,
        seccomp: false,
        ..Case::default()
    });
}

#[test]
fn a_user_with_ambient_capabilities() {
    assert_equal(&Case {
        uid: 1000,
        ambient: true,
        ..Case::default()
    });
    assert_equal(&Case {
        uid: 1000,
        ambient: true,
        seccomp: false,
        ..Case::default()
    });
}

/// libcontainer's exec stays in the host's user namespace.
#[test]
fn the_user_namespace_is_joined() {
    assert_equal(&Case {
        userns: true,
        ..Case::default()
    });
    assert_equal(&Case {
        userns: true,
        uid: 1000,
        ..Case::default()
    });
}

#[test]
fn codes_output_and_path() {
    if able().is_none() {
        return;
    }
    let container = Container::new(&Case {
        uid: 1000,
        ..Case::default()
    });
    assert_eq!(
        container
            .output(&["sh", "-c", "echo out; echo err >&2; exit 7"])
            .0,
        7
    );
    assert_eq!(container.output(&["pwd"]), (0, "/work\n".to_owned()));
    assert_eq!(
        container.output(&["sh", "-c", "echo $HOME$COLOUR"]).1,
        "/home/ublue\n"
    );
    assert_eq!(container.output(&["sh", "-c", "kill -9 $$"]).0, 128 + 9);
    assert_eq!(container.output(&["/bin/id", "-G"]).1, "1000 7 2000\n");
    // A pipe that the user owns can be opened by its name again.
    assert_eq!(
        container
            .output(&["sh", "-c", "echo again > /dev/stdout"])
            .1,
        "again\n"
    );
    assert_eq!(
        container.output(&["cat"]),
        (0, String::new()),
        "stdin is /dev/null"
    );
}

#[test]
fn what_cannot_be_executed() {
    if able().is_none() {
        return;
    }
    let container = Container::new(&Case::default());
    for (program, errno) in [
        ("absent", libc::ENOENT),
        ("/bin/absent", libc::ENOENT),
        ("closed", libc::EACCES),
        ("/work", libc::EACCES),
        ("noise", libc::ENOEXEC),
        ("/bin/sh/x", libc::ENOENT),
    ] {
        let error = container.exec(&[program]).unwrap_err();
        assert_eq!(
            (error.step(), error.errno()),
            (Step::Execve, errno),
            "{program}"
        );
        assert_eq!(error.kind(), Kind::NotExecutable);
    }
    for args in [&[][..], &[""], &["sh\0x"]] {
        assert_eq!(
            container.exec(args).unwrap_err().kind(),
            Kind::Invalid,
            "{args:?}"
        );
    }
    fs::remove_dir(container.directory.path().join("rootfs/work")).unwrap();
    let error = container.exec(&["true"]).unwrap_err();
    assert_eq!(
        (error.step(), error.kind()),
        (Step::WorkingDirectory, Kind::NotExecutable)
    );
    let children = rustix::process::waitpid(None, WaitOptions::NOHANG);
    // Other tests of this process may have children; ours are reaped.
    assert!(!matches!(children, Ok(Some(_))), "{children:?}");
}

#[test]
fn a_container_that_has_ended() {
    if able().is_none() {
        return;
    }
    let container = Container::new(&Case::default());
    let pid = Pid::from_raw(container.pid).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    while fs::exists(format!("/proc/{}/ns/mnt", container.pid)).unwrap()
        && fs::read_link(format!("/proc/{}/ns/mnt", container.pid)).is_ok()
    {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let error = container.exec(&["true"]).unwrap_err();
    assert_eq!(error.kind(), Kind::BadState, "{error:?}");
}

#[test]
fn a_terminal_of_its_own() {
    if able().is_none() {
        return;
    }
    for (userns, uid) in [(false, 1000), (true, 1000), (false, 0)] {
        let container = Container::new(&Case {
            uid,
            userns,
            ..Case::default()
        });
        let script = "tty; echo $TERM; stat -c '%u %g %a' $(tty); echo own > /dev/tty; read x; \
            echo got $x; exit 3";
        let mut exec = container
            .exec_with(&["sh", "-c", script], true, Descriptors::default())
            .unwrap();
        let mut master = File::from(exec.0.pty_master.take().unwrap());
        master.write_all(b"word\n").unwrap();
        let mut text = Vec::new();
        let mut buffer = [0; 1024];
        // EIO is the end of a terminal.
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            text.extend_from_slice(&buffer[..count]);
        }
        let text = String::from_utf8(text)
            .unwrap()
            .replace("\r\n", "\n")
            .replacen("word\n", "", 1);
        let expected = format!("/dev/pts/0\nxterm\n{uid} 5 620\nown\ngot word\n");
        assert_eq!(text, expected, "{userns} {uid}");
        assert_eq!(exec.wait(), 3);
    }
}

/// A container that replaces /dev/pts/ptmx gets no descriptor of the host's.
#[test]
fn a_multiplexer_that_is_none() {
    if able().is_none() {
        return;
    }
    let container = Container::new(&Case {
        devpts: false,
        ..Case::default()
    });
    for setup in [
        "mkdir /dev/pts; echo > /dev/pts/ptmx",
        "rm /dev/pts/ptmx; busybox mkfifo /dev/pts/ptmx",
        "rm /dev/pts/ptmx; busybox ln -s /dev/tty /dev/pts/ptmx",
        "rm /dev/pts/ptmx; busybox ln -s /proc/self/fd/0 /dev/pts/ptmx",
    ] {
        let setup = setup
            .replace("mkdir", "busybox mkdir")
            .replace("rm ", "busybox rm ");
        assert_eq!(container.output(&["sh", "-c", &setup]).0, 0, "{setup}");
        let error = container
            .exec_with(&["true"], true, Descriptors::default())
            .unwrap_err();
        assert_eq!(error.step(), Step::Pty, "{setup}");
    }
}

/// The pod's processes see only the second child; the shim's memory and
/// descriptors are not in it, and its stdio is not the test's.
#[test]
fn nothing_of_the_shim_leaks() {
    if able().is_none() {
        return;
    }
    let secret = File::open("/etc/hostname").unwrap();
    // As descriptors are before anybody marks them.
    rustix::io::fcntl_setfd(&secret, rustix::io::FdFlags::empty()).unwrap();
    let container = Container::new(&Case::default());
    let exec = container.exec(&["sleep", "600"]).unwrap();
    wait_for_sleep(exec.0.pid);
    for fd in fs::read_dir(format!("/proc/{}/fd", exec.0.pid)).unwrap() {
        let fd = fd.unwrap();
        let target = fs::read_link(fd.path()).unwrap();
        assert_eq!(target, Path::new("/dev/null"), "{:?}", fd.file_name());
    }
    // 0, 1 and 2 of this test are pipes or terminals; none of them is there.
    let status = fs::metadata(format!("/proc/{}", exec.0.pid)).unwrap();
    assert_eq!(status.uid(), 0);
}
