//! `longshore serve` in a node, with directories, socket and instance of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use longshore_proto::cri::v1 as cri;
use longshore_proto::cri::v1::image_service_client::ImageServiceClient;
use longshore_proto::cri::v1::runtime_service_client::RuntimeServiceClient;
use nix::sys::signal::Signal;
use toml::{Table, Value};
use tonic::transport::Channel;

use crate::process::Process;
use crate::{Node, paths};

/// How long a start may take; the machine may be busy with other tests.
const READY: Duration = Duration::from_secs(30);
/// How long an orderly end may take.
const END: Duration = Duration::from_secs(30);
/// Above the 16 MiB that ExecSync may return of each stream.
const MESSAGE_LIMIT: usize = 64 << 20;

/// A client of the runtime service.
pub type RuntimeClient = RuntimeServiceClient<Channel>;
/// A client of the image service.
pub type ImageClient = ImageServiceClient<Channel>;

/// The daemon. Dropped, it is killed; its pods end with the node.
#[derive(Debug)]
pub struct Daemon<'a> {
    node: &'a Node,
    instance: String,
    dir: PathBuf,
    process: Option<Process>,
}

impl<'a> Daemon<'a> {
    /// Starts a daemon whose configuration is the kit's (instance, shim, a CNI directory in the
    /// node) overlaid with `config`, and waits until it answers.
    ///
    /// # Errors
    /// When the binaries are missing, `config` is not TOML or the daemon does not answer; the error
    /// shows its log.
    pub async fn start(node: &'a Node, config: &str) -> Result<Self> {
        Self::start_named(node, "", config).await
    }

    /// As [`Self::start`], for a second daemon in the node: `suffix` (of a-z, 0-9, at most five)
    /// tells their instances and directories apart.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_named(node: &'a Node, suffix: &str, config: &str) -> Result<Self> {
        let mut daemon = Self::prepare(node, suffix, config)?;
        daemon.launch().await?;
        Ok(daemon)
    }

    /// All but the start: directories and the configuration file.
    ///
    /// # Errors
    /// When `config` is not TOML or a file cannot be written.
    pub fn prepare(node: &'a Node, suffix: &str, config: &str) -> Result<Self> {
        let instance = format!("{}{suffix}", node.name());
        let dir = node.dir().join(format!("d{suffix}"));
        let daemon = Self {
            node,
            instance,
            dir,
            process: None,
        };
        for path in [daemon.root(), daemon.state(), daemon.cni_conf_dir()] {
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        daemon.configure(config)?;
        Ok(daemon)
    }

    /// Writes the configuration file anew; the next start reads it.
    ///
    /// # Errors
    /// When `config` is not TOML or the file cannot be written.
    pub fn configure(&self, config: &str) -> Result<()> {
        let mut table = self.defaults();
        let own: Table = toml::from_str(config).context("parse the test's configuration")?;
        overlay(&mut table, own);
        let text = toml::to_string(&table).context("render the configuration")?;
        let path = self.config_file();
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn defaults(&self) -> Table {
        let text = |path: &Path| Value::String(path.to_string_lossy().into_owned());
        let mut table = Table::new();
        table.insert("instance".to_owned(), Value::String(self.instance.clone()));
        table.insert(
            "log_level".to_owned(),
            Value::String("info,longshore=debug".to_owned()),
        );
        // Without a static shim the daemon looks beside its own binary.
        if let Ok(shim) = paths::shim() {
            table.insert("shim".to_owned(), text(&shim));
        }
        let mut cni = Table::new();
        cni.insert("conf_dir".to_owned(), text(&self.cni_conf_dir()));
        table.insert("cni".to_owned(), Value::Table(cni));
        table
    }

    /// The command line of a start, for tests that want to see it fail or change it.
    ///
    /// # Errors
    /// When the daemon was not built.
    pub fn command(&self) -> Result<Command> {
        let mut command = self.node.command(paths::daemon()?);
        command.arg("serve").arg("--config").arg(self.config_file());
        command
            .arg("--root")
            .arg(self.root())
            .arg("--state")
            .arg(self.state());
        command.arg("--listen").arg(self.socket());
        command.env("RUST_BACKTRACE", "1");
        Ok(command)
    }

    async fn launch(&mut self) -> Result<()> {
        let process = Process::spawn(self.command()?, &self.log_file())?;
        self.process = Some(process);
        let deadline = Instant::now() + READY;
        loop {
            let version = cri::VersionRequest {
                version: String::new(),
            };
            if self.runtime().version(version).await.is_ok() {
                return Ok(());
            }
            let Some(process) = self.process.as_mut() else {
                bail!("the daemon was stopped")
            };
            if let Some(status) = process.try_wait()? {
                bail!("the daemon ended: {status}\n{}", self.log());
            }
            if Instant::now() > deadline {
                bail!("the daemon does not answer after {READY:?}\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL. Shims and containers go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.kill().map(drop)
    }

    /// SIGTERM, and its exit status.
    ///
    /// # Errors
    /// When it does not run or does not end.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.signal(Signal::SIGTERM)?;
        // The test's own clients have to hear the farewell, so their runtime must not be blocked.
        let deadline = Instant::now() + END;
        loop {
            if let Some(status) = process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "the daemon still runs {END:?} after SIGTERM\n{}",
                    self.log()
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends any signal to it, such as SIGHUP.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process
            .as_ref()
            .context("the daemon does not run")?
            .signal(signal)
    }

    /// Starts it again after [`Self::kill9`] or [`Self::terminate`] and waits until it answers.
    ///
    /// # Errors
    /// When it runs already, or as [`Self::start`].
    pub async fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("the daemon still runs");
        }
        self.launch().await
    }

    /// A client of the runtime service; it connects anew after a restart.
    #[must_use]
    pub fn runtime(&self) -> RuntimeClient {
        RuntimeServiceClient::new(crate::cri::channel(&self.socket()))
            .max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// A client of the image service.
    #[must_use]
    pub fn image(&self) -> ImageClient {
        ImageServiceClient::new(crate::cri::channel(&self.socket()))
            .max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// The node it runs in.
    #[must_use]
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Part of every name of its that is visible on the host.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What survives a reboot.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// What does not; what is in it is seen only inside the node.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The CRI socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("cri.sock")
    }

    /// Where it looks for CNI configurations: empty until a test writes one.
    #[must_use]
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.dir.join("net.d")
    }

    fn config_file(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.node
            .dir()
            .join("logs")
            .join(format!("{}.log", self.instance))
    }

    /// What it logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_else(|error| format!("(no log: {error})"))
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(200)..)
                .unwrap_or_default();
            eprintln!(
                "--- log of daemon {} ---\n{}",
                self.instance,
                tail.join("\n")
            );
        }
    }
}

/// Lays `over` on `base`: tables are merged, anything else is replaced.
fn overlay(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tests_configuration_lies_over_the_kits() {
        let node = Node::new().unwrap();
        let daemon = Daemon::prepare(&node, "b", "[cni]\nfallback = 'bridge'\n").unwrap();
        let text = fs::read_to_string(daemon.config_file()).unwrap();
        let table: Table = toml::from_str(&text).unwrap();
        assert_eq!(
            table["instance"].as_str(),
            Some(format!("{}b", node.name()).as_str())
        );
        assert_eq!(table["cni"]["fallback"].as_str(), Some("bridge"));
        assert!(table["cni"]["conf_dir"].as_str().unwrap().starts_with("/"));
        assert!(Daemon::prepare(&node, "c", "not toml").is_err());
    }

    #[test]
    fn socket_paths_are_short_enough() {
        let node = Node::new().unwrap();
        let daemon = Daemon::prepare(&node, "", "").unwrap();
        // sun_path ends at 108 bytes; a shim socket has a 64-digit id in its name.
        assert!(daemon.socket().as_os_str().len() < 100);
    }
}
