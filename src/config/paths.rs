//! Every directory that the daemon owns. All follow from two roots, so that
//! two daemons, and every test, run side by side.

use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::file::value;
use crate::base::id::{Digest, InstanceId};

/// The roots and what lies below them.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
    state: PathBuf,
    socket: PathBuf,
    netns: PathBuf,
}

macro_rules! below {
    ($($(#[$doc:meta])* $name:ident => $base:ident / $part:literal;)+) => {
        $($(#[$doc])* #[must_use] pub fn $name(&self) -> PathBuf { self.$base.join($part) })+
    };
}

impl Paths {
    pub(super) fn new(root: PathBuf, state: PathBuf, socket: PathBuf, netns: PathBuf) -> Self {
        Self {
            root,
            state,
            socket,
            netns,
        }
    }

    /// What survives a reboot.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What does not: a private tmpfs.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The CRI socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where network namespaces are pinned, shared with `ip netns`.
    #[must_use]
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    below! {
        /// Sandbox records and files.
        sandboxes => root / "sandboxes";
        /// Container records, exit records, upper and work directories.
        containers => root / "containers";
        /// CNI intents and results.
        network => root / "network";
        /// Image records, manifests, configurations.
        images => root / "images";
        /// Unpacked layers.
        layers => root / "layers";
        /// Downloads and unpacks in flight.
        staging => root / "staging";
        /// Held by the running daemon, so that a second one with the same root ends at once.
        lock => root / "lock";
        /// Shim sockets.
        shims => state / "shims";
        /// Where shims mount root file systems and stage volumes.
        stage => state / "stage";
        /// libcontainer's own state.
        runtime => state / "runtime";
        /// Pinned ipc, uts, pid and user namespaces.
        namespaces => state / "ns";
        /// The pods' /dev/shm.
        shm => state / "shm";
    }

    /// The instance id: as configured, or the first 8 hex digits of the hash of `root`.
    pub(super) fn instance(&self, text: &str) -> Result<InstanceId, ConfigError> {
        let text = match text {
            "auto" => {
                let digest = Digest::of(self.root.as_os_str().as_encoded_bytes());
                digest.hex().chars().take(8).collect()
            }
            other => other.to_owned(),
        };
        text.parse()
            .map_err(|_| value("instance", text, "is not 1 to 16 of a-z and 0-9"))
    }
}

/// The shim binary: as configured, or beside the daemon's own, or where packages put it.
pub(super) fn shim(configured: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    match configured {
        Some(path) if path.is_absolute() => Ok(path),
        Some(path) if path.as_os_str() != "auto" => Err(value(
            "shim",
            path.display().to_string(),
            "is neither \"auto\" nor an absolute path",
        )),
        _ => {
            let own = std::env::current_exe().map_err(|source| ConfigError::Read {
                path: "/proc/self/exe".into(),
                source,
            })?;
            let beside = own.with_file_name("longshore-shim");
            if beside.exists() {
                Ok(beside)
            } else {
                Ok("/usr/libexec/longshore/longshore-shim".into())
            }
        }
    }
}
