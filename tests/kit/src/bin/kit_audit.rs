//! `kit_audit before FILE` notes what is there, `kit_audit after FILE` prints what has come since and
//! fails if there is anything. For scripts inside a node that `kit_node` made.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use longshore_kit::audit::{self, Audit};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kit_audit: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let (verb, file) = (arguments.next(), arguments.next());
    let (Some(verb), Some(file)) = (verb, file) else {
        bail!("usage: kit_audit before|after FILE");
    };
    let scene = audit::Scene::current()?;
    let mut audit: Audit<'_> = scene.audit()?;
    let file = PathBuf::from(file);
    match verb.as_str() {
        "before" => audit.save(&file)?,
        "after" => {
            audit.load(&file)?;
            let left = audit.after()?;
            if !left.is_empty() {
                println!("{}", audit::lines(&left));
                return Ok(ExitCode::FAILURE);
            }
        }
        other => bail!("neither before nor after: {other}"),
    }
    Ok(ExitCode::SUCCESS)
}
