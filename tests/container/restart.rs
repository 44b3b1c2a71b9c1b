use std::time::Duration;

use longshore_proto::cri::v1 as cri;

use super::setup::{LIMIT, shell, with_pod};

/// Two of them end while nobody watches. `tests/recovery` does it with many pods.
const CONTAINERS: usize = 4;

#[tokio::test]
async fn containers_survive_the_daemon() {
    with_pod("containers_survive_the_daemon", async |world| {
        let mut ids = Vec::new();
        for number in 0..CONTAINERS {
            let script = match number {
                0 => "sleep 1; exit 5",
                1 => "sleep 1",
                _ => "trap 'exit 6' TERM; while :; do sleep 0.05; done",
            };
            ids.push(world.run(&shell(&format!("c{number}"), script)).await);
        }
        world.daemon.kill9().unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        world.daemon.restart().await.unwrap();
        world.client = longshore_kit::cri::Client::new(&world.daemon.socket());
        for (number, id) in ids.iter().enumerate() {
            let status = world.client.status(id).await.unwrap();
            let told = (status.exit_code, status.reason.as_str());
            match number {
                0 => assert_eq!(told, (5, "Error")),
                1 => assert_eq!(told, (0, "Completed")),
                _ => assert_eq!(status.state(), cri::ContainerState::ContainerRunning),
            }
        }
        let last = ids.last().unwrap();
        let said = world.client.exec(last, &["echo", "hi"]).await.unwrap();
        assert_eq!(said.stdout, "hi\n");
        world.client.stop(last, 30).await.unwrap();
        assert_eq!(world.client.status(last).await.unwrap().exit_code, 6);
    })
    .await;
}

#[tokio::test]
async fn a_killed_shim_takes_its_container_along() {
    with_pod("a_killed_shim_takes_its_container_along", async |world| {
        let id = world.run(&shell("c", "sleep 1000")).await;
        let shims = super::setup::processes(&["--id", &id]);
        assert_eq!(shims.len(), 1, "{shims:?}");
        for shim in shims {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(shim),
                nix::sys::signal::Signal::SIGKILL,
            )
            .unwrap();
        }
        let status = world.client.wait_exit(&id, LIMIT).await.unwrap();
        assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    })
    .await;
}
