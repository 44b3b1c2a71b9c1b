//! What the daemon says about itself and the node.

use std::collections::HashMap;

use longshore_proto::cri::v1;

use crate::base::chain::chain;
use crate::cni::Cni;
use crate::config::{CgroupDriver, Config};

/// The version of the CRI that `VersionResponse.version` names; kubelet asks for this one.
const KUBELET_API_VERSION: &str = "0.1.0";

/// What Version, Status and RuntimeConfig answer from.
#[derive(Debug)]
pub struct Facts {
    /// The configuration in force.
    pub config: Config,
    /// Says whether pods can be attached.
    pub cni: Cni,
}

impl Facts {
    pub(super) fn version(&self) -> v1::VersionResponse {
        v1::VersionResponse {
            version: KUBELET_API_VERSION.to_owned(),
            runtime_name: "longshore".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }
    }

    pub(super) async fn status(&self, verbose: bool) -> v1::StatusResponse {
        let network = match self.cni.ready().await {
            Ok(()) => condition("NetworkReady", None),
            Err(error) => condition(
                "NetworkReady",
                Some(("NetworkPluginNotReady", chain(&error))),
            ),
        };
        // The default handler answers to the empty name too; kubelet looks for both.
        let names = std::iter::once("").chain(self.config.runtimes.keys().map(String::as_str));
        v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", None), network],
            }),
            info: if verbose { self.info() } else { HashMap::new() },
            runtime_handlers: names.map(handler).collect(),
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
                mount_options: false,
            }),
        }
    }

    pub(super) fn runtime_config(&self) -> v1::RuntimeConfigResponse {
        let driver = match self.config.cgroup_driver {
            CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        };
        let linux = v1::LinuxRuntimeConfiguration {
            cgroup_driver: driver.into(),
        };
        v1::RuntimeConfigResponse { linux: Some(linux) }
    }

    /// The node's pod range belongs to the network's own configuration; it is
    /// logged for whoever looks for it here.
    pub(super) fn note_pod_cidr(&self, config: Option<v1::RuntimeConfig>) {
        let cidr = config
            .and_then(|c| c.network_config)
            .map(|n| n.pod_cidr)
            .unwrap_or_default();
        tracing::info!(cidr, "pod CIDR received; the CNI configuration decides");
    }

    fn info(&self) -> HashMap<String, String> {
        let paths = &self.config.paths;
        let config = serde_json::json!({
            "root": paths.root(),
            "state": paths.state(),
            "socket": paths.socket(),
            "instance": self.config.instance.as_str(),
            "defaultRuntime": self.config.default_runtime,
            "cniConfDir": self.config.cni.conf_dir,
            "cniBinDirs": self.config.cni.bin_dirs,
        });
        let networks = format!("{:?}", self.cni.networks());
        HashMap::from([
            ("config".to_owned(), config.to_string()),
            (
                "cniconfig".to_owned(),
                serde_json::Value::from(networks).to_string(),
            ),
        ])
    }
}

fn handler(name: &str) -> v1::RuntimeHandler {
    let features = v1::RuntimeHandlerFeatures {
        recursive_read_only_mounts: true,
        user_namespaces: false,
    };
    v1::RuntimeHandler {
        name: name.to_owned(),
        features: Some(features),
    }
}

/// A condition that holds, or one that doesn't, with reason and message.
fn condition(kind: &str, problem: Option<(&str, String)>) -> v1::RuntimeCondition {
    let status = problem.is_none();
    let (reason, message) = problem.unwrap_or_default();
    v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    }
}
