//! The network that is used while the configuration directory holds none.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::json;

use super::conf::{BadConf, NetworkList};

/// A bridge with addresses from one subnet, masqueraded, with host ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FallbackBridge {
    /// Name of the bridge link, at most 15 bytes.
    pub bridge: String,
    /// Subnet address.
    pub subnet: Ipv4Addr,
    /// Subnet prefix length.
    pub prefix: u8,
}

impl FallbackBridge {
    /// The configuration list, for the standard plugins bridge, host-local and
    /// portmap. `leases` is where host-local keeps the addresses it gave out:
    /// below our own root, as another runtime's network may have the same name.
    ///
    /// # Errors
    /// [`BadConf`] never, short of a mistake in this function.
    pub(super) fn list(&self, leases: &Path) -> Result<NetworkList, BadConf> {
        NetworkList::from_value(json!({
            "cniVersion": "1.0.0",
            "name": "longshore-bridge",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": self.bridge,
                    "isGateway": true,
                    "ipMasq": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": leases,
                        "ranges": [[{"subnet": format!("{}/{}", self.subnet, self.prefix)}]],
                        "routes": [{"dst": "0.0.0.0/0"}]
                    }
                },
                {"type": "portmap", "capabilities": {"portMappings": true}}
            ]
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_valid_list() {
        let bridge = FallbackBridge {
            bridge: "lsh0".into(),
            subnet: Ipv4Addr::new(10, 88, 0, 0),
            prefix: 16,
        };
        let list = bridge.list(Path::new("/leases")).unwrap();
        assert_eq!(
            list.plugin_names().collect::<Vec<_>>(),
            ["bridge", "portmap"]
        );
        assert_eq!(
            list.raw()
                .pointer("/plugins/0/ipam/ranges/0/0/subnet")
                .unwrap(),
            "10.88.0.0/16"
        );
    }
}
