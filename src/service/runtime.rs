//! CRI `RuntimeService`: each method converts, calls and renders.

use std::pin::Pin;

use futures_util::Stream;
use longshore_proto::cri::v1::runtime_service_server::RuntimeService;
use longshore_proto::cri::v1::*;
use tonic::{Request, Response, Status};

use super::convert::{BadRequest, container as containers, sandbox as pods};
use super::detach::detached;
use super::facts::Facts;
use super::status::not_yet;
use crate::base::tasks::Tasks;
use crate::container::{self, Containers};
use crate::sandbox::Sandboxes;

/// The answer of a streaming RPC.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The runtime half of the CRI.
#[derive(Debug)]
pub struct Runtime {
    /// What the node and the daemon are.
    pub facts: Facts,
    /// Pod sandboxes.
    pub sandboxes: Sandboxes,
    /// Containers.
    pub containers: Containers,
    /// Owns the calls.
    pub tasks: Tasks,
}

type Answer<T> = Result<Response<T>, Status>;

fn reply<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        reply(self.facts.version())
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Answer<RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or(BadRequest::Missing("config"))?;
        let config = pods::config(config, request.runtime_handler)?;
        let sandboxes = self.sandboxes.clone();
        let id = detached(&self.tasks, async move { Ok(sandboxes.run(config).await?) }).await?;
        reply(RunPodSandboxResponse {
            pod_sandbox_id: id.into(),
        })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let (containers, id) = (self.containers.clone(), request.into_inner().pod_sandbox_id);
        detached(
            &self.tasks,
            async move { Ok(containers.stop_pod(&id).await?) },
        )
        .await?;
        reply(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let (containers, id) = (self.containers.clone(), request.into_inner().pod_sandbox_id);
        detached(
            &self.tasks,
            async move { Ok(containers.remove_pod(&id).await?) },
        )
        .await?;
        reply(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let request = request.into_inner();
        let view = self.sandboxes.get(&request.pod_sandbox_id)?.view();
        reply(pods::status_reply(&view, request.verbose))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let filter = request.into_inner().filter;
        reply(ListPodSandboxResponse {
            items: pods::items(filter.as_ref(), &self.sandboxes.list()),
        })
    }

    type StreamPodSandboxesStream = Answers<StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        _: Request<StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        not_yet("StreamPodSandboxes")
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let (request, containers) = (request.into_inner(), self.containers.clone());
        let config = containers::config(request.config.ok_or(BadRequest::Missing("config"))?)?;
        let create = async move { Ok(containers.create(&request.pod_sandbox_id, config).await?) };
        let container_id = detached(&self.tasks, create).await?.into();
        reply(CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let (containers, id) = (self.containers.clone(), request.into_inner().container_id);
        detached(&self.tasks, async move { Ok(containers.start(&id).await?) }).await?;
        reply(StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Answer<StopContainerResponse> {
        let (request, containers) = (request.into_inner(), self.containers.clone());
        let grace = containers::seconds(request.timeout);
        let stop = async move { Ok(containers.stop(&request.container_id, grace).await?) };
        detached(&self.tasks, stop).await?;
        reply(StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        let (containers, id) = (self.containers.clone(), request.into_inner().container_id);
        detached(
            &self.tasks,
            async move { Ok(containers.remove(&id).await?) },
        )
        .await?;
        reply(RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter;
        let containers = containers::items(filter.as_ref(), &self.containers.list());
        reply(ListContainersResponse { containers })
    }

    type StreamContainersStream = Answers<StreamContainersResponse>;

    async fn stream_containers(
        &self,
        _: Request<StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        not_yet("StreamContainers")
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let request = request.into_inner();
        let view = self.containers.get(&request.container_id)?.view();
        let status = containers::status_reply(&view, request.verbose);
        reply(status.ok_or(container::LookupError::NotFound(request.container_id))?)
    }

    async fn update_container_resources(
        &self,
        _: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        not_yet("UpdateContainerResources")
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        self.containers
            .reopen_log(&request.into_inner().container_id)
            .await?;
        reply(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let timeout = containers::seconds(request.timeout);
        let ran = self
            .containers
            .exec_sync(&request.container_id, request.cmd, timeout)
            .await?;
        reply(containers::exec_reply(ran))
    }

    async fn exec(&self, _: Request<ExecRequest>) -> Answer<ExecResponse> {
        not_yet("Exec")
    }

    async fn attach(&self, _: Request<AttachRequest>) -> Answer<AttachResponse> {
        not_yet("Attach")
    }

    async fn port_forward(&self, _: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        not_yet("PortForward")
    }

    async fn container_stats(
        &self,
        _: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        not_yet("ContainerStats")
    }

    async fn list_container_stats(
        &self,
        _: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        not_yet("ListContainerStats")
    }

    type StreamContainerStatsStream = Answers<StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        _: Request<StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        not_yet("StreamContainerStats")
    }

    async fn pod_sandbox_stats(
        &self,
        _: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        not_yet("PodSandboxStats")
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        not_yet("ListPodSandboxStats")
    }

    type StreamPodSandboxStatsStream = Answers<StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        _: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        not_yet("StreamPodSandboxStats")
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        self.facts
            .note_pod_cidr(request.into_inner().runtime_config);
        reply(UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        reply(self.facts.status(request.into_inner().verbose).await)
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        not_yet("CheckpointContainer")
    }

    async fn checkpoint_pod(
        &self,
        _: Request<CheckpointPodRequest>,
    ) -> Answer<CheckpointPodResponse> {
        not_yet("CheckpointPod")
    }

    async fn restore_pod(&self, _: Request<RestorePodRequest>) -> Answer<RestorePodResponse> {
        not_yet("RestorePod")
    }

    type GetContainerEventsStream = Answers<ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        not_yet("GetContainerEvents")
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        not_yet("ListMetricDescriptors")
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        not_yet("ListPodSandboxMetrics")
    }

    type StreamPodSandboxMetricsStream = Answers<StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        not_yet("StreamPodSandboxMetrics")
    }

    async fn runtime_config(
        &self,
        _: Request<RuntimeConfigRequest>,
    ) -> Answer<RuntimeConfigResponse> {
        reply(self.facts.runtime_config())
    }

    async fn update_pod_sandbox_resources(
        &self,
        _: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        not_yet("UpdatePodSandboxResources")
    }
}
