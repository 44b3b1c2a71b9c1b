//! Work outlives the caller: a client that hangs up drops its wait, nothing
//! half-made.

use std::future::Future;

use tonic::Status;

use crate::base::tasks::Tasks;

/// Runs `work` on a task of its own and waits for its answer.
///
/// # Errors
/// What `work` answers; `Internal` when it panicked.
pub async fn detached<T: Send + 'static>(
    tasks: &Tasks,
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    match tasks.spawn(work).await {
        Ok(answer) => answer,
        Err(failed) => Err(Status::internal(format!(
            "the job ended without an answer: {failed}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[tokio::test]
    async fn a_dropped_call_goes_on() {
        let (tasks, done) = (Tasks::new(), Arc::new(AtomicBool::new(false)));
        let flag = done.clone();
        let call = detached(&tasks, async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            flag.store(true, Ordering::SeqCst);
            Ok(())
        });
        assert!(
            tokio::time::timeout(Duration::from_millis(1), call)
                .await
                .is_err()
        );
        tasks.shut_down().await;
        assert!(done.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let tasks = Tasks::new();
        let answer: Result<(), _> = detached(&tasks, async { panic!("on purpose") }).await;
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Internal);
    }
}
