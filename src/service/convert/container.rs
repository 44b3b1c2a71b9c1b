//! Containers: `ContainerConfig` in, its echo out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longshore_proto::cri::v1;

use super::filter::{id_matches, labels_match};

use super::sandbox::{
    Scope, mapping, mapping_out, namespaces, profile, resources, resources_out, selinux,
};
use super::{BadRequest, bad, hashed, info, int, known, sorted};
use crate::container::model::{
    Capabilities, ContainerConfig, ContainerMetadata, Device, GroupsPolicy, ImageSpec, Mount,
    Propagation, SecurityContext,
};
use crate::container::{ContainerState, ContainerView, ExecOutput};
use crate::sandbox::model::Resources;

/// The configuration of a container.
///
/// # Errors
/// [`BadRequest`] naming the field.
pub fn config(config: v1::ContainerConfig) -> Result<ContainerConfig, BadRequest> {
    let metadata = config
        .metadata
        .ok_or(BadRequest::Missing("config.metadata"))?;
    if metadata.name.is_empty() {
        return Err(BadRequest::Missing("config.metadata.name"));
    }
    let image = config.image.ok_or(BadRequest::Missing("config.image"))?;
    if image.image.is_empty() {
        return Err(BadRequest::Missing("config.image.image"));
    }
    let linux = config.linux.unwrap_or_default();
    Ok(ContainerConfig {
        metadata: ContainerMetadata {
            name: metadata.name,
            attempt: metadata.attempt,
        },
        image: image_spec(image),
        command: config.command,
        args: config.args,
        working_dir: config.working_dir,
        envs: config
            .envs
            .into_iter()
            .map(|env| (env.key, env.value))
            .collect(),
        mounts: config
            .mounts
            .into_iter()
            .map(mount)
            .collect::<Result<_, _>>()?,
        devices: config
            .devices
            .into_iter()
            .map(device)
            .collect::<Result<_, _>>()?,
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        log_path: log_path(config.log_path)?,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: linux.resources.map(resources),
        security: security(linux.security_context.unwrap_or_default())?,
        cdi_devices: config
            .cdi_devices
            .into_iter()
            .map(|device| device.name)
            .collect(),
        stop_signal: signal_number(known("config.stop_signal", config.stop_signal)?),
    })
}

/// CRI `ImageSpec`.
#[must_use]
pub fn image_spec(spec: v1::ImageSpec) -> ImageSpec {
    ImageSpec {
        image: spec.image,
        annotations: sorted(spec.annotations),
        user_specified_image: spec.user_specified_image,
        runtime_handler: spec.runtime_handler,
        image_ref: spec.image_ref,
    }
}

/// The log lies below the sandbox's log directory, wherever that is.
fn log_path(path: String) -> Result<String, BadRequest> {
    if path.split('/').any(|part| part == "..") {
        return Err(bad("config.log_path", path, "leaves the log directory"));
    }
    Ok(path)
}

fn mount(mount: v1::Mount) -> Result<Mount, BadRequest> {
    if !mount.container_path.starts_with('/') {
        return Err(bad(
            "config.mounts.container_path",
            mount.container_path,
            "is not an absolute path",
        ));
    }
    if mount.image.is_none() && !mount.host_path.starts_with('/') {
        return Err(bad(
            "config.mounts.host_path",
            mount.host_path,
            "is not an absolute path",
        ));
    }
    let propagation = match known("config.mounts.propagation", mount.propagation)? {
        v1::MountPropagation::PropagationPrivate => Propagation::Private,
        v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    if mount.recursive_read_only && !mount.readonly {
        let why = "RROUnsupported: recursive_read_only needs readonly";
        return Err(bad("config.mounts.recursive_read_only", true, why));
    }
    if mount.recursive_read_only && propagation != Propagation::Private {
        let why = "RROUnsupported: recursive_read_only needs private propagation";
        return Err(bad("config.mounts.recursive_read_only", true, why));
    }
    Ok(Mount {
        container_path: mount.container_path,
        host_path: mount.host_path,
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation,
        uid_mappings: mount.uid_mappings.iter().map(mapping).collect(),
        gid_mappings: mount.gid_mappings.iter().map(mapping).collect(),
        recursive_read_only: mount.recursive_read_only,
        image: mount.image.map(image_spec),
        image_sub_path: mount.image_sub_path,
        mount_options: mount.mount_options,
    })
}

fn device(device: v1::Device) -> Result<Device, BadRequest> {
    if !device
        .permissions
        .chars()
        .all(|c| matches!(c, 'r' | 'w' | 'm'))
    {
        return Err(bad(
            "config.devices.permissions",
            device.permissions,
            "is not a subset of rwm",
        ));
    }
    Ok(Device {
        container_path: device.container_path,
        host_path: device.host_path,
        permissions: device.permissions,
    })
}

fn security(security: v1::LinuxContainerSecurityContext) -> Result<SecurityContext, BadRequest> {
    let capabilities = security.capabilities.unwrap_or_default();
    let (user, group) = (int(security.run_as_user), int(security.run_as_group));
    if group.is_some() && user.is_none() && security.run_as_username.is_empty() {
        let why = "needs run_as_user or run_as_username";
        return Err(bad(
            "security_context.run_as_group",
            group.unwrap_or_default(),
            why,
        ));
    }
    for (field, id) in [
        ("security_context.run_as_user", user),
        ("security_context.run_as_group", group),
    ] {
        if let Some(id) = id.filter(|id| u32::try_from(*id).is_err()) {
            return Err(bad(field, id, "is no id of 32 bits"));
        }
    }
    #[expect(deprecated, reason = "older kubelets send them")]
    let (old_seccomp, old_apparmor) = (security.seccomp_profile_path, security.apparmor_profile);
    let policy = known(
        "security_context.supplemental_groups_policy",
        security.supplemental_groups_policy,
    )?;
    Ok(SecurityContext {
        capabilities: Capabilities {
            add: capabilities.add_capabilities,
            drop: capabilities.drop_capabilities,
            add_ambient: capabilities.add_ambient_capabilities,
        },
        privileged: security.privileged,
        namespaces: namespaces(security.namespace_options, Scope::Container)?,
        selinux: security.selinux_options.map(selinux),
        run_as_user: user,
        run_as_group: group,
        run_as_username: security.run_as_username,
        readonly_rootfs: security.readonly_rootfs,
        supplemental_groups: security.supplemental_groups,
        groups_policy: match policy {
            v1::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
            v1::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
        },
        no_new_privs: security.no_new_privs,
        masked_paths: security.masked_paths,
        readonly_paths: security.readonly_paths,
        seccomp: profile("security_context.seccomp", security.seccomp, &old_seccomp)?,
        apparmor: profile(
            "security_context.apparmor",
            security.apparmor,
            &old_apparmor,
        )?,
    })
}

/// The first real-time signal that glibc leaves to programs, and the last (`signal(7)`).
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// Signals by their wire value in the order of `signal(7)` names; real-time
/// signals follow from 35 (SIGRTMIN) to 65 (SIGRTMAX).
const SIGNALS: [(v1::Signal, i32); 34] = [
    (v1::Signal::Sigabrt, libc::SIGABRT),
    (v1::Signal::Sigalrm, libc::SIGALRM),
    (v1::Signal::Sigbus, libc::SIGBUS),
    (v1::Signal::Sigchld, libc::SIGCHLD),
    (v1::Signal::Sigcld, libc::SIGCHLD),
    (v1::Signal::Sigcont, libc::SIGCONT),
    (v1::Signal::Sigfpe, libc::SIGFPE),
    (v1::Signal::Sighup, libc::SIGHUP),
    (v1::Signal::Sigill, libc::SIGILL),
    (v1::Signal::Sigint, libc::SIGINT),
    (v1::Signal::Sigio, libc::SIGIO),
    (v1::Signal::Sigiot, libc::SIGIOT),
    (v1::Signal::Sigkill, libc::SIGKILL),
    (v1::Signal::Sigpipe, libc::SIGPIPE),
    (v1::Signal::Sigpoll, libc::SIGPOLL),
    (v1::Signal::Sigprof, libc::SIGPROF),
    (v1::Signal::Sigpwr, libc::SIGPWR),
    (v1::Signal::Sigquit, libc::SIGQUIT),
    (v1::Signal::Sigsegv, libc::SIGSEGV),
    (v1::Signal::Sigstkflt, libc::SIGSTKFLT),
    (v1::Signal::Sigstop, libc::SIGSTOP),
    (v1::Signal::Sigsys, libc::SIGSYS),
    (v1::Signal::Sigterm, libc::SIGTERM),
    (v1::Signal::Sigtrap, libc::SIGTRAP),
    (v1::Signal::Sigtstp, libc::SIGTSTP),
    (v1::Signal::Sigttin, libc::SIGTTIN),
    (v1::Signal::Sigttou, libc::SIGTTOU),
    (v1::Signal::Sigurg, libc::SIGURG),
    (v1::Signal::Sigusr1, libc::SIGUSR1),
    (v1::Signal::Sigusr2, libc::SIGUSR2),
    (v1::Signal::Sigvtalrm, libc::SIGVTALRM),
    (v1::Signal::Sigwinch, libc::SIGWINCH),
    (v1::Signal::Sigxcpu, libc::SIGXCPU),
    (v1::Signal::Sigxfsz, libc::SIGXFSZ),
];

/// The number of a signal; `None` for the runtime's default.
fn signal_number(signal: v1::Signal) -> Option<i32> {
    if signal == v1::Signal::RuntimeDefault {
        return None;
    }
    let named = SIGNALS
        .iter()
        .find(|(named, _)| *named == signal)
        .map(|(_, number)| *number);
    let real_time = signal as i32 - v1::Signal::Sigrtmin as i32 + SIGRTMIN;
    // The wire skips nothing from SIGRTMIN+15 (50) to SIGRTMAX-14 (51).
    Some(named.unwrap_or(real_time))
}

/// The signal of a number, for the status.
#[must_use]
pub fn signal_out(number: i32) -> v1::Signal {
    if (SIGRTMIN..=SIGRTMAX).contains(&number) {
        let wire = number - SIGRTMIN + v1::Signal::Sigrtmin as i32;
        return v1::Signal::try_from(wire).unwrap_or(v1::Signal::RuntimeDefault);
    }
    let named = SIGNALS.iter().find(|(_, known)| *known == number);
    named.map_or(v1::Signal::RuntimeDefault, |(signal, _)| *signal)
}

/// The metadata as it came.
#[must_use]
pub fn metadata_out(metadata: &ContainerMetadata) -> v1::ContainerMetadata {
    v1::ContainerMetadata {
        name: metadata.name.clone(),
        attempt: metadata.attempt,
    }
}

/// The image as it came.
#[must_use]
pub fn image_spec_out(spec: &ImageSpec) -> v1::ImageSpec {
    v1::ImageSpec {
        image: spec.image.clone(),
        annotations: hashed(&spec.annotations),
        user_specified_image: spec.user_specified_image.clone(),
        runtime_handler: spec.runtime_handler.clone(),
        image_ref: spec.image_ref.clone(),
    }
}

/// A mount as it came: paths, propagation and read-only flags are compared by users.
#[must_use]
pub fn mount_out(mount: &Mount) -> v1::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => v1::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation as i32,
        uid_mappings: mount.uid_mappings.iter().map(mapping_out).collect(),
        gid_mappings: mount.gid_mappings.iter().map(mapping_out).collect(),
        recursive_read_only: mount.recursive_read_only,
        image: mount.image.as_ref().map(image_spec_out),
        image_sub_path: mount.image_sub_path.clone(),
        mount_options: mount.mount_options.clone(),
    }
}

/// The resources as they are in force.
#[must_use]
pub fn container_resources_out(resources: &Resources) -> v1::ContainerResources {
    v1::ContainerResources {
        linux: Some(resources_out(resources)),
        windows: None,
    }
}

fn state_out(state: ContainerState) -> v1::ContainerState {
    match state {
        ContainerState::Created => v1::ContainerState::ContainerCreated,
        ContainerState::Running => v1::ContainerState::ContainerRunning,
        ContainerState::Exited => v1::ContainerState::ContainerExited,
    }
}

/// The answer of ListContainers.
#[must_use]
pub fn items(
    filter: Option<&v1::ContainerFilter>,
    views: &[Arc<ContainerView>],
) -> Vec<v1::Container> {
    let listed = views
        .iter()
        .filter_map(|view| Some((view, state_out(view.state()?))));
    listed
        .filter(|(view, state)| passes(filter, view, *state))
        .map(|(view, state)| item(view, state))
        .collect()
}

fn passes(
    filter: Option<&v1::ContainerFilter>,
    view: &ContainerView,
    state: v1::ContainerState,
) -> bool {
    filter.is_none_or(|filter| {
        id_matches(&filter.id, view.id.as_str())
            && id_matches(&filter.pod_sandbox_id, view.sandbox_id.as_str())
            && filter.state.is_none_or(|asked| asked.state == state as i32)
            && labels_match(&filter.label_selector, &view.config.labels)
    })
}

fn item(view: &ContainerView, state: v1::ContainerState) -> v1::Container {
    v1::Container {
        id: view.id.to_string(),
        pod_sandbox_id: view.sandbox_id.to_string(),
        metadata: Some(metadata_out(&view.config.metadata)),
        image: Some(image_spec_out(&view.config.image)),
        image_ref: view.image_ref.clone(),
        state: state as i32,
        created_at: view.created_at,
        labels: hashed(&view.config.labels),
        annotations: hashed(&view.config.annotations),
        image_id: view.image_id.clone(),
    }
}

/// The answer of ContainerStatus; `None` for a container that clients don't see.
#[must_use]
pub fn status_reply(view: &ContainerView, verbose: bool) -> Option<v1::ContainerStatusResponse> {
    Some(v1::ContainerStatusResponse {
        status: Some(status(view, state_out(view.state()?))),
        info: info(verbose, || view.info()),
    })
}

fn status(view: &ContainerView, state: v1::ContainerState) -> v1::ContainerStatus {
    let image = v1::ImageSpec {
        image: view.image_name.clone(),
        ..image_spec_out(&view.config.image)
    };
    let log_path = view.log_path.as_deref().unwrap_or(Path::new(""));
    v1::ContainerStatus {
        id: view.id.to_string(),
        metadata: Some(metadata_out(&view.config.metadata)),
        state: state as i32,
        created_at: view.created_at,
        started_at: view.started_at(),
        finished_at: view.finished_at(),
        exit_code: view.exit_code(),
        image: Some(image),
        image_ref: view.image_ref.clone(),
        reason: view.reason().to_owned(),
        message: view.message().to_owned(),
        labels: hashed(&view.config.labels),
        annotations: hashed(&view.config.annotations),
        mounts: view.config.mounts.iter().map(mount_out).collect(),
        log_path: log_path.display().to_string(),
        resources: view.config.resources.as_ref().map(container_resources_out),
        image_id: view.image_id.clone(),
        user: Some(user_out(view)),
        stop_signal: signal_out(view.stop_signal) as i32,
    }
}

fn user_out(view: &ContainerView) -> v1::ContainerUser {
    v1::ContainerUser {
        linux: Some(v1::LinuxContainerUser {
            uid: view.user.uid.into(),
            gid: view.user.gid.into(),
            supplemental_groups: view.user.groups.iter().copied().map(i64::from).collect(),
        }),
    }
}

/// The answer of ExecSync.
#[must_use]
pub fn exec_reply(output: ExecOutput) -> v1::ExecSyncResponse {
    v1::ExecSyncResponse {
        stdout: output.stdout,
        stderr: output.stderr,
        exit_code: output.exit_code,
    }
}

/// Seconds of the wire as a duration; a negative count is no time at all.
#[must_use]
pub fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "c".into(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: "i".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn metadata_and_image_are_demanded() {
        let mut no_metadata = minimal();
        no_metadata.metadata = None;
        assert_eq!(
            config(no_metadata).unwrap_err(),
            BadRequest::Missing("config.metadata")
        );
        let mut no_image = minimal();
        no_image.image = None;
        assert_eq!(
            config(no_image).unwrap_err(),
            BadRequest::Missing("config.image")
        );
    }

    #[test]
    fn every_signal_goes_both_ways() {
        for wire in 1..=65 {
            let signal = v1::Signal::try_from(wire).unwrap();
            let number = signal_number(signal).unwrap();
            assert!((1..=64).contains(&number), "{signal:?} is {number}");
            assert_eq!(
                signal_number(signal_out(number)),
                Some(number),
                "{signal:?}"
            );
        }
        assert_eq!(signal_number(v1::Signal::Sigrtmaxminus14), Some(50));
        assert_eq!(signal_number(v1::Signal::Sigrtmax), Some(64));
        assert_eq!(signal_number(v1::Signal::RuntimeDefault), None);
    }

    #[test]
    fn a_group_needs_a_user() {
        let mut c = minimal();
        c.linux = Some(v1::LinuxContainerConfig {
            security_context: Some(v1::LinuxContainerSecurityContext {
                run_as_group: Some(v1::Int64Value { value: 5 }),
                ..Default::default()
            }),
            ..Default::default()
        });
        assert!(config(c.clone()).is_err());
        c.linux
            .as_mut()
            .unwrap()
            .security_context
            .as_mut()
            .unwrap()
            .run_as_username = "u".into();
        assert!(config(c).is_ok());
    }

    #[test]
    fn mounts_are_checked_and_echoed() {
        let good = v1::Mount {
            container_path: "/c".into(),
            host_path: "/h".into(),
            readonly: true,
            propagation: 1,
            ..Default::default()
        };
        let spoil: [fn(&mut v1::Mount); 4] = [
            |m| m.container_path = "c".into(),
            |m| m.host_path = "h".into(),
            |m| m.recursive_read_only = true,
            |m| m.propagation = 9,
        ];
        let with = |mount: v1::Mount| {
            config(v1::ContainerConfig {
                mounts: vec![mount],
                ..minimal()
            })
        };
        assert_eq!(mount_out(&with(good.clone()).unwrap().mounts[0]), good);
        for change in spoil {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(with(bad.clone()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_log_path_stays_below_its_directory() {
        let with = |path: &str| {
            config(v1::ContainerConfig {
                log_path: path.into(),
                ..minimal()
            })
        };
        assert!(with("c/0.log").is_ok());
        assert!(with("../0.log").is_err());
    }
}
