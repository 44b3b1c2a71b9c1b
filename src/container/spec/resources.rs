//! Limits. 0 and empty mean "not specified" throughout (CRI).

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use crate::cgroup::Mode;
use crate::sandbox::model::Resources;

use super::super::model::ContainerConfig;
use super::error::SpecError;
use super::host::HostFacts;

pub(super) fn build(
    config: &ContainerConfig,
    host: &HostFacts,
) -> Result<LinuxResources, SpecError> {
    let mut out = LinuxResources::default();
    let Some(wanted) = &config.resources else {
        return Ok(out);
    };
    out.set_cpu(cpu(wanted)?);
    out.set_memory(memory(wanted, host)?);
    out.set_hugepage_limits(hugepages(wanted, host)?);
    if !wanted.unified.is_empty() {
        if host.cgroup_mode != Mode::Unified {
            return Err(SpecError::unsupported(
                "config.linux.resources.unified",
                "this node's controllers are on cgroup v1",
            ));
        }
        if let Some(bad) = wanted.unified.keys().find(|name| name.contains('/')) {
            return Err(SpecError::invalid(
                "config.linux.resources.unified",
                format!("{bad:?} is no file of a cgroup"),
            ));
        }
        let unified: HashMap<_, _> = wanted.unified.clone().into_iter().collect();
        out.set_unified(Some(unified));
    }
    Ok(out)
}

/// A value where 0 means "not specified" and negative makes no sense.
fn positive(field: &'static str, value: i64) -> Result<Option<u64>, SpecError> {
    u64::try_from(value)
        .map(|value| (value > 0).then_some(value))
        .map_err(|_| SpecError::invalid(field, format!("{value} is negative")))
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn cpu(wanted: &Resources) -> Result<Option<LinuxCpu>, SpecError> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive(
        "config.linux.resources.cpu_shares",
        wanted.cpu_shares,
    )?);
    cpu.set_period(positive(
        "config.linux.resources.cpu_period",
        wanted.cpu_period,
    )?);
    // Negative: no limit.
    cpu.set_quota((wanted.cpu_quota != 0).then_some(wanted.cpu_quota));
    cpu.set_cpus(text(&wanted.cpuset_cpus));
    cpu.set_mems(text(&wanted.cpuset_mems));
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

/// A limit without one for swap means no swap at all, where swap is counted.
fn memory(wanted: &Resources, host: &HostFacts) -> Result<Option<LinuxMemory>, SpecError> {
    let field = "config.linux.resources.memory_limit_in_bytes";
    let Some(_) = positive(field, wanted.memory_limit_in_bytes)? else {
        return Ok(None);
    };
    let limit = wanted.memory_limit_in_bytes;
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(limit));
    if host.swap {
        let swap = match wanted.memory_swap_limit_in_bytes {
            0 => limit,
            swap => swap,
        };
        if swap >= 0 && swap < limit {
            return Err(SpecError::invalid(
                "config.linux.resources.memory_swap_limit_in_bytes",
                format!("{swap} is less than the memory limit {limit}"),
            ));
        }
        memory.set_swap(Some(swap));
    }
    Ok(Some(memory))
}

fn hugepages(
    wanted: &Resources,
    host: &HostFacts,
) -> Result<Option<Vec<LinuxHugepageLimit>>, SpecError> {
    // A node without the controller has no huge pages to limit; kubelet sends
    // zero limits for every page size all the same.
    if !host.hugetlb {
        return Ok(None);
    }
    let mut limits = Vec::new();
    for (size, bytes) in &wanted.hugepage_limits {
        let bytes = i64::try_from(*bytes).map_err(|_| {
            SpecError::invalid(
                "config.linux.resources.hugepage_limits",
                format!("{bytes} bytes of {size} pages are out of range"),
            )
        })?;
        let mut limit = LinuxHugepageLimit::default();
        limit.set_page_size(size.clone());
        limit.set_limit(bytes);
        limits.push(limit);
    }
    Ok((!limits.is_empty()).then_some(limits))
}

/// The score, raised to the lowest one that the daemon can give: a daemon
/// without CAP_SYS_RESOURCE can't go below its own.
pub(super) fn oom_score_adj(
    config: &ContainerConfig,
    host: &HostFacts,
) -> Result<Option<i32>, SpecError> {
    let wanted = config.resources.as_ref().map_or(0, |r| r.oom_score_adj);
    let score = i32::try_from(wanted)
        .ok()
        .filter(|score| (-1000..=1000).contains(score))
        .ok_or_else(|| {
            SpecError::invalid(
                "config.linux.resources.oom_score_adj",
                format!("{wanted} is not within -1000 and 1000"),
            )
        })?;
    Ok(Some(score.max(host.oom_score_adj_floor)))
}
