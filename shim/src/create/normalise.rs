//! The spec as libcontainer 0.7 must see it. Every change here works around
//! one gap of the crate, and each is undone or done better by the worker, by
//! the staging of the volumes, or by the executor.

use std::path::Path;

use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxIdMapping,
    LinuxNamespaceType, Mount, Process, Spec,
};

use super::error::CreateError;

/// What of the machine the normalisation depends on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts {
    pub(super) apparmor: bool,
    pub(super) selinux: bool,
}

impl Facts {
    pub(super) fn of_this_machine() -> Facts {
        let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        Facts {
            apparmor: enabled.is_ok_and(|text| text.starts_with('Y')),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        }
    }
}

/// The spec to hand to libcontainer: `staged` are its mounts with every bind
/// volume's source replaced, `rootfs` the mounted root, `tty` whether init
/// gets a console.
pub(super) fn normalise(
    spec: &Spec,
    staged: Vec<Mount>,
    rootfs: &Path,
    tty: bool,
    facts: Facts,
) -> Result<Spec, CreateError> {
    let mut spec = spec.clone();
    let shared = spec.mounts().iter().flatten().any(is_bidirectional);
    spec.set_mounts(Some(staged));

    let mut root = spec.root().clone().unwrap_or_default();
    root.set_path(rootfs.to_owned());
    spec.set_root(Some(root));

    let mut process = spec.process().clone().ok_or_else(|| missing("process"))?;
    process.set_terminal(Some(tty));
    // Only a present `true` takes effect early enough; a present `false`
    // makes the crate load filters after it gave up the right to.
    let no_new_privileges = process.no_new_privileges().filter(|set| *set);
    process.set_no_new_privileges(no_new_privileges);
    let wanted = process.capabilities().clone().unwrap_or_default();
    process.set_capabilities(Some(executor_capabilities(&wanted)));
    // The worker has set it, clamped; init inherits it.
    process.set_oom_score_adj(None);
    if !facts.apparmor {
        process.set_apparmor_profile(None);
    }
    // Written by the executor: the crate doesn't.
    process.set_selinux_label(None);
    spec.set_process(Some(process));

    let mut linux = spec.linux().clone().ok_or_else(|| missing("linux"))?;
    linux.set_seccomp(None);
    // The crate refuses rshared and rslave, and shares every volume with the
    // host where it is shared; staged volumes carry their own propagation.
    linux.set_rootfs_propagation(shared.then(|| "shared".to_owned()));
    if !facts.selinux {
        linux.set_mount_label(None);
    }
    spec.set_linux(Some(linux));
    Ok(spec)
}

fn missing(what: &str) -> CreateError {
    CreateError::Invalid(format!("spec without {what}"))
}

/// What is asked for, and what the executor needs to bring it about: SETPCAP
/// to drop from the bounding set, SYS_ADMIN to load a filter without
/// no_new_privs and to make /sys/fs/cgroup read-only. The executor gives both
/// up before it executes the program. Ambient capabilities are its to raise.
fn executor_capabilities(wanted: &LinuxCapabilities) -> LinuxCapabilities {
    let with = |set: &Option<Capabilities>| -> Capabilities {
        let mut set = set.clone().unwrap_or_default();
        set.insert(Capability::SysAdmin);
        set.insert(Capability::Setpcap);
        set
    };
    let mut caps = LinuxCapabilitiesBuilder::default()
        .build()
        .unwrap_or_default();
    caps.set_bounding(Some(with(wanted.bounding())));
    caps.set_effective(Some(with(wanted.effective())));
    caps.set_permitted(Some(with(wanted.permitted())));
    caps.set_inheritable(Some(wanted.inheritable().clone().unwrap_or_default()));
    caps.set_ambient(Some(Capabilities::default()));
    caps
}

pub(super) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") || has_option(mount, &["bind", "rbind"])
}

pub(super) fn has_option(mount: &Mount, names: &[&str]) -> bool {
    mount
        .options()
        .iter()
        .flatten()
        .any(|option| names.contains(&option.as_str()))
}

pub(super) fn is_bidirectional(mount: &Mount) -> bool {
    is_bind(mount) && has_option(mount, &["shared", "rshared"])
}

/// The path of the user namespace that the container joins.
pub(super) fn userns_path(spec: &Spec) -> Option<&Path> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    let user = namespaces
        .iter()
        .find(|ns| ns.typ() == LinuxNamespaceType::User)?;
    user.path().as_deref()
}

/// `id` of the container as the host sees it.
pub(super) fn host_id(mappings: Option<&Vec<LinuxIdMapping>>, id: u32) -> u32 {
    let Some(mappings) = mappings.filter(|mappings| !mappings.is_empty()) else {
        return id;
    };
    mappings
        .iter()
        .find_map(|map| {
            let offset = id
                .checked_sub(map.container_id())
                .filter(|off| *off < map.size())?;
            map.host_id().checked_add(offset)
        })
        // What isn't mapped is nobody.
        .unwrap_or(65534)
}

/// Host ids of a user and group of the container.
pub(super) fn host_owner(spec: &Spec, uid: u32, gid: u32) -> (u32, u32) {
    let linux = spec.linux().as_ref();
    (
        host_id(linux.and_then(|linux| linux.uid_mappings().as_ref()), uid),
        host_id(linux.and_then(|linux| linux.gid_mappings().as_ref()), gid),
    )
}

/// The environment with HOME in it. Besides what the program expects, it
/// keeps the crate from asking libc for the home directory: that would load
/// name service modules out of the container's own file system while init
/// still has more capabilities than it is meant to have.
pub(super) fn with_home(process: &mut Process, home: &str) {
    let mut env = process.env().clone().unwrap_or_default();
    let set = env
        .iter()
        .any(|entry| entry.strip_prefix("HOME=").is_some_and(|v| !v.is_empty()));
    if set {
        return;
    }
    env.retain(|entry| !entry.starts_with("HOME="));
    env.push(format!("HOME={home}"));
    process.set_env(Some(env));
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxIdMappingBuilder, MountBuilder};

    fn spec(json: &serde_json::Value) -> Spec {
        serde_json::from_value(json.clone()).unwrap()
    }

    fn base() -> serde_json::Value {
        serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["true"],
                "noNewPrivileges": false, "oomScoreAdj": -998,
                "apparmorProfile": "p", "selinuxLabel": "l",
                "capabilities": {
                    "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"],
                    "permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]
                }
            },
            "linux": {
                "rootfsPropagation": "rslave", "mountLabel": "m",
                "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}
            }
        })
    }

    fn bind(options: &[&str]) -> Mount {
        MountBuilder::default()
            .destination("/v")
            .source("/src")
            .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
            .build()
            .unwrap()
    }

    #[test]
    fn gaps_are_closed() {
        let out = normalise(
            &spec(&base()),
            vec![],
            Path::new("/r"),
            false,
            Facts::default(),
        )
        .unwrap();
        let process = out.process().as_ref().unwrap();
        assert_eq!(
            process.no_new_privileges(),
            None,
            "a present false breaks the crate"
        );
        assert_eq!(process.oom_score_adj(), None);
        assert_eq!(process.apparmor_profile(), &None);
        assert_eq!(process.selinux_label(), &None);
        let caps = process.capabilities().as_ref().unwrap();
        let want: Capabilities = [Capability::Kill, Capability::SysAdmin, Capability::Setpcap]
            .into_iter()
            .collect();
        assert_eq!(caps.bounding().as_ref(), Some(&want));
        assert_eq!(caps.effective().as_ref(), Some(&want));
        assert_eq!(caps.permitted().as_ref(), Some(&want));
        assert_eq!(caps.ambient().as_ref().map(|set| set.len()), Some(0));
        let linux = out.linux().as_ref().unwrap();
        assert!(linux.seccomp().is_none());
        assert_eq!(linux.rootfs_propagation(), &None);
        assert_eq!(linux.mount_label(), &None);
        assert_eq!(out.root().as_ref().unwrap().path(), Path::new("/r"));
    }

    #[test]
    fn present_lsms_and_a_true_no_new_privs_stay() {
        let mut json = base();
        json["process"]["noNewPrivileges"] = true.into();
        let facts = Facts {
            apparmor: true,
            selinux: true,
        };
        let out = normalise(&spec(&json), vec![], Path::new("/r"), true, facts).unwrap();
        let process = out.process().as_ref().unwrap();
        assert_eq!(process.no_new_privileges(), Some(true));
        assert_eq!(process.apparmor_profile().as_deref(), Some("p"));
        assert_eq!(process.terminal(), Some(true));
        assert_eq!(
            out.linux().as_ref().unwrap().mount_label().as_deref(),
            Some("m")
        );
    }

    #[test]
    fn the_root_is_shared_only_for_a_bidirectional_volume() {
        for (options, shared) in [
            (vec!["rbind", "rslave"], false),
            (vec!["rbind", "rprivate"], false),
            (vec!["rbind", "rshared"], true),
            (vec!["shared"], false),
        ] {
            let mut spec = spec(&base());
            spec.set_mounts(Some(vec![bind(&options)]));
            let out = normalise(&spec, vec![], Path::new("/r"), false, Facts::default()).unwrap();
            let propagation = out.linux().as_ref().unwrap().rootfs_propagation().clone();
            assert_eq!(
                propagation.as_deref() == Some("shared"),
                shared,
                "{options:?}"
            );
        }
    }

    #[test]
    fn ids_of_the_container_on_the_host() {
        let map = |container, host, size| {
            LinuxIdMappingBuilder::default()
                .container_id(container)
                .host_id(host)
                .size(size)
                .build()
                .unwrap()
        };
        let maps = vec![
            map(0u32, 100_000u32, 1000u32),
            map(1000u32, 500_000u32, 10u32),
        ];
        for (id, host) in [(0, 100_000), (999, 100_999), (1000, 500_000), (1010, 65534)] {
            assert_eq!(host_id(Some(&maps), id), host);
        }
        assert_eq!(host_id(None, 7), 7);
        assert_eq!(host_id(Some(&vec![]), 7), 7);
    }

    #[test]
    fn home_is_always_set() {
        for (env, want) in [
            (vec!["A=1"], vec!["A=1", "HOME=/h"]),
            (vec!["HOME=/x", "A=1"], vec!["HOME=/x", "A=1"]),
            (vec!["HOME=", "A=1"], vec!["A=1", "HOME=/h"]),
        ] {
            let mut process = Process::default();
            process.set_env(Some(env.into_iter().map(str::to_owned).collect()));
            with_home(&mut process, "/h");
            assert_eq!(process.env().as_ref().unwrap(), &want);
        }
    }
}
