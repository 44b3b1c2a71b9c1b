//! Percentiles, the table and the JSON file.

use std::fs;

use anyhow::{Context as _, Result};
use longshore_kit::paths;
use serde::Serialize;

use crate::measure::{Memory, Start};

/// The starts of every runtime, by its name.
type Starts = Vec<(String, Vec<Start>)>;

/// One runtime in one series; milliseconds.
#[derive(Debug, Serialize)]
struct Row {
    series: String,
    runtime: String,
    p50: f64,
    p90: f64,
    min: f64,
    /// Medians of the steps, each since the RunPodSandbox call.
    sandbox_p50: f64,
    created_p50: f64,
    started_p50: f64,
    /// Every start, in order.
    starts: Vec<Start>,
}

/// All that one run measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pods: usize,
    rows: Vec<Row>,
    memory: Vec<Memory>,
}

impl Report {
    pub(crate) fn new(pods: usize, series: &[(&str, Starts)], memory: Vec<Memory>) -> Self {
        let rows = series
            .iter()
            .flat_map(|(name, starts)| starts.iter().map(|(of, starts)| row(name, of, starts)))
            .collect();
        Self { pods, rows, memory }
    }

    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "RunPodSandbox call to the container's first instruction, host network, n={}, ms\n\
             {:8} {:12} {:>8} {:>8} {:>8}   {:>8} {:>8} {:>8}\n",
            self.pods, "series", "runtime", "p50", "p90", "min", "sandbox", "created", "started"
        );
        for row in &self.rows {
            let line = format!(
                "{:8} {:12} {:8.1} {:8.1} {:8.1}   {:8.1} {:8.1} {:8.1}\n",
                row.series,
                row.runtime,
                row.p50,
                row.p90,
                row.min,
                row.sandbox_p50,
                row.created_p50,
                row.started_p50
            );
            text.push_str(&line);
        }
        text.push_str("\nPSS, KiB\n");
        for memory in &self.memory {
            let line = format!(
                "{:12} daemon {:7}   helpers per pod {:6}   ({} pods)\n",
                memory.runtime, memory.daemon, memory.helpers_per_pod, memory.pods
            );
            text.push_str(&line);
        }
        text
    }

    /// Writes `target/reports/bench.json`.
    pub(crate) fn write(&self) -> Result<()> {
        let dir = paths::reports();
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let path = dir.join("bench.json");
        let text = serde_json::to_vec_pretty(self).context("render the report")?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }
}

fn row(series: &str, runtime: &str, starts: &[Start]) -> Row {
    let of = |field: fn(&Start) -> f64, percent: usize| {
        percentile(starts.iter().map(field).collect(), percent)
    };
    Row {
        series: series.to_owned(),
        runtime: runtime.to_owned(),
        p50: of(|start| start.first_instruction, 50),
        p90: of(|start| start.first_instruction, 90),
        min: of(|start| start.first_instruction, 0),
        sandbox_p50: of(|start| start.sandbox, 50),
        created_p50: of(|start| start.created, 50),
        started_p50: of(|start| start.started, 50),
        starts: starts.to_vec(),
    }
}

/// The nearest-rank percentile; zero of nothing.
fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(rank).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        let of = |percent| percentile(values.clone(), percent);
        assert_eq!((of(0), of(50), of(90), of(100)), (1.0, 10.0, 18.0, 20.0));
        assert_eq!(percentile(Vec::new(), 50), 0.0);
    }
}
