//! How long from the RunPodSandbox call to the container's first instruction, and what an idle pod
//! costs: longshore and Debian's containerd with runc, in one node, on one image, taking turns.
//!
//! The container's program is `tests/images/stamp.rs`: it writes CLOCK_MONOTONIC as its first act, so
//! that nothing of a client, a log or a shell is measured.

mod containerd;
mod measure;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use longshore_kit::cri::Client;
use longshore_kit::image::{Image, Recipe};
use longshore_kit::{Daemon, Node, Registry};

use containerd::Containerd;
use measure::Subject;

/// Measures pod starts and idle memory.
#[derive(Debug, Parser)]
struct Arguments {
    /// Pods that are started one after the other, for each runtime and series.
    #[arg(long, default_value_t = 20)]
    pods: usize,
    /// Pods that run at once while memory is read.
    #[arg(long, default_value_t = 10)]
    idle_pods: usize,
    /// The pause before each start of the second series, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    idle_ms: u64,
    /// Measure another CRI server too, by its socket; it must reach the node's files.
    #[arg(long)]
    socket: Vec<PathBuf>,
    /// Leave longshore out.
    #[arg(long)]
    without_longshore: bool,
    /// Leave containerd out.
    #[arg(long)]
    without_containerd: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let node = Node::new()?;
    let registry = Registry::start(&node)?;
    let stamp = registry.push(&Image::ensure(Recipe::Stamp)?)?;
    let pause = registry.push(&Image::ensure(Recipe::Pause)?)?;

    let mut subjects = Vec::new();
    let mut longshore = None;
    if !arguments.without_longshore {
        let daemon = Daemon::start(&node, "log_level = 'info'")
            .await
            .context("start longshore")?;
        let client = Client::new(&daemon.socket());
        subjects.push(Subject::new("longshore", client, daemon.pid()));
        longshore = Some(daemon);
    }
    let containerd = match arguments.without_containerd {
        true => None,
        false => Some(Containerd::start(&node, &pause)?),
    };
    if let Some(containerd) = &containerd {
        let client = Client::new(containerd.socket());
        subjects.push(Subject::new("containerd", client, Some(containerd.pid())));
    }
    for socket in &arguments.socket {
        let name = socket.file_stem().unwrap_or_default().to_string_lossy();
        subjects.push(Subject::new(&name, Client::new(socket), None));
    }

    for subject in &mut subjects {
        subject
            .warm_up(&node, &stamp)
            .await
            .with_context(|| subject.name().to_owned())?;
    }
    let mut series = Vec::new();
    for (name, pause) in [("hot", 0), ("idle", arguments.idle_ms)] {
        let pause = Duration::from_millis(pause);
        let starts =
            measure::take_turns(&mut subjects, &node, &stamp, arguments.pods, pause).await?;
        series.push((name, starts));
    }
    let mut memory = Vec::new();
    for subject in &mut subjects {
        memory.push(subject.memory(&node, &stamp, arguments.idle_pods).await?);
    }
    let report = report::Report::new(arguments.pods, &series, memory);
    print!("{}", report.table());
    // Both outlive the measurement.
    drop((longshore, containerd));
    report.write()
}
