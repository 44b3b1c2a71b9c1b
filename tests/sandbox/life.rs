//! Stop, remove, and creations that are joined.

use std::time::{Duration, Instant};

use longshore::sandbox::model::NamespaceMode;
use longshore::sandbox::{Phase, SandboxError, Stage};
use serde_json::json;

use super::setup::{eventually, in_a_node, pod};

/// A plugin that takes its time for ADD until a file exists.
const SLOW: &str = r#"cat >/dev/null
case $CNI_COMMAND in ADD)
  echo ADD >>$LOG
  while [ ! -e "$(dirname $0)/go" ]; do sleep 0.05; done
  echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.2/24"}]}';;
DEL) echo DEL >>$LOG;; esac"#;

#[test]
fn stop_and_remove_are_idempotent() {
    in_a_node("idempotent", |world| async move {
        let daemon = world.daemon().await;
        let handle = daemon.run(&pod("web")).await;
        let (id, sandboxes) = (handle.id(), &daemon.sandboxes);
        let error = sandboxes.remove(id).await.unwrap_err();
        assert!(matches!(error, SandboxError::Denied { .. }), "{error}");
        let netns = handle.view().netns().unwrap().to_owned();
        for _ in 0..2 {
            sandboxes.begin_stop(id).await.unwrap();
        }
        assert!(!handle.view().is_ready());
        assert!(netns.exists(), "held until the containers have ended");
        for _ in 0..2 {
            sandboxes.finish_stop(id).await.unwrap();
        }
        assert!(!netns.exists());
        assert_eq!(sandboxes.list().len(), 1, "listed until it is removed");
        for _ in 0..2 {
            sandboxes.remove(id).await.unwrap();
            sandboxes.begin_stop(id).await.unwrap();
            sandboxes.finish_stop(id).await.unwrap();
        }
        assert!(sandboxes.get(id.as_str()).is_err());
        assert!(matches!(handle.view().phase, Phase::Gone { failure: None }));
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn a_retry_joins_the_creation_and_a_hung_up_client_ends_nothing() {
    in_a_node("join", |world| async move {
        world.plugin("slow", SLOW);
        world.network("slow", &json!([{"type": "slow"}]));
        let daemon = world.daemon().await;
        let config = pod("joined");
        let gone = tokio::time::timeout(
            Duration::from_millis(300),
            daemon.sandboxes.run(config.clone()),
        );
        assert!(gone.await.is_err(), "the client hangs up");
        let view = daemon.sandboxes.list()[0].clone();
        let Phase::Creating { stage, .. } = &view.phase else {
            panic!("{:?}", view.phase)
        };
        assert_eq!(
            *stage,
            Stage::Network {
                plugin: "slow".into()
            }
        );
        let began = Instant::now();
        let sandboxes = daemon.sandboxes.clone();
        let (a, b) = (sandboxes.run(config.clone()), sandboxes.run(config.clone()));
        let mut other = config.clone();
        other.hostname = "other".into();
        let refused = sandboxes.run(other).await.unwrap_err();
        assert!(
            matches!(refused, SandboxError::AlreadyExists { .. }),
            "{refused}"
        );
        let go = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            std::fs::write(world.dir.join("bin/go"), "").unwrap();
        };
        let (a, b, ()) = tokio::join!(a, b, go);
        assert_eq!((a.unwrap(), b.unwrap()), (view.id.clone(), view.id.clone()));
        assert!(began.elapsed() >= Duration::from_millis(200));
        assert_eq!(world.plugin_log(), ["ADD"], "one creation");
        daemon.stop_and_remove(&view.id).await;
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn a_failing_add_unwinds_and_frees_the_name() {
    in_a_node("failing ADD", |world| async move {
        world.plugin(
            "broken",
            r#"cat >/dev/null; echo $CNI_COMMAND $CNI_ARGS >>$LOG
            [ $CNI_COMMAND = DEL ] && exit 0
            echo "no lease left" >&2
            echo '{"cniVersion":"1.0.0","code":101,"msg":"no address","details":"pool is empty"}'
            exit 1"#,
        );
        world.network("bad", &json!([{"type": "broken"}]));
        let daemon = world.daemon().await;
        for _ in 0..2 {
            let error = daemon.sandboxes.run(pod("web")).await.unwrap_err();
            let text = longshore::base::chain::chain(&error);
            for part in [
                "web_default_uid-web_0",
                "CNI ADD broken",
                "network bad",
                "no address: pool is empty (code 101)",
                "no lease left",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(daemon.sandboxes.list().is_empty());
            assert_eq!(world.left(), [""; 0]);
        }
        let log = world.plugin_log();
        let verbs: Vec<_> = log.iter().filter_map(|l| l.split(' ').next()).collect();
        assert_eq!(verbs, ["ADD", "DEL", "ADD", "DEL"]);
        assert!(
            log[0].contains("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;"),
            "{log:?}"
        );
        daemon.stop().await;
    });
}

#[test]
fn a_failed_creation_that_cannot_be_cleaned_up_stays_listed() {
    in_a_node("failing DEL", |world| async move {
        let bad = r#"cat >/dev/null; echo '{"code":7,"msg":"'$CNI_COMMAND' broke"}'; exit 1"#;
        world.plugin("broken", bad);
        world.network("bad", &json!([{"type": "broken"}]));
        let daemon = world.daemon().await;
        let error = daemon.sandboxes.run(pod("web")).await.unwrap_err();
        let text = longshore::base::chain::chain(&error);
        assert!(
            text.contains("ADD broke") && text.contains("DEL broke"),
            "{text}"
        );
        let view = daemon.sandboxes.list()[0].clone();
        assert!(!view.is_ready());
        assert_eq!(
            daemon.cni.pending().unwrap(),
            std::slice::from_ref(&view.id)
        );
        assert!(view.netns().unwrap().exists(), "DEL needs the namespace");
        daemon.sandboxes.begin_stop(&view.id).await.unwrap();
        let error = daemon.sandboxes.finish_stop(&view.id).await.unwrap_err();
        assert!(matches!(error, SandboxError::Release { .. }), "{error}");
        world.plugin("broken", "cat >/dev/null");
        let pending = || daemon.cni.pending().unwrap();
        eventually("the background DEL", || pending().is_empty()).await;
        daemon.sandboxes.finish_stop(&view.id).await.unwrap();
        daemon.sandboxes.remove(&view.id).await.unwrap();
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn twenty_at_once() {
    in_a_node("parallel", |world| async move {
        let daemon = world.daemon().await;
        let mut all = Vec::new();
        for i in 0..20 {
            let (sandboxes, mut config) = (daemon.sandboxes.clone(), pod(&format!("p{i}")));
            config.namespaces.ipc = NamespaceMode::Pod;
            all.push(
                daemon
                    .tasks
                    .spawn(async move { sandboxes.run(config).await }),
            );
        }
        let mut addresses = std::collections::BTreeSet::new();
        for job in all {
            let id = job.await.unwrap().unwrap();
            addresses.extend(
                daemon
                    .sandboxes
                    .get(id.as_str())
                    .unwrap()
                    .view()
                    .ips
                    .clone(),
            );
        }
        assert_eq!(addresses.len(), 20);
        let times: Vec<_> = daemon
            .sandboxes
            .list()
            .iter()
            .map(|v| v.created_at)
            .collect();
        assert!(
            times.windows(2).all(|w| w[0] > w[1]),
            "unique, the newest first"
        );
        for view in daemon.sandboxes.list() {
            daemon.stop_and_remove(&view.id).await;
        }
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}
