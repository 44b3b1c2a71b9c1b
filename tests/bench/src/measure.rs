//! Starting pods and reading clocks.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use longshore_kit::Node;
use longshore_kit::cri::Client;
use longshore_kit::memory::pss_of;
use longshore_kit::node::sweep;
use longshore_kit::pods::{Container, Pod};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// How long a container may take to write its stamp after StartContainer has answered.
const STAMP: Duration = Duration::from_secs(10);

/// One pod start, in milliseconds since the RunPodSandbox call.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Start {
    /// RunPodSandbox has answered.
    pub(crate) sandbox: f64,
    /// CreateContainer has answered.
    pub(crate) created: f64,
    /// StartContainer has answered.
    pub(crate) started: f64,
    /// The container's first instruction.
    pub(crate) first_instruction: f64,
}

/// What idle pods cost, in KiB of PSS.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Memory {
    pub(crate) runtime: String,
    pub(crate) pods: usize,
    pub(crate) daemon: u64,
    /// All processes that came with the pods but the containers' own, per pod.
    pub(crate) helpers_per_pod: u64,
}

/// A runtime under measurement.
#[derive(Debug)]
pub(crate) struct Subject {
    name: String,
    client: Client,
    daemon: Option<u32>,
    image: String,
}

impl Subject {
    pub(crate) fn new(name: &str, client: Client, daemon: Option<u32>) -> Self {
        Self {
            name: name.to_owned(),
            client,
            daemon,
            image: String::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Pulls the image and starts two pods that do not count.
    pub(crate) async fn warm_up(&mut self, node: &Node, image: &str) -> Result<()> {
        self.image = self.client.pull(image).await?;
        for _ in 0..2 {
            self.start(node).await?;
        }
        Ok(())
    }

    /// Starts a pod, reads its stamp, removes it.
    async fn start(&mut self, node: &Node) -> Result<Start> {
        let (pod, container, stamp) = request(node, &self.image)?;
        let origin = now()?;
        let since = |at: i64| millis(at - origin);
        let id = self.client.run_pod(&pod).await?;
        let sandbox = since(now()?);
        let container_id = self.client.create(&id, &pod, &container).await?;
        let created = since(now()?);
        self.client.start(&container_id).await?;
        let started = since(now()?);
        let first_instruction = since(read_stamp(&stamp).await?);
        self.client.stop(&container_id, 0).await?;
        self.client.remove_pod(&id).await?;
        Ok(Start {
            sandbox,
            created,
            started,
            first_instruction,
        })
    }

    /// Runs `count` pods at once and reads what they cost.
    pub(crate) async fn memory(
        &mut self,
        node: &Node,
        image: &str,
        count: usize,
    ) -> Result<Memory> {
        self.client.pull(image).await?;
        let before = sweep::processes(&[node.name()], Some(node.namespaces()));
        let mut pods = Vec::new();
        for _ in 0..count {
            let (pod, container, stamp) = request(node, &self.image)?;
            let id = self.client.run_pod(&pod).await?;
            self.client.run(&id, &pod, &container).await?;
            read_stamp(&stamp).await?;
            pods.push(id);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut helpers = 0;
        for process in sweep::processes(&[node.name()], Some(node.namespaces())) {
            let own = process.command.starts_with("/stamper");
            if !own && !before.contains(&process) {
                helpers += pss_of(process.pid.unsigned_abs())?;
            }
        }
        let daemon = self.daemon.map(pss_of).transpose()?.unwrap_or_default();
        for id in pods {
            self.client.remove_pod(&id).await?;
        }
        let helpers_per_pod = helpers / count.max(1) as u64;
        Ok(Memory {
            runtime: self.name.clone(),
            pods: count,
            daemon,
            helpers_per_pod,
        })
    }
}

/// Each runtime starts one pod in turn, so that a busy moment of the machine hits all alike.
pub(crate) async fn take_turns(
    subjects: &mut [Subject],
    node: &Node,
    image: &str,
    count: usize,
    pause: Duration,
) -> Result<Vec<(String, Vec<Start>)>> {
    let mut starts: Vec<(String, Vec<Start>)> = subjects
        .iter()
        .map(|subject| (subject.name.clone(), Vec::new()))
        .collect();
    for round in 0..count {
        for (subject, (name, starts)) in subjects.iter_mut().zip(&mut starts) {
            tokio::time::sleep(pause).await;
            let start = subject.start(node).await;
            starts.push(start.with_context(|| format!("{name}, pod {round} of {image}"))?);
        }
    }
    Ok(starts)
}

/// A host-network pod whose container writes its stamp into a directory of its own.
fn request(node: &Node, image: &str) -> Result<(Pod, Container, std::path::PathBuf)> {
    let pod = Pod::new(node, "bench")?.host_network();
    let dir = pod.log_directory().join("stamp");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let container = Container::new("stamp", image).mount(&dir, "/stamp", false);
    Ok((pod, container, dir.join("at")))
}

async fn read_stamp(path: &Path) -> Result<i64> {
    let deadline = Instant::now() + STAMP;
    loop {
        // Twenty digits and a line end, written at once.
        if let Ok(text) = fs::read_to_string(path)
            && text.ends_with('\n')
        {
            return text.trim().parse().context("parse a stamp");
        }
        if Instant::now() > deadline {
            bail!("no stamp in {} after {STAMP:?}", path.display());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// CLOCK_MONOTONIC in nanoseconds, the container's own clock.
fn now() -> Result<i64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a start takes far fewer than 2^52 ns"
)]
fn millis(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / 1e6
}
