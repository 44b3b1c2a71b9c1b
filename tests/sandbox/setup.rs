//! A node with the sandbox domain in it, without the rest of the daemon.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use longshore::base::boot::boot_id;
use longshore::base::id::SandboxId;
use longshore::base::tasks::Tasks;
use longshore::cgroup::{CgroupPath, Hierarchies};
use longshore::cni::{Cni, CniConfig, FallbackBridge};
use longshore::netns::Kind;
use longshore::sandbox::model::{
    NamespaceMode, NamespaceOptions, SandboxConfig, SandboxMetadata, UserNamespace,
};
use longshore::sandbox::{
    Bind, HostFiles, Pinning, PodInit, PodInits, SandboxHandle, Sandboxes, SandboxesConfig,
    Starting,
};
use longshore_kit::Node;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// What one run of the daemon has.
pub(crate) struct Daemon {
    pub(crate) sandboxes: Sandboxes,
    pub(crate) cni: Cni,
    pub(crate) tasks: Tasks,
}

/// What stays when a daemon ends.
pub(crate) struct World {
    node: Node,
    pub(crate) dir: PathBuf,
    /// Plugin directories, the first one for scripted plugins.
    pub(crate) bin_dirs: Vec<PathBuf>,
    pub(crate) boot_id: String,
    pub(crate) timeout: Duration,
    pub(crate) fallback: bool,
    /// PID 1 of a pod is started, and nobody hears of it.
    pub(crate) lost_inits: bool,
}

/// Runs `test` in a node, within a runtime whose threads are all in it.
pub(crate) fn in_a_node<F: Future<Output = ()>>(name: &str, test: impl FnOnce(World) -> F + Send) {
    if !nix::unistd::geteuid().is_root() {
        longshore_kit::skip(name, "namespaces need root");
        return;
    }
    let node = Node::new().unwrap();
    let dir = node.dir().to_owned();
    let scripted = dir.join("bin");
    for made in ["bin", "net.d", "root", "state"] {
        std::fs::create_dir_all(dir.join(made)).unwrap();
    }
    let namespaces = node.namespaces().net().try_clone().unwrap();
    let mounts = node.namespaces().mnt().try_clone().unwrap();
    let world = World {
        node,
        dir,
        bin_dirs: vec![scripted, "/usr/lib/cni".into()],
        boot_id: boot_id().unwrap(),
        timeout: Duration::from_secs(20),
        fallback: true,
        lost_inits: false,
    };
    std::thread::scope(|scope| {
        let joined = scope.spawn(move || {
            enter(&namespaces, &mounts);
            // Threads that a thread starts are in its namespaces.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(test(world));
        });
        if let Err(panic) = joined.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn enter(net: &std::fs::File, mnt: &std::fs::File) {
    use nix::sched::{CloneFlags, setns, unshare};
    unshare(CloneFlags::CLONE_FS).unwrap();
    setns(mnt, CloneFlags::CLONE_NEWNS).unwrap();
    setns(net, CloneFlags::CLONE_NEWNET).unwrap();
}

impl World {
    pub(crate) fn instance(&self) -> String {
        self.node
            .name()
            .chars()
            .filter(|c| c.is_ascii_alphanumeric())
            .collect()
    }

    pub(crate) fn netns_dir(&self) -> PathBuf {
        "/run/netns".into()
    }

    pub(crate) fn intents(&self) -> PathBuf {
        self.dir.join("root/network")
    }

    /// Starts the sandbox domain as the daemon does.
    pub(crate) async fn daemon(&self) -> Daemon {
        let tasks = Tasks::new();
        let bridge = FallbackBridge {
            bridge: "lsh0".to_owned(),
            subnet: [10, 99, 0, 0].into(),
            prefix: 24,
        };
        let config = CniConfig {
            conf_dir: self.dir.join("net.d"),
            bin_dirs: self.bin_dirs.clone(),
            fallback: self.fallback.then_some(bridge),
            intents: self.intents(),
            timeout: self.timeout,
        };
        let cni = Cni::open(config, &tasks).unwrap();
        let sandboxes = Sandboxes::open(SandboxesConfig {
            instance: self.instance().parse().unwrap(),
            boot_id: self.boot_id.clone(),
            records: self.dir.join("root/sandboxes"),
            namespaces: self.dir.join("state/ns"),
            shm: self.dir.join("state/shm"),
            netns: self.netns_dir(),
            cni: cni.clone(),
            cgroups: Hierarchies::detect().unwrap(),
            handlers: ["longshore".to_owned()].into(),
            inits: Some(Arc::new(Inits {
                lost: self.lost_inits,
            })),
            host: HostFiles {
                resolv_conf: self.dir.join("resolv.conf"),
                hosts: self.dir.join("hosts"),
            },
            tasks: tasks.clone(),
        })
        .await
        .unwrap();
        Daemon {
            sandboxes,
            cni,
            tasks,
        }
    }

    /// A network configuration of the node's directory.
    pub(crate) fn network(&self, name: &str, plugins: &serde_json::Value) {
        let list = serde_json::json!({"cniVersion": "1.0.0", "name": name, "plugins": plugins});
        let file = self.dir.join("net.d").join(format!("{name}.conflist"));
        std::fs::write(file, list.to_string()).unwrap();
    }

    /// A plugin written in shell. `$CNI_COMMAND` and so on are its environment,
    /// and `$LOG` a file that it may write to.
    pub(crate) fn plugin(&self, name: &str, script: &str) {
        let path = self.dir.join("bin").join(name);
        let log = self.dir.join("plugin.log");
        let text = format!("#!/bin/sh\nLOG={}\n{script}\n", log.display());
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    pub(crate) fn plugin_log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.join("plugin.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Everything that a sandbox could leave, by kind. Empty: nothing is left.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let names = |dir: &Path| -> Vec<String> {
            let Ok(entries) = std::fs::read_dir(dir) else {
                return Vec::new();
            };
            entries
                .map(|e| e.unwrap().path().display().to_string())
                .collect()
        };
        left.extend(names(&self.netns_dir()));
        left.extend(names(&self.dir.join("state/ns")));
        left.extend(names(&self.dir.join("state/shm")));
        left.extend(names(&self.dir.join("root/sandboxes")));
        left.extend(
            names(&self.intents())
                .into_iter()
                .filter(|n| !n.ends_with("leases")),
        );
        let leases = self.intents().join("leases/longshore-bridge");
        let is_address = |n: &String| n.rsplit('/').next().unwrap().starts_with("10.");
        left.extend(names(&leases).into_iter().filter(is_address));
        let links = run("ip", &["-o", "link"]);
        left.extend(
            links
                .lines()
                .filter(|l| l.contains("veth"))
                .map(str::to_owned),
        );
        let rules = run("iptables-save", &["-t", "nat"]);
        let ours = |l: &&str| l.starts_with(":CNI-") && !l.contains(":CNI-HOSTPORT-");
        left.extend(rules.lines().filter(ours).map(str::to_owned));
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let state = self.dir.join("state").display().to_string();
        left.extend(
            mounts
                .lines()
                .filter(|l| l.contains(&state))
                .map(str::to_owned),
        );
        let group = CgroupPath::new(&format!("/longshore-{}", self.instance())).unwrap();
        let groups = Hierarchies::detect().unwrap().dirs(&group);
        left.extend(
            groups
                .iter()
                .filter(|d| d.exists())
                .map(|d| d.display().to_string()),
        );
        left
    }
}

impl Daemon {
    /// Ends the daemon the orderly way.
    pub(crate) async fn stop(self) {
        self.tasks.shut_down().await;
    }

    pub(crate) async fn run(&self, config: &SandboxConfig) -> SandboxHandle {
        let id = self.sandboxes.run(config.clone()).await;
        let id = id.unwrap_or_else(|e| panic!("{}", longshore::base::chain::chain(&e)));
        self.sandboxes.get(id.as_str()).unwrap()
    }

    pub(crate) async fn stop_and_remove(&self, id: &SandboxId) {
        self.sandboxes.begin_stop(id).await.unwrap();
        self.sandboxes.finish_stop(id).await.unwrap();
        self.sandboxes.remove(id).await.unwrap();
    }
}

/// A pod as crictl would ask for it, without a shared PID namespace.
pub(crate) fn pod(name: &str) -> SandboxConfig {
    SandboxConfig {
        metadata: SandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        },
        hostname: name.to_owned(),
        log_directory: String::new(),
        dns: None,
        port_mappings: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
        cgroup_parent: String::new(),
        namespaces: NamespaceOptions {
            pid: NamespaceMode::Container,
            ..Default::default()
        },
        sysctls: Default::default(),
        privileged: false,
        selinux: None,
        seccomp: None,
        overhead: None,
        resources: None,
        runtime_handler: String::new(),
    }
}

pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {args:?}: {text}{errors}"
    );
    text
}

/// Runs a shell script in the namespaces of a pod.
pub(crate) fn in_pod(pod: &SandboxHandle, script: &str) -> String {
    let view = pod.view();
    let flags = [
        ("--net", &view.namespaces.net),
        ("--ipc", &view.namespaces.ipc),
        ("--uts", &view.namespaces.uts),
    ];
    let mut args: Vec<String> = flags
        .iter()
        .filter_map(|(flag, path)| Some(format!("{flag}={}", path.as_ref()?.display())))
        .collect();
    args.extend(["sh".to_owned(), "-c".to_owned(), script.to_owned()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    run("nsenter", &args).trim().to_owned()
}

/// Waits until `done` is so.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

/// PID 1 of a pod without the shim: unshare(1) forks it.
#[derive(Debug)]
struct Inits {
    lost: bool,
}

impl PodInits for Inits {
    fn start<'a>(
        &'a self,
        _id: &'a SandboxId,
        cgroup: Vec<PathBuf>,
        _userns: Option<PathBuf>,
    ) -> Starting<'a> {
        Box::pin(async move {
            let join = "for procs; do echo 0 > \"$procs\" || exit 1; done; \
                        exec unshare --pid --fork --kill-child sleep 1000000";
            let mut outer = tokio::process::Command::new("sh")
                .args(["-c", join, "sh"])
                .args(cgroup)
                .spawn()?;
            let parent = outer.id().unwrap();
            let children = format!("/proc/{parent}/task/{parent}/children");
            let pid = loop {
                let text = std::fs::read_to_string(&children)?;
                match text.split_whitespace().next() {
                    Some(pid) => break pid.parse::<i32>()?,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            if self.lost {
                return Err(format!("lost {pid}").into());
            }
            let raw = rustix::process::Pid::from_raw(pid).unwrap();
            let pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty())?;
            std::thread::spawn(move || {
                // Reaps unshare(1), which ends with its child.
                let _runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                while matches!(outer.try_wait(), Ok(None)) {
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            Ok(PodInit { pid, pidfd })
        })
    }

    fn has_user_namespaces(&self) -> bool {
        true
    }

    fn pin_userns<'a>(
        &'a self,
        mapping: &'a UserNamespace,
        own: Vec<Kind>,
        bind: Bind,
    ) -> Pinning<'a> {
        Box::pin(async move {
            // unshare(1) keeps its capabilities while nobody is mapped yet.
            let own: Vec<_> = own
                .iter()
                .map(|kind| format!("--{}", kind.name()))
                .collect();
            let inner = format!(
                "echo user; read mapped; exec unshare {} sh -c 'echo all; read bound'",
                own.join(" ")
            );
            let mut child = tokio::process::Command::new("unshare")
                .args(["--user", "--keep-caps", "sh", "-c", &inner])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let mut words = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut answers = child.stdin.take().unwrap();
            assert_eq!(words.next_line().await?.as_deref(), Some("user"));
            let process = PathBuf::from(format!("/proc/{}", child.id().unwrap()));
            for (file, map) in [("uid_map", &mapping.uid), ("gid_map", &mapping.gid)] {
                let line = format!("{} {} {}\n", map.container_id, map.host_id, map.length);
                std::fs::write(process.join(file), line)?;
            }
            answers.write_all(b"\n").await?;
            assert_eq!(words.next_line().await?.as_deref(), Some("all"));
            bind(&process.join("ns"))?;
            answers.write_all(b"\n").await?;
            child.wait().await?;
            Ok(())
        })
    }
}
