//! `longshore serve`: the daemon.

use std::error::Error;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use crate::app::App;
use crate::config::{Config, Overrides};
use crate::shutdown;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Configuration file to read in place of /etc/longshore.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of what survives a reboot.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory of what does not.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The CRI socket.
    #[arg(long, value_name = "PATH")]
    listen: Option<PathBuf>,
    /// Pod network while no CNI configuration is installed.
    #[arg(long, value_name = "none|bridge")]
    cni_fallback: Option<String>,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Box<dyn Error>> {
        let config = Config::load(&Overrides {
            file: self.config,
            root: self.root,
            state: self.state,
            socket: self.listen,
            cni_fallback: self.cni_fallback,
        })?;
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::try_new(&config.log_level)?)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .init();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        to_its_end(runtime, async {
            let signals = shutdown::Signals::install()?;
            let app = App::start(config).await?;
            app.serve(signals).await?;
            Ok(())
        })
    }
}

/// Runs `work` and leaves what else is on threads of the runtime, which may be
/// stuck in a call to a dead file system, to the end of the process.
fn to_its_end<T>(runtime: Runtime, work: impl Future<Output = T>) -> T {
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_stuck_thread_does_not_keep_the_daemon() {
        let begun = Instant::now();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        to_its_end(Runtime::new().unwrap(), async {
            let (says, started) = tokio::sync::oneshot::channel();
            drop(tokio::task::spawn_blocking(move || {
                says.send(()).unwrap();
                held.recv_timeout(Duration::from_secs(20)).ok();
            }));
            started.await.unwrap();
        });
        assert!(begun.elapsed() < Duration::from_secs(10));
        drop(hold);
    }
}
