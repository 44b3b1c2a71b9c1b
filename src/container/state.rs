//! The states of a container and what is done with a request in each. No I/O;
//! time comes as an argument.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How often a SIGKILL that had no effect yet is sent again.
pub(super) const KILL_AGAIN: Duration = Duration::from_secs(1);

/// A step of the creation, as errors and `ps --jobs` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Image, users, volumes, spec.
    Resolve,
    /// Compiling the seccomp profile.
    Seccomp,
    /// Writing the record.
    Record,
    /// Shim, cgroup and snapshot, at the same time.
    Prepare,
    /// The shim at work.
    Create,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolve the request",
            Self::Seccomp => "compile seccomp profile",
            Self::Record => "write record",
            Self::Prepare => "prepare shim, cgroup and snapshot",
            Self::Create => "create in the shim",
        })
    }
}

/// `ContainerStatus.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Any other code.
    Error,
    /// The kernel's OOM killer ended it.
    OomKilled,
    /// Its program could not be run.
    StartError,
    /// Its shim died, or the node was restarted, before anybody learned the code.
    Unknown,
}

impl ExitReason {
    /// The text that kubelet knows.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }
}

/// How a container ended. Both times are set, and the first is not the later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, or 128 + signal.
    pub code: i32,
    /// Why.
    pub reason: ExitReason,
    /// More for a person; mostly empty.
    pub message: String,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
}

impl Exit {
    /// From what the shim saw. SIGKILL with a raised `oom_kill` count is OOMKilled.
    #[must_use]
    pub fn of(code: i32, oom_killed: bool, started_at: i64, finished_at: i64) -> Self {
        let reason = match code {
            0 => ExitReason::Completed,
            137 if oom_killed => ExitReason::OomKilled,
            _ => ExitReason::Error,
        };
        let finished_at = finished_at.max(1);
        let started_at = match started_at {
            at if at <= 0 => finished_at,
            at => at.min(finished_at),
        };
        Self {
            code,
            reason,
            message: String::new(),
            started_at,
            finished_at,
        }
    }

    /// Nobody knows the code.
    #[must_use]
    pub fn unknown(started_at: i64, now: i64, message: impl Into<String>) -> Self {
        Self {
            reason: ExitReason::Unknown,
            message: message.into(),
            ..Self::of(255, false, started_at, now)
        }
    }

    /// The program could not be run.
    #[must_use]
    pub fn start_error(now: i64, message: impl Into<String>) -> Self {
        Self {
            reason: ExitReason::StartError,
            message: message.into(),
            ..Self::of(128, false, 0, now)
        }
    }
}

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The stop signal was sent; SIGKILL follows at this time.
    Grace(Instant),
    /// SIGKILL was sent to the whole cgroup, and is again at this time.
    Killing(Instant),
}

/// Where in its life a container is. The diagram is in the module's documentation.
#[derive(Debug, Clone)]
pub enum Phase {
    /// CreateContainer is at work.
    Creating {
        /// What it is doing.
        stage: Stage,
        /// Since when, nanoseconds since the epoch.
        since: i64,
    },
    /// Everything but its program's execve is done.
    Created,
    /// Its program runs.
    Running {
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    /// It is being stopped.
    Stopping {
        /// Nanoseconds since the epoch; 0: it was never started.
        started_at: i64,
        /// How far.
        stop: Stop,
    },
    /// It has ended.
    Exited(Exit),
    /// Removed, or never came to be; listed no more.
    Gone,
}

/// What is asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Run the program.
    Start,
    /// End it: the stop signal, and SIGKILL after the grace.
    Stop {
        /// 0: SIGKILL at once.
        grace: Duration,
    },
    /// Run a command in it.
    Exec,
    /// Open its log again.
    ReopenLog,
    /// Forget it.
    Remove,
}

/// What the owner does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is so already, or under way.
    Nothing,
    /// Do it.
    Do,
    /// Send the stop signal; SIGKILL at this time.
    Signal(Instant),
    /// SIGKILL earlier than was planned.
    Shorten(Instant),
    /// SIGKILL now.
    Kill,
    /// Not in this state.
    Denied(Denied),
}

/// A request that the state doesn't allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Start of one that was started before.
    #[error("it is not in the state CREATED")]
    NotCreated,
    /// Needs a running container.
    #[error("it is not running")]
    NotRunning,
    /// It is being killed.
    #[error("it is being killed")]
    Killing,
    /// Remove of one that runs.
    #[error("it is running; stop it first")]
    StillRunning,
}

/// Decides a request. Stop and remove are idempotent.
#[must_use]
pub(super) fn accept(phase: &Phase, ask: Ask, now: Instant) -> Verdict {
    match ask {
        Ask::Start => match phase {
            Phase::Created => Verdict::Do,
            Phase::Creating { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Exited(_)
            | Phase::Gone => Verdict::Denied(Denied::NotCreated),
        },
        Ask::Stop { grace } => accept_stop(phase, grace, now),
        Ask::Exec | Ask::ReopenLog => match phase {
            Phase::Running { .. }
            | Phase::Stopping {
                stop: Stop::Grace(_),
                started_at: 1..,
            } => Verdict::Do,
            Phase::Stopping { .. } => Verdict::Denied(Denied::Killing),
            Phase::Creating { .. } | Phase::Created | Phase::Exited(_) | Phase::Gone => {
                Verdict::Denied(Denied::NotRunning)
            }
        },
        Ask::Remove => match phase {
            Phase::Exited(_) => Verdict::Do,
            Phase::Gone => Verdict::Nothing,
            Phase::Creating { .. }
            | Phase::Created
            | Phase::Running { .. }
            | Phase::Stopping { .. } => Verdict::Denied(Denied::StillRunning),
        },
    }
}

fn accept_stop(phase: &Phase, grace: Duration, now: Instant) -> Verdict {
    // A grace beyond what the clock can count never ends.
    let forever = now + Duration::from_secs(60 * 60 * 24 * 365);
    let kill_at = now.checked_add(grace).unwrap_or(forever);
    match phase {
        // What hasn't run its program yet has nobody to hear a signal.
        Phase::Created => Verdict::Kill,
        Phase::Running { .. } if grace.is_zero() => Verdict::Kill,
        Phase::Running { .. } => Verdict::Signal(kill_at),
        Phase::Stopping {
            stop: Stop::Grace(_),
            ..
        } if grace.is_zero() => Verdict::Kill,
        Phase::Stopping {
            stop: Stop::Grace(planned),
            ..
        } if kill_at < *planned => Verdict::Shorten(kill_at),
        Phase::Creating { .. } | Phase::Stopping { .. } | Phase::Exited(_) | Phase::Gone => {
            Verdict::Nothing
        }
    }
}

impl Phase {
    /// When its program was started, 0: not yet.
    #[must_use]
    pub fn started_at(&self) -> i64 {
        match self {
            Self::Creating { .. } | Self::Created | Self::Gone => 0,
            Self::Running { started_at } | Self::Stopping { started_at, .. } => *started_at,
            Self::Exited(exit) => exit.started_at,
        }
    }

    /// The phase of a stop under way.
    #[must_use]
    pub fn stopping(&self, stop: Stop) -> Self {
        Self::Stopping {
            started_at: self.started_at(),
            stop,
        }
    }

    /// When the owner has to (again) send SIGKILL.
    #[must_use]
    pub fn kill_at(&self) -> Option<Instant> {
        match self {
            Self::Stopping {
                stop: Stop::Grace(at) | Stop::Killing(at),
                ..
            } => Some(*at),
            Self::Creating { .. }
            | Self::Created
            | Self::Running { .. }
            | Self::Exited(_)
            | Self::Gone => None,
        }
    }

    /// Whether its init is no more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Exited(_) | Self::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exits() {
        let exit = Exit::of(0, true, 5, 9);
        assert_eq!((exit.reason, exit.started_at), (ExitReason::Completed, 5));
        assert_eq!(Exit::of(137, true, 5, 9).reason, ExitReason::OomKilled);
        assert_eq!(Exit::of(137, false, 5, 9).reason, ExitReason::Error);
        assert_eq!(Exit::of(1, true, 5, 9).reason, ExitReason::Error);
        // Never started, and a clock that went back.
        assert_eq!(Exit::of(137, false, 0, 9).started_at, 9);
        assert_eq!(Exit::of(0, false, 11, 9).started_at, 9);
        let lost = Exit::unknown(5, 9, "shim died");
        assert_eq!((lost.code, lost.reason.as_str()), (255, "Unknown"));
        assert_eq!(Exit::start_error(9, "x").code, 128);
    }

    /// What happens to a container, seconds apart.
    #[derive(Debug, Clone)]
    enum Step {
        Ask(Ask),
        Pass(u64),
        Exit,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Ask(Ask::Start)),
            (0..40_u64).prop_map(|s| Step::Ask(Ask::Stop {
                grace: Duration::from_secs(s)
            })),
            Just(Step::Ask(Ask::Exec)),
            Just(Step::Ask(Ask::Remove)),
            (1..20_u64).prop_map(Step::Pass),
            Just(Step::Exit),
        ]
    }

    /// The model: when (in seconds) the container is to be killed, kept as the
    /// least of what every stop asked for.
    #[derive(Debug, Default)]
    struct Model {
        started: bool,
        over: bool,
        gone: bool,
        kill_at: Option<u64>,
        signals: u32,
        killed: bool,
    }

    /// Does what the owner does.
    fn apply(phase: &Phase, verdict: Verdict, ask: Ask, now: Instant, signals: &mut u32) -> Phase {
        match (verdict, ask) {
            (Verdict::Do, Ask::Start) => Phase::Running { started_at: 1 },
            (Verdict::Do, Ask::Remove) => Phase::Gone,
            (Verdict::Signal(at), _) => {
                *signals += 1;
                phase.stopping(Stop::Grace(at))
            }
            (Verdict::Shorten(at), _) => phase.stopping(Stop::Grace(at)),
            (Verdict::Kill, _) => phase.stopping(Stop::Killing(now + KILL_AGAIN)),
            _ => phase.clone(),
        }
    }

    fn model_stop(model: &mut Model, grace: u64, now: u64) {
        if model.over || model.killed {
            return;
        }
        if !model.started || grace == 0 {
            model.killed = true;
            return;
        }
        if model.kill_at.is_none() {
            model.signals += 1;
        }
        let at = now + grace;
        model.kill_at = Some(model.kill_at.map_or(at, |have| have.min(at)));
    }

    proptest! {
        #[test]
        fn follows_the_model(steps in proptest::collection::vec(step(), 0..40)) {
            let zero = Instant::now();
            let (mut now, mut signals) = (0_u64, 0);
            let mut phase = Phase::Created;
            let mut model = Model::default();
            for step in steps {
                let at = zero + Duration::from_secs(now);
                match step {
                    Step::Pass(seconds) => now += seconds,
                    Step::Exit if !phase.is_over() => {
                        phase = Phase::Exited(Exit::of(0, false, 1, 2));
                        model.over = true;
                    }
                    Step::Exit => {}
                    Step::Ask(ask) => {
                        let verdict = accept(&phase, ask, at);
                        match ask {
                            Ask::Start => {
                                let free = !model.started && !model.over && !model.killed;
                                prop_assert_eq!(verdict == Verdict::Do, free);
                                model.started |= free;
                            }
                            Ask::Stop { grace } => model_stop(&mut model, grace.as_secs(), now),
                            Ask::Exec | Ask::ReopenLog => prop_assert_eq!(
                                verdict == Verdict::Do,
                                model.started && !model.over && !model.killed
                            ),
                            Ask::Remove => {
                                prop_assert_eq!(
                                    matches!(verdict, Verdict::Denied(_)), !model.over);
                                model.gone |= model.over;
                            }
                        }
                        phase = apply(&phase, verdict, ask, at, &mut signals);
                    }
                }
                let at = zero + Duration::from_secs(now);
                if phase.kill_at().is_some_and(|kill| kill <= at) {
                    phase = phase.stopping(Stop::Killing(at + KILL_AGAIN));
                }
                model.killed |= !model.over && model.kill_at.is_some_and(|kill| kill <= now);
                prop_assert_eq!(signals, model.signals);
                prop_assert_eq!(matches!(phase, Phase::Gone), model.gone);
                prop_assert_eq!(phase.is_over(), model.over);
                if !model.over {
                    let killing =
                        matches!(phase, Phase::Stopping { stop: Stop::Killing(_), .. });
                    prop_assert_eq!(killing, model.killed);
                }
            }
        }
    }
}
