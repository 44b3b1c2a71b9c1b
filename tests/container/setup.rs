//! A daemon with a pod in a node.

use std::future::Future;
use std::time::Duration;

use longshore_kit::audit::Audit;
use longshore_kit::cri::Client;
use longshore_kit::image::{Image, Recipe};
use longshore_kit::pods::{Container, Pod};
use longshore_kit::{Daemon, Node, paths, skip};
use tonic::Code;

/// How long anything may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const IMAGE: &str = "longshore.test/busybox:1";

/// What a test has.
pub(crate) struct World<'a> {
    pub(crate) node: &'a Node,
    pub(crate) daemon: Daemon<'a>,
    pub(crate) client: Client,
    pub(crate) pod: Pod,
    pub(crate) pod_id: String,
}

impl World<'_> {
    pub(crate) async fn run(&mut self, container: &Container) -> String {
        self.client
            .run(&self.pod_id, &self.pod, container)
            .await
            .unwrap()
    }

    pub(crate) async fn create(&mut self, container: &Container) -> String {
        self.client
            .create(&self.pod_id, &self.pod, container)
            .await
            .unwrap()
    }

    /// The code of a create that must fail.
    pub(crate) async fn refused(&mut self, container: &Container) -> Code {
        let created = self.client.create(&self.pod_id, &self.pod, container).await;
        code(&created.unwrap_err())
    }
}

/// The gRPC code of a client's error.
pub(crate) fn code(error: &anyhow::Error) -> Code {
    error.downcast_ref::<tonic::Status>().unwrap().code()
}

/// Processes whose command line has all of `words`.
pub(crate) fn processes(words: &[&str]) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let pid = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let command: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        if let Some(pid) = pid
            && words.iter().all(|word| command.contains(&word.as_bytes()))
        {
            found.push(pid);
        }
    }
    found
}

/// A shell script in a container.
pub(crate) fn shell(name: &str, script: &str) -> Container {
    Container::new(name, IMAGE).shell(script)
}

/// Runs `test` with a host-network pod; then everything is removed and nothing
/// may be left.
pub(crate) async fn with_pod<F>(name: &str, test: F)
where
    F: AsyncFnOnce(&mut World<'_>),
{
    let pod = |node: &Node| Pod::new(node, "pod").unwrap().host_network();
    with(name, pod, test).await;
}

/// The same with a pod of one's own.
pub(crate) async fn with<F>(name: &str, pod: impl FnOnce(&Node) -> Pod, test: F)
where
    F: AsyncFnOnce(&mut World<'_>),
{
    if !nix::unistd::geteuid().is_root() {
        skip(name, "containers need root");
        return;
    }
    if let Err(error) = paths::shim().and(paths::daemon()) {
        skip(name, &format!("{error:#}"));
        return;
    }
    let node = Node::new().unwrap();
    let daemon = Daemon::start(&node, "[cni]\nfallback = 'bridge'")
        .await
        .unwrap();
    let mut client = Client::new(&daemon.socket());
    let image = Image::ensure(Recipe::Busybox).unwrap();
    client.import(&image, IMAGE).await.unwrap();
    let pod = pod(&node);
    let audit = Audit::before(&node).unwrap();
    let pod_id = client.run_pod(&pod).await.unwrap();
    let mut world = World {
        node: &node,
        daemon,
        client,
        pod,
        pod_id,
    };
    test(&mut world).await;
    world.client.remove_all_pods().await.unwrap();
    // The daemon itself may be another one than before.
    let daemon = world.daemon.pid().unwrap();
    audit.allow(&format!("process: {daemon} ")).assert_clean();
}

/// Waits until `found` yields something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(mut found: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(value) = found().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "it never came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
