//! The exit of the container's init, written to a file before anybody is
//! told, so that a daemon which was away learns the code from the disk.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Version of the file's form.
pub const VERSION: u32 = 1;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Exit status, or 128 + signal.
    pub code: i32,
    /// The signal that killed it, 0: none.
    pub signal: i32,
}

impl Status {
    /// From the status word of waitpid(2).
    #[must_use]
    pub fn from_wait(word: i32) -> Status {
        let signal = word & 0x7f;
        if signal == 0 {
            Status {
                code: (word >> 8) & 0xff,
                signal: 0,
            }
        } else {
            Status {
                code: 128 + signal,
                signal,
            }
        }
    }
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Container id.
    pub id: String,
    /// Process id of init in the shim's PID namespace.
    pub pid: i32,
    /// Exit status, or 128 + signal.
    pub code: i32,
    /// The signal that killed it, 0: none.
    pub signal: i32,
    /// The kernel's OOM killer hit the container's cgroup.
    pub oom_killed: bool,
    /// CLOCK_REALTIME in nanoseconds; 0: was never started.
    pub started_at: i64,
    /// CLOCK_REALTIME in nanoseconds, never before `started_at`.
    pub finished_at: i64,
}

/// Why the record could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It has no JSON form.
    #[error("encode exit record")]
    Encode(#[source] serde_json::Error),
    /// A file operation failed.
    #[error("{operation} exit record {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl ExitRecord {
    /// Writes the record to `path` by rename, so that a reader sees all of it
    /// or nothing. Not synced: the daemon syncs records in groups.
    ///
    /// # Errors
    /// The step that failed.
    pub fn write(&self, path: &Path) -> Result<(), RecordError> {
        let bytes = serde_json::to_vec(self).map_err(RecordError::Encode)?;
        let mut name = path.as_os_str().to_owned();
        name.push(".tmp");
        let temporary = PathBuf::from(name);
        let fail = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| RecordError::File {
                operation,
                path,
                source,
            }
        };
        let mut file: File = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(fail("create", &temporary))?;
        file.write_all(&bytes).map_err(fail("write", &temporary))?;
        drop(file);
        std::fs::rename(&temporary, path).map_err(fail("rename", path))
    }
}

/// CLOCK_REALTIME in nanoseconds.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_words() {
        for (word, code, signal) in [
            (0, 0, 0),
            (7 << 8, 7, 0),
            (255 << 8, 255, 0),
            (9, 137, 9),
            (15, 143, 15),
            (11 | 0x80, 139, 11),
            (34, 162, 34),
            (64, 192, 64),
        ] {
            assert_eq!(
                Status::from_wait(word),
                Status { code, signal },
                "{word:#x}"
            );
        }
    }

    #[test]
    fn the_record_replaces_what_was_there_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit.json");
        std::fs::write(&path, "garbage").unwrap();
        let record = ExitRecord {
            version: VERSION,
            id: "c".into(),
            pid: 9,
            code: 137,
            signal: 9,
            oom_killed: true,
            started_at: 5,
            finished_at: 6,
        };
        record.write(&path).unwrap();
        let read: ExitRecord = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, record);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(record.write(&dir.path().join("none/exit.json")).is_err());
    }
}
