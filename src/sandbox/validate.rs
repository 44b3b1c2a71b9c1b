//! Refuses a request before any effect, and compares two. Pure.

use crate::cni::Bandwidth;
use crate::netns::{Owner, Sysctl, defaults};

use super::create::ports;
use super::error::SandboxError;
use super::model::{DnsConfig, NamespaceMode, SandboxConfig, UserNamespace};

/// `HOST_NAME_MAX`.
const HOSTNAME_MAX: usize = 64;

fn invalid(field: &'static str, problem: impl Into<String>) -> SandboxError {
    SandboxError::Invalid {
        field,
        problem: problem.into(),
    }
}

/// Checks what the types leave open.
///
/// # Errors
/// [`SandboxError::Invalid`] naming the field.
pub(super) fn validate(config: &SandboxConfig) -> Result<(), SandboxError> {
    let name = &config.metadata;
    for (field, text) in [
        ("metadata.name", &name.name),
        ("metadata.namespace", &name.namespace),
        ("metadata.uid", &name.uid),
    ] {
        // They are values of the CNI arguments, which are separated by `;`.
        if text.contains([';', '\0', '\n']) {
            return Err(invalid(field, "it holds a semicolon, NUL or newline"));
        }
    }
    if name.name.is_empty() {
        return Err(invalid("metadata.name", "it is empty"));
    }
    let options = &config.namespaces;
    let mode = |field, mode: NamespaceMode, refused: &[NamespaceMode]| {
        if refused.contains(&mode) {
            return Err(invalid(field, format!("a pod has no mode {mode:?}")));
        }
        Ok(())
    };
    let (container, target) = (NamespaceMode::Container, NamespaceMode::Target);
    mode(
        "namespace_options.network",
        options.network,
        &[container, target],
    )?;
    mode("namespace_options.ipc", options.ipc, &[container, target])?;
    mode("namespace_options.pid", options.pid, &[target])?;
    if let Some(user) = &options.user {
        user_namespace(user)?;
    }
    hostname(&config.hostname)?;
    if let Some(dns) = &config.dns {
        lines(dns)?;
    }
    ports(config).map_err(|e| invalid("port_mappings", e.to_string()))?;
    Bandwidth::from_annotations(&config.annotations)
        .map_err(|e| invalid("annotations", e.to_string()))?;
    sysctls(config).map(drop)
}

fn hostname(name: &str) -> Result<(), SandboxError> {
    let fits = name.len() <= HOSTNAME_MAX;
    let clean = !name.contains(|c: char| c.is_ascii_control() || c == '/' || c == ' ');
    if fits && clean {
        Ok(())
    } else {
        Err(invalid(
            "hostname",
            format!("{name:?} is no host name of at most {HOSTNAME_MAX} bytes"),
        ))
    }
}

fn lines(dns: &DnsConfig) -> Result<(), SandboxError> {
    let all = [&dns.servers, &dns.searches, &dns.options];
    if all.into_iter().flatten().any(|s| s.contains(['\n', '\0'])) {
        return Err(invalid("dns_config", "a value holds a newline or NUL"));
    }
    Ok(())
}

fn user_namespace(user: &UserNamespace) -> Result<(), SandboxError> {
    for (field, map) in [("userns.uids", &user.uid), ("userns.gids", &user.gid)] {
        let ends = |first: u32| first.checked_add(map.length).is_some();
        if map.container_id != 0 {
            return Err(invalid(field, "it must map id 0 of the container"));
        }
        if map.length == 0 || !ends(map.host_id) {
            return Err(invalid(
                field,
                "its length is 0 or it goes beyond the last id",
            ));
        }
    }
    Ok(())
}

/// The kernel parameters to set, defaults first, so that the request wins.
///
/// # Errors
/// [`SandboxError::Invalid`] for a parameter that isn't the pod's own.
pub(super) fn sysctls(config: &SandboxConfig) -> Result<Vec<Sysctl>, SandboxError> {
    let options = &config.namespaces;
    let own_network = !config.host_network();
    let own_ipc = options.ipc != NamespaceMode::Node;
    let mut all = if own_network && options.user.is_none() {
        defaults()
    } else {
        Vec::new()
    };
    for (name, value) in &config.sysctls {
        let sysctl = Sysctl::new(name, value).map_err(|e| invalid("sysctls", e.to_string()))?;
        let own = match sysctl.owner() {
            Owner::Net => own_network,
            Owner::Ipc => own_ipc,
        };
        if !own {
            let problem = format!("{name} would change the node: the pod uses its namespace");
            return Err(invalid("sysctls", problem));
        }
        all.push(sysctl);
    }
    Ok(all)
}

/// The first field in which two requests of one name differ.
pub(super) fn difference(a: &SandboxConfig, b: &SandboxConfig) -> Option<&'static str> {
    [
        ("hostname", a.hostname != b.hostname),
        ("log_directory", a.log_directory != b.log_directory),
        ("dns_config", a.dns != b.dns),
        ("port_mappings", a.port_mappings != b.port_mappings),
        ("labels", a.labels != b.labels),
        ("annotations", a.annotations != b.annotations),
        ("linux.cgroup_parent", a.cgroup_parent != b.cgroup_parent),
        (
            "linux.security_context.namespace_options",
            a.namespaces != b.namespaces,
        ),
        ("linux.sysctls", a.sysctls != b.sysctls),
        (
            "linux.security_context.privileged",
            a.privileged != b.privileged,
        ),
        (
            "linux.security_context.selinux_options",
            a.selinux != b.selinux,
        ),
        ("linux.security_context.seccomp", a.seccomp != b.seccomp),
        ("linux.overhead", a.overhead != b.overhead),
        ("linux.resources", a.resources != b.resources),
        ("runtime_handler", a.runtime_handler != b.runtime_handler),
        // Whatever a later field is called, two requests that aren't equal differ.
        ("configuration", a != b),
    ]
    .into_iter()
    .find_map(|(field, differs)| differs.then_some(field))
}

#[cfg(test)]
mod tests {
    use super::super::model::{IdMapping, SandboxMetadata};
    use super::*;

    fn config() -> SandboxConfig {
        SandboxConfig {
            metadata: SandboxMetadata {
                name: "web".into(),
                uid: "u".into(),
                namespace: "default".into(),
                attempt: 0,
            },
            hostname: "web".into(),
            log_directory: String::new(),
            dns: None,
            port_mappings: vec![],
            labels: [].into(),
            annotations: [].into(),
            cgroup_parent: String::new(),
            namespaces: Default::default(),
            sysctls: [].into(),
            privileged: false,
            selinux: None,
            seccomp: None,
            overhead: None,
            resources: None,
            runtime_handler: String::new(),
        }
    }

    fn user(host_id: u32, container_id: u32, length: u32) -> Option<UserNamespace> {
        let map = IdMapping {
            host_id,
            container_id,
            length,
        };
        Some(UserNamespace { uid: map, gid: map })
    }

    #[test]
    fn refuses_by_field() {
        type Change = fn(&mut SandboxConfig);
        let cases: [(Option<&str>, Change); 14] = [
            (None, |_| {}),
            (Some("metadata.name"), |c| c.metadata.name.clear()),
            (Some("metadata.uid"), |c| c.metadata.uid = "a;X=1".into()),
            (Some("hostname"), |c| c.hostname = "x".repeat(65)),
            (Some("hostname"), |c| c.hostname = "a\nb".into()),
            (Some("namespace_options.network"), |c| {
                c.namespaces.network = NamespaceMode::Container;
            }),
            (Some("namespace_options.pid"), |c| {
                c.namespaces.pid = NamespaceMode::Target;
            }),
            (None, |c| c.namespaces.pid = NamespaceMode::Container),
            (Some("userns.uids"), |c| {
                c.namespaces.user = user(1000, 1, 10)
            }),
            (Some("userns.uids"), |c| {
                c.namespaces.user = user(u32::MAX, 0, 10)
            }),
            (None, |c| c.namespaces.user = user(100_000, 0, 65_536)),
            (Some("dns_config"), |c| {
                c.dns = Some(DnsConfig {
                    servers: vec!["1.1.1.1\nsearch evil".into()],
                    ..Default::default()
                });
            }),
            (Some("sysctls"), |c| {
                c.sysctls.insert("vm.swappiness".into(), "1".into());
            }),
            (Some("sysctls"), |c| {
                c.namespaces.network = NamespaceMode::Node;
                c.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
            }),
        ];
        for (expected, change) in cases {
            let mut config = config();
            change(&mut config);
            let got = match validate(&config) {
                Ok(()) => None,
                Err(SandboxError::Invalid { field, .. }) => Some(field),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(got, expected, "{config:?}");
        }
    }

    #[test]
    fn defaults_come_first_and_only_where_they_are_the_pods() {
        let mut c = config();
        c.sysctls
            .insert("net.ipv4.ip_unprivileged_port_start".into(), "1024".into());
        let names: Vec<_> = sysctls(&c)
            .unwrap()
            .iter()
            .map(|s| s.name().to_owned())
            .collect();
        assert_eq!(names.len(), 3);
        assert_eq!(names[2], "net/ipv4/ip_unprivileged_port_start");
        c.sysctls.clear();
        c.namespaces.user = user(100_000, 0, 65_536);
        assert!(sysctls(&c).unwrap().is_empty());
        c.namespaces.user = None;
        c.namespaces.network = NamespaceMode::Node;
        assert!(sysctls(&c).unwrap().is_empty());
    }

    #[test]
    fn names_the_differing_field() {
        let a = config();
        assert_eq!(difference(&a, &a.clone()), None);
        let mut b = a.clone();
        b.labels.insert("k".into(), "v".into());
        assert_eq!(difference(&a, &b), Some("labels"));
        let mut c = a.clone();
        c.metadata.attempt = 1;
        assert_eq!(difference(&a, &c), Some("configuration"));
    }
}
