//! A node: the namespaces, directories and name in which one test runs.
//!
//! ```text
//!  machine                            node lk1a2b3c4d
//!  ---------                          ---------------------------------------------
//!  network: untouched                 network namespace of its own, lo up
//!  mounts: untouched                  mount namespace of its own, private;
//!                                     own tmpfs on /run and /var/lib/cni
//!  cgroups: shared                    names that carry the node's name
//!  <tmp>/longshore-kit/lk1a2b3c4d/    root/ state/ tmp/ logs/ ... and the owner's lock
//! ```
//!
//! Nothing pins the namespaces but the test's own descriptors and the processes inside, so that a
//! killed test leaves neither mounts nor links. What it does leave - processes, cgroups, the
//! directory - carries the node's name; the next [`Node::new`] sweeps it, see [`sweep`].

mod enter;
mod setup;
pub mod sweep;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

pub use enter::Namespaces;
pub(crate) use enter::on_thread;
pub(crate) use setup::lock_file;

/// The variable that marks every process a node starts.
pub const MARK: &str = "LONGSHORE_KIT_NODE";

/// A network and a mount namespace with a directory; everything in it ends when it is dropped.
#[derive(Debug)]
pub struct Node {
    name: String,
    dir: PathBuf,
    namespaces: Namespaces,
    /// Held for the node's whole life: who can take it knows that the owner is dead.
    _owner: File,
}

impl Node {
    /// Makes a node. The first one of a process sweeps what killed runs left.
    ///
    /// # Errors
    /// When the test is not root, or a namespace, mount or directory cannot be made.
    pub fn new() -> Result<Self> {
        let (dir, owner) = setup::claim_directory()?;
        let name = dir
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default()
            .to_owned();
        for child in ["tmp", "logs"] {
            let path = dir.join(child);
            std::fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let namespaces = setup::make_namespaces().context("make the node's namespaces")?;
        Ok(Self {
            name,
            dir,
            namespaces,
            _owner: owner,
        })
    }

    /// The node's unique name, which marks all that belongs to it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's own directory, seen at the same path inside and outside.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Descriptors of the node's namespaces.
    #[must_use]
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// A command that will run inside the node, marked as the node's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env(MARK, &self.name)
            .env("TMPDIR", self.dir.join("tmp"))
            .process_group(0);
        enter::on_spawn(&mut command, &self.namespaces);
        command
    }

    /// Runs `work` on a thread inside the node and hands back its result.
    ///
    /// # Errors
    /// When the namespaces cannot be joined or `work` panicked.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(&self.namespaces, work)
    }

    /// Connects to an address inside the node.
    ///
    /// # Errors
    /// As [`TcpStream::connect`].
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        self.inside(|| TcpStream::connect(address))?
            .with_context(|| format!("connect {address}"))
    }

    /// Connects to a unix socket by a path that is valid inside the node.
    ///
    /// # Errors
    /// As [`UnixStream::connect`].
    pub fn connect_unix(&self, path: &Path) -> io::Result<UnixStream> {
        self.inside(|| UnixStream::connect(path))
            .map_err(io::Error::other)?
    }

    /// The cgroup parent for the pods of this node, in every hierarchy: the kubelet's part.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn cgroup_parent(&self) -> Result<String> {
        let path = format!("/{}", self.name);
        crate::cgroup::create(&path)?;
        Ok(path)
    }

    /// (device, inode) of the network namespace, the kernel's identity of it.
    ///
    /// # Errors
    /// When the descriptor cannot be examined.
    pub fn netns_identity(&self) -> Result<(u64, u64)> {
        let meta = self
            .namespaces
            .net()
            .metadata()
            .context("stat the node's network namespace")?;
        Ok((meta.dev(), meta.ino()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let leftovers = sweep::Leftovers {
            name: &self.name,
            namespaces: Some(&self.namespaces),
        };
        let mut errors = leftovers.destroy();
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            errors.push(format!("remove {}: {error}", self.dir.display()));
        }
        for error in errors {
            eprintln!("node {}: {error}", self.name);
        }
    }
}

#[cfg(test)]
mod tests;
