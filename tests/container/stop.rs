use std::time::{Duration, Instant};

use longshore_proto::cri::v1 as cri;

use super::setup::{LIMIT, shell, until, with_pod};

/// Says when its trap is set, so that no signal comes before it.
const STUBBORN: &str = "trap 'echo got TERM' TERM; echo ready; while :; do sleep 0.1; done";

async fn ready(world: &super::setup::World<'_>, container: &longshore_kit::pods::Container) {
    let log = || async { container.logged(&world.pod, "stdout").ok() };
    until(|| async { log().await.filter(|text| text.contains("ready")) }).await;
}

#[tokio::test]
async fn a_signal_then_the_whole_cgroup() {
    with_pod("a_signal_then_the_whole_cgroup", async |world| {
        let stubborn = shell("stubborn", STUBBORN);
        let id = world.run(&stubborn).await;
        ready(world, &stubborn).await;
        let begun = Instant::now();
        world.client.stop(&id, 1).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1));
        let status = world.client.status(&id).await.unwrap();
        assert_eq!(status.exit_code, 137);
        let log = stubborn.logged(&world.pod, "stdout").unwrap();
        assert_eq!(log.matches("got TERM").count(), 1, "{log}");
        world.client.stop(&id, 1).await.unwrap();

        let polite = shell(
            "polite",
            "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done",
        );
        let id = world.run(&polite).await;
        ready(world, &polite).await;
        world.client.stop(&id, 60).await.unwrap();
        assert_eq!(world.client.status(&id).await.unwrap().exit_code, 3);

        // Nobody to hear a signal yet.
        let id = world.create(&shell("created", "true")).await;
        world.client.stop(&id, 60).await.unwrap();
        let status = world.client.status(&id).await.unwrap();
        assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    })
    .await;
}

#[tokio::test]
async fn a_shorter_stop_shortens_and_a_vanished_client_changes_nothing() {
    let name = "a_shorter_stop_shortens_and_a_vanished_client_changes_nothing";
    with_pod(name, async |world| {
        let stubborn = shell("stubborn", STUBBORN);
        let id = world.run(&stubborn).await;
        ready(world, &stubborn).await;
        let begun = Instant::now();
        let vanishes = world.client.stop(&id, 600);
        let gone = tokio::time::timeout(Duration::from_millis(200), vanishes).await;
        assert!(gone.is_err());
        // Commands run within the grace.
        let said = world
            .client
            .exec(&id, &["echo", "still here"])
            .await
            .unwrap();
        assert_eq!(said.stdout, "still here\n");
        world.client.stop(&id, 1).await.unwrap();
        assert!(begun.elapsed() < LIMIT);
        let log = stubborn.logged(&world.pod, "stdout").unwrap();
        assert_eq!(log.matches("got TERM").count(), 1, "{log}");
    })
    .await;
}

#[tokio::test]
async fn zero_kills_at_once_and_removal_needs_no_stop() {
    with_pod(
        "zero_kills_at_once_and_removal_needs_no_stop",
        async |world| {
            let stubborn = shell("stubborn", STUBBORN);
            let id = world.run(&stubborn).await;
            ready(world, &stubborn).await;
            world.client.stop(&id, 0).await.unwrap();
            assert_eq!(world.client.status(&id).await.unwrap().exit_code, 137);
            let log = stubborn.logged(&world.pod, "stdout").unwrap();
            assert!(!log.contains("got TERM"), "{log}");
            let id = world
                .run(&shell("running", "sleep 1000 & sleep 1000"))
                .await;
            world.client.remove(&id).await.unwrap();
            assert!(world.client.status(&id).await.is_err());
        },
    )
    .await;
}
