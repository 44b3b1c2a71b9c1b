//! Ending a container: signal, grace, SIGKILL to the whole cgroup.
//!
//! A stop is a state with a deadline that the owner task keeps, never a
//! function that somebody awaits: a second stop, a query and the exit are all
//! heard meanwhile, and a client that hangs up changes nothing.

use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::driver::{Driver, now};
use super::state::{KILL_AGAIN, Phase, Stop, Verdict};

/// How long the shim may take to pass a signal on.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(2);
/// After this many kills with nobody left in the cgroup and no word of an
/// exit, the shim itself hangs.
const HUNG_SHIM_KILLS: u32 = 5;

/// The number of a signal from an image's `StopSignal`: a name with or without
/// `SIG`, `RTMIN+n`, `RTMAX-n`, or a number. `None` for anything else.
pub(super) fn signal_number(text: &str) -> Option<i32> {
    let text = text.trim().to_ascii_uppercase();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    let offset = |rest: &str| match rest {
        "" => Some(0),
        rest => rest.parse::<i32>().ok().filter(|n| (0..=30).contains(n)),
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let up = offset(rest.strip_prefix('+').unwrap_or(rest))?;
        return Some(libc::SIGRTMIN() + up);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let down = offset(rest.strip_prefix('-').unwrap_or(rest))?;
        return Some(libc::SIGRTMAX() - down);
    }
    Signal::from_str(&format!("SIG{name}"))
        .ok()
        .map(|signal| signal as i32)
}

impl Driver {
    /// Carries out what was decided about a stop.
    pub(super) async fn stop(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Signal(kill_at) => {
                self.set_phase(self.phase().stopping(Stop::Grace(kill_at)));
                if let Err(error) = self.signal(self.stop_signal()).await {
                    tracing::warn!(container = %self.id(), %error, "stop signal lost; killing");
                    self.kill().await;
                }
            }
            Verdict::Shorten(kill_at) => {
                self.set_phase(self.phase().stopping(Stop::Grace(kill_at)));
            }
            Verdict::Kill => self.kill().await,
            Verdict::Nothing | Verdict::Do | Verdict::Denied(_) => {}
        }
    }

    /// Kills every process of the container, and keeps at it until the exit comes.
    pub(super) async fn kill(&mut self) {
        self.set_phase(self.phase().stopping(Stop::Killing(now() + KILL_AGAIN)));
        self.kills += 1;
        let (host, path) = (self.world.cgroups.clone(), self.record.cgroup.clone());
        let killed = self.world.tasks.spawn_blocking(move || {
            host.kill_once(&path)?;
            host.is_empty(&path)
        });
        let empty = match killed.await {
            Ok(Ok(empty)) => empty,
            Ok(Err(error)) => {
                tracing::error!(container = %self.id(), error = %crate::base::chain::Chain(&error), "kill");
                false
            }
            Err(error) => {
                tracing::error!(container = %self.id(), %error, "kill");
                false
            }
        };
        // Init left its cgroup (a privileged container can), or is a zombie.
        if (empty || self.kills > 1)
            && let Err(error) = self.signal(libc::SIGKILL).await
        {
            tracing::debug!(container = %self.id(), %error, "SIGKILL to init");
        }
        if empty && self.kills >= HUNG_SHIM_KILLS {
            self.lost("its shim did not answer").await;
        }
    }

    async fn signal(&self, signal: i32) -> Result<(), super::ports::RuntimeError> {
        let Some(task) = &self.task else {
            return Err(super::ports::RuntimeError::Gone);
        };
        match tokio::time::timeout(SIGNAL_PATIENCE, task.kill(signal)).await {
            Ok(answer) => answer,
            Err(_) => Err(super::ports::RuntimeError::TimedOut(SIGNAL_PATIENCE)),
        }
    }

    fn phase(&self) -> &Phase {
        &self.view.phase
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_of_images() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("quit", 3),
            ("SIGRTMIN+3", libc::SIGRTMIN() + 3),
            ("RTMAX-1", libc::SIGRTMAX() - 1),
            ("SIGRTMIN", libc::SIGRTMIN()),
            ("9", 9),
        ] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for bad in ["", "0", "-1", "99", "SIGNONSENSE", "RTMIN+99", "RTMIN-1"] {
            assert_eq!(signal_number(bad), None, "{bad}");
        }
    }
}
