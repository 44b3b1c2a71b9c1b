//! Making a node: its directory with the owner's lock, and its two namespaces.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use super::enter::Namespaces;
use super::sweep;

/// Node names begin so; the rest is eight hexadecimal digits.
pub(super) const PREFIX: &str = "lk";

/// Where nodes keep their directories. Short, for unix socket paths end at 107 bytes.
pub(super) fn base() -> PathBuf {
    std::env::temp_dir().join("longshore-kit")
}

/// The file in a node's directory whose lock its owner holds.
pub(super) const OWNER: &str = "owner";

static SWEPT: Once = Once::new();

/// Claims a fresh directory with a unique name.
pub(super) fn claim_directory() -> Result<(PathBuf, File)> {
    if !geteuid().is_root() {
        bail!("a node needs root: namespaces, mounts and cgroups are made for it");
    }
    let base = base();
    fs::create_dir_all(&base).with_context(|| format!("create {}", base.display()))?;
    // Creation and sweep exclude each other, so that no directory is swept between its creation
    // and its owner's lock.
    let lock = lock_file(&base.join("lock"))?;
    lock.lock().context("lock the directory of nodes")?;
    SWEPT.call_once(|| sweep::dead_nodes(&base));
    loop {
        let dir = base.join(unique_name());
        match fs::create_dir(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("create {}", dir.display()));
            }
        }
        let owner = lock_file(&dir.join(OWNER))?;
        owner.lock().context("lock the node's directory")?;
        return Ok((dir, owner));
    }
}

pub(crate) fn lock_file(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

fn unique_name() -> String {
    // The standard library's hasher is seeded from the kernel's randomness.
    let random = RandomState::new().hash_one(std::process::id());
    format!("{PREFIX}{:08x}", random & 0xffff_ffff)
}

/// Makes both namespaces on a thread of their own, which ends: descriptors keep them.
pub(super) fn make_namespaces() -> Result<Namespaces> {
    thread::spawn(|| -> Result<Namespaces> {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("unshare")?;
        make_private()?;
        // Own /run: netns pins, the iptables lock. Own /var/lib/cni: addresses given out.
        for path in ["/run", "/var/lib/cni"] {
            fs::create_dir_all(path).with_context(|| format!("create {path}"))?;
            mount_tmpfs(Path::new(path))?;
        }
        for path in ["/run/netns", "/run/lock"] {
            fs::create_dir(path).with_context(|| format!("create {path}"))?;
        }
        let status = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        if !status.context("run ip(8), of Debian's iproute2")?.success() {
            bail!("ip link set lo up failed");
        }
        Namespaces::current()
    })
    .join()
    .map_err(|_panic| anyhow!("the thread that makes namespaces panicked"))?
}

fn make_private() -> Result<()> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .context("make the node's mounts private")
}

fn mount_tmpfs(target: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        flags,
        Some("mode=755"),
    )
    .with_context(|| format!("mount a tmpfs on {}", target.display()))
}
