//! `longshore config`.

use std::error::Error;
use std::path::PathBuf;

use clap::Subcommand;

use crate::config::{Config, DEFAULT_TOML, Overrides};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Prints every key with its default.
    Default,
    /// Reads the configuration and says whether it can be used.
    Check {
        /// File to read in place of /etc/longshore.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

impl Command {
    pub(super) fn run(self) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Default => print!("{DEFAULT_TOML}"),
            Self::Check { config } => {
                let config = Config::load(&Overrides {
                    file: config,
                    ..Overrides::default()
                })?;
                println!(
                    "configuration is fine: root {}, state {}, socket {}, instance {}",
                    config.paths.root().display(),
                    config.paths.state().display(),
                    config.paths.socket().display(),
                    config.instance,
                );
            }
        }
        Ok(())
    }
}
