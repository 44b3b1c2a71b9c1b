use std::time::{Duration, Instant};

use longshore_proto::cri::v1 as cri;
use tonic::Code;

use super::setup::{World, shell, with_pod};

async fn exec(
    world: &World<'_>,
    id: &str,
    script: &str,
    timeout: i64,
) -> Result<cri::ExecSyncResponse, tonic::Status> {
    let request = cri::ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        timeout,
    };
    let answer = world.daemon.runtime().exec_sync(request).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn output_codes_and_refusals() {
    with_pod("output_codes_and_refusals", async |world| {
        let id = world.run(&shell("c", "sleep 1000")).await;
        let answer = exec(world, &id, "printf 'a\\000b'; echo err >&2; exit 9", 30).await;
        let answer = answer.unwrap();
        assert_eq!(answer.exit_code, 9);
        assert_eq!(
            (&*answer.stdout, &*answer.stderr),
            (&b"a\0b"[..], &b"err\n"[..])
        );

        let empty = cri::ExecSyncRequest {
            container_id: id.clone(),
            cmd: Vec::new(),
            timeout: 0,
        };
        let refused = world.daemon.runtime().exec_sync(empty).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let unknown = exec(world, &"f".repeat(64), "true", 1).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        world.client.stop(&id, 0).await.unwrap();
        let stopped = exec(world, &id, "true", 1).await.unwrap_err();
        assert_eq!(stopped.code(), Code::FailedPrecondition);
    })
    .await;
}

#[tokio::test]
async fn more_than_16_mib_is_dropped_and_the_command_goes_on() {
    with_pod(
        "more_than_16_mib_is_dropped_and_the_command_goes_on",
        async |world| {
            let id = world.run(&shell("c", "sleep 1000")).await;
            let script = "head -c 20000000 /dev/zero; echo done >&2; exit 4";
            let answer = exec(world, &id, script, 60).await.unwrap();
            assert_eq!(answer.exit_code, 4);
            assert_eq!(answer.stdout.len(), 16 << 20);
            assert_eq!(answer.stderr, b"done\n");
        },
    )
    .await;
}

#[tokio::test]
async fn a_timeout_kills_the_command_and_not_the_container() {
    with_pod(
        "a_timeout_kills_the_command_and_not_the_container",
        async |world| {
            let id = world.run(&shell("c", "sleep 1000")).await;
            let begun = Instant::now();
            let late = exec(world, &id, "sleep 777", 1).await.unwrap_err();
            assert_eq!(late.code(), Code::DeadlineExceeded);
            assert!(begun.elapsed() < Duration::from_secs(15));
            let status = world.client.status(&id).await.unwrap();
            assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
            let left = exec(world, &id, "ps | grep -c '[s]leep 777'", 10)
                .await
                .unwrap();
            assert_eq!(left.stdout, b"0\n");
        },
    )
    .await;
}

#[tokio::test]
async fn a_grandchild_with_the_pipe_holds_nothing_up() {
    with_pod(
        "a_grandchild_with_the_pipe_holds_nothing_up",
        async |world| {
            let id = world.run(&shell("c", "sleep 1000")).await;
            let begun = Instant::now();
            let answer = exec(world, &id, "sleep 500 & echo started", 60)
                .await
                .unwrap();
            assert_eq!(answer.exit_code, 0);
            assert_eq!(answer.stdout, b"started\n");
            assert!(begun.elapsed() < Duration::from_secs(30));
        },
    )
    .await;
}
