//! The one way to run an owner task: a bounded mailbox in, a `watch` out.
//!
//! ```text
//!   Handle (cloned freely) --request--> mailbox --> Owner (one task, owns the state)
//!        ^                                             |
//!        +--------------- watch <---- publish ---------+
//! ```
//!
//! Whoever wants something done queues a request; whoever wants to know reads
//! the last published state, so a stop that takes 30 s never blocks a list.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

/// The owner task has ended, so nobody answers.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the task that owns the object has ended")]
pub struct Ended;

/// The front of an owner task.
#[derive(Debug)]
pub struct Handle<Q, S> {
    requests: mpsc::Sender<Q>,
    state: watch::Receiver<Arc<S>>,
}

impl<Q, S> Clone for Handle<Q, S> {
    fn clone(&self) -> Self {
        Self {
            requests: self.requests.clone(),
            state: self.state.clone(),
        }
    }
}

/// What the owner task holds.
#[derive(Debug)]
pub struct Owner<Q, S> {
    requests: mpsc::Receiver<Q>,
    state: watch::Sender<Arc<S>>,
}

/// Makes a connected pair. `depth` requests may wait.
pub fn pair<Q, S>(depth: usize, initial: S) -> (Handle<Q, S>, Owner<Q, S>) {
    let (requests, mailbox) = mpsc::channel(depth.max(1));
    let (publish, state) = watch::channel(Arc::new(initial));
    (
        Handle { requests, state },
        Owner {
            requests: mailbox,
            state: publish,
        },
    )
}

impl<Q, S> Handle<Q, S> {
    /// The state as last published. Never waits.
    #[must_use]
    pub fn state(&self) -> Arc<S> {
        self.state.borrow().clone()
    }

    /// A receiver of every later state.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<S>> {
        self.state.clone()
    }

    /// Queues `make(reply)` and waits for the reply. Dropping the future takes
    /// nothing back: the owner still does what was asked.
    ///
    /// # Errors
    /// [`Ended`] when the owner is gone.
    pub async fn ask<A>(&self, make: impl FnOnce(oneshot::Sender<A>) -> Q) -> Result<A, Ended> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(make(reply)).await.map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }

    /// Waits until `found` yields a value for a published state.
    ///
    /// # Errors
    /// [`Ended`] when the owner is gone and its last state does not satisfy `found`.
    pub async fn until<A>(&self, mut found: impl FnMut(&S) -> Option<A>) -> Result<A, Ended> {
        let mut state = self.state.clone();
        loop {
            if let Some(value) = found(&state.borrow_and_update()) {
                return Ok(value);
            }
            state.changed().await.map_err(|_| Ended)?;
        }
    }
}

impl<Q, S> Owner<Q, S> {
    /// The next request; `None` when every handle is gone.
    pub async fn next(&mut self) -> Option<Q> {
        self.requests.recv().await
    }

    /// Publishes a new state. Readers see whole states only.
    pub fn publish(&self, state: S) {
        self.state.send_replace(Arc::new(state));
    }

    /// The state as last published.
    #[must_use]
    pub fn state(&self) -> Arc<S> {
        self.state.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn asks_and_reads_the_published_state() {
        let (handle, mut owner) = pair::<oneshot::Sender<u8>, u8>(1, 0);
        let serve = async {
            let reply = owner.next().await.unwrap();
            owner.publish(7);
            reply.send(1).unwrap();
        };
        let (answer, ()) = tokio::join!(handle.ask(|reply| reply), serve);
        assert_eq!(answer.unwrap(), 1);
        assert_eq!(*handle.state(), 7);
        assert_eq!(
            handle.until(|s| (*s == 7).then_some("seen")).await.unwrap(),
            "seen"
        );
    }

    #[tokio::test]
    async fn a_gone_owner_is_an_error() {
        let (handle, owner) = pair::<oneshot::Sender<u8>, u8>(1, 0);
        drop(owner);
        assert!(handle.ask(|reply| reply).await.is_err());
    }
}
