use longshore_proto::cri::v1 as cri;
use tonic::Code;

use super::setup::{shell, until, with_pod};

#[tokio::test]
async fn reopen_makes_a_new_file_only_while_it_runs() {
    with_pod(
        "reopen_makes_a_new_file_only_while_it_runs",
        async |world| {
            let container = shell("c", "while :; do echo tick; sleep 0.02; done");
            let id = world.run(&container).await;
            let log = container.log_file(&world.pod);
            let size =
                |path: &std::path::Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
            until(|| async { (size(&log) > 0).then_some(()) }).await;
            let rotated = log.with_extension("1");
            std::fs::rename(&log, &rotated).unwrap();
            let request = cri::ReopenContainerLogRequest {
                container_id: id.clone(),
            };
            let mut runtime = world.daemon.runtime();
            runtime.reopen_container_log(request.clone()).await.unwrap();
            assert!(log.exists());
            let old = size(&rotated);
            until(|| async { (size(&log) > 200).then_some(()) }).await;
            assert_eq!(size(&rotated), old);

            world.client.stop(&id, 0).await.unwrap();
            std::fs::remove_file(&log).unwrap();
            let refused = runtime.reopen_container_log(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(!log.exists());
        },
    )
    .await;
}
