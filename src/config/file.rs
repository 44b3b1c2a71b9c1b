//! The TOML form.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;
use super::paths::Paths;
use super::{
    CgroupDriver, CniConfig, Config, FallbackBridge, ImagesConfig, Overrides, RuntimeConfig,
};

const DIRECTORY: &str = "/etc/longshore";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    root: Option<PathBuf>,
    state: Option<PathBuf>,
    socket: Option<PathBuf>,
    instance: Option<String>,
    log_level: Option<String>,
    shim: Option<PathBuf>,
    cgroup_driver: Option<String>,
    default_runtime: Option<String>,
    runtimes: Option<BTreeMap<String, RawRuntime>>,
    #[serde(default)]
    cni: RawCni,
    #[serde(default)]
    image: RawImage,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRuntime {}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCni {
    conf_dir: Option<PathBuf>,
    bin_dirs: Option<Vec<PathBuf>>,
    timeout_seconds: Option<u64>,
    fallback: Option<String>,
    fallback_bridge: Option<String>,
    fallback_subnet: Option<String>,
    netns_dir: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawImage {
    parallel_layers: Option<usize>,
    progress_timeout_seconds: Option<u64>,
    ca_files: Option<Vec<PathBuf>>,
    pinned: Option<Vec<String>>,
}

/// The files to read, in order.
pub(super) fn files(overrides: &Overrides) -> Result<Vec<PathBuf>, ConfigError> {
    if let Some(file) = &overrides.file {
        return Ok(vec![file.clone()]);
    }
    let directory = Path::new(DIRECTORY);
    let mut files = Vec::new();
    let main = directory.join("config.toml");
    if main.exists() {
        files.push(main);
    }
    let parts = directory.join("config.d");
    match std::fs::read_dir(&parts) {
        Ok(entries) => {
            for entry in entries {
                let path = entry
                    .map_err(|source| ConfigError::Read {
                        path: parts.clone(),
                        source,
                    })?
                    .path();
                if path.extension().is_some_and(|e| e == "toml") {
                    files.push(path);
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(ConfigError::Read {
                path: parts,
                source,
            });
        }
    }
    files.sort();
    Ok(files)
}

pub(super) fn read(path: &Path) -> Result<Raw, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&path.display().to_string(), &text)
}

/// Parses one file; `name` is for messages.
pub(super) fn parse(name: &str, text: &str) -> Result<Raw, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| {
            1 + text
                .bytes()
                .take(span.start)
                .filter(|b| *b == b'\n')
                .count()
        });
        let mut message = format!("line {line}: {}", error.message());
        if let Some(near) = near_key(error.message()) {
            message.push_str(&format!("; did you mean `{near}`?"));
        }
        ConfigError::Parse {
            name: name.to_owned(),
            message,
        }
    })
}

/// The expected key that is most like the unknown one. serde words it as
/// "unknown field `x`, expected one of `a`, `b`"; the backquotes are its only
/// structure.
fn near_key(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message
        .starts_with("unknown field")
        .then(|| quoted.next())
        .flatten()?;
    quoted
        .map(|key| (strsim::damerau_levenshtein(unknown, key), key))
        .min()
        .filter(|(distance, key)| *distance <= key.len().div_ceil(2))
        .map(|(_, key)| key.to_owned())
}

macro_rules! take {
    ($to:expr, $from:expr, $($field:ident),+) => {
        $(if $from.$field.is_some() { $to.$field = $from.$field; })+
    };
}

impl Raw {
    pub(super) fn merge(&mut self, later: Raw) {
        take!(
            self,
            later,
            root,
            state,
            socket,
            instance,
            log_level,
            shim,
            cgroup_driver
        );
        take!(self, later, default_runtime);
        if let Some(runtimes) = later.runtimes {
            self.runtimes.get_or_insert_default().extend(runtimes);
        }
        take!(
            self.cni,
            later.cni,
            conf_dir,
            bin_dirs,
            timeout_seconds,
            fallback
        );
        take!(
            self.cni,
            later.cni,
            fallback_bridge,
            fallback_subnet,
            netns_dir
        );
        take!(
            self.image,
            later.image,
            parallel_layers,
            progress_timeout_seconds,
            ca_files,
            pinned
        );
    }

    /// The command line. A `--state` without a socket of its own moves the socket along.
    pub(super) fn apply(&mut self, over: &Overrides) {
        if let Some(state) = &over.state {
            self.state = Some(state.clone());
            self.socket = Some(state.join("longshore.sock"));
        }
        if let Some(root) = &over.root {
            self.root = Some(root.clone());
        }
        if let Some(socket) = &over.socket {
            self.socket = Some(socket.clone());
        }
        if let Some(fallback) = &over.cni_fallback {
            self.cni.fallback = Some(fallback.clone());
        }
    }

    pub(super) fn validate(self) -> Result<Config, ConfigError> {
        let paths = Paths::new(
            absolute("root", self.root)?,
            absolute("state", self.state)?,
            absolute("socket", self.socket)?,
            absolute("cni.netns_dir", self.cni.netns_dir.clone())?,
        );
        let instance = paths.instance(self.instance.as_deref().unwrap_or("auto"))?;
        let runtimes: BTreeMap<_, _> = self
            .runtimes
            .unwrap_or_default()
            .into_iter()
            .map(|(name, RawRuntime {})| (name, RuntimeConfig {}))
            .collect();
        let default_runtime = self.default_runtime.unwrap_or_default();
        if !runtimes.contains_key(&default_runtime) {
            return Err(value(
                "default_runtime",
                default_runtime,
                "has no [runtimes] section",
            ));
        }
        Ok(Config {
            instance,
            log_level: self.log_level.unwrap_or_default(),
            shim: paths::shim(self.shim)?,
            runtimes,
            default_runtime,
            cgroup_driver: cgroup_driver(self.cgroup_driver)?,
            cni: self.cni.validate()?,
            images: self.image.validate()?,
            paths,
        })
    }
}

use super::paths;

impl RawCni {
    fn validate(self) -> Result<CniConfig, ConfigError> {
        let bridge = self.fallback_bridge.unwrap_or_default();
        if bridge.is_empty() || bridge.len() > 15 || bridge.contains(['/', ' ']) {
            return Err(value(
                "cni.fallback_bridge",
                bridge,
                "is no link name (1 to 15 bytes)",
            ));
        }
        let (subnet, prefix) = subnet(self.fallback_subnet.unwrap_or_default())?;
        let fallback = match self.fallback.as_deref() {
            None | Some("none") => None,
            Some("bridge") => Some(FallbackBridge {
                bridge,
                subnet,
                prefix,
            }),
            Some(other) => {
                return Err(value(
                    "cni.fallback",
                    other,
                    "is neither \"none\" nor \"bridge\"",
                ));
            }
        };
        let bin_dirs = self.bin_dirs.unwrap_or_default();
        for dir in &bin_dirs {
            absolute("cni.bin_dirs", Some(dir.clone()))?;
        }
        Ok(CniConfig {
            conf_dir: absolute("cni.conf_dir", self.conf_dir)?,
            bin_dirs,
            timeout: seconds("cni.timeout_seconds", self.timeout_seconds)?,
            fallback,
        })
    }
}

impl RawImage {
    fn validate(self) -> Result<ImagesConfig, ConfigError> {
        let parallel_layers = self.parallel_layers.unwrap_or_default();
        if !(1..=64).contains(&parallel_layers) {
            let shown = parallel_layers.to_string();
            return Err(value(
                "image.parallel_layers",
                shown,
                "is not between 1 and 64",
            ));
        }
        Ok(ImagesConfig {
            parallel_layers,
            progress_timeout: seconds(
                "image.progress_timeout_seconds",
                self.progress_timeout_seconds,
            )?,
            ca_files: self.ca_files.unwrap_or_default(),
            pinned: self.pinned.unwrap_or_default(),
        })
    }
}

pub(super) fn value(key: &'static str, value: impl Into<String>, why: &'static str) -> ConfigError {
    ConfigError::Value {
        key,
        value: value.into(),
        why,
    }
}

fn absolute(key: &'static str, path: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    let path = path.unwrap_or_default();
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(value(
            key,
            path.display().to_string(),
            "is not an absolute path",
        ))
    }
}

fn seconds(key: &'static str, count: Option<u64>) -> Result<Duration, ConfigError> {
    match count {
        Some(count @ 1..=86_400) => Ok(Duration::from_secs(count)),
        other => {
            let shown = other.unwrap_or_default().to_string();
            Err(value(key, shown, "is not between 1 and 86400 seconds"))
        }
    }
}

fn cgroup_driver(text: Option<String>) -> Result<CgroupDriver, ConfigError> {
    match text.as_deref() {
        Some("cgroupfs") => Ok(CgroupDriver::Cgroupfs),
        other => Err(value(
            "cgroup_driver",
            other.unwrap_or_default(),
            "is not a cgroup driver of this version; it knows \"cgroupfs\"",
        )),
    }
}

fn subnet(text: String) -> Result<(Ipv4Addr, u8), ConfigError> {
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        let (address, prefix) = (address.parse().ok()?, prefix.parse().ok()?);
        (8..=30).contains(&prefix).then_some((address, prefix))
    });
    parsed.ok_or_else(|| {
        value(
            "cni.fallback_subnet",
            text,
            "is no IPv4 subnet with a prefix of 8 to 30 bits",
        )
    })
}
