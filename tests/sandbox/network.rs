//! The network with the standard plugins, and its intents.

use std::time::Duration;

use longshore::base::id::SandboxId;
use longshore::cni::{Attachment, CniError, PluginCause};
use longshore::netns::{Kind, Namespace, Request, create, enter, prepare_dir, unpin};
use longshore::sandbox::model::{PortMapping, Protocol};
use serde_json::{Value, json};

use super::setup::{World, eventually, in_a_node, in_pod, pod, run};

#[test]
fn two_pods_reach_each_other_and_the_node() {
    in_a_node("reach", |world| async move {
        let daemon = world.daemon().await;
        daemon.cni.ready().await.unwrap();
        let (mut a, b) = (pod("a"), pod("b"));
        a.port_mappings = vec![PortMapping {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_port: 8080,
            host_ip: String::new(),
        }];
        let (a, b) = (daemon.run(&a).await, daemon.run(&b).await);
        let (ip_a, ip_b) = (a.view().ips[0], b.view().ips[0]);
        assert_ne!(ip_a, ip_b);
        in_pod(&b, &format!("busybox ping -c1 -W2 {ip_a}"));
        in_pod(&a, &format!("busybox ping -c1 -W2 {ip_b}"));
        run("busybox", &["ping", "-c1", "-W2", &ip_a.to_string()]);
        let gateway = in_pod(&a, "ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'");
        in_pod(&a, &format!("busybox ping -c1 -W2 {gateway}"));
        let rules = run("iptables-save", &["-t", "nat"]);
        assert!(
            rules.contains("--dport 8080"),
            "the host port is mapped: {rules}"
        );
        for pod in [&a, &b] {
            daemon.stop_and_remove(pod.id()).await;
        }
        let rules = run("iptables-save", &["-t", "nat"]);
        assert!(!rules.contains("--dport 8080"), "{rules}");
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

/// A network namespace and what attaches it, without a sandbox.
struct Pod {
    attachment: Attachment,
}

impl Pod {
    fn new(world: &World) -> Self {
        let id = SandboxId::random().unwrap();
        let netns = world.netns_dir().join(format!("test-{id}"));
        prepare_dir(&world.netns_dir()).unwrap();
        create(&Request {
            pins: vec![(Kind::Net, netns.clone())],
            ..Default::default()
        })
        .unwrap();
        Self {
            attachment: Attachment {
                id,
                netns,
                pod_namespace: "n".into(),
                pod_name: "p".into(),
                pod_uid: "u".into(),
                ports: vec![],
                bandwidth: None,
                dns: None,
                annotations: [("k".to_owned(), "v".to_owned())].into(),
                cgroup_path: "/kubepods/pod1".into(),
            },
        }
    }

    fn unpin(&self) {
        unpin(&self.attachment.netns).unwrap();
    }
}

/// Logs its verb, its namespace and its input.
const RECORDER: &str = r#"input=$(cat)
echo "$CNI_COMMAND ${CNI_NETNS:+netns} $(basename $0) $input" >>$LOG
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0",
 "interfaces":[{"name":"eth0","sandbox":"/x"}],
 "ips":[{"address":"10.9.0.2/24","interface":0},{"address":"fd00::2/64","interface":0}]}'
exit 0"#;

fn calls(world: &World) -> Vec<(String, Value)> {
    let split = |line: &String| {
        let (head, input) = line.split_at(line.find('{').unwrap());
        let head = head.split_whitespace().collect::<Vec<_>>().join(" ");
        (head, serde_json::from_str(input).unwrap())
    };
    world.plugin_log().iter().map(split).collect()
}

#[test]
fn a_chain_gets_what_it_declares_and_del_runs_backwards() {
    in_a_node("chain", |world| async move {
        for name in ["first", "second"] {
            world.plugin(name, RECORDER);
        }
        world.network(
            "chained",
            &json!([
                {"type": "first", "capabilities": {"cgroupPath": true}},
                {"type": "second", "capabilities": {"io.kubernetes.cri.pod-annotations": true}},
            ]),
        );
        let daemon = world.daemon().await;
        let pod = Pod::new(&world);
        let seen = std::sync::Mutex::new(Vec::new());
        let progress = |plugin: &str| seen.lock().unwrap().push(plugin.to_owned());
        let attached = daemon.cni.add(&pod.attachment, &progress).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), ["first", "second"]);
        let ips: Vec<_> = attached.ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.9.0.2", "fd00::2"]);
        let twice = daemon
            .cni
            .add(&pod.attachment, &progress)
            .await
            .unwrap_err();
        assert!(matches!(twice, CniError::Exists { .. }), "{twice}");
        daemon.cni.del(&pod.attachment.id).await.unwrap();
        daemon.cni.del(&pod.attachment.id).await.unwrap();
        let calls = calls(&world);
        let heads: Vec<_> = calls.iter().map(|(head, _)| head.as_str()).collect();
        assert_eq!(
            heads,
            [
                "ADD netns first",
                "ADD netns second",
                "DEL netns second",
                "DEL netns first"
            ]
        );
        let (add_1, add_2, del_2) = (&calls[0].1, &calls[1].1, &calls[2].1);
        assert_eq!(
            add_1["runtimeConfig"],
            json!({"cgroupPath": "/kubepods/pod1"})
        );
        assert_eq!(add_1.get("prevResult"), None);
        assert_eq!(
            add_2["runtimeConfig"],
            json!({"io.kubernetes.cri.pod-annotations": {"k": "v"}})
        );
        assert_eq!(add_2["prevResult"]["ips"][0]["address"], "10.9.0.2/24");
        assert_eq!(del_2["prevResult"], add_2["prevResult"]);
        pod.unpin();
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn the_intent_outlives_plugin_configuration_namespace_and_daemon() {
    in_a_node("intent", |world| async move {
        world.plugin("recorder", RECORDER);
        world.network("net", &json!([{"type": "recorder"}]));
        let daemon = world.daemon().await;
        let pod = Pod::new(&world);
        let id = pod.attachment.id.clone();
        daemon.cni.add(&pod.attachment, &|_| ()).await.unwrap();
        std::fs::remove_file(world.dir.join("bin/recorder")).unwrap();
        std::fs::remove_file(world.dir.join("net.d/net.conflist")).unwrap();
        pod.unpin();
        let error = daemon.cni.del(&id).await.unwrap_err();
        let text = longshore::base::chain::chain(&error);
        assert!(
            text.contains("CNI DEL recorder") && text.contains("no such plugin"),
            "{text}"
        );
        assert_eq!(daemon.cni.pending().unwrap(), std::slice::from_ref(&id));
        daemon.stop().await;

        // The next run of the daemon finds an intent without a sandbox.
        let daemon = world.daemon().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(daemon.cni.pending().unwrap(), std::slice::from_ref(&id));
        world.plugin("recorder", RECORDER);
        let pending = || daemon.cni.pending().unwrap();
        eventually("the plugin is back", || pending().is_empty()).await;
        let (last, input) = calls(&world).pop().unwrap();
        assert_eq!(last, "DEL recorder", "without a namespace");
        assert_eq!(input["prevResult"]["ips"][0]["address"], "10.9.0.2/24");
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn an_intent_is_on_disk_before_the_plugin_runs() {
    in_a_node("intent first", |world| async move {
        world.plugin(
            "looks",
            &format!(
                r#"cat >/dev/null; ls {}/$CNI_CONTAINERID.json >>$LOG 2>&1
                echo '{{"ips":[{{"address":"10.9.0.2/24"}}]}}'"#,
                world.intents().display()
            ),
        );
        world.network("net", &json!([{"type": "looks"}]));
        let daemon = world.daemon().await;
        let pod = Pod::new(&world);
        let file = world.intents().join(format!("{}.json", pod.attachment.id));
        daemon.cni.add(&pod.attachment, &|_| ()).await.unwrap();
        assert_eq!(world.plugin_log(), [file.display().to_string()]);
        daemon.cni.del(&pod.attachment.id).await.unwrap();
        assert_eq!(world.plugin_log().len(), 2, "still there while DEL runs");
        assert!(!file.exists());
        pod.unpin();
        daemon.stop().await;
    });
}

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children() {
    in_a_node("timeout", |mut world| async move {
        world.timeout = Duration::from_millis(500);
        world.plugin(
            "hangs",
            r#"cat >/dev/null; [ $CNI_COMMAND = DEL ] && exit 0
            echo "waiting for the agent" >&2; sleep 1000 & echo $! >>$LOG; wait"#,
        );
        world.network("net", &json!([{"type": "hangs"}]));
        let daemon = world.daemon().await;
        let pod = Pod::new(&world);
        let error = daemon.cni.add(&pod.attachment, &|_| ()).await.unwrap_err();
        let CniError::Plugin(failure) = &error else {
            panic!("{error}")
        };
        assert!(
            matches!(failure.cause, PluginCause::Timeout { .. }),
            "{failure:?}"
        );
        let text = longshore::base::chain::chain(&error);
        assert!(text.contains("waiting for the agent"), "{text}");
        let child = world.plugin_log()[0].clone();
        let alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat"));
            stat.is_ok_and(|s| !s.contains(") Z "))
        };
        eventually("the child is dead", || !alive()).await;
        daemon.cni.del(&pod.attachment.id).await.unwrap();
        pod.unpin();
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn readiness_has_its_reason_in_words() {
    in_a_node("readiness", |mut world| async move {
        world.fallback = false;
        world.plugin(
            "status",
            r#"cat >/dev/null; [ $CNI_COMMAND = STATUS ] || exit 0
            [ -z "$CNI_NETNS" ] || exit 9
            [ -e "$(dirname $0)/well" ] && exit 0
            echo '{"code":50,"msg":"agent is not up"}'; exit 1"#,
        );
        let daemon = world.daemon().await;
        let reason = daemon.cni.ready().await.unwrap_err().reason;
        assert!(reason.contains("no network configuration in"), "{reason}");
        let list = json!({"cniVersion": "1.1.0", "name": "s", "plugins": [{"type": "status"}]});
        std::fs::write(world.dir.join("net.d/s.conflist"), list.to_string()).unwrap();
        eventually("the network is seen", || {
            daemon.cni.networks().name() == Some("s")
        })
        .await;
        let reason = daemon.cni.ready().await.unwrap_err().reason;
        assert!(
            reason.contains("CNI STATUS status") && reason.contains("agent is not up"),
            "{reason}"
        );
        std::fs::write(world.dir.join("bin/well"), "").unwrap();
        daemon.cni.ready().await.unwrap();
        daemon.stop().await;
    });
}

#[test]
fn a_result_without_an_address_is_an_error() {
    in_a_node("no address", |world| async move {
        world.plugin("empty", r#"cat >/dev/null; echo '{"cniVersion":"1.0.0"}'"#);
        world.network("net", &json!([{"type": "empty"}]));
        let daemon = world.daemon().await;
        let error = daemon.sandboxes.run(pod("a")).await.unwrap_err();
        let text = longshore::base::chain::chain(&error);
        assert!(
            text.contains("network net gave the pod no address"),
            "{text}"
        );
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn work_in_a_namespace_and_its_identity() {
    in_a_node("enter", |world| async move {
        let (a, b) = (Pod::new(&world), Pod::new(&world));
        let open = |pod: &Pod| Namespace::open(&pod.attachment.netns).unwrap();
        let (ns_a, ns_b) = (open(&a), open(&b));
        assert_ne!(ns_a.identity(), ns_b.identity());
        assert_eq!(ns_a.identity(), open(&a).identity());
        let listed = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        run("ip", &["link", "add", "only-node", "type", "bridge"]);
        assert!(listed().contains("only-node"));
        assert!(!enter(&ns_a, listed).unwrap().contains("only-node"));
        assert!(
            listed().contains("only-node"),
            "the calling thread stays where it is"
        );
        for pod in [&a, &b] {
            pod.unpin();
            pod.unpin();
            assert!(Namespace::open(&pod.attachment.netns).is_err());
        }
        std::fs::write(&a.attachment.netns, "").unwrap();
        assert!(
            Namespace::open(&a.attachment.netns).is_err(),
            "an empty file is none"
        );
        a.unpin();
    });
}

#[test]
fn the_netns_directory_is_shared_once_whoever_makes_it() {
    in_a_node("prepare", |world| async move {
        let dir = world.dir.join("netns");
        let jobs: Vec<_> = (0..8)
            .map(|_| {
                let dir = dir.clone();
                tokio::task::spawn_blocking(move || prepare_dir(&dir).unwrap())
            })
            .collect();
        for job in jobs {
            job.await.unwrap();
        }
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let at = dir.display().to_string();
        let ours: Vec<_> = mounts.lines().filter(|l| l.contains(&at)).collect();
        assert_eq!(ours.len(), 1, "{ours:?}");
        assert!(ours[0].contains("shared:"), "{ours:?}");
        run("umount", &[&at]);
    });
}
