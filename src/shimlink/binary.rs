//! The shim's program, held in a sealed memfd from which all shims run.
//!
//! No container can write to it (the shim's `/proc/<pid>/exe` is what a process
//! of a container may get hold of), and an upgrade of the file on disk changes
//! nothing for those that live.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{MemfdFlags, SealFlags, memfd_create};

use super::error::ShimError;
use super::inherit;

/// What the program is called in a process list.
const NAME: &str = "longshore-shim";
/// Lowest number of the program's descriptor.
const LOWEST: i32 = 10;

/// The program.
#[derive(Debug)]
pub(super) struct Binary(OwnedFd);

impl Binary {
    pub(super) fn load(path: &Path) -> Result<Self, ShimError> {
        let fail = |what: &str| {
            let operation = format!("{what} {}", path.display());
            move |source: io::Error| ShimError::system(operation, source)
        };
        let mut source = File::open(path).map_err(fail("open shim"))?;
        let mut memfd =
            File::from(executable_memfd().map_err(|e| fail("memfd_create for")(e.into()))?);
        io::copy(&mut source, &mut memfd).map_err(fail("copy shim"))?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&memfd, seals).map_err(|e| fail("seal")(e.into()))?;
        // Not 3, which the child replaces before it looks up the program.
        rustix::io::fcntl_dupfd_cloexec(&memfd, LOWEST)
            .map(Self)
            .map_err(|e| fail("duplicate")(e.into()))
    }

    /// A command that runs the program, with `socket` as its descriptor 3, in
    /// a session of its own. Its environment is empty.
    pub(super) fn command(&self, socket: Option<&OwnedFd>) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        command.arg0(NAME).env_clear();
        inherit::prepare(&mut command, socket.map(AsRawFd::as_raw_fd));
        command
    }
}

/// Kernels before 6.3 don't know the flag, and need none.
fn executable_memfd() -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(NAME, flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => memfd_create(NAME, flags),
        made => made,
    }
}
