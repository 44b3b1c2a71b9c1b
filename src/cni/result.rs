//! Results of ADD (CNI specification, "ADD Success").

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Success {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    /// Versions 0.1.0 and 0.2.0.
    ip4: Option<OldIp>,
    ip6: Option<OldIp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Interface {
    name: String,
    /// The namespace that it is in; empty: the node's.
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Ip {
    address: String,
    #[serde(default)]
    interface: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct OldIp {
    ip: String,
}

/// The addresses of the pod's interface `ifname`, in the result's order. An
/// address that names no interface counts; those of the node's interfaces and
/// of further interfaces in the pod don't.
///
/// # Errors
/// When the result has another form.
pub(super) fn addresses(result: &Value, ifname: &str) -> Result<Vec<IpAddr>, serde_json::Error> {
    let success = Success::deserialize(result)?;
    let mut found = Vec::new();
    for ip in &success.ips {
        let interface = ip
            .interface
            .and_then(|i| success.interfaces.get(usize::try_from(i).ok()?));
        let ours = interface.is_none_or(|i| !i.sandbox.is_empty() && i.name == ifname);
        if ours {
            found.push(parse(&ip.address)?);
        }
    }
    for old in [&success.ip4, &success.ip6].into_iter().flatten() {
        found.push(parse(&old.ip)?);
    }
    Ok(found)
}

/// `address/prefix` or `address`.
fn parse(text: &str) -> Result<IpAddr, serde_json::Error> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    address
        .parse()
        .map_err(|e| serde::de::Error::custom(format!("address {text:?}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn takes_the_addresses_of_the_pods_interface() {
        let ips = |value: Value| {
            addresses(&value, "eth0")
                .map(|ips| ips.iter().map(ToString::to_string).collect::<Vec<_>>())
                .map_err(|e| e.to_string())
        };
        let interfaces = json!([{"name":"cni0"}, {"name":"veth1"},
            {"name":"eth0","sandbox":"/run/netns/x"}, {"name":"net1","sandbox":"/run/netns/x"}]);
        for (name, value, expected) in [
            (
                "1.0 dual stack, other interfaces left out",
                json!({"cniVersion":"1.0.0","interfaces":interfaces,"ips":[
                    {"address":"10.0.0.1/16","interface":0},
                    {"address":"10.0.0.5/16","gateway":"10.0.0.1","interface":2},
                    {"address":"fd00::5/64","interface":2},
                    {"address":"192.168.0.5/24","interface":3}]}),
                vec!["10.0.0.5", "fd00::5"],
            ),
            (
                "0.3.1 without an interface",
                json!({"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.1.0.2/24"}]}),
                vec!["10.1.0.2"],
            ),
            (
                "0.2.0",
                json!({"cniVersion":"0.2.0","ip4":{"ip":"10.2.0.2/24"},"ip6":{"ip":"fd00::2/64"}}),
                vec!["10.2.0.2", "fd00::2"],
            ),
            ("none", json!({"cniVersion":"1.1.0"}), vec![]),
        ] {
            assert_eq!(ips(value).unwrap(), expected, "{name}");
        }
        assert!(ips(json!({"ips":[{"address":"x"}]})).is_err());
        assert!(ips(json!({"ips":7})).is_err());
    }
}
