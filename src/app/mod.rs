//! The composition root: mechanisms, then domain, then services.
//!
//! Nothing is served before recovery is done, so a client never sees half of
//! what lives.

mod lock;
mod socket;
mod state_dir;

use std::error::Error;
use std::sync::Arc;

use longshore_proto::admin::v1::admin_server::AdminServer;
use longshore_proto::cri::v1::image_service_server::ImageServiceServer;
use longshore_proto::cri::v1::runtime_service_server::RuntimeServiceServer;
use longshore_snapshotter::{OverlayConfig, OverlaySnapshotter, Snapshotter};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::base::boot;
use crate::base::tasks::Tasks;
use crate::cgroup::Hierarchies;
use crate::cni::{Cni, CniConfig, FallbackBridge};
use crate::config::{Config, Paths};
use crate::image::{Images, ImagesConfig};
use crate::sandbox::{HostFiles, Sandboxes, SandboxesConfig};
use crate::service::admin::AdminRpcs;
use crate::service::facts::Facts;
use crate::service::image::ImageRpcs;
use crate::service::runtime::Runtime;
use crate::shutdown::Signals;

/// The largest message that is read, in bytes; kubelet's own limit.
const MESSAGE_LIMIT: usize = 16 << 20;

/// The daemon, ready to serve.
#[derive(Debug)]
pub struct App {
    config: Config,
    tasks: Tasks,
    cni: Cni,
    images: Images,
    sandboxes: Sandboxes,
    _lock: lock::RootLock,
}

impl App {
    /// Takes the root, makes the directories, recovers what lives.
    ///
    /// # Errors
    /// What makes it impossible to run at all; a single bad object doesn't.
    pub async fn start(config: Config) -> Result<Self, Box<dyn Error>> {
        let paths = &config.paths;
        state_dir::make(&[(paths.root().to_owned(), 0o711)])?;
        let lock = lock::RootLock::take(&paths.lock())?;
        state_dir::prepare(paths.state())?;
        state_dir::make(&directories(paths))?;
        let tasks = Tasks::new();
        let cni = Cni::open(cni_config(&config), &tasks)?;
        let images = open_images(&config, &tasks)?;
        let sandboxes = Sandboxes::open(SandboxesConfig {
            instance: config.instance.clone(),
            boot_id: boot::boot_id()?,
            records: paths.sandboxes(),
            namespaces: paths.namespaces(),
            shm: paths.shm(),
            netns: paths.netns().to_owned(),
            cni: cni.clone(),
            cgroups: Hierarchies::detect()?,
            handlers: config.runtimes.keys().cloned().collect(),
            inits: None,
            host: HostFiles::default(),
            tasks: tasks.clone(),
        })
        .await?;
        Ok(Self {
            config,
            tasks,
            cni,
            images,
            sandboxes,
            _lock: lock,
        })
    }

    fn runtime(&self) -> Runtime {
        Runtime {
            facts: Facts {
                config: self.config.clone(),
                cni: self.cni.clone(),
            },
            sandboxes: self.sandboxes.clone(),
            tasks: self.tasks.clone(),
        }
    }

    /// Serves until a signal ends it. Containers live on.
    ///
    /// # Errors
    /// When the socket can't be bound or the server fails.
    pub async fn serve(self, signals: Signals) -> Result<(), Box<dyn Error>> {
        let socket = self.config.paths.socket();
        let listener = socket::bind(socket)?;
        let runtime = RuntimeServiceServer::new(self.runtime())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(usize::MAX);
        let images = ImageServiceServer::new(ImageRpcs {
            images: self.images.clone(),
        })
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(usize::MAX);
        let admin = AdminServer::new(AdminRpcs {
            images: self.images.clone(),
        });
        tracing::info!(socket = %socket.display(), instance = %self.config.instance, "serving");
        tell(&[sd_notify::NotifyState::Ready]);
        let stop = self.tasks.stopping();
        self.tasks.spawn(async move {
            signals.stop_requested().await;
            tell(&[sd_notify::NotifyState::Stopping]);
            stop.cancel();
        });
        let stopped = self.tasks.stopping();
        Server::builder()
            .add_service(runtime)
            .add_service(images)
            .add_service(admin)
            .serve_with_incoming_shutdown(
                UnixListenerStream::new(listener),
                stopped.cancelled_owned(),
            )
            .await?;
        self.tasks.shut_down().await;
        Ok(())
    }
}

/// Layers and the images made of them. Garbage is collected once the roots of
/// the containers are registered.
fn open_images(config: &Config, tasks: &Tasks) -> Result<Images, Box<dyn Error>> {
    let paths = &config.paths;
    let snapshotter: Arc<dyn Snapshotter> = Arc::new(OverlaySnapshotter::open(
        OverlayConfig::new(paths.layers(), paths.staging(), paths.containers()),
    )?);
    let images = ImagesConfig {
        records: paths.images(),
        layers: paths.layers(),
        staging: paths.staging(),
        settings: config.images.clone(),
    };
    Ok(Images::open(images, snapshotter, tasks.clone())?)
}

fn cni_config(config: &Config) -> CniConfig {
    CniConfig {
        conf_dir: config.cni.conf_dir.clone(),
        bin_dirs: config.cni.bin_dirs.clone(),
        fallback: config.cni.fallback.as_ref().map(|fallback| FallbackBridge {
            bridge: fallback.bridge.clone(),
            subnet: fallback.subnet,
            prefix: fallback.prefix,
        }),
        intents: config.paths.network(),
        timeout: config.cni.timeout,
    }
}

/// Every directory with its mode: what user-namespaced containers must search
/// is 0711, the rest is root's alone.
fn directories(paths: &Paths) -> Vec<(std::path::PathBuf, u32)> {
    let searched = [
        paths.sandboxes(),
        paths.containers(),
        paths.layers(),
        paths.stage(),
        paths.shm(),
    ];
    let private = [
        paths.network(),
        paths.images(),
        paths.staging(),
        paths.shims(),
        paths.runtime(),
        paths.namespaces(),
    ];
    let searched = searched.into_iter().map(|path| (path, 0o711));
    searched
        .chain(private.into_iter().map(|path| (path, 0o700)))
        .collect()
}

/// Tells systemd, where it asked to be told (`sd_notify(3)`).
fn tell(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "sd_notify failed");
    }
}
