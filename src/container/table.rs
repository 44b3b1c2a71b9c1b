//! Which containers there are, by id and by name. The lock is never held over
//! an await.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::id::{ContainerId, SandboxId};

use super::error::LookupError;
use super::model::{ContainerConfig, ContainerMetadata};
use super::view::ContainerHandle;

/// A container's name within its node: its pod, its name, its attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) sandbox: SandboxId,
    pub(super) metadata: ContainerMetadata,
}

#[derive(Debug, Default)]
struct Maps {
    by_id: BTreeMap<String, ContainerHandle>,
    by_name: HashMap<Name, ContainerId>,
}

/// The containers of this daemon.
#[derive(Debug, Default)]
pub(super) struct Table {
    maps: Mutex<Maps>,
}

impl Table {
    /// A panic elsewhere leaves whole maps: every change is one insert or remove each.
    fn lock(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves the name for what `make` makes, unless a container has it:
    /// that one is then the error.
    pub(super) fn reserve<T>(
        &self,
        name: Name,
        make: impl FnOnce() -> (ContainerHandle, T),
    ) -> Result<(ContainerHandle, T), ContainerHandle> {
        let mut maps = self.lock();
        let have = maps.by_name.get(&name);
        if let Some(handle) = have.and_then(|id| maps.by_id.get(id.as_str())) {
            return Err(handle.clone());
        }
        let (handle, rest) = make();
        maps.by_name.insert(name, handle.id.clone());
        maps.by_id
            .insert(handle.id.as_str().to_owned(), handle.clone());
        Ok((handle, rest))
    }

    /// Takes in a container that was recovered. Of two with one name, which
    /// can only be a copied record, both stay reachable by id.
    pub(super) fn insert(&self, name: Name, handle: ContainerHandle) {
        let mut maps = self.lock();
        maps.by_name.insert(name, handle.id.clone());
        maps.by_id.insert(handle.id.as_str().to_owned(), handle);
    }

    /// The id and its name are free again.
    pub(super) fn forget(&self, id: &ContainerId) {
        let mut maps = self.lock();
        maps.by_id.remove(id.as_str());
        maps.by_name.retain(|_, held| held != id);
    }

    /// By id or unambiguous prefix.
    pub(super) fn get(&self, prefix: &str) -> Result<ContainerHandle, LookupError> {
        if prefix.is_empty() {
            return Err(LookupError::Empty);
        }
        let maps = self.lock();
        if let Some(handle) = maps.by_id.get(prefix) {
            return Ok(handle.clone());
        }
        let mut found = maps
            .by_id
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(id, _)| id.starts_with(prefix))
            .map(|(_, handle)| handle);
        match (found.next(), found.count()) {
            (None, _) => Err(LookupError::NotFound(prefix.to_owned())),
            (Some(handle), 0) => Ok(handle.clone()),
            (Some(_), more) => Err(LookupError::Ambiguous {
                prefix: prefix.to_owned(),
                count: more + 1,
            }),
        }
    }

    /// All of them, by id.
    pub(super) fn all(&self) -> Vec<ContainerHandle> {
        self.lock().by_id.values().cloned().collect()
    }
}

/// The first field in which two requests differ, as CRI names it.
pub(super) fn difference(have: &ContainerConfig, want: &ContainerConfig) -> Option<&'static str> {
    let fields = [
        (have.image == want.image, "image"),
        (have.command == want.command, "command"),
        (have.args == want.args, "args"),
        (have.working_dir == want.working_dir, "working_dir"),
        (have.envs == want.envs, "envs"),
        (have.mounts == want.mounts, "mounts"),
        (have.devices == want.devices, "devices"),
        (have.labels == want.labels, "labels"),
        (have.annotations == want.annotations, "annotations"),
        (have.log_path == want.log_path, "log_path"),
        (
            (have.stdin, have.stdin_once, have.tty) == (want.stdin, want.stdin_once, want.tty),
            "stdin, stdin_once or tty",
        ),
        (have.resources == want.resources, "linux.resources"),
        (have.security == want.security, "linux.security_context"),
        (have.cdi_devices == want.cdi_devices, "CDI_devices"),
        (have.stop_signal == want.stop_signal, "stop_signal"),
        (have == want, "configuration"),
    ];
    fields
        .into_iter()
        .find_map(|(same, name)| (!same).then_some(name))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::super::fake;
    use super::super::view::ContainerView;
    use super::*;
    use crate::base::driver;

    fn handle(id: &str) -> ContainerHandle {
        let id: ContainerId = id.parse().unwrap();
        let config = Arc::new(fake::config("c"));
        let view =
            ContainerView::reserved(id.clone(), fake::sandbox_id(), config, 1, PathBuf::new());
        ContainerHandle {
            id,
            owner: driver::pair(1, view).0,
        }
    }

    fn name(text: &str) -> Name {
        Name {
            sandbox: fake::sandbox_id(),
            metadata: fake::config(text).metadata,
        }
    }

    #[test]
    fn one_name_one_container() {
        let table = Table::default();
        let (a, b) = ("a".repeat(64), format!("ab{}", "0".repeat(62)));
        table.reserve(name("x"), || (handle(&a), ())).unwrap();
        let taken = table.reserve(name("x"), || -> (ContainerHandle, ()) {
            panic!("the name is taken")
        });
        assert_eq!(taken.unwrap_err().id().as_str(), a);
        table.reserve(name("y"), || (handle(&b), ())).unwrap();
        assert_eq!(table.get("aa").unwrap().id().as_str(), a);
        assert_eq!(table.get(&b).unwrap().id().as_str(), b);
        assert_eq!(table.get("").unwrap_err(), LookupError::Empty);
        assert!(matches!(
            table.get("a"),
            Err(LookupError::Ambiguous { count: 2, .. })
        ));
        assert!(matches!(table.get("b"), Err(LookupError::NotFound(_))));
        table.forget(&a.parse().unwrap());
        assert_eq!(table.get("a").unwrap().id().as_str(), b);
        table.reserve(name("x"), || (handle(&a), ())).unwrap();
    }

    #[test]
    fn differences_are_named() {
        let have = fake::config("c");
        let mut want = have.clone();
        assert_eq!(difference(&have, &want), None);
        want.tty = true;
        assert_eq!(difference(&have, &want), Some("stdin, stdin_once or tty"));
        want.envs.push(("A".into(), Vec::new()));
        assert_eq!(difference(&have, &want), Some("envs"));
    }
}
