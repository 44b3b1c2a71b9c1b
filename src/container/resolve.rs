//! What must be asked of the host before a spec can be made: volumes' sources
//! and device nodes. Blocks.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::error::StepError;
use super::model::{ContainerConfig, Device, Propagation};
use super::spec::{DeviceNode, Peers, Source, SpecError};

/// Where each volume comes from: symbolic links resolved, a missing directory
/// made (0755), as kubelet's tests and both established runtimes have it.
pub(super) fn sources(config: &ContainerConfig) -> Result<Vec<Source>, StepError> {
    let propagated = |m: &super::model::Mount| m.propagation != Propagation::Private;
    let mountinfo = if config.mounts.iter().any(propagated) {
        let path = "/proc/self/mountinfo";
        fs::read_to_string(path).map_err(StepError::host("read", path))?
    } else {
        String::new()
    };
    let source = |mount: &super::model::Mount| {
        if mount.image.is_some() {
            let problem = "image volumes are not in this version";
            return Err(SpecError::unsupported("config.mounts.image", problem).into());
        }
        let path = existing(Path::new(&mount.host_path))?;
        let peers = peers_of(&mountinfo, &path);
        Ok(Source { path, peers })
    };
    config.mounts.iter().map(source).collect()
}

fn existing(path: &Path) -> Result<PathBuf, StepError> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .map_err(StepError::host("make the missing volume source", path))?;
            fs::canonicalize(path).map_err(StepError::host("resolve volume source", path))
        }
        Err(error) => Err(StepError::host("resolve volume source", path)(error)),
    }
}

/// The propagation of the mount that `path` lies on. The last one at a mount
/// point is the one on top.
fn peers_of(mountinfo: &str, path: &Path) -> Peers {
    let mut best = (0, Peers::Private);
    for line in mountinfo.lines() {
        let Some((front, _)) = line.split_once(" - ") else {
            continue;
        };
        let mut fields = front.split(' ').skip(4);
        let Some(point) = fields.next().map(unescape) else {
            continue;
        };
        let length = point.components().count();
        if path.starts_with(&point) && length >= best.0 {
            let tags: Vec<&str> = fields.skip(1).collect();
            let has = |tag: &str| tags.iter().any(|t| t.starts_with(tag));
            let peers = match (has("shared:"), has("master:")) {
                (true, _) => Peers::Shared,
                (false, true) => Peers::Slave,
                (false, false) => Peers::Private,
            };
            best = (length, peers);
        }
    }
    best.1
}

fn unescape(text: &str) -> PathBuf {
    let mut out = text.to_owned();
    for (escape, plain) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        out = out.replace(escape, plain);
    }
    PathBuf::from(out)
}

/// The nodes behind the request's devices; all of the host's for a privileged
/// container.
pub(super) fn devices(config: &ContainerConfig) -> Result<Vec<DeviceNode>, StepError> {
    if !config.cdi_devices.is_empty() {
        let problem = "CDI devices are not in this version";
        return Err(SpecError::unsupported("config.CDI_devices", problem).into());
    }
    let mut nodes = Vec::new();
    if config.security.privileged {
        let everything = Device {
            container_path: "/dev".to_owned(),
            host_path: "/dev".to_owned(),
            permissions: "rwm".to_owned(),
        };
        walk(
            Path::new("/dev"),
            Path::new("/dev"),
            &everything,
            &mut nodes,
        )?;
    }
    for device in &config.devices {
        check_access(&device.permissions)?;
        let host = fs::canonicalize(&device.host_path)
            .map_err(StepError::host("find device", &device.host_path))?;
        let inside = if device.container_path.is_empty() {
            Path::new(&device.host_path)
        } else {
            Path::new(&device.container_path)
        };
        nodes.retain(|node: &DeviceNode| node.path != inside);
        let meta = fs::metadata(&host).map_err(StepError::host("find device", &host))?;
        if meta.is_dir() {
            walk(&host, inside, device, &mut nodes)?;
        } else {
            let node = node(&meta, inside, device).ok_or_else(|| {
                let problem = format!("{} is neither a device nor a directory", host.display());
                SpecError::invalid("config.devices", problem)
            })?;
            nodes.push(node);
        }
    }
    Ok(nodes)
}

fn check_access(access: &str) -> Result<(), SpecError> {
    if access.is_empty() || access.bytes().any(|b| !b"rwm".contains(&b)) {
        return Err(SpecError::invalid(
            "config.devices.permissions",
            format!("{access:?} is not made of r, w and m"),
        ));
    }
    Ok(())
}

/// What a container has of its own below /dev.
const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".udev"];

fn walk(
    host: &Path,
    inside: &Path,
    device: &Device,
    nodes: &mut Vec<DeviceNode>,
) -> Result<(), StepError> {
    let entries = fs::read_dir(host).map_err(StepError::host("list devices of", host))?;
    for entry in entries {
        let entry = entry.map_err(StepError::host("list devices of", host))?;
        let name = entry.file_name();
        if host == Path::new("/dev") && OWN.iter().any(|own| name == *own) {
            continue;
        }
        // A node may go away meanwhile; links are not followed.
        let Ok(meta) = entry.metadata() else { continue };
        let inside = inside.join(&name);
        if meta.is_dir() {
            walk(&entry.path(), &inside, device, nodes)?;
        } else if let Some(node) = node(&meta, &inside, device) {
            nodes.push(node);
        }
    }
    Ok(())
}

fn node(meta: &fs::Metadata, inside: &Path, device: &Device) -> Option<DeviceNode> {
    let kind = meta.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return None;
    }
    Some(DeviceNode {
        path: inside.to_owned(),
        block: kind.is_block_device(),
        major: u32::try_from(nix::sys::stat::major(meta.rdev())).ok()?,
        minor: u32::try_from(nix::sys::stat::minor(meta.rdev())).ok()?,
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        access: device.permissions.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fake;
    use super::super::model::Mount;
    use super::*;

    #[test]
    fn the_deepest_mount_decides() {
        let text = "\
1 0 8:1 / / rw shared:1 - ext4 x rw
2 1 8:2 / /a rw,relatime - ext4 x rw
3 2 8:3 / /a/b\\040c rw master:4 propagate_from:2 - ext4 x rw
4 2 8:3 / /a/s rw shared:7 master:4 - ext4 x rw
";
        for (path, wanted) in [
            ("/x", Peers::Shared),
            ("/ab", Peers::Shared),
            ("/a/x", Peers::Private),
            ("/a/b c/d", Peers::Slave),
            ("/a/s", Peers::Shared),
        ] {
            assert_eq!(peers_of(text, Path::new(path)), wanted, "{path}");
        }
        assert_eq!(peers_of("", Path::new("/x")), Peers::Private);
    }

    #[test]
    fn a_missing_source_is_made_and_links_are_resolved() {
        let tmp = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(tmp.path()).unwrap();
        std::os::unix::fs::symlink(&root, root.join("link")).unwrap();
        let mut config = fake::config("c");
        config.mounts = vec![Mount {
            container_path: "/v".into(),
            host_path: root.join("link/new/deep").display().to_string(),
            ..Mount::default()
        }];
        let sources = sources(&config).unwrap();
        assert_eq!(sources[0].path, root.join("new/deep"));
        let mode = fs::metadata(root.join("new/deep")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn device_nodes_files_and_refusals() {
        let mut config = fake::config("c");
        let device = |host: &str, permissions: &str| Device {
            container_path: "/dev/x".into(),
            host_path: host.into(),
            permissions: permissions.into(),
        };
        config.devices = vec![device("/dev/null", "rw")];
        let nodes = devices(&config).unwrap();
        assert_eq!((nodes[0].major, nodes[0].minor), (1, 3));
        assert_eq!(nodes[0].path, Path::new("/dev/x"));
        assert!(!nodes[0].block);
        for bad in [
            device("/dev/null", "rx"),
            device("/dev/null", ""),
            device("/proc/version", "r"),
        ] {
            config.devices = vec![bad];
            assert!(matches!(devices(&config), Err(StepError::Spec(_))));
        }
        config.devices = vec![device("/dev/does-not-exist", "r")];
        assert!(matches!(devices(&config), Err(StepError::Host { .. })));
    }
}
