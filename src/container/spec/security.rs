//! Capabilities, seccomp, AppArmor, SELinux, privilege.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxCapabilities};

use crate::sandbox::model::{SandboxConfig, SecurityProfile};

use super::super::model::ContainerConfig;
use super::Inputs;
use super::error::SpecError;
use super::host::HostFacts;

/// What an unprivileged container has unless told otherwise.
const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

const CAPABILITIES_FIELD: &str = "config.linux.security_context.capabilities";

/// Which seccomp program the container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompChoice {
    /// None at all: asked for by `Unconfined`, by naming no profile, or by `privileged`.
    None,
    /// The profile in this file on the node (OCI seccomp JSON).
    File(PathBuf),
}

/// Decides the seccomp program.
///
/// # Errors
/// [`SpecError::Unsupported`] for the runtime's default profile, which this
/// version doesn't have: a container is never run unconfined instead.
pub fn seccomp_choice(config: &ContainerConfig) -> Result<SeccompChoice, SpecError> {
    let field = "config.linux.security_context.seccomp";
    if config.security.privileged {
        return Ok(SeccompChoice::None);
    }
    match &config.security.seccomp {
        None | Some(SecurityProfile::Unconfined) => Ok(SeccompChoice::None),
        Some(SecurityProfile::RuntimeDefault) => Err(SpecError::unsupported(
            field,
            "RuntimeDefault: this version has no default seccomp profile yet",
        )),
        Some(SecurityProfile::Localhost(name)) => {
            let path = Path::new(name.strip_prefix("localhost/").unwrap_or(name));
            if path.is_absolute() {
                Ok(SeccompChoice::File(path.to_owned()))
            } else {
                Err(SpecError::invalid(
                    field,
                    format!("localhost profile {name:?} is not an absolute path"),
                ))
            }
        }
    }
}

/// A privileged container needs a pod that allows it.
pub(super) fn check_privileged(inputs: &Inputs<'_>) -> Result<(), SpecError> {
    if inputs.config.security.privileged && !inputs.pod.config.privileged {
        return Err(SpecError::invalid(
            "config.linux.security_context.privileged",
            "the pod sandbox is not privileged",
        ));
    }
    Ok(())
}

/// `ALL` counts first, then single additions, then single drops. The
/// inheritable set stays empty but for what is ambient.
pub(super) fn capabilities(
    config: &ContainerConfig,
    host: &HostFacts,
) -> Result<LinuxCapabilities, SpecError> {
    let wanted = &config.security.capabilities;
    let all: HashSet<Capability> = host.capabilities.iter().copied().collect();
    let mut set: HashSet<Capability> = if config.security.privileged {
        all.clone()
    } else {
        DEFAULT_CAPABILITIES.into_iter().collect()
    };
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    if !config.security.privileged {
        if wanted.add.iter().any(is_all) {
            set.clone_from(&all);
        }
        if wanted.drop.iter().any(is_all) {
            set.clear();
        }
        set.extend(named(&wanted.add)?);
        for capability in named(&wanted.drop)? {
            set.remove(&capability);
        }
    }
    let mut ambient: HashSet<Capability> = named(&wanted.add_ambient)?.into_iter().collect();
    if wanted.add_ambient.iter().any(is_all) {
        ambient.extend(&all);
    }
    set.extend(&ambient);
    let mut out = LinuxCapabilities::default();
    out.set_bounding(Some(set.clone()));
    out.set_effective(Some(set.clone()));
    out.set_permitted(Some(set));
    out.set_inheritable((!ambient.is_empty()).then(|| ambient.clone()));
    out.set_ambient((!ambient.is_empty()).then_some(ambient));
    Ok(out)
}

/// Names with or without `CAP_`, in any case; `ALL` is none of them.
fn named(names: &[String]) -> Result<Vec<Capability>, SpecError> {
    names
        .iter()
        .map(|name| name.to_ascii_uppercase())
        .filter(|name| name != "ALL")
        .map(|name| {
            let short = name.strip_prefix("CAP_").unwrap_or(&name);
            short.parse::<Capability>().map_err(|_| {
                SpecError::invalid(CAPABILITIES_FIELD, format!("{name:?} is no capability"))
            })
        })
        .collect()
}

/// The AppArmor profile; `None` where the kernel has AppArmor off, for naming
/// one there makes the create fail.
pub(super) fn apparmor(
    config: &ContainerConfig,
    host: &HostFacts,
) -> Result<Option<String>, SpecError> {
    let field = "config.linux.security_context.apparmor";
    match &config.security.apparmor {
        None | Some(SecurityProfile::Unconfined) => Ok(None),
        Some(SecurityProfile::RuntimeDefault) if !host.apparmor => Ok(None),
        Some(SecurityProfile::RuntimeDefault) if config.security.privileged => Ok(None),
        Some(SecurityProfile::RuntimeDefault) => Err(SpecError::unsupported(
            field,
            "RuntimeDefault: this version has no default AppArmor profile yet",
        )),
        Some(SecurityProfile::Localhost(name)) => {
            let name = name.strip_prefix("localhost/").unwrap_or(name);
            if !host.apparmor {
                return Err(SpecError::unsupported(
                    field,
                    format!("profile {name:?}: AppArmor is off on this node"),
                ));
            }
            if !host.apparmor_profiles.iter().any(|loaded| loaded == name) {
                return Err(SpecError::invalid(
                    field,
                    format!("profile {name:?} is not loaded on this node"),
                ));
            }
            Ok(Some(name.to_owned()))
        }
    }
}

/// The SELinux label: the container's, else the pod's; `None` where SELinux is off.
pub(super) fn selinux(
    config: &ContainerConfig,
    pod: &SandboxConfig,
    host: &HostFacts,
) -> Result<Option<String>, SpecError> {
    let Some(options) = config.security.selinux.as_ref().or(pod.selinux.as_ref()) else {
        return Ok(None);
    };
    if !host.selinux || config.security.privileged {
        return Ok(None);
    }
    if !options.level.is_empty() && !is_level(&options.level) {
        return Err(SpecError::invalid(
            "config.linux.security_context.selinux_options.level",
            format!("{:?} is no MLS/MCS level", options.level),
        ));
    }
    let or = |value: &str, default: &str| if value.is_empty() { default } else { value }.to_owned();
    Ok(Some(format!(
        "{}:{}:{}:{}",
        or(&options.user, "system_u"),
        or(&options.role, "system_r"),
        or(&options.kind, "container_t"),
        or(&options.level, "s0"),
    )))
}

/// `s0`, `s0-s1`, `s0:c1,c2`, `s0:c1.c5`.
fn is_level(level: &str) -> bool {
    let number = |text: &str, letter: char| {
        text.strip_prefix(letter)
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    level.splitn(2, '-').all(|part| {
        let (sensitivity, categories) = part
            .split_once(':')
            .map_or((part, None), |(s, c)| (s, Some(c)));
        number(sensitivity, 's')
            && categories
                .is_none_or(|list| list.split([',', '.']).all(|category| number(category, 'c')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for good in [
            "s0",
            "s0-s15",
            "s0:c1",
            "s0:c1,c2",
            "s0:c0.c1023",
            "s0-s0:c4,c5",
        ] {
            assert!(is_level(good), "{good}");
        }
        for bad in ["", "s", "s0,c4,c5", "c1", "s0:", "s0:x1", "s0:c1,", "s0 "] {
            assert!(!is_level(bad), "{bad}");
        }
    }

    #[test]
    fn capability_names() {
        let names = ["net_admin", "CAP_SYS_TIME", "all"].map(str::to_owned);
        assert_eq!(
            named(&names).unwrap(),
            [Capability::NetAdmin, Capability::SysTime]
        );
        assert!(named(&["CAP_NONSENSE".to_owned()]).is_err());
    }
}
