//! What a process costs.

use std::fs;

use anyhow::{Context as _, Result};

/// The proportional set size of a process, in KiB, from `smaps_rollup` (proc(5)).
///
/// # Errors
/// When the process is gone or the file has no such line.
pub fn pss_of(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    field(&text, "Pss").with_context(|| format!("{path} has no Pss"))
}

/// The number of open descriptors of a process: a daemon that leaks them shows here first.
///
/// # Errors
/// When the process is gone.
pub fn descriptors_of(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&path)
        .with_context(|| format!("read {path}"))?
        .count())
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|value| value.split_ascii_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pss_is_not_its_anonymous_part() {
        let text = "Rss: 900 kB\nPss_Anon: 10 kB\nPss:                 123 kB\n";
        assert_eq!(field(text, "Pss"), Some(123));
        assert_eq!(field(text, "Swap"), None);
    }

    #[test]
    fn this_process_has_a_pss_and_descriptors() {
        assert!(pss_of(std::process::id()).unwrap() > 0);
        assert!(descriptors_of(std::process::id()).unwrap() >= 3);
    }
}
