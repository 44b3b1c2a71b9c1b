//! `longshore serve`: the daemon.

use std::error::Error;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
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
        runtime.block_on(async {
            let signals = shutdown::Signals::install()?;
            let app = App::start(config).await?;
            app.serve(signals).await?;
            Ok(())
        })
    }
}
