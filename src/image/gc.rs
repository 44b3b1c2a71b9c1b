//! Mark and sweep of layers.
//!
//! Marked is what an image names (a damaged one too: its next pull fetches
//! just what is missing), what a pull or an import in flight may name, what a
//! registered root names, and what an image names that was removed while
//! somebody still holds its configuration. The rest goes.
//!
//! The marks are made anew for every layer that is to go, under the gate that
//! a pull passes when it looks which layers there are: so nothing is swept
//! that a pull has just found stored.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use longshore_snapshotter::{LayerId, Snapshotter};
use oci_spec::image::ImageConfiguration;

use super::ImageError;
use super::model::Image;
use super::table::Table;
use crate::base::tasks::Tasks;

/// Names layers that must stay: those of containers.
pub(super) type Roots = Arc<dyn Fn() -> Vec<LayerId> + Send + Sync>;

/// What keeps layers beside the images themselves.
#[derive(Default)]
pub(super) struct Marks {
    roots: Mutex<Vec<Roots>>,
    pinned: Mutex<Vec<Weak<Vec<LayerId>>>>,
    /// Images that were removed: who still holds the configuration, and the layers.
    lent: Mutex<Vec<(Weak<ImageConfiguration>, Vec<LayerId>)>>,
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marks").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Marks {
    pub(super) fn register(&self, roots: Roots) {
        lock(&self.roots).push(roots);
    }

    /// Keeps `layers` for as long as the result lives.
    pub(super) fn pin(&self, layers: Vec<LayerId>) -> Arc<Vec<LayerId>> {
        let pin = Arc::new(layers);
        let mut pinned = lock(&self.pinned);
        pinned.retain(|other| other.strong_count() > 0);
        pinned.push(Arc::downgrade(&pin));
        pin
    }

    /// Keeps the layers of an image that left the table, while somebody holds it.
    pub(super) fn lend(&self, image: &Image) {
        let mut lent = lock(&self.lent);
        lent.retain(|(config, _)| config.strong_count() > 0);
        lent.push((Arc::downgrade(&image.config), image.layers.clone()));
    }

    fn all(&self, table: &Table) -> HashSet<LayerId> {
        let mut marked: HashSet<LayerId> = HashSet::new();
        for entry in table.entries() {
            marked.extend(&entry.record.layers);
        }
        for pin in lock(&self.pinned).iter().filter_map(Weak::upgrade) {
            marked.extend(pin.iter());
        }
        for (config, layers) in lock(&self.lent).iter() {
            if config.strong_count() > 0 {
                marked.extend(layers);
            }
        }
        let roots = lock(&self.roots).clone();
        for root in roots {
            marked.extend(root());
        }
        marked
    }
}

/// What a collection needs.
#[derive(Debug, Clone)]
pub(super) struct Collector {
    pub(super) snapshotter: Arc<dyn Snapshotter>,
    pub(super) marks: Arc<Marks>,
    pub(super) gate: Arc<tokio::sync::Mutex<()>>,
    pub(super) tasks: Tasks,
}

impl Collector {
    /// Removes what nothing names. `table` reads the table as it is then.
    /// Answers how many layers went; goes on after a layer that stays.
    pub(super) async fn run(&self, table: impl Fn() -> Arc<Table>) -> Result<usize, ImageError> {
        let snapshotter = self.snapshotter.clone();
        let listed = self.tasks.spawn_blocking(move || snapshotter.layers());
        let layers = listed.await.map_err(|_| ImageError::CutOff)??;
        let (mut removed, mut first) = (0, None);
        let marked = self.marks.all(&table());
        for id in layers.into_iter().filter(|id| !marked.contains(id)) {
            let _gate = self.gate.lock().await;
            if self.marks.all(&table()).contains(&id) {
                continue;
            }
            let snapshotter = self.snapshotter.clone();
            let removal = self
                .tasks
                .spawn_blocking(move || snapshotter.remove_layer(&id));
            match removal.await {
                Ok(Ok(())) => removed += 1,
                Ok(Err(error)) => first = first.or(Some(ImageError::Layer(error))),
                Err(_) => return Err(ImageError::CutOff),
            }
        }
        match first {
            Some(error) => Err(error),
            None => Ok(removed),
        }
    }
}
