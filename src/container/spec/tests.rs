//! Golden specs: each case's result is a JSON file in `golden/`, its lists in
//! the order that matters and its sets sorted. `LONGSHORE_BLESS=1` rewrites them;
//! the diff is then what a reviewer reads.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::container::model::{
    Capabilities, ContainerMetadata, Device, GroupsPolicy, ImageSpec, Mount as Volume, Propagation,
    SecurityContext,
};
use crate::sandbox::model::{
    IdMapping, NamespaceMode, NamespaceOptions, Resources, SandboxMetadata, SecurityProfile,
    SelinuxOptions, UserNamespace,
};
use oci_spec::runtime::Capability;

/// Everything a case may change.
struct Case {
    config: ContainerConfig,
    sandbox: SandboxConfig,
    image: ImageFacts,
    host: HostFacts,
    sources: Vec<Source>,
    devices: Vec<DeviceNode>,
    passwd: &'static str,
    group: &'static str,
    shared_pid: bool,
    target: Option<&'static str>,
}

fn config() -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata {
            name: "web".into(),
            attempt: 0,
        },
        image: ImageSpec {
            image: "busybox".into(),
            ..ImageSpec::default()
        },
        command: Vec::new(),
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        log_path: String::new(),
        stdin: false,
        stdin_once: false,
        tty: false,
        resources: None,
        security: SecurityContext {
            namespaces: NamespaceOptions {
                pid: NamespaceMode::Container,
                ..NamespaceOptions::default()
            },
            ..SecurityContext::default()
        },
        cdi_devices: Vec::new(),
        stop_signal: None,
    }
}

fn sandbox() -> SandboxConfig {
    SandboxConfig {
        metadata: SandboxMetadata {
            name: "pod".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 0,
        },
        hostname: "pod".into(),
        log_directory: String::new(),
        dns: None,
        port_mappings: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        cgroup_parent: String::new(),
        namespaces: NamespaceOptions::default(),
        sysctls: BTreeMap::new(),
        privileged: false,
        selinux: None,
        seccomp: None,
        overhead: None,
        resources: None,
        runtime_handler: String::new(),
    }
}

impl Case {
    fn new() -> Self {
        Self {
            config: config(),
            sandbox: sandbox(),
            image: ImageFacts {
                name: "docker.io/library/busybox:latest".into(),
                cmd: vec!["sh".into()],
                env: vec!["LANG=C".into()],
                ..ImageFacts::default()
            },
            host: HostFacts {
                cgroup_mode: crate::cgroup::Mode::Hybrid,
                swap: false,
                hugetlb: false,
                apparmor: false,
                apparmor_profiles: Vec::new(),
                selinux: false,
                oom_score_adj_floor: 0,
                capabilities: vec![Capability::Chown, Capability::Kill, Capability::SysAdmin],
            },
            sources: Vec::new(),
            devices: Vec::new(),
            passwd: "",
            group: "",
            shared_pid: false,
            target: None,
        }
    }

    fn volume(&mut self, volume: Volume, peers: Peers) -> &mut Self {
        self.sources.push(Source {
            path: volume.host_path.clone().into(),
            peers,
        });
        self.config.mounts.push(volume);
        self
    }

    fn build(&self) -> Result<Spec, SpecError> {
        let records = UserRecords::parse(self.passwd.as_bytes(), self.group.as_bytes());
        let user = resolve(&self.config.security, &self.image.user, &records)?;
        let modes = &self.sandbox.namespaces;
        let pinned = |mode: NamespaceMode, name: &str| {
            (mode != NamespaceMode::Node).then(|| PathBuf::from("/run/ns").join(name))
        };
        build(&Inputs {
            config: &self.config,
            pod: Pod {
                id: "5a5a",
                config: &self.sandbox,
                hostname: "pod",
                net: pinned(modes.network, "net"),
                ipc: pinned(modes.ipc, "ipc"),
                uts: pinned(modes.network, "uts"),
                pid: self.shared_pid.then(|| "/run/ns/pid".into()),
                user: modes.user.as_ref().map(|_| "/run/ns/user".into()),
                hostname_file: "/var/pod/hostname".into(),
                hosts_file: "/var/pod/hosts".into(),
                resolv_conf: "/var/pod/resolv.conf".into(),
                shm: "/run/pod/shm".into(),
            },
            image: &self.image,
            host: &self.host,
            user: &user,
            cgroup: &CgroupPath::new("/pods/pod/c0").unwrap(),
            sources: &self.sources,
            devices: &self.devices,
            target_pid_ns: self.target.map(PathBuf::from),
        })
    }

    #[track_caller]
    fn refused(&self, field: &str) {
        match self.build() {
            Err(SpecError::Invalid { field: f, .. } | SpecError::Unsupported { field: f, .. }) => {
                assert!(f.ends_with(field), "{f} instead of {field}");
            }
            Ok(_) => panic!("accepted, though {field} is wrong"),
        }
    }

    #[track_caller]
    fn golden(&self, name: &str) {
        let mut got = serde_json::to_value(self.build().unwrap()).unwrap();
        sort_sets(&mut got);
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/container/spec/golden")
            .join(format!("{name}.json"));
        if std::env::var_os("LONGSHORE_BLESS").is_some() {
            let text = serde_json::to_string_pretty(&got).unwrap();
            std::fs::write(&path, text + "\n").unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let wanted: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            serde_json::to_string_pretty(&got).unwrap(),
            serde_json::to_string_pretty(&wanted).unwrap(),
            "{name}"
        );
    }
}

/// Capability sets are hash sets: their order means nothing.
fn sort_sets(spec: &mut serde_json::Value) {
    let sets = spec.pointer_mut("/process/capabilities").unwrap();
    for set in sets.as_object_mut().unwrap().values_mut() {
        let list = set.as_array_mut().unwrap();
        list.sort_by_key(|name| name.as_str().unwrap().to_owned());
    }
}

fn volume(container: &str, host: &str) -> Volume {
    Volume {
        container_path: container.into(),
        host_path: host.into(),
        ..Volume::default()
    }
}

#[test]
fn plain() {
    Case::new().golden("plain");
}

#[test]
fn process() {
    let mut case = Case::new();
    case.image.entrypoint = vec!["/entry".into()];
    case.image.env.push("PATH=/bin".into());
    case.image.working_dir = "srv".into();
    case.config.args = vec!["-v".into()];
    case.config.tty = true;
    case.config.envs = vec![
        ("LANG".into(), b"de".to_vec()),
        ("EMPTY".into(), Vec::new()),
    ];
    case.golden("process");
}

#[test]
fn user_and_groups() {
    let mut case = Case::new();
    case.passwd = "root:x:0:0::/:\nalice:x:1000:1000::/:\n";
    case.group = "alice:x:1000:\nstaff:x:50:alice\n";
    case.config.security.run_as_username = "alice".into();
    case.config.security.supplemental_groups = vec![7];
    case.config.security.groups_policy = GroupsPolicy::Merge;
    case.config.security.no_new_privs = true;
    case.config.security.readonly_rootfs = true;
    case.golden("user");
}

#[test]
fn capabilities_all_and_single() {
    let mut case = Case::new();
    case.config.security.capabilities = Capabilities {
        add: vec!["ALL".into(), "CAP_NET_ADMIN".into()],
        drop: vec!["chown".into()],
        add_ambient: vec!["NET_BIND_SERVICE".into()],
    };
    case.golden("capabilities");
    case.config.security.capabilities = Capabilities {
        add: vec!["KILL".into()],
        drop: vec!["ALL".into()],
        add_ambient: Vec::new(),
    };
    case.golden("capabilities-drop-all");
}

#[test]
fn volumes() {
    let mut case = Case::new();
    let propagated = |path: &str, propagation| Volume {
        propagation,
        ..volume(path, "/host/shared")
    };
    let readonly = Volume {
        readonly: true,
        recursive_read_only: true,
        mount_options: vec!["noexec".into()],
        uid_mappings: vec![IdMapping {
            host_id: 100_000,
            container_id: 0,
            length: 65536,
        }],
        ..volume("/data//deep/", "/host/data")
    };
    case.volume(readonly, Peers::Private)
        .volume(volume("/data", "/host"), Peers::Private)
        .volume(volume("/etc/hosts", "/var/kubelet/hosts"), Peers::Private)
        .volume(propagated("/b", Propagation::Bidirectional), Peers::Shared)
        .volume(propagated("/h", Propagation::HostToContainer), Peers::Slave);
    case.golden("volumes");
}

#[test]
fn a_volume_over_dev_takes_what_is_below() {
    let mut case = Case::new();
    case.volume(volume("/dev", "/dev"), Peers::Private);
    case.volume(volume("/sys/fs/cgroup", "/sys/fs/cgroup"), Peers::Private);
    case.golden("over-dev");
}

#[test]
fn resources_on_v2() {
    let mut case = Case::new();
    case.host.cgroup_mode = crate::cgroup::Mode::Unified;
    case.host.swap = true;
    case.host.hugetlb = true;
    case.host.oom_score_adj_floor = -500;
    case.config.resources = Some(Resources {
        cpu_period: 100_000,
        cpu_quota: -1,
        cpu_shares: 512,
        memory_limit_in_bytes: 1 << 28,
        oom_score_adj: -998,
        cpuset_cpus: "0-1".into(),
        hugepage_limits: vec![("2MB".into(), 4 << 20)],
        unified: [("memory.high".to_owned(), "1000000".to_owned())].into(),
        ..Resources::default()
    });
    case.golden("resources-v2");
}

#[test]
fn resources_of_zero_are_none() {
    let mut case = Case::new();
    case.config.resources = Some(Resources::default());
    case.golden("plain");
}

#[test]
fn host_namespaces() {
    let mut case = Case::new();
    let node = NamespaceOptions {
        network: NamespaceMode::Node,
        pid: NamespaceMode::Node,
        ipc: NamespaceMode::Node,
        ..NamespaceOptions::default()
    };
    case.sandbox.namespaces = node.clone();
    case.config.security.namespaces = node;
    case.golden("host-namespaces");
}

#[test]
fn a_container_that_says_nothing_is_as_its_pod() {
    let mut case = Case::new();
    case.config.security.namespaces.pid = NamespaceMode::Pod;
    case.golden("plain");
    case.sandbox.namespaces.pid = NamespaceMode::Node;
    let spec = case.build().unwrap();
    let namespaces = spec.linux().clone().unwrap().namespaces().clone().unwrap();
    let pid = oci_spec::runtime::LinuxNamespaceType::Pid;
    assert!(namespaces.iter().all(|namespace| namespace.typ() != pid));
}

#[test]
fn shared_and_targeted_pid() {
    let mut case = Case::new();
    case.shared_pid = true;
    case.config.security.namespaces.pid = NamespaceMode::Pod;
    case.golden("pid-pod");
    case.config.security.namespaces.pid = NamespaceMode::Target;
    case.refused("pid");
    case.target = Some("/proc/77/ns/pid");
    case.golden("pid-target");
}

#[test]
fn user_namespace_on_the_nodes_network() {
    let mut case = Case::new();
    let mapping = IdMapping {
        host_id: 100_000,
        container_id: 0,
        length: 65536,
    };
    let user = Some(UserNamespace {
        uid: mapping,
        gid: mapping,
    });
    case.sandbox.namespaces.user = user.clone();
    case.sandbox.namespaces.network = NamespaceMode::Node;
    case.refused("userns_options");
    case.config.security.namespaces.user = user;
    case.golden("user-namespace");
}

#[test]
fn privileged() {
    let mut case = Case::new();
    case.config.security.privileged = true;
    case.config.security.masked_paths = vec!["/proc/kcore".into()];
    case.refused("privileged");
    case.sandbox.privileged = true;
    case.devices = vec![DeviceNode {
        path: "/dev/loop0".into(),
        block: true,
        major: 7,
        minor: 0,
        mode: 0o060_660,
        uid: 0,
        gid: 6,
        access: "rwm".into(),
    }];
    case.golden("privileged");
}

#[test]
fn devices_masks_and_labels() {
    let mut case = Case::new();
    case.host.selinux = true;
    case.host.apparmor = true;
    case.host.apparmor_profiles = vec!["k8s-deny".into()];
    case.sandbox.selinux = Some(SelinuxOptions {
        level: "s0:c1,c2".into(),
        ..SelinuxOptions::default()
    });
    let security = &mut case.config.security;
    security.apparmor = Some(SecurityProfile::Localhost("localhost/k8s-deny".into()));
    security.masked_paths = vec!["/proc/kcore".into()];
    security.readonly_paths = vec!["/proc/sys".into()];
    case.config.devices = vec![Device {
        container_path: "/dev/f".into(),
        host_path: "/dev/fuse".into(),
        permissions: "rw".into(),
    }];
    case.devices = vec![DeviceNode {
        path: "/dev/f".into(),
        block: false,
        major: 10,
        minor: 229,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "rw".into(),
    }];
    case.golden("devices-and-labels");
    case.config.security.apparmor = Some(SecurityProfile::Localhost("absent".into()));
    case.refused("apparmor");
}

#[test]
fn argument_rules() {
    let mut case = Case::new();
    let mut args = |command: &[&str], args: &[&str], entrypoint: &[&str], cmd: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        case.config.command = owned(command);
        case.config.args = owned(args);
        case.image.entrypoint = owned(entrypoint);
        case.image.cmd = owned(cmd);
        let spec = case.build();
        spec.ok().map(|spec| {
            spec.process()
                .clone()
                .unwrap()
                .args()
                .clone()
                .unwrap()
                .join(" ")
        })
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(args(&[], &[], &["e"], &["c"]), some("e c"));
    assert_eq!(args(&[], &["a"], &["e"], &["c"]), some("e a"));
    assert_eq!(args(&["x"], &[], &["e"], &["c"]), some("x"));
    assert_eq!(args(&["x"], &["a"], &["e"], &["c"]), some("x a"));
    assert_eq!(args(&[], &[], &[""], &["c"]), some("c"));
    assert_eq!(args(&[], &["a"], &[""], &[]), some("a"));
    assert_eq!(args(&[], &[], &[], &[]), None);
}

#[test]
fn refusals_name_their_field() {
    let change = |edit: &dyn Fn(&mut Case), field: &str| {
        let mut case = Case::new();
        edit(&mut case);
        case.refused(field);
    };
    let limit = |edit: fn(&mut Resources)| {
        move |case: &mut Case| edit(case.config.resources.get_or_insert_default())
    };
    change(&|c| c.config.envs = vec![("A".into(), vec![0xff])], "envs");
    change(&|c| c.config.envs = vec![("A=B".into(), vec![])], "envs");
    change(&limit(|r| r.cpu_shares = -1), "cpu_shares");
    change(&limit(|r| r.oom_score_adj = 1001), "oom_score_adj");
    change(
        &limit(|r| drop(r.unified.insert("memory.high".into(), "1".into()))),
        "unified",
    );
    change(
        &limit(|r| r.memory_limit_in_bytes = -5),
        "memory_limit_in_bytes",
    );
    change(
        &|c| c.config.security.capabilities.add = vec!["CAP_X".into()],
        "capabilities",
    );
    for path in ["relative", "/", "//.", "/a/../b"] {
        change(
            &|c| {
                c.volume(volume(path, "/h"), Peers::Private);
            },
            "container_path",
        );
    }
    let over = |propagation, peers| {
        move |case: &mut Case| {
            let volume = Volume {
                propagation,
                ..volume("/v", "/h")
            };
            case.volume(volume, peers);
        }
    };
    change(
        &over(Propagation::Bidirectional, Peers::Slave),
        "propagation",
    );
    change(
        &over(Propagation::HostToContainer, Peers::Private),
        "propagation",
    );
}

#[test]
fn seccomp_is_never_silently_left_out() {
    let mut config = config();
    assert_eq!(seccomp_choice(&config), Ok(SeccompChoice::None));
    config.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    assert!(matches!(
        seccomp_choice(&config),
        Err(SpecError::Unsupported { .. })
    ));
    config.security.seccomp = Some(SecurityProfile::Localhost("localhost//p/a.json".into()));
    let file = SeccompChoice::File("/p/a.json".into());
    assert_eq!(seccomp_choice(&config), Ok(file));
    config.security.seccomp = Some(SecurityProfile::Localhost("a.json".into()));
    assert!(seccomp_choice(&config).is_err());
    config.security.privileged = true;
    assert_eq!(seccomp_choice(&config), Ok(SeccompChoice::None));
}
