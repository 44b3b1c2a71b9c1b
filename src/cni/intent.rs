//! The durable intent: all that DEL needs, on disk before ADD.
//!
//! ```text
//! <dir>/<sandbox id>.json          the intent, synced, never rewritten
//! <dir>/<sandbox id>.result.json   what ADD answered, not synced
//! ```
//!
//! The result has a file of its own so that a power loss that tears it leaves
//! the intent whole: DEL without the result of ADD is less thorough, DEL
//! without an intent does not happen.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::id::SandboxId;
use crate::store::{Durability, write_file};

use super::bandwidth::Bandwidth;
use super::conf::NetworkList;
use super::error::CniError;

/// Raised when an older daemon would misread an intent.
const VERSION: u32 = 1;

/// Capability argument `portMappings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMap {
    /// On the node.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Address on the node; `None`: all.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// A pod to attach.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Container id towards CNI.
    pub id: SandboxId,
    /// Pinned network namespace.
    pub netns: PathBuf,
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: String,
    /// `K8S_POD_NAME`.
    pub pod_name: String,
    /// `K8S_POD_UID`.
    pub pod_uid: String,
    /// Capability `portMappings`.
    pub ports: Vec<PortMap>,
    /// Capability `bandwidth`.
    pub bandwidth: Option<Bandwidth>,
    /// Capability `dns`: servers, searches, options.
    pub dns: Option<(Vec<String>, Vec<String>, Vec<String>)>,
    /// Capability `io.kubernetes.cri.pod-annotations`.
    pub annotations: BTreeMap<String, String>,
    /// Capability `cgroupPath`.
    pub cgroup_path: String,
}

impl Attachment {
    fn args(&self) -> String {
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};\
             K8S_POD_UID={}",
            self.pod_namespace, self.pod_name, self.id, self.pod_uid
        )
    }

    fn capability_args(&self) -> Map<String, Value> {
        let mut args = Map::new();
        if !self.ports.is_empty() {
            args.insert("portMappings".into(), json!(self.ports));
        }
        if let Some(bandwidth) = &self.bandwidth {
            args.insert("bandwidth".into(), json!(bandwidth));
        }
        if let Some((servers, searches, options)) = &self.dns {
            args.insert(
                "dns".into(),
                json!({"servers": servers, "searches": searches, "options": options}),
            );
        }
        if !self.annotations.is_empty() {
            args.insert(
                "io.kubernetes.cri.pod-annotations".into(),
                json!(self.annotations),
            );
        }
        if !self.cgroup_path.is_empty() {
            args.insert("cgroupPath".into(), json!(self.cgroup_path));
        }
        args
    }
}

/// What DEL needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Intent {
    version: u32,
    pub(super) id: SandboxId,
    /// The configuration list as it was read.
    network: Value,
    pub(super) args: String,
    pub(super) capability_args: Map<String, Value>,
    pub(super) ifname: String,
    pub(super) netns: PathBuf,
}

impl Intent {
    pub(super) fn new(list: &NetworkList, attachment: &Attachment, ifname: &str) -> Self {
        Self {
            version: VERSION,
            id: attachment.id.clone(),
            network: list.raw().clone(),
            args: attachment.args(),
            capability_args: attachment.capability_args(),
            ifname: ifname.to_owned(),
            netns: attachment.netns.clone(),
        }
    }

    pub(super) fn list(&self) -> Result<NetworkList, serde_json::Error> {
        NetworkList::from_value(self.network.clone()).map_err(serde::de::Error::custom)
    }
}

/// The directory of the intents.
#[derive(Debug, Clone)]
pub(super) struct Intents(PathBuf);

#[derive(Deserialize)]
struct Head {
    version: u32,
}

impl Intents {
    pub(super) fn open(dir: &Path) -> Result<Self, CniError> {
        std::fs::create_dir_all(dir).map_err(CniError::io("make directory", dir))?;
        Ok(Self(dir.to_owned()))
    }

    /// Where the fallback network keeps the addresses that it gave out.
    pub(super) fn leases(&self) -> PathBuf {
        self.0.join("leases")
    }

    fn file(&self, id: &SandboxId) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }

    fn result_file(&self, id: &SandboxId) -> PathBuf {
        self.0.join(format!("{id}.result.json"))
    }

    /// Writes and syncs the intent.
    pub(super) fn write(&self, intent: &Intent) -> Result<(), CniError> {
        let path = self.file(&intent.id);
        if path.exists() {
            return Err(CniError::Exists {
                id: intent.id.clone(),
            });
        }
        let bytes = serde_json::to_vec(intent).map_err(|source| CniError::BadIntent {
            path: path.clone(),
            source,
        })?;
        Ok(write_file(&path, &bytes, Durability::Synced)?)
    }

    /// Keeps the result of ADD.
    pub(super) fn write_result(&self, id: &SandboxId, result: &Value) -> Result<(), CniError> {
        let bytes = result.to_string().into_bytes();
        Ok(write_file(
            &self.result_file(id),
            &bytes,
            Durability::Rename,
        )?)
    }

    /// The intent of a sandbox, if it has one.
    pub(super) fn read(&self, id: &SandboxId) -> Result<Option<Intent>, CniError> {
        let path = self.file(id);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(CniError::io("read", &path))?,
        };
        let parsed = serde_json::from_slice::<Head>(&bytes).and_then(|head| {
            if head.version > VERSION {
                let newer = format!("it has version {}, of a newer daemon", head.version);
                return Err(serde::de::Error::custom(newer));
            }
            serde_json::from_slice(&bytes)
        });
        parsed
            .map(Some)
            .map_err(|source| CniError::BadIntent { path, source })
    }

    /// The result of ADD; `None` where there was none or it was torn.
    pub(super) fn read_result(&self, id: &SandboxId) -> Option<Value> {
        let bytes = std::fs::read(self.result_file(id)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Removes the intent after DEL. The result goes last: an intent without a
    /// result is whole, a result without an intent is never read.
    pub(super) fn remove(&self, id: &SandboxId) -> Result<(), CniError> {
        for path in [self.file(id), self.result_file(id)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(CniError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sandboxes with an intent.
    pub(super) fn ids(&self) -> Result<Vec<SandboxId>, CniError> {
        let list = CniError::io;
        let entries = std::fs::read_dir(&self.0).map_err(list("list", &self.0))?;
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(list("list", &self.0))?.file_name();
            let id = name.to_str().and_then(|n| n.strip_suffix(".json"));
            ids.extend(id.and_then(|id| id.parse().ok()));
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            id: SandboxId::random().unwrap(),
            netns: "/run/netns/x".into(),
            pod_namespace: "ns".into(),
            pod_name: "pod".into(),
            pod_uid: "uid".into(),
            ports: vec![PortMap {
                host_port: 8080,
                container_port: 80,
                protocol: "tcp".into(),
                host_ip: None,
            }],
            bandwidth: None,
            dns: Some((vec!["10.0.0.10".into()], vec![], vec!["ndots:5".into()])),
            annotations: BTreeMap::new(),
            cgroup_path: "/kubepods/pod1".into(),
        }
    }

    #[test]
    fn renders_arguments() {
        let a = attachment();
        assert_eq!(
            a.args(),
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;\
                 K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=uid",
                a.id
            )
        );
        assert_eq!(
            Value::Object(a.capability_args()),
            json!({
                "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
                "dns": {"servers": ["10.0.0.10"], "searches": [], "options": ["ndots:5"]},
                "cgroupPath": "/kubepods/pod1",
            })
        );
    }

    #[test]
    fn an_intent_is_all_that_is_needed() {
        let tmp = tempfile::tempdir().unwrap();
        let intents = Intents::open(tmp.path()).unwrap();
        let list = NetworkList::parse(br#"{"name":"n","type":"ptp"}"#).unwrap();
        let a = attachment();
        let intent = Intent::new(&list, &a, "eth0");
        intents.write(&intent).unwrap();
        assert!(matches!(
            intents.write(&intent),
            Err(CniError::Exists { .. })
        ));
        intents.write_result(&a.id, &json!({"ips": []})).unwrap();
        let read = intents.read(&a.id).unwrap().unwrap();
        assert_eq!(read.list().unwrap(), list);
        assert_eq!(read.capability_args, intent.capability_args);
        assert_eq!(intents.ids().unwrap(), std::slice::from_ref(&a.id));
        std::fs::write(intents.result_file(&a.id), b"").unwrap();
        assert_eq!(intents.read_result(&a.id), None);
        intents.remove(&a.id).unwrap();
        intents.remove(&a.id).unwrap();
        assert!(intents.read(&a.id).unwrap().is_none());
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_newer_intent_is_refused_and_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let intents = Intents::open(tmp.path()).unwrap();
        let id = SandboxId::random().unwrap();
        std::fs::write(intents.file(&id), br#"{"version":2}"#).unwrap();
        assert!(matches!(intents.read(&id), Err(CniError::BadIntent { .. })));
        assert_eq!(intents.ids().unwrap(), [id]);
    }
}
