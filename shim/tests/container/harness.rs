//! Starts a shim like the daemon does, and asks it.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use longshore_proto::shim::v1::{
    self as proto, Create, Exec, Exited, Kill, Packet, Request, Rootfs, error::Kind, event, packet,
    request::Op, response,
};
use longshore_shim::cgroup::Cgroup;
use longshore_shim::link;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Whether tests of this file can run; says why not.
pub(crate) fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root for namespaces, mounts and cgroups");
    }
    root
}

/// A directory on a private tmpfs in a mount namespace of this thread alone.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
}

impl Node {
    pub(crate) fn new() -> Node {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=0711"),
        )
        .unwrap();
        let node = Node { dir };
        node.image();
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A layer with busybox, its libraries, and a few users.
    fn image(&self) {
        let layer = self.path("layers/base");
        for dir in [
            "bin", "lib", "lib64", "etc", "root", "home/u", "proc", "sys", "dev", "vol",
        ] {
            fs::create_dir_all(layer.join(dir)).unwrap();
        }
        fs::create_dir(layer.join("tmp")).unwrap();
        fs::set_permissions(layer.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
        let ldd = Command::new("ldd").arg("/bin/busybox").output().unwrap();
        for word in String::from_utf8(ldd.stdout).unwrap().split_whitespace() {
            if word.starts_with('/') {
                let to = layer.join(word.trim_start_matches('/'));
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(word, to).unwrap();
            }
        }
        for applet in [
            "sh", "cat", "echo", "id", "sleep", "kill", "grep", "ls", "mkdir", "mount", "umount",
            "touch", "env", "pwd", "stat", "true", "tail", "head", "dd", "chmod", "rmdir", "ps",
        ] {
            symlink("busybox", layer.join("bin").join(applet)).unwrap();
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n";
        fs::write(layer.join("etc/passwd"), passwd).unwrap();
        fs::set_permissions(self.path("layers"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A mount below the node that is shared with what unshares from here.
    pub(crate) fn shared_mount(&self, name: &str) -> PathBuf {
        let dir = self.path(name);
        fs::create_dir_all(&dir).unwrap();
        mount(
            Some("tmpfs"),
            &dir,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        let none = None::<&str>;
        mount(none, &dir, none, MsFlags::MS_SHARED, none).unwrap();
        dir
    }

    pub(crate) fn mountinfo(&self) -> String {
        fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
    }
}

/// A shim with a connection to it.
pub(crate) struct Shim {
    pub(crate) id: String,
    pub(crate) process: Child,
    pub(crate) cgroup: String,
    socket: OwnedFd,
    socket_path: PathBuf,
    pub(crate) dir: PathBuf,
    layers: PathBuf,
    seq: u64,
    events: VecDeque<event::Kind>,
    pub(crate) idmap_userns: String,
    pub(crate) filter: Vec<u8>,
    pub(crate) cgroup_writable: bool,
    pub(crate) stdio: proto::Stdio,
}

pub(crate) type Answer = Result<(response::Result, Vec<OwnedFd>), proto::Error>;

impl Shim {
    pub(crate) fn start(node: &Node) -> Shim {
        Shim::start_with(node, &[])
    }

    pub(crate) fn start_with(node: &Node, more: &[&str]) -> Shim {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("c{n}");
        let dir = node.path(&id);
        for name in ["", "stage", "upper", "work"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        for path in [&dir, &dir.join("stage")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o711)).unwrap();
        }
        let socket_path = dir.join("shim.sock");
        let flags = SocketFlags::CLOEXEC;
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&socket_path).unwrap()).unwrap();
        rustix::net::listen(&listener, 8).unwrap();
        let process = Command::new("/bin/sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 </dev/null"])
            .arg(binary())
            .args(["serve", "--id", &id, "--log-stderr"])
            .args(more)
            .stdin(Stdio::from(listener))
            .spawn()
            .unwrap();
        let socket = connect(&socket_path);
        let log_path = dir.join("log").display().to_string();
        Shim {
            cgroup: format!("/longshore-test-{}-{n}/{id}", std::process::id()),
            id,
            process,
            socket,
            socket_path,
            layers: node.path("layers"),
            dir,
            seq: 0,
            events: VecDeque::new(),
            idmap_userns: String::new(),
            filter: Vec::new(),
            cgroup_writable: false,
            stdio: proto::Stdio {
                log_path,
                ..Default::default()
            },
        }
    }

    /// Another connection in place of this one.
    pub(crate) fn reconnect(&mut self) {
        self.socket = connect(&self.socket_path);
        self.seq = 0;
        self.events.clear();
    }

    /// Closes the connection.
    pub(crate) fn hang_up(&mut self) {
        let (deaf, _) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        self.socket = deaf;
    }

    pub(crate) fn send(&mut self, op: Op, fds: &[BorrowedFd<'_>]) -> u64 {
        self.send_raw_with(Some(op), fds)
    }

    /// Sends a request of an operation that may be unknown.
    pub(crate) fn send_raw(&mut self, op: Option<Op>) -> u64 {
        self.send_raw_with(op, &[])
    }

    fn send_raw_with(&mut self, op: Option<Op>, fds: &[BorrowedFd<'_>]) -> u64 {
        self.seq += 1;
        let request = Request { seq: self.seq, op };
        let packet = Packet {
            kind: Some(packet::Kind::Request(request)),
        };
        link::send(self.socket.as_fd(), &packet, fds).unwrap();
        self.seq
    }

    pub(crate) fn ask(&mut self, op: Op) -> Answer {
        self.ask_with(op, &[])
    }

    pub(crate) fn ask_with(&mut self, op: Op, fds: &[BorrowedFd<'_>]) -> Answer {
        let seq = self.send(op, fds);
        self.answer(seq)
    }

    pub(crate) fn answer(&mut self, seq: u64) -> Answer {
        let (got, answer) = self.any_answer();
        assert_eq!(got, seq);
        answer
    }

    /// The next answer, whatever it answers.
    pub(crate) fn any_answer(&mut self) -> (u64, Answer) {
        loop {
            let received = self.receive();
            match received.packet.kind.unwrap() {
                packet::Kind::Event(event) => self.events.push_back(event.kind.unwrap()),
                packet::Kind::Response(response) => {
                    let answer = match response.result.unwrap() {
                        response::Result::Error(error) => Err(error),
                        result @ (response::Result::Done(_)
                        | response::Result::Created(_)
                        | response::Result::Started(_)
                        | response::Result::ExecStarted(_)
                        | response::Result::State(_)) => Ok((result, received.fds)),
                    };
                    return (response.seq, answer);
                }
                packet::Kind::Request(_) => panic!("a request from the shim"),
            }
        }
    }

    fn receive(&mut self) -> link::Received {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match link::recv(self.socket.as_fd()) {
                Ok(received) => return received,
                Err(link::LinkError::NotReady) => {
                    assert!(Instant::now() < deadline, "the shim does not answer");
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("connection: {error}"),
            }
        }
    }

    pub(crate) fn event(&mut self) -> event::Kind {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        match self.receive().packet.kind.unwrap() {
            packet::Kind::Event(event) => event.kind.unwrap(),
            other @ (packet::Kind::Request(_) | packet::Kind::Response(_)) => {
                panic!("not an event: {other:?}")
            }
        }
    }

    pub(crate) fn exited(&mut self) -> Exited {
        loop {
            if let event::Kind::Exited(exited) = self.event() {
                return exited;
            }
        }
    }

    pub(crate) fn create_request(&self, spec: &Value) -> Create {
        let path = |name: &str| self.dir.join(name).display().to_string();
        Create {
            id: self.id.clone(),
            spec: serde_json::to_vec(spec).unwrap(),
            rootfs: Some(Rootfs {
                lower: vec![
                    self.layers
                        .join("base")
                        .into_os_string()
                        .into_encoded_bytes(),
                ],
                upper: path("upper").into(),
                work: path("work").into(),
                options: vec![],
                idmap_userns: self.idmap_userns.clone(),
            }),
            stage_dir: path("stage"),
            state_dir: path("state"),
            exit_record: path("exit.json"),
            stdio: Some(self.stdio.clone()),
            seccomp_filter: self.filter.clone(),
            seccomp_flags: 0,
            cgroup_writable: self.cgroup_writable,
            record: b"the daemon's record".to_vec(),
        }
    }

    pub(crate) fn create(&mut self, spec: &Value) -> Answer {
        let request = self.create_request(spec);
        self.ask(Op::Create(request))
    }

    pub(crate) fn begin(&mut self) -> Answer {
        self.ask(Op::Start(proto::Start {}))
    }

    /// Creates and starts.
    pub(crate) fn up(&mut self, spec: &Value) {
        self.create(spec).unwrap();
        self.begin().unwrap();
    }

    /// Runs a container to its end: its exit, and what it printed.
    pub(crate) fn run(&mut self, spec: &Value) -> (Exited, String) {
        self.up(spec);
        (self.exited(), self.log())
    }

    pub(crate) fn kill(&mut self, signal: i32) {
        self.ask(Op::Kill(Kill { signal, all: false })).unwrap();
    }

    /// Runs a command in the container: exit code and output.
    pub(crate) fn exec(&mut self, args: &[&str]) -> (i32, String) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let exec_id = format!("e{}", self.seq);
        let exec = Exec {
            exec_id: exec_id.clone(),
            args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        let fds = [writer.as_fd(), writer.as_fd()];
        self.ask_with(Op::Exec(exec), &fds).unwrap();
        drop(writer);
        let mut text = String::new();
        fs::File::from(reader).read_to_string(&mut text).unwrap();
        loop {
            if let event::Kind::ExecExited(exited) = self.event()
                && exited.exec_id == exec_id
            {
                return (exited.code, text);
            }
        }
    }

    pub(crate) fn state(&mut self) -> proto::StateReply {
        match self.ask(Op::State(proto::State {})).unwrap() {
            (response::Result::State(reply), _) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// The content of the log, without times and tags.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.splitn(4, ' ').nth(3))
            .map(|l| format!("{l}\n"))
            .collect()
    }

    /// Waits until the log holds `text`.
    pub(crate) fn log_with(&self, text: &str) -> String {
        wait_for(&format!("{text:?} in the log"), || {
            Some(self.log()).filter(|log| log.contains(text))
        })
    }

    /// Collects, and asserts that nothing is left.
    pub(crate) fn collect(mut self) {
        self.ask(Op::Collect(proto::Collect {})).unwrap();
        let status = wait_for("the shim's end", || self.process.try_wait().unwrap());
        assert!(status.success(), "{status}");
        self.assert_clean();
        assert!(!self.dir.join("stage").exists(), "stage directory left");
    }

    pub(crate) fn assert_clean(&self) {
        let cgroup = Cgroup::new(Path::new(&self.cgroup)).unwrap();
        assert_eq!(cgroup.procs_files(), Vec::<PathBuf>::new(), "cgroups left");
        let left = fs::read_dir(self.dir.join("state")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "state left");
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let cgroup = Cgroup::new(Path::new(&self.cgroup)).unwrap();
        drop(cgroup.kill());
        drop(self.process.kill());
        drop(self.process.wait());
        drop(cgroup.kill());
        drop(cgroup.remove());
        let parent = Path::new(&self.cgroup).parent().unwrap();
        drop(Cgroup::new(parent).unwrap().remove());
    }
}

/// The shim to test: `LONGSHORE_SHIM`, such as the static build that is
/// shipped, or the one that cargo has just built.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("LONGSHORE_SHIM").map_or_else(
        || env!("CARGO_BIN_EXE_longshore-shim").into(),
        PathBuf::from,
    )
}

fn connect(path: &Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// Polls until there is a value.
pub(crate) fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(Instant::now() < deadline, "no {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A spec as a CRI runtime writes it, for `args`.
pub(crate) fn spec(shim: &Shim, args: &[&str]) -> Value {
    let caps = json!([
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
        "CAP_AUDIT_WRITE"
    ]);
    let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "hostname": "test",
        "root": {"path": "ignored", "readonly": false},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": false,
            "oomScoreAdj": 500
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
        ],
        "linux": {
            "cgroupsPath": shim.cgroup,
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "network"}, {"type": "cgroup"}
            ],
            "resources": {"memory": {"limit": 67_108_864}},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

pub(crate) fn shell(shim: &Shim, script: &str) -> Value {
    spec(shim, &["sh", "-c", script])
}

/// Adds a bind mount.
pub(crate) fn volume(spec: &mut Value, source: &Path, at: &str, options: &[&str]) {
    let mount = json!({
        "destination": at, "type": "bind", "source": source.display().to_string(), "options": options
    });
    spec["mounts"].as_array_mut().unwrap().push(mount);
}

/// A filter that refuses mkdir(2) and mkdirat(2) and allows all else.
pub(crate) fn no_mkdir() -> Vec<u8> {
    let (load, equal, give) = (0x20_u16, 0x15_u16, 0x06_u16);
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap();
    let number = |call: libc::c_long| u32::try_from(call).unwrap();
    let program = [
        (load, 0_u8, 0_u8, 0_u32),
        (equal, 2, 0, number(libc::SYS_mkdir)),
        (equal, 1, 0, number(libc::SYS_mkdirat)),
        (give, 0, 0, libc::SECCOMP_RET_ALLOW),
        (give, 0, 0, refuse),
    ];
    let mut bytes = Vec::new();
    for (code, jt, jf, k) in program {
        bytes.write_all(&code.to_ne_bytes()).unwrap();
        bytes.extend([jt, jf]);
        bytes.extend(k.to_ne_bytes());
    }
    bytes
}

pub(crate) fn kind(answer: Answer) -> Kind {
    answer.unwrap_err().kind()
}
