//! The command line.

mod client;
mod config;
mod image;
mod serve;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::base::chain::Chain;

/// A container runtime for Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, about, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon.
    Serve(serve::Serve),
    /// Prints or checks the configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// Imports and lists images.
    #[command(subcommand)]
    Image(image::Command),
}

/// Runs the command of `argv` and says how it went.
///
/// Exit codes: 0 it worked, 1 it failed, 2 the command line is wrong.
#[must_use]
pub fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => {
            let code = u8::try_from(usage.exit_code()).unwrap_or(2);
            return match usage.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    match args.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("longshore: {}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn run(self) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Serve(serve) => serve.run(),
            Self::Config(command) => command.run(),
            Self::Image(command) => command.run(),
        }
    }
}
