//! One piece of work, however many want it.
//!
//! Who asks first starts the work, on a task of its own; who asks for the same
//! while it runs joins it. Nobody's leaving stops work that is kept; work that
//! is not kept stops when the last one who waits has left.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::base::tasks::Tasks;

type Outcome<V> = watch::Sender<Option<V>>;
type Running<K, V> = Arc<Mutex<HashMap<K, Arc<Outcome<V>>>>>;

/// The work that runs now, by key.
#[derive(Debug)]
pub(super) struct Flights<K, V> {
    running: Running<K, V>,
    tasks: Tasks,
}

/// A share in a piece of work.
#[derive(Debug)]
pub(super) struct Ticket<V> {
    outcome: watch::Receiver<Option<V>>,
    /// Whether this caller started it.
    pub(super) led: bool,
}

impl<V: Clone> Ticket<V> {
    /// The result; `None` when the work was cut off.
    pub(super) async fn wait(mut self) -> Option<V> {
        let outcome = self.outcome.wait_for(Option::is_some).await.ok()?;
        outcome.clone()
    }
}

/// Takes the work off the list however its task ends.
struct Landing<K: Eq + Hash, V> {
    running: Running<K, V>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(tasks: Tasks) -> Self {
        Self {
            running: Arc::default(),
            tasks,
        }
    }

    /// Joins the work of `key`, or starts what `work` makes. Work that isn't
    /// `kept` is dropped when nobody waits for it.
    pub(super) fn join<F>(&self, key: K, kept: bool, work: impl FnOnce() -> F) -> Ticket<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = lock(&self.running);
        if let Some(outcome) = running.get(&key) {
            return Ticket {
                outcome: outcome.subscribe(),
                led: false,
            };
        }
        let (sender, outcome) = watch::channel(None);
        let sender = Arc::new(sender);
        running.insert(key.clone(), sender.clone());
        drop(running);
        let landing = Landing {
            running: self.running.clone(),
            key,
        };
        let work = work();
        self.tasks.spawn(async move {
            tokio::select! {
                value = work => {
                    drop(landing);
                    sender.send_replace(Some(value));
                }
                () = unwanted(&landing, &sender), if !kept => {}
            }
        });
        Ticket { outcome, led: true }
    }
}

/// Ends when nobody waits; the work is then off the list, so that nobody can
/// join it any more.
async fn unwanted<K: Eq + Hash, V>(landing: &Landing<K, V>, sender: &Outcome<V>) {
    loop {
        sender.closed().await;
        let mut running = lock(&landing.running);
        if sender.receiver_count() == 0 {
            running.remove(&landing.key);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn one_run_for_all_who_ask_meanwhile() {
        let flights = Flights::<&str, usize>::new(Tasks::new());
        let runs = Arc::new(AtomicUsize::new(0));
        let start = || {
            let runs = runs.clone();
            move || async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                runs.fetch_add(1, Ordering::SeqCst) + 1
            }
        };
        let first = flights.join("k", false, start());
        let second = flights.join("k", false, start());
        assert!(first.led && !second.led);
        assert_eq!(first.wait().await, Some(1));
        assert_eq!(second.wait().await, Some(1));
        assert_eq!(flights.join("k", false, start()).wait().await, Some(2));
    }

    #[tokio::test]
    async fn unwanted_work_stops_and_kept_work_goes_on() {
        struct Alive(Option<oneshot::Sender<()>>);
        impl Drop for Alive {
            fn drop(&mut self) {
                drop(self.0.take());
            }
        }
        for kept in [false, true] {
            let flights = Flights::<&str, ()>::new(Tasks::new());
            let (alive, dropped) = oneshot::channel();
            let ticket = flights.join("k", kept, || async move {
                let _alive = Alive(Some(alive));
                std::future::pending::<()>().await;
            });
            drop(ticket);
            let ended = tokio::time::timeout(Duration::from_millis(200), dropped).await;
            assert_eq!(ended.is_err(), kept);
            assert_eq!(flights.join("k", kept, || async {}).led, !kept);
        }
    }

    #[tokio::test]
    async fn a_panic_is_told_and_the_key_is_free_again() {
        let flights = Flights::<&str, u8>::new(Tasks::new());
        let lost = flights.join("k", true, || async { panic!("expected by the test") });
        assert_eq!(lost.wait().await, None);
        assert_eq!(
            flights.join("k", true, || async { 3 }).wait().await,
            Some(3)
        );
    }
}
