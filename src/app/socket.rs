//! The CRI socket.

use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The socket can't be bound.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    /// Somebody answers on it.
    #[error("socket {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A file of another kind is in the way, or a call failed.
    #[error("{operation} socket {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Binds the socket with mode 0660 in place of a dead one.
///
/// # Errors
/// [`SocketError`].
pub(super) fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let fail = |operation| {
        move |source| SocketError::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    };
    match UnixStream::connect(path) {
        Ok(_) => return Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(fail("remove the dead"))?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(fail("look at")(error)),
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(fail("make the directory of"))?;
    }
    // Bound under another name, so that nobody reaches it before its mode is set.
    let early = path.with_extension("new");
    match std::fs::remove_file(&early) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(fail("remove the dead")(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&early).map_err(fail("bind"))?;
    std::fs::set_permissions(&early, Permissions::from_mode(0o660))
        .map_err(fail("set the mode of"))?;
    std::fs::rename(&early, path).map_err(fail("put in place"))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replaces_a_dead_socket_and_respects_a_live_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let first = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(SocketError::InUse(_))));
        drop(first);
        let _second = bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
    }
}
