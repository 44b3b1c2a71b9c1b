//! What a sandbox is asked to be, after validation.
//!
//! These types mirror the CRI messages of the same names (`runtime.v1`) in
//! what the daemon uses of them; `service::convert` makes them. They are part
//! of the record, so fields are only added, with `#[serde(default)]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of a sandbox among the sandboxes of its node (CRI `PodSandboxMetadata`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxMetadata {
    /// Pod name.
    pub name: String,
    /// Pod uid.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// Counts the sandboxes that the pod had; part of the name.
    pub attempt: u32,
}

/// CRI `NamespaceMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// Shared by the containers of the pod.
    #[default]
    Pod,
    /// The container's own.
    Container,
    /// The node's.
    Node,
    /// That of the container `target_id`.
    Target,
}

/// CRI `IDMapping`: `length` ids from `container_id` on inside are `host_id` on outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id on the host.
    pub host_id: u32,
    /// First id in the container.
    pub container_id: u32,
    /// How many.
    pub length: u32,
}

/// CRI `UserNamespace` with mode POD: exactly one mapping each, of container id 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// The uid mapping.
    pub uid: IdMapping,
    /// The gid mapping.
    pub gid: IdMapping,
}

/// CRI `NamespaceOption`. `net` knows `Pod` and `Node` only.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NamespaceOptions {
    /// Network.
    pub network: NamespaceMode,
    /// Process ids.
    pub pid: NamespaceMode,
    /// System V IPC and POSIX message queues.
    pub ipc: NamespaceMode,
    /// Container whose PID namespace is joined with `pid: Target`.
    #[serde(default)]
    pub target_id: String,
    /// A user namespace of the pod's own; `None`: the node's.
    #[serde(default)]
    pub user: Option<UserNamespace>,
}

/// CRI `DNSConfig`. Absent as a whole: a copy of the host's resolv.conf.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options (`resolv.conf(5)`).
    pub options: Vec<String>,
}

/// Transport protocol of a port mapping, in the lower case that CNI wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// CRI `PortMapping` with a host port; those without one are dropped on conversion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the node, never 0.
    pub host_port: u16,
    /// Address on the node; empty: all.
    pub host_ip: String,
}

/// CRI `SELinuxOption`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SelinuxOptions {
    /// SELinux user.
    pub user: String,
    /// SELinux role.
    pub role: String,
    /// SELinux type.
    pub kind: String,
    /// SELinux level.
    pub level: String,
}

/// CRI `SecurityProfile` for seccomp or AppArmor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecurityProfile {
    /// The runtime's own default.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A profile on the node: absolute path (seccomp) or loaded name (AppArmor).
    Localhost(String),
}

/// CRI `LinuxContainerResources`. 0 and empty mean "not specified".
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// CFS period, microseconds.
    pub cpu_period: i64,
    /// CFS quota, microseconds; negative: none.
    pub cpu_quota: i64,
    /// CPU shares, 2 to 262144.
    pub cpu_shares: i64,
    /// Bytes.
    pub memory_limit_in_bytes: i64,
    /// -1000 to 1000.
    pub oom_score_adj: i64,
    /// cpuset list format.
    pub cpuset_cpus: String,
    /// cpuset list format.
    pub cpuset_mems: String,
    /// Page size ("2MB") and bytes.
    pub hugepage_limits: Vec<(String, u64)>,
    /// cgroup v2 files and what to write to them.
    pub unified: BTreeMap<String, String>,
    /// Memory and swap together, bytes.
    pub memory_swap_limit_in_bytes: i64,
}

/// CRI `PodSandboxConfig` and the runtime handler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Its name.
    pub metadata: SandboxMetadata,
    /// Host name; empty with the node's network: the node's.
    pub hostname: String,
    /// Directory of the containers' logs; empty: no logs.
    pub log_directory: String,
    /// DNS; `None`: as the host.
    pub dns: Option<DnsConfig>,
    /// Ports to map.
    pub port_mappings: Vec<PortMapping>,
    /// Returned as they came.
    pub labels: BTreeMap<String, String>,
    /// Returned as they came.
    pub annotations: BTreeMap<String, String>,
    /// cgroupfs path or systemd slice; empty: the runtime's default.
    pub cgroup_parent: String,
    /// Namespace modes.
    pub namespaces: NamespaceOptions,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Whether containers may be privileged.
    pub privileged: bool,
    /// SELinux label of the pod.
    pub selinux: Option<SelinuxOptions>,
    /// Default seccomp profile of the pod.
    pub seccomp: Option<SecurityProfile>,
    /// Pod overhead.
    pub overhead: Option<Resources>,
    /// Sum of the containers' resources.
    pub resources: Option<Resources>,
    /// Runtime handler as requested; empty: the default one. Echoed as it came.
    pub runtime_handler: String,
}

impl SandboxConfig {
    /// Whether the pod uses the node's network.
    #[must_use]
    pub fn host_network(&self) -> bool {
        self.namespaces.network == NamespaceMode::Node
    }
}
