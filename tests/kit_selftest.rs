//! The kit against the real daemon: what every node test relies on.

use longshore_kit::cri::Client;
use longshore_kit::crictl::Crictl;
use longshore_kit::pods::Pod;
use longshore_kit::{Audit, Daemon, Node, paths, skip};

/// The daemon needs the static shim, which cargo alone does not build.
fn ready(test: &str) -> bool {
    let missing = paths::shim().and(paths::crictl()).err();
    if let Some(error) = &missing {
        skip(test, &format!("{error:#}"));
    }
    missing.is_none()
}

#[tokio::test]
async fn a_daemon_starts_is_killed_comes_back_and_ends() {
    if !ready("a_daemon_starts_is_killed_comes_back_and_ends") {
        return;
    }
    let node = Node::new().unwrap();
    let mut daemon = Daemon::start(&node, "").await.unwrap();
    let version = Crictl::new(&daemon).unwrap().run(&["version"]).unwrap();
    assert!(version.contains("RuntimeName:  longshore"), "{version}");
    let first = daemon.pid().unwrap();
    daemon.kill9().unwrap();
    daemon.restart().await.unwrap();
    assert_ne!(daemon.pid().unwrap(), first);
    assert!(
        daemon.terminate().await.unwrap().success(),
        "{}",
        daemon.log()
    );
}

#[tokio::test]
async fn a_bad_configuration_ends_the_start_with_the_log() {
    if !ready("a_bad_configuration_ends_the_start_with_the_log") {
        return;
    }
    let node = Node::new().unwrap();
    let error = Daemon::start(&node, "no_such_key = 1").await.unwrap_err();
    assert!(format!("{error:#}").contains("no_such_key"), "{error:#}");
}

#[tokio::test]
async fn two_daemons_share_a_node() {
    if !ready("two_daemons_share_a_node") {
        return;
    }
    let node = Node::new().unwrap();
    let one = Daemon::start_named(&node, "a", "").await.unwrap();
    let two = Daemon::start_named(&node, "b", "").await.unwrap();
    assert_ne!(one.instance(), two.instance());
    assert_ne!(one.pid(), two.pid());
}

#[tokio::test]
async fn the_audit_sees_a_pod_and_its_end() {
    if !ready("the_audit_sees_a_pod_and_its_end") {
        return;
    }
    let node = Node::new().unwrap();
    let daemon = Daemon::start(&node, "").await.unwrap();
    let mut client = Client::new(&daemon.socket());
    let pod = Pod::new(&node, "a").unwrap().host_network();
    let audit = Audit::before(&node).unwrap();
    let id = client.run_pod(&pod).await.unwrap();
    let alive = audit.after().unwrap();
    assert!(
        alive.iter().any(|item| item.what.contains(&id)),
        "{alive:?}"
    );
    client.remove_pod(&id).await.unwrap();
    audit.assert_clean();
}
