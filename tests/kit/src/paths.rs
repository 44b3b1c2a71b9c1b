//! Where the kit finds what was built and keeps what it builds.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The workspace's root directory.
#[must_use]
pub fn workspace() -> PathBuf {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    kit.ancestors().nth(2).unwrap_or(kit).to_path_buf()
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, or `target` of the workspace.
#[must_use]
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// What the kit builds once and every test shares.
#[must_use]
pub fn cache() -> PathBuf {
    target().join("kit")
}

/// A file of `target/reports`, for what a run measured.
#[must_use]
pub fn reports() -> PathBuf {
    target().join("reports")
}

/// The daemon: `LONGSHORE_BIN`, or the newest build in the target directory.
///
/// # Errors
/// When there is none.
pub fn daemon() -> Result<PathBuf> {
    find(
        "LONGSHORE_BIN",
        &["debug/longshore", "release/longshore", "dist/longshore"],
    )
}

/// The shim: `LONGSHORE_SHIM_BIN`, or the static one that `make build` leaves in `target/dist`.
///
/// # Errors
/// When there is none.
pub fn shim() -> Result<PathBuf> {
    find("LONGSHORE_SHIM_BIN", &["dist/longshore-shim"])
}

/// crictl: `LONGSHORE_CRICTL`, or the one that `make tools` builds from `tests/conformance`.
///
/// # Errors
/// When there is none.
pub fn crictl() -> Result<PathBuf> {
    find("LONGSHORE_CRICTL", &["tools/crictl"])
}

/// A binary of the kit itself, such as `fake_cni`.
///
/// # Errors
/// When it was not built; `cargo test -p longshore-kit` and `make test` build it.
pub fn kit_binary(name: &str) -> Result<PathBuf> {
    find(
        &format!("LONGSHORE_KIT_{}", name.to_uppercase()),
        &[&format!("debug/{name}"), &format!("release/{name}")],
    )
}

/// Among several builds the newest is the one that the developer just made.
fn find(variable: &str, candidates: &[&str]) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("{variable} names {}, which is not a file", path.display());
        }
        return Ok(path);
    }
    let modified = |path: &PathBuf| path.metadata().and_then(|m| m.modified()).ok();
    let found = candidates
        .iter()
        .map(|candidate| target().join(candidate))
        .filter(|path| path.is_file())
        .max_by_key(modified);
    match found {
        Some(path) => Ok(path),
        None => bail!(
            "none of {candidates:?} is in {}: run `make build tools`, or set {variable}",
            target().display()
        ),
    }
}
