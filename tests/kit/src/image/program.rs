//! Tiny static programs without a libc, compiled from `tests/images`.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::layout::cached;
use crate::paths;
use crate::process::output;

/// The bytes of the program `tests/images/NAME.rs`, compiled on first use.
///
/// # Errors
/// When rustc is missing or fails.
pub fn compile(name: &str) -> Result<Vec<u8>> {
    let source = paths::workspace()
        .join("tests/images")
        .join(format!("{name}.rs"));
    let text = fs::read(&source).with_context(|| format!("read {}", source.display()))?;
    let hash = super::layout::sha256(&text);
    let hash = hash.get(7..19).unwrap_or_default();
    let dir = cached(&format!("program-{name}-{hash}"), |dir| {
        let mut rustc = Command::new("rustc");
        rustc.args([
            "--edition",
            "2024",
            "--crate-type",
            "bin",
            "-Copt-level=s",
            "-Cstrip=symbols",
        ]);
        rustc.args(["-Cpanic=abort", "-Crelocation-model=static"]);
        for argument in [
            "-nostdlib",
            "-nostartfiles",
            "-static",
            "-no-pie",
            "-Wl,--build-id=none",
        ] {
            rustc.arg(format!("-Clink-arg={argument}"));
        }
        rustc.arg("-o").arg(dir.join(name)).arg(&source);
        output(&mut rustc).map(drop)
    })?;
    let path = dir.join(name);
    fs::read(&path).with_context(|| format!("read {}", path.display()))
}
