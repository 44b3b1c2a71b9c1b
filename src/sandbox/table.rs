//! The index of sandboxes: by id, by the beginning of an id, by name.
//!
//! The table holds handles, never state, and its lock is never held over an
//! await. Creation times are given out here so that no two are equal: kubelet
//! takes the greatest one for the newest sandbox of a pod.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::clock;
use crate::base::id::SandboxId;

use super::error::LookupError;
use super::model::SandboxMetadata;
use super::view::{SandboxHandle, SandboxView};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    by_id: BTreeMap<String, SandboxHandle>,
    by_name: HashMap<SandboxMetadata, SandboxHandle>,
    last_created_at: i64,
}

/// What a reservation found.
#[derive(Debug)]
pub(super) enum Reserved {
    /// The name was free and is the new sandbox's now.
    New(SandboxHandle),
    /// The name is taken.
    Taken(SandboxHandle),
}

impl Table {
    fn index(&self) -> MutexGuard<'_, Index> {
        // Every change of the index is complete before the lock is released by
        // a panic, so a poisoned lock guards a whole index.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the name for the sandbox that `make(created_at)` yields, unless
    /// it is taken.
    pub(super) fn reserve(
        &self,
        name: &SandboxMetadata,
        make: impl FnOnce(i64) -> SandboxHandle,
    ) -> Reserved {
        let mut index = self.index();
        if let Some(handle) = index.by_name.get(name) {
            return Reserved::Taken(handle.clone());
        }
        let created_at = clock::now_nanos().max(index.last_created_at.saturating_add(1));
        let handle = make(created_at);
        index.insert(name.clone(), created_at, handle.clone());
        Reserved::New(handle)
    }

    /// Puts a recovered sandbox into the table.
    pub(super) fn insert(&self, name: SandboxMetadata, created_at: i64, handle: SandboxHandle) {
        self.index().insert(name, created_at, handle);
    }

    /// Forgets a sandbox; its name is free from now on.
    pub(super) fn forget(&self, id: &SandboxId) {
        let mut index = self.index();
        if let Some(handle) = index.by_id.remove(id.as_str()) {
            let name = &handle.view().config.metadata;
            if index.by_name.get(name).is_some_and(|h| h.id() == id) {
                index.by_name.remove(name);
            }
        }
    }

    /// The sandbox with this id, or the only one whose id starts so.
    pub(super) fn get(&self, prefix: &str) -> Result<SandboxHandle, LookupError> {
        if prefix.is_empty() {
            return Err(LookupError::Empty);
        }
        let index = self.index();
        let mut found = index
            .by_id
            .range(prefix.to_owned()..)
            .take_while(|(id, _)| id.starts_with(prefix))
            .map(|(_, handle)| handle);
        let Some(first) = found.next() else {
            return Err(LookupError::NotFound(prefix.to_owned()));
        };
        match found.count() {
            0 => Ok(first.clone()),
            more => Err(LookupError::Ambiguous {
                prefix: prefix.to_owned(),
                count: more + 1,
            }),
        }
    }

    /// Every sandbox, the newest first.
    pub(super) fn list(&self) -> Vec<Arc<SandboxView>> {
        let handles: Vec<_> = self.index().by_id.values().cloned().collect();
        let mut views: Vec<_> = handles.iter().map(SandboxHandle::view).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.created_at));
        views
    }
}

impl Index {
    fn insert(&mut self, name: SandboxMetadata, created_at: i64, handle: SandboxHandle) {
        self.last_created_at = self.last_created_at.max(created_at);
        self.by_id.insert(handle.id().to_string(), handle.clone());
        self.by_name.insert(name, handle);
    }
}
