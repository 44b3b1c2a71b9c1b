//! The states of a sandbox and what is done with a request in each, without I/O.

use std::fmt;
use std::sync::Arc;

use super::error::CreateError;

/// Where in its life a sandbox is. The diagram is in the module's documentation.
#[derive(Debug, Clone)]
pub enum Phase {
    /// RunPodSandbox is at work.
    Creating {
        /// What it is doing.
        stage: Stage,
        /// Since when, nanoseconds since the epoch.
        since: i64,
    },
    /// What a failed or interrupted creation made is being removed.
    Unwinding,
    /// It has its namespaces and its address.
    Ready,
    /// It takes no new containers and never becomes ready again.
    NotReady {
        /// Why.
        reason: Reason,
        /// Whether it still holds namespaces, addresses and mounts.
        resources: Resources,
    },
    /// Removed, or never came to be; listed no more.
    Gone {
        /// The error of the creation that failed.
        failure: Option<Arc<CreateError>>,
    },
}

/// What a sandbox that isn't ready still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resources {
    /// Namespaces, address, mounts: some or all of them.
    Held,
    /// Nothing but its record and files.
    Released,
}

/// Why a sandbox isn't ready.
#[derive(Debug, Clone)]
pub enum Reason {
    /// StopPodSandbox was called.
    Stopped,
    /// PID 1 of the shared PID namespace ended.
    InitExited,
    /// A namespace or mount is not what the record says.
    Lost(String),
    /// The node was restarted.
    Rebooted,
    /// Its creation failed, and so did removing what it left.
    CreateFailed(Arc<CreateError>),
    /// As an earlier run of the daemon recorded it.
    Recorded(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::InitExited => f.write_str("the init process of the pod has ended"),
            Self::Lost(what) => write!(f, "{what}"),
            Self::Rebooted => f.write_str("the node was restarted"),
            Self::CreateFailed(error) => write!(f, "{}", crate::base::chain::Chain(&**error)),
            Self::Recorded(text) => f.write_str(text),
        }
    }
}

/// A step of the creation, as `ps --jobs` and errors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Writing the record.
    Record,
    /// Making and pinning namespaces.
    Namespaces,
    /// Making the pod's cgroup.
    Cgroup,
    /// Writing hostname, hosts and resolv.conf.
    Files,
    /// Mounting /dev/shm.
    Shm,
    /// Starting PID 1 of the shared PID namespace.
    Init,
    /// Attaching the network; with the plugin that runs, once one does.
    Network {
        /// The CNI plugin, empty before the first one.
        plugin: String,
    },
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record => f.write_str("write record"),
            Self::Namespaces => f.write_str("make namespaces"),
            Self::Cgroup => f.write_str("make pod cgroup"),
            Self::Files => f.write_str("write files"),
            Self::Shm => f.write_str("mount shm"),
            Self::Init => f.write_str("start pod init"),
            Self::Network { plugin } if plugin.is_empty() => f.write_str("attach network"),
            Self::Network { plugin } => write!(f, "CNI ADD {plugin}"),
        }
    }
}

/// What the container domain asks of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Take no more containers.
    BeginStop,
    /// Give back network, namespaces and mounts.
    FinishStop,
    /// Forget it.
    Remove,
}

/// What the owner does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is so already.
    Nothing,
    /// Publish that it is stopped.
    Stop,
    /// Publish that it is stopped, then release what it holds.
    Release,
    /// Release what it holds, if it does, then remove record and files.
    Remove,
    /// Not in this phase.
    Denied(Denied),
}

/// A request that the phase doesn't allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Remove of a sandbox that nobody stopped.
    #[error("it is ready; stop it first")]
    StillReady,
    /// The creation hasn't ended. The owner reads no request before it has, so
    /// this is never seen outside of it.
    #[error("it is being created")]
    Creating,
}

/// Decides a request. Stop and remove are idempotent.
#[must_use]
pub(super) fn accept(phase: &Phase, ask: Ask) -> Verdict {
    match (phase, ask) {
        (Phase::Creating { .. } | Phase::Unwinding, _) => Verdict::Denied(Denied::Creating),
        (Phase::Ready, Ask::BeginStop) => Verdict::Stop,
        (Phase::Ready, Ask::FinishStop) => Verdict::Release,
        (Phase::Ready, Ask::Remove) => Verdict::Denied(Denied::StillReady),
        (Phase::NotReady { .. }, Ask::BeginStop) => Verdict::Nothing,
        (Phase::NotReady { resources, .. }, Ask::FinishStop) => match resources {
            Resources::Held => Verdict::Release,
            Resources::Released => Verdict::Nothing,
        },
        (Phase::NotReady { .. }, Ask::Remove) => Verdict::Remove,
        (Phase::Gone { .. }, _) => Verdict::Nothing,
    }
}

impl Phase {
    /// The phase after a stop: the first reason for not being ready is kept.
    #[must_use]
    pub fn stopped(&self, resources: Resources) -> Phase {
        let reason = match self {
            Phase::NotReady { reason, .. } => reason.clone(),
            Phase::Creating { .. } | Phase::Unwinding | Phase::Ready | Phase::Gone { .. } => {
                Reason::Stopped
            }
        };
        Phase::NotReady { reason, resources }
    }

    /// The phase after something that a ready sandbox needs was lost; `None`
    /// where that changes nothing.
    #[must_use]
    pub fn lost(&self, reason: Reason) -> Option<Phase> {
        matches!(self, Phase::Ready).then_some(Phase::NotReady {
            reason,
            resources: Resources::Held,
        })
    }

    /// Whether containers may be created in it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Phase::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What may be seen of a sandbox, told apart from how it is kept.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Model {
        Ready,
        Held,
        Released,
        Gone,
    }

    fn model(phase: &Phase) -> Model {
        match phase {
            Phase::Ready => Model::Ready,
            Phase::NotReady {
                resources: Resources::Held,
                ..
            } => Model::Held,
            Phase::NotReady { .. } => Model::Released,
            Phase::Gone { .. } => Model::Gone,
            Phase::Creating { .. } | Phase::Unwinding => panic!("the owner never decides here"),
        }
    }

    /// Does what the owner does, where releasing succeeds or fails.
    fn apply(phase: &Phase, ask: Ask, release_works: bool) -> (Phase, bool) {
        let released = if release_works {
            Resources::Released
        } else {
            Resources::Held
        };
        match accept(phase, ask) {
            Verdict::Nothing => (phase.clone(), true),
            Verdict::Stop => (phase.stopped(Resources::Held), true),
            Verdict::Release => (phase.stopped(released), release_works),
            Verdict::Remove => match (model(phase), release_works) {
                (Model::Held, false) => (phase.clone(), false),
                _ => (Phase::Gone { failure: None }, true),
            },
            Verdict::Denied(_) => (phase.clone(), false),
        }
    }

    fn asks() -> impl Strategy<Value = Ask> {
        prop_oneof![
            Just(Ask::BeginStop),
            Just(Ask::FinishStop),
            Just(Ask::Remove)
        ]
    }

    proptest! {
        #[test]
        fn moves_only_downwards_and_answers_twice_the_same(
            steps in proptest::collection::vec((asks(), any::<bool>(), any::<bool>()), 0..20)
        ) {
            let mut phase = Phase::Ready;
            for (ask, works, init_dies) in steps {
                if init_dies && let Some(next) = phase.lost(Reason::InitExited) {
                    phase = next;
                }
                let before = model(&phase);
                let (after, ok) = apply(&phase, ask, works);
                let expected = match (before, ask, works) {
                    (Model::Ready, Ask::BeginStop, _) => (Model::Held, true),
                    (Model::Ready | Model::Held, Ask::FinishStop, true) => (Model::Released, true),
                    (Model::Ready | Model::Held, Ask::FinishStop, false) => (Model::Held, false),
                    (Model::Ready, Ask::Remove, _) => (Model::Ready, false),
                    (Model::Held, Ask::Remove, false) => (Model::Held, false),
                    (Model::Held | Model::Released, Ask::Remove, _) => (Model::Gone, true),
                    (same, _, _) => (same, true),
                };
                prop_assert_eq!((model(&after), ok), expected);
                if ok {
                    let (again, ok_again) = apply(&after, ask, works);
                    prop_assert!(ok_again);
                    prop_assert_eq!(model(&again), model(&after));
                }
                phase = after;
            }
        }
    }

    #[test]
    fn the_first_reason_stays() {
        let lost = Phase::Ready.lost(Reason::Rebooted).unwrap();
        let Phase::NotReady { reason, .. } = lost.stopped(Resources::Released) else {
            panic!("a stopped sandbox is not ready")
        };
        assert!(matches!(reason, Reason::Rebooted));
        assert!(lost.lost(Reason::InitExited).is_none());
    }

    #[test]
    fn stages_name_the_plugin() {
        let stage = Stage::Network {
            plugin: "bridge".into(),
        };
        assert_eq!(stage.to_string(), "CNI ADD bridge");
    }
}
