use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::id::SandboxId;
use crate::store::StoreError;

use super::exec::Verb;

/// There is no usable network; Status reports the reason as it stands here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pod network is not ready: {reason}")]
pub struct NetworkNotReady {
    /// In words for an operator.
    pub reason: String,
}

/// A network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// No configuration to attach by.
    #[error("attach the pod network")]
    NotReady(#[from] NetworkNotReady),
    /// A plugin failed.
    #[error(transparent)]
    Plugin(#[from] Box<PluginFailure>),
    /// More than one plugin failed in a DEL.
    #[error("{} plugins failed: {}", .0.len(), Listed(.0))]
    Plugins(Vec<PluginFailure>),
    /// The attachment has no address.
    #[error("network {network} gave the pod no address")]
    NoAddress {
        /// The network's name.
        network: String,
    },
    /// The intent could not be kept.
    #[error("network intent")]
    Intent(#[from] StoreError),
    /// The sandbox has an intent already.
    #[error("pod sandbox {id} has a network attachment already")]
    Exists {
        /// Which.
        id: SandboxId,
    },
    /// The directory of the intents can't be used.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The intent is no intent of ours, or of a newer daemon.
    #[error("network intent {}", path.display())]
    BadIntent {
        /// Its file; it is left alone.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl CniError {
    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}

struct Listed<'a>(&'a [PluginFailure]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, failure) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{}", crate::base::chain::Chain(failure))?;
        }
        Ok(())
    }
}

/// One call of one plugin that failed.
#[derive(Debug, thiserror::Error)]
#[error("CNI {verb} {plugin} of network {network}")]
pub struct PluginFailure {
    /// What the plugin was asked.
    pub verb: Verb,
    /// The plugin's type.
    pub plugin: String,
    /// The network's name.
    pub network: String,
    /// Why it failed.
    #[source]
    pub cause: PluginCause,
}

/// The error that a plugin prints (CNI specification, "Error").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// 1 to 99 are the specification's, from 100 on the plugin's own.
    #[serde(default)]
    pub code: u32,
    /// Short.
    #[serde(default)]
    pub msg: String,
    /// Long, optional.
    #[serde(default)]
    pub details: String,
}

/// Why a call of a plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginCause {
    /// No such executable in the plugin directories.
    #[error("no such plugin in {dirs}")]
    Missing {
        /// The directories, joined by commas.
        dirs: String,
    },
    /// It could not be run.
    #[error("run {}", path.display())]
    Spawn {
        /// The executable.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed with its process group.
    #[error("no answer within {} s; killed{}", after.as_secs_f32(), Stderr(stderr))]
    Timeout {
        /// How long it was waited for.
        after: Duration,
        /// What it had printed.
        stderr: String,
    },
    /// It said that it failed.
    #[error("{}{}", Words(complaint), Stderr(stderr))]
    Failed {
        /// What it said.
        complaint: Complaint,
        /// What else it printed.
        stderr: String,
    },
    /// It failed without an error in the specified form.
    #[error("{status}{}", Stderr(stderr))]
    Died {
        /// Exit status or signal.
        status: std::process::ExitStatus,
        /// What it printed, stdout where stderr was empty.
        stderr: String,
    },
    /// It printed no result.
    #[error("its result can't be read")]
    Result(#[source] serde_json::Error),
}

struct Words<'a>(&'a Complaint);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.msg)?;
        if !self.0.details.is_empty() {
            write!(f, ": {}", self.0.details)?;
        }
        write!(f, " (code {})", self.0.code)
    }
}

struct Stderr<'a>(&'a str);

impl fmt::Display for Stderr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trim() {
            "" => Ok(()),
            text => write!(f, "; stderr: {text:?}"),
        }
    }
}
