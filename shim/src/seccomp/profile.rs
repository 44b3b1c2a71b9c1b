//! A seccomp profile as it is written in JSON.

use oci_spec::runtime::{
    Arch, Capabilities, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
};
use serde::Deserialize;

/// What to compile.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The profile.
    pub profile: Profile,
    /// Capabilities of the container, for the rules that ask for them.
    #[serde(default)]
    pub capabilities: Capabilities,
}

/// An OCI `LinuxSeccomp` with `archMap` and conditions of rules.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// For system calls without a rule.
    pub default_action: LinuxSeccompAction,
    /// With SCMP_ACT_ERRNO and SCMP_ACT_TRACE.
    #[serde(default)]
    pub default_errno_ret: Option<u32>,
    /// Beside the native one.
    #[serde(default)]
    pub architectures: Option<Vec<Arch>>,
    /// Of seccomp(2); not part of the program.
    #[serde(default)]
    pub flags: Option<Vec<LinuxSeccompFilterFlag>>,
    /// In place of `architectures`: what goes with each native one.
    #[serde(default)]
    pub arch_map: Option<Vec<ArchMapping>>,
    /// The rules.
    #[serde(default)]
    pub syscalls: Option<Vec<Rule>>,
}

/// Architectures whose programs the native one runs too.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchMapping {
    /// The native one.
    pub architecture: Arch,
    /// Those beside it.
    #[serde(default)]
    pub sub_architectures: Option<Vec<Arch>>,
}

/// What to do with some system calls.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Names; those that libseccomp does not know are left out.
    #[serde(default)]
    pub names: Vec<String>,
    /// One name, of an older form of profiles.
    #[serde(default)]
    pub name: Option<String>,
    /// What to do.
    pub action: LinuxSeccompAction,
    /// With SCMP_ACT_ERRNO and SCMP_ACT_TRACE.
    #[serde(default)]
    pub errno_ret: Option<u32>,
    /// Conditions, all of which must hold.
    #[serde(default)]
    pub args: Option<Vec<LinuxSeccompArg>>,
    /// The rule is there only if all of these hold.
    #[serde(default)]
    pub includes: Condition,
    /// The rule is not there if any of these holds.
    #[serde(default)]
    pub excludes: Condition,
}

/// When a rule is part of the profile.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Capabilities of the container.
    #[serde(default)]
    pub caps: Option<Capabilities>,
    /// Names of Go's architectures ("amd64") or of libseccomp's native one.
    #[serde(default)]
    pub arches: Option<Vec<String>>,
    /// "major.minor".
    #[serde(default)]
    pub min_kernel: Option<String>,
}

/// What conditions are asked about.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    pub(super) capabilities: &'a Capabilities,
    /// Go's name of the machine.
    pub(super) architecture: &'a str,
    /// Major and minor.
    pub(super) kernel: (u32, u32),
}

impl Rule {
    pub(super) fn all_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().chain(&self.name).map(String::as_str)
    }

    pub(super) fn applies(&self, facts: &Facts<'_>) -> bool {
        let Condition {
            caps,
            arches,
            min_kernel,
        } = &self.includes;
        let included = caps
            .iter()
            .flatten()
            .all(|cap| facts.capabilities.contains(cap))
            && arches
                .as_ref()
                .is_none_or(|all| all.is_empty() || facts.is_one_of(all))
            && min_kernel
                .as_ref()
                .is_none_or(|least| facts.has_kernel(least));
        let Condition {
            caps,
            arches,
            min_kernel,
        } = &self.excludes;
        let excluded = caps
            .iter()
            .flatten()
            .any(|cap| facts.capabilities.contains(cap))
            || arches.as_ref().is_some_and(|all| facts.is_one_of(all))
            || min_kernel
                .as_ref()
                .is_some_and(|least| facts.has_kernel(least));
        included && !excluded
    }
}

impl Facts<'_> {
    fn is_one_of(&self, architectures: &[String]) -> bool {
        architectures.iter().any(|name| name == self.architecture)
    }

    /// A version that can't be read is one that no kernel has.
    fn has_kernel(&self, least: &str) -> bool {
        parse_kernel(least).is_some_and(|least| self.kernel >= least)
    }
}

/// Major and minor of a release such as "6.18.5-amd64".
pub(super) fn parse_kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applies(rule: &str) -> bool {
        let capabilities = serde_json::from_str(r#"["CAP_SYS_CHROOT"]"#).unwrap();
        let facts = Facts {
            capabilities: &capabilities,
            architecture: "amd64",
            kernel: (6, 1),
        };
        let rule = format!(r#"{{"names":["x"],"action":"SCMP_ACT_ALLOW",{rule}}}"#);
        serde_json::from_str::<Rule>(&rule).unwrap().applies(&facts)
    }

    #[test]
    fn conditions() {
        assert!(applies(r#""includes":{},"excludes":{}"#));
        assert!(applies(r#""includes":{"caps":["CAP_SYS_CHROOT"]}"#));
        assert!(!applies(
            r#""includes":{"caps":["CAP_SYS_CHROOT","CAP_BPF"]}"#
        ));
        assert!(!applies(
            r#""excludes":{"caps":["CAP_SYS_CHROOT","CAP_BPF"]}"#
        ));
        assert!(applies(r#""excludes":{"caps":["CAP_BPF"]}"#));
        assert!(applies(r#""includes":{"arches":["amd64","x32"]}"#));
        assert!(!applies(r#""includes":{"arches":["s390x"]}"#));
        assert!(!applies(r#""excludes":{"arches":["amd64"]}"#));
        assert!(applies(r#""includes":{"minKernel":"4.8"}"#));
        assert!(applies(r#""includes":{"minKernel":"6.1"}"#));
        assert!(!applies(r#""includes":{"minKernel":"6.2"}"#));
    }

    #[test]
    fn kernels() {
        assert_eq!(parse_kernel("6.18.5-amd64"), Some((6, 18)));
        assert_eq!(parse_kernel("5.10"), Some((5, 10)));
        assert_eq!(parse_kernel("six"), None);
    }
}
