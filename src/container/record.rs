//! What is on disk of a container: enough to destroy it, and to list it.

use std::path::PathBuf;

use longshore_snapshotter::LayerId;
use serde::{Deserialize, Serialize};

use crate::base::id::{ContainerId, ImageId, SandboxId};
use crate::cgroup::CgroupPath;
use crate::store::Record;

use super::model::ContainerConfig;
use super::ports::TaskExit;
use super::spec::ResolvedUser;
use super::state::Exit;

/// The record of one container. Everything else follows from the id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    /// Its id.
    pub id: ContainerId,
    /// Its pod.
    pub sandbox_id: SandboxId,
    /// What it was asked to be.
    pub config: ContainerConfig,
    /// Its image.
    pub image_id: ImageId,
    /// Repository digest of the image.
    pub image_ref: String,
    /// Tag of the image.
    pub image_name: String,
    /// Layers of the image, bottom to top: kept while this exists.
    pub layers: Vec<LayerId>,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Its cgroup.
    pub cgroup: CgroupPath,
    /// Full path of its log; `None`: no log.
    pub log_path: Option<PathBuf>,
    /// Who runs it.
    pub user: ResolvedUser,
    /// Signal that asks it to stop.
    pub stop_signal: i32,
    /// The creation was finished.
    pub created: bool,
    /// How it ended.
    pub exit: Option<Exit>,
}

impl Record for ContainerRecord {
    const KIND: &'static str = "container";
    const VERSION: u32 = 1;
}

/// `exit.json` as the shim writes it.
#[derive(Debug, Deserialize)]
struct ExitFile {
    code: i32,
    oom_killed: bool,
    started_at: i64,
    finished_at: i64,
}

/// Reads the text of an `exit.json`.
///
/// # Errors
/// When it is no such record.
pub(super) fn parse_exit(text: &[u8]) -> Result<TaskExit, serde_json::Error> {
    let file: ExitFile = serde_json::from_slice(text)?;
    Ok(TaskExit {
        code: file.code,
        oom_killed: file.oom_killed,
        started_at: file.started_at,
        finished_at: file.finished_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_shim_writes() {
        let text = br#"{"version":1,"id":"x","pid":7,"code":137,"signal":9,
            "oom_killed":true,"started_at":3,"finished_at":4}"#;
        let exit = parse_exit(text).unwrap();
        assert!(exit.oom_killed);
        assert_eq!((exit.code, exit.started_at, exit.finished_at), (137, 3, 4));
        assert!(parse_exit(b"{\"code\":1").is_err());
    }
}
