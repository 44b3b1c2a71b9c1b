//! Which of an index's images this machine runs.

use std::fmt;

use oci_spec::image::{Arch, Descriptor, Os};

/// Architecture and variant of a machine that runs Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Platform {
    arch: Arch,
    /// The highest variant the machine runs: 1 to 4 for amd64 (psABI levels),
    /// 8 and up for arm64.
    level: u8,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}/v{}", self.arch, self.level)
    }
}

impl Platform {
    /// The machine we run on.
    #[must_use]
    pub(super) fn host() -> Self {
        #[cfg(target_arch = "x86_64")]
        return Self::new(Arch::Amd64, amd64_level());
        #[cfg(target_arch = "aarch64")]
        return Self::new(Arch::ARM64, 8);
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        return Self::new(Arch::from(std::env::consts::ARCH), 0);
    }

    /// A machine by its architecture and the highest variant it runs.
    #[must_use]
    pub(super) fn new(arch: Arch, level: u8) -> Self {
        Self { arch, level }
    }

    /// How well an image of this platform fits, higher is better; `None` if it
    /// doesn't run here. No variant means the architecture's first.
    #[must_use]
    pub(super) fn fit(&self, os: &Os, arch: &Arch, variant: Option<&str>) -> Option<u8> {
        if *os != Os::Linux || *arch != self.arch {
            return None;
        }
        let level = match variant.unwrap_or_default() {
            "" => first_level(arch),
            text => text.strip_prefix('v')?.parse().ok()?,
        };
        (level <= self.level).then_some(level)
    }

    /// The manifest for this machine: the highest variant it runs, the first
    /// of equals; where none fits, the first that names no platform.
    #[must_use]
    pub(super) fn choose<'a>(&self, manifests: &'a [Descriptor]) -> Option<&'a Descriptor> {
        let mut best: Option<(u8, &Descriptor)> = None;
        for descriptor in manifests {
            let fit = descriptor
                .platform()
                .as_ref()
                .and_then(|p| self.fit(p.os(), p.architecture(), p.variant().as_deref()));
            if let Some(fit) = fit
                && best.is_none_or(|(other, _)| fit > other)
            {
                best = Some((fit, descriptor));
            }
        }
        let unnamed = || manifests.iter().find(|d| d.platform().is_none());
        best.map(|(_, descriptor)| descriptor).or_else(unnamed)
    }
}

fn first_level(arch: &Arch) -> u8 {
    if *arch == Arch::Amd64 {
        1
    } else if *arch == Arch::ARM64 {
        8
    } else {
        0
    }
}

/// The x86-64 psABI level of the processor.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> u8 {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b");
    let v3 = v2
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("fma")
        && has!("movbe")
        && has!("f16c")
        && has!("lzcnt");
    let v4 = v3
        && has!("avx512f")
        && has!("avx512bw")
        && has!("avx512cd")
        && has!("avx512dq")
        && has!("avx512vl");
    1 + u8::from(v2) + u8::from(v3) + u8::from(v4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::{MediaType, PlatformBuilder, Sha256Digest};
    use std::str::FromStr;

    fn entry(n: u64, platform: Option<(&str, &str, Option<&str>)>) -> Descriptor {
        let digest = Sha256Digest::from_str(&"0".repeat(64)).unwrap();
        let mut descriptor = Descriptor::new(MediaType::ImageManifest, n, digest);
        if let Some((os, arch, variant)) = platform {
            let mut built = PlatformBuilder::default()
                .os(Os::from(os))
                .architecture(Arch::from(arch));
            if let Some(variant) = variant {
                built = built.variant(variant);
            }
            descriptor.set_platform(Some(built.build().unwrap()));
        }
        descriptor
    }

    fn chosen(platform: &Platform, entries: &[Descriptor]) -> Option<u64> {
        platform.choose(entries).map(Descriptor::size)
    }

    #[test]
    fn chooses_what_runs_best() {
        let amd = Platform::new(Arch::Amd64, 3);
        let arm = Platform::new(Arch::ARM64, 8);
        let all = [
            entry(1, Some(("windows", "amd64", None))),
            entry(2, Some(("linux", "amd64", None))),
            entry(3, Some(("linux", "amd64", Some("v3")))),
            entry(4, Some(("linux", "amd64", Some("v4")))),
            entry(5, Some(("linux", "arm", Some("v7")))),
            entry(6, Some(("linux", "arm64", Some("v8")))),
            entry(7, Some(("unknown", "unknown", None))),
        ];
        assert_eq!(chosen(&amd, &all), Some(3));
        assert_eq!(chosen(&arm, &all), Some(6));
        assert_eq!(chosen(&Platform::new(Arch::Amd64, 1), &all), Some(2));
        assert_eq!(chosen(&Platform::new(Arch::PowerPC64le, 0), &all), None);
        assert_eq!(
            chosen(&arm, &[entry(1, Some(("linux", "arm64", None)))]),
            Some(1)
        );
        assert_eq!(chosen(&amd, &[entry(9, None), entry(8, None)]), Some(9));
        assert_eq!(
            chosen(&amd, &[entry(1, Some(("linux", "amd64", Some("vx"))))]),
            None
        );
    }

    #[test]
    fn the_host_runs_its_own_architecture() {
        let host = Platform::host();
        assert!(host.fit(&Os::Linux, &host.arch, None).is_some(), "{host}");
    }
}
