//! The task that owns one sandbox.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::base::chain::chain;
use crate::base::clock::now_nanos;
use crate::base::driver::Owner;
use crate::base::readable::Readable;
use crate::base::teardown::Failures;
use crate::store::Durability;

use super::create::{Created, Failed, Progress, create};
use super::env::Env;
use super::error::{CreateError, SandboxError};
use super::init;
use super::model::SandboxConfig;
use super::record::{Recorded, SandboxRecord, full_name};
use super::state::{Ask, Phase, Reason, Resources, Stage, Verdict, accept};
use super::table::Table;
use super::teardown::destroy;
use super::view::SandboxView;

/// What may be asked of the owner.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) ask: Ask,
    pub(super) reply: oneshot::Sender<Result<(), SandboxError>>,
}

/// How the life of an owner begins.
#[derive(Debug)]
pub(super) enum Start {
    /// RunPodSandbox.
    Create,
    /// The daemon died while it was being created.
    Unwind,
    /// As recorded and found: nothing to do.
    Found {
        /// The phase it is in.
        phase: Phase,
        /// Its init process.
        init: Option<Readable>,
    },
    /// It isn't ready and can't be again, and its containers are gone with the
    /// boot: what it holds is given back at once.
    Release {
        /// Why.
        reason: Reason,
    },
}

impl Start {
    /// The phase that is published before the task runs.
    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Create => Phase::Creating {
                stage: Stage::Record,
                since: now_nanos(),
            },
            Self::Unwind => Phase::Unwinding,
            Self::Found { phase, .. } => phase.clone(),
            Self::Release { reason } => Phase::NotReady {
                reason: reason.clone(),
                resources: Resources::Held,
            },
        }
    }
}

/// The owner of one sandbox.
pub(super) struct Driver {
    pub(super) env: Arc<Env>,
    pub(super) table: Arc<Table>,
    pub(super) owner: Owner<Request, SandboxView>,
    pub(super) config: Arc<SandboxConfig>,
    pub(super) record: SandboxRecord,
    pub(super) phase: Phase,
    pub(super) init: Option<Readable>,
}

impl Driver {
    /// Owns the sandbox until it is gone or the daemon shuts down.
    pub(super) async fn run(mut self, start: Start) {
        match start {
            Start::Create => self.create().await,
            Start::Unwind => self.unwind(None).await,
            Start::Found { init, .. } => self.init = init,
            Start::Release { .. } => {
                self.keep_record();
                if let Err(error) = self.release().await {
                    tracing::warn!(sandbox = %self.record.id, error = %chain(&error), "sandbox of an earlier boot");
                }
            }
        }
        let stopping = self.env.tasks.stopping();
        while !matches!(self.phase, Phase::Gone { .. }) {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                () = init::ended(self.init.as_ref()) => {
                    self.init = None;
                    self.lost(Reason::InitExited);
                }
                request = self.owner.next() => match request {
                    None => return,
                    Some(request) => self.serve(request).await,
                },
            }
        }
    }

    async fn serve(&mut self, request: Request) {
        let result = match accept(&self.phase, request.ask) {
            Verdict::Nothing => Ok(()),
            Verdict::Stop => {
                self.enter(self.phase.stopped(Resources::Held));
                self.keep_record();
                Ok(())
            }
            Verdict::Release => self.release().await,
            Verdict::Remove => self.remove().await,
            Verdict::Denied(reason) => Err(SandboxError::Denied {
                id: self.record.id.clone(),
                reason,
            }),
        };
        // Whoever asked may be gone; what was asked is done.
        drop(request.reply.send(result));
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase.clone();
        self.owner.publish(self.record.view(&self.config, phase));
    }

    /// Puts the phase on disk. A failure costs the next start some certainty
    /// and is no reason to fail what was done.
    fn keep_record(&mut self) {
        self.record.state = Recorded::from(&self.phase);
        let id = self.record.id.as_str();
        if let Err(error) = self.env.records.write(id, &self.record, Durability::Rename) {
            tracing::error!(sandbox = id, error = %chain(&error), "record not written");
        }
    }

    fn lost(&mut self, reason: Reason) {
        if let Some(phase) = self.phase.lost(reason) {
            self.enter(phase);
            self.keep_record();
        }
    }

    async fn create(&mut self) {
        let (owner, record, config) = (&self.owner, self.record.clone(), &self.config);
        let plan = self.record.clone();
        let publish = |stage: Stage| {
            let since = now_nanos();
            owner.publish(plan.view(config, Phase::Creating { stage, since }));
        };
        let progress = Progress::new(&publish);
        let result = create(&self.env, record, &progress).await;
        match result {
            Ok(Created { record, init }) => {
                self.record = record;
                self.init = init;
                self.enter(Phase::Ready);
            }
            Err(failed) => {
                let Failed {
                    record,
                    stage,
                    after,
                    cause,
                } = *failed;
                self.record = record;
                self.unwind(Some(CreateError {
                    name: full_name(&self.record.config.metadata),
                    stage,
                    after,
                    cause,
                    cleanup: None,
                }))
                .await;
            }
        }
    }

    /// Removes what a creation made, and then the sandbox itself. Where that
    /// fails the sandbox stays, not ready, so that kubelet sees it and has it
    /// stopped and removed.
    async fn unwind(&mut self, error: Option<CreateError>) {
        self.enter(Phase::Unwinding);
        match self.destroy_all().await {
            Ok(()) => self.gone(error.map(Arc::new)),
            Err(failures) => {
                let reason = match error {
                    Some(error) => Reason::CreateFailed(Arc::new(CreateError {
                        cleanup: Some(failures),
                        ..error
                    })),
                    None => Reason::Recorded(format!(
                        "its creation was interrupted, and cleaning up failed: {failures}"
                    )),
                };
                self.enter(Phase::NotReady {
                    reason,
                    resources: Resources::Held,
                });
                self.keep_record();
            }
        }
    }

    async fn destroy_all(&mut self) -> Result<(), Failures> {
        self.init = None;
        destroy(&self.env, &self.record).await?;
        let mut failures = Failures::none();
        let removed = self.env.records.remove(self.record.id.as_str());
        failures.step("remove record", removed);
        failures.into_result()
    }

    /// The name is free before anybody learns that the sandbox is gone.
    fn gone(&mut self, failure: Option<Arc<CreateError>>) {
        self.table.forget(&self.record.id);
        self.enter(Phase::Gone { failure });
    }

    async fn release(&mut self) -> Result<(), SandboxError> {
        // What ends now is not lost: the reason of a stop is the stop.
        self.init = None;
        self.enter(self.phase.stopped(Resources::Held));
        let result = destroy(&self.env, &self.record).await;
        if result.is_ok() {
            self.enter(self.phase.stopped(Resources::Released));
        }
        self.keep_record();
        result.map_err(|failures| self.not_released(failures))
    }

    async fn remove(&mut self) -> Result<(), SandboxError> {
        // Also where all was released: a container's cgroup may have kept the
        // pod's from going.
        match self.destroy_all().await {
            Ok(()) => {
                self.gone(None);
                Ok(())
            }
            Err(failures) => Err(self.not_released(failures)),
        }
    }

    fn not_released(&self, failures: Failures) -> SandboxError {
        SandboxError::Release {
            id: self.record.id.clone(),
            failures: Arc::new(failures),
        }
    }
}
