//! ExecSync.

use std::sync::Arc;
use std::time::Duration;

use super::containers::Containers;
use super::error::ContainerError;
use super::ports::{ExecLimits, ExecOutput, RuntimeError};
use super::spec::SpecError;
use super::state::Ask;

/// CRI: "output exceeding 16 MiB is discarded", per stream.
const OUTPUT_BYTES: usize = 16 << 20;

impl Containers {
    /// Runs a command in a running container, to its end. `timeout` 0: no limit.
    ///
    /// # Errors
    /// [`ContainerError::DeadlineExceeded`] when it was killed for taking too
    /// long, `Denied` unless the container runs, `Runtime` when the command
    /// can't be run at all. A command that fails is no error.
    pub async fn exec_sync(
        &self,
        id: &str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, ContainerError> {
        if cmd.is_empty() {
            return Err(SpecError::invalid("cmd", "the command is empty").into());
        }
        if cmd.iter().any(|arg| arg.contains('\0')) {
            return Err(SpecError::invalid("cmd", "an argument holds a NUL").into());
        }
        let handle = self.get(id)?;
        let task = self.task_for(&handle, Ask::Exec).await?;
        let limits = ExecLimits {
            timeout: (!timeout.is_zero()).then_some(timeout),
            output_bytes: OUTPUT_BYTES,
        };
        match task.exec_sync(&cmd, limits).await {
            Ok(output) => Ok(output),
            Err(RuntimeError::TimedOut(timeout)) => Err(ContainerError::DeadlineExceeded {
                id: handle.id().clone(),
                timeout,
            }),
            Err(error) => Err(ContainerError::Runtime {
                operation: "exec in",
                id: handle.id().clone(),
                source: Arc::new(error),
            }),
        }
    }
}
