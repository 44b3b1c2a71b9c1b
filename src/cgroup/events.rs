//! Out-of-memory counts. Text in, numbers out.

/// What the memory controller counted for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryEvents {
    /// Times the group hit its limit and the OOM killer was called. 0 on v1.
    pub oom: u64,
    /// Processes that the OOM killer ended.
    pub oom_kill: u64,
}

/// Reads `memory.events` (v2) or `memory.oom_control` (v1): lines of a name
/// and a number. Names that are not known, and lines that do not parse, count
/// for nothing: kernels add lines.
#[must_use]
pub fn parse_memory_events(text: &str) -> MemoryEvents {
    let mut events = MemoryEvents::default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(' ') else {
            continue;
        };
        let Ok(value) = value.trim().parse() else {
            continue;
        };
        match name {
            "oom" => events.oom = value,
            "oom_kill" => events.oom_kill = value,
            _ => {}
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions() {
        let v2 = "low 0\nhigh 3\nmax 41\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(
            parse_memory_events(v2),
            MemoryEvents {
                oom: 2,
                oom_kill: 1
            }
        );
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n";
        assert_eq!(parse_memory_events(v1).oom_kill, 4);
        assert_eq!(
            parse_memory_events("nonsense\noom_kill x\n\n"),
            MemoryEvents::default()
        );
    }
}
