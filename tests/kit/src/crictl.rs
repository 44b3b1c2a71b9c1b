//! crictl, as an operator uses it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::output;
use crate::{Daemon, Node, paths};

/// crictl bound to one socket in a node.
#[derive(Debug)]
pub struct Crictl<'a> {
    node: &'a Node,
    socket: PathBuf,
    binary: PathBuf,
}

impl<'a> Crictl<'a> {
    /// Bound to a daemon's socket.
    ///
    /// # Errors
    /// When crictl was not built: `make tools`.
    pub fn new(daemon: &Daemon<'a>) -> Result<Self> {
        Self::at(daemon.node(), &daemon.socket())
    }

    /// Bound to any socket.
    ///
    /// # Errors
    /// When crictl was not built: `make tools`.
    pub fn at(node: &'a Node, socket: &Path) -> Result<Self> {
        Ok(Self {
            node,
            socket: socket.to_path_buf(),
            binary: paths::crictl()?,
        })
    }

    /// The command with its endpoints, before its arguments.
    #[must_use]
    pub fn command(&self) -> Command {
        let endpoint = format!("unix://{}", self.socket.display());
        let mut command = self.node.command(&self.binary);
        // No configuration file: whatever the machine has in /etc must not matter.
        command.args(["--config", "/dev/null", "--timeout", "60s"]);
        command.args([
            "--runtime-endpoint",
            &endpoint,
            "--image-endpoint",
            &endpoint,
        ]);
        command
    }

    /// Runs it and hands back its standard output.
    ///
    /// # Errors
    /// When it fails; the error carries its output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        output(self.command().args(arguments))
    }

    /// Runs it with `-o json` and parses its output.
    ///
    /// # Errors
    /// When it fails or does not print JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        // Flags end at the first argument that is none, such as an id.
        let (subcommand, rest) = arguments.split_at(1);
        let text = output(
            self.command()
                .args(subcommand)
                .args(["-o", "json"])
                .args(rest),
        )?;
        serde_json::from_str(&text).context("parse crictl's output")
    }

    /// Writes a configuration as crictl reads it and hands back its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: &Value) -> Result<PathBuf> {
        let path = self.node.dir().join(name);
        std::fs::write(&path, content.to_string())
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crictl_is_the_pinned_one() {
        let Ok(binary) = paths::crictl() else {
            crate::skip(
                "crictl_is_the_pinned_one",
                "crictl was not built: make tools",
            );
            return;
        };
        let version = output(Command::new(binary).arg("--version")).unwrap();
        let pinned = std::fs::read_to_string(paths::workspace().join("tests/conformance/go.mod"));
        let version = version.trim().rsplit(' ').next().unwrap();
        assert!(
            pinned
                .unwrap()
                .contains(&format!("sigs.k8s.io/cri-tools {version}")),
            "{version}"
        );
    }

    #[test]
    fn crictl_says_when_nobody_listens() {
        let node = Node::new().unwrap();
        let Ok(crictl) = Crictl::at(&node, &node.dir().join("no.sock")) else {
            crate::skip(
                "crictl_says_when_nobody_listens",
                "crictl was not built: make tools",
            );
            return;
        };
        let error = crictl.run(&["--timeout", "2s", "version"]).unwrap_err();
        assert!(format!("{error:#}").contains("no.sock"), "{error:#}");
    }
}
