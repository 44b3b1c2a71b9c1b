//! Bad input: one clear error with the right code, and nothing half-made.

use longshore_kit::cri::Client;
use longshore_kit::pods::{Container, Pod};
use longshore_kit::{Daemon, Node};
use longshore_proto::cri::v1 as cri;
use tonic::{Code, Status};

use super::{BUSYBOX, daemon};

/// The answer of a call that must fail.
fn refused<T: std::fmt::Debug>(answer: anyhow::Result<T>) -> Status {
    let error = answer.unwrap_err();
    error
        .downcast_ref::<Status>()
        .cloned()
        .unwrap_or_else(|| panic!("no status in {error:?}"))
}

#[track_caller]
fn assert_says(status: &Status, code: Code, words: &[&str]) {
    assert_eq!(status.code(), code, "{status:?}");
    for word in words {
        assert!(
            status.message().contains(word),
            "{word:?} is not in {:?}",
            status.message()
        );
    }
    assert!(
        !status.message().contains('\n'),
        "{:?} has several lines",
        status.message()
    );
}

async fn nothing_exists(client: &mut Client) {
    let pods = client
        .runtime
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .await;
    assert!(pods.unwrap().into_inner().items.is_empty());
    let containers = client
        .runtime
        .list_containers(cri::ListContainersRequest::default())
        .await;
    assert!(containers.unwrap().into_inner().containers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_cannot_be() {
    let node = Node::new().unwrap();
    let (_daemon, mut client, audit) = daemon(&node, "").await;

    let mut nameless = Pod::new(&node, "x").unwrap();
    nameless.config.metadata = None;
    let status = refused(client.run_pod(&nameless).await);
    assert_says(&status, Code::InvalidArgument, &["config.metadata"]);

    let handler = Pod::new(&node, "x")
        .unwrap()
        .host_network()
        .handler("gvisor");
    let status = refused(client.run_pod(&handler).await);
    assert_says(
        &status,
        Code::InvalidArgument,
        &["gvisor", "runtime handler"],
    );

    let sysctl = Pod::new(&node, "x")
        .unwrap()
        .host_network()
        .sysctl("kernel.no_such_thing", "1");
    let status = refused(client.run_pod(&sysctl).await);
    assert!(
        status.message().contains("kernel.no_such_thing"),
        "{status:?}"
    );

    // No network configuration, and no fallback.
    let networked = Pod::new(&node, "x").unwrap();
    let status = refused(client.run_pod(&networked).await);
    assert!(status.message().contains("network"), "{status:?}");

    nothing_exists(&mut client).await;
    audit.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_plugin_is_named() {
    let node = Node::new().unwrap();
    let (daemon, mut client, audit) = daemon(&node, "").await;
    let conflist = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"no-such-plugin"}]}"#;
    std::fs::write(daemon.cni_conf_dir().join("10-net.conflist"), conflist).unwrap();
    let audit = audit.allow(&format!("path: {}", daemon.cni_conf_dir().display()));
    let pod = Pod::new(&node, "x").unwrap();
    let status = wait_for(&mut client, &pod, "no-such-plugin").await;
    assert!(status.message().contains("CNI"), "{status:?}");
    nothing_exists(&mut client).await;
    std::fs::remove_file(daemon.cni_conf_dir().join("10-net.conflist")).unwrap();
    audit.assert_clean();
}

/// The configuration directory is followed, not read at each call.
async fn wait_for(client: &mut Client, pod: &Pod, word: &str) -> Status {
    let mut last = None;
    for _ in 0..100 {
        let status = refused(client.run_pod(pod).await);
        if status.message().contains(word) {
            return status;
        }
        last = Some(status);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{word:?} never came: {last:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be() {
    let node = Node::new().unwrap();
    let (_daemon, mut client, audit) = daemon(&node, "").await;
    let pod = Pod::new(&node, "p").unwrap().host_network();
    let id = client.run_pod(&pod).await.unwrap();

    let good = Container::new("c", BUSYBOX).command(&["true"]);
    let mut nameless = good.clone();
    nameless.config.metadata = None;
    let status = refused(client.create(&id, &pod, &nameless).await);
    assert_says(&status, Code::InvalidArgument, &["config.metadata"]);

    let absent = Container::new("c", "example.test/absent:1");
    let status = refused(client.create(&id, &pod, &absent).await);
    assert_says(&status, Code::NotFound, &["example.test/absent:1"]);

    let status = refused(client.create(&"0".repeat(64), &pod, &good).await);
    assert_says(&status, Code::NotFound, &["000000"]);

    let mut privileged = good.clone();
    privileged.security().privileged = true;
    let status = refused(client.create(&id, &pod, &privileged).await);
    assert!(status.message().contains("privileged"), "{status:?}");

    let missing = Container::new("missing", BUSYBOX).command(&["/no/such/program"]);
    let container = client.create(&id, &pod, &missing).await.unwrap();
    let status = refused(client.start(&container).await);
    assert!(status.message().contains("/no/such/program"), "{status:?}");
    let after = client.status(&container).await.unwrap();
    assert_eq!(
        (after.exit_code, after.reason.as_str()),
        (128, "StartError")
    );
    client.remove(&container).await.unwrap();

    let status = refused(client.status(&container).await);
    assert_says(&status, Code::NotFound, &[&container]);
    let status = refused(client.exec("", &["true"]).await);
    assert_says(&status, Code::InvalidArgument, &["empty"]);

    client.remove_pod(&id).await.unwrap();
    nothing_exists(&mut client).await;
    audit.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_is_removed_already() {
    let node = Node::new().unwrap();
    let (_daemon, mut client, _audit) = daemon(&node, "").await;
    let id = "f".repeat(64);
    client.stop(&id, 1).await.unwrap();
    client.remove(&id).await.unwrap();
    client.remove_pod(&id).await.unwrap();
    let image = Some(cri::ImageSpec {
        image: "example.test/absent:1".into(),
        ..Default::default()
    });
    let request = cri::RemoveImageRequest {
        image: image.clone(),
    };
    client.image.remove_image(request).await.unwrap();
    let request = cri::ImageStatusRequest {
        image,
        verbose: false,
    };
    let answer = client
        .image
        .image_status(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.image, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_rpc_that_is_not_done_says_so() {
    let node = Node::new().unwrap();
    let (_daemon, mut client, _audit) = daemon(&node, "").await;
    let status = client
        .runtime
        .checkpoint_pod(cri::CheckpointPodRequest::default())
        .await
        .unwrap_err();
    assert_says(&status, Code::Unimplemented, &["CheckpointPod"]);
}

#[test]
fn a_configuration_that_cannot_be() {
    let node = Node::new().unwrap();
    for (config, words) in [
        (
            "[cni]\nconf_dri = \"/x\"",
            ["conf_dri", "did you mean `conf_dir`?"],
        ),
        ("default_runtime = \"runc\"", ["default_runtime", "runc"]),
        ("log_level = 5", ["invalid type", "line"]),
    ] {
        let daemon = Daemon::prepare(&node, "bad", config).unwrap();
        let output = daemon.command().unwrap().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{config}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!daemon.root().join("sandboxes").exists());
    }
}

#[test]
fn a_wrong_flag_is_refused() {
    let node = Node::new().unwrap();
    let daemon = Daemon::prepare(&node, "flag", "").unwrap();
    let output = daemon
        .command()
        .unwrap()
        .arg("--lisen")
        .arg("/x")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("--lisen") && said.contains("--listen"),
        "{said}"
    );
}
