//! CRI clients over a unix socket, and the calls that most tests make.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hyper_util::rt::TokioIo;
use longshore_proto::admin::v1::ImportImageRequest;
use longshore_proto::admin::v1::admin_client::AdminClient;
use longshore_proto::cri::v1 as cri;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::daemon::{ImageClient, RuntimeClient};
use crate::image::Image;
use crate::pods::{Container, Pod};

/// A channel that connects at its first call, and again after the server went away.
#[must_use]
pub fn channel(socket: &Path) -> Channel {
    let socket: PathBuf = socket.to_path_buf();
    // The address only fills the request's authority; the connector decides.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(
        move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        },
    ))
}

/// The services of one socket, with the sequences of calls that kubelet makes. Futures are boxed: the
/// requests are large, and a test's own future would hold each of them.
#[derive(Debug, Clone)]
pub struct Client {
    /// The runtime service.
    pub runtime: RuntimeClient,
    /// The image service.
    pub image: ImageClient,
    /// longshore's own service.
    pub admin: AdminClient<Channel>,
}

impl Client {
    /// A client of any CRI server.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        let channel = channel(socket);
        Self {
            runtime: RuntimeClient::new(channel.clone()).max_decoding_message_size(64 << 20),
            image: ImageClient::new(channel.clone()).max_decoding_message_size(64 << 20),
            admin: AdminClient::new(channel),
        }
    }

    /// PullImage; hands back the image's reference, which is its id.
    ///
    /// # Errors
    /// As the RPC.
    pub async fn pull(&mut self, reference: &str) -> Result<String> {
        let image = cri::ImageSpec {
            image: reference.to_owned(),
            ..Default::default()
        };
        let request = cri::PullImageRequest {
            image: Some(image),
            ..Default::default()
        };
        let answer = Box::pin(self.image.pull_image(request)).await;
        Ok(answer
            .with_context(|| format!("pull {reference}"))?
            .into_inner()
            .image_ref)
    }

    /// Imports an image of the kit under `name`; hands back its id.
    ///
    /// # Errors
    /// As the RPC.
    pub async fn import(&mut self, image: &Image, name: &str) -> Result<String> {
        let request = ImportImageRequest {
            path: image.layout().to_string_lossy().into_owned(),
            names: vec![name.to_owned()],
        };
        let answer = self.admin.import_image(request).await;
        let answer = answer.with_context(|| format!("import {name}"))?;
        let first = answer.into_inner().images.into_iter().next();
        Ok(first.context("nothing was imported")?.id)
    }

    /// RunPodSandbox; hands back the id.
    ///
    /// # Errors
    /// As the RPC.
    pub async fn run_pod(&mut self, pod: &Pod) -> Result<String> {
        let runtime_handler = pod.handler.clone();
        let request = cri::RunPodSandboxRequest {
            config: Some(pod.config.clone()),
            runtime_handler,
        };
        let answer = Box::pin(self.runtime.run_pod_sandbox(request))
            .await
            .context("RunPodSandbox")?;
        Ok(answer.into_inner().pod_sandbox_id)
    }

    /// CreateContainer; hands back the id. As the kubelet does, a container that says nothing of its
    /// namespaces gets the pod's.
    ///
    /// # Errors
    /// As the RPC.
    pub async fn create(&mut self, pod_id: &str, pod: &Pod, of: &Container) -> Result<String> {
        let mut of = of.clone();
        if of.security().namespace_options.is_none() {
            of.security().namespace_options = pod.namespace_options();
        }
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod_id.to_owned(),
            config: Some(of.config),
            sandbox_config: Some(pod.config.clone()),
        };
        let answer = Box::pin(self.runtime.create_container(request))
            .await
            .context("CreateContainer")?;
        Ok(answer.into_inner().container_id)
    }

    /// StartContainer.
    ///
    /// # Errors
    /// As the RPC.
    pub async fn start(&mut self, container_id: &str) -> Result<()> {
        let request = cri::StartContainerRequest {
            container_id: container_id.to_owned(),
        };
        Box::pin(self.runtime.start_container(request))
            .await
            .context("StartContainer")?;
        Ok(())
    }

    /// CreateContainer and StartContainer.
    ///
    /// # Errors
    /// As the RPCs.
    pub async fn run(&mut self, pod_id: &str, pod: &Pod, of: &Container) -> Result<String> {
        let id = self.create(pod_id, pod, of).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// ContainerStatus.
    ///
    /// # Errors
    /// As the RPC.
    pub async fn status(&mut self, container_id: &str) -> Result<cri::ContainerStatus> {
        let container_id = container_id.to_owned();
        let request = cri::ContainerStatusRequest {
            container_id,
            verbose: false,
        };
        let answer = Box::pin(self.runtime.container_status(request))
            .await
            .context("ContainerStatus")?;
        answer
            .into_inner()
            .status
            .context("ContainerStatus without a status")
    }

    /// PodSandboxStatus.
    ///
    /// # Errors
    /// As the RPC.
    pub async fn pod_status(&mut self, pod_id: &str) -> Result<cri::PodSandboxStatus> {
        let pod_sandbox_id = pod_id.to_owned();
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id,
            verbose: false,
        };
        let answer = Box::pin(self.runtime.pod_sandbox_status(request))
            .await
            .context("PodSandboxStatus")?;
        answer
            .into_inner()
            .status
            .context("PodSandboxStatus without a status")
    }

    /// The pod's first address, empty where it has none of its own.
    ///
    /// # Errors
    /// As the RPC.
    pub async fn pod_ip(&mut self, pod_id: &str) -> Result<String> {
        Ok(self
            .pod_status(pod_id)
            .await?
            .network
            .unwrap_or_default()
            .ip)
    }

    /// Waits until the container has exited and hands back its status.
    ///
    /// # Errors
    /// When `limit` passes first.
    pub async fn wait_exit(&mut self, id: &str, limit: Duration) -> Result<cri::ContainerStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.status(id).await?;
            if status.state() == cri::ContainerState::ContainerExited {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("container {id} has not exited after {limit:?}: {status:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// ExecSync with a timeout of 30 s.
    ///
    /// # Errors
    /// As the RPC; a command that fails is an answer, not an error.
    pub async fn exec(&mut self, id: &str, command: &[&str]) -> Result<Output> {
        let cmd = command.iter().map(|word| (*word).to_owned()).collect();
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd,
            timeout: 30,
        };
        let answer = Box::pin(self.runtime.exec_sync(request))
            .await
            .context("ExecSync")?
            .into_inner();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&answer.stdout), text(&answer.stderr));
        Ok(Output {
            code: answer.exit_code,
            stdout,
            stderr,
        })
    }

    /// StopContainer with this grace.
    ///
    /// # Errors
    /// As the RPC.
    pub async fn stop(&mut self, container_id: &str, grace_seconds: i64) -> Result<()> {
        let container_id = container_id.to_owned();
        let request = cri::StopContainerRequest {
            container_id,
            timeout: grace_seconds,
        };
        Box::pin(self.runtime.stop_container(request))
            .await
            .context("StopContainer")?;
        Ok(())
    }

    /// RemoveContainer.
    ///
    /// # Errors
    /// As the RPC.
    pub async fn remove(&mut self, container_id: &str) -> Result<()> {
        let request = cri::RemoveContainerRequest {
            container_id: container_id.to_owned(),
        };
        Box::pin(self.runtime.remove_container(request))
            .await
            .context("RemoveContainer")?;
        Ok(())
    }

    /// StopPodSandbox and RemovePodSandbox, which take the pod's containers along.
    ///
    /// # Errors
    /// As the RPCs.
    pub async fn remove_pod(&mut self, pod_id: &str) -> Result<()> {
        let pod_sandbox_id = pod_id.to_owned();
        let stop = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        };
        Box::pin(self.runtime.stop_pod_sandbox(stop))
            .await
            .context("StopPodSandbox")?;
        let remove = cri::RemovePodSandboxRequest { pod_sandbox_id };
        Box::pin(self.runtime.remove_pod_sandbox(remove))
            .await
            .context("RemovePodSandbox")?;
        Ok(())
    }

    /// Stops and removes every pod there is.
    ///
    /// # Errors
    /// The first one, after all were tried.
    pub async fn remove_all_pods(&mut self) -> Result<()> {
        let request = cri::ListPodSandboxRequest { filter: None };
        let list = Box::pin(self.runtime.list_pod_sandbox(request))
            .await
            .context("ListPodSandbox")?;
        let mut result = Ok(());
        for pod in list.into_inner().items {
            result = result.and(self.remove_pod(&pod.id).await);
        }
        result
    }
}

/// What an exec'd command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}
