//! The modes beside `serve`: PID 1 of a pod, and pinned user namespaces.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use longshore_shim::pin;
use longshore_shim::sys;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde_json::json;

use crate::harness::{Node, Shim, binary, no_mkdir, root, shell, volume, wait_for};

fn spawn(args: &[&str]) -> (Child, OwnedFd) {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let child = Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" \"$@\" 3<&0 </dev/null"])
        .arg(binary())
        .args(args)
        .stdin(Stdio::from(theirs))
        .spawn()
        .unwrap();
    (child, ours)
}

fn byte(socket: &OwnedFd) -> u8 {
    let mut buffer = [0; 64];
    let (n, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()).unwrap();
    assert_eq!(n, 1, "{}", String::from_utf8_lossy(&buffer));
    buffer[0]
}

/// Pins user, net, ipc and uts namespaces below `dir`, mapped to 100000.
fn pinned(dir: &Path) -> Vec<PathBuf> {
    fs::create_dir_all(dir).unwrap();
    let (mut child, socket) = spawn(&["pin", "--net", "--ipc", "--uts"]);
    assert_eq!(byte(&socket), pin::USER_READY);
    let pid = child.id();
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), "0 100000 65536").unwrap();
    }
    rustix::net::send(&socket, &[pin::MAPPED], SendFlags::empty()).unwrap();
    assert_eq!(byte(&socket), pin::READY);
    let mut files = Vec::new();
    for name in ["user", "net", "ipc", "uts"] {
        let file = dir.join(name);
        fs::write(&file, "").unwrap();
        let source = format!("/proc/{pid}/ns/{name}");
        mount(
            Some(source.as_str()),
            &file,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
        files.push(file);
    }
    rustix::net::send(&socket, &[pin::END], SendFlags::empty()).unwrap();
    assert!(child.wait().unwrap().success());
    files
}

fn in_user_namespace(shim: &Shim, n: usize, files: &[PathBuf], source: &Path) -> serde_json::Value {
    let mut spec = shell(
        shim,
        "cat /proc/self/uid_map; id -u; stat -c 'owner %u' /bin/busybox /vol; \
             touch /vol/made$N /made; stat -c 'mine %u' /vol/made$N /made /proc/self/fd/1; \
             stat -c 'mq %u' /dev/mqueue; mkdir /tmp/q || echo refused; \
             echo done; sleep 100",
    );
    spec["process"]["env"] = json!(["PATH=/bin", format!("N={n}")]);
    spec["linux"]["namespaces"] = json!([
        {"type": "user", "path": files[0]}, {"type": "network", "path": files[1]},
        {"type": "ipc", "path": files[2]}, {"type": "uts", "path": files[3]},
        {"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}
    ]);
    spec.as_object_mut().unwrap().remove("hostname");
    let maps = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    spec["linux"]["uidMappings"] = maps.clone();
    spec["linux"]["gidMappings"] = maps.clone();
    volume(&mut spec, source, "/vol", &["rbind", "rprivate", "idmap"]);
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.last_mut().unwrap()["uidMappings"] = maps.clone();
    mounts.last_mut().unwrap()["gidMappings"] = maps;
    spec
}

#[test]
fn containers_join_a_pinned_user_namespace() {
    if !root() {
        return;
    }
    let node = Node::new();
    let files = pinned(&node.path("ns"));
    let before = node.mountinfo();
    let source = node.path("volume");
    fs::create_dir(&source).unwrap();
    let mut shims = Vec::new();
    for n in 0..2 {
        let mut shim = Shim::start(&node);
        shim.filter = no_mkdir();
        shim.idmap_userns = files[0].display().to_string();
        let spec = in_user_namespace(&shim, n, &files, &source);
        shim.up(&spec);
        shims.push(shim);
    }
    for (n, mut shim) in shims.into_iter().enumerate() {
        let log = shim.log_with("done");
        assert!(log.contains("100000      65536"), "{log}");
        assert_eq!(
            log.matches("owner 0").count(),
            2,
            "layers and volume are root's inside: {log}"
        );
        assert_eq!(log.matches("mine 0").count(), 3, "{log}");
        assert!(log.contains("mq 0") && log.contains("refused"), "{log}");
        let made = fs::metadata(source.join(format!("made{n}"))).unwrap();
        assert_eq!(made.uid(), 0, "the volume maps back");
        let upper = fs::metadata(shim.dir.join("upper/made")).unwrap();
        assert_eq!(upper.uid(), 100_000, "the upper does not");
        let (code, map) = shim.exec(&["cat", "/proc/self/uid_map"]);
        assert_eq!(code, 0);
        assert!(map.contains("100000"), "an exec joins it too: {map}");
        shim.kill(libc::SIGKILL);
        shim.exited();
        shim.collect();
    }
    assert_eq!(node.mountinfo(), before);
    for file in files {
        umount2(&file, MntFlags::empty()).unwrap();
    }
}

#[test]
fn pin_tells_what_went_wrong_and_ends_with_the_daemon() {
    if !root() {
        return;
    }
    let (mut child, socket) = spawn(&["pin", "--net"]);
    assert_eq!(byte(&socket), pin::USER_READY);
    // Without maps it can't become root.
    rustix::net::send(&socket, &[pin::MAPPED], SendFlags::empty()).unwrap();
    let mut buffer = [0; 64];
    let (n, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()).unwrap();
    assert_eq!(buffer[0], pin::FAILED);
    assert_eq!(
        i32::from_ne_bytes(buffer[1..5].try_into().unwrap()),
        libc::EINVAL
    );
    assert_eq!(&buffer[5..n], b"setresgid");
    assert!(!child.wait().unwrap().success());
    let (mut child, socket) = spawn(&["pin"]);
    assert_eq!(byte(&socket), pin::USER_READY);
    drop(socket);
    assert!(child.wait().unwrap().success());
}

/// PID 1 of a pod, which does not outlive the test.
struct PodInit {
    pid: i32,
    pidfd: OwnedFd,
}

impl Drop for PodInit {
    fn drop(&mut self) {
        drop(sys::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL));
    }
}

/// Starts `init` and takes what it sends.
fn pod_init(args: &[&str]) -> PodInit {
    let (mut child, socket) = spawn(args);
    let mut buffer = [0; 64];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let iov = &mut [std::io::IoSliceMut::new(&mut buffer)];
    let got = rustix::net::recvmsg(&socket, iov, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    assert_eq!(got.bytes, 4, "{}", String::from_utf8_lossy(&buffer));
    let mut pidfd = None;
    for item in control.drain() {
        if let rustix::net::RecvAncillaryMessage::ScmRights(mut fds) = item {
            pidfd = fds.next();
        }
    }
    assert!(child.wait().unwrap().success(), "the starter ends");
    PodInit {
        pid: i32::from_ne_bytes(buffer[..4].try_into().unwrap()),
        pidfd: pidfd.unwrap(),
    }
}

fn field(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")))
        .unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

#[test]
fn a_pod_init_reaps_for_its_containers_and_ends_when_told() {
    if !root() {
        return;
    }
    let node = Node::new();
    let before = node.mountinfo();
    let init = pod_init(&["init", "--ready-fd", "3"]);
    let pid = init.pid;
    assert_eq!(field(pid, "NSpid"), format!("{pid}\t1"));
    assert_eq!(field(pid, "CapEff"), "0000000000000000");
    assert_eq!(field(pid, "CapBnd"), "0000000000000000");
    wait_for("its last descriptors closed", || {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        (fds.count() == 4).then_some(())
    });
    let mut rollup = String::new();
    fs::File::open(format!("/proc/{pid}/smaps_rollup"))
        .unwrap()
        .read_to_string(&mut rollup)
        .unwrap();
    println!(
        "pod init: {}",
        rollup.lines().find(|l| l.starts_with("Pss:")).unwrap()
    );

    let mut shims: Vec<Shim> = Vec::new();
    for n in 0..2 {
        let mut shim = Shim::start(&node);
        let script = format!("(sleep 0.1; exit 0) & echo n{n}; exec sleep 7{n}");
        let mut spec = shell(&shim, &script);
        let path = format!("/proc/{pid}/ns/pid");
        spec["linux"]["namespaces"][0] = json!({"type": "pid", "path": path});
        shim.up(&spec);
        shims.push(shim);
    }
    let (_, ps) = shims[0].exec(&["ps", "-o", "pid,args"]);
    assert!(ps.contains("sleep 70"), "{ps}");
    wait_for("the sibling", || {
        let (_, ps) = shims[0].exec(&["ps", "-o", "pid,args"]);
        ps.contains("sleep 71").then_some(())
    });
    // A container's death leaves the other and PID 1 alone.
    for mut shim in shims {
        shim.kill(libc::SIGKILL);
        assert_eq!(shim.exited().code, 137);
        shim.collect();
    }
    let children = format!("/proc/{pid}/task/{pid}/children");
    wait_for("no zombies", || {
        fs::read_to_string(&children)
            .unwrap()
            .trim()
            .is_empty()
            .then_some(())
    });
    sys::pidfd_signal(init.pidfd.as_fd(), libc::SIGTERM).unwrap();
    wait_for("its end", || {
        (!Path::new(&format!("/proc/{pid}/ns/pid")).exists()).then_some(())
    });
    assert_eq!(node.mountinfo(), before);
}

#[test]
fn a_container_that_may_trace_finds_nothing_of_the_host_through_pid_1() {
    if !root() {
        return;
    }
    let node = Node::new();
    let files = pinned(node.dir.path());
    let user = files[0].display().to_string();
    for more in [vec![], vec!["--user", user.as_str()]] {
        let init = pod_init(&[vec!["init", "--ready-fd", "3"], more].concat());
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", init.pid)).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
    }
    let init = pod_init(&["init", "--ready-fd", "3"]);
    let mut shim = Shim::start(&node);
    let mut spec = shell(&shim, "ls -a /proc/1/root/ /proc/1/cwd/ && echo listed");
    let path = format!("/proc/{}/ns/pid", init.pid);
    spec["linux"]["namespaces"][0] = json!({"type": "pid", "path": path});
    for set in ["bounding", "effective", "permitted"] {
        let caps = spec["process"]["capabilities"][set].as_array_mut().unwrap();
        caps.push(json!("CAP_SYS_PTRACE"));
    }
    let (exited, log) = shim.run(&spec);
    assert_eq!(exited.code, 0, "{log}");
    for line in log.lines() {
        let known = ["", ".", "..", "/proc/1/root/:", "/proc/1/cwd/:", "listed"];
        assert!(known.contains(&line), "{log}");
    }
    shim.collect();
    for file in files {
        umount2(&file, MntFlags::empty()).unwrap();
    }
}

fn rollup(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Of ten, as on a node: what they share counts a tenth for each.
#[test]
fn memory_of_idle_shims() {
    const SHIMS: u64 = 10;
    if !root() {
        return;
    }
    let node = Node::new();
    let shims: Vec<Shim> = (0..SHIMS)
        .map(|_| {
            let mut shim = Shim::start(&node);
            let spec = shell(&shim, "sleep 100");
            shim.up(&spec);
            shim
        })
        .collect();
    let mean = |field| {
        shims
            .iter()
            .map(|shim| rollup(shim.process.id(), field))
            .sum::<u64>()
            / SHIMS
    };
    let (pss, dirty) = (mean("Pss:"), mean("Private_Dirty:"));
    println!("idle shim after create: PSS {pss} KiB, private dirty {dirty} KiB");
    // Only the static, optimised build is what is shipped.
    if fs::metadata(binary()).unwrap().len() < 8 << 20 {
        assert!(pss < 512, "{pss} KiB");
    }
    for mut shim in shims {
        shim.kill(libc::SIGKILL);
        shim.exited();
        shim.collect();
    }
}
