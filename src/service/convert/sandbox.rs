//! Sandboxes: `PodSandboxConfig` in, `PodSandbox` and `PodSandboxStatus` out.

use std::sync::Arc;

use longshore_proto::cri::v1;

use super::filter::{id_matches, labels_match};
use super::{BadRequest, bad, hashed, info, known, sorted};
use crate::sandbox::model::{
    DnsConfig, IdMapping, NamespaceMode, NamespaceOptions, PortMapping, Protocol, Resources,
    SandboxConfig, SandboxMetadata, SecurityProfile, SelinuxOptions, UserNamespace,
};
use crate::sandbox::{Phase, SandboxView};

/// The configuration of a sandbox.
///
/// # Errors
/// [`BadRequest`] naming the field.
pub fn config(
    config: v1::PodSandboxConfig,
    runtime_handler: String,
) -> Result<SandboxConfig, BadRequest> {
    let metadata = metadata(config.metadata)?;
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let mut port_mappings = Vec::new();
    for mapping in config.port_mappings {
        port_mappings.extend(port(&mapping)?);
    }
    Ok(SandboxConfig {
        metadata,
        hostname: hostname(config.hostname)?,
        log_directory: absolute_or_empty("config.log_directory", config.log_directory)?,
        dns: config.dns_config.map(|dns| DnsConfig {
            servers: dns.servers,
            searches: dns.searches,
            options: dns.options,
        }),
        port_mappings,
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        cgroup_parent: linux.cgroup_parent,
        namespaces: namespaces(security.namespace_options, Scope::Sandbox)?,
        sysctls: sorted(linux.sysctls),
        privileged: security.privileged,
        selinux: security.selinux_options.map(selinux),
        #[expect(deprecated, reason = "older kubelets send it")]
        seccomp: profile("seccomp", security.seccomp, &security.seccomp_profile_path)?,
        overhead: linux.overhead.map(resources),
        resources: linux.resources.map(resources),
        runtime_handler,
    })
}

fn metadata(metadata: Option<v1::PodSandboxMetadata>) -> Result<SandboxMetadata, BadRequest> {
    let metadata = metadata.ok_or(BadRequest::Missing("config.metadata"))?;
    if metadata.name.is_empty() {
        return Err(BadRequest::Missing("config.metadata.name"));
    }
    Ok(SandboxMetadata {
        name: metadata.name,
        uid: metadata.uid,
        namespace: metadata.namespace,
        attempt: metadata.attempt,
    })
}

/// `HOST_NAME_MAX` of Linux is 64 bytes (`sethostname(2)`).
fn hostname(name: String) -> Result<String, BadRequest> {
    if name.len() > 64 || name.contains(['\0', '/', '\n']) {
        return Err(bad(
            "config.hostname",
            name,
            "is no host name of at most 64 bytes",
        ));
    }
    Ok(name)
}

pub(super) fn absolute_or_empty(field: &'static str, path: String) -> Result<String, BadRequest> {
    if path.is_empty() || path.starts_with('/') {
        Ok(path)
    } else {
        Err(bad(field, path, "is not an absolute path"))
    }
}

/// A mapping with a host port; one without asks for nothing.
fn port(mapping: &v1::PortMapping) -> Result<Option<PortMapping>, BadRequest> {
    const FIELD: &str = "config.port_mappings";
    if mapping.host_port <= 0 {
        return Ok(None);
    }
    let number = |port: i32| {
        u16::try_from(port)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| bad(FIELD, port, "is no port"))
    };
    if !mapping.host_ip.is_empty() && mapping.host_ip.parse::<std::net::IpAddr>().is_err() {
        return Err(bad(FIELD, &mapping.host_ip, "is no IP address"));
    }
    let protocol = match known(FIELD, mapping.protocol)? {
        v1::Protocol::Tcp => Protocol::Tcp,
        v1::Protocol::Udp => Protocol::Udp,
        v1::Protocol::Sctp => Protocol::Sctp,
    };
    Ok(Some(PortMapping {
        protocol,
        container_port: number(mapping.container_port)?,
        host_port: number(mapping.host_port)?,
        host_ip: mapping.host_ip.clone(),
    }))
}

/// Whose namespaces: a sandbox can't be told to join a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Sandbox,
    Container,
}

pub(super) fn namespaces(
    options: Option<v1::NamespaceOption>,
    scope: Scope,
) -> Result<NamespaceOptions, BadRequest> {
    let options = options.unwrap_or_default();
    let network = mode("namespace_options.network", options.network)?;
    let ipc = mode("namespace_options.ipc", options.ipc)?;
    let pid = mode("namespace_options.pid", options.pid)?;
    for (field, value) in [
        ("namespace_options.network", network),
        ("namespace_options.ipc", ipc),
    ] {
        if !matches!(value, NamespaceMode::Pod | NamespaceMode::Node) {
            return Err(bad(
                field,
                format!("{value:?}"),
                "is not supported: POD or NODE",
            ));
        }
    }
    if pid == NamespaceMode::Target && scope == Scope::Sandbox {
        return Err(bad(
            "namespace_options.pid",
            "TARGET",
            "is for containers only",
        ));
    }
    if pid == NamespaceMode::Target && options.target_id.is_empty() {
        return Err(BadRequest::Missing("namespace_options.target_id"));
    }
    let user = options
        .userns_options
        .map(user_namespace)
        .transpose()?
        .flatten();
    Ok(NamespaceOptions {
        network,
        pid,
        ipc,
        target_id: options.target_id,
        user,
    })
}

fn mode(field: &'static str, number: i32) -> Result<NamespaceMode, BadRequest> {
    Ok(match known(field, number)? {
        v1::NamespaceMode::Pod => NamespaceMode::Pod,
        v1::NamespaceMode::Container => NamespaceMode::Container,
        v1::NamespaceMode::Node => NamespaceMode::Node,
        v1::NamespaceMode::Target => NamespaceMode::Target,
    })
}

/// A user namespace has exactly one mapping of uids and one of gids, and maps
/// id 0 of the container (KEP-127).
fn user_namespace(user: v1::UserNamespace) -> Result<Option<UserNamespace>, BadRequest> {
    const FIELD: &str = "namespace_options.userns_options";
    match mode(FIELD, user.mode)? {
        NamespaceMode::Node if user.uids.is_empty() && user.gids.is_empty() => return Ok(None),
        NamespaceMode::Node => return Err(bad(FIELD, "NODE", "takes no id mappings")),
        NamespaceMode::Pod => {}
        other @ (NamespaceMode::Container | NamespaceMode::Target) => {
            return Err(bad(
                FIELD,
                format!("{other:?}"),
                "is not supported: POD or NODE",
            ));
        }
    }
    let single = |mappings: &[v1::IdMapping]| match mappings {
        [one] if one.container_id == 0 && one.length > 0 => Ok(mapping(one)),
        [one] => Err(bad(
            FIELD,
            format!("{one:?}"),
            "does not map id 0 of the container",
        )),
        many => Err(bad(
            FIELD,
            many.len(),
            "mappings: exactly one of uids and one of gids is supported",
        )),
    };
    Ok(Some(UserNamespace {
        uid: single(&user.uids)?,
        gid: single(&user.gids)?,
    }))
}

pub(super) fn mapping(mapping: &v1::IdMapping) -> IdMapping {
    IdMapping {
        host_id: mapping.host_id,
        container_id: mapping.container_id,
        length: mapping.length,
    }
}

pub(super) fn selinux(options: v1::SeLinuxOption) -> SelinuxOptions {
    SelinuxOptions {
        user: options.user,
        role: options.role,
        kind: options.r#type,
        level: options.level,
    }
}

/// The newer message wins over the older string; both may carry the prefix
/// `localhost/`.
pub(super) fn profile(
    field: &'static str,
    profile: Option<v1::SecurityProfile>,
    old: &str,
) -> Result<Option<SecurityProfile>, BadRequest> {
    let localhost = |reference: &str| {
        let name = reference.strip_prefix("localhost/").unwrap_or(reference);
        if name.is_empty() {
            return Err(bad(field, reference, "names no profile"));
        }
        Ok(Some(SecurityProfile::Localhost(name.to_owned())))
    };
    if let Some(profile) = profile {
        return match known(field, profile.profile_type)? {
            v1::security_profile::ProfileType::RuntimeDefault => {
                Ok(Some(SecurityProfile::RuntimeDefault))
            }
            v1::security_profile::ProfileType::Unconfined => Ok(Some(SecurityProfile::Unconfined)),
            v1::security_profile::ProfileType::Localhost => localhost(&profile.localhost_ref),
        };
    }
    match old {
        "" => Ok(None),
        "unconfined" => Ok(Some(SecurityProfile::Unconfined)),
        "runtime/default" | "docker/default" => Ok(Some(SecurityProfile::RuntimeDefault)),
        local if local.starts_with("localhost/") => localhost(local),
        other => Err(bad(
            field,
            other,
            "is no profile: unconfined, runtime/default or localhost/<name>",
        )),
    }
}

pub(super) fn resources(resources: v1::LinuxContainerResources) -> Resources {
    Resources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_in_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus,
        cpuset_mems: resources.cpuset_mems,
        hugepage_limits: resources
            .hugepage_limits
            .into_iter()
            .map(|limit| (limit.page_size, limit.limit))
            .collect(),
        unified: sorted(resources.unified),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_in_bytes,
    }
}

/// The metadata as it came.
#[must_use]
pub fn metadata_out(metadata: &SandboxMetadata) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        attempt: metadata.attempt,
    }
}

/// The namespace options, echoed: kubelet compares them with what it wants.
#[must_use]
pub fn namespaces_out(options: &NamespaceOptions) -> v1::NamespaceOption {
    let mode = |mode| match mode {
        NamespaceMode::Pod => v1::NamespaceMode::Pod as i32,
        NamespaceMode::Container => v1::NamespaceMode::Container as i32,
        NamespaceMode::Node => v1::NamespaceMode::Node as i32,
        NamespaceMode::Target => v1::NamespaceMode::Target as i32,
    };
    v1::NamespaceOption {
        network: mode(options.network),
        pid: mode(options.pid),
        ipc: mode(options.ipc),
        target_id: options.target_id.clone(),
        userns_options: options.user.as_ref().map(|user| v1::UserNamespace {
            mode: v1::NamespaceMode::Pod as i32,
            uids: vec![mapping_out(&user.uid)],
            gids: vec![mapping_out(&user.gid)],
        }),
    }
}

pub(super) fn mapping_out(mapping: &IdMapping) -> v1::IdMapping {
    v1::IdMapping {
        host_id: mapping.host_id,
        container_id: mapping.container_id,
        length: mapping.length,
    }
}

pub(super) fn resources_out(resources: &Resources) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_in_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources
            .hugepage_limits
            .iter()
            .map(|(page_size, limit)| v1::HugepageLimit {
                page_size: page_size.clone(),
                limit: *limit,
            })
            .collect(),
        unified: hashed(&resources.unified),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_in_bytes,
    }
}

fn state_out(view: &SandboxView) -> v1::PodSandboxState {
    if view.is_ready() {
        v1::PodSandboxState::SandboxReady
    } else {
        v1::PodSandboxState::SandboxNotready
    }
}

/// Whether clients see the sandbox: from the moment that it is ready, and until it is gone.
#[must_use]
pub fn is_listed(view: &SandboxView) -> bool {
    match view.phase {
        Phase::Ready | Phase::NotReady { .. } => true,
        Phase::Creating { .. } | Phase::Unwinding | Phase::Gone { .. } => false,
    }
}

/// A list item.
#[must_use]
pub fn item(view: &SandboxView) -> v1::PodSandbox {
    v1::PodSandbox {
        id: view.id.to_string(),
        metadata: Some(metadata_out(&view.config.metadata)),
        state: state_out(view) as i32,
        created_at: view.created_at,
        labels: hashed(&view.config.labels),
        annotations: hashed(&view.config.annotations),
        runtime_handler: view.config.runtime_handler.clone(),
    }
}

/// The status. A sandbox on the node's network has no address of its own, and a
/// stopped one has given its address back.
#[must_use]
pub fn status(view: &SandboxView) -> v1::PodSandboxStatus {
    let mut ips = view.ips.iter().map(ToString::to_string);
    let network = v1::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
    };
    v1::PodSandboxStatus {
        id: view.id.to_string(),
        metadata: Some(metadata_out(&view.config.metadata)),
        state: state_out(view) as i32,
        created_at: view.created_at,
        network: Some(network),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(namespaces_out(&view.config.namespaces)),
            }),
        }),
        labels: hashed(&view.config.labels),
        annotations: hashed(&view.config.annotations),
        runtime_handler: view.config.runtime_handler.clone(),
    }
}

/// Whether a filter, if there is one, lets the sandbox pass.
#[must_use]
pub fn passes(filter: Option<&v1::PodSandboxFilter>, view: &SandboxView) -> bool {
    filter.is_none_or(|filter| {
        id_matches(&filter.id, view.id.as_str())
            && filter
                .state
                .is_none_or(|asked| asked.state == state_out(view) as i32)
            && labels_match(&filter.label_selector, &view.config.labels)
    })
}

/// The answer of ListPodSandbox: newest first, as the domain lists them.
#[must_use]
pub fn items(
    filter: Option<&v1::PodSandboxFilter>,
    views: &[Arc<SandboxView>],
) -> Vec<v1::PodSandbox> {
    let views = views
        .iter()
        .filter(|view| is_listed(view) && passes(filter, view));
    views.map(|view| item(view)).collect()
}

/// The answer of PodSandboxStatus. The timestamp stays 0: it is for answers
/// that carry container statuses.
#[must_use]
pub fn status_reply(view: &SandboxView, verbose: bool) -> v1::PodSandboxStatusResponse {
    v1::PodSandboxStatusResponse {
        status: Some(status(view)),
        info: info(verbose, || view.info()),
        containers_statuses: Vec::new(),
        timestamp: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "p".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn metadata_is_demanded() {
        let error = config(v1::PodSandboxConfig::default(), String::new()).unwrap_err();
        assert_eq!(error, BadRequest::Missing("config.metadata"));
    }

    #[test]
    fn a_mapping_without_host_port_asks_for_nothing() {
        let mut pod = minimal();
        pod.port_mappings = vec![
            v1::PortMapping {
                container_port: 80,
                ..Default::default()
            },
            v1::PortMapping {
                container_port: 80,
                host_port: 8080,
                protocol: 1,
                ..Default::default()
            },
        ];
        let ports = config(pod, String::new()).unwrap().port_mappings;
        assert_eq!(ports.len(), 1);
        assert_eq!(
            (ports[0].host_port, ports[0].protocol),
            (8080, Protocol::Udp)
        );
    }

    #[test]
    fn impossible_values_name_their_field() {
        type Spoil = fn(&mut v1::PodSandboxConfig);
        let cases: [(&str, Spoil); 4] = [
            ("config.hostname", |p| p.hostname = "x".repeat(65)),
            ("config.log_directory", |p| p.log_directory = "logs".into()),
            ("config.port_mappings", |p| {
                p.port_mappings = vec![v1::PortMapping {
                    container_port: 70000,
                    host_port: 1,
                    ..Default::default()
                }];
            }),
            ("config.port_mappings", |p| {
                p.port_mappings = vec![v1::PortMapping {
                    container_port: 7,
                    host_port: 1,
                    host_ip: "x".into(),
                    ..Default::default()
                }];
            }),
        ];
        for (field, spoil) in cases {
            let mut pod = minimal();
            spoil(&mut pod);
            assert!(
                matches!(config(pod, String::new()), Err(BadRequest::Value { field: f, .. }) if f == field)
            );
        }
    }

    #[test]
    fn user_namespaces_need_one_mapping_of_id_0() {
        let one = v1::IdMapping {
            host_id: 100_000,
            container_id: 0,
            length: 65_536,
        };
        let shifted = v1::IdMapping {
            container_id: 5,
            ..one
        };
        let user = |mode: v1::NamespaceMode, uids: &[v1::IdMapping]| v1::NamespaceOption {
            userns_options: Some(v1::UserNamespace {
                mode: mode as i32,
                uids: uids.to_vec(),
                gids: vec![one],
            }),
            ..Default::default()
        };
        use v1::NamespaceMode::{Container, Node, Pod, Target};
        for (mode, uids, good) in [
            (Pod, &[one][..], true),
            (Pod, &[], false),
            (Pod, &[one, one], false),
            (Pod, &[shifted], false),
            (Node, &[one], false),
            (Container, &[one], false),
            (Target, &[one], false),
        ] {
            let result = namespaces(Some(user(mode, uids)), Scope::Sandbox);
            assert_eq!(result.is_ok(), good, "{mode:?} {uids:?}");
        }
    }

    #[test]
    fn namespaces_are_echoed() {
        let asked = v1::NamespaceOption {
            network: 2,
            pid: 1,
            ipc: 0,
            ..Default::default()
        };
        let options = namespaces(Some(asked.clone()), Scope::Sandbox).unwrap();
        assert_eq!(namespaces_out(&options), asked);
    }

    #[test]
    fn profiles_in_both_forms() {
        let new = |kind: i32, reference: &str| {
            Some(v1::SecurityProfile {
                profile_type: kind,
                localhost_ref: reference.into(),
            })
        };
        let local = |name: &str| Some(SecurityProfile::Localhost(name.into()));
        assert_eq!(profile("f", None, "").unwrap(), None);
        assert_eq!(
            profile("f", new(0, ""), "unconfined").unwrap(),
            Some(SecurityProfile::RuntimeDefault)
        );
        assert_eq!(
            profile("f", new(2, "localhost//p.json"), "").unwrap(),
            local("/p.json")
        );
        assert_eq!(
            profile("f", None, "localhost//p.json").unwrap(),
            local("/p.json")
        );
        assert!(profile("f", None, "strange").is_err());
        assert!(profile("f", new(2, ""), "").is_err());
    }
}
