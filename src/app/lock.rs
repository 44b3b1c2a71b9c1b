//! One daemon per root.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// Another daemon has it.
    #[error("another daemon (pid {pid}) runs with the root of {}", path.display())]
    Taken {
        /// The lock file.
        path: PathBuf,
        /// What the other wrote into it.
        pid: String,
    },
    /// The file can't be opened or locked.
    #[error("lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Held as long as the daemon lives; the kernel gives it back on any death.
#[derive(Debug)]
pub(super) struct RootLock {
    _file: Flock<File>,
}

impl RootLock {
    /// Takes the lock (`flock(2)`) or says who has it.
    ///
    /// # Errors
    /// [`LockError`].
    pub(super) fn take(path: &Path) -> Result<Self, LockError> {
        let io = |source: io::Error| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).map_err(io)?;
                file.rewind().map_err(io)?;
                write!(*file, "{}", std::process::id()).map_err(io)?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(io)?;
                Err(LockError::Taken {
                    path: path.to_owned(),
                    pid,
                })
            }
            Err((_, error)) => Err(io(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = RootLock::take(&path).unwrap();
        let Err(LockError::Taken { pid, .. }) = RootLock::take(&path) else {
            panic!("not taken")
        };
        assert_eq!(pid, std::process::id().to_string());
        drop(first);
        RootLock::take(&path).unwrap();
    }
}
