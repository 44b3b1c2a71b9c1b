//! Pod and container configurations as kubelet would send them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use longshore_proto::cri::v1 as cri;
use longshore_proto::cri::v1::{NamespaceMode, Protocol};

use crate::Node;

/// Uids tell pods of one name apart, within a process.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A pod's configuration. Change [`Self::config`] for what has no method.
#[derive(Debug, Clone)]
pub struct Pod {
    /// The request's configuration.
    pub config: cri::PodSandboxConfig,
    /// The runtime handler, empty for the default.
    pub handler: String,
}

impl Pod {
    /// A pod with a network of its own, a log directory and a cgroup parent in the node.
    ///
    /// # Errors
    /// When the directory or the cgroup cannot be made.
    pub fn new(node: &Node, name: &str) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{}-{}-{number}", node.name(), std::process::id());
        let log_directory = node.dir().join("logs/pods").join(&uid);
        std::fs::create_dir_all(&log_directory)
            .with_context(|| format!("create {}", log_directory.display()))?;
        let options = cri::NamespaceOption {
            network: NamespaceMode::Pod.into(),
            pid: NamespaceMode::Container.into(),
            ipc: NamespaceMode::Pod.into(),
            ..Default::default()
        };
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid,
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: log_directory.to_string_lossy().into_owned(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: node.cgroup_parent()?,
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        Ok(Self {
            config,
            handler: String::new(),
        })
    }

    /// In the node's own network.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.config.hostname.clear();
        self.namespaces().network = NamespaceMode::Node.into();
        self
    }

    /// All containers in one PID namespace.
    #[must_use]
    pub fn shared_pid(mut self) -> Self {
        self.namespaces().pid = NamespaceMode::Pod.into();
        self
    }

    /// A copy of the pod's namespace options, for a container's request.
    #[must_use]
    pub fn namespace_options(&self) -> Option<cri::NamespaceOption> {
        let security = self.config.linux.as_ref()?.security_context.as_ref()?;
        security.namespace_options.clone()
    }

    /// The pod's namespace options.
    pub fn namespaces(&mut self) -> &mut cri::NamespaceOption {
        self.security().namespace_options.get_or_insert_default()
    }

    /// The pod's security context.
    pub fn security(&mut self) -> &mut cri::LinuxSandboxSecurityContext {
        self.linux().security_context.get_or_insert_default()
    }

    /// The pod's Linux part.
    pub fn linux(&mut self) -> &mut cri::LinuxPodSandboxConfig {
        self.config.linux.get_or_insert_default()
    }

    /// With this attempt number.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.config.metadata.get_or_insert_default().attempt = attempt;
        self
    }

    /// With this label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.config.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With this annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.config
            .annotations
            .insert(key.to_owned(), value.to_owned());
        self
    }

    /// With this kernel parameter.
    #[must_use]
    pub fn sysctl(mut self, key: &str, value: &str) -> Self {
        self.linux()
            .sysctls
            .insert(key.to_owned(), value.to_owned());
        self
    }

    /// With these name servers and search domains.
    #[must_use]
    pub fn dns(mut self, servers: &[&str], searches: &[&str]) -> Self {
        let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        let (servers, searches) = (owned(servers), owned(searches));
        self.config.dns_config = Some(cri::DnsConfig {
            servers,
            searches,
            options: Vec::new(),
        });
        self
    }

    /// With a TCP port of the node forwarded to one of the pod.
    #[must_use]
    pub fn port(mut self, host: i32, container: i32) -> Self {
        self.config.port_mappings.push(cri::PortMapping {
            protocol: Protocol::Tcp.into(),
            container_port: container,
            host_port: host,
            host_ip: String::new(),
        });
        self
    }

    /// With this runtime handler.
    #[must_use]
    pub fn handler(mut self, name: &str) -> Self {
        name.clone_into(&mut self.handler);
        self
    }

    /// Where its containers' logs go.
    #[must_use]
    pub fn log_directory(&self) -> PathBuf {
        PathBuf::from(&self.config.log_directory)
    }
}

/// A container's configuration. Change [`Self::config`] for what has no method.
#[derive(Debug, Clone)]
pub struct Container {
    /// The request's configuration.
    pub config: cri::ContainerConfig,
}

impl Container {
    /// A container of an image, by reference or id, that logs to `NAME.log` of its pod.
    #[must_use]
    pub fn new(name: &str, image: &str) -> Self {
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(cri::ImageSpec {
                image: image.to_owned(),
                user_specified_image: image.to_owned(),
                ..Default::default()
            }),
            log_path: format!("{name}.log"),
            linux: Some(cri::LinuxContainerConfig::default()),
            ..Default::default()
        };
        Self { config }
    }

    /// With this command line instead of the image's.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.config.command = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// With this shell script as its command line.
    #[must_use]
    pub fn shell(self, script: &str) -> Self {
        self.command(&["/bin/sh", "-c", script])
    }

    /// With this environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        let (key, value) = (key.to_owned(), value.as_bytes().to_vec());
        self.config.envs.push(cri::KeyValue { key, value });
        self
    }

    /// With a directory of the node mounted, privately.
    #[must_use]
    pub fn mount(mut self, host: &Path, container: &str, readonly: bool) -> Self {
        self.config.mounts.push(cri::Mount {
            host_path: host.to_string_lossy().into_owned(),
            container_path: container.to_owned(),
            readonly,
            ..Default::default()
        });
        self
    }

    /// With this attempt number.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.config.metadata.get_or_insert_default().attempt = attempt;
        self
    }

    /// With this label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.config.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With standard input, kept open.
    #[must_use]
    pub fn stdin(mut self) -> Self {
        self.config.stdin = true;
        self
    }

    /// With a terminal.
    #[must_use]
    pub fn tty(mut self) -> Self {
        self.config.tty = true;
        self
    }

    /// The container's Linux part.
    pub fn linux(&mut self) -> &mut cri::LinuxContainerConfig {
        self.config.linux.get_or_insert_default()
    }

    /// The container's resources.
    pub fn resources(&mut self) -> &mut cri::LinuxContainerResources {
        self.linux().resources.get_or_insert_default()
    }

    /// The container's security context.
    pub fn security(&mut self) -> &mut cri::LinuxContainerSecurityContext {
        self.linux().security_context.get_or_insert_default()
    }

    /// Its log file in this pod.
    #[must_use]
    pub fn log_file(&self, pod: &Pod) -> PathBuf {
        pod.log_directory().join(&self.config.log_path)
    }

    /// What it wrote to one stream (`stdout`, `stderr`), out of its CRI log.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn logged(&self, pod: &Pod, stream: &str) -> Result<String> {
        let path = self.log_file(pod);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(payload(&text, stream))
    }
}

/// The content of a CRI log's lines `TIME STREAM TAG CONTENT`; partial lines are joined.
fn payload(log: &str, stream: &str) -> String {
    let mut text = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ');
        let (_time, of, tag) = (fields.next(), fields.next(), fields.next());
        if of == Some(stream) {
            text.push_str(fields.next().unwrap_or_default());
            if tag == Some("F") {
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_of_a_log_joins_partial_lines_of_one_stream() {
        let log = "T1 stdout P one \nT2 stderr F x\nT3 stdout F two\nT4 stdout F \n";
        assert_eq!(payload(log, "stdout"), "one two\n\n");
        assert_eq!(payload(log, "stderr"), "x\n");
    }

    #[test]
    fn pods_are_told_apart_and_have_a_cgroup_parent() {
        let node = Node::new().unwrap();
        let one = Pod::new(&node, "a").unwrap();
        let two = Pod::new(&node, "a").unwrap().host_network().port(8080, 80);
        assert_ne!(one.config.metadata, two.config.metadata);
        assert!(one.log_directory().is_dir());
        let parent = one.config.linux.unwrap().cgroup_parent;
        assert!(!crate::cgroup::find(|path| format!("/{path}") == parent).is_empty());
        assert_eq!(two.config.port_mappings.len(), 1);
    }
}
