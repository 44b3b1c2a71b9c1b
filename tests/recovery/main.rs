//! `kill -9` of the daemon: containers go on, and nothing is forgotten.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::too_many_lines,
    reason = "a test's own functions may fail it"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use longshore_kit::cri::Client;
use longshore_kit::image::{Image, Recipe};
use longshore_kit::pods::{Container, Pod};
use longshore_kit::{Audit, Daemon, Node};
use longshore_proto::cri::v1::{
    ContainerState, ListContainersRequest, ListPodSandboxRequest, PodSandboxState,
};

const BUSYBOX: &str = "example.test/busybox:1";
const BRIDGE: &str = "[cni]\nfallback = \"bridge\"\nfallback_bridge = \"ls0\"\n";

async fn import(client: &mut Client) {
    client
        .import(&Image::ensure(Recipe::Busybox).unwrap(), BUSYBOX)
        .await
        .unwrap();
}

/// Twenty containers in ten pods; the first two end by themselves once `go` exists.
async fn start_twenty(client: &mut Client, node: &Node) -> Vec<String> {
    let shared = node.dir().join("shared");
    std::fs::create_dir_all(&shared).unwrap();
    let mut ids = Vec::new();
    for number in 0..10 {
        let pod = Pod::new(node, &format!("pod{number}")).unwrap();
        let pod = if number % 2 == 0 {
            pod
        } else {
            pod.host_network()
        };
        let sandbox = client.run_pod(&pod).await.unwrap();
        for side in 0..2 {
            let script = match ids.len() {
                0 => "until [ -e /shared/go ]; do sleep 0.05; done; exit 7",
                1 => "until [ -e /shared/go ]; do sleep 0.05; done; exit 42",
                _ => "exec sleep 1000",
            };
            let container = Container::new(&format!("c{side}"), BUSYBOX)
                .shell(script)
                .mount(&shared, "/shared", true);
            ids.push(client.run(&sandbox, &pod, &container).await.unwrap());
        }
    }
    ids
}

/// State and exit code of each container, in the order of `ids`.
async fn states(client: &mut Client, ids: &[String]) -> Option<Vec<(ContainerState, i32)>> {
    let mut states = Vec::new();
    for id in ids {
        let status = client.status(id).await.ok()?;
        states.push((status.state(), status.exit_code));
    }
    Some(states)
}

/// The address of every pod, by its id.
async fn addresses(client: &mut Client) -> BTreeMap<String, String> {
    let request = ListPodSandboxRequest { filter: None };
    let pods = client
        .runtime
        .list_pod_sandbox(request)
        .await
        .unwrap()
        .into_inner()
        .items;
    let mut addresses = BTreeMap::new();
    for pod in pods {
        assert_eq!(pod.state(), PodSandboxState::SandboxReady);
        addresses.insert(pod.id.clone(), client.pod_ip(&pod.id).await.unwrap());
    }
    addresses
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_containers_outlive_the_daemon() {
    let node = Node::new().unwrap();
    let mut daemon = Daemon::start(&node, BRIDGE).await.unwrap();
    let mut client = Client::new(&daemon.socket());
    import(&mut client).await;
    node.cgroup_parent().unwrap();
    let audit = Audit::before(&node).unwrap().allow("link: ls0");
    let ids = start_twenty(&mut client, &node).await;
    let before = addresses(&mut client).await;

    daemon.kill9().unwrap();
    std::fs::write(node.dir().join("shared/go"), "").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;

    let started = Instant::now();
    daemon.restart().await.unwrap();
    let mut expected = vec![(ContainerState::ContainerRunning, 0); 20];
    expected[0] = (ContainerState::ContainerExited, 7);
    expected[1] = (ContainerState::ContainerExited, 42);
    let mut client = Client::new(&daemon.socket());
    assert_eq!(
        states(&mut client, &ids).await.unwrap(),
        expected,
        "{}",
        daemon.log()
    );
    let took = started.elapsed();
    println!(
        "recovery: 20 containers right {} ms after the start",
        took.as_millis()
    );
    assert!(took < Duration::from_secs(1), "it took {took:?}");

    let list = client
        .runtime
        .list_containers(ListContainersRequest { filter: None })
        .await;
    assert_eq!(list.unwrap().into_inner().containers.len(), 20);
    assert_eq!(addresses(&mut client).await, before);
    // They are not only listed: they can be entered and stopped.
    let ran = client.exec(&ids[5], &["echo", "alive"]).await.unwrap();
    assert_eq!(ran.stdout, "alive\n");
    client.stop(&ids[5], 0).await.unwrap();
    assert_eq!(client.status(&ids[5]).await.unwrap().exit_code, 137);

    client.remove_all_pods().await.unwrap();
    std::fs::remove_dir_all(node.dir().join("shared")).unwrap();
    let daemon_itself = format!("process: {} ", daemon.pid().unwrap());
    audit.allow(&daemon_itself).assert_clean();
}
