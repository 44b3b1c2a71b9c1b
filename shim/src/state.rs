//! What a shim may be asked when. Pure: the driver asks here first and only
//! then touches anything.
//!
//! ```text
//!            Create            made            Start           exec'd
//!   Empty ----------> Creating ----> Created --------> Starting ----> Running
//!     ^                  |              |                 |              |
//!     +--- failed -------+              +------- init exited ------------+
//!                                                         |
//!                                                         v   log drained
//!                                                      Stopping --------> Stopped
//! ```
//!
//! Collect is allowed in Empty and Stopped and ends the shim.

/// Where the container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was created, or Create failed and was cleaned up.
    Empty,
    /// The worker is at it.
    Creating,
    /// Init waits to execve.
    Created,
    /// Init was told to execve and has not yet done it.
    Starting,
    /// The program runs.
    Running,
    /// Init is gone, its exit is recorded, the log still drains.
    Stopping,
    /// Init is gone and reported.
    Stopped,
}

/// A request, without its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// `Create`.
    Create,
    /// `Start`.
    Start,
    /// `Kill`.
    Kill,
    /// `Exec`.
    Exec,
    /// `KillExec`.
    KillExec,
    /// `Resize`.
    Resize,
    /// `ReopenLog`.
    ReopenLog,
    /// `Attach`.
    Attach,
    /// `State`.
    State,
    /// `Collect`.
    Collect,
}

/// What moves a container from stage to stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// Create was begun.
    CreateBegun,
    /// The worker made the container.
    Made,
    /// The worker failed; nothing is left of what it did.
    CreateFailed,
    /// Init was told to go on.
    StartBegun,
    /// Init's execve succeeded.
    Execed,
    /// Init is dead and reaped.
    InitExited,
    /// The log took everything, or was given up.
    LogDrained,
}

/// The request does not fit the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{ask:?} is not possible while the container is {stage:?}")]
pub struct Refused {
    /// The request.
    pub ask: Ask,
    /// The stage.
    pub stage: Stage,
}

/// A fact that cannot be at this stage: a defect of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{fact:?} while the container is {stage:?}")]
pub struct Impossible {
    /// What was claimed.
    pub fact: Fact,
    /// The stage.
    pub stage: Stage,
}

impl Stage {
    /// Whether `ask` is admitted.
    ///
    /// # Errors
    /// The pair that does not fit.
    pub fn admit(self, ask: Ask) -> Result<(), Refused> {
        use Stage::{Created, Creating, Empty, Running, Starting, Stopped, Stopping};
        let live = matches!(self, Created | Starting | Running);
        let admitted = match ask {
            Ask::State => true,
            Ask::Create => self == Empty,
            Ask::Start => self == Created,
            // A worker that hangs on a dead volume can be killed too. While
            // the log drains a kill is the loser of a race, not an error.
            Ask::Kill => live || matches!(self, Creating | Stopping),
            Ask::Exec => self == Running,
            // Answered with NOT_FOUND where there are none.
            Ask::KillExec => self != Empty && self != Creating,
            Ask::Resize | Ask::Attach | Ask::ReopenLog => live || self == Stopping,
            Ask::Collect => matches!(self, Empty | Stopped),
        };
        if admitted {
            Ok(())
        } else {
            Err(Refused { ask, stage: self })
        }
    }

    /// The stage after `fact`.
    ///
    /// # Errors
    /// The pair that cannot be.
    pub fn after(self, fact: Fact) -> Result<Stage, Impossible> {
        use Stage::{Created, Creating, Empty, Running, Starting, Stopped, Stopping};
        match (self, fact) {
            (Empty, Fact::CreateBegun) => Ok(Creating),
            (Creating, Fact::Made) => Ok(Created),
            (Creating, Fact::CreateFailed) => Ok(Empty),
            (Created, Fact::StartBegun) => Ok(Starting),
            (Starting, Fact::Execed) => Ok(Running),
            (Created | Starting | Running, Fact::InitExited) => Ok(Stopping),
            (Stopping, Fact::LogDrained) => Ok(Stopped),
            (stage, fact) => Err(Impossible { fact, stage }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FACTS: [Fact; 7] = [
        Fact::CreateBegun,
        Fact::Made,
        Fact::CreateFailed,
        Fact::StartBegun,
        Fact::Execed,
        Fact::InitExited,
        Fact::LogDrained,
    ];
    const ASKS: [Ask; 10] = [
        Ask::Create,
        Ask::Start,
        Ask::Kill,
        Ask::Exec,
        Ask::KillExec,
        Ask::Resize,
        Ask::ReopenLog,
        Ask::Attach,
        Ask::State,
        Ask::Collect,
    ];

    proptest! {
        /// Whatever happens in whatever order: one container at most, started
        /// at most once, reported exactly once, collected only when dead.
        #[test]
        fn a_container_lives_once(facts in proptest::collection::vec(0..FACTS.len(), 0..60)) {
            let mut stage = Stage::Empty;
            let (mut made, mut started, mut reported) = (0, 0, 0);
            for fact in facts {
                let fact = FACTS[fact];
                let Ok(next) = stage.after(fact) else { continue };
                made += i32::from(fact == Fact::Made);
                started += i32::from(fact == Fact::StartBegun);
                reported += i32::from(next == Stage::Stopped);
                stage = next;
                let alive = made > 0 && reported == 0;
                prop_assert!(made <= 1 && started <= made && reported <= made);
                prop_assert_eq!(stage.admit(Ask::Create).is_ok(), made == 0 && stage == Stage::Empty);
                prop_assert_eq!(stage.admit(Ask::Collect).is_ok(), !alive && stage != Stage::Creating);
                prop_assert!(stage.admit(Ask::Start).is_err() || started == 0);
                prop_assert!(stage.admit(Ask::State).is_ok());
            }
        }
    }

    #[test]
    fn a_request_that_begins_something_is_admitted_where_its_fact_is_possible() {
        for stage in [
            Stage::Empty,
            Stage::Creating,
            Stage::Created,
            Stage::Starting,
            Stage::Running,
            Stage::Stopping,
            Stage::Stopped,
        ] {
            assert_eq!(
                stage.admit(Ask::Create).is_ok(),
                stage.after(Fact::CreateBegun).is_ok()
            );
            assert_eq!(
                stage.admit(Ask::Start).is_ok(),
                stage.after(Fact::StartBegun).is_ok()
            );
            // As long as init can exit, it can be killed.
            assert!(stage.after(Fact::InitExited).is_err() || stage.admit(Ask::Kill).is_ok());
            assert!(ASKS.iter().any(|ask| stage.admit(*ask).is_ok()));
        }
    }
}
