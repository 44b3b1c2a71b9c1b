//! Debian's containerd with runc, in a node, with directories and a socket of its own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use longshore_kit::Node;
use longshore_kit::process::{Process, wait_until};

const READY: Duration = Duration::from_secs(60);

/// A running containerd.
#[derive(Debug)]
pub(crate) struct Containerd {
    socket: PathBuf,
    process: Process,
}

impl Containerd {
    /// Starts it; `pause` is the reference of its sandbox image.
    pub(crate) fn start(node: &Node, pause: &str) -> Result<Self> {
        let dir = node.dir().join("containerd");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let config = dir.join("config.toml");
        fs::write(&config, configuration(&dir, pause)).context("write containerd's config")?;
        let mut command = node.command("containerd");
        command.arg("--config").arg(&config);
        let mut process = Process::spawn(command, &node.dir().join("logs/containerd.log"))?;
        let socket = dir.join("containerd.sock");
        wait_until(&mut process, READY, || UnixStream::connect(&socket).is_ok())
            .context("start containerd")?;
        Ok(Self { socket, process })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// What differs from containerd's defaults: places, the sandbox image, and that a machine without
/// CAP_SYS_RESOURCE cannot lower an oom_score_adj.
fn configuration(dir: &Path, pause: &str) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{dir}/net.d"
"#
    )
}
