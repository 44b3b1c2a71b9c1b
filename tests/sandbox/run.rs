//! What RunPodSandbox makes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use longshore::sandbox::model::{DnsConfig, IdMapping, NamespaceMode, UserNamespace};
use longshore::sandbox::{LookupError, SandboxError, Sandboxes};

use super::setup::{eventually, in_a_node, in_pod, pod, run};

fn inode(path: &std::path::Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn a_pod_has_its_own_namespaces_name_files_and_parameters() {
    in_a_node("own namespaces", |world| async move {
        std::fs::write(world.dir.join("resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
        let daemon = world.daemon().await;
        let mut config = pod("web");
        config.sysctls = [
            ("net.ipv4.ip_unprivileged_port_start", "1024"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("kernel.shm_rmid_forced", "1"),
            ("fs.mqueue.msg_max", "11"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let handle = daemon.run(&config).await;
        let view = handle.view();
        assert!(view.is_ready() && view.created_at > 0);
        assert_eq!(in_pod(&handle, "cat /proc/sys/kernel/hostname"), "web");
        assert_eq!(
            in_pod(&handle, "ip -o link show lo | grep -c LOOPBACK,UP"),
            "1"
        );
        for (file, value) in [
            ("net/ipv4/ip_unprivileged_port_start", "1024"),
            ("net/ipv4/ping_group_range", "0\t2147483647"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("kernel/shm_rmid_forced", "1"),
            ("fs/mqueue/msg_max", "11"),
        ] {
            assert_eq!(
                in_pod(&handle, &format!("cat /proc/sys/{file}")),
                value,
                "{file}"
            );
        }
        let node = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
        assert_eq!(node.trim(), "0", "the node's own parameter is untouched");
        for (kind, path) in [
            ("net", &view.namespaces.net),
            ("ipc", &view.namespaces.ipc),
            ("uts", &view.namespaces.uts),
        ] {
            let own = std::path::PathBuf::from(format!("/proc/thread-self/ns/{kind}"));
            assert_ne!(inode(path.as_ref().unwrap()), inode(&own), "{kind}");
        }
        let read = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&view.files.hostname), "web\n");
        assert_eq!(read(&view.files.resolv_conf), "nameserver 192.0.2.1\n");
        assert!(read(&view.files.hosts).contains(&format!("{}\tweb\n", view.ips[0])));
        let mode = std::fs::metadata(&view.files.hosts).unwrap().mode();
        assert_eq!(mode & 0o777, 0o644);
        shm_is_as_elsewhere(&view.files.shm);
        assert!(run("ip", &["netns", "list"]).contains(view.id.as_str()));
        daemon.stop_and_remove(handle.id()).await;
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

fn shm_is_as_elsewhere(shm: &std::path::Path) {
    let mode = std::fs::metadata(shm).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = mounts
        .lines()
        .find(|l| l.contains(&shm.display().to_string()));
    let line = line.unwrap();
    for option in ["nosuid", "nodev", "noexec", "tmpfs", "size=65536k"] {
        assert!(line.contains(option), "{option}: {line}");
    }
}

#[test]
fn a_pod_on_the_nodes_network_has_no_address_of_its_own() {
    in_a_node("host network", |world| async move {
        std::fs::write(world.dir.join("hosts"), "192.0.2.7 node\n").unwrap();
        let daemon = world.daemon().await;
        let mut config = pod("host");
        config.hostname = String::new();
        config.namespaces.network = NamespaceMode::Node;
        config.dns = Some(DnsConfig::default());
        let handle = daemon.run(&config).await;
        let view = handle.view();
        assert!(view.ips.is_empty());
        assert_eq!(view.namespaces.net, None);
        assert_eq!(view.namespaces.uts, None);
        assert!(view.namespaces.ipc.is_some());
        assert_eq!(view.hostname, run("hostname", &[]).trim());
        let read = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!(
            read(&view.files.resolv_conf),
            "",
            "an empty DNSConfig has no lines"
        );
        assert_eq!(read(&view.files.hosts), "192.0.2.7 node\n");
        config.metadata.attempt = 1;
        config.namespaces.ipc = NamespaceMode::Node;
        let all_host = daemon.run(&config).await;
        assert_eq!(all_host.view().namespaces, Default::default());
        assert_eq!(all_host.view().files.shm, std::path::Path::new("/dev/shm"));
        for handle in [&handle, &all_host] {
            daemon.stop_and_remove(handle.id()).await;
        }
        assert_eq!(world.left(), [""; 0]);
        assert!(std::path::Path::new("/dev/shm").exists());
        daemon.stop().await;
    });
}

#[test]
fn names_and_prefixes() {
    in_a_node("names", |world| async move {
        let daemon = world.daemon().await;
        let mut config = pod("same");
        config.namespaces.network = NamespaceMode::Node;
        let first = daemon.run(&config).await;
        let again = daemon.run(&config).await;
        assert_eq!(
            first.id(),
            again.id(),
            "the same request gets the same sandbox"
        );
        let mut other = config.clone();
        other.labels.insert("a".into(), "b".into());
        match daemon.sandboxes.run(other).await.unwrap_err() {
            SandboxError::AlreadyExists {
                id,
                difference,
                name,
            } => {
                assert_eq!(
                    (&id, name.as_str()),
                    (first.id(), "same_default_uid-same_0")
                );
                assert_eq!(difference, "labels differs");
            }
            other => panic!("{other}"),
        }
        let mut next = config.clone();
        next.metadata.attempt = 1;
        let second = daemon.run(&next).await;
        assert_ne!(first.id(), second.id());
        let listed: Vec<_> = daemon
            .sandboxes
            .list()
            .iter()
            .map(|v| v.id.clone())
            .collect();
        assert_eq!(
            listed,
            [second.id().clone(), first.id().clone()],
            "the newest first"
        );
        prefixes(&daemon.sandboxes);
        daemon.sandboxes.begin_stop(first.id()).await.unwrap();
        let stopped = daemon.sandboxes.run(config.clone()).await.unwrap_err();
        assert!(
            stopped.to_string().contains("it is not ready (stopped)"),
            "{stopped}"
        );
        for handle in [&first, &second] {
            daemon.stop_and_remove(handle.id()).await;
        }
        let fresh = daemon.run(&config).await;
        assert_ne!(fresh.id(), first.id(), "the name is free again");
        daemon.stop_and_remove(fresh.id()).await;
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

fn prefixes(sandboxes: &Sandboxes) {
    assert_eq!(sandboxes.get("").unwrap_err(), LookupError::Empty);
    assert!(matches!(
        sandboxes.get("zz").unwrap_err(),
        LookupError::NotFound(_)
    ));
    let ids: Vec<String> = sandboxes.list().iter().map(|v| v.id.to_string()).collect();
    let common = ids[0]
        .bytes()
        .zip(ids[1].bytes())
        .take_while(|(a, b)| a == b)
        .count();
    for id in &ids {
        assert_eq!(sandboxes.get(&id[..=common]).unwrap().id().as_str(), id);
    }
    if common > 0 {
        let ambiguous = sandboxes.get(&ids[0][..common]).unwrap_err();
        assert!(matches!(ambiguous, LookupError::Ambiguous { count: 2, .. }));
    }
}

#[test]
fn an_ambiguous_prefix_is_an_error() {
    in_a_node("ambiguous prefix", |world| async move {
        let daemon = world.daemon().await;
        let mut config = pod("many");
        config.namespaces.network = NamespaceMode::Node;
        // 17 ids over 16 first digits: two of them share one.
        for attempt in 0..17 {
            config.metadata.attempt = attempt;
            daemon.run(&config).await;
        }
        let views = daemon.sandboxes.list();
        let shared = views.iter().find_map(|view| {
            let digit = &view.id.as_str()[..1];
            let same = views
                .iter()
                .filter(|v| v.id.as_str().starts_with(digit))
                .count();
            (same > 1).then(|| (digit.to_owned(), same))
        });
        let (prefix, count) = shared.unwrap();
        let expected = LookupError::Ambiguous {
            prefix: prefix.clone(),
            count,
        };
        assert_eq!(daemon.sandboxes.get(&prefix).unwrap_err(), expected);
        for view in views {
            daemon.stop_and_remove(&view.id).await;
        }
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn a_refused_request_leaves_nothing() {
    in_a_node("refusals", |world| async move {
        let daemon = world.daemon().await;
        let mut unknown = pod("a");
        unknown.runtime_handler = "kata".into();
        let error = daemon.sandboxes.run(unknown).await.unwrap_err();
        assert!(
            matches!(error, SandboxError::UnknownRuntimeHandler { .. }),
            "{error}"
        );
        let mut known = pod("a");
        known.runtime_handler = "longshore".into();
        known.namespaces.network = NamespaceMode::Node;
        let handle = daemon.run(&known).await;
        assert_eq!(handle.view().config.runtime_handler, "longshore");
        daemon.stop_and_remove(handle.id()).await;
        let mut bad = pod("a");
        bad.sysctls.insert("vm.swappiness".into(), "1".into());
        let error = daemon.sandboxes.run(bad).await.unwrap_err();
        assert!(
            matches!(
                error,
                SandboxError::Invalid {
                    field: "sysctls",
                    ..
                }
            ),
            "{error}"
        );
        let mut cgroup = pod("a");
        cgroup.cgroup_parent = "/../escape".into();
        let error = daemon.sandboxes.run(cgroup).await.unwrap_err();
        assert!(matches!(error, SandboxError::Invalid { .. }), "{error}");
        // Only the kernel knows that this value is none, so this one fails on the way.
        let mut late = pod("a");
        late.sysctls
            .insert("net.ipv4.ip_forward".into(), "maybe".into());
        let error = daemon.sandboxes.run(late).await.unwrap_err();
        let text = longshore::base::chain::chain(&error);
        assert!(
            text.contains("make namespaces") && text.contains("net.ipv4.ip_forward"),
            "{text}"
        );
        assert!(daemon.sandboxes.list().is_empty());
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn an_init_that_nobody_heard_of_is_ended() {
    in_a_node("lost init", |mut world| async move {
        world.lost_inits = true;
        let daemon = world.daemon().await;
        let mut config = pod("lost-init");
        config.namespaces.pid = NamespaceMode::Pod;
        config.namespaces.network = NamespaceMode::Node;
        let error = daemon.sandboxes.run(config).await.unwrap_err();
        let text = longshore::base::chain::chain(&error);
        let pid = text.rsplit("lost ").next().unwrap().to_owned();
        let lives = || std::fs::read_to_string(format!("/proc/{pid}/comm"));
        eventually("the init is ended", || {
            lives().is_ok_and(|comm| comm.trim() != "sleep") || lives().is_err()
        })
        .await;
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn a_shared_pid_namespace_has_an_init() {
    in_a_node("shared pid", |world| async move {
        let daemon = world.daemon().await;
        let mut config = pod("shared");
        config.namespaces.pid = NamespaceMode::Pod;
        config.namespaces.network = NamespaceMode::Node;
        let handle = daemon.run(&config).await;
        let pid = handle.view().namespaces.pid.clone().unwrap();
        let enter = format!("--pid={}", pid.display());
        let seen = run(
            "nsenter",
            &[
                &enter,
                "unshare",
                "--mount-proc",
                "ps",
                "-A",
                "-o",
                "pid=,comm=",
            ],
        );
        let init = seen.lines().map(str::trim).find(|l| l.starts_with("1 "));
        assert_eq!(init, Some("1 sleep"), "{seen}");
        daemon.stop_and_remove(handle.id()).await;
        assert_eq!(world.left(), [""; 0]);

        config.metadata.attempt = 1;
        let handle = daemon.run(&config).await;
        let group = format!("{}/init-{}", handle.view().cgroup_parent, handle.id());
        let group = longshore::cgroup::CgroupPath::new(&group).unwrap();
        longshore::cgroup::Hierarchies::detect()
            .unwrap()
            .kill(&group)
            .unwrap();
        let mut views = handle.subscribe();
        let lost = views.wait_for(|v| !v.is_ready());
        let view = tokio::time::timeout(std::time::Duration::from_secs(10), lost).await;
        let info = view.unwrap().unwrap().info();
        assert!(
            info["phase"]
                .as_str()
                .unwrap()
                .contains("init process of the pod has ended")
        );
        daemon.stop_and_remove(handle.id()).await;
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn kubelets_cgroup_stays_and_ours_goes() {
    in_a_node("cgroup parent", |world| async move {
        use longshore::cgroup::{CgroupPath, Hierarchies};
        let host = Hierarchies::detect().unwrap();
        let daemon = world.daemon().await;
        let kubelets = CgroupPath::new(&format!("/{}", world.instance())).unwrap();
        let pod_group = kubelets.child("pod1").unwrap();
        host.create(&kubelets).unwrap();
        let mut config = pod("grouped");
        config.namespaces.network = NamespaceMode::Node;
        config.cgroup_parent = pod_group.to_string();
        let handle = daemon.run(&config).await;
        assert_eq!(handle.view().cgroup_parent, pod_group.to_string());
        assert!(host.dirs(&pod_group).iter().all(|dir| dir.exists()));
        daemon.stop_and_remove(handle.id()).await;
        let exists = |path| host.dirs(path).iter().any(|dir| dir.exists());
        assert!(!exists(&pod_group), "made by us");
        assert!(exists(&kubelets), "not made by us");
        host.create(&pod_group).unwrap();
        let handle = daemon.run(&config).await;
        daemon.stop_and_remove(handle.id()).await;
        assert!(exists(&pod_group), "not made by us this time");
        host.remove(&kubelets).unwrap();
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}

#[test]
fn a_user_namespace_owns_the_others() {
    in_a_node("user namespace", |world| async move {
        let daemon = world.daemon().await;
        let mut config = pod("mapped");
        let map = IdMapping {
            host_id: 200_000,
            container_id: 0,
            length: 65_536,
        };
        config.namespaces.user = Some(UserNamespace { uid: map, gid: map });
        config
            .sysctls
            .insert("net.ipv4.ip_unprivileged_port_start".into(), "1000".into());
        let handle = daemon.run(&config).await;
        let view = handle.view();
        assert_eq!(view.ips.len(), 1);
        assert_eq!(in_pod(&handle, "hostname"), "mapped");
        let port = in_pod(&handle, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
        assert_eq!(port, "1000");
        // The pod's root may change what its user namespace owns, and no more.
        let user = format!(
            "--user={}",
            view.namespaces.user.as_ref().unwrap().display()
        );
        let as_root = [user.as_str(), "--setuid", "0", "--setgid", "0"].join(" ");
        let inside = format!(
            "nsenter {as_root} sh -c 'hostname renamed && ip link add br9 type bridge \
             && ip link del br9 && echo 13 >/proc/sys/fs/mqueue/msg_max'"
        );
        in_pod(&handle, &inside);
        assert_eq!(in_pod(&handle, "hostname"), "renamed");
        let outside = format!("nsenter {as_root} hostname escaped || echo refused");
        assert_eq!(run("sh", &["-c", &outside]).trim(), "refused");
        assert_eq!(std::fs::metadata(&view.files.shm).unwrap().uid(), 200_000);
        daemon.stop().await;
        let daemon = world.daemon().await;
        assert!(daemon.sandboxes.list()[0].is_ready(), "after a restart too");
        daemon.stop_and_remove(handle.id()).await;
        assert_eq!(world.left(), [""; 0]);
        daemon.stop().await;
    });
}
