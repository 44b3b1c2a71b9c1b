use longshore_proto::cri::v1 as cri;
use tonic::Code;

use super::setup::{LIMIT, code, shell, with, with_pod};
use longshore_kit::pods::{Container, Pod};

#[tokio::test]
async fn runs_and_tells_how_it_ended() {
    with_pod("runs_and_tells_how_it_ended", async |world| {
        let out = shell("ok", "echo out; echo err >&2; pwd");
        let id = world.create(&out).await;
        let status = world.client.status(&id).await.unwrap();
        assert_eq!(status.state(), cri::ContainerState::ContainerCreated);
        assert_eq!((status.started_at, status.finished_at), (0, 0));
        assert!(status.created_at > 0);
        world.client.start(&id).await.unwrap();
        let status = world.client.wait_exit(&id, LIMIT).await.unwrap();
        assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
        assert!(status.created_at <= status.started_at);
        assert!(status.started_at <= status.finished_at);
        assert_eq!(out.logged(&world.pod, "stdout").unwrap(), "out\n/\n");
        assert_eq!(out.logged(&world.pod, "stderr").unwrap(), "err\n");
        assert_eq!(
            status.log_path,
            out.log_file(&world.pod).display().to_string()
        );
        // Started twice.
        let again = world.client.start(&id).await.unwrap_err();
        assert_eq!(code(&again), Code::FailedPrecondition);

        let id = world.run(&shell("seven", "exit 7")).await;
        let status = world.client.wait_exit(&id, LIMIT).await.unwrap();
        assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
        // PID 1 of a namespace is spared by signals from within.
        let mut signalled = shell("signal", "kill -SEGV $$");
        signalled.security().namespace_options = Some(cri::NamespaceOption {
            pid: cri::NamespaceMode::Node as i32,
            network: cri::NamespaceMode::Node as i32,
            ..Default::default()
        });
        let id = world.run(&signalled).await;
        let status = world.client.wait_exit(&id, LIMIT).await.unwrap();
        assert_eq!((status.exit_code, status.reason.as_str()), (139, "Error"));
    })
    .await;
}

#[tokio::test]
async fn a_limit_that_is_exceeded_is_oomkilled() {
    with_pod("a_limit_that_is_exceeded_is_oomkilled", async |world| {
        let mut hungry = shell("hungry", "exec tail -c 512m /dev/zero");
        hungry.resources().memory_limit_in_bytes = 16 << 20;
        let id = world.run(&hungry).await;
        let status = world.client.wait_exit(&id, LIMIT).await.unwrap();
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (137, "OOMKilled")
        );
    })
    .await;
}

#[tokio::test]
async fn a_program_that_is_not_there() {
    with_pod("a_program_that_is_not_there", async |world| {
        let absent = Container::new("absent", super::setup::IMAGE).command(&["/no/such/program"]);
        // Noticed when the container is made or when it is started; both are
        // errors of the RPC, and neither leaves anything half-made.
        match world
            .client
            .create(&world.pod_id, &world.pod, &absent)
            .await
        {
            Err(error) => assert!(
                format!("{error:#}").contains("/no/such/program"),
                "{error:#}"
            ),
            Ok(id) => {
                let error = world.client.start(&id).await.unwrap_err();
                assert!(!format!("{error:#}").is_empty());
                let status = world.client.status(&id).await.unwrap();
                let told = (status.exit_code, status.reason.as_str());
                assert_eq!(told, (128, "StartError"));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn names_ids_and_refusals() {
    with_pod("names_ids_and_refusals", async |world| {
        let sleeper = shell("sleeper", "sleep 1000");
        let id = world.run(&sleeper).await;
        assert_eq!(world.create(&sleeper).await, id);
        let other = shell("sleeper", "sleep 1");
        assert_eq!(world.refused(&other).await, Code::AlreadyExists);
        let next = world.create(&other.clone().attempt(1)).await;
        assert_ne!(next, id);
        let prefix = id.split_at(20).0;
        assert_eq!(world.client.status(prefix).await.unwrap().id, id);
        let absent = Container::new("absent", "longshore.test/absent:1").command(&["x"]);
        assert_eq!(world.refused(&absent).await, Code::NotFound);
        let mut group = shell("group", "true");
        group.security().run_as_group = Some(cri::Int64Value { value: 5 });
        assert_eq!(world.refused(&group).await, Code::InvalidArgument);
        let mut unconfined = shell("seccomp", "true");
        unconfined.security().seccomp = Some(cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::RuntimeDefault as i32,
            localhost_ref: String::new(),
        });
        assert_eq!(world.refused(&unconfined).await, Code::FailedPrecondition);

        world.client.remove(&id).await.unwrap();
        world.client.remove(&id).await.unwrap();
        world.client.stop(&id, 1).await.unwrap();
        let gone = world.client.status(&id).await.unwrap_err();
        assert_eq!(code(&gone), Code::NotFound);
    })
    .await;
}

#[tokio::test]
async fn what_is_inside_is_as_asked() {
    with_pod("what_is_inside_is_as_asked", async |world| {
        let volume = world.node.dir().join("volume/made");
        let script = "id -u; id -g; id -G; echo $A; cat /v/file; touch /v/new 2>&1 | wc -l; \
            mount | grep -c ' /etc/hosts '; touch /sys/fs/cgroup/memory/x 2>/dev/null; echo $?; \
            grep -E '^(CapEff|NoNewPrivs)' /proc/self/status";
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("file"), "content\n").unwrap();
        let mut container = shell("inside", script)
            .env("A", "b c")
            .mount(&volume, "/v", true);
        container.security().run_as_user = Some(cri::Int64Value { value: 1000 });
        container.security().run_as_group = Some(cri::Int64Value { value: 1001 });
        container.security().supplemental_groups = vec![7];
        container.security().no_new_privs = true;
        let id = world.run(&container).await;
        let status = world.client.wait_exit(&id, LIMIT).await.unwrap();
        let out = container.logged(&world.pod, "stdout").unwrap();
        let wanted = "1000\n1001\n1001 7\nb c\ncontent\n1\n1\n1\n\
            CapEff:\t0000000000000000\nNoNewPrivs:\t1\n";
        assert_eq!(out, wanted, "{status:?}");
        let mount = status.mounts.first().unwrap();
        assert_eq!(
            (mount.container_path.as_str(), mount.readonly),
            ("/v", true)
        );
        let user = status.user.unwrap().linux.unwrap();
        assert_eq!((user.uid, user.gid), (1000, 1001));
        assert_eq!(user.supplemental_groups, [1001, 7]);
    })
    .await;
}

#[tokio::test]
async fn a_pod_of_its_own_network_runs_containers() {
    let pod = |node: &longshore_kit::Node| Pod::new(node, "own").unwrap();
    with(
        "a_pod_of_its_own_network_runs_containers",
        pod,
        async |world| {
            let container = shell(
                "c",
                "hostname; ls /sys/class/net | grep -c eth0; ls /proc | grep -c '^1$'",
            );
            let id = world.run(&container).await;
            let status = world.client.wait_exit(&id, LIMIT).await.unwrap();
            let out = container.logged(&world.pod, "stdout").unwrap();
            assert!(out.ends_with("1\n1\n"), "{out} {status:?}");
        },
    )
    .await;
}

#[tokio::test]
async fn containers_of_a_shared_pid_namespace_see_each_other() {
    let name = "containers_of_a_shared_pid_namespace_see_each_other";
    let pod = |node: &longshore_kit::Node| {
        let pod = Pod::new(node, "shared").unwrap();
        pod.host_network().shared_pid()
    };
    with(name, pod, async |world| {
        let mut first = shell("first", "sleep 4321 & sleep 4321");
        let mut second = shell("second", "sleep 1000");
        for container in [&mut first, &mut second] {
            container.security().namespace_options = Some(cri::NamespaceOption {
                pid: cri::NamespaceMode::Pod as i32,
                network: cri::NamespaceMode::Node as i32,
                ..Default::default()
            });
        }
        let first = world.run(&first).await;
        let second = world.run(&second).await;
        let count = "ps | grep -c '[s]leep 4321'";
        let seen = async |world: &mut super::setup::World<'_>| {
            let command = ["/bin/sh", "-c", count];
            world.client.exec(&second, &command).await.unwrap().stdout
        };
        assert_eq!(seen(world).await, "2\n");
        // What outlives its PID 1 is killed with its cgroup.
        world.client.stop(&first, 0).await.unwrap();
        assert_eq!(seen(world).await, "0\n");
        let status = world.client.status(&first).await.unwrap();
        assert_eq!(status.exit_code, 137);
    })
    .await;
}
