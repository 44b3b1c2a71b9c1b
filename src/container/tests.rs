//! The domain on layers in memory: what is asked of them, in which order, and
//! what is left.

use std::time::{Duration, Instant};

use super::fake::{Below, config, sandbox_id};
use super::*;
use crate::base::id::ContainerId;

struct Node {
    below: Below,
    containers: Containers,
    _dir: tempfile::TempDir,
}

async fn node() -> Node {
    let dir = tempfile::tempdir().unwrap();
    let below = Below::new(dir.path());
    let containers = below.open().await.unwrap();
    Node {
        below,
        containers,
        _dir: dir,
    }
}

impl Node {
    async fn create(&self, name: &str) -> ContainerId {
        let pod = sandbox_id();
        self.containers
            .create(pod.as_str(), config(name))
            .await
            .unwrap()
    }

    async fn running(&self, name: &str) -> ContainerId {
        let id = self.create(name).await;
        self.containers.start(id.as_str()).await.unwrap();
        id
    }

    fn view(&self, id: &ContainerId) -> std::sync::Arc<ContainerView> {
        self.containers.get(id.as_str()).unwrap().view()
    }

    async fn exited(&self, id: &ContainerId) -> std::sync::Arc<ContainerView> {
        let handle = self.containers.get(id.as_str()).unwrap();
        let over = handle
            .owner
            .until(|view| view.phase.is_over().then_some(()));
        tokio::time::timeout(Duration::from_secs(5), over)
            .await
            .unwrap()
            .unwrap();
        handle.view()
    }

    /// A second daemon on the same directories, as after `kill -9`.
    async fn restart(self) -> Self {
        let mut below = self.below.clone();
        below.tasks = crate::base::tasks::Tasks::new();
        self.below.tasks.stopping().cancel();
        let containers = below.open().await.unwrap();
        Self {
            below,
            containers,
            _dir: self._dir,
        }
    }
}

#[tokio::test]
async fn lives_and_leaves_nothing() {
    let node = node().await;
    let id = node.create("a").await;
    let view = node.view(&id);
    assert_eq!(view.state(), Some(ContainerState::Created));
    assert_eq!(
        (view.started_at(), view.finished_at(), view.pid),
        (0, 0, 77)
    );
    assert!(view.created_at > 0);
    assert_eq!(view.layers, node.containers.layers_in_use());
    let log = view.log_path.clone().unwrap();
    assert!(log.ends_with("logs/c.log") && log.parent().unwrap().is_dir());
    assert_eq!(view.info()["runtimeSpec"]["process"]["args"][0], "sleep");

    node.containers.start(&id.as_str()[..12]).await.unwrap();
    let view = node.view(&id);
    assert_eq!(view.state(), Some(ContainerState::Running));
    assert_eq!((view.started_at(), view.finished_at()), (10, 0));
    assert!(matches!(
        node.containers.start(id.as_str()).await,
        Err(ContainerError::Denied { .. })
    ));

    node.below.shim(&id).exit(0, false);
    let view = node.exited(&id).await;
    assert_eq!((view.reason(), view.exit_code()), ("Completed", 0));
    assert_eq!((view.started_at(), view.finished_at()), (10, 20));
    assert_eq!(node.containers.list().len(), 1);

    node.containers.remove(id.as_str()).await.unwrap();
    node.containers.remove(id.as_str()).await.unwrap();
    assert!(matches!(
        node.containers.get(id.as_str()),
        Err(LookupError::NotFound(_))
    ));
    assert_eq!(node.below.left(), [""; 0]);
    assert!(node.containers.list().is_empty());
}

#[tokio::test]
async fn exits_have_their_reasons() {
    let node = node().await;
    for (name, code, oom, reason) in [
        ("a", 7, false, "Error"),
        ("b", 137, true, "OOMKilled"),
        ("c", 137, false, "Error"),
    ] {
        let id = node.running(name).await;
        node.below.shim(&id).exit(code, oom);
        let view = node.exited(&id).await;
        assert_eq!((view.reason(), view.exit_code()), (reason, code), "{name}");
    }
    let id = node.running("lost").await;
    node.below.shim(&id).die();
    let view = node.exited(&id).await;
    assert_eq!((view.reason(), view.exit_code()), ("Unknown", 255));
    assert!(view.started_at() <= view.finished_at());
    // A dead shim's container is removed like any other.
    node.containers.remove(id.as_str()).await.unwrap();
}

#[tokio::test]
async fn a_failed_step_undoes_all_and_frees_the_name() {
    let node = node().await;
    for step in ["spawn", "prepare", "create"] {
        node.below.script(|script| script.fail = Some(step));
        let pod = sandbox_id();
        let failed = node.containers.create(pod.as_str(), config("a")).await;
        assert!(matches!(failed, Err(ContainerError::Create(_))), "{step}");
        assert_eq!(node.below.left(), [""; 0], "{step}");
        assert!(node.containers.list().is_empty());
    }
    node.below.script(|script| script.fail = None);
    node.create("a").await;
}

#[tokio::test]
async fn refusals_have_no_effect() {
    let node = node().await;
    let pod = sandbox_id();
    let refused = |config| {
        let containers = node.containers.clone();
        let pod = pod.clone();
        async move { containers.create(pod.as_str(), config).await.unwrap_err() }
    };
    let mut bad = config("a");
    bad.image.image = "absent".into();
    assert!(matches!(
        refused(bad).await,
        ContainerError::ImageNotFound { .. }
    ));
    let mut bad = config("a");
    bad.security.run_as_group = Some(1);
    assert!(matches!(refused(bad).await, ContainerError::Spec(_)));
    let mut bad = config("a");
    bad.security.seccomp = Some(crate::sandbox::model::SecurityProfile::RuntimeDefault);
    assert!(matches!(
        refused(bad).await,
        ContainerError::Spec(spec::SpecError::Unsupported { .. })
    ));
    let unknown = node.containers.create("ffff", config("a")).await;
    assert!(matches!(unknown, Err(ContainerError::PodLookup(_))));
    assert_eq!(node.below.log(), [""; 0]);
    assert_eq!(node.below.left(), [""; 0]);
}

#[tokio::test]
async fn retries_join_and_other_requests_are_told_apart() {
    let node = node().await;
    node.below
        .script(|script| script.create_takes = Duration::from_millis(100));
    let pod = sandbox_id();
    let (one, two) = tokio::join!(
        node.containers.create(pod.as_str(), config("a")),
        node.containers.create(pod.as_str(), config("a"))
    );
    assert_eq!(one.as_ref().unwrap(), two.as_ref().unwrap());
    let spawned = node
        .below
        .log()
        .iter()
        .filter(|what| *what == "spawn")
        .count();
    assert_eq!(spawned, 1);
    let mut other = config("a");
    other.tty = true;
    match node.containers.create(pod.as_str(), other).await {
        Err(ContainerError::AlreadyExists { difference, .. }) => {
            assert!(difference.contains("tty"));
        }
        other => panic!("{other:?}"),
    }
    let mut next = config("a");
    next.metadata.attempt = 1;
    let next = node.containers.create(pod.as_str(), next).await.unwrap();
    assert_ne!(next, one.unwrap());
}

#[tokio::test]
async fn a_vanished_client_changes_nothing() {
    let node = node().await;
    node.below
        .script(|script| script.create_takes = Duration::from_millis(50));
    let pod = sandbox_id();
    let create = node.containers.create(pod.as_str(), config("a"));
    let dropped = tokio::time::timeout(Duration::from_millis(5), create).await;
    assert!(dropped.is_err());
    assert_eq!(node.containers.jobs().len(), 1);
    let id = node.create("a").await;
    assert_eq!(node.containers.list().len(), 1);
    node.containers.start(id.as_str()).await.unwrap();
    let stop = node
        .containers
        .stop(id.as_str(), Duration::from_millis(200));
    let dropped = tokio::time::timeout(Duration::from_millis(20), stop).await;
    assert!(dropped.is_err());
    assert_eq!(node.exited(&id).await.exit_code(), 137);
}

#[tokio::test]
async fn stop_signals_once_then_kills() {
    let node = node().await;
    let id = node.running("a").await;
    let begun = Instant::now();
    let grace = Duration::from_millis(300);
    let (one, two) = tokio::join!(
        node.containers.stop(id.as_str(), grace),
        node.containers.stop(id.as_str(), grace * 10)
    );
    one.unwrap();
    two.unwrap();
    assert!(begun.elapsed() >= grace && begun.elapsed() < grace * 8);
    let log = node.below.log();
    let terms = log.iter().filter(|what| *what == "signal 15").count();
    assert_eq!(terms, 1, "{log:?}");
    assert_eq!(node.view(&id).exit_code(), 137);
    node.containers.stop(id.as_str(), grace).await.unwrap();
    node.containers.stop("ffff", grace).await.unwrap();
}

#[tokio::test]
async fn a_second_shorter_stop_shortens() {
    let node = node().await;
    let id = node.running("a").await;
    let begun = Instant::now();
    let long = node.containers.stop(id.as_str(), Duration::from_secs(60));
    let short = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Within the grace commands still run, and reads are not held up.
        let exec = node
            .containers
            .exec_sync(id.as_str(), vec!["x".into()], Duration::ZERO);
        assert_eq!(exec.await.unwrap().exit_code, 3);
        let stop = node
            .containers
            .stop(id.as_str(), Duration::from_millis(100));
        stop.await.unwrap();
    };
    let (long, ()) = tokio::join!(long, short);
    long.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn stop_uses_the_requests_signal_and_zero_kills_at_once() {
    let node = node().await;
    node.below
        .script(|script| script.heeds = Some(libc::SIGQUIT));
    let mut quits = config("quits");
    quits.stop_signal = Some(libc::SIGQUIT);
    let pod = sandbox_id();
    let id = node.containers.create(pod.as_str(), quits).await.unwrap();
    node.containers.start(id.as_str()).await.unwrap();
    let stop = node.containers.stop(id.as_str(), Duration::from_secs(60));
    stop.await.unwrap();
    assert_eq!(node.view(&id).exit_code(), 128 + libc::SIGQUIT);
    let id = node.running("killed").await;
    node.containers
        .stop(id.as_str(), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(node.view(&id).exit_code(), 137);
    assert!(!node.below.log().contains(&"signal 15".to_owned()));
    // Created, never started.
    let id = node.create("created").await;
    let stop = node.containers.stop(id.as_str(), Duration::from_secs(60));
    stop.await.unwrap();
    assert_eq!(node.view(&id).state(), Some(ContainerState::Exited));
}

#[tokio::test]
async fn a_failed_start_is_exited_and_removable() {
    let node = node().await;
    let id = node.create("a").await;
    node.below.script(|script| script.fail = Some("start"));
    let failed = node.containers.start(id.as_str()).await;
    assert!(matches!(failed, Err(ContainerError::Runtime { .. })));
    let view = node.view(&id);
    assert_eq!((view.reason(), view.exit_code()), ("StartError", 128));
    assert!(view.message().contains("scripted"));
    assert!(view.started_at() > 0 && view.started_at() <= view.finished_at());
    node.containers.remove(id.as_str()).await.unwrap();
    assert_eq!(node.below.left(), [""; 0]);
}

#[tokio::test]
async fn exec_and_reopen_need_a_running_container() {
    let node = node().await;
    let id = node.create("a").await;
    let exec = |cmd: &str| {
        let (containers, id) = (node.containers.clone(), id.clone());
        let cmd = vec![cmd.to_owned()];
        async move {
            let timeout = Duration::from_secs(1);
            containers.exec_sync(id.as_str(), cmd, timeout).await
        }
    };
    assert!(matches!(
        exec("x").await,
        Err(ContainerError::Denied { .. })
    ));
    let reopen = node.containers.reopen_log(id.as_str()).await;
    assert!(matches!(reopen, Err(ContainerError::Denied { .. })));
    assert!(!node.below.log().contains(&"reopen".to_owned()));
    node.containers.start(id.as_str()).await.unwrap();
    assert!(matches!(
        exec("hang").await,
        Err(ContainerError::DeadlineExceeded { .. })
    ));
    assert_eq!(node.view(&id).state(), Some(ContainerState::Running));
    node.containers.reopen_log(id.as_str()).await.unwrap();
    let empty = node
        .containers
        .exec_sync(id.as_str(), vec![], Duration::ZERO);
    assert!(matches!(empty.await, Err(ContainerError::Spec(_))));
    let unknown = node
        .containers
        .exec_sync("ffff", vec!["x".into()], Duration::ZERO);
    assert!(matches!(unknown.await, Err(ContainerError::Lookup(_))));
}

#[tokio::test]
async fn what_could_not_be_removed_stays_listed_until_it_is() {
    let node = node().await;
    let id = node.running("a").await;
    node.below
        .script(|script| script.fail = Some("remove snapshot"));
    let failed = node.containers.remove(id.as_str()).await;
    assert!(matches!(failed, Err(ContainerError::Release { .. })));
    assert_eq!(node.view(&id).state(), Some(ContainerState::Exited));
    node.below.script(|script| script.fail = None);
    let (one, two) = tokio::join!(
        node.containers.remove(id.as_str()),
        node.containers.remove(id.as_str())
    );
    one.unwrap();
    two.unwrap();
    assert_eq!(node.below.left(), [""; 0]);
}

#[tokio::test]
async fn pods_end_their_containers_first() {
    let node = node().await;
    let pod = sandbox_id();
    let running = node.running("a").await;
    node.create("b").await;
    node.containers.stop_pod(pod.as_str()).await.unwrap();
    node.containers.stop_pod(pod.as_str()).await.unwrap();
    assert_eq!(node.view(&running).exit_code(), 137);
    let states: Vec<_> = node
        .containers
        .list()
        .iter()
        .map(|view| view.state())
        .collect();
    assert_eq!(states, [Some(ContainerState::Exited); 2]);
    let log = node.below.log();
    let place = |what: &str| log.iter().position(|have| have == what).unwrap();
    assert!(place("pod begin_stop") < place("signal 9"));
    assert!(place("signal 9") < place("pod finish_stop"));
    let late = node.containers.create(pod.as_str(), config("late")).await;
    assert!(matches!(late, Err(ContainerError::PodNotReady { .. })));
    node.containers.remove_pod(pod.as_str()).await.unwrap();
    node.containers.remove_pod(pod.as_str()).await.unwrap();
    node.containers.stop_pod("ffff").await.unwrap();
    assert_eq!(node.below.left(), [""; 0]);
}

#[tokio::test]
async fn a_restart_finds_everything_as_it_is() {
    let node = node().await;
    let created = node.create("created").await;
    let running = node.running("running").await;
    let done = node.running("done").await;
    node.below.shim(&done).exit(4, false);
    node.exited(&done).await;
    let (meanwhile, lost, unrecorded) = (
        node.running("meanwhile").await,
        node.running("lost").await,
        node.running("unrecorded").await,
    );
    node.below.tasks.stopping().cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    node.below.shim(&meanwhile).exit(137, true);
    node.below.shims.lock().unwrap().remove(&lost);
    let dir = node.view(&unrecorded).directory.clone();
    std::fs::remove_dir_all(dir).unwrap();

    let begun = Instant::now();
    let node = node.restart().await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(node.containers.list().len(), 6);
    let state = |id| node.view(id).state().unwrap();
    assert_eq!(state(&created), ContainerState::Created);
    assert_eq!(state(&running), ContainerState::Running);
    assert_eq!(node.view(&running).started_at(), 10);
    assert_eq!(state(&unrecorded), ContainerState::Running);
    let told = |id| (node.view(id).reason(), node.view(id).exit_code());
    assert_eq!(told(&done), ("Error", 4));
    assert_eq!(told(&meanwhile), ("OOMKilled", 137));
    assert_eq!(told(&lost), ("Unknown", 255));

    // A retry finds its container; what runs can be stopped; all can be removed.
    assert_eq!(node.create("created").await, created);
    node.below
        .script(|script| script.heeds = Some(libc::SIGTERM));
    let stop = node
        .containers
        .stop(running.as_str(), Duration::from_secs(9));
    stop.await.unwrap();
    assert_eq!(node.view(&running).exit_code(), 143);
    for view in node.containers.list() {
        node.containers.remove(view.id.as_str()).await.unwrap();
    }
    assert_eq!(node.below.left(), [""; 0]);
}

#[tokio::test]
async fn what_a_restart_completed_is_whole_for_the_next() {
    let node = node().await;
    let id = node.create("late").await;
    // The daemon died between the shim's answer and the last write.
    let path = node.view(&id).directory.join("record.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let half = text.replace("\"created\":true", "\"created\":false");
    assert_ne!(half, text);
    node.below.tasks.stopping().cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    std::fs::write(&path, half).unwrap();

    let node = node.restart().await;
    assert_eq!(node.view(&id).state().unwrap(), ContainerState::Created);
    node.below.tasks.stopping().cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    node.below.shims.lock().unwrap().remove(&id);

    let node = node.restart().await;
    let view = node.view(&id);
    assert_eq!((view.reason(), view.exit_code()), ("Unknown", 255));
    node.containers.remove(id.as_str()).await.unwrap();
    assert_eq!(node.below.left(), [""; 0]);
}

#[tokio::test]
async fn the_layers_of_a_newer_daemons_container_stay_in_use() {
    let node = node().await;
    let id = node.running("newer").await;
    let layers = node.view(&id).layers.clone();
    let path = node.view(&id).directory.join("record.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let newer = text.replacen("\"version\":", "\"version\":9", 1);
    node.below.tasks.stopping().cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    std::fs::write(&path, &newer).unwrap();

    let node = node.restart().await;
    assert!(node.containers.list().is_empty());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
    assert!(!layers.is_empty());
    assert_eq!(node.containers.layers_in_use(), layers);
}

#[tokio::test]
async fn a_copied_directory_is_left_alone() {
    let node = node().await;
    let id = node.running("one").await;
    let copy = "ab".repeat(32);
    let containers = node.below.root.join("containers");
    std::fs::create_dir(containers.join(&copy)).unwrap();
    let record = containers.join(id.as_str()).join("record.json");
    std::fs::copy(record, containers.join(&copy).join("record.json")).unwrap();

    let node = node.restart().await;
    let listed = node.containers.list();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(node.view(&id).state(), Some(ContainerState::Running));
    assert!(matches!(
        node.containers.get(&copy),
        Err(LookupError::NotFound(_))
    ));
}

#[tokio::test]
async fn a_restart_removes_what_was_half_made() {
    let node = node().await;
    node.below
        .script(|script| script.create_takes = Duration::from_secs(60));
    let pod = sandbox_id();
    let create = node.containers.create(pod.as_str(), config("half"));
    let begun = tokio::time::timeout(Duration::from_millis(100), create).await;
    assert!(begun.is_err());
    let id = node.containers.jobs()[0].id.clone();
    assert!(!node.below.left().is_empty());
    let orphan = node.below.root.join("containers/orphan");
    std::fs::create_dir(&orphan).unwrap();
    let node = node.restart().await;
    assert!(matches!(
        node.containers.get(id.as_str()),
        Err(LookupError::NotFound(_))
    ));
    assert_eq!(node.below.left(), [""; 0]);
}
