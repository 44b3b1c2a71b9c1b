//! Device nodes and the device cgroup. The runtime's own nodes (`/dev/null`
//! and the like) with their rules are libcontainer's to add.

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{DeviceNode, Inputs};

fn typ(node: &DeviceNode) -> LinuxDeviceType {
    if node.block {
        LinuxDeviceType::B
    } else {
        LinuxDeviceType::C
    }
}

/// Everything is refused first; a privileged container is then given it all.
pub(super) fn rules(inputs: &Inputs<'_>) -> Vec<LinuxDeviceCgroup> {
    let mut all = LinuxDeviceCgroup::default();
    all.set_allow(inputs.config.security.privileged);
    all.set_access(Some("rwm".to_owned()));
    let mut rules = vec![all];
    if !inputs.config.security.privileged {
        rules.extend(inputs.devices.iter().map(|node| {
            let mut rule = LinuxDeviceCgroup::default();
            rule.set_allow(true);
            rule.set_typ(Some(typ(node)));
            rule.set_major(Some(i64::from(node.major)));
            rule.set_minor(Some(i64::from(node.minor)));
            rule.set_access(Some(node.access.clone()));
            rule
        }));
    }
    rules
}

pub(super) fn nodes(inputs: &Inputs<'_>) -> Option<Vec<LinuxDevice>> {
    let nodes: Vec<_> = inputs
        .devices
        .iter()
        .map(|node| {
            let mut device = LinuxDevice::default();
            device.set_path(node.path.clone());
            device.set_typ(typ(node));
            device.set_major(i64::from(node.major));
            device.set_minor(i64::from(node.minor));
            device.set_file_mode(Some(node.mode & 0o7777));
            device.set_uid(Some(node.uid));
            device.set_gid(Some(node.gid));
            device
        })
        .collect();
    (!nodes.is_empty()).then_some(nodes)
}
