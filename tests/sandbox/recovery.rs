//! Restarts, reboots, and what is found without a record.

use longshore::sandbox::Phase;
use longshore::sandbox::model::NamespaceMode;
use serde_json::json;

use super::setup::{eventually, in_a_node, in_pod, pod, run};

#[test]
fn a_restart_changes_nothing() {
    in_a_node("restart", |world| async move {
        let daemon = world.daemon().await;
        let mut shared = pod("shared");
        shared.namespaces.pid = NamespaceMode::Pod;
        let web = daemon.run(&pod("web")).await;
        let shared = daemon.run(&shared).await;
        let stopped = daemon.run(&pod("stopped")).await;
        daemon.sandboxes.begin_stop(stopped.id()).await.unwrap();
        daemon.sandboxes.finish_stop(stopped.id()).await.unwrap();
        let before = daemon.sandboxes.list();
        daemon.stop().await;

        let daemon = world.daemon().await;
        let after = daemon.sandboxes.list();
        assert_eq!(after.len(), 3);
        for (a, b) in before.iter().zip(&after) {
            assert_eq!((&a.id, a.is_ready(), &a.ips), (&b.id, b.is_ready(), &b.ips));
            assert_eq!((a.created_at, &a.config), (b.created_at, &b.config));
        }
        let found = daemon.sandboxes.get(web.id().as_str()).unwrap();
        assert_eq!(in_pod(&found, "hostname"), "web");
        assert_eq!(daemon.sandboxes.run(pod("web")).await.unwrap(), *web.id());
        let text = after[0].info()["phase"].to_string();
        assert!(text.contains("not ready: stopped"), "{text}");
        for handle in [&web, &shared, &stopped] {
            daemon.stop_and_remove(handle.id()).await;
        }
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn a_lost_namespace_or_init_is_found_at_the_start() {
    in_a_node("lost", |world| async move {
        let daemon = world.daemon().await;
        let mut shared = pod("init");
        shared.namespaces.pid = NamespaceMode::Pod;
        let init = daemon.run(&shared).await;
        let replaced = daemon.run(&pod("replaced")).await;
        let unmounted = daemon.run(&pod("unmounted")).await;
        daemon.stop().await;
        let netns = replaced.view().netns().unwrap().to_owned();
        let name = netns.file_name().unwrap().to_str().unwrap().to_owned();
        run("ip", &["netns", "delete", &name]);
        run("ip", &["netns", "add", &name]);
        run("umount", &[unmounted.view().files.shm.to_str().unwrap()]);
        let group = format!("{}/init-{}", init.view().cgroup_parent, init.id());
        let group = longshore::cgroup::CgroupPath::new(&group).unwrap();
        longshore::cgroup::Hierarchies::detect()
            .unwrap()
            .kill(&group)
            .unwrap();

        let daemon = world.daemon().await;
        for (handle, reason) in [
            (&init, "init process"),
            (&replaced, "is another one"),
            (&unmounted, "/dev/shm is not mounted"),
        ] {
            let view = daemon.sandboxes.get(handle.id().as_str()).unwrap().view();
            let phase = view.info()["phase"].to_string();
            assert!(!view.is_ready() && phase.contains(reason), "{phase}");
            daemon.stop_and_remove(handle.id()).await;
        }
        // The bridge plugin finds its masquerading by the addresses in the pod's
        // namespace, which somebody took away.
        let mut left = world.left();
        left.retain(|what| !what.starts_with(":CNI-"));
        assert_eq!(left, [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn after_a_reboot_sandboxes_are_not_ready_and_addresses_come_back() {
    in_a_node("reboot", |mut world| async move {
        let daemon = world.daemon().await;
        let handle = daemon.run(&pod("web")).await;
        let view = handle.view();
        daemon.stop().await;
        // What a reboot does: the namespaces and the private tmpfs are gone, the
        // pin's file may be left on a disk.
        world.boot_id = "another-boot".to_owned();
        let netns = view.netns().unwrap().to_owned();
        run("umount", &[netns.to_str().unwrap()]);
        for pin in [&view.namespaces.ipc, &view.namespaces.uts] {
            run("umount", &[pin.as_ref().unwrap().to_str().unwrap()]);
        }
        run("umount", &[view.files.shm.to_str().unwrap()]);
        std::fs::remove_dir_all(world.dir.join("state")).unwrap();

        let daemon = world.daemon().await;
        let found = daemon.sandboxes.get(handle.id().as_str()).unwrap();
        assert!(!found.view().is_ready());
        eventually("DEL without a namespace", || {
            daemon.cni.pending().unwrap().is_empty()
        })
        .await;
        daemon.stop_and_remove(handle.id()).await;
        assert!(!netns.exists());
        let leases = world.intents().join("leases/longshore-bridge");
        let given = std::fs::read_dir(leases).unwrap().filter(|e| {
            let name = e.as_ref().unwrap().file_name();
            name.to_str().unwrap().starts_with("10.")
        });
        assert_eq!(given.count(), 0, "the address is free again");
        daemon.stop().await;
    });
}

#[test]
fn a_creation_that_the_daemon_did_not_survive_is_undone() {
    in_a_node("crash", |world| async move {
        world.plugin(
            "hangs",
            r#"cat >/dev/null; echo $CNI_COMMAND >>$LOG
            [ $CNI_COMMAND = DEL ] && exit 0; sleep 1000"#,
        );
        world.network("net", &json!([{"type": "hangs"}]));
        // The first daemon has a runtime of its own, which is dropped in the
        // middle of ADD: no task of it runs on.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let daemon = world.daemon().await;
                    let run = daemon.sandboxes.run(pod("web"));
                    let wait = std::time::Duration::from_millis(500);
                    assert!(tokio::time::timeout(wait, run).await.is_err());
                });
            });
        });
        assert_eq!(world.plugin_log(), ["ADD"]);
        assert!(
            world.left().len() >= 4,
            "netns, pins, record, intent: {:?}",
            world.left()
        );

        let daemon = world.daemon().await;
        eventually("it is undone", || daemon.sandboxes.list().is_empty()).await;
        assert_eq!(world.plugin_log(), ["ADD", "DEL"]);
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn only_our_own_leftovers_are_swept_and_strange_records_are_left_alone() {
    in_a_node("sweep", |world| async move {
        let daemon = world.daemon().await;
        let lost = daemon.run(&pod("lost")).await;
        let newer = daemon.run(&pod("newer")).await;
        let torn = daemon.run(&pod("torn")).await;
        daemon.stop().await;
        let records = world.dir.join("root/sandboxes");
        let record = |id: &str| records.join(id).join("record.json");
        std::fs::remove_dir_all(records.join(lost.id().as_str())).unwrap();
        let path = record(newer.id().as_str());
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("\"version\":1", "\"version\":99");
        std::fs::write(&path, text).unwrap();
        std::fs::write(record(torn.id().as_str()), "{\"kind\":").unwrap();
        let others = ["longshore-other-0123", "cni-1234", "longshore-x"];
        for name in others {
            run("ip", &["netns", "add", name]);
        }

        for start in ["first", "second"] {
            let daemon = world.daemon().await;
            assert!(daemon.sandboxes.list().is_empty());
            let pending = || daemon.cni.pending().unwrap();
            let gone = || !pending().contains(lost.id());
            eventually("DEL of the lost one", gone).await;
            let netns = lost.view().netns().unwrap().to_owned();
            eventually("its namespace", || !netns.exists()).await;
            for kept in [&newer, &torn] {
                let view = kept.view();
                assert!(view.netns().unwrap().exists(), "{start} start");
                assert!(pending().contains(kept.id()), "{start} start");
                assert!(view.files.shm.exists());
            }
            let listed = run("ip", &["netns", "list"]);
            assert!(others.iter().all(|name| listed.contains(name)), "{listed}");
            daemon.stop().await;
        }
        assert!(record(newer.id().as_str()).exists());
        clean_up(&world, &[&newer, &torn]).await;
        for name in others {
            run("ip", &["netns", "delete", name]);
        }
        assert_eq!(world.left(), [""; 0]);
    });
}

/// What an operator would do about records that no daemon reads: remove them.
async fn clean_up(world: &super::setup::World, handles: &[&longshore::sandbox::SandboxHandle]) {
    std::fs::remove_dir_all(world.dir.join("root/sandboxes")).unwrap();
    let daemon = world.daemon().await;
    eventually("all are swept", || daemon.cni.pending().unwrap().is_empty()).await;
    for handle in handles {
        let netns = handle.view().netns().unwrap().to_owned();
        eventually("the namespace", || !netns.exists()).await;
        assert!(
            matches!(handle.view().phase, Phase::Ready),
            "the old handle knows nothing"
        );
    }
    daemon.stop().await;
}
