//! `kit_node COMMAND...`: runs a command inside a node made for it, then ends all that it left.
//!
//! The command finds its node in `LONGSHORE_KIT_NODE` (the name) and `LONGSHORE_KIT_DIR` (the directory).

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use longshore_kit::Node;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kit_node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        bail!("usage: kit_node COMMAND [ARGUMENT...]")
    };
    let node = Node::new()?;
    let directory = std::env::current_dir().context("find the working directory")?;
    let mut command: Command = node.command("env");
    command
        .arg("-C")
        .arg(directory)
        .arg(program)
        .args(arguments);
    command.env("LONGSHORE_KIT_DIR", node.dir());
    let status = command.status().context("run the command")?;
    let code = status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1);
    Ok(ExitCode::from(code))
}
