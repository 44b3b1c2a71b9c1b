//! The configuration: what the files say, validated, with every default in
//! one place.
//!
//! `file.rs` holds the TOML form, `paths.rs` every directory that the daemon
//! owns. Files are read in this order, later ones win key by key: the embedded
//! defaults, `/etc/longshore/config.toml`, `/etc/longshore/config.d/*.toml` in
//! lexical order, then the command line.

mod error;
mod file;
mod paths;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

pub use error::ConfigError;
pub use paths::Paths;

use crate::base::id::InstanceId;

/// The embedded defaults, as `longshore config default` prints them.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// What the daemon runs by. Built by [`Config::load`] only.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything lies.
    pub paths: Paths,
    /// Part of every name that is visible on the host.
    pub instance: InstanceId,
    /// Log filter in the form of `tracing_subscriber::EnvFilter`.
    pub log_level: String,
    /// The shim binary.
    pub shim: PathBuf,
    /// Runtime handlers by name; the default one answers to the empty name too.
    pub runtimes: BTreeMap<String, RuntimeConfig>,
    /// The handler of a request that names none.
    pub default_runtime: String,
    /// How cgroups are made.
    pub cgroup_driver: CgroupDriver,
    /// Pod network.
    pub cni: CniConfig,
    /// Images.
    pub images: ImagesConfig,
}

/// How cgroups are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// By writing to the cgroup file systems.
    Cgroupfs,
}

/// A runtime handler (RuntimeClass).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimeConfig {}

/// `[cni]`.
#[derive(Debug, Clone)]
pub struct CniConfig {
    /// Network configurations.
    pub conf_dir: PathBuf,
    /// Plugins, searched in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Time for one plugin call.
    pub timeout: Duration,
    /// Network to use while `conf_dir` holds none.
    pub fallback: Option<FallbackBridge>,
}

/// `[cni] fallback = "bridge"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FallbackBridge {
    /// Name of the bridge link, at most 15 bytes.
    pub bridge: String,
    /// Subnet address.
    pub subnet: Ipv4Addr,
    /// Subnet prefix length, 8 to 30.
    pub prefix: u8,
}

/// `[image]`.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// Layers that one pull fetches at the same time.
    pub parallel_layers: usize,
    /// A pull that moves no byte for so long fails.
    pub progress_timeout: Duration,
    /// Further CA certificates for registries, PEM.
    pub ca_files: Vec<PathBuf>,
    /// Images that kubelet's garbage collection must not remove.
    pub pinned: Vec<String>,
}

/// What the command line sets; each wins over the files.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`: this file in place of `/etc/longshore`.
    pub file: Option<PathBuf>,
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--state`.
    pub state: Option<PathBuf>,
    /// `--listen`.
    pub socket: Option<PathBuf>,
    /// `--cni-fallback`.
    pub cni_fallback: Option<String>,
}

impl Config {
    /// Reads the files and the overrides.
    ///
    /// # Errors
    /// [`ConfigError`] naming file, line and key; an unknown key is an error
    /// and names the nearest known one.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut raw = file::parse("embedded defaults", DEFAULT_TOML)?;
        for path in file::files(overrides)? {
            raw.merge(file::read(&path)?);
        }
        raw.apply(overrides);
        raw.validate()
    }

    /// Reads `text` over the defaults, for tests and for `longshore config check`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_text(name: &str, text: &str) -> Result<Self, ConfigError> {
        let mut raw = file::parse("embedded defaults", DEFAULT_TOML)?;
        raw.merge(file::parse(name, text)?);
        raw.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        let config = Config::load(&Overrides {
            file: Some("/dev/null".into()),
            ..Overrides::default()
        })
        .unwrap();
        assert_eq!(config.paths.root().to_str(), Some("/var/lib/longshore"));
        assert!(config.cni.fallback.is_none());
        assert!(config.runtimes.contains_key(&config.default_runtime));
    }

    #[test]
    fn an_unknown_key_names_file_line_and_the_nearest() {
        let error = Config::from_text("a.toml", "[cni]\nconf_dri = \"/x\"\n").unwrap_err();
        let text = crate::base::chain::chain(&error);
        assert!(text.contains("a.toml") && text.contains("line 2"), "{text}");
        assert!(text.contains("did you mean `conf_dir`"), "{text}");
    }

    #[test]
    fn wrong_values_are_refused() {
        for (text, word) in [
            ("root = \"relative\"", "absolute"),
            ("[cni]\nfallback = \"bridg\"", "fallback"),
            (
                "[cni]\nfallback_subnet = \"10.0.0.0/31\"",
                "fallback_subnet",
            ),
            (
                "[cni]\nfallback_bridge = \"a-name-that-is-too-long\"",
                "fallback_bridge",
            ),
            ("default_runtime = \"kata\"", "kata"),
            ("instance = \"UPPER\"", "instance"),
            ("[image]\nparallel_layers = 0", "parallel_layers"),
        ] {
            let error = Config::from_text("t", text).unwrap_err();
            let shown = crate::base::chain::chain(&error);
            assert!(shown.contains(word), "{text}: {shown}");
        }
    }

    #[test]
    fn later_files_win_key_by_key() {
        let config = Config::from_text("t", "[cni]\nfallback = \"bridge\"\n").unwrap();
        assert_eq!(config.cni.conf_dir.to_str(), Some("/etc/cni/net.d"));
        assert_eq!(config.cni.fallback.unwrap().bridge, "longshore0");
    }
}
