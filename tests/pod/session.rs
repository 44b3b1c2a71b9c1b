//! A session as an operator types it, against a registry on loopback.

use longshore_kit::crictl::Crictl;
use longshore_kit::image::{Image, Recipe};
use longshore_kit::{Audit, Daemon, Node, Registry};
use serde_json::json;

use super::BRIDGE;

#[tokio::test(flavor = "multi_thread")]
async fn crictl_takes_a_pod_through_its_life() {
    let node = Node::new().unwrap();
    let registry = Registry::start(&node).unwrap();
    registry
        .push(&Image::ensure(Recipe::Busybox).unwrap())
        .unwrap();
    let reference = registry.reference("busybox");
    let daemon = Daemon::start(&node, BRIDGE).await.unwrap();
    node.cgroup_parent().unwrap();
    let audit = Audit::before(&node).unwrap().allow("link: ls0");
    let crictl = Crictl::new(&daemon).unwrap();
    let run = |words: &[&str]| crictl.run(words).unwrap().trim().to_owned();

    let version = run(&["version"]);
    assert!(
        version.contains("longshore") && version.contains("v1"),
        "{version}"
    );
    let info = crictl.json(&["info"]).unwrap();
    let conditions = info["status"]["conditions"].as_array().unwrap();
    for kind in ["RuntimeReady", "NetworkReady"] {
        assert!(
            conditions
                .iter()
                .any(|c| c["type"] == kind && c["status"] == true),
            "{info:#}"
        );
    }

    let pulled = run(&["pull", &reference]);
    assert!(
        pulled.contains("Image is up to date for sha256:"),
        "{pulled}"
    );
    assert!(run(&["images"]).contains("busybox"));

    let logs = node.dir().join("logs/session");
    std::fs::create_dir_all(&logs).unwrap();
    let pod = json!({
        "metadata": {"name": "web", "uid": "u1", "namespace": "default", "attempt": 0},
        "hostname": "web", "log_directory": logs, "linux": {"cgroup_parent": node.cgroup_parent().unwrap()},
    });
    let container = json!({
        "metadata": {"name": "app"}, "image": {"image": reference}, "log_path": "app.log",
        "command": ["sh", "-c", "echo hello from $HOSTNAME; echo oops >&2; exec sleep 1000"], "linux": {},
    });
    let pod = crictl.file("pod.json", &pod).unwrap();
    let container = crictl.file("container.json", &container).unwrap();
    let (pod, container) = (pod.to_str().unwrap(), container.to_str().unwrap());

    let sandbox = run(&["runp", pod]);
    let id = run(&["create", &sandbox, container, pod]);
    run(&["start", &id]);
    let ps = run(&["ps"]);
    assert!(
        ps.contains("Running") && ps.contains("app") && ps.contains(&id[..13]),
        "{ps}"
    );
    assert_eq!(run(&["exec", "-s", &id, "hostname"]), "web");
    assert_eq!(run(&["logs", &id]), "hello from web");

    let status = crictl.json(&["inspect", &id]).unwrap();
    assert_eq!(status["status"]["state"], "CONTAINER_RUNNING");
    assert!(status["info"]["pid"].as_i64().unwrap() > 1, "{status:#}");
    let status = crictl.json(&["inspectp", &sandbox[..12]]).unwrap();
    assert_eq!(status["status"]["state"], "SANDBOX_READY");
    assert!(
        status["status"]["network"]["ip"]
            .as_str()
            .unwrap()
            .starts_with("10.88."),
        "{status:#}"
    );

    run(&["stop", "--timeout", "1", &id]);
    assert_eq!(
        crictl.json(&["inspect", &id]).unwrap()["status"]["state"],
        "CONTAINER_EXITED"
    );
    run(&["rm", &id]);
    run(&["stopp", &sandbox]);
    assert_eq!(
        crictl.json(&["inspectp", &sandbox]).unwrap()["status"]["state"],
        "SANDBOX_NOTREADY"
    );
    run(&["rmp", &sandbox]);
    run(&["rmi", &reference]);
    assert!(
        crictl.json(&["images"]).unwrap()["images"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert!(
        crictl.json(&["pods"]).unwrap()["items"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    audit.assert_clean();
}
