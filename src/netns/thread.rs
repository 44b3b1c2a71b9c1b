//! Work that needs a namespace, on a thread of its own: the namespaces of a
//! thread that changed them are not put back, the thread ends.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

use super::pin::{Namespace, pin};
use super::{NetnsError, Owner, Sysctl, link};

/// A kind of namespace that a pod can have of its own without a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Network.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
}

impl Kind {
    fn flag(self) -> CloneFlags {
        match self {
            Self::Net => CloneFlags::CLONE_NEWNET,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }

    /// The name below `/proc/<pid>/ns`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }
}

/// Namespaces to make, how to set them up, and where to pin them.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Kind and pin of each. The pins' directories exist.
    pub pins: Vec<(Kind, PathBuf)>,
    /// Set in a new UTS namespace, untouched without one.
    pub hostname: String,
    /// Set in the order given, so that later ones win. Those of a namespace
    /// that isn't made are refused before.
    pub sysctls: Vec<Sysctl>,
}

impl Request {
    fn has(&self, kind: Kind) -> bool {
        self.pins.iter().any(|(k, _)| *k == kind)
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("namespaces".to_owned())
            .stack_size(256 << 10)
            .spawn_scoped(scope, work)
            .map_err(NetnsError::call("start the namespace thread"))?;
        thread.join().map_err(|_| NetnsError::Panicked)
    })
}

/// Makes, sets up and pins namespaces. A failure leaves what was pinned until
/// then to [`super::unpin`].
///
/// # Errors
/// [`NetnsError`] naming the step.
pub fn create(request: &Request) -> Result<(), NetnsError> {
    if request.pins.is_empty() {
        return Ok(());
    }
    on_thread(|| {
        let flags = request
            .pins
            .iter()
            .fold(CloneFlags::empty(), |flags, (kind, _)| flags | kind.flag());
        unshare(flags).map_err(NetnsError::call("unshare"))?;
        configure(request)?;
        for (kind, target) in &request.pins {
            let source = Path::new("/proc/thread-self/ns").join(kind.name());
            pin(&source, target)?;
        }
        Ok(())
    })?
}

/// Sets up namespaces that are pinned already (those below a user namespace,
/// which a process of that namespace had to make).
///
/// # Errors
/// [`NetnsError`] naming the step.
pub fn set_up(request: &Request) -> Result<(), NetnsError> {
    on_thread(|| {
        for (kind, path) in &request.pins {
            setns(Namespace::open(path)?.as_fd(), kind.flag())
                .map_err(NetnsError::path("enter namespace", path))?;
        }
        configure(request)
    })?
}

/// Runs `work` in the network namespace `netns`, on a thread of its own, and
/// waits for it.
///
/// # Errors
/// [`NetnsError::Path`] when the namespace can't be entered.
pub fn enter<T: Send>(netns: &Namespace, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    on_thread(|| {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(NetnsError::path("enter namespace", netns.path()))?;
        Ok(work())
    })?
}

/// Sets up the namespaces of the calling thread.
fn configure(request: &Request) -> Result<(), NetnsError> {
    if request.has(Kind::Uts) && !request.hostname.is_empty() {
        sethostname(&request.hostname).map_err(NetnsError::call("set the host name"))?;
    }
    if request.has(Kind::Net) {
        link::lo_up().map_err(NetnsError::call("set lo up"))?;
    }
    for sysctl in &request.sysctls {
        let kind = match sysctl.owner() {
            Owner::Net => Kind::Net,
            Owner::Ipc => Kind::Ipc,
        };
        // The node's own parameters are never written: the caller refuses such
        // a request, and this line makes sure.
        if request.has(kind) {
            set(sysctl)?;
        }
    }
    Ok(())
}

fn set(sysctl: &Sysctl) -> Result<(), NetnsError> {
    match std::fs::write(sysctl.file(), sysctl.value()) {
        Err(error) if sysctl.optional() && error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| NetnsError::Sysctl {
            name: sysctl.name().replace('/', "."),
            value: sysctl.value().to_owned(),
            source,
        }),
    }
}
