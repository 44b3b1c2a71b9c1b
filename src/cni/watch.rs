//! Which network is in force, kept up with the configuration directory.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::watch;

use crate::base::chain::chain;
use crate::base::readable::Readable;
use crate::base::tasks::Tasks;

use super::conf::NetworkList;
use super::error::NetworkNotReady;

/// A burst of changes is one reload.
const SETTLE: Duration = Duration::from_millis(50);
/// The directory is read again so often without any event: what inotify does
/// not tell (a remount, a changed file behind a symbolic link) is seen late
/// rather than never.
const PERIOD: Duration = Duration::from_secs(5);

/// A network and the file that it comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Network {
    pub(super) list: NetworkList,
    /// `None`: the fallback.
    pub(super) source: Option<PathBuf>,
}

/// What the configuration directory amounts to.
#[derive(Debug, Clone, PartialEq)]
pub struct Networks {
    pub(super) current: Result<Arc<Network>, NetworkNotReady>,
    /// Files that are no network configuration, and why.
    pub skipped: Vec<(PathBuf, String)>,
}

impl Networks {
    /// Name of the network in force.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.current.as_ref().ok().map(|n| n.list.name())
    }

    /// The file that it comes from; `None`: there is no network, or it is the fallback.
    #[must_use]
    pub fn source(&self) -> Option<&Path> {
        self.current.as_ref().ok()?.source.as_deref()
    }
}

/// A file of the directory, parsed.
type Entry = (PathBuf, Result<NetworkList, String>);

/// Reads the directory, files in lexical order of their names. A directory
/// that does not exist is empty.
fn scan(dir: &Path) -> io::Result<Vec<Entry>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let extension = path.extension().and_then(|e| e.to_str());
        if matches!(extension, Some("conf" | "conflist" | "json")) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths
        .into_iter()
        .filter_map(|path| match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => Some((path, Err(error.to_string()))),
            Ok(bytes) => {
                let parsed = NetworkList::parse(&bytes).map_err(|error| chain(&error));
                Some((path, parsed))
            }
        })
        .collect())
}

/// The first valid file wins. The network in force stays while its own file is
/// there but can't be parsed, or the fallback while there is no valid file yet:
/// somebody is writing it. An empty directory has the fallback, if there is one.
fn choose(
    dir: &Path,
    entries: Vec<Entry>,
    before: Option<&Arc<Network>>,
    fallback: Option<&NetworkList>,
) -> Networks {
    let mut skipped = Vec::new();
    let mut valid = None;
    let mut kept = None;
    let empty = entries.is_empty();
    for (path, parsed) in entries {
        match parsed {
            Ok(list) if valid.is_none() && kept.is_none() => {
                valid = Some(Network {
                    list,
                    source: Some(path),
                });
            }
            Ok(_) => {}
            Err(problem) => {
                if valid.is_none() {
                    kept = kept.or(before.filter(|n| n.source.as_ref() == Some(&path)));
                }
                skipped.push((path, problem));
            }
        }
    }
    let interim = before.filter(|n| n.source.is_none() && !empty);
    let current = match (valid, kept.or(interim), fallback) {
        (_, Some(kept), _) if kept.source.is_some() => Ok(kept.clone()),
        (Some(valid), _, _) => Ok(Arc::new(valid)),
        (None, Some(interim), _) => Ok(interim.clone()),
        (None, None, Some(fallback)) if empty => Ok(Arc::new(Network {
            list: fallback.clone(),
            source: None,
        })),
        (None, None, _) => Err(not_ready(dir, &skipped)),
    };
    Networks { current, skipped }
}

fn not_ready(dir: &Path, skipped: &[(PathBuf, String)]) -> NetworkNotReady {
    let mut reason = format!("no network configuration in {}", dir.display());
    for (path, problem) in skipped {
        reason.push_str(&format!("; {}: {problem}", path.display()));
    }
    NetworkNotReady { reason }
}

/// What to watch and what to fall back on.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) dir: PathBuf,
    pub(super) fallback: Option<NetworkList>,
}

impl Watch {
    fn read(&self, before: Option<&Arc<Network>>) -> Networks {
        match scan(&self.dir) {
            Ok(entries) => choose(&self.dir, entries, before, self.fallback.as_ref()),
            Err(error) => Networks {
                current: Err(NetworkNotReady {
                    reason: format!("list {}: {error}", self.dir.display()),
                }),
                skipped: Vec::new(),
            },
        }
    }

    /// Reads the directory and starts to follow its changes.
    pub(super) fn start(self, tasks: &Tasks) -> watch::Receiver<Arc<Networks>> {
        let (publish, state) = watch::channel(Arc::new(self.read(None)));
        report(&state.borrow());
        let stopping = tasks.stopping();
        tasks.spawn(async move {
            let mut events = self.events();
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = publish.closed() => return,
                    () = changed(events.as_ref()) => tokio::time::sleep(SETTLE).await,
                    () = tokio::time::sleep(PERIOD) => {}
                }
                // The new watch exists before the directory is read, so that no
                // change falls between the two.
                events = self.events();
                let before = publish.borrow().current.as_ref().ok().cloned();
                let next = self.read(before.as_ref());
                publish.send_if_modified(|now| {
                    let differs = **now != next;
                    if differs {
                        report(&next);
                        *now = Arc::new(next);
                    }
                    differs
                });
            }
        });
        state
    }

    /// Watches the directory, and the nearest one above it that exists, in
    /// which it (or its parent) may be made again.
    fn events(&self) -> Option<Readable> {
        let made = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(io::Error::from)
            .and_then(|inotify| {
                let dir = AddWatchFlags::IN_ONLYDIR;
                let all = dir
                    | AddWatchFlags::IN_CREATE
                    | AddWatchFlags::IN_CLOSE_WRITE
                    | AddWatchFlags::IN_MOVE
                    | AddWatchFlags::IN_DELETE
                    | AddWatchFlags::IN_DELETE_SELF
                    | AddWatchFlags::IN_MOVE_SELF;
                watch_if_there(&inotify, &self.dir, all)?;
                let above = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | dir;
                for parent in self.dir.ancestors().skip(1) {
                    if watch_if_there(&inotify, parent, above)? {
                        break;
                    }
                }
                Readable::new(inotify.into())
            });
        made.inspect_err(|error| {
            tracing::warn!(dir = %self.dir.display(), %error, "network configuration is not watched, only read from time to time");
        })
        .ok()
    }
}

fn watch_if_there(inotify: &Inotify, dir: &Path, mask: AddWatchFlags) -> io::Result<bool> {
    match inotify.add_watch(dir, mask) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Ends when there is an event; never without a watch.
async fn changed(events: Option<&Readable>) {
    let Some(events) = events else {
        return std::future::pending().await;
    };
    if let Err(error) = events.readable().await {
        tracing::warn!(%error, "inotify");
        std::future::pending::<()>().await;
    }
}

fn report(networks: &Networks) {
    for (path, problem) in &networks.skipped {
        tracing::warn!(path = %path.display(), problem, "network configuration skipped");
    }
    match &networks.current {
        Ok(network) => tracing::info!(
            network = network.list.name(),
            source = network.source.as_ref().map(|p| p.display().to_string()),
            "pod network"
        ),
        Err(error) => tracing::warn!(reason = error.reason, "no pod network"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(name: &str) -> NetworkList {
        let text = format!(r#"{{"name":"{name}","type":"ptp"}}"#);
        NetworkList::parse(text.as_bytes()).unwrap()
    }

    fn chosen(entries: &[(&str, bool)], before: Option<&Arc<Network>>, fallback: bool) -> Networks {
        let entries = entries
            .iter()
            .map(|(name, ok)| {
                let parsed = if *ok {
                    Ok(list(name))
                } else {
                    Err("torn".to_owned())
                };
                (PathBuf::from(name), parsed)
            })
            .collect();
        let fallback = fallback.then(|| list("fallback"));
        choose(Path::new("/etc"), entries, before, fallback.as_ref())
    }

    #[test]
    fn the_first_valid_file_wins_and_torn_ones_change_nothing() {
        let b = chosen(&[("b", true)], None, false);
        let now = b.current.clone().unwrap();
        for (name, entries, expected) in [
            (
                "an earlier valid one",
                &[("a", true), ("b", true)][..],
                Some("a"),
            ),
            (
                "an earlier torn one",
                &[("a", false), ("b", true)],
                Some("b"),
            ),
            ("its own file torn", &[("b", false)], Some("b")),
            (
                "torn, a later one valid",
                &[("b", false), ("c", true)],
                Some("b"),
            ),
            (
                "torn, an earlier one valid",
                &[("a", true), ("b", false)],
                Some("a"),
            ),
            ("replaced by a later one", &[("c", true)], Some("c")),
            ("removed", &[], None),
            ("only another torn one", &[("c", false)], None),
        ] {
            let got = chosen(entries, Some(&now), false);
            assert_eq!(got.name(), expected, "{name}");
        }
        let broken = chosen(&[("x", false)], None, true);
        assert!(broken.current.unwrap_err().reason.contains("x: torn"));
    }

    #[test]
    fn the_fallback_is_for_an_empty_directory() {
        let fallback = chosen(&[], None, true);
        assert_eq!(fallback.name(), Some("fallback"));
        assert_eq!(fallback.source(), None);
        let now = fallback.current.clone().unwrap();
        assert_eq!(
            chosen(&[("a", false)], Some(&now), true).name(),
            Some("fallback")
        );
        assert_eq!(chosen(&[("a", true)], Some(&now), true).name(), Some("a"));
        assert_eq!(chosen(&[], Some(&now), true).name(), Some("fallback"));
    }

    #[tokio::test]
    async fn follows_a_directory_that_is_removed_and_made_again() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("cni/net.d");
        let tasks = Tasks::new();
        let watch = Watch {
            dir: dir.clone(),
            fallback: None,
        };
        let mut state = watch.start(&tasks);
        assert_eq!(state.borrow().name(), None);
        for round in ["one", "two"] {
            std::fs::create_dir_all(&dir).unwrap();
            let file = dir.join("10-x.conflist");
            std::fs::write(&file, b"{\"name\":").unwrap();
            tokio::time::sleep(3 * SETTLE).await;
            assert_eq!(state.borrow().name(), None, "a torn file is no network");
            std::fs::write(&file, list(round).raw().to_string()).unwrap();
            let wait = state.wait_for(|n| n.name() == Some(round));
            tokio::time::timeout(Duration::from_secs(20), wait)
                .await
                .unwrap()
                .unwrap();
            std::fs::remove_dir_all(tmp.path().join("cni")).unwrap();
            let wait = state.wait_for(|n| n.name().is_none());
            tokio::time::timeout(Duration::from_secs(20), wait)
                .await
                .unwrap()
                .unwrap();
        }
        tasks.shut_down().await;
    }
}
