//! Addresses: between pods, from the node, none of their own, shared PIDs.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use longshore_kit::Node;
use longshore_kit::pods::{Container, Pod};

use super::{BRIDGE, BUSYBOX, daemon};

/// Answers one line on port 8080, for ever.
const SERVER: &str = "while :; do echo pong | nc -l -p 8080; done";

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_reach_each_other_and_the_node() {
    let node = Node::new().unwrap();
    let (_daemon, mut client, audit) = daemon(&node, BRIDGE).await;
    let (first, second) = (
        Pod::new(&node, "first").unwrap(),
        Pod::new(&node, "second").unwrap(),
    );
    let (a, b) = (
        client.run_pod(&first).await.unwrap(),
        client.run_pod(&second).await.unwrap(),
    );
    let (ip_a, ip_b) = (
        client.pod_ip(&a).await.unwrap(),
        client.pod_ip(&b).await.unwrap(),
    );
    assert_ne!(ip_a, ip_b);
    let server = Container::new("server", BUSYBOX).shell(SERVER);
    let (in_a, in_b) = (
        client.run(&a, &first, &server).await.unwrap(),
        client.run(&b, &second, &server).await.unwrap(),
    );
    for (from, to) in [(&in_a, &ip_b), (&in_b, &ip_a)] {
        let script = format!(
            "for i in 1 2 3 4 5 6 7 8 9; do nc -w 2 {to} 8080 </dev/null && exit; sleep 0.2; done; exit 1"
        );
        let asked = client
            .exec(from, &["/bin/sh", "-c", &script])
            .await
            .unwrap();
        assert_eq!(
            (asked.code, asked.stdout.as_str()),
            (0, "pong\n"),
            "{}",
            asked.stderr
        );
    }
    let address: SocketAddr = format!("{ip_a}:8080").parse().unwrap();
    assert!(
        reached(&node, address),
        "the node does not reach the pod at {address}"
    );
    // The gateway of the bridge is the node.
    let ping = client
        .exec(&in_a, &["ping", "-c", "1", "-W", "2", "10.88.0.1"])
        .await
        .unwrap();
    assert_eq!(ping.code, 0, "{}{}", ping.stdout, ping.stderr);
    client.remove_all_pods().await.unwrap();
    audit.assert_clean();
}

/// The server listens anew after each answer, so a refusal is asked again.
fn reached(node: &Node, address: SocketAddr) -> bool {
    let read = |stream: TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        std::io::read_to_string(stream)
    };
    (0..20).any(|_| {
        let answer = node
            .connect(address)
            .ok()
            .and_then(|stream| read(stream).ok());
        std::thread::sleep(Duration::from_millis(100));
        answer.as_deref() == Some("pong\n")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_port_leads_to_the_pod() {
    let node = Node::new().unwrap();
    let (_daemon, mut client, audit) = daemon(&node, BRIDGE).await;
    let pod = Pod::new(&node, "ports").unwrap().port(18080, 8080);
    let id = client.run_pod(&pod).await.unwrap();
    let server = Container::new("server", BUSYBOX).shell(SERVER);
    client.run(&id, &pod, &server).await.unwrap();
    assert!(reached(&node, "10.88.0.1:18080".parse().unwrap()));
    client.remove_all_pods().await.unwrap();
    audit.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_network_pod_has_no_address_of_its_own() {
    let node = Node::new().unwrap();
    let (_daemon, mut client, audit) = daemon(&node, "").await;
    let pod = Pod::new(&node, "host").unwrap().host_network();
    let id = client.run_pod(&pod).await.unwrap();
    assert_eq!(client.pod_ip(&id).await.unwrap(), "");
    let container = Container::new("c", BUSYBOX).shell("exec sleep 1000");
    let container = client.run(&id, &pod, &container).await.unwrap();
    let own = client
        .exec(&container, &["readlink", "/proc/self/ns/net"])
        .await
        .unwrap();
    let (_, inode) = node.netns_identity().unwrap();
    assert_eq!(own.stdout.trim(), format!("net:[{inode}]"));
    client.remove_all_pods().await.unwrap();
    audit.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_pid_namespace_shows_the_siblings() {
    let node = Node::new().unwrap();
    let (_daemon, mut client, audit) = daemon(&node, "").await;
    let pod = Pod::new(&node, "shared")
        .unwrap()
        .host_network()
        .shared_pid();
    let id = client.run_pod(&pod).await.unwrap();
    let first = Container::new("first", BUSYBOX).command(&["sleep", "1111"]);
    let second = Container::new("second", BUSYBOX).command(&["sleep", "2222"]);
    let first = client.run(&id, &pod, &first).await.unwrap();
    let second = client.run(&id, &pod, &second).await.unwrap();
    for (own, sibling) in [(&first, "sleep 2222"), (&second, "sleep 1111")] {
        let seen = client
            .exec(own, &["ps", "-o", "pid,args"])
            .await
            .unwrap()
            .stdout;
        assert!(seen.contains(sibling), "{sibling} is not in:\n{seen}");
        assert!(
            !seen.contains("    1 sleep"),
            "a container is PID 1:\n{seen}"
        );
    }
    // The end of one container ends its own processes only.
    client.stop(&first, 0).await.unwrap();
    let seen = client
        .exec(&second, &["ps", "-o", "pid,args"])
        .await
        .unwrap()
        .stdout;
    assert!(
        !seen.contains("sleep 1111") && seen.contains("sleep 2222"),
        "{seen}"
    );
    client.remove_all_pods().await.unwrap();
    audit.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_what_is_the_pods() {
    let node = Node::new().unwrap();
    let (_daemon, mut client, audit) = daemon(&node, BRIDGE).await;
    let pod = Pod::new(&node, "names")
        .unwrap()
        .dns(&["192.0.2.53"], &["a.test", "b.test"])
        .sysctl("net.ipv4.ip_local_port_range", "32000 33000")
        .sysctl("kernel.shm_rmid_forced", "1");
    let id = client.run_pod(&pod).await.unwrap();
    let ip = client.pod_ip(&id).await.unwrap();
    let sleeper = |name: &str| Container::new(name, BUSYBOX).command(&["sleep", "1000"]);
    let first = client.run(&id, &pod, &sleeper("a")).await.unwrap();
    let second = client.run(&id, &pod, &sleeper("b")).await.unwrap();
    let mut sh = async |script: &str| {
        let ran = client
            .exec(&first, &["/bin/sh", "-c", script])
            .await
            .unwrap();
        assert_eq!(ran.code, 0, "{script}: {}", ran.stderr);
        ran.stdout
    };
    assert_eq!(
        sh("hostname; cat /etc/hostname; echo $HOSTNAME").await,
        "names\nnames\nnames\n"
    );
    let resolv = sh("cat /etc/resolv.conf").await;
    assert_eq!(resolv, "search a.test b.test\nnameserver 192.0.2.53\n");
    let hosts = sh("cat /etc/hosts").await;
    assert!(
        hosts.contains(&ip) && hosts.contains("names") && hosts.contains("127.0.0.1"),
        "{hosts}"
    );
    assert_eq!(
        sh("cat /proc/sys/net/ipv4/ip_local_port_range").await,
        "32000\t33000\n"
    );
    assert_eq!(sh("cat /proc/sys/kernel/shm_rmid_forced").await, "1\n");
    let shm =
        sh("stat -c %a /dev/shm; grep ' /dev/shm ' /proc/mounts; echo hello >/dev/shm/f").await;
    assert!(
        shm.starts_with("1777\n") && shm.contains("size=65536k"),
        "{shm}"
    );
    let ipc = sh("for ns in ipc uts net; do readlink /proc/self/ns/$ns; done").await;
    let other = client
        .exec(
            &second,
            &[
                "/bin/sh",
                "-c",
                "cat /dev/shm/f; for ns in ipc uts net; do readlink /proc/self/ns/$ns; done",
            ],
        )
        .await
        .unwrap();
    assert_eq!(other.stdout, format!("hello\n{ipc}"));
    client.remove_all_pods().await.unwrap();
    audit.assert_clean();
}
