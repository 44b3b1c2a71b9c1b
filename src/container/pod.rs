//! Pods as a whole: the containers first, then the sandbox.

use std::sync::Arc;
use std::time::Duration;

use crate::base::id::SandboxId;
use crate::base::teardown::Failures;
use crate::sandbox::LookupError as PodLookupError;

use super::containers::{Containers, stop};
use super::error::ContainerError;

impl Containers {
    /// StopPodSandbox: no new containers, SIGKILL to those there are, all at
    /// once, then the sandbox gives back what it holds. Unknown is success.
    ///
    /// # Errors
    /// An ambiguous id; whatever could not be ended or given back. The call
    /// may be repeated.
    pub async fn stop_pod(&self, id: &str) -> Result<(), ContainerError> {
        match self.pod(id)? {
            Some(id) => self.detached(id, false).await,
            None => Ok(()),
        }
    }

    /// RemovePodSandbox: stop it, remove its containers, forget it. Unknown is
    /// success.
    ///
    /// # Errors
    /// As for [`Self::stop_pod`].
    pub async fn remove_pod(&self, id: &str) -> Result<(), ContainerError> {
        match self.pod(id)? {
            Some(id) => self.detached(id, true).await,
            None => Ok(()),
        }
    }

    fn pod(&self, id: &str) -> Result<Option<SandboxId>, ContainerError> {
        match self.world.pods.get(id) {
            Ok(view) => Ok(Some(view.id.clone())),
            Err(PodLookupError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A client that hangs up stops nothing half-way.
    async fn detached(&self, id: SandboxId, remove: bool) -> Result<(), ContainerError> {
        let (own, pod) = (self.clone(), id.clone());
        let job = self.world.tasks.spawn(async move {
            own.end_pod(&pod).await?;
            if remove {
                own.forget_pod(&pod).await?;
            }
            Ok(())
        });
        job.await.unwrap_or_else(|died| {
            let mut failures = Failures::none();
            failures.step("stop the pod", Err::<(), _>(died));
            Err(pod_error(&id, failures))
        })
    }

    async fn end_pod(&self, id: &SandboxId) -> Result<(), ContainerError> {
        self.world.pods.begin_stop(id).await?;
        let stops = self.of_pod(id).into_iter().map(|handle| async move {
            let stopped = stop(&handle, Duration::ZERO).await;
            (format!("stop container {}", handle.id()), stopped)
        });
        collect(id, futures_util::future::join_all(stops).await)?;
        Ok(self.world.pods.finish_stop(id).await?)
    }

    async fn forget_pod(&self, id: &SandboxId) -> Result<(), ContainerError> {
        let removals = self.of_pod(id).into_iter().map(|handle| async move {
            let removed = self.remove(handle.id().as_str()).await;
            (format!("remove container {}", handle.id()), removed)
        });
        collect(id, futures_util::future::join_all(removals).await)?;
        Ok(self.world.pods.remove(id).await?)
    }
}

fn collect(
    id: &SandboxId,
    results: Vec<(String, Result<(), ContainerError>)>,
) -> Result<(), ContainerError> {
    let mut failures = Failures::none();
    for (step, result) in results {
        failures.step(step, result);
    }
    failures
        .into_result()
        .map_err(|failures| pod_error(id, failures))
}

fn pod_error(id: &SandboxId, failures: Failures) -> ContainerError {
    ContainerError::Pod {
        id: id.clone(),
        failures: Arc::new(failures),
    }
}
