//! Files out of Debian's packages, downloaded by apt and unpacked by dpkg-deb.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::layout::cached;
use crate::process::output;

/// A package's tree on disk, shared by all recipes.
///
/// # Errors
/// When apt knows no such package or cannot fetch it: `apt-get update` comes first.
pub fn tree(package: &str) -> Result<PathBuf> {
    let key = format!("deb-{package}");
    let dir = cached(&key, |dir| unpack(package, dir))
        .with_context(|| format!("get Debian's package {package}"))?;
    Ok(dir.join("root"))
}

fn unpack(package: &str, dir: &Path) -> Result<()> {
    // Newer apt warns if its unprivileged user cannot write here; root may.
    let mut download = Command::new("apt-get");
    download
        .args(["-qq", "-o", "APT::Sandbox::User=root", "download", package])
        .current_dir(dir);
    output(&mut download)?;
    let deb = fs::read_dir(dir)
        .with_context(|| format!("list {}", dir.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let Some(deb) = deb else {
        bail!("apt-get downloaded nothing")
    };
    output(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&deb)
            .arg(dir.join("root")),
    )?;
    fs::remove_file(&deb).with_context(|| format!("remove {}", deb.display()))
}

/// Reads a file of a package, following symbolic links within the package.
///
/// # Errors
/// When it isn't there.
pub fn file(package: &str, path: &str) -> Result<Vec<u8>> {
    let root = tree(package)?;
    let mut at = root.join(path);
    // Libraries are reached through one or two links: libfoo.so.1 -> libfoo.so.1.2.3.
    for _ in 0..4 {
        let Ok(target) = fs::read_link(&at) else {
            break;
        };
        at = match target.strip_prefix("/") {
            Ok(absolute) => root.join(absolute),
            Err(_relative) => at.parent().unwrap_or(&root).join(target),
        };
    }
    fs::read(&at).with_context(|| format!("read {path} of {package}"))
}

/// Debian's name of this machine's library directory: `x86_64-linux-gnu`.
#[must_use]
pub fn multiarch() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}
